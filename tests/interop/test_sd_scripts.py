"""sd-scripts' own code beside selma's: each reads what the other writes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from interop import deltas, shaped
from interop.merging import merge
from interop.programs import command, run
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.linalg import hadamard

from selma import generate
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


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_both_generate_one_image(program, measured, tmp_path, shape):
    """diffusers' pipeline of sd-scripts' environment, with a file of selma's merged into it."""
    base, file = shaped.folder(shape), tmp_path / "lora.safetensors"
    # Much stronger, and a random network makes 20 levels of a rounding.
    deltas.random_lora(file, base, endings=WHOLE, to="kohya", alphas=(0.8,))
    how = {"seed": 3, "steps": 3, "guidance": 3.0}
    run(
        program,
        "sd_scripts",
        [
            {
                "task": "image",
                "base": base,
                "file": file,
                "prompt": "a cat",
                "xl": shape == "sdxl",
                "out": tmp_path / "theirs.png",
                **how,
            }
        ],
    )
    (with_file,) = generate("a cat", base=str(base), adapter=file, **how)
    (without,) = generate("a cat", base=str(base), **how)
    with Image.open(tmp_path / "theirs.png") as image:
        ours, plain, theirs = (np.asarray(x).astype(int) for x in (with_file, without, image))
    assert np.abs(ours - plain).max() > 8
    measured(NAME, program.version, "images with a file of selma merged: levels",
             np.abs(ours - theirs).max(), 1)  # fmt: skip


# Merges


def merged(program, script, files, out, ratios, *options):
    """The file that one of sd-scripts' merging commands writes."""
    words = [str(program.source / "networks" / script), "--save_to", str(out), "--models"]
    words += [*map(str, files), "--ratios", *map(str, ratios), "--save_precision", "float"]
    command(program, [*words, *options])
    return deltas.read(out, shaped.empty("sd1"))


RATIOS = [0.5, 0.3, 0.7]


@pytest.mark.parametrize(
    ("options", "ranks", "method"),
    [((), (2, 2, 2), "mean_of_factors"), (("--concat",), (2, 3, 4), "sum_of_deltas")],
)
def test_merge_lora_is_what_the_page_says(program, measured, tmp_path, options, ranks, method):
    """Its ratios go on both factors: the mean of factors; and, end to end, their squares. There it
    also keeps the first file's alpha for the longer factors, which are scaled by rank / sum."""
    base, files = shaped.empty("sd1"), [tmp_path / f"{n}.safetensors" for n in range(3)]
    for n, (file, rank) in enumerate(zip(files, ranks, strict=True)):
        deltas.random_lora(file, base, endings=deltas.LINEAR[:4], to="kohya", ranks=(rank,),
                           alphas=(3.0,), seed=n)  # fmt: skip
    theirs = merged(
        program, "merge_lora.py", files, tmp_path / "theirs.safetensors", RATIOS, *options
    )
    weights = RATIOS
    if options:
        shares = [rank / sum(ranks) for rank in ranks]
        weights = [ratio**2 * share for ratio, share in zip(RATIOS, shares, strict=True)]
    out = merge(files, tmp_path / "ours.safetensors", method=method, weights=weights, base=base)
    words = " ".join(["merge_lora.py", *options])
    measured(NAME, program.version, f"{words}: {method}",
             deltas.difference(theirs, deltas.read(out, base)), EXACT)  # fmt: skip


def test_svd_merge_lora_is_svd_where_it_clips_nothing(program, measured, tmp_path):
    """It clips factors at their 99th percentile. With factors of +1 and -1 there is nothing to
    clip, and the decomposition is known: orthogonal experts, of which the largest remain."""
    base, files, ratios = shaped.empty("sd1"), [], [1.0, 0.5, 0.2]
    for n in range(3):
        files.append(tmp_path / f"{n}.safetensors")
        deltas.random_lora(files[-1], base, endings=deltas.LINEAR[:4], to="kohya", ranks=(1,),
                           alphas=(1.0,), components=("unet",))  # fmt: skip
        tensors = load_file(files[-1])
        for name, tensor in tensors.items():
            if ".lora_" in name:
                signs = torch.from_numpy(hadamard(max(tensor.shape))).float()[n + 1 : n + 2]
                tensors[name] = signs if ".lora_down." in name else 0.1 * signs.T.contiguous()
        save_file(tensors, files[-1])
    theirs = merged(program, "svd_merge_lora.py", files, tmp_path / "theirs.safetensors", ratios,
                    "--new_rank", "2", "--device", "cpu")  # fmt: skip
    out = merge(files, tmp_path / "ours.safetensors", method="svd", weights=ratios, base=base,
                rank=2)  # fmt: skip
    measured(NAME, program.version, "svd_merge_lora.py, nothing to clip: svd",
             deltas.difference(theirs, deltas.read(out, base)), 1e-5)  # fmt: skip
