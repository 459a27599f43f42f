"""What each program would not load: the tables against diffusers' own loaders, layer by layer, and
against ComfyUI's own map of names, kohya's and A1111's, which lie beside this file as facts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
from adapters.family_shapes import RELEASED, adapter, layers
from adapters.test_file_layouts import MIXINS, SHAPES
from diffusers.loaders import lora_pipeline
from torch import Tensor
from typer.testing import CliRunner

from selma.adapters import names
from selma.adapters.formats import SPELLED, write
from selma.adapters.layers import known_models
from selma.adapters.programs import PROGRAMS, loads, not_loaded
from selma.cli import app
from selma.errors import AdapterError, ConfigError

FACTS = json.loads(Path(__file__).with_name("comfyui_keys.json").read_text("utf-8"))
A1111 = json.loads(Path(__file__).with_name("a1111_keys.json").read_text("utf-8"))
KNOWN = {layers.model: layers for layers in next(known_models())}
NUMBER = re.compile(r"((?:transformer_blocks|layers|resblocks)_)\d+(?=_)")
KOHYA = json.loads(Path(__file__).with_name("kohya_keys.json").read_text("utf-8"))
FAMILIES = list(RELEASED)
NAME = re.compile(r"(.+?)(?:\.lora_(?:A|B|down|up)\.weight|\.alpha)")


def file_of(folder: Path, family: str, to: str, *, scale: float = 0.5) -> dict[str, Tensor]:
    """All layers of the family in one layout; as trainers' own files, no header says whose."""
    path = folder / "a.safetensors"
    write(path, adapter(SHAPES[family], scales=(scale,)), to=to)
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path)
    return tensors


def by_layer(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = NAME.fullmatch(name)
        assert match is not None
        layers.setdefault(match[1], {})[name] = tensor
    return layers


def loaded_by_diffusers(family: str, tensors: dict[str, Tensor]) -> set[str]:
    """Layers of the model that its own converter makes of these tensors; none if it gives up."""
    try:
        state = MIXINS[family].lora_state_dict(dict(tensors))
    except (ValueError, KeyError, NotImplementedError, IndexError, AssertionError, RuntimeError):
        return set()
    state = state[0] if isinstance(state, tuple) else state
    return {key.partition(".lora_")[0] for key in state} & SHAPES[family].keys()


FULL = ("Lumina2Transformer2DModel", "comfyui")
"""Whose converter takes nothing but all layers of a block at once."""


@pytest.mark.parametrize("to", ["diffusers", *SPELLED])
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_loads_what_the_table_says_and_no_more(
    tmp_path: Path, family: str, to: str
) -> None:
    # With alphas beside its own names, diffusers' loaders of three families stumble; none has them.
    tensors = file_of(tmp_path, family, to, scale=1.0 if to in ("diffusers", "comfyui") else 0.5)
    missed = set(not_loaded(tmp_path / "a.safetensors", "diffusers"))
    layers_of_file = by_layer(tensors)
    good = {name: t for name, t in tensors.items() if name not in missed}
    if good:
        expected = set(SHAPES[family]) if to == "diffusers" else None
        together = loaded_by_diffusers(family, good)
        assert together and expected in (None, together)
    for layer, own in layers_of_file.items():
        alone = loaded_by_diffusers(family, own)
        if missed & own.keys():
            assert not alone, layer
        elif (family, to) != FULL:
            assert alone and alone <= together, layer


@pytest.mark.parametrize("family", [family for family in FAMILIES if family in FACTS])
def test_comfyui_loads_what_its_own_map_has(tmp_path: Path, family: str) -> None:
    known = {key for keys in FACTS[family].values() for key in keys.split()}
    for to in ("diffusers", *SPELLED):
        tensors = file_of(tmp_path, family, to)
        missed = set(not_loaded(tmp_path / "a.safetensors", "comfyui"))
        for layer, own in by_layer(tensors).items():
            assert own.keys() <= missed if layer not in known else not own.keys() & missed, layer
    # Every other way to name the layers that the map has, by the same table.
    path = tmp_path / "b.safetensors"
    for target, keys in FACTS[family].items():
        for key in keys.split():
            named = sorted((k for k in SHAPES[family] if k.endswith(f".{key}")), key=len)
            shape = SHAPES[family][named[0]] if named else None
            if shape is None:
                continue
            factors = {f"{key}.lora_A.weight": torch.ones(1, shape[1]),
                       f"{key}.lora_B.weight": torch.ones(shape[0], 1)}  # fmt: skip
            safetensors.torch.save_file(factors, path)
            assert not not_loaded(path, "comfyui", base=layers(family)), (target, key)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family in KOHYA])
