"""Layers of a Gemma, which reads texts for Lumina 2 and Sana, without a base; and merges of text
encoders' layers, T5's and Gemma's, against float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from adapters.family_shapes import adapter, factors
from adapters.test_file_layouts import place, require_equal
from adapters.test_t5 import OWN, WHICH, XXL
from transformers import Gemma2Config, Gemma2Model

from selma.adapters.converting import convert
from selma.adapters.formats import FORMATS, write
from selma.adapters.layers import known_models, network_shapes
from selma.adapters.models import read_model
from selma.adapters.programs import not_loaded
from selma.adapters.reading import read_adapter
from selma.config.merged import MergedConfig
from selma.errors import AdapterError
from selma.merged.merging import merge_files

GEMMA = {
    "text_encoder.layers.0.self_attn.q_proj": (2048, 2304),
    "text_encoder.layers.25.self_attn.k_proj": (1024, 2304),
    "text_encoder.layers.1.self_attn.o_proj": (2304, 2048),
    "text_encoder.layers.1.mlp.gate_proj": (9216, 2304),
    "text_encoder.layers.1.mlp.down_proj": (2304, 9216),
}
LUMINA = {"transformer.layers.0.norm1.linear": (9216, 1024)}
SANA = {"transformer.transformer_blocks.0.ff.conv_inverted": (11200, 2240, 1, 1)}
BASES = {"lumina-2": LUMINA, "sana": SANA}


def test_every_layer_of_the_class_has_its_name_and_shape() -> None:
    config = Gemma2Config(
        hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256,
    )  # fmt: skip
    with torch.device("meta"):
        shapes = network_shapes("text_encoder", Gemma2Model(config))
    assert len(shapes) == 26 * 7
    models = {m.model: m for group in known_models() for m in group}
    for model in (models["Lumina 2"], models["Sana 1.6B"]):
        assert model.misfit(shapes) is None
        for key, shape in shapes.items():
            path = key.partition(".")[2]
            assert model.fits(key, shape) and model.has(key)
            assert model.key("text_encoder", path.replace(".", "_")) == key
        assert not model.has("text_encoder.layers.26.mlp.up_proj")


@pytest.mark.parametrize("to", [to for to in FORMATS if to != "simpletuner"])
@pytest.mark.parametrize("base", BASES)
def test_round_trips_without_a_base(base: str, to: str, tmp_path: Path) -> None:
    source = adapter(GEMMA | BASES[base], ranks=(2, 3), scales=(0.5,))
    write(place(tmp_path / "a", "diffusers"), source, to="diffusers")
    convert(place(tmp_path / "a", "diffusers"), place(tmp_path / "b", to), to=to)
    require_equal(read_adapter(place(tmp_path / "b", to)), source)
    if to in ("kohya", "onetrainer"):
        names = safetensors.torch.load_file(place(tmp_path / "b", to))
        assert "lora_te_layers_0_self_attn_q_proj.lora_down.weight" in names
    if base == "lumina-2" and to in ("kohya", "comfyui"):
        assert not not_loaded(place(tmp_path / "b", to), to)
        missed = not_loaded(place(tmp_path / "b", to), "diffusers")
        assert sum("self_attn" in name for name in missed) >= 2 * 3


def test_a_gemma_alone_needs_its_base(tmp_path: Path) -> None:
    source = adapter(GEMMA)
    write(tmp_path / "a.safetensors", source, to="kohya")
    for base in BASES:
        convert(tmp_path / "a.safetensors", tmp_path / base, to="peft", base=base)
        require_equal(read_adapter(tmp_path / base), source)
    wide = adapter({"text_encoder.layers.0.self_attn.q_proj": (2304, 2304)})
    write(tmp_path / "b.safetensors", wide, to="kohya")
    with pytest.raises(AdapterError, match="is for a weight of"):
        convert(tmp_path / "b.safetensors", tmp_path / "c", to="peft", base="lumina-2")


SETS = {
    **{
        shape: (
            {f"{WHICH[shape]}.{module}": of for module, of in XXL.items()},
            dict([OWN[shape]]),
        )
        for shape in WHICH
    },
    "lumina-2": (GEMMA, LUMINA),
}
NAMED = {"sd3": "sd-3.5-medium", "flux.1": "flux.1-dev", "chroma": "chroma", "lumina-2": "lumina-2"}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("shape", SETS)
def test_text_encoders_layers_are_merged_as_any_other(
    shape: str, alone: bool, tmp_path: Path
) -> None:
    texts, own = SETS[shape]
    shapes = texts if alone else texts | own
    base = NAMED[shape] if alone else None
    sources = [adapter(shapes, ranks=(2, 3), scales=(0.5,), seed=seed) for seed in range(2)]
    paths = [place(tmp_path / str(n), "kohya") for n in range(2)]
    for path, source in zip(paths, sources, strict=True):
        write(path, source, to="kohya")
    out = tmp_path / "merged.safetensors"
    weights = [0.75, 0.25]
    merge_files(paths, MergedConfig(), out, weights=weights, to="kohya", base=base, verify=True)
    merged = factors(read_adapter(out, base=read_model(base).layers if base else None))
    parts = [factors(source) for source in sources]
    assert merged.keys() == shapes.keys()
    for key in shapes:
        expected = sum(
            weight * (part[key][1][:64] @ part[key][0][:, :64])
            for weight, part in zip(weights, parts, strict=True)
        )
        a, b = merged[key]
        torch.testing.assert_close(b[:64] @ a[:, :64], expected, rtol=1e-4, atol=1e-5)
