"""One adapter through every format: the same bits, and the same picture from those who read it."""

import json

import pytest
import safetensors.torch
import tiny
import torch

from selma.adapters import names
from selma.adapters.converting import convert
from selma.adapters.files import OUR_KEY, Lineage
from selma.adapters.formats import Adapter, write
from selma.adapters.fusing import fuse
from selma.adapters.models import read_model
from selma.adapters.reading import LayerFile, read_adapter
from selma.errors import AdapterError, ConfigError

ENDINGS = {
    "unet": (".attn1.to_q", ".attn2.to_k", ".to_out.0", ".ff.net.0.proj", ".proj_in", ".conv1"),
    # Without out_proj diffusers (0.42) passes over a kohya file's other projections in silence.
    "text_encoder": (".q_proj", ".out_proj", ".fc1"),
    "text_encoder_2": (".k_proj", ".out_proj", ".fc2"),
}


def random_adapter(shape, *, components=("unet", *names.TEXTS), ranks=(2,), alphas=(3.0,), seed=0):
    """An adapter with large random factors for layers of the tiny model."""
    model = read_model(str(tiny.folder(shape)))
    torch.manual_seed(seed)
    layers, tensors = {}, {}
    for number, (key, weight) in enumerate(sorted(model.shapes.items())):
        component = names.split(key)[0]
        if component not in components or not key.endswith(ENDINGS[component]):
            continue
        out, *inside = weight
        rank, alpha = ranks[number % len(ranks)], alphas[number % len(alphas)]
        flat = 1
        for side in inside:
            flat *= side
        layers[key] = LayerFile(
            path=None,
            a="",
            b="",
            shape=(out, flat),
            kernel=tuple(inside[1:]) or None,
            rank=rank,
            alpha=alpha,
            dtypes=(torch.float32, torch.float32),
        )
        tensors[key] = (torch.randn(rank, flat), torch.randn(out, rank) * 0.1)
    return Adapter(layers, tensors.__getitem__, Lineage(base="b" * 64), notes={})


def place(folder, to):
    return folder if to == "peft" else folder / f"{to}.safetensors"


def same(one, other, shape):
    """Whether both adapters hold the same bits for the same layers, and the same scales."""
    a, b = read_here(one, shape), read_here(other, shape)
    assert a.layers.keys() == b.layers.keys()
    for key in a.layers:
        assert a.layers[key].scale == b.layers[key].scale
        assert all(map(torch.equal, a.tensors(key), b.tensors(key)))


def read_here(path, shape="sd1"):
    return read_adapter(path, base=read_model(str(tiny.folder(shape))).layers)


@pytest.mark.parametrize("alphas", [(3.0, 2.5), (2.0, 3.0, 4.0)])
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_round_trips_are_exact(tmp_path, shape, alphas):
    base = str(tiny.folder(shape))
    adapter = random_adapter(shape, ranks=(2, 3, 4), alphas=alphas)
    first = tmp_path / "first.safetensors"
    write(first, adapter, to="diffusers")
    for through in ("kohya", "peft", "comfyui", "onetrainer"):
        there = place(tmp_path / through, through)
        convert(first, there, to=through, base=base)
        same(first, there, shape)
        back = tmp_path / f"{through}-back.safetensors"
        convert(there, back, to="diffusers", base=base)
        same(first, back, shape)
    assert (tmp_path / "kohya-back.safetensors").read_bytes() == first.read_bytes()
    alone = random_adapter(shape, ranks=(2, 3, 4), alphas=alphas, components=("unet",))
    write(first, alone, to="diffusers")
    convert(first, tmp_path / "lycoris.safetensors", to="simpletuner", base=base)
    same(first, tmp_path / "lycoris.safetensors", shape)


