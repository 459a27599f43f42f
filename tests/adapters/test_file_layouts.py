"""Each family's layouts: the tables against diffusers' own classes and converters, and round trips
of files that are exact."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
from adapters.family_shapes import RELEASED, adapter, apart, factors, layers, network
from diffusers.loaders import lora_pipeline, single_file_utils
from peft import PeftModel
from torch import Tensor

from selma.adapters.applying import applied
from selma.adapters.converting import convert
from selma.adapters.formats import SPELLED, write
from selma.adapters.layouts import LAYOUTS, layout_of
from selma.adapters.models import read_model
from selma.adapters.reading import read_adapter
from selma.errors import AdapterError
from selma.records.adapters import AppliedAdapter

FAMILIES = list(RELEASED)
SHAPES = {family: layers(family).shapes for family in FAMILIES}
BLOCK = "transformer.transformer_blocks.1."
FORMATS = ("diffusers", "peft", *SPELLED)


def place(folder: Path, to: str) -> Path:
    return folder / to if to == "peft" else folder / f"{to}.safetensors"


def some(family: str, *endings: str) -> dict[str, Any]:
    return {key: shape for key, shape in SHAPES[family].items() if key.endswith(endings)}


def require_equal(file: Any, made: Any) -> None:
    """The same layers, bits and scales."""
    assert list(file.layers) == sorted(made.layers, key=lambda key: f"{key}.")
    for key, layer in file.layers.items():
        assert layer.scale == made.layers[key].scale
        assert layer.rank == made.layers[key].rank
        for mine, theirs in zip(file.tensors(key), made.give(key), strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine.flatten(1), theirs.flatten(1)), key


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_the_class_is_in_the_table_once(family: str, tiny: bool) -> None:
    layout = layout_of(f"diffusers:{family}")
    assert layout is not None
    for key in layers(family, tiny=tiny).shapes:
        module = key.partition(".")[2]
        found = layout.module(module)
        assert found is not None, key
        assert module in found.modules
        assert layout.own(module) == layout.own(module.replace(".", "_")) == module
        for spelled in (found.path, found.path.replace(".", "_")):
            assert layout.original(spelled) == found
    paths = [original.path for original in layout.originals]
    assert len(set(paths)) == len(paths)


CONVERTERS = {
    "SD3Transformer2DModel": "sd3_transformer_checkpoint",
    "FluxTransformer2DModel": "flux_transformer_checkpoint",
    "Flux2Transformer2DModel": "flux2_transformer_checkpoint",
    "ZImageTransformer2DModel": "z_image_transformer_checkpoint",
    "SanaTransformer2DModel": "sana_transformer",
    "Lumina2Transformer2DModel": "lumina2",
    "ChromaTransformer2DModel": "chroma_transformer_checkpoint",
}
"""Class → diffusers' own function, "convert_..._to_diffusers"."""


class Checkpoint(dict[str, Any]):
    """What a converter asks for beside weights (biases, norms) is there."""

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key, *(default or [torch.zeros(6)]))


@pytest.mark.parametrize("family", CONVERTERS)
def test_the_names_are_those_of_diffusers_converters(family: str) -> None:
    """A checkpoint by the table's names and rows, whose every row is another number, becomes
    diffusers' model in diffusers' own hands."""
    layout = layout_of(family)
    assert layout is not None
    rows: dict[str, Tensor] = {}
    count = 0
    for key, shape in SHAPES[family].items():
        rows[key.partition(".")[2]] = torch.arange(count, count + shape[0]).reshape(-1, 1)
        count += shape[0]
    checkpoint = Checkpoint()
    for module in rows:
        found = layout.module(module)
        assert found is not None
        whole = torch.cat([rows[part] for part in found.modules])
        if found.original.swaps and len(whole) == 2 * SHAPES[family][f"transformer.{module}"][1]:
            whole = torch.cat([*reversed(whole.chunk(2))])
        checkpoint[f"{found.path}.weight"] = whole
        checkpoint[f"{found.path}.bias"] = whole.flatten()
    converted = getattr(single_file_utils, f"convert_{CONVERTERS[family]}_to_diffusers")(checkpoint)
    assert not [key for key in checkpoint if key.endswith(".weight")]
    for module, expected in rows.items():
        assert torch.equal(converted[f"{module}.weight"], expected), module