def test_kohya_loads_what_its_own_models_have(tmp_path: Path, family: str) -> None:
    """sd-scripts' and musubi-tuner's own classes, whose layers their trainers name so."""
    tensors = file_of(tmp_path, family, "kohya")
    written = {
        re.sub(r"((?:blocks|layers|refiner)_)\d+(?=_)", r"\1#", k) for k in by_layer(tensors)
    }
    # klein, whose class this is, has no embedding of a guidance; FLUX.2 dev has.
    assert {name for name in written if "guidance_in" not in name or "Flux2" not in family} == set(
        KOHYA[family]
    )
    assert not_loaded(tmp_path / "a.safetensors", "kohya") == []
    for to in ("diffusers", "comfyui", "onetrainer", "simpletuner"):
        others = file_of(tmp_path, family, to)
        assert not_loaded(tmp_path / "a.safetensors", "kohya") == sorted(others)


def test_no_program_but_diffusers_loads_sana(tmp_path: Path) -> None:
    family = "SanaTransformer2DModel"
    for to in ("diffusers", *SPELLED):
        tensors = file_of(tmp_path, family, to)
        for program in ("comfyui", "kohya", "a1111"):
            assert not_loaded(tmp_path / "a.safetensors", program) == sorted(tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_for_a_program_loads_there(tmp_path: Path, family: str) -> None:
    path = tmp_path / "a.safetensors"
    for to in ("diffusers", "comfyui", "kohya"):
        file_of(tmp_path, family, to, scale=1.0)
        if family != "SanaTransformer2DModel" or to == "diffusers":
            assert not_loaded(path, to) == []


@pytest.mark.parametrize(("model", "block"), [
    ("SD 1", "down_blocks.1.attentions.0"), ("SDXL", "down_blocks.1.attentions.0"),
])  # fmt: skip
def test_unets(tmp_path: Path, model: str, block: str) -> None:
    shapes = {m.model: m for m in next(known_models())}[model].shapes
    some = {k: s for k, s in shapes.items() if block in k or ".layers.11.self_attn." in k}
    made, path = adapter(some), tmp_path / "a.safetensors"
    attention = {k for k in some if ".to_" in k}
    write(path, made, to="diffusers")
    assert not_loaded(path, "diffusers") == []
    missed = not_loaded(path, "comfyui")
    assert missed and all(".to_" in name for name in missed)
    assert len(missed) == 2 * len(attention)
    assert len(not_loaded(path, "a1111")) == len(not_loaded(path, "kohya")) == 2 * len(some)
    for program in PROGRAMS:
        write(path, made, to="kohya")
        assert not_loaded(path, program) == []
    pipe = {"SD 1": lora_pipeline.StableDiffusionLoraLoaderMixin,
            "SDXL": lora_pipeline.StableDiffusionXLLoraLoaderMixin}[model]  # fmt: skip
    config: Any = tiny.load("sdxl" if model == "SDXL" else "sd1").pipe.unet.config
    if model == "SD 1":
        state, _ = pipe.lora_state_dict(safetensors.torch.load_file(path), unet_config=config)
        assert len(state) == 2 * len(some)


def test_the_command(tmp_path: Path) -> None:
    """The two issues that people have: Z-Image's split attention, and FLUX files of ai-toolkit."""
    file_of(tmp_path, "ZImageTransformer2DModel", "kohya")
    path = str(tmp_path / "a.safetensors")
    done = CliRunner().invoke(app, ["inspect", path, "--for", "comfyui"], catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert "lora_unet_layers_0_attention_to_q.lora_down.weight" in lines
    assert "lora_unet_layers_0_attention_to_out_0.alpha" in lines
    assert not any("feed_forward" in line for line in lines)
    assert f"{len(lines)} keys that comfyui would not load" in done.stderr
    file_of(tmp_path, "ZImageTransformer2DModel", "comfyui")
    done = CliRunner().invoke(app, ["inspect", path, "--for", "comfyui"], catch_exceptions=False)
    assert done.stdout == "" and "all keys load" in done.stderr


@pytest.mark.parametrize(("program", "said"), [
    ("forge", "Forge looks for the names that ComfyUI looks for, in files of SD 1, SD 2 and SDXL"),
    ("re-forge", "reForge looks for"),
    ("ComfyUI", "Did you mean comfyui?"),
    ("automatic1111", "Did you mean a1111?"),
    ("sd-scripts", "Did you mean kohya?"),
    ("diffuser", "Did you mean diffusers?"),
    ("Draw Things", "Of others it is not known"),
    ("invokeai", "Of others it is not known"),
])  # fmt: skip
def test_a_program_without_a_table(tmp_path: Path, program: str, said: str) -> None:
    wanted = f"one of diffusers, comfyui, kohya, a1111, but.*came. {re.escape(said)}"
    with pytest.raises(ConfigError, match=wanted):
        not_loaded(tmp_path / "a.safetensors", program)


@pytest.mark.parametrize("model", ["SD 1", "SD 2", "SDXL"])
def test_a1111_loads_what_its_own_map_finds(model: str) -> None:
    """Every layer under diffusers' names as kohya writes them, and under the original's."""
    layers, seen = KNOWN[model], set()
    for key in layers.shapes:
        component, module = names.split(key)
        flat = module.replace(".", "_")
        spelled = {
            names.UNET: [f"lora_unet_{flat}"],
            names.TEXT: [f"lora_te_text_model_{flat}", f"lora_te1_text_model_{flat}"],
            names.TEXT_2: [f"lora_te2_text_model_{flat}"],
        }[component]
        for name in spelled:
            fact = A1111[model][NUMBER.sub(r"\1#", name)]
            seen.add(NUMBER.sub(r"\1#", name))
            assert loads(f"{name}.lora_down.weight", "a1111", layers) == bool(fact), name
            if component == names.UNET and fact:
                own = f"diffusion_model_{layers.originals[module].replace('.', '_')}"
                assert NUMBER.sub(r"\1#", own) == fact
                numbered = own.replace("diffusion_model_", "lora_unet_")
                assert loads(f"{numbered}.alpha", "a1111", layers)
    assert seen == A1111[model].keys()


def test_a1111_changes_openclips_attention_only_whole(tmp_path: Path) -> None:
    """Its q, k and v are one parameter there, to which nothing is added without all of the four."""
    path, shapes = tmp_path / "a.safetensors", KNOWN["SDXL"].shapes
    for component in ("text_encoder", "text_encoder_2"):
        block = f"{component}.encoder.layers.3."
        own = {key: shape for key, shape in shapes.items() if key.startswith(block)}
        write(path, adapter(own | some_of_unet(shapes)), to="kohya")
        assert not_loaded(path, "a1111") == []
        own.pop(f"{block}self_attn.k_proj")
        write(path, adapter(own | some_of_unet(shapes)), to="kohya")
        missed = not_loaded(path, "a1111")
        assert len(missed) == (0 if component == "text_encoder" else 9)
        assert all("_self_attn_" in name and "lora_te2_" in name for name in missed)
        assert not_loaded(path, "comfyui") == []


def some_of_unet(shapes: Any) -> dict[str, Any]:
    return {key: shape for key, shape in shapes.items() if "down_blocks.1.attentions.0" in key}


def test_files_of_several_families_need_the_base(tmp_path: Path) -> None:
    """ComfyUI knows Qwen-Image's own names bare and no "lora_transformer_", FLUX.1's both."""
    path = tmp_path / "a.safetensors"
    key = "transformer.transformer_blocks.0.attn.to_q"
    write(path, adapter({key: (3072, 3072)}), to="onetrainer")
    with pytest.raises(AdapterError, match="depends on whether it is for"):
        not_loaded(path, "comfyui")
    assert not_loaded(path, "comfyui", base=layers("FluxTransformer2DModel")) == []
    assert len(not_loaded(path, "comfyui", base=layers("QwenImageTransformer2DModel"))) == 3