def latents(pipe):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return pipe(
        prompt="a cat",
        latents=noise,
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="latent",
    ).images


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize(
    ("shape", "ranks", "alphas"),
    [
        *((shape, (2,), (3.0,)) for shape in tiny.SHAPES),
        ("sd1", (2, 3), (2.0, 3.0)),
        ("sdxl", (2, 3), (2.0, 3.0)),
        ("sd2", (2, 3), (3.0, 1.0)),
    ],
)
def test_every_route_draws_one_image(tmp_path, shape, ranks, alphas):
    base = str(tiny.folder(shape))
    adapter = random_adapter(shape, ranks=ranks, alphas=alphas)
    first = tmp_path / "first.safetensors"
    write(first, adapter, to="diffusers")
    plain = latents(tiny.load(shape).pipe)

    fused = tiny.load(shape).pipe.from_pretrained(fuse(first, tmp_path / "fused", base=base))
    fused.set_progress_bar_config(disable=True)
    expected = latents(fused)
    assert (expected - plain).abs().max() > 0.02  # there is something to compare

    direct = tiny.load(shape).pipe
    direct.load_lora_weights(first)
    torch.testing.assert_close(latents(direct), expected, atol=1e-4, rtol=1e-4)

    if len({alpha / rank for alpha, rank in zip(alphas, ranks, strict=True)}) == 1:
        kohya = tmp_path / "kohya.safetensors"
        convert(first, kohya, to="kohya", base=base)
        through_kohya = tiny.load(shape).pipe
        through_kohya.load_lora_weights(kohya)
        torch.testing.assert_close(latents(through_kohya), expected, atol=1e-4, rtol=1e-4)

    convert(first, tmp_path / "peft", to="peft", base=base)
    through_peft = tiny.load(shape).pipe
    load_peft(through_peft, tmp_path / "peft")
    torch.testing.assert_close(latents(through_peft), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("ranks", "alphas"), [((2, 3), (3.0, 1.0)), ((2,), (2.0, 6.0))])
def test_kohya_files_of_several_scales_come_with_a_warning(tmp_path, capsys, ranks, alphas):
    base = str(tiny.folder("sd1"))
    first, kohya = tmp_path / "first.safetensors", tmp_path / "kohya.safetensors"
    write(first, random_adapter("sd1", ranks=ranks, alphas=alphas), to="diffusers")
    capsys.readouterr()
    convert(first, kohya, to="kohya", base=base)
    said = capsys.readouterr().err
    low, high = sorted({alpha / rank for alpha, rank in zip(alphas, ranks * 2, strict=False)})
    assert f"2 different scales (alpha / rank), from {low:g} to {high:g}." in said
    assert said.startswith(f"{kohya}: ") and "diffusers (0.42) misreads" in said
    convert(kohya, tmp_path / "back.safetensors", to="diffusers", base=base)
    write(first, random_adapter("sd1", ranks=(2, 4), alphas=(1.0, 2.0)), to="diffusers")
    convert(first, kohya, to="kohya", base=base)
    assert capsys.readouterr().err == "", "ranks may differ as long as the scale is one"


@pytest.mark.parametrize(("ranks", "alphas"), [((2,), (3.0,)), ((2, 4), (3.0, 6.0))])
def test_kohya_files_of_one_scale_come_without(tmp_path, capsys, ranks, alphas):
    first = tmp_path / "first.safetensors"
    write(first, random_adapter("sd1", ranks=ranks, alphas=alphas), to="diffusers")
    convert(first, tmp_path / "kohya.safetensors", to="kohya", base=str(tiny.folder("sd1")))
    assert "scales" not in capsys.readouterr().err


def load_peft(pipe, folder):
    import peft

    for component in names.components():
        if (folder / component).is_dir():
            model = peft.PeftModel.from_pretrained(getattr(pipe, component), folder / component)
            setattr(pipe, component, model.merge_and_unload())


def test_kohyas_header(tmp_path):
    adapter = random_adapter("sdxl", components=("unet",))
    path = tmp_path / "k.safetensors"
    write(path, adapter, to="kohya", model=read_model(str(tiny.folder("sdxl"))))
    with safetensors.safe_open(path, framework="pt") as file:
        header, keys = file.metadata(), list(file.keys())
    assert "lora_adapter_metadata" not in header  # diffusers refuses it beside alphas
    assert header["ss_base_model_version"] == "sdxl_base_v1-0"
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("2", "3.0")
    assert header["modelspec.sai_model_spec"] == "1.0.1"
    assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert json.loads(header[OUR_KEY])["base"] == "b" * 64
    assert all(key.startswith("lora_unet_") for key in keys)
    assert any("_input_blocks_" in key and key.endswith(".alpha") for key in keys)