@pytest.mark.parametrize("made", [
    {"shared": True, "scales": (2.0,)},
    {"shared": True, "dtype": torch.bfloat16, "ranks": (3,)},
    {"ranks": (2, 3, 4), "scales": (0.5,)},
    {"dtype": torch.float16, "ranks": (6, 3), "scales": (1.0,)},
])  # fmt: skip
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trips_are_exact(tmp_path: Path, family: str, to: str, made: dict[str, Any]) -> None:
    """Without a base: the layout and the family are recognised by names and widths."""
    source = adapter(SHAPES[family], **made)
    first = place(tmp_path / "a", "diffusers")
    write(first, source, to="diffusers")
    require_equal(read_adapter(first), source)
    convert(first, place(tmp_path / "b", to), to=to)
    through = read_adapter(place(tmp_path / "b", to))
    assert through.format == to
    require_equal(through, source)
    convert(place(tmp_path / "b", to), place(tmp_path / "c", "diffusers"), to="diffusers")
    again = place(tmp_path / "c", "diffusers")
    require_equal(read_adapter(again), source)
    assert safetensors.torch.load_file(first).keys() == safetensors.torch.load_file(again).keys()


@pytest.mark.parametrize("to", ["kohya", "comfyui"])
@pytest.mark.parametrize("endings", [
    ("to_q", "to_out.0"), ("to_q", "to_v", "attn.to_k"), ("add_k_proj", "to_v", "proj_mlp"),
])  # fmt: skip
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_that_are_not_changed_stay_so(
    tmp_path: Path, family: str, endings: tuple[str, ...], shared: bool, to: str
) -> None:
    source = adapter(some(family, *endings), shared=shared, ranks=(2, 3), scales=(0.5,))
    own = layers(family)
    out = place(tmp_path, to)
    path = place(tmp_path / "a", "diffusers")
    write(path, source, to="diffusers")
    if family in ("Lumina2Transformer2DModel",) and "to_q" in endings and len(endings) == 2:
        with pytest.raises(AdapterError, match="widths cannot be told"):
            convert(path, out, to=to)
        return
    try:
        convert(path, out, to=to)
    except AdapterError as error:  # attention alone, whose names several families have
        assert "Name the model with --base" in str(error)
        return
    require_equal(read_adapter(out, base=own), source)


