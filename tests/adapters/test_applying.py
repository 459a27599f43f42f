"""Whatever layout a LoRA's file has and whatever command applies it, weights change by the file's
own factors."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from adapters import lora_files
from adapters.lora_files import Layer, Layers, random_layers, weights_by_hand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import selma
from selma import cli
from selma.adapters.applying import applied, chosen
from selma.adapters.converting import convert
from selma.adapters.fusing import fuse
from selma.backbones.families.conditioning import PromptFeatures
from selma.backbones.text_to_image import TextToImage
from selma.config.merged import MergedConfig
from selma.errors import AdapterError
from selma.experts.encoding import encode_pairs
from selma.merged.merging import merge_files
from selma.workspace import Workspace


@dataclass(frozen=True)
class Layout:
    write: Callable[[Layers, Path], Path]
    shapes: tuple[str, ...] = tiny.SHAPES
    alphas: tuple[float | None, ...] = (1.0, 2.0, 4.5)
    paths: tuple[str, ...] = ("",)
    """What the paths of its layers hold, one of them."""
    turned: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    def layers(self, pipe: Any, **options: Any) -> dict[tuple[str, str], Layer]:
        layers = random_layers(pipe, **{"alphas": self.alphas} | self.more | options)
        layers = {k: v for k, v in layers.items() if any(part in k[1] for part in self.paths)}
        return lora_files.with_kernels_of_one(layers) if self.turned else layers


LAYOUTS = {
    "diffusers": Layout(lora_files.diffusers),
    "diffusers, alphas beside": Layout(lora_files.diffusers_with_alphas),
    "diffusers, some alphas missing": Layout(
        lora_files.diffusers_with_alphas, alphas=(1.0, None, 4.5, 2.0)
    ),
    "diffusers, no header": Layout(lora_files.diffusers_of_scale_one, alphas=(None,)),
    "lora.down": Layout(lora_files.lora_down, alphas=(None,)),
    "processors": Layout(
        lora_files.processors,
        alphas=(None,),
        paths=(".attn1.", ".attn2."),
        more={"parts": ("unet",)},
    ),
    "kohya": Layout(lora_files.kohya),
    "kohya, some alphas missing": Layout(lora_files.kohya, alphas=(1.0, None, 4.5, 2.0)),
    "kohya, one rank and alpha": Layout(lora_files.kohya, alphas=(1.0,), more={"ranks": (2,)}),
    "kohya, original names": Layout(lora_files.kohya_sdxl, shapes=("sdxl",)),
    "kohya, original names, one alpha": Layout(
        lora_files.kohya_sdxl, alphas=(1.0,), more={"ranks": (2,)}
    ),
    "comfyui": Layout(lora_files.comfyui),
    "no component": Layout(
        lora_files.of_the_denoiser(""), alphas=(None,), more={"parts": ("unet",)}
    ),
    "peft in one file": Layout(
        lora_files.of_the_denoiser("base_model.model."), alphas=(None,), more={"parts": ("unet",)}
    ),
    "prefixes twice": Layout(
        lora_files.of_the_denoiser("unet.base_model.model.unet."),
        alphas=(None,),
        more={"parts": ("unet",)},
    ),
    "kohya, other kernels": Layout(lora_files.kohya, turned=True),
    "peft": Layout(lora_files.peft),
    "peft, denoiser alone": Layout(lora_files.peft, more={"parts": ("unet",)}),
    "text encoders alone": Layout(
        lora_files.kohya, more={"parts": ("text_encoder", "text_encoder_2")}
    ),
}
READ_BY_DIFFUSERS = {
    *((name, shape) for name in ("diffusers", "diffusers, no header") for shape in tiny.SHAPES),
    *(("kohya, one rank and alpha", shape) for shape in tiny.SHAPES),
    ("kohya, original names, one alpha", "sdxl"),
}
"""What its loader gives the same weights; the lines that `selma generate` prints use no other."""
CASES = [(name, shape) for name, layout in LAYOUTS.items() for shape in layout.shapes]
every_layout = pytest.mark.parametrize(("name", "shape"), CASES)


@cache
def model_of(shape: str) -> TextToImage:
    return tiny.load(shape)


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    """Whatever a test applies, the weights are what they were, bit for bit."""
    yield
    for shape in tiny.SHAPES:
        weights, after = _originals(shape), lora_files.parameters(model_of(shape).pipe)
        assert weights.keys() == after.keys()
        assert all(torch.equal(weights[name], after[name]) for name in weights)


@cache
def _originals(shape: str) -> dict[str, Tensor]:
    return _copies(tiny.load(shape).pipe)


def _copies(pipe: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in lora_files.parameters(pipe).items()}


def same(found: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert found.keys() == right.keys()
    for name, value in right.items():
        near = torch.allclose(found[name].double(), value, atol=1e-6, rtol=1e-6)
        assert near, name  # assert_close takes ten times as long


def changed(model: TextToImage, *files: tuple[Path, float]) -> dict[str, Tensor]:
    """All parameters while the adapters are applied."""
    paths, strengths = [path for path, _ in files], [strength for _, strength in files]
    with applied(model, chosen(paths, strengths)):
        return _copies(model.pipe)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        *((*case, torch.float32) for case in CASES),
        # Eight and sixteen bits are read alike, whatever the model.
        *((*c, t) for c in CASES if c[1] == "sd1" for t in (torch.bfloat16, torch.float8_e4m3fn)),
    ],
)
def test_what_is_drawn_with(tmp_path: Path, name: str, shape: str, dtype: torch.dtype) -> None:
    model, layout = model_of(shape), LAYOUTS[name]
    layers = layout.layers(model.pipe, dtype=dtype)
    path = layout.write(layers, tmp_path)
    plain = weights_by_hand(model.pipe, [])
    for strength in (1.0, -0.7, 0.0):
        right = weights_by_hand(model.pipe, [(layers, strength)])
        same(changed(model, (path, strength)), right)
        moved = sum(not torch.equal(right[n], plain[n]) for n in plain)
        assert moved == (len(layers) if strength else 0)


@every_layout
def test_what_is_fused_merged_and_converted(tmp_path: Path, name: str, shape: str) -> None:
    model, layout, base = model_of(shape), LAYOUTS[name], str(tiny.folder(shape))
    layers = layout.layers(model.pipe)
    path = layout.write(layers, tmp_path)
    right = weights_by_hand(model.pipe, [(layers, 1.0)])
    fused = type(model.pipe).from_pretrained(fuse(path, tmp_path / "fused", base=base))
    same(lora_files.parameters(fused), right)
    for to in ("diffusers", "kohya", "peft"):
        out = tmp_path / to if to == "peft" else tmp_path / f"{to}.safetensors"
        convert(path, out, to=to, base=base)
        same(changed(model, (out, 1.0)), right)
    merged = tmp_path / "merged.safetensors"
    merge_files([path], MergedConfig(method="sum_of_deltas"), merged, weights=[0.4], base=base)
    same(changed(model, (merged, 1.0)), weights_by_hand(model.pipe, [(layers, 0.4)]))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cases=st.lists(st.sampled_from(CASES), min_size=1, max_size=3),
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=7),
    scales=st.lists(st.floats(0.125, 8.0, width=16), min_size=1, max_size=5),
    strengths=st.lists(st.floats(-2.0, 2.0, width=16), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
def test_several_at_once_add_up(
    tmp_path_factory: pytest.TempPathFactory,
    cases: list[tuple[str, str]],
    ranks: list[int],
    scales: list[float],
    strengths: list[float],
    seed: int,
) -> None:
    folder, shape = tmp_path_factory.mktemp("several"), cases[0][1]
    model, files = model_of(shape), []
    for number, (name, _) in enumerate(cases):
        layout = LAYOUTS[name] if shape in LAYOUTS[name].shapes else LAYOUTS["kohya"]
        alphas = (None,) if layout.alphas == (None,) else tuple(scales)
        layers = layout.layers(model.pipe, ranks=ranks, alphas=alphas, seed=seed + number)
        files.append((layers, layout.write(layers, folder / str(number))))
    found = changed(model, *((path, s) for (_, path), s in zip(files, strengths, strict=False)))
    given_files = [(layers, s) for (layers, _), s in zip(files, strengths, strict=False)]
    same(found, weights_by_hand(model.pipe, given_files))


@every_layout
def test_images_are_those_of_weights_changed_by_hand(tmp_path: Path, name: str, shape: str) -> None:
    layout, base, out = LAYOUTS[name], str(tiny.folder(shape)), tmp_path / "image.png"
    layers = layout.layers(model_of(shape).pipe)
    path = layout.write(layers, tmp_path)
    words = ["a cat", "--base", base, "--adapter", path, "--strength", 0.5, "--steps", 3]
    # A second adapter, of another layout and with text encoders.
    other = random_layers(model_of(shape).pipe, seed=1)
    words += ["--adapter", lora_files.diffusers(other, tmp_path / "other"), "--strength", -0.25]
    words += ["--guidance", 3, "--seed", 7, "--out", out]
    result = CliRunner().invoke(cli.app, ["generate", *map(str, words)])
    assert result.exit_code == 0, result.output + str(result.exception)
    lines = result.output.partition("plain diffusers:")[2]
    assert (f"reads {path}" not in result.output) == ((name, shape) in READ_BY_DIFFUSERS)
    by_hand = tiny.load(shape)
    plain = image(by_hand)
    lora_files.add_by_hand(by_hand.pipe, [(layers, 0.5), (other, -0.25)])
    right = image(by_hand)
    assert np.abs(np.asarray(Image.open(out)).astype(int) - right).max() <= 1
    assert np.abs(plain - right).max() > 8, "there is something to see"
    if (name, shape) in READ_BY_DIFFUSERS:
        names: dict[str, Any] = {}
        exec(textwrap.dedent(lines), names)
        assert np.abs(np.asarray(names["image"]).astype(int) - right).max() <= 1


def image(model: TextToImage) -> Any:
    (drawn,) = model.generate(["a cat"], seeds=[7], steps=3, guidance=3.0, batch_size=1)
    return np.asarray(drawn).astype(int)


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_text_encoders_alone_change_the_image(tmp_path: Path, shape: str) -> None:
    model = model_of(shape)
    parts = [p for p in ("text_encoder", "text_encoder_2") if getattr(model.pipe, p, None)]
    plain, images = image(model), []
    for part in parts:
        layers = random_layers(model.pipe, parts=(part,), alphas=(20.0,))
        with applied(model, chosen([lora_files.kohya(layers, tmp_path / part)])):
            images.append(image(model))
        assert np.abs(images[-1] - plain).max() > 4
    assert np.array_equal(image(model), plain)


def test_nothing_is_encoded_for_training_by_changed_encoders(tmp_path: Path) -> None:
    """Encoded pairs are kept by the base's fingerprint, which knows of no adapter."""
    model, folder = model_of("sd1"), Workspace(tmp_path / "run")
    path = lora_files.kohya(random_layers(model.pipe, parts=("text_encoder",)), tmp_path)
    with applied(model, chosen([path])), pytest.raises(AdapterError, match="leave its block"):
        encode_pairs(
            [], folder, skill="cats", flip=False, digests=[], recipe={}, model=lambda: model
        )


