"""What a base needs of a device's memory, counted on shapes alone: no weight is read or computed.

Networks are made from their configs on PyTorch's meta device and really run there, while every
tensor that is alive is counted. Attention is taken as fused: it never holds a matrix of all pairs
of pixels. Workspaces of kernels and fragments come on top (`SLACK`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from selma.backbones import quantizing
from selma.backbones.base_files import base_family, part_config
from selma.backbones.families import FAMILIES
from selma.backbones.families.conditioning import Conditioning
from selma.backbones.families.family import Family
from selma.backbones.published import in_cache, published, published_configs
from selma.backbones.quiet import quiet
from selma.backbones.shape_modes import Live, Operations, Shapes
from selma.config.networks import BaseConfig
from selma.config.section import require_kind
from selma.errors import ModelError
from selma.progress import console

GIB = 1 << 30
SLACK = 1.1
"""Fragments and kernels' workspaces, as a factor."""
CONTEXT = GIB
"""What a CUDA process takes before it holds a tensor."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Need:
    """What one piece of work holds at its worst moment, in bytes."""

    what: str
    weights: int
    """Of the frozen networks that must be there."""
    trained: int
    """Trained weights and the optimizer's moments."""
    fixed: int
    """Of activations and gradients, what does not grow with the batch."""
    each: int
    """Of activations, what each image adds."""
    images: int

    @property
    def total(self) -> int:
        held = self.weights + self.trained + self.fixed + self.each * self.images
        return int(SLACK * held) + CONTEXT

    def fits(self, limit: int) -> int:
        """The largest number of images at once that stays below the limit; 0 if none does."""
        room = (limit - CONTEXT) / SLACK - self.weights - self.trained - self.fixed
        return max(0, int(room // self.each)) if self.each else self.images


@dataclass(frozen=True)
class Computing:
    """What a run's base computes, in floating-point operations."""

    parameters: int
    """Of the denoiser."""
    step: int
    """One denoising step of a benchmark image, both passes where it is guided."""
    image: int
    """All its steps, and the decoder."""
    steps: int
    sample: int
    """A sample of a training step, forward and backward."""


@dataclass(frozen=True, eq=False)
class Parts:
    """A base's networks without weights, on the meta device, in the base's precision. What they
    need is counted once, since rows of a comparison ask the same again and again."""

    family: Family
    denoiser: Any  # of the libraries' classes, whose configs torch's Module does not have
    vae: Any
    text: tuple[Any, ...]
    base: BaseConfig

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.base.precision]

    @property
    def vae_dtype(self) -> torch.dtype:
        """SDXL's own autoencoder is widened where it would overflow."""
        widened = self.dtype is torch.float16 and self.vae.config.get("force_upcast", False)
        return torch.float32 if widened else self.dtype

    @property
    def weights(self) -> int:
        """Bytes of all, or with offload of the largest."""
        frozen = [self.held(network) for network in (self.denoiser, *self.text)]
        each = [held(self.vae), *frozen]
        return max(each) if self.base.offload else sum(each)

    def held(self, network: nn.Module) -> int:
        """Bytes of the weights of the denoiser or a text encoder, quantized where they are."""
        if self.base.quantization is None:
            return held(network)
        linear = [m.weight for m in network.modules() if isinstance(m, nn.Linear)]
        bits = quantizing.BITS[self.base.quantization] * sum(w.numel() for w in linear)
        return held(network) - sum(w.nbytes for w in linear) + bits // 8

    @property
    def latent(self) -> tuple[int, int, int]:
        """[c, h, w] of one image's."""
        return self.family.shape(self.denoiser.config, self.vae.config, self.base.image_px)

    @property
    def image_px(self) -> int:
        return self.latent[1] * self.family.image_factor(self.vae.config)

    def conditioning(self, images: int) -> Conditioning:
        """What the denoiser takes beside latents and timesteps."""
        text = self.text[0].config.to_dict()
        with torch.device("meta"):
            return self.family.conditioning_shapes(self.denoiser.config, text, images, self.dtype)


def parts_of(base: BaseConfig) -> Parts:
    """The base's networks, from their configs alone. Where those of a base by short name are not on
    this machine, its published ones are taken, which is said. Raises ModelError."""
    require_kind(base, BaseConfig, maker="selma.config.networks.base_of(MODEL) makes them.")
    networks = {}
    with _uncollected():
        quiet("diffusers", "transformers")
        family, configs = _configs(base)
        with torch.device("meta"):
            for part, config in configs.items():
                networks[part] = family.network(part, config)
        for network in networks.values():
            network.to(DTYPES[base.precision]).requires_grad_(False).eval()
    text = tuple(networks[part] for part in family.text_encoders if part in networks)
    return Parts(family, networks[family.component], networks["vae"], text, base)


@contextmanager
def _uncollected() -> Iterator[None]:
    """While the block runs, nobody searches for garbage: in what libraries and networks build there
    is next to none, and each search goes through all of it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _configs(base: BaseConfig) -> tuple[Family, dict[str, Mapping[str, Any]]]:
    """The base's family, and each of its networks' config."""
    row = published(base)
    try:
        # Not asked for where they are published: a Hub out of reach is tried for half a minute.
        own = row is not None and base.vae is None and base.revision in (None, row.revision)
        if row is not None and own and not in_cache(row):
            raise ModelError("they are not on this machine.")
        family = base_family(base)
        configs = {part: part_config(base, part) for part in family.classes}
        return family, {part: config for part, config in configs.items() if config}
    except ModelError as error:
        if row is None:
            raise
        _say_once(
            f"{row.name} is taken to have the shapes that were published, since its configs cannot "
            f"be read: {error}"
        )
        return FAMILIES[row.architecture.family], published_configs(row)


@cache
def _say_once(sentence: str) -> None:
    console.print(sentence, style="dim", highlight=False, markup=False, soft_wrap=True)


def held(network: nn.Module) -> int:
    """Bytes of its weights."""
    return sum(weight.nbytes for weight in network.parameters())


@cache
def generation_need(parts: Parts, images: int, *, guided: bool) -> Need:
    """Generating `images` at once: the denoiser twice each where guided, or the decoder, whichever
    needs more."""

    def denoise(count: int) -> Callable[[], Any]:
        return lambda: denoised(parts, (1 + guided) * count)

    def decode(count: int) -> Callable[[], Any]:
        return lambda: decoded(parts, count)

    with torch.no_grad(), widened(parts):
        most = max((_line(run) for run in (denoise, decode)), key=lambda line: sum(line))
    return Need("generating", parts.weights, 0, *most, images)


@cache
def encoding_need(parts: Parts, images: int) -> Need:
    """Encoding `images` of the training set at once; float16 is widened, as `experts` does it."""
    side = parts.image_px
    wide = torch.float32 if parts.dtype is torch.float16 else parts.dtype

    def encode(count: int) -> Callable[[], Any]:
        return lambda: parts.family.moments(
            parts.vae, torch.empty(count, 3, side, side, dtype=wide, device="meta")
        )

    with torch.no_grad(), widened(parts, wide):
        return Need("encoding", parts.weights, 0, *_line(encode), images)


@contextmanager
def widened(parts: Parts, dtype: torch.dtype | None = None) -> Iterator[None]:
    """While the block runs, the autoencoder has the type that it is used in."""
    parts.vae.to(dtype or parts.vae_dtype)
    try:
        yield
    finally:
        parts.vae.to(parts.dtype)


def denoised(parts: Parts, images: int) -> Tensor:
    """The denoiser's output for so many latents, by shape."""
    with torch.device("meta"):
        latents = torch.empty(images, *parts.latent, dtype=parts.dtype)
        timesteps = torch.zeros(images, dtype=torch.long)
    return parts.family.denoise(parts.denoiser, latents, timesteps, parts.conditioning(images))


def decoded(parts: Parts, images: int) -> Tensor:
    """The decoder's output for so many latents, by shape."""
    latents = torch.empty(images, *parts.latent, dtype=parts.vae_dtype, device="meta")
    return parts.family.decoded(parts.vae, latents)


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of this work on shapes, a multiplication and an addition each
    counted as one."""
    with Shapes() as shapes, Operations() as counter:
        work()
    return counter.total + shapes.operations


@cache
def image_operations(parts: Parts, *, steps: int, guided: bool) -> tuple[int, int]:
    """Of one denoising step of one image, and of the whole image, decoded."""
    with torch.no_grad(), widened(parts):
        step = (1 + guided) * operations(lambda: denoised(parts, 1))
        return step, steps * step + operations(lambda: decoded(parts, 1))


@cache
def encoding_operations(parts: Parts) -> int:
    """Of an image's latents, where they are encoded by themselves."""
    side = parts.image_px
    with torch.no_grad(), widened(parts):
        image = torch.empty(1, 3, side, side, dtype=parts.vae_dtype, device="meta")
        return operations(lambda: parts.family.moments(parts.vae, image))


def _line(work: Callable[[int], Callable[[], Any]]) -> tuple[int, int]:
    """Peak bytes as a part that is fixed and one for each image."""
    return straight(peak(work(1)), peak(work(2)))


def straight(first: int, second: int) -> tuple[int, int]:
    """(fixed, each) of the line through what one and two images need."""
    each = second - first
    return max(0, first - each), each


def peak(work: Callable[[], Any], *, narrow: torch.dtype | None = None) -> int:
    """The most bytes that the work holds at once, beside what was there before."""
    with Shapes(narrow), Live() as live:
        work()
    return live.peak
