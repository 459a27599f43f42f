"""The model card says what the run found, and the Hub gets it with the adapter, and no token."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from applications.publishing.hub import Hub, serving
from huggingface_hub import ModelCard
from pipeline.killing import settings
from pipeline.server import serving as serving_language
from typer.main import get_command
from typer.testing import CliRunner

from selma import cli, pipeline
from selma.applications.publishing.card import _cell, write_card
from selma.config import RunConfig
from selma.finished import NotFinished

TOKEN = "hf_right"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    tiny.build("sd1", folder / "base")
    with serving_language() as address:
        raw = settings(folder, address, run="finished")
        config = RunConfig.model_validate(raw)
        for stage in (pipeline.prompts, pipeline.images, pipeline.experts, pipeline.merge):
            stage(config)
        shutil.copytree(folder / "finished", folder / "unscored")
        pipeline.run(config)
    return folder / "finished"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def selma(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    home = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-m", "selma", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **home, **variables},
        timeout=300,
    )


def test_the_card_says_what_the_run_found(run: Path) -> None:
    card = write_card(run)
    text = (run / "4-merged" / "README.md").read_text()
    metadata = front(text)
    assert metadata["library_name"] == "diffusers" and metadata["pipeline_tag"] == "text-to-image"
    for tag in ("text-to-image", "diffusers", "lora", "template:sd-lora", "stable-diffusion"):
        assert tag in metadata["tags"]
    assert "base_model" not in metadata, "a folder of this machine is nobody's base"
    assert len(metadata["widget"]) == 6
    for entry in metadata["widget"]:
        assert (run / "4-merged" / entry["output"]["url"]).is_file()
    config = RunConfig.model_validate({**pipeline_settings(run), "folder": str(run)})
    scorecard = pipeline.scorecard(config)
    merged = scorecard.models[-1]
    assert f"| merged | {merged.score.mean:.1f} |" in text
    assert "<Gallery />" in text and "merge_method: mean_of_deltas" in text
    assert "| coco | 0.5 | 8 |" in text
    assert f"Judge {scorecard.judge}, of {scorecard.prompts} image" in text
    assert "It was not checked itself" in text
    assert {path.name for path in card.files} >= {"README.md", "grid.png"}
    ModelCard.load(run / "4-merged" / "README.md")  # as the Hub's own library reads it


def pipeline_settings(run: Path) -> dict[str, Any]:
    from selma.applications.loading import read_run_file

    return read_run_file(run).model_dump(mode="json")


def test_it_holds_neither_a_path_of_the_machine_nor_a_time(run: Path) -> None:
    first = write_card(run)
    text = (first.folder / "README.md").read_bytes()
    assert str(run.parent).encode() not in text
    assert write_card(run) == first and (first.folder / "README.md").read_bytes() == text


def test_a_card_leaves_the_merge_finished(run: Path) -> None:
    write_card(run)
    before = (run / "4-merged" / "manifest.json").read_bytes()
    pipeline.merge(RunConfig.model_validate(pipeline_settings(run) | {"folder": str(run)}))
    assert (run / "4-merged" / "manifest.json").read_bytes() == before


def test_a_run_without_scores_has_a_card_without_them(run: Path) -> None:
    card = write_card(run.parent / "unscored")
    text = (card.folder / "README.md").read_text()
    assert "has not been scored" in text and "widget" not in front(text)
    assert [path.name for path in card.files] == [
        "pytorch_lora_weights.safetensors", "README.md"
    ]  # fmt: skip


def test_an_unfinished_merge_has_no_card(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "4-merged")
    shutil.copytree(run.parent / "base", tmp_path / "base")
    with pytest.raises(NotFinished, match="selma merge"):
        write_card(tmp_path / "run")


@pytest.mark.parametrize("text", ["a | b", "<script>", "a_b *c* `d`", "[x](y)", "two\nlines"])
def test_a_text_stays_inside_its_cell(text: str) -> None:
    cell = _cell(text)
    assert "\n" not in cell
    for sign in "|<`*_[":
        assert cell.count(sign) == cell.count(f"\\{sign}")


def test_push_sends_one_commit_with_all_files(run: Path, hub: Hub) -> None:
    done = selma("push", run, "me/mine", "--private", "--license", "mit",
                 HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)  # fmt: skip
    assert done.returncode == 0, done.stderr
    sent = hub.repositories["me/mine"]
    for name, data in sent.items():
        assert (run / "4-merged" / name).read_bytes() == data
    assert {"README.md", "pytorch_lora_weights.safetensors", "gallery/grid.png"} <= sent.keys()
    assert (
        run / "4-merged" / "pytorch_lora_weights.safetensors"
    ).read_bytes() in hub.blobs.values()
    assert not {"manifest.json", "plan.json", "diagnostics.json"} & sent.keys()
    assert hub.private["me/mine"] and hub.commits == ["Merged adapter of finished"]
    card = sent["README.md"].decode()
    assert front(card)["license"] == "mit" and "load_lora_weights('me/mine'" in card
    assert f"{hub.address}/me/mine/commit/" in done.stdout
    again = selma("push", run, "me/mine", HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
    assert again.returncode == 0 and len(hub.commits) == 2
    guilty = [p for p in run.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert guilty == [] and TOKEN not in done.stdout + done.stderr


def test_a_dry_run_sends_nothing(run: Path, hub: Hub) -> None:
    done = selma("push", run, "me/mine", "--dry-run", HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
    assert done.returncode == 0 and (hub.repositories, hub.commits) == ({}, [])
    *listed, last = done.stdout.splitlines()
    names = ["README.md", "pytorch_lora_weights.safetensors"]
    names += [f"gallery/{path.name}" for path in (run / "4-merged" / "gallery").iterdir()]
    sizes = {name: (run / "4-merged" / name).stat().st_size for name in sorted(names)}
    assert listed == [f"{name}  {size} bytes" for name, size in sizes.items()]
    assert last == "Nothing was sent to me/mine."
    assert hub.asked == 0


def dry_commands(command: Any, *above: str) -> Iterator[tuple[str, ...]]:
    """Every command that has --dry-run."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from dry_commands(inner, *above, name)
    if any("--dry-run" in option.opts for option in command.params):
        yield above


