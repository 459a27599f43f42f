"""diffusers' own loader and writer beside selma's: each reads what the other writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import peft
import pytest
import tiny
import torch
from diffusers import DiffusionPipeline
from interop import deltas, shaped
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from selma.adapters import names
from selma.adapters.converting import convert

EXACT = 1e-6
EVERY = (*deltas.LINEAR, *deltas.PROJECTIONS, *deltas.CONVOLUTIONS, *deltas.IN_TEXT)
NAME, VERSION = "diffusers", diffusers.__version__

pytestmark = [
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`"),
    pytest.mark.filterwarnings("ignore:The following (alpha|rank)_pattern keys did not match"),
]


def pipeline(folder: Path) -> Any:
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def merged_by_diffusers(path: Path, empty: Path) -> deltas.Deltas:
    """An empty pipeline's weights after diffusers' loader has fused the file into them."""
    pipe = pipeline(empty)
    pipe.load_lora_weights(path.parent, weight_name=path.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return deltas.weights(pipe)


LAYOUTS = [
    ("diffusers", (2,), (3.0,)),
    ("diffusers", (2, 3, 4), (3.0, 2.5)),
    ("kohya", (2,), (3.0,)),
    ("kohya", (2, 4), (3.0, 6.0)),  # one scale: the file is filled up to one rank
]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ("sd1", torch.float32),
        ("sd1", torch.bfloat16),
        ("sd2", torch.float16),
        ("sdxl", torch.float32),
        ("sdxl", torch.bfloat16),
    ],
)
@pytest.mark.parametrize(("to", "ranks", "alphas"), LAYOUTS)
def test_what_selma_writes_is_read_right(tmp_path, measured, shape, to, ranks, alphas, dtype):
    empty, file = shaped.emptied(tiny.folder(shape)), tmp_path / "lora.safetensors"
    ours = deltas.random_lora(file, empty, endings=EVERY, to=to, ranks=ranks, alphas=alphas,
                              dtype=dtype)  # fmt: skip
    measured(NAME, VERSION, f"{to} files of selma, loaded and fused: weight change",
             deltas.difference(merged_by_diffusers(file, empty), ours), EXACT)  # fmt: skip
    assert deltas.difference(deltas.generated_with(file, empty), ours) <= EXACT


def test_kohya_files_of_several_scales_are_misread(tmp_path):
    """The reason of the warning that `convert` gives; where this fails, diffusers has learnt it."""
    empty, file = shaped.emptied(tiny.folder("sd1")), tmp_path / "lora.safetensors"
    ours = deltas.random_lora(file, empty, to="kohya", ranks=(2, 3), alphas=(3.0, 1.0))
    assert deltas.difference(merged_by_diffusers(file, empty), ours) > 0.1
    assert deltas.difference(deltas.generated_with(file, empty), ours) <= EXACT


def trained(folder: Path, shape: str, **settings: Any) -> deltas.Deltas:
    """A file that diffusers wrote, as its training scripts do, and the changes that it holds."""
    pipe, changes, saved = pipeline(tiny.folder(shape)), {}, {}
    for component, targets in TARGETS.items():
        model = getattr(pipe, component, None)
        if model is None:
            continue
        config = peft.LoraConfig(target_modules=targets, init_lora_weights=False, **settings)
        torch.manual_seed(len(component))
        model.add_adapter(config)
        saved[f"{component}_lora_layers"] = get_peft_model_state_dict(model)
        saved[f"{component}_lora_adapter_metadata"] = model.peft_config["default"].to_dict()
        changes |= {
            names.plain(component, path): module.get_delta_weight("default").detach()
            for path, module in model.named_modules()
            if hasattr(module, "get_delta_weight")
        }
    type(pipe).save_lora_weights(folder, **saved)
    return changes


TARGETS = {
    "unet": ["to_q", "to_v", "to_out.0", "conv1", "proj_in", "ff.net.0.proj"],
    "text_encoder": ["q_proj", "out_proj", "fc1"],
    "text_encoder_2": ["k_proj", "fc2"],
}


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 2, "lora_alpha": 3},
        {"r": 4, "lora_alpha": 2, "use_rslora": True},
        {"r": 4, "rank_pattern": {"to_q": 2, "fc1": 1}, "alpha_pattern": {"conv1": 5, "fc1": 3}},
    ],
    ids=["plain", "rslora", "patterns"],
)
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_what_diffusers_writes_is_read_right(tmp_path, measured, shape, settings):
    theirs = trained(tmp_path, shape, **settings)
    file, empty = tmp_path / "pytorch_lora_weights.safetensors", shaped.emptied(tiny.folder(shape))
    for ours in (deltas.read(file, empty), deltas.generated_with(file, empty)):
        measured(NAME, VERSION, "files of save_lora_weights: weight change",
                 deltas.difference(theirs, ours), EXACT)  # fmt: skip


OLDER = {
    "processors": "{block}.processor.to_{layer}_lora.{side}.weight",
    "layers": "{block}.to_{layer}.lora.{side}.weight",
}
"""How releases before 0.18 and before 0.22 called a layer of attention."""


@pytest.mark.parametrize("prefix", ["unet.", ""])  # `unet.save_attn_procs` wrote no component
@pytest.mark.parametrize("kind", OLDER)
def test_files_of_older_releases_are_read_as_diffusers_reads_them(tmp_path, measured, kind, prefix):
    empty, file = shaped.emptied(tiny.folder("sd1")), tmp_path / "lora.safetensors"
    ours = deltas.random_lora(file, empty, endings=deltas.LINEAR[:4], components=("unet",),
                              ranks=(4,), alphas=(4.0,))  # fmt: skip
    old = {}
    for name, tensor in load_file(file).items():
        path, which = name.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
        block, layer = path.split(".to_")
        layer = layer.removesuffix(".0") if kind == "processors" else layer
        side = {"lora_A": "down", "lora_B": "up"}[which]
        old[prefix + OLDER[kind].format(block=block, layer=layer, side=side)] = tensor
    save_file(old, file)
    assert deltas.difference(deltas.read(file, empty), ours) <= EXACT
    assert deltas.difference(deltas.generated_with(file, empty), ours) <= EXACT
    if prefix:  # the loader of diffusers 0.42 knows no names without a component
        measured(NAME, VERSION, "older names of attention, loaded: weight change",
                 deltas.difference(merged_by_diffusers(file, empty), ours), EXACT)  # fmt: skip


@pytest.mark.parametrize("through", ["kohya", "peft"])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_files_of_diffusers_survive_every_layout(tmp_path, measured, shape, through):
    theirs = trained(tmp_path, shape, r=4, lora_alpha=6)
    file, base = tmp_path / "pytorch_lora_weights.safetensors", str(tiny.folder(shape))
    between = tmp_path / ("folder" if through == "peft" else "between.safetensors")
    convert(file, between, to=through, base=base)
    convert(between, tmp_path / "back.safetensors", to="diffusers", base=base)
    back = merged_by_diffusers(tmp_path / "back.safetensors", shaped.emptied(tiny.folder(shape)))
    measured(NAME, VERSION, f"save_lora_weights → {through} → diffusers: weight change",
             deltas.difference(back, theirs), EXACT)  # fmt: skip
    with safe_open(tmp_path / "back.safetensors", framework="pt") as written:
        assert len(list(written.keys())) == 2 * len(theirs)
