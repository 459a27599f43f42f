"""Files as people have them: each layout's change is what its own factors say, or it is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
from torch import Tensor
from typer.testing import CliRunner

from selma.adapters.converting import convert
from selma.adapters.files import OUR_KEY, Lineage, lineage_json
from selma.adapters.headers import MOST_TENSORS
from selma.adapters.layers import known_models
from selma.adapters.lora import describe
from selma.adapters.models import read_model
from selma.adapters.reading import read_adapter
from selma.cli import app
from selma.config.merged import MergedConfig
from selma.errors import AdapterError, IncompatibleExperts
from selma.merged.merging import merge_files

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
JOINED = BLOCK.replace(".", "_")
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
KEYS = [f"unet.{BLOCK}.{projection}" for projection in PROJECTIONS]
OLD = {"to_out.0": "to_out"}
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn"
XL = "transformer_blocks.1.attn1.to_q"
"""In a block that SDXL alone has: "unet.up_blocks.1.attentions.2."."""


def factors(
    seed: int = 0, count: int = 4, width: int = 16, rank: int = 4
) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(rank, width, generator=generator),
            torch.randn(width, rank, generator=generator),
        )
        for _ in range(count)
    ]


def saved(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(dict(tensors), path, None if header is None else dict(header))
    return path


def changes(path: Path, **known: object) -> dict[str, Tensor]:
    """Layer → scale x B A, of a file."""
    file = read_adapter(path, **known)  # type: ignore[arg-type]
    return {
        key: layer.scale * (b @ a)
        for key, layer in file.layers.items()
        for a, b in [file.factors(key)]
    }


def each(stem: str, a: str, b: str, *, joint: str = ".", seed: int = 0, alpha: float | None = None):
    """The four projections' tensors under names that are made of these parts."""
    tensors = {}
    for projection, (down, up) in zip(PROJECTIONS, factors(seed), strict=True):
        name = f"{stem}{projection}".replace(".", joint) if joint != "." else f"{stem}{projection}"
        tensors |= {f"{name}{a}": down, f"{name}{b}": up}
        tensors |= {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha)}
    return tensors


def old_processors(prefix: str):
    tensors = {}
    for projection, (down, up) in zip(PROJECTIONS, factors(), strict=True):
        stem = f"{prefix}{BLOCK}.processor.{OLD.get(projection, projection)}_lora"
        tensors |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
    return tensors


def kohya(**more: float):
    down, up = ".lora_down.weight", ".lora_up.weight"
    return each("lora_unet_" + JOINED + "_", down, up, joint="_", **more)