@pytest.mark.parametrize("to", ["kohya", "comfyui"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scales_that_differ_are_joined_within_rounding(
    tmp_path: Path, family: str, to: str
) -> None:
    source = adapter(SHAPES[family], ranks=(2, 3), scales=(0.7, 1.3, 2.0))
    write(place(tmp_path, to), source, to=to)
    read, expected = factors(read_adapter(place(tmp_path, to))), factors(source)
    assert read.keys() == expected.keys()
    assert max(apart(expected[key], read[key]) for key in expected) <= 2e-7


@pytest.mark.parametrize("to", SPELLED)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_is_known_by_its_base(tmp_path: Path, family: str, to: str) -> None:
    base = layers(family, tiny=True)
    source = adapter(base.shapes, ranks=(2, 3))
    kohya = tmp_path / "k.safetensors"
    tensors: dict[str, Tensor] = {}
    for key in source.layers:  # each program's own names, without joining
        a, b = source.give(key)
        module = key.partition(".")[2]
        tensors |= {f"diffusion_model.{module}.lora_A.weight": a}
        tensors |= {f"diffusion_model.{module}.lora_B.weight": b}
    safetensors.torch.save_file(tensors, kohya)
    require_equal(read_adapter(kohya, base=base), source)


MIXINS = {
    "FluxTransformer2DModel": lora_pipeline.FluxLoraLoaderMixin,
    "Flux2Transformer2DModel": lora_pipeline.Flux2LoraLoaderMixin,
    "ZImageTransformer2DModel": lora_pipeline.ZImageLoraLoaderMixin,
    "QwenImageTransformer2DModel": lora_pipeline.QwenImageLoraLoaderMixin,
    "Lumina2Transformer2DModel": lora_pipeline.Lumina2LoraLoaderMixin,
    "SD3Transformer2DModel": lora_pipeline.SD3LoraLoaderMixin,
    "SanaTransformer2DModel": lora_pipeline.SanaLoraLoaderMixin,
    "ChromaTransformer2DModel": lora_pipeline.FluxLoraLoaderMixin,
}
BLOCKS_ALONE = (".norm_out.linear", ".proj_out", "embed", "modulation", "_in", "_embedder", "guid")
READ_BY_DIFFUSERS = [
    ("FluxTransformer2DModel", "kohya"),
    ("Flux2Transformer2DModel", "kohya"),
    ("Flux2Transformer2DModel", "comfyui"),
    ("ZImageTransformer2DModel", "kohya"),
    ("QwenImageTransformer2DModel", "kohya"),
    ("QwenImageTransformer2DModel", "comfyui"),
    ("Lumina2Transformer2DModel", "comfyui"),
    ("ChromaTransformer2DModel", "kohya"),
    *((family, "diffusers") for family in FAMILIES),
]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("family", "to"), READ_BY_DIFFUSERS)
def test_diffusers_own_converters_read_the_same(
    tmp_path: Path, family: str, to: str, shared: bool
) -> None:
    """Of the blocks, which is what its converters of LoRAs know in each layout."""
    shapes = {
        key: shape
        for key, shape in SHAPES[family].items()
        if to == "diffusers"
        or not any(part in key.split("blocks.")[-1] for part in BLOCKS_ALONE)
        or (family.startswith("Lumina2") and "norm1" in key)
    }
    if family.startswith("Lumina2"):
        shapes = {k: s for k, s in shapes.items() if ".layers." in k or "refiner" in k}
    source = adapter(shapes, shared=shared, ranks=(2,))
    path = place(tmp_path, to)
    write(path, source, to=to)
    theirs = MIXINS[family].lora_state_dict(safetensors.torch.load_file(path))
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    ours = factors(read_adapter(path))
    assert {key.partition(".lora_")[0] for key in theirs} == set(ours)
    for key, change in ours.items():
        a, b = (theirs[f"{key}.lora_{factor}.weight"].double().flatten(1) for factor in "AB")
        assert apart(change, (a, b)) <= 1e-6, key


def test_diffusers_forgets_to_swap_shift_and_scale_of_flux_2(tmp_path: Path) -> None:
    """docs/files.md says so; its converter of whole checkpoints does swap them."""
    key = "transformer.norm_out.linear"
    source = adapter({key: SHAPES["Flux2Transformer2DModel"][key]})
    write(tmp_path / "a.safetensors", source, to="diffusers")
    base = layers("Flux2Transformer2DModel")
    file = read_adapter(tmp_path / "a.safetensors", base=base)
    name = "diffusion_model.final_layer.adaLN_modulation.1.lora_"
    a, b = file.tensors(key)
    swapped = {f"{name}A.weight": a, f"{name}B.weight": torch.cat([*reversed(b.chunk(2))])}
    safetensors.torch.save_file(swapped, tmp_path / "b.safetensors")
    require_equal(read_adapter(tmp_path / "b.safetensors", base=base), source)
    theirs = lora_pipeline.Flux2LoraLoaderMixin.lora_state_dict(swapped)
    assert torch.equal(theirs[f"{key}.lora_B.weight"], swapped[f"{name}B.weight"])


def fused(family: str, block: int, *, seed: int = 0) -> dict[str, Tensor]:
    """ComfyUI's q, k and v in one, of a block."""
    width = SHAPES[family]["transformer." + {
        "SD3Transformer2DModel": "transformer_blocks.0.attn.to_q",
        "ZImageTransformer2DModel": "layers.0.attention.to_q",
    }[family]][1]  # fmt: skip
    name = {
        "SD3Transformer2DModel": f"diffusion_model.joint_blocks.{block}.x_block.attn.qkv",
        "ZImageTransformer2DModel": f"diffusion_model.layers.{block}.attention.qkv",
    }[family]
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}.lora_A.weight": torch.randn(4, width, generator=generator),
        f"{name}.lora_B.weight": torch.randn(3 * width, 4, generator=generator),
    }