def test_equal_adapters_give_equal_bytes(tmp_path):
    for number in (1, 2):
        for to in ("diffusers", "kohya"):
            write(
                tmp_path / f"{to}{number}.safetensors",
                random_adapter("sd1"),
                to=to,
                model=read_model(str(tiny.folder("sd1"))),
            )
    for to in ("diffusers", "kohya"):
        one, two = (tmp_path / f"{to}{number}.safetensors" for number in (1, 2))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types_are_kept(tmp_path, dtype):
    first = tmp_path / "f.safetensors"
    write(first, random_adapter("sd1"), to="diffusers")
    tensors = {k: v.to(dtype) for k, v in safetensors.torch.load_file(first).items()}
    with safetensors.safe_open(first, framework="pt") as file:
        metadata = file.metadata()
    half = tmp_path / "half.safetensors"
    safetensors.torch.save_file(tensors, half, metadata)
    convert(half, tmp_path / "k.safetensors", to="kohya", base=str(tiny.folder("sd1")))
    same(half, tmp_path / "k.safetensors", "sd1")
    assert read_here(tmp_path / "k.safetensors").layers.popitem()[1].dtypes == (dtype, dtype)


OLD = {
    "unet.{0}.attn1.processor.to_q_lora.down.weight": "A",
    "unet.{0}.attn1.processor.to_q_lora.up.weight": "B",
    "unet.{0}.attn1.processor.to_out_lora.down.weight": "A",
    "unet.{0}.attn1.processor.to_out_lora.up.weight": "B",
    "unet.{0}.attn2.to_k.lora.down.weight": "A",
    "unet.{0}.attn2.to_k.lora.up.weight": "B",
    "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight": "A",
    "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.up.weight": "B",
}


def test_older_names_of_diffusers_are_read(tmp_path):
    block = "mid_block.attentions.0.transformer_blocks.0"
    tensors = {
        key.format(block): torch.ones(2, 5) if which == "A" else torch.ones(7, 2)
        for key, which in OLD.items()
    }
    safetensors.torch.save_file(tensors, tmp_path / "old.safetensors")
    assert set(read_here(tmp_path / "old.safetensors").layers) == {
        f"unet.{block}.attn1.to_q",
        f"unet.{block}.attn1.to_out.0",
        f"unet.{block}.attn2.to_k",
        "text_encoder.encoder.layers.0.mlp.fc1",
    }


def test_fused_is_a_format_like_others(tmp_path):
    base, first = tiny.folder("sd1"), tmp_path / "f.safetensors"
    write(first, random_adapter("sd1"), to="diffusers")
    right = fuse(first, tmp_path / "right", base=base)
    assert convert(first, tmp_path / "c", to="fused", base=base) == [tmp_path / "c"]
    files = [path.relative_to(right) for path in right.rglob("*") if path.is_file()]
    assert len(files) > 5
    for file in files:
        assert (tmp_path / "c" / file).read_bytes() == (right / file).read_bytes()
    with pytest.raises(AdapterError, match=r"coft_eps says nothing of .* when it is fused"):
        convert(first, tmp_path / "d", to="fused", base=base, coft_eps=0.1)
    with pytest.raises(AdapterError, match="give --base"):
        convert(first, tmp_path / "d", to="fused")
    with pytest.raises(ConfigError, match="A precision belongs to --to fused"):
        convert(first, tmp_path / "d.safetensors", to="kohya", precision="fp16")
    assert not (tmp_path / "d").exists() and not (tmp_path / "d.safetensors").exists()


def test_what_would_load_nothing_is_refused(tmp_path):
    first = tmp_path / "f.safetensors"
    write(first, random_adapter("sdxl"), to="diffusers")
    with pytest.raises(AdapterError, match="another model"):
        convert(first, tmp_path / "k.safetensors", to="kohya", base=str(tiny.folder("sd1")))
    with pytest.raises(AdapterError, match="--base"):
        unknown = random_adapter("sd1", components=("text_encoder",))
        write(tmp_path / "k.safetensors", unknown, to="kohya")
    with pytest.raises(AdapterError, match="base"):
        fuse(first, tmp_path / "fused", base=None)
    assert not (tmp_path / "k.safetensors").exists()


@pytest.mark.parametrize(
    ("to", "name"), [("kohya", "x.bin"), ("peft", "x.safetensors"), ("a", "b")]
)
def test_places_must_suit_the_format(tmp_path, to, name):
    first = tmp_path / "f.safetensors"
    write(first, random_adapter("sd1"), to="diffusers")
    with pytest.raises(AdapterError):
        convert(first, tmp_path / name, to=to, base=str(tiny.folder("sd1")))