A, B = ".lora_A.weight", ".lora_B.weight"
LAYOUTS = {
    "diffusers": each(f"unet.{BLOCK}.", A, B),
    "without a component": each(f"{BLOCK}.", A, B),
    "the component twice": each(f"unet.unet.{BLOCK}.", A, B),
    "PEFT behind a component": each(f"unet.base_model.model.{BLOCK}.", A, B),
    "PEFT in one file": each(f"base_model.model.{BLOCK}.", A, B),
    "diffusers' lora.down": each(f"unet.{BLOCK}.", ".lora.down.weight", ".lora.up.weight"),
    "an adapter's name": each(
        f"unet.{BLOCK}.", ".lora_A.my-style.weight", ".lora_B.my-style.weight"
    ),
    "old processors": old_processors("unet."),
    "old processors without a component": old_processors(""),
    "kohya": kohya(alpha=4.0),
    "the original UNet by dots": each(
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.", A, B
    ),
    "the original UNet in a checkpoint": each(
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.",
        ".lora_down.weight",
        ".lora_up.weight",
    ),
    "the original UNet joined": each(
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_",
        ".lora_down.weight",
        ".lora_up.weight",
        joint="_",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_the_same_change(tmp_path: Path, layout: str) -> None:
    found = changes(saved(tmp_path / "a.safetensors", LAYOUTS[layout]))
    assert list(found) == sorted(KEYS)
    for key, (a, b) in zip(KEYS, factors(), strict=True):
        torch.testing.assert_close(found[key], b @ a, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("other", LAYOUTS)
def test_a_merge_has_each_layer_once_whatever_it_was_called(tmp_path: Path, other: str) -> None:
    one = saved(tmp_path / "a.safetensors", each(f"unet.{BLOCK}.", A, B, seed=1))
    two = saved(tmp_path / "b.safetensors", LAYOUTS[other])
    merge_files([one, two], MergedConfig(), tmp_path / "m.safetensors")
    found = changes(tmp_path / "m.safetensors")
    assert list(found) == sorted(KEYS)
    for key, (a, b), (c, d) in zip(KEYS, factors(), factors(1), strict=True):
        torch.testing.assert_close(found[key], (b @ a + d @ c) / 2, atol=1e-5, rtol=1e-5)
    with safetensors.safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert all(name.startswith(f"unet.{BLOCK}.to_") for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize("pixel", [(1, 1), ()])
def test_sd1s_upsampler_by_both_names_is_one_layer(tmp_path: Path, pixel: tuple[int, ...]) -> None:
    a, b = torch.randn(4, 16, 3, 3), torch.randn(16, 4, *pixel)
    paths = [
        saved(
            tmp_path / f"{n}.safetensors",
            {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b},
        )
        for n, name in enumerate(
            ("lora_unet_output_blocks_2_1_conv", "lora_unet_up_blocks_0_upsamplers_0_conv")
        )
    ]
    merge_files(paths, MergedConfig(), tmp_path / "m.safetensors")
    found = changes(tmp_path / "m.safetensors")
    assert list(found) == ["unet.up_blocks.0.upsamplers.0.conv"]
    expected = b.flatten(1) @ a.flatten(1)
    torch.testing.assert_close(*found.values(), expected, atol=1e-5, rtol=1e-5)


def test_text_encoders_of_old_processors_beside_a_unet(tmp_path: Path) -> None:
    tensors = {}
    old = ("to_q", "to_k", "to_v", "to_out")
    for projection, (down, up) in zip(old, factors(), strict=True):
        tensors[f"{TEXT}.{projection}_lora.down.weight"] = down
        tensors[f"{TEXT}.{projection}_lora.up.weight"] = up
    found = changes(saved(tmp_path / "a.safetensors", tensors | each(f"unet.{BLOCK}.", A, B)))
    for projection, (a, b) in zip(("q", "k", "v", "out"), factors(), strict=True):
        key = f"text_encoder.encoder.layers.0.self_attn.{projection}_proj"
        torch.testing.assert_close(found[key], b @ a)
    assert len(found) == 8


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_eight_bits_are_read_and_written_as_half_exactly(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    finite = every[every.isfinite()]
    assert torch.equal(finite.half().float(), finite)  # half has all of them
    tensors = {
        name: tensor if name.endswith("alpha") else tensor.to(dtype)
        for name, tensor in kohya(alpha=2.0).items()
    }
    path = saved(tmp_path / "a.safetensors", tensors)
    for key, (a, b) in zip(KEYS, factors(), strict=True):
        expected = 0.5 * (b.to(dtype).float() @ a.to(dtype).float())
        torch.testing.assert_close(changes(path)[key], expected, atol=1e-6, rtol=1e-6)
    convert(path, tmp_path / "d.safetensors", to="diffusers")
    written = safetensors.torch.load_file(tmp_path / "d.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float16}
    torch.testing.assert_close(
        changes(tmp_path / "d.safetensors"), changes(path), atol=1e-6, rtol=1e-6
    )


def test_eight_bits_that_are_no_number_are_refused(tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in kohya(alpha=2.0).items()}
    name = next(name for name in tensors if name.endswith("down.weight"))
    tensors[name][0, 0] = float("nan")
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    with pytest.raises(AdapterError, match="must be finite"):
        changes(saved(tmp_path / "a.safetensors", tensors))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_types_that_are_no_floats_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in each(f"unet.{BLOCK}.", A, B).items()}
    with pytest.raises(AdapterError, match="must be float"):
        read_adapter(saved(tmp_path / "a.safetensors", tensors))


def test_doubles_are_read_as_floats(tmp_path: Path) -> None:
    tensors = {name: tensor.double() for name, tensor in each(f"unet.{BLOCK}.", A, B).items()}
    file = read_adapter(saved(tmp_path / "a.safetensors", tensors))
    a, b = file.tensors(next(iter(file.layers)))
    assert a.dtype == b.dtype == torch.float32
    single = {name: tensor.float() for name, tensor in tensors.items()}
    wanted = changes(saved(tmp_path / "b.safetensors", single))
    for key, change in changes(file.path).items():
        torch.testing.assert_close(change, wanted[key], rtol=0, atol=0)


def test_an_alpha_of_nothing_or_of_two_numbers_is_refused_for_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is 0, by which some programs leave the layer out"):
        read_adapter(saved(tmp_path / "a.safetensors", kohya(alpha=0.0)))
    tensors = {
        name: torch.ones(2) if name.endswith("alpha") else tensor
        for name, tensor in kohya(alpha=2.0).items()
    }
    with pytest.raises(AdapterError, match=r"alpha' must be one number, but has the shape \[2\]"):
        read_adapter(saved(tmp_path / "b.safetensors", tensors))


BUNDLED = {
    "bundle_emb.mytoken.clip_l": torch.ones(2, 768),
    "bundle_emb.mytoken.string_to_param.*": torch.ones(2, 768),
}


def test_bundled_embeddings_are_left_out_and_counted(tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain.safetensors", kohya(alpha=4.0))
    bundle = saved(tmp_path / "bundle.safetensors", kohya(alpha=4.0) | BUNDLED)
    assert (read_adapter(plain).embeddings, read_adapter(bundle).embeddings) == (0, 2)
    torch.testing.assert_close(changes(bundle), changes(plain))
    lines = [
        ["inspect", bundle],
        ["convert", bundle, "--to", "diffusers", "--out", tmp_path / "d.safetensors"],
        ["merge", bundle, plain, "--out", tmp_path / "m.safetensors"],
    ]
    for line in lines:
        done = CliRunner().invoke(app, list(map(str, line)), catch_exceptions=False)
        assert done.exit_code == 0 and "left out: 2 tensors of text embeddings" in done.output
    done = CliRunner().invoke(app, ["inspect", str(plain)], catch_exceptions=False)
    assert "left out" not in done.output


def test_a_file_of_embeddings_alone_is_no_lora(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="at least one layer"):
        read_adapter(saved(tmp_path / "a.safetensors", BUNDLED))


@pytest.mark.parametrize("b_kernel", [(), (1, 1)])
@pytest.mark.parametrize(
    ("key", "width", "kernel"),
    [
        ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 1280, None),  # in all: linear
        ("down_blocks.0.attentions.0.proj_in", 320, (1, 1)),  # SD 1's and SD 2's differ
        ("up_blocks.0.attentions.0.proj_in", 1280, None),  # SDXL's own: linear
    ],
)
def test_factors_with_a_kernel_of_one_pixel_are_a_linear_layers(
    tmp_path: Path, key: str, width: int, kernel: tuple[int, int] | None, b_kernel: tuple[int, ...]
) -> None:
    a, b = torch.randn(2, width, 1, 1), torch.randn(width, 2, *b_kernel)
    path = saved(tmp_path / "a.safetensors", {f"unet.{key}{A}": a, f"unet.{key}{B}": b})
    (layer,) = read_adapter(path).layers.values()
    assert (layer.shape, layer.kernel) == ((width, width), kernel)
    torch.testing.assert_close(changes(path)[f"unet.{key}"], b.flatten(1) @ a.flatten(1))


@pytest.mark.parametrize(("shape", "kernel"), [("sd1", (1, 1)), ("sd2", None)])
def test_the_base_decides_what_kernel_a_layer_has(
    tmp_path: Path, shape: str, kernel: tuple[int, int] | None
) -> None:
    """SD 1 projects by convolutions of one pixel, SD 2 by linear layers: the same change."""
    model = read_model(str(tiny.folder(shape)))
    key = "unet.mid_block.attentions.0.proj_in"
    for more in ((), (1, 1)):
        tensors = {f"{key}{A}": torch.ones(2, 32, *more), f"{key}{B}": torch.ones(32, 2, *more)}
        path = saved(tmp_path / "a.safetensors", tensors)
        assert read_adapter(path, base=model.layers).layers[key].kernel == kernel
        (out,) = convert(path, tmp_path / "b.safetensors", to="diffusers", base=str(model.folder))
        written = safetensors.torch.load_file(out)[f"{key}{A}"]
        assert written.shape == (2, 32, *(kernel or ()))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 16), (16, 2, 3, 3)),
        ((2, 16, 1), (16, 2, 1)),
        ((2, 16), (16, 3)),
    ],
)
def test_factors_that_do_not_go_together_are_refused(
    tmp_path: Path, a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    tensors = {f"{KEYS[0]}{A}": torch.ones(a), f"{KEYS[0]}{B}": torch.ones(b)}
    with pytest.raises(AdapterError, match="needs A"):
        read_adapter(saved(tmp_path / "a.safetensors", tensors))


@pytest.mark.parametrize(
    "other",
    [
        each(f"unet.unet.{BLOCK}.", A, B, seed=1),
        each(f"{BLOCK}.", A, B, seed=1),
        each(f"unet.{BLOCK}.", ".lora_A.second.weight", ".lora_B.second.weight", seed=1),
        each(f"unet.{BLOCK}.", ".lora.down.weight", ".lora.up.weight", seed=1),
    ],
)
def test_a_layer_that_is_named_twice_is_refused_with_both_names(
    tmp_path: Path, other: dict[str, Tensor]
) -> None:
    first = each(f"unet.{BLOCK}.", A, B)
    with pytest.raises(AdapterError, match=r"twice, as '.*' and as '"):
        read_adapter(saved(tmp_path / "a.safetensors", first | other))


def test_counts_and_sizes_are_bounded(tmp_path: Path) -> None:
    many = {f"unet.x{n}{A}": torch.ones(1, 1) for n in range(MOST_TENSORS + 1)}
    with pytest.raises(AdapterError, match="may have 20,000 tensors, but has 20,001"):
        read_adapter(saved(tmp_path / "many.safetensors", many))
    wide = {f"{KEYS[0]}{A}": torch.ones(1, 40_000), f"{KEYS[0]}{B}": torch.ones(40_000, 1)}
    with pytest.raises(AdapterError, match="larger than any model's"):
        read_adapter(saved(tmp_path / "wide.safetensors", wide))
    long = {f"unet.{'x.' * 5000}{A}": torch.ones(1, 1)}
    with pytest.raises(AdapterError, match=r"may have 500 characters"):
        read_adapter(saved(tmp_path / "long.safetensors", long))


def of(*layers: str, width: int = 8) -> dict[str, Tensor]:
    tensors = {}
    for layer in layers:
        tensors |= {f"{layer}{A}": torch.ones(2, width), f"{layer}{B}": torch.ones(width, 2)}
    return tensors


def test_experts_of_two_families_are_refused_by_name(tmp_path: Path) -> None:
    sd = saved(tmp_path / "sd.safetensors", of("unet.up_blocks.3.attentions.0.proj_in"))
    xl = saved(tmp_path / "xl.safetensors", of(f"unet.up_blocks.0.attentions.0.{XL}"))
    both = "'sd' changes layers of SD 1 or SD 2 and 'xl' of SDXL"
    with pytest.raises(IncompatibleExperts, match=both):
        merge_files([sd, xl], MergedConfig(), tmp_path / "m.safetensors")
    mixed = of("unet.up_blocks.3.attentions.0.proj_in", f"unet.up_blocks.0.attentions.0.{XL}")
    with pytest.raises(AdapterError, match=r"SD 1 has no up_blocks.0.*SDXL has no up_bl"):
        read_adapter(saved(tmp_path / "mixed.safetensors", mixed))


def test_models_are_named_in_one_order(tmp_path: Path) -> None:
    """By inspecting and by merging, whatever the order of the alphabet."""
    several = saved(
        tmp_path / "a.safetensors", of("transformer.transformer_blocks.0.attn.to_q", width=3072)
    )
    xl = saved(tmp_path / "xl.safetensors", of(f"unet.up_blocks.0.attentions.0.{XL}"))
    (said,) = (line for line in describe(read_adapter(several)) if line.startswith("layers of"))
    listed = said.removeprefix("layers of: ")
    assert len(listed.split(" or ")) > 1
    assert listed.split(" or ") != sorted(listed.split(" or "))
    with pytest.raises(IncompatibleExperts, match=f"changes layers of {re.escape(listed)} and"):
        merge_files([several, xl], MergedConfig(), tmp_path / "m.safetensors")


def test_shapes_tell_models_of_the_same_names_apart(tmp_path: Path) -> None:
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    models = {}
    for width in (768, 1024, 128, 32):
        tensors = {f"{layer}{A}": torch.ones(2, width), f"{layer}{B}": torch.ones(320, 2)}
        file = read_adapter(saved(tmp_path / "a.safetensors", tensors))
        models[width] = [model.model for model in file.models]
    assert models[768] == ["SD 1"] and models[1024] == ["SD 2"] and models[128] == ["toybox"]
    assert models[32] == ["SD 1", "SD 2", "toybox"]  # none's; their names are alike


@pytest.mark.parametrize(
    ("layer", "kohyas"),
    [
        ("unet.up_blocks.3.attentions.0.proj_in", "lora_unet_up_blocks_3_attentions_0_proj_in"),
        ("unet.down_blocks.0.attentions.1.proj_in", "lora_unet_down_blocks_0_attentions_1_proj_in"),
        (
            f"unet.up_blocks.0.attentions.0.{XL}",
            f"lora_unet_output_blocks_0_1_{XL.replace('.', '_')}",
        ),
        ("unet.add_embedding.linear_1", "lora_unet_label_emb_0_0"),
        (
            "diffusion_model.output_blocks.11.1.proj_in",
            "lora_unet_up_blocks_3_attentions_2_proj_in",
        ),
        (
            "text_encoder_2.encoder.layers.31.mlp.fc1",
            "lora_te2_text_model_encoder_layers_31_mlp_fc1",
        ),
        (
            "text_encoder.encoder.layers.22.mlp.fc1",
            "lora_te_text_model_encoder_layers_22_mlp_fc1",
        ),
    ],
)  # fmt: skip
def test_kohyas_names_need_no_base_where_the_layers_tell(
    tmp_path: Path, layer: str, kohyas: str
) -> None:
    path = saved(tmp_path / "a.safetensors", of(layer))
    convert(path, tmp_path / "k.safetensors", to="kohya")
    merge_files([path, path], MergedConfig(), tmp_path / "m.safetensors", to="kohya")
    for out in ("k", "m"):
        written = safetensors.torch.load_file(tmp_path / f"{out}.safetensors")
        assert {name.partition(".")[0] for name in written} == {kohyas}
    with safetensors.safe_open(tmp_path / "k.safetensors", framework="pt") as file:
        told = file.metadata().get("ss_base_model_version")
    both = "up_blocks.3" in layer or "down_blocks.0" in layer or "output_blocks.11" in layer
    assert (told is None) == both  # SD 1 and SD 2 have the same layers


def test_layers_that_every_family_has_need_the_base(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", of("unet.mid_block.attentions.0.proj_in"))
    with pytest.raises(AdapterError, match="--base"):
        convert(path, tmp_path / "k.safetensors", to="kohya")


OWN = {OUR_KEY: lineage_json(Lineage(base="c" * 64, made_by={"skill": "counting"}))}
DEEP = "unet.down_blocks.7.attentions.5.transformer_blocks.0.attn1.to_q"


def test_what_selma_trained_on_a_base_of_its_own_kind_keeps_its_names(tmp_path: Path) -> None:
    """A header that names its base speaks of that base's layers, which no table knows."""
    own = saved(tmp_path / "own.safetensors", of(DEEP), OWN)
    file = read_adapter(own)
    assert list(file.layers) == [DEEP] and file.models == ()
    merge_files([own, own], MergedConfig(), tmp_path / "m.safetensors")
    assert list(read_adapter(tmp_path / "m.safetensors").layers) == [DEEP]
    convert(own, tmp_path / "peft", to="peft")
    assert list(read_adapter(tmp_path / "peft").layers) == [DEEP]
    with pytest.raises(AdapterError, match="that none of"):
        read_adapter(saved(tmp_path / "strangers.safetensors", of(DEEP)))
    nameless = {OUR_KEY: lineage_json(Lineage(made_by={"method": "ties"}))}
    with pytest.raises(AdapterError, match="that none of"):
        read_adapter(saved(tmp_path / "nameless.safetensors", of(DEEP), nameless))


def test_numbered_names_of_such_a_base_are_not_guessed(tmp_path: Path) -> None:
    """Its blocks may be numbered otherwise: the base must be at hand."""
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{name}.lora_down.weight": torch.ones(2, 8),
        f"{name}.lora_up.weight": torch.ones(8, 2),
    }
    path = saved(tmp_path / "k.safetensors", tensors, OWN)
    with pytest.raises(AdapterError, match="name that base with --base"):
        read_adapter(path)
    assert len(read_adapter(saved(path, tensors)).layers) == 1


@pytest.mark.parametrize("to", ["diffusers", "kohya", "peft"])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_with_the_base_at_hand_all_its_layers_are_known(
    tmp_path: Path, shape: str, to: str
) -> None:
    model = read_model(str(tiny.folder(shape)))
    tensors = {}
    for key, (out, *inside) in model.shapes.items():
        tensors[f"{key}{A}"] = torch.ones(1, *inside)
        tensors[f"{key}{B}"] = torch.ones(out, 1, *(1 for _ in inside[1:]))
    path = saved(tmp_path / "a.safetensors", tensors)
    out = tmp_path / ("p" if to == "peft" else f"{to}.safetensors")
    convert(path, out, to=to, base=str(model.folder))
    assert read_adapter(out, base=model.layers).layers.keys() == model.shapes.keys()
    done = CliRunner().invoke(app, ["inspect", str(out), "--base", str(model.folder)])
    assert done.exit_code == 0 and f"layers: {len(model.shapes)} " in done.output


def test_a_name_that_the_base_has_not_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", of(KEYS[0], "unet.mid_block.attentions.0.proj_in"))
    with pytest.raises(
        AdapterError, match=f"changes 2 layers, of which .* has 1; it has no {BLOCK}"
    ):
        read_adapter(path, base=read_model(str(tiny.folder("sd1"))).layers)


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("diffusers", "ComfyUI, A1111, Forge and sd-scripts find no"),
        ("kohya", "For ComfyUI"),
        ("peft", "For PEFT"),
    ],
)
def test_convert_says_which_program_the_file_is_for(tmp_path: Path, to: str, says: str) -> None:
    path = saved(tmp_path / "a.safetensors", each(f"unet.{BLOCK}.", A, B))
    out = tmp_path / ("p" if to == "peft" else "b.safetensors")
    line = ["convert", str(path), "--to", to, "--out", str(out)]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    assert done.exit_code == 0 and says in done.stderr and says not in done.stdout


