"""sd-scripts' own code beside selma's: each reads what the other writes."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from interop import deltas, shaped
from interop.programs import command, run
from safetensors.torch import load_file

from selma.adapters.reading import read_adapter

pytestmark = pytest.mark.interop

EXACT = 1e-6
PRECISIONS = {"float32": EXACT, "float16": 1e-3, "bfloat16": 8e-3}
"""Of a file's numbers, and how far its rounded factors are from those that were trained."""
CONVOLUTIONS = {"conv_dim": "3", "conv_alpha": "1"}
WHOLE = (*deltas.LINEAR, *deltas.PROJECTIONS, *deltas.IN_TEXT)
NAME = "sd-scripts"


@pytest.fixture(scope="module")
def program(needs):
    return needs(NAME)


TRAINED = [*product(("sd1", "sd2"), PRECISIONS, ((), tuple(CONVOLUTIONS.items())))]


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    """(shape, precision, options) → the file that its network saved, and its weight changes."""
    folder = tmp_path_factory.mktemp("trained")
    files = {
        case: (folder / f"{n}.safetensors", folder / f"{n}-deltas.safetensors")
        for n, case in enumerate(TRAINED)
    }
    tasks = [
        {"task": "train", "base": shaped.folder(shape), "dim": 4, "alpha": 2.0, "dtype": dtype,
         "options": dict(options), "file": files[shape, dtype, options][0],
         "deltas": files[shape, dtype, options][1]}
        for shape, dtype, options in TRAINED
    ]  # fmt: skip
    run(program, "sd_scripts", tasks)
    return files


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_what_lora_py_trains_and_saves_is_read(program, measured, trained, case):
    shape, dtype, options = case
    file, changes = trained[case]
    theirs, ours = deltas.written_by_others(changes), deltas.read(file, shaped.folder(shape))
    assert any("conv1" in key for key in ours) == bool(options)
    assert any(key.startswith("text_encoder.") for key in ours)
    measured(NAME, program.version, f"files of networks/lora.py in {dtype}: weight change",
             deltas.difference(theirs, ours), PRECISIONS[dtype])  # fmt: skip


def test_every_layer_of_the_real_sdxl_is_read(program, measured, tmp_path):
    file, changes = tmp_path / "lora.safetensors", tmp_path / "deltas.safetensors"
    count = run(program, "sd_scripts", [{"task": "train_sdxl", "file": file, "deltas": changes}])
    probes, ours = load_file(changes), read_adapter(file)
    by_name = {key.removeprefix("unet.").replace(".", "_"): key for key in ours.layers}
    assert by_name.keys() == probes.keys() and len(by_name) == count[0]["layers"] > 700
    largest = 0.0
    for name, theirs in probes.items():
        layer, (a, b) = ours.layers[by_name[name]], ours.factors(by_name[name])
        probe = torch.linspace(-1, 1, a.shape[1], dtype=torch.float64)
        change = layer.scale * (b.double() @ (a.double() @ probe))
        largest = max(largest, float((change - theirs).norm() / theirs.norm()))
    measured(NAME, program.version, "files of networks/lora.py for the real SDXL: weight change",
             largest, EXACT)  # fmt: skip


READERS = [("sd1", "lora"), ("sd2", "lora"), ("sd1", "lora_diffusers"), ("sdxl", "lora_diffusers")]
SCALES = {
    "one scale": ((2,), (3.0,)),
    "several scales": ((2, 3, 4), (3.0, 2.5)),
    "ranks of one scale": ((2, 4), (1.0, 2.0)),
}
READ = [*product(READERS, SCALES)]


@pytest.fixture(scope="module")
def written(program, tmp_path_factory):
    """(reader, scales) → selma's kohya file, its own changes, and those that sd-scripts made."""
    folder, written, tasks = tmp_path_factory.mktemp("kohya"), {}, []
    for n, ((shape, reader), scales) in enumerate(READ):
        file, base = folder / f"{n}.safetensors", shaped.empty(shape)
        ranks, alphas = SCALES[scales]
        changes = deltas.random_lora(file, base, endings=(*WHOLE, *deltas.CONVOLUTIONS),
                                     to="kohya", ranks=ranks, alphas=alphas)  # fmt: skip
        written[(shape, reader), scales] = file, changes, folder / f"{n}-theirs.safetensors"
        tasks.append({"task": "apply", "base": base, "file": file, "reader": reader,
                      "deltas": folder / f"{n}-theirs.safetensors"})  # fmt: skip
    run(program, "sd_scripts", tasks)
    return written


@pytest.mark.parametrize("case", READ, ids=str)
def test_kohya_files_of_selma_are_read_right(program, measured, written, case):
    (shape, reader), _ = case
    file, ours, theirs = written[case]
    measured(NAME, program.version, f"kohya files of selma, merged by {reader}.py: weight change",
             deltas.difference(deltas.written_by_others(theirs), ours), EXACT)  # fmt: skip
    assert deltas.difference(deltas.generated_with(file, shaped.empty(shape)), ours) <= EXACT


RESIZED = [("sv_ratio", "4", "float"), ("sv_fro", "0.9", "bf16"), ("sv_cumulative", "0.8", "fp16")]


@pytest.mark.parametrize("case", RESIZED, ids=str)
def test_what_resize_lora_wrote_is_read_layer_by_layer(program, measured, trained, tmp_path, case):
    """Its layers differ in rank, in alpha and, where alphas are rounded, in scale."""
    method, parameter, precision = case
    file, _ = trained["sd1", "float32", tuple(CONVOLUTIONS.items())]
    resized, changes, base = tmp_path / "r.safetensors", tmp_path / "d", shaped.empty("sd1")
    script = program.source / "networks" / "resize_lora.py"
    command(program, [str(script), "--model", str(file), "--save_to", str(resized),
                      "--new_rank", "4", "--dynamic_method", method, "--dynamic_param", parameter,
                      "--save_precision", precision, "--device", "cpu"])  # fmt: skip
    task = {"task": "apply", "base": base, "file": resized, "reader": "lora", "deltas": changes}
    run(program, "sd_scripts", [task])
    theirs = deltas.written_by_others(changes)
    layers = read_adapter(resized).layers.values()
    assert len({layer.rank for layer in layers}) > 1 < len({layer.alpha for layer in layers})
    for ours in (deltas.read(resized, base), deltas.generated_with(resized, base)):
        measured(NAME, program.version, "files of resize_lora.py: weight change",
                 deltas.difference(theirs, ours), EXACT)  # fmt: skip
