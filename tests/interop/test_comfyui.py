"""ComfyUI's own loader and saver beside selma's. It runs as a program of its own (GPL)."""

from __future__ import annotations

import pytest
import torch
from interop import deltas, shaped
from interop.programs import run

from selma.adapters.converting import convert

pytestmark = pytest.mark.interop

EXACT = 1e-6
NAME = "ComfyUI"
SHAPES = ("sd1", "sd2", "sdxl")
EVERY = (*deltas.LINEAR, *deltas.PROJECTIONS, *deltas.CONVOLUTIONS, *deltas.IN_TEXT)
LAYOUTS = {
    "one scale": {"to": "kohya", "ranks": (2,), "alphas": (3.0,)},
    "several scales": {"to": "kohya", "ranks": (2, 3, 4), "alphas": (3.0, 2.5)},
    "ranks of one scale": {"to": "kohya", "ranks": (2, 4), "alphas": (1.0, 2.0)},
    "bfloat16": {"to": "kohya", "dtype": torch.bfloat16},
    "diffusers": {"to": "diffusers", "ranks": (2,), "alphas": (3.0,)},
}


@pytest.fixture(scope="module")
def program(needs):
    return needs("comfyui")


@pytest.fixture(scope="module")
def loaded(program, tmp_path_factory):
    """(shape, layout) → selma's own changes, where ComfyUI's lie, and what ComfyUI counted."""
    folder, ours, tasks = tmp_path_factory.mktemp("loaded"), {}, []
    for shape in SHAPES:
        for layout, settings in LAYOUTS.items():
            file = folder / f"{len(tasks)}.safetensors"
            ours[shape, layout] = deltas.random_lora(
                file, shaped.folder(shape), endings=EVERY, **settings
            )
            tasks.append({"task": "apply", "base": shaped.folder(shape), "shape": shape,
                          "file": file, "deltas": file.with_suffix(".deltas")})  # fmt: skip
    counts = run(program, "comfyui", tasks)
    return {
        case: (ours[case], task["deltas"], count)
        for case, task, count in zip(ours, tasks, counts, strict=True)
    }


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "diffusers"])
@pytest.mark.parametrize("shape", SHAPES)
def test_kohya_files_of_selma_are_read_right(program, measured, loaded, shape, layout):
    ours, theirs, count = loaded[shape, layout]
    assert count == {"layers": len(ours), "passed over": 0}
    measured(NAME, program.version, "kohya files of selma, loaded: weight change",
             deltas.difference(deltas.written_by_others(theirs), ours), EXACT)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_it_passes_over_the_attention_of_a_file_for_diffusers(loaded, shape):
    """Why the guide, the cards and `convert` say which file is for which program: of diffusers'
    names in the UNet it knows none of attention's, which are all that most LoRAs have."""
    ours, _, count = loaded[shape, "diffusers"]
    attention = [key for key in ours if ".to_" in key]
    assert count == {"layers": len(ours) - len(attention), "passed over": 2 * len(attention)}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_its_saver_writes_is_read_right(program, measured, tmp_path, shape):
    """The node "Extract and Save Lora": names of the original UNet, float16, no alphas."""
    base, file = shaped.empty(shape), tmp_path / "saved.safetensors"
    run(program, "comfyui", [{
        "task": "save", "base": base, "shape": shape, "file": file, "rank": 4,
        "endings": [".attn1.to_q.weight", ".ff.net.2.weight", ".conv1.weight", ".proj_in.weight"],
        "deltas": tmp_path / "deltas",
    }])  # fmt: skip
    theirs = deltas.written_by_others(tmp_path / "deltas")
    changed = {key: delta for key, delta in theirs.items() if delta.any()}
    assert len(changed) > 20
    for ours in (deltas.read(file, base), deltas.generated_with(file, base)):
        nonzero = {key: delta for key, delta in ours.items() if delta.any()}
        measured(NAME, program.version, "files of its saver: weight change",
                 deltas.difference(changed, nonzero), EXACT)  # fmt: skip
    convert(file, tmp_path / "kohya.safetensors", to="kohya", base=str(base))
    back = deltas.read(tmp_path / "kohya.safetensors", base)
    assert deltas.difference({key: back[key] for key in changed}, changed) <= EXACT
