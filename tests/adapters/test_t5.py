"""Layers of a T5, the largest text encoder of SD 3, FLUX.1 and Chroma, through every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
from adapters.family_shapes import adapter, factors
from adapters.test_file_layouts import place, require_equal

from selma.adapters.applying import applied, layers_of_pipeline
from selma.adapters.converting import convert
from selma.adapters.formats import FORMATS, write
from selma.adapters.lora import in_diffusers
from selma.adapters.models import read_model
from selma.adapters.programs import not_loaded
from selma.adapters.reading import read_adapter
from selma.errors import AdapterError
from selma.merged.resizing import resize
from selma.records.adapters import AppliedAdapter

FIRST = "encoder.block.0.layer."
XXL = {
    f"{FIRST}0.SelfAttention.q": (4096, 4096),
    f"{FIRST}0.SelfAttention.o": (4096, 4096),
    f"{FIRST}1.DenseReluDense.wi_1": (10240, 4096),
    f"{FIRST}1.DenseReluDense.wo": (4096, 10240),
}
"""Of T5-XXL, as it is released."""
WHICH = {"sd3": "text_encoder_3", "flux.1": "text_encoder_2", "chroma": "text_encoder"}
"""Tiny pipeline → its T5."""
OWN = {
    "sd3": ("transformer.transformer_blocks.0.attn2.to_out.0", (1536, 1536)),
    "flux.1": ("transformer.single_transformer_blocks.0.norm.linear", (9216, 3072)),
    "chroma": ("transformer.distilled_guidance_layer.in_proj", (5120, 64)),
}
"""A layer of the released transformer that no other family has."""
NAMES = {
    ("sd3", "kohya"): "lora_te3_",
    ("sd3", "onetrainer"): "lora_te3_",
    ("flux.1", "kohya"): "lora_te3_",
    ("flux.1", "onetrainer"): "lora_te2_",
    ("chroma", "onetrainer"): "lora_te_",
    ("chroma", "kohya"): "lora_te3_",
}
"""What sd-scripts (48d368fa) and OneTrainer put before a T5's layers."""


@pytest.mark.parametrize("to", [to for to in FORMATS if to != "simpletuner"])
@pytest.mark.parametrize("shape", WHICH)
def test_round_trips_at_released_size_without_a_base(tmp_path: Path, shape: str, to: str) -> None:
    key, weight = OWN[shape]
    shapes = {f"{WHICH[shape]}.{module}": of for module, of in XXL.items()} | {key: weight}
    source = adapter(shapes, ranks=(2, 3), scales=(0.5,))
    first, there = place(tmp_path / "a", "diffusers"), place(tmp_path / "b", to)
    write(first, source, to="diffusers")
    convert(first, there, to=to)
    require_equal(read_adapter(there), source)
    convert(there, place(tmp_path / "c", "diffusers"), to="diffusers")
    again = place(tmp_path / "c", "diffusers")
    require_equal(read_adapter(again), source)
    resize(there, place(tmp_path / "d", to), rank=8)  # all are smaller, and keep their bits
    require_equal(read_adapter(place(tmp_path / "d", to)), source)
    if prefix := NAMES.get((shape, to)):
        written = safetensors.torch.load_file(there)
        assert f"{prefix}encoder_block_0_layer_1_DenseReluDense_wo.lora_down.weight" in written


@pytest.mark.parametrize(("prefix", "shape"), [
    *((prefix, shape) for (shape, _), prefix in NAMES.items()),
    ("text_encoders.t5xxl.transformer.", "sd3"), ("t5xxl.transformer.", "flux.1"),
    ("lora_te1_", "chroma"), ("text_encoder_3.", "sd3"), ("text_encoder_2.", "flux.1"),
])  # fmt: skip
def test_other_programs_names_lead_to_the_pipelines_t5(
    tmp_path: Path, prefix: str, shape: str
) -> None:
    path, module = tmp_path / "a.safetensors", f"{FIRST}1.DenseReluDense.wi_0"
    spelled = module if prefix.endswith(".") else module.replace(".", "_")
    base = read_model(str(tiny.folder(shape)))
    out, inside = base.shapes[f"{WHICH[shape]}.{module}"]
    down, up = torch.randn(2, inside), torch.randn(out, 2)
    own = {f"{prefix}{spelled}.lora_down.weight": down, f"{prefix}{spelled}.lora_up.weight": up}
    safetensors.torch.save_file(own, path)
    file = read_adapter(path, base=base.layers)
    assert list(file.layers) == [f"{WHICH[shape]}.{module}"]
    assert all(map(torch.equal, file.tensors(f"{WHICH[shape]}.{module}"), (down, up)))