def test_every_layer_of_the_known_models_is_within_the_bounds() -> None:
    models = [model for group in known_models() for model in group]
    assert max(3 * len(model.shapes) for model in models) == 3177 < MOST_TENSORS
    names = [f"unet.base_model.model.{key}" for model in models for key in model.shapes]
    assert max(map(len, names)) < 150


def folder(root: Path, *files: str) -> Path:
    root.mkdir()
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        saved(root / name, kohya(alpha=4.0)) if "safe" in name.lower() else (
            root / name
        ).write_text("{}")
    return root


WANTED = r"must hold pytorch_lora_weights.safetensors \(diffusers, selma\) or adapter_model.*, but "


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ((), "is empty"),
        (("my.safetensors",), r"holds my.safetensors\. Name that file itself: \S*my.saf"),
        (("B.SAFETENSORS", "a.safetensors"), "holds B.SAFETENSORS, a.safetensors. Name one of"),
        (("adapter_model.bin", "adapter_config.json"), "holds adapter_model.bin alone, a pickle"),
        (("x.PT",), "holds x.PT alone, a pickle.*weights_only=True.*'x.safetensors'"),
        (("x.ckpt", "y.pth"), "holds x.ckpt, y.pth alone, a pickle"),
        (("notes.txt", "adapter_config.json"), "holds only adapter_config.json, notes.txt"),
        (("unet/x.txt", "vae/x.txt"), "has only folders: unet, vae"),
        (tuple(f"{n}.txt" for n in range(8)), "holds only 0.txt, .*4.txt and 3 more"),
    ],
)  # fmt: skip
def test_a_folder_without_an_adapter_says_what_it_has(
    tmp_path: Path, files: tuple[str, ...], says: str
) -> None:
    with pytest.raises(AdapterError, match=WANTED + says):
        read_adapter(folder(tmp_path / "a", *files))


@pytest.mark.parametrize("name", ["A.SAFETENSORS", "a.SafeTensors"])
def test_suffixes_are_compared_without_case(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, kohya(alpha=4.0))
    done = CliRunner().invoke(app, ["inspect", str(path)], catch_exceptions=False)
    assert done.exit_code == 0 and "lora, kohya" in done.output


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.txt", "must be a .safetensors file, but ends in .txt"),
        ("a", "must be a .safetensors file, but ends in no suffix"),
        ("gone.safetensors", "must be an adapter's file or folder, but there is none"),
    ],
)
def test_a_path_that_is_no_adapter_is_told_as_it_is(tmp_path: Path, name: str, says: str) -> None:
    if "gone" not in name:
        (tmp_path / name).write_text("x")
    with pytest.raises(AdapterError, match=says):
        read_adapter(tmp_path / name)


def test_pefts_settings_beside_a_file_of_another_name_count(tmp_path: Path) -> None:
    path = saved(tmp_path / "style.safetensors", each(f"base_model.model.{BLOCK}.", A, B))
    assert {layer.scale for layer in read_adapter(path).layers.values()} == {1.0}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 12}))
    assert {layer.scale for layer in read_adapter(path).layers.values()} == {3.0}
