"""mergekit's own command on whole weights beside `selma merge` on LoRAs of the same changes."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from interop import deltas, shaped
from interop.merging import merge
from interop.programs import command
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.interop

NAME = "mergekit"
EXACT = 1e-6
FACTORED = 1e-5
"""A dense result is factored again, in float32."""
EMPTY = shaped.emptied(tiny.folder("sd1"))
LAYER = ".mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
WEIGHTS = {"even": [1.0, 1.0, 1.0], "uneven": [0.5, 0.3, 0.7], "a negative one": [1.0, -0.5, 0.7]}


@pytest.fixture(scope="module")
def program(needs):
    return needs("mergekit")


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Three experts of many layers, and of one; each as selma's file and as whole weights.

    Paths have no blanks: mergekit cannot take them.
    """
    sets = {}
    for kind, endings in {"many layers": deltas.LINEAR, "one layer": (LAYER,)}.items():
        folder, each = tmp_path_factory.mktemp("experts"), []
        for seed in range(3):
            file, whole = folder / f"{seed}.safetensors", folder / f"{seed}-whole.safetensors"
            changes = deltas.random_lora(file, EMPTY, endings=endings, components=("unet",),
                                         ranks=(2, 3), alphas=(3.0,), seed=seed)  # fmt: skip
            save_file({key: delta.float() for key, delta in changes.items()}, whole)
            each.append((file, whole))
        zeros = {key: torch.zeros_like(delta) for key, delta in load_file(each[0][1]).items()}
        save_file(zeros, folder / "base.safetensors")
        sets[kind] = folder / "base.safetensors", each
    return sets


def by_mergekit(
    program: Any, out: Path, experts: Any, method: str, weights: list[float], **settings: Any
) -> deltas.Deltas:
    """What `mergekit-pytorch` makes of the whole weights, whose base is zeros.

    It asks for a density even where the method has none.
    """
    base, each = experts
    density = settings.pop("density", 1.0)
    config = {
        "merge_method": method,
        "base_model": str(base),
        "models": [
            {"model": str(whole), "parameters": {"weight": weight, "density": density}}
            for (_, whole), weight in zip(each, weights, strict=True)
        ],
        "parameters": settings,
        "dtype": "float32",
    }
    out.mkdir(exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    script = program.python.with_name("mergekit-pytorch")
    command(program, [str(script), str(out / "config.yaml"), str(out / "merged")])
    written = sorted((out / "merged").glob("*.safetensors"))
    return {key: tensor for path in written for key, tensor in load_file(path).items()}


CASES = [
    ("many layers", "task_arithmetic", {}, "sum_of_deltas", {}, EXACT),
    ("many layers", "task_arithmetic", {"lambda": 0.5}, "sum_of_deltas", {"scale": 0.5}, EXACT),
    ("many layers", "ties", {"density": 1.0}, "ties", {"density": 1.0}, FACTORED),
    ("many layers", "ties", {"density": 1.0, "normalize": False}, "ties",
     {"density": 1.0, "normalize": False}, FACTORED),
    ("one layer", "ties", {"density": 0.3}, "ties", {"density": 0.3}, FACTORED),
    ("one layer", "ties", {"density": 0.3, "normalize": False}, "ties",
     {"density": 0.3, "normalize": False}, FACTORED),
]  # fmt: skip


def named(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {each}" for key, each in value.items())
    return str(value) if isinstance(value, str) else ""


def alike(settings: dict[str, Any], method: str, weights: str) -> bool:
    """Whether both divide by the same sum: see the next test."""
    divided = method == "ties" and settings.get("normalize", True)
    return not (divided and weights == "a negative one")


@pytest.mark.parametrize(
    ("kind", "theirs", "settings", "method", "options", "bound", "weights"),
    [
        (*case, weights)
        for case, weights in product(CASES, WEIGHTS)
        if alike(case[2], case[1], weights)
    ],
    ids=named,
)
def test_merges_are_mergekits(
    program, measured, tmp_path, experts, kind, theirs, settings, method, options, bound, weights
):
    wanted = by_mergekit(program, tmp_path, experts[kind], theirs, WEIGHTS[weights], **settings)
    rank = {} if method == "sum_of_deltas" else {"rank": 32}
    files = [file for file, _ in experts[kind][1]]
    out = merge(files, tmp_path / "merged.safetensors", method=method, weights=WEIGHTS[weights],
                base=EMPTY, **options, **rank)  # fmt: skip
    measured(NAME, program.version, f"{theirs} {named(settings)}".strip() + f", {kind}: {method}",
             deltas.difference(wanted, deltas.read(out, EMPTY)), bound)  # fmt: skip


def test_ties_divides_by_magnitudes_where_mergekit_divides_by_weights(program, tmp_path, experts):
    """With a negative weight the two part; docs/paper.md says so. Entry by entry: where all that
    agree have weights of one sign, both give the same."""
    wanted = by_mergekit(program, tmp_path, experts["one layer"], "ties", [1.0, -0.5, 0.7],
                         density=1.0)  # fmt: skip
    files = [file for file, _ in experts["one layer"][1]]
    out = merge(files, tmp_path / "merged.safetensors", method="ties", weights=[1.0, -0.5, 0.7],
                base=EMPTY, density=1.0, rank=32)  # fmt: skip
    ((key, theirs),) = wanted.items()
    ours = deltas.read(out, EMPTY)[key]
    near = (theirs - ours).abs() <= FACTORED * ours.abs().max()
    assert 0.2 < float(near.float().mean()) < 0.9


@pytest.mark.parametrize("density", [0.1, 0.3])
def test_ties_trims_the_whole_task_vector_where_mergekit_trims_each_tensor(
    program, tmp_path, experts, density
):
    """As the paper has it; docs/paper.md says so. With one layer the two are one."""
    even = WEIGHTS["even"]
    wanted = by_mergekit(program, tmp_path, experts["many layers"], "ties", even, density=density)
    files = [file for file, _ in experts["many layers"][1]]
    out = merge(files, tmp_path / "merged.safetensors", method="ties", weights=even, base=EMPTY,
                density=density, rank=32)  # fmt: skip
    ours = deltas.read(out, EMPTY)
    kept = {key: float((delta.abs() > 1e-6).float().mean()) for key, delta in ours.items()}
    assert max(kept.values()) - min(kept.values()) > 0.1
    assert {key for key in wanted if wanted[key].any()} == set(wanted)