def test_a_sur_adapter_gets_the_changed_encoders_features(tmp_path: Path) -> None:
    model, seen = model_of("sd1"), []
    path = lora_files.kohya(random_layers(model.pipe, parts=("text_encoder",)), tmp_path)

    def rewriting(features: PromptFeatures) -> PromptFeatures:
        seen.append(features.positive.text)
        return features

    with model.rewritten(rewriting):
        plain = image(model)
        with applied(model, chosen([path])):
            both = image(model)
            torch.testing.assert_close(
                seen[-1][:1], model.text_features(["a cat"], guided=True).positive.text
            )
    assert not torch.equal(seen[0], seen[1]) and not np.array_equal(plain, both)


FOREIGN = {
    "a layer that the model has not": lambda layers: {
        ("unet", "mid_block.attentions.0.transformer_blocks.9.attn1.to_q"): next(
            iter(layers.values())
        )
    },
    "another shape": lambda layers: {
        key: Layer(layer.a[:, 1:], layer.b, layer.alpha) for key, layer in layers.items()
    },
    "the shape turned round": lambda layers: {
        key: Layer(layer.b.mT.contiguous(), layer.a.mT.contiguous(), layer.alpha)
        for key, layer in layers.items()
        if key[1].endswith(".fc1") or "ff.net.0.proj" in key[1]
    },
    "a kernel where there is none": lambda layers: {
        key: Layer(torch.ones(1, 32, 3, 3), torch.ones(32, 1, 1, 1), 1.0)
        for key in layers
        if key[1].endswith("attn1.to_q")
    },
}


