"""`--base` by a short name: what is known of a released model tells names and shapes, without its
files."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapters.family_shapes import RELEASED, adapter, layers
from adapters.test_file_layouts import place, require_equal
from adapters.test_t5 import WHICH, XXL
from typer.testing import CliRunner

from selma.adapters.converting import convert
from selma.adapters.formats import write
from selma.adapters.fusing import fuse
from selma.adapters.layers import known_models
from selma.adapters.models import read_model
from selma.adapters.reading import read_adapter
from selma.backbones.bases import BASES
from selma.cli import app
from selma.errors import AdapterError, ModelError

NAMES = {"sd-3.5-medium": "sd3", "flux.1-dev": "flux.1", "chroma": "chroma"}


@pytest.mark.parametrize("base", [row.name for row in BASES.values() if row.repository])
def test_every_base_of_the_table_has_its_layers(base: str) -> None:
    row = BASES[base]
    known = {m.model: m for group in known_models() for m in group}
    assert row.layers in known
    for name in (base, str(row.repository)):
        model = read_model(name)
        assert model.layers is known[row.layers] or model.layers.model == row.layers
        assert (model.prediction, model.image_px) == (
            row.architecture.prediction,
            row.architecture.image_px,
        )
    assert (model.layout is None) == (model.family is not None)


@pytest.mark.parametrize("base", NAMES)
def test_a_t5_alone_is_that_bases(base: str, tmp_path: Path) -> None:
    key = WHICH[NAMES[base]]
    source = adapter({f"{key}.{module}": of for module, of in XXL.items()})
    file = tmp_path / "a.safetensors"
    write(file, source, to="kohya")
    shown = CliRunner().invoke(app, ["inspect", str(file), "--base", base])
    assert shown.exit_code == 0 and f"layers: {len(XXL)} " in shown.output
    listed = CliRunner().invoke(app, ["inspect", str(file), "--base", base, "--for", "kohya"])
    assert listed.exit_code == 0 and "all keys load" in listed.output + listed.stderr
    convert(file, tmp_path / "b.safetensors", to="diffusers", base=base)
    require_equal(read_adapter(tmp_path / "b.safetensors", base=read_model(base).layers), source)


def test_a_t5_of_another_size_is_refused(tmp_path: Path) -> None:
    shapes = {"text_encoder_2.encoder.block.0.layer.0.SelfAttention.q": (1024, 1024)}
    write(tmp_path / "a.safetensors", adapter(shapes), to="kohya")
    with pytest.raises(AdapterError, match="is for a weight of"):
        convert(tmp_path / "a.safetensors", tmp_path / "b", to="peft", base="flux.1-dev")


@pytest.mark.parametrize("base", ["flux.1-dev", "sd-3.5-medium", "z-image", "lumina-2", "chroma"])
def test_attention_alone_gets_the_bases_own_names(base: str, tmp_path: Path) -> None:
    model = read_model(base)
    family = model.layout.transformer if model.layout else ""
    assert family in RELEASED
    parts = ("to_q", "to_k", "to_v")
    shapes = {k: s for k, s in layers(family).shapes.items() if k.endswith(parts)}
    source = adapter(shapes)
    write(place(tmp_path, "diffusers"), source, to="diffusers")
    convert(place(tmp_path, "diffusers"), place(tmp_path, "kohya"), to="kohya", base=base)
    require_equal(read_adapter(place(tmp_path, "kohya"), base=model.layers), source)


def test_what_needs_the_files_says_so(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", adapter(layers("FluxTransformer2DModel").shapes), to="kohya")
    with pytest.raises(AdapterError, match="base's own files"):
        fuse(tmp_path / "a.safetensors", tmp_path / "out", base="flux.1-dev")
    with pytest.raises(ModelError, match="short name"):
        convert(tmp_path / "a.safetensors", tmp_path / "b", to="peft", base="flux.9")