def listing(root: Path) -> dict[str, int]:
    """Everything below, a folder's own time with it: it changes with what is made and removed."""
    return {str(path): path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}


COMMANDS = [(*words, "--dry-run") for words in dry_commands(get_command(cli.app))]


@pytest.mark.parametrize("words", [*COMMANDS, ("check",), ("memory",), ("status", "--verify")])
@pytest.mark.parametrize("started", [True, False])
def test_whatever_only_looks_writes_nothing(
    run: Path, tmp_path: Path, words: tuple[str, ...], started: bool
) -> None:
    if not started and words[0] in ("push", "status"):
        pytest.skip("of a finished run")
    base = tmp_path / "world"
    shutil.copytree(run.parent, base, symlinks=True)
    shutil.rmtree(base / "finished" / "4-merged" / "gallery", ignore_errors=True)
    (base / "finished" / "4-merged" / "README.md").unlink(missing_ok=True)
    config = pipeline_settings(base / "finished")
    config |= {"folder": str(base / ("finished" if started else "new"))}
    config["base"] = config["base"] | {"model": str(base / "base")}
    (base / "a.yaml").write_text(json.dumps(config))
    rows = [{"name": name, "model": "base"} for name in ("one", "two")]
    table = {"name": "t", "config": "a.yaml", "folder": str(base / "table"), "guidances": []}
    (base / "t.yaml").write_text(json.dumps(table | {"rows": rows}))
    if words[0] == "sur":
        (base / "a.yaml").write_text(json.dumps({"name": "a", "folder": str(base / "new")}))
    values = {"RUN": base / "finished", "FILE": base / "t.yaml", "REPO": "me/mine"}
    command: Any = get_command(cli.app)
    for name in words:
        command = command.commands[name] if name in getattr(command, "commands", {}) else command
    needed = [each.metavar for each in command.params if each.param_type_name == "argument"]
    arguments = [str(values.get(name, base / "a.yaml")) for name in needed]
    for path in [base, *base.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = listing(base)
    done = CliRunner().invoke(cli.app, [*words, *arguments])
    assert done.exit_code == 0, done.output
    assert listing(base) == before


def test_a_refusal_shows_no_part_of_the_token(run: Path, hub: Hub) -> None:
    # The address stands in the Hub's own message.
    address = f"{hub.address}/hf_aB3dE5gH"
    done = selma("push", run, "me/mine", HF_ENDPOINT=address, HF_TOKEN="hf_aB3dE5gH7jK9")
    assert done.returncode == 4 and "aB3dE5gH" not in done.stderr and "<key>" in done.stderr


def test_a_refusal_is_one_clear_message(run: Path, hub: Hub) -> None:
    done = selma("push", run, "me/mine", HF_ENDPOINT=hub.address, HF_TOKEN="hf_wrong")
    assert done.returncode == 4 and "me/mine did not take the files" in done.stderr
    assert "Traceback" not in done.stderr and "hf_wrong" not in done.stderr
    done = selma("push", run, "nonsense")
    assert done.returncode == 2 and "owner/name" in done.stderr
