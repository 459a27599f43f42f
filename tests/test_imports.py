"""Imports point one way, and stages know nothing of one another."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import selma

ROOT = Path(selma.__file__).parent
STAGES = {"prompts", "images", "experts", "merged", "scores", "report"}
LAYERS: tuple[set[str], ...] = (
    {"errors", "paths", "plurals", "texts", "plainfiles", "disk"},
    {"processes"},
    {"registry"},
    {
        "records",
        "config",
        "randomness",
        "progress",
        "stopping",
        "versions",
        "folder_lock",
        "screen",
        "rich_screen",
        "devices",
    },
    {
        "workspace",
        "manifests",
        "record_files",
        "image_files",
        "image_modes",
        "image_names",
        "image_places",
        "row_files",
        "finished_rows",
        "textfiles",
        "imagefolders",
        "ids",
    },
    {"toybox"},
    {"given"},
    {"backbones"},
    {"adapters"},
    STAGES,
    {"engines"},
    {"finished", "runfile", "preflight", "capacity", "dev_score", "storage"},
    {"pipeline"},
    {"status", "planning"},
    {"outputs"},
    {"console", "web"},
    {"applications"},
    {"cli"},
    {"__main__"},
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "openai", "scipy"}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Dotted names of what a module imports; with `at_import`, only what importing it runs."""
    nodes: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not (at_import and (function or typing)):
            nodes.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    mine = part_of(path)
    assert mine in RANK, f"{mine} has no layer yet: give it one in this test"
    for name in imported(path):
        package, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if package != "selma" or other == mine:
            continue
        assert other in RANK, f"{path} imports {name}, which has no layer"
        assert RANK[other] <= RANK[mine], f"{path} imports {name}, from a layer above its own"
        assert not {mine, other} <= STAGES, f"stages never import one another, but {path}: {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_applications_never_import_one_another(path: Path) -> None:
    folders = {folder.name for folder in (ROOT / "applications").iterdir() if folder.is_dir()}
    parts = path.relative_to(ROOT).parts
    if parts[0] != "applications":
        return
    for name in imported(path):
        application = name.removeprefix("selma.applications.").partition(".")[0]
        if name.startswith("selma.applications.") and application in folders:
            assert application == parts[1], f"{path} imports {name}, of another application"


@pytest.mark.parametrize(
    "part",
    [
        "__init__.py",
        "cli/__init__.py",
        "console.py",
        "cli/stages.py",
        "cli/adapters.py",
        "cli/merging.py",
        "cli/scoring.py",
        "applications/sur/command.py",
        "applications/subjects/command.py",
        "applications/study/command.py",
        "applications/publishing/command.py",
        "cli/benchmarks.py",
        "applications/control/command.py",
        "applications/angles/command.py",
        "applications/control/pipeline.py",
        "applications/control/conditions.py",
        "backbones/perception/features.py",
        "backbones/perception/locating.py",
        "backbones/perception/segmenting.py",
        "applications/control/generating.py",
        "applications/control/preparing.py",
        "applications/control/page.py",
        "applications/control/measures.py",
        "applications/control/scoring.py",
        "applications/study/results.py",
        "applications/sur/page.py",
        "applications/subjects/page.py",
        "report/pages.py",
        "toybox/conditions.py",
        "pipeline.py",
        "dev_score.py",
        "processes.py",
        "preflight.py",
        "status.py",
        "finished.py",
        "runfile.py",
        "prompts/skills.py",
        "prompts/writing.py",
        "prompts/given.py",
        "images/given.py",
        "given/__init__.py",
        "images/generating.py",
        "images/guides/__init__.py",
        "images/guides/applying.py",
        "backbones/latent_changes.py",
        "backbones/parsers.py",
        "experts/skills.py",
        "experts/training.py",
        "merged/merging.py",
        "merged/methods.py",
        "merged/planning.py",
        "merged/settings.py",
        "scores/benchmarks/__init__.py",
        "scores/benchmarks/fetching.py",
        "scores/scoring.py",
        "backbones/text_to_image.py",
        "backbones/families/__init__.py",
        "backbones/families/family.py",
        "backbones/families/conditioning.py",
        "backbones/families/stable_diffusion.py",
        "backbones/families/stable_diffusion_xl.py",
        "backbones/judges/loading.py",
        "backbones/preference/scorers.py",
        "backbones/preference/clip.py",
        "backbones/preference/imagereward.py",
        "backbones/preference/preprocessing.py",
        "backbones/weights.py",
        "applications/evaluation/answer_cache.py",
        "applications/evaluation/images.py",
        "scores/networks.py",
        "backbones/hub.py",
        "backbones/perception/captioning.py",
        "backbones/language/vectors.py",
        "applications/sur/collecting.py",
        "applications/sur/pipeline.py",
        "applications/evaluation/command.py",
        "applications/hps/command.py",
        "applications/hps/styles.py",
        "applications/questions/command.py",
        "applications/questions/writing.py",
        "applications/sur/ablation.py",
        "applications/sur/scoring.py",
        "applications/sur/quality.py",
        "backbones/perception/features.py",
        "applications/subjects/pipeline.py",
        "applications/subjects/training.py",
        "applications/subjects/images.py",
        "applications/subjects/prompts.py",
        "applications/subjects/scoring.py",
        "applications/subjects/scorecard.py",
        "backbones/perception/likeness.py",
        "backbones/perception/lpips.py",
        "backbones/served.py",
        "backbones/judges/served.py",
        "backbones/judges/vqa.py",
        "backbones/judges/wordings.py",
        "toybox/benchmark.py",
        "applications/study/opening.py",
        "applications/study/server.py",
        "applications/study/store.py",
    ],
)
def test_looking_imports_no_model_library(part: str) -> None:
    heavy = {name.split(".")[0] for name in imported(ROOT / part, at_import=True)} & HEAVY
    assert not heavy, f"{part} imports {heavy} before they are needed"