def test_a_t5_alone_does_not_tell_whose_it_is(tmp_path: Path) -> None:
    source = adapter({f"text_encoder_2.{module}": of for module, of in XXL.items()})
    write(tmp_path / "a.safetensors", source, to="kohya")
    with pytest.raises(AdapterError, match=r"SD 3 and FLUX\.1 and Chroma call alike.*--base"):
        read_adapter(tmp_path / "a.safetensors")
    write(tmp_path / "peft", source, to="peft")
    with pytest.raises(AdapterError, match="--base"):
        read_adapter(tmp_path / "peft")
    base = read_model(str(tiny.folder("flux.1"))).layers
    assert list(read_adapter(tmp_path / "peft", base=base).layers) == sorted(source.layers)


@pytest.mark.parametrize("shape", WHICH)
def test_an_image_is_drawn_with_them(tmp_path: Path, shape: str) -> None:
    base, model = read_model(str(tiny.folder(shape))), tiny.load(shape)
    of_t5 = {
        key: of
        for key, of in base.shapes.items()
        if key.startswith(f"{WHICH[shape]}.encoder.block.")
    }
    assert len(of_t5) == 14  # of two blocks, none of which is a table that is looked up in
    source = adapter(of_t5, ranks=(2, 3), scales=(0.5,))
    path = tmp_path / "a.safetensors"
    write(path, source, to="kohya", model=base)
    encoder = getattr(model.pipe, WHICH[shape])
    before = {key: weight.clone() for key, weight in encoder.state_dict().items()}
    words = torch.tensor([[5, 6, 7]])
    plain = encoder(words)[0]
    with applied(model, [AppliedAdapter(path=path)]):
        for key, (a, b) in factors(source).items():
            name = f"{key.partition('.')[2]}.weight"
            now = encoder.state_dict()[name].double()
            torch.testing.assert_close(now, before[name].double() + b @ a, atol=1e-5, rtol=1e-5)
        assert not torch.equal(encoder(words)[0], plain)
    assert torch.equal(encoder(words)[0], plain)
    # diffusers has no loader for them, so none of its lines is offered.
    assert in_diffusers(read_adapter(path, base=base.layers), 1.0) is None


def test_a_pipeline_without_its_t5_refuses_them_by_name(tmp_path: Path) -> None:
    model = tiny.load("sd3")
    shapes: dict[str, Any] = dict(layers_of_pipeline(model).shapes)
    path = tmp_path / "a.safetensors"
    chosen = [f"text_encoder_3.{FIRST}0.SelfAttention.q", "transformer.proj_out"]
    write(path, adapter({key: shapes[key] for key in chosen}), to="diffusers")
    there, model.pipe.text_encoder_3 = model.pipe.text_encoder_3, None
    try:
        wanted = r"1 layer of text_encoder_3, which this model has not: .*SelfAttention\.q\. Load"
        with pytest.raises(AdapterError, match=wanted), applied(model, [AppliedAdapter(path=path)]):
            pass
    finally:
        model.pipe.text_encoder_3 = there
    with applied(model, [AppliedAdapter(path=path)]):
        pass


COMFYUI = {
    "sd3": {"lora_te3_", "text_encoders.t5xxl.transformer."},
    "flux.1": {"lora_te2_", "lora_te3_", "text_encoders.t5xxl.transformer."},
    "chroma": {"lora_te1_", "text_encoders.t5xxl.transformer."},
}
"""What ComfyUI (17358c8f) looks for before a T5's layers, by the encoders beside it."""


@pytest.mark.parametrize("shape", WHICH)
def test_which_programs_load_them(tmp_path: Path, shape: str) -> None:
    path, base = tmp_path / "a.safetensors", read_model(str(tiny.folder(shape))).layers
    module = f"{FIRST}0.SelfAttention.q"
    out, inside = base.shapes[f"{WHICH[shape]}.{module}"]
    spellings = {"lora_te1_", "lora_te2_", "lora_te3_", "text_encoders.t5xxl.transformer."}
    fitting = {"lora_te3_", f"lora_te{'123'[list(WHICH)[::-1].index(shape)]}_"}
    for prefix in spellings & (COMFYUI[shape] | fitting):
        spelled = module if prefix.endswith(".") else module.replace(".", "_")
        own = {f"{prefix}{spelled}.lora_down.weight": torch.ones(1, inside),
               f"{prefix}{spelled}.lora_up.weight": torch.ones(out, 1)}  # fmt: skip
        safetensors.torch.save_file(own, path)
        loading = {
            program
            for program in ("diffusers", "comfyui", "kohya", "a1111")
            if not not_loaded(path, program, base=base)
        }
        expected = {"comfyui"} if prefix in COMFYUI[shape] else set()
        assert loading == expected | ({"kohya"} if prefix == "lora_te3_" else set()), prefix
