"""Shapes that no model of a file's names can have are refused; those of any size of model pass."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import safetensors.torch
import torch
from adapters.family_shapes import RELEASED, TINY, layers
from typer.testing import CliRunner

from selma.adapters.converting import convert
from selma.adapters.layers import SIDES_FILE, known_models
from selma.adapters.layouts import LAYOUTS
from selma.adapters.programs import not_loaded
from selma.cli import app
from selma.errors import AdapterError

FAMILIES = {m.model: m for group in list(known_models())[-1:] for m in group}
UNETS = {m.model: m for m in next(iter(known_models()))}
FLUX = "transformer.transformer_blocks.0."
T5 = "text_encoder_2.encoder.block.0.layer."
SD = "unet.down_blocks.1.attentions.0."
ATTENTION = f"{SD}transformer_blocks.0.attn1."


def file_of(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Rank 1; a shape of four is a convolution's."""
    tensors = {}
    for key, (out, *inside) in shapes.items():
        tensors[f"{key}.lora_A.weight"] = torch.ones(1, *inside)
        tensors[f"{key}.lora_B.weight"] = torch.ones(out, 1, *[1] * (len(inside) - 1))
    safetensors.torch.save_file(tensors, path)
    return path


MIXED = {
    "two widths": {f"{FLUX}attn.to_q": (3072, 3072), f"{FLUX}norm1.linear": (6144, 1024)},
    "one layer of two": {f"{FLUX}attn.to_q": (3072, 1536), f"{FLUX}norm1.linear": (18432, 3072)},
    "an MLP of another": {f"{FLUX}ff.net.0.proj": (12288, 3072), f"{FLUX}ff.net.2": (3072, 6144)},
    "a block of another": {
        f"{FLUX}norm1.linear": (18432, 3072),
        "transformer.single_transformer_blocks.3.proj_out": (1536, 7680),
    },
    "a convolution": {f"{FLUX}attn.to_q": (3072, 3072, 3, 3), f"{FLUX}norm1.linear": (18432, 3072)},
    "a T5's MLP": {
        f"{FLUX}norm1.linear": (18432, 3072),
        f"{T5}0.SelfAttention.q": (4096, 4096),
        f"{T5}1.DenseReluDense.wi_0": (10240, 2048),
    },
    "a T5's o": {
        f"{FLUX}norm1.linear": (18432, 3072),
        f"{T5}0.SelfAttention.q": (4096, 4096),
        f"{T5}0.SelfAttention.o": (1024, 4096),
    },
    "a CLIP's": {
        f"{FLUX}norm1.linear": (18432, 3072),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (768, 1280),
    },
    "a UNet's attention": {f"{ATTENTION}to_q": (640, 640), f"{ATTENTION}to_k": (320, 320)},
    "a UNet's query": {f"{ATTENTION}to_q": (640, 320)},
    "a UNet's GEGLU": {f"{SD}transformer_blocks.0.ff.net.0.proj": (5120, 320)},
    "a UNet's convolution": {f"{ATTENTION}to_q": (640, 640, 3, 3)},
    "a UNet's linear layer": {"unet.down_blocks.1.resnets.0.conv2": (640, 640)},
}


@pytest.mark.parametrize("shapes", MIXED.values(), ids=MIXED)
def test_shapes_of_no_model_are_refused(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    path = file_of(tmp_path / "a.safetensors", shapes)
    with pytest.raises(AdapterError, match="no model with the names of") as refusal:
        not_loaded(path, "diffusers")
    ours = [key.replace("text_model.", "") for key in shapes]
    assert any(f"change of {key} is" in str(refusal.value) for key in ours)
    with pytest.raises(AdapterError, match="however wide"):
        convert(path, tmp_path / "b.safetensors", to="kohya")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("family", TINY)
def test_a_model_of_any_size_passes(family: str, tmp_path: Path) -> None:
    """Tiny ones have other ratios of heads, text features and blocks than released ones."""
    shapes = layers(family, tiny=True).shapes
    models = [m for m in FAMILIES.values() if m.layout and m.layout.transformer == family]
    assert models and all(model.misfit(shapes) is None for model in models)
    key = next(key for key in shapes if key.endswith("to_q"))
    broken = dict(shapes) | {key: (shapes[key][0], shapes[key][1] + 8)}
    assert all(model.misfit(broken) is not None for model in models)


@pytest.mark.parametrize("family", RELEASED)
def test_released_shapes_fit_their_own_size(family: str) -> None:
    shapes = layers(family).shapes
    models = [m for m in FAMILIES.values() if m.layout and m.layout.transformer == family]
    fitting = [m for m in models if all(m.fits(k, s) for k, s in shapes.items())]
    assert fitting and all(model.misfit(shapes) is None for model in models)
    for model in fitting:
        narrow = {k: tuple(2 * side for side in s) for k, s in shapes.items()}
        assert not all(model.fits(k, s) for k, s in narrow.items())


@pytest.mark.parametrize("model", UNETS.values(), ids=UNETS)
def test_every_unet_that_is_known_passes_by_the_others_names(model, tmp_path: Path) -> None:
    for other in UNETS.values():
        common = {key: s for key, s in model.shapes.items() if key in other.shapes}
        if all(len(s) == len(other.shapes[k]) for k, s in common.items()):
            assert other.misfit(common) is None, other.model


def test_with_a_base_its_shapes_count(tmp_path: Path) -> None:
    """What is named right and shaped wrong loads nowhere."""
    right, wrong = f"{ATTENTION}to_q", f"{ATTENTION}to_k"
    path = file_of(tmp_path / "a.safetensors", {right: (640, 640), wrong: (320, 320)})
    missed = not_loaded(path, "diffusers", base=UNETS["SD 1"])
    assert missed == [f"{wrong}.lora_A.weight", f"{wrong}.lora_B.weight"]
    shown = CliRunner().invoke(
        app, ["inspect", str(path), "--for", "diffusers", "--base", "toybox"]
    )
    assert f"{right}.lora_A.weight" in shown.output


def test_the_table_is_what_the_classes_say() -> None:
    bench = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "layers.py"))
    assert json.loads(SIDES_FILE.read_text("utf-8")) == bench["sides"]()
    assert {layout.transformer for layout in LAYOUTS} == set(
        json.loads(SIDES_FILE.read_text("utf-8"))
    )