def split(family: str, block: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of diffusers, each projection by itself."""
    stem = {
        "SD3Transformer2DModel": f"diffusion_model.transformer_blocks.{block}.attn.",
        "ZImageTransformer2DModel": f"diffusion_model.layers.{block}.attention.",
    }[family]
    (a, b) = tensors.values()
    return {
        f"{stem}to_{name}.lora_{factor}.weight": tensor.clone()
        for name, rows in zip("qkv", b.chunk(3), strict=True)
        for factor, tensor in (("A", a), ("B", rows))
    }


@pytest.mark.parametrize("family", ["SD3Transformer2DModel", "ZImageTransformer2DModel"])
def test_fused_and_split_keys_in_one_file(tmp_path: Path, family: str) -> None:
    path = tmp_path / "a.safetensors"
    second = fused(family, 1, seed=1)
    safetensors.torch.save_file(fused(family, 0) | split(family, 1, second), path)
    mixed = read_adapter(path)
    assert len(mixed.layers) == 6
    safetensors.torch.save_file(fused(family, 0) | second, path)
    whole = factors(read_adapter(path))
    safetensors.torch.save_file(fused(family, 0) | split(family, 1, second), path)
    for key, change in factors(mixed).items():
        assert all(map(torch.equal, change, whole[key]))
    # What says the same twice (as Anime-Z's files do) counts once, and another change is refused.
    safetensors.torch.save_file(second | split(family, 1, second), path)
    for key, change in factors(read_adapter(path)).items():
        assert all(map(torch.equal, change, whole[key]))
    safetensors.torch.save_file(fused(family, 1, seed=2) | split(family, 1, second), path)
    with pytest.raises(AdapterError, match="twice"):
        read_adapter(path)


def test_q_k_v_that_kohya_trained_apart_are_each_their_own(tmp_path: Path) -> None:
    """networks.lora_sd3 with split_qkv: ranks side by side, and zeros in the rest of B."""
    width, rank, path = 1536, 2, tmp_path / "a.safetensors"
    parts = [(torch.randn(rank, width), torch.randn(width, rank)) for _ in range(3)]
    name = "lora_unet_joint_blocks_1_context_block_attn_qkv"
    safetensors.torch.save_file(
        {
            f"{name}.lora_down.weight": torch.cat([a for a, _ in parts]),
            f"{name}.lora_up.weight": torch.block_diag(*(b for _, b in parts)),
            f"{name}.alpha": torch.tensor(3.0),
        },
        path,
    )
    file = read_adapter(path)
    for name, (a, b) in zip(("add_q_proj", "add_k_proj", "add_v_proj"), parts, strict=True):
        key = f"{BLOCK}attn.{name}"
        assert file.layers[key].rank == rank and file.layers[key].scale == 0.5  # 3 / the 6 rows
        assert all(map(torch.equal, file.tensors(key), (a, b)))


def test_names_that_several_families_have_need_the_base(tmp_path: Path) -> None:
    """Attention alone, of a width and number of blocks that FLUX.1 and Qwen-Image both have."""
    shapes = some("FluxTransformer2DModel", ".attn.to_out.0")
    path, out = tmp_path / "a.safetensors", tmp_path / "k.safetensors"
    write(path, adapter(shapes), to="diffusers")
    with pytest.raises(AdapterError, match=r"Qwen-Image and FLUX\.1.*--base"):
        convert(path, out, to="kohya")
    # All that has names in one family alone needs none.
    write(path, adapter(some("FluxTransformer2DModel", "to_out.0", "proj_mlp")), to="diffusers")
    convert(path, out, to="kohya")
    assert "lora_unet_double_blocks_0_img_attn_proj.alpha" in safetensors.torch.load_file(out)


def test_tiny_files_of_families_that_mean_different_layers_need_the_base(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(
        {
            "diffusion_model.layers.0.attention.out.lora_A.weight": torch.ones(2, 32),
            "diffusion_model.layers.0.attention.out.lora_B.weight": torch.ones(32, 2),
        },
        path,
    )
    with pytest.raises(AdapterError, match="Z-Image and Lumina 2 call alike"):
        read_adapter(path)
    for family, name in (
        ("ZImageTransformer2DModel", "attention"),
        ("Lumina2Transformer2DModel", "attn"),
    ):
        file = read_adapter(path, base=layers(family, tiny=True))
        assert list(file.layers) == [f"transformer.layers.0.{name}.to_out.0"]


def test_shapes_that_are_not_the_joined_layers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    factors = {
        f"{name}.lora_down.weight": torch.ones(2, 32),
        f"{name}.lora_up.weight": torch.ones(95, 2),
    }
    safetensors.torch.save_file(factors, path)
    with pytest.raises(AdapterError, match="names a layer"):
        read_adapter(path)
    with pytest.raises(AdapterError, match="made for another model"):
        read_adapter(path, base=layers("SD3Transformer2DModel", tiny=True))


PIPELINES = [
    *(("sd3", to) for to in FORMATS),
    *((shape, to) for shape in tiny.FLOW_SHAPES[1:] for to in ("kohya", "comfyui")),
    *((shape, "onetrainer") for shape in ("flux.1", "chroma")),
]


@pytest.mark.parametrize(("shape", "to"), PIPELINES)
def test_a_pipeline_takes_every_layout(tmp_path: Path, shape: str, to: str) -> None:
    """What is added to the weights for an image, and what is fused into them, is what was written;
    text encoders' layers are beside it where the layout has names for them."""
    base = read_model(str(tiny.folder(shape)))
    assert base.layout is not None
    texts = {} if to == "simpletuner" else base.layout.texts
    shapes = {
        key: of
        for key, of in base.shapes.items()
        for part in [key.partition(".")[0]]
        if part == "transformer" or (part in texts and key.endswith((".q_proj", ".fc1", ".wo")))
    }
    source = adapter(shapes, ranks=(2, 3), scales=(0.5,))
    path = place(tmp_path, to)
    write(path, source, to=to, model=base)
    require_equal(read_adapter(path, base=base.layers), source)
    model, changes = tiny.load(shape), factors(source)
    before = {key: weight_of(model, key).double().clone() for key in shapes}
    with applied(model, [AppliedAdapter(path=path, strength=0.5)]):
        for key, (a, b) in changes.items():
            expected = before[key] + 0.5 * (b @ a).reshape(before[key].shape)
            now = weight_of(model, key).double()
            torch.testing.assert_close(now, expected, atol=1e-5, rtol=1e-5)
    (fused,) = convert(path, tmp_path / "whole", to="fused", base=tiny.folder(shape))
    with safetensors.safe_open(
        next((fused / "transformer").glob("*.safetensors")), framework="pt"
    ) as file:
        for key in [key for key in changes if key.startswith("transformer.")]:
            expected = before[key] + (changes[key][1] @ changes[key][0]).reshape(before[key].shape)
            now = file.get_tensor(f"{key.partition('.')[2]}.weight").double()
            torch.testing.assert_close(now, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_and_peft_put_the_same_into_a_real_model(tmp_path: Path, family: str) -> None:
    """A tiny transformer with the file of each, as their own loaders read it."""
    shapes = layers(family, tiny=True).shapes
    # PEFT refuses ranks that the groups of a depthwise convolution do not divide.
    shapes = {key: shape for key, shape in shapes.items() if not key.endswith("conv_depth")}
    source = adapter(shapes, ranks=(2, 3), scales=(0.5, 1.0))
    for to in ("diffusers", "peft"):
        write(place(tmp_path, to), source, to=to)
    torch.manual_seed(0)
    models = [network(family, tiny=True, meta=False) for _ in range(2)]
    before = [{k: v.clone() for k, v in model.state_dict().items()} for model in models]
    models[0].load_lora_adapter(
        str(tmp_path), weight_name="diffusers.safetensors", prefix="transformer"
    )
    models[0].fuse_lora()
    models[0].unload_lora()
    models[1] = PeftModel.from_pretrained(models[1], str(tmp_path / "peft")).merge_and_unload()
    for model, weights in zip(models, before, strict=True):
        for key, (a, b) in factors(source).items():
            name = key.partition(".")[2] + ".weight"
            expected = weights[name].double() + (b @ a).reshape(weights[name].shape)
            now = model.state_dict()[name].double()
            torch.testing.assert_close(now, expected, atol=1e-5, rtol=1e-5)


def weight_of(model: Any, key: str) -> Tensor:
    part, _, module = key.partition(".")
    network = getattr(model.pipe, part)
    for path in (module, f"text_model.{module}"):
        try:
            weight: Tensor = network.get_submodule(path).weight.detach()
            return weight
        except AttributeError:
            continue
    raise KeyError(key)


def damaged(tensors: dict[str, Tensor], chance: random.Random) -> dict[str, Tensor]:
    """One tensor under a changed name, of another shape, or of numbers that are none."""
    key = chance.choice(sorted(tensors))
    value = tensors.pop(key)
    at = chance.randrange(len(key))
    name, other = chance.choice([
        (key.replace("0", chance.choice(["1", "00", "99", "\u00b2", "\u0663"]), 1), value),
        (f"{key[:at]}{chance.choice('._#0a')}{key[at:]}", value),
        (key, value[:1].clone() if value.dim() else value),
        (key, value[..., None, None].clone() if value.dim() == 2 else value),
        (key, torch.full_like(value, float("nan"))),
    ])  # fmt: skip
    return {**tensors, name: other}


def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    chance, path, refused = random.Random(0), tmp_path / "a.safetensors", 0
    for seed in range(200):
        family, to = chance.choice(FAMILIES), chance.choice(list(SPELLED))
        base = layers(family, tiny=True)
        keys = chance.sample(sorted(base.shapes), 6)
        try:
            write(path, adapter({key: base.shapes[key] for key in keys}, seed=seed), to=to)
        except AdapterError:  # names that several families have
            continue
        tensors = safetensors.torch.load_file(path)
        for _ in range(chance.randint(1, 3)):
            tensors = damaged(tensors, chance)
        safetensors.torch.save_file(tensors, path)
        try:
            file = read_adapter(path, base=chance.choice([None, base]))
            for key in file.layers:
                file.factors(key)
        except AdapterError:
            refused += 1
    assert 50 < refused < 200


def test_every_row_is_one_class_of_diffusers() -> None:
    assert sorted(row.transformer for row in LAYOUTS) == sorted(FAMILIES)
    assert layout_of("diffusers:UNet2DConditionModel") is None