@pytest.mark.parametrize("fault", FOREIGN)
@pytest.mark.parametrize("several", [False, True])
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, fault: str, several: bool) -> None:
    model = model_of("sd1")
    layers = random_layers(model.pipe, parts=("unet", "text_encoder"))
    linear = {key: layer for key, layer in layers.items() if layer.a.dim() == 2}
    path = lora_files.diffusers_of_scale_one(FOREIGN[fault](linear), tmp_path)
    good = lora_files.kohya(layers, tmp_path / "good")
    with pytest.raises(AdapterError, match=r"plain\.safetensors"):
        changed(model, *([(good, 1.0)] if several else []), (path, 1.0))


def test_a_lora_of_two_encoders_does_not_fit_a_model_of_one(tmp_path: Path) -> None:
    path = lora_files.kohya_sdxl(random_layers(model_of("sdxl").pipe), tmp_path)
    with pytest.raises(AdapterError, match=r"kohya-xl\.safetensors changes \d+ layers, of which"):
        changed(model_of("sd1"), (path, 1.0))


def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    """Factors are multiplied and added in float32, whatever the model's type is."""
    model = tiny.load("sd1")
    model.pipe.to(torch.bfloat16)
    layers = random_layers(model.pipe)
    right = weights_by_hand(model.pipe, [(layers, 1.0)])
    found = changed(model, (lora_files.kohya(layers, tmp_path), 1.0))
    ulp = 2.0**-8  # half a unit in the last place, relative, and a hair for float32's own rounding
    for name, value in right.items():
        torch.testing.assert_close(found[name].double(), value, atol=1e-6, rtol=ulp * 1.01)


def test_no_module_has_a_loader_of_diffusers_own() -> None:
    """Two readers of one file would be two meanings of it."""
    for path in Path(selma.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = node.attr if isinstance(node, ast.Attribute) else ""
            assert called not in ("load_lora_weights", "load_lora_adapter", "fuse_lora"), path


@pytest.mark.parametrize("to", ["kohya", "diffusers"])
def test_two_layouts_of_one_adapter_merge_to_it(tmp_path: Path, to: str) -> None:
    model, base = model_of("sd2"), str(tiny.folder("sd2"))
    layers = random_layers(model.pipe)
    turned = lora_files.with_kernels_of_one(layers)
    paths = [
        lora_files.diffusers(layers, tmp_path),
        lora_files.kohya(turned, tmp_path),
        lora_files.peft(layers, tmp_path),
    ]
    out = tmp_path / f"out-{to}.safetensors"
    merge_files(paths, MergedConfig(method="mean_of_deltas"), out, to=to, base=base)
    same(changed(model, (out, 1.0)), weights_by_hand(model.pipe, [(layers, 1.0)]))
    assert safetensors.torch.load_file(out)
