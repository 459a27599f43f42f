"""The frozen text-to-image model, loaded, and how it generates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from selma.backbones.base_files import base_fingerprint, load_pipeline, require_as_named
from selma.backbones.bases import located, rescale_of
from selma.backbones.families import family_of
from selma.backbones.families.conditioning import Conditioning, PromptFeatures
from selma.backbones.families.family import Family
from selma.backbones.hub import find_device
from selma.backbones.latent_changes import begun, between_steps
from selma.backbones.quantizing import dense, is_quantized
from selma.backbones.quiet import quiet
from selma.backbones.speed import make_faster
from selma.config.networks import BaseConfig
from selma.errors import AdapterError, ConfigError, ModelError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from selma.backbones.families.paths import NoisePath

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
ROTATION_FILE = "rotations.safetensors"
FULL_FILE = "diffusion_pytorch_model.safetensors"
"""An adapter's file in its folder: of LoRA by diffusers' name, of OFT by our own; of a denoiser
that was trained whole by diffusers'."""

IMAGES_AT_ONCE = 8
"""How many images one forward pass on the CPU holds, whatever the batch size is."""


def load_text_to_image(base: BaseConfig) -> TextToImage:
    """The model, on its device, in evaluation mode and without gradients. Raises ModelError."""
    import torch

    quiet("transformers", "diffusers")
    asked, base = base, located(base)
    device = find_device(base.device, setting="base.device")
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[base.precision]
    pipe = load_pipeline(base, dtype)
    require_as_named(asked.model, pipe)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    offload = base.offload and device.type != "cpu"  # the CPU's memory is where it is already
    if offload:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    family = family_of(type(pipe).__name__, model=base.model)
    make_faster(pipe, base, family.component)
    return TextToImage(
        pipe,
        device,
        dtype,
        base_fingerprint(base),
        family,
        offload,
        guidance_rescale=rescale_of(asked),
        asked_px=base.image_px,
    )


Rewriting = Callable[[PromptFeatures], PromptFeatures]


@dataclass(frozen=True)
class Pass:
    """Images that are generated together."""

    texts: Sequence[str]
    steps: int


LatentChange = Callable[["torch.Tensor", "torch.Tensor", int], "torch.Tensor | None"]
"""(latents [b, c, h, w], timestep, number of the step) → what is added before the step; None for
nothing."""
Guide = Callable[[Pass], AbstractContextManager[LatentChange | None]]
"""Guides the denoiser while the block runs, in which the pass's images are generated. Its images
depend on nothing but what those without it do, and on what it knows of their texts."""


@dataclass
class TextToImage:
    """A frozen diffusion model that generates images."""

    pipe: Any
    """The family's pipeline."""
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    family: Family
    offload: bool = False
    """Each network waits in the CPU's memory until it is at work."""
    guidance_rescale: float = 0.0
    """arXiv:2305.08891, equation 16's φ; of no effect without guidance."""
    asked_px: int | None = None
    """Side of the images; None is the base's own."""
    _adapted: bool = False
    _rewriting: Rewriting | None = None
    _guide: Guide | None = None

    @property
    def denoiser(self) -> Any:
        """The network that denoises: the part of the pipeline that the family names."""
        return getattr(self.pipe, self.family.component)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[c, h, w] of one image's latents."""
        vae = self.pipe.vae.config
        return self.family.shape(self.denoiser.config, vae, self.asked_px)

    @property
    def image_px(self) -> int:
        """Side of the square images."""
        return self.latent_shape[1] * self.family.image_factor(self.pipe.vae.config)

    @cached_property
    def tokenizers(self) -> list[Any]:
        parts = (getattr(self.pipe, name, None) for name in self.family.tokenizers)
        return [part for part in parts if part is not None]

    def tokens_cut(self, text: str) -> int:
        """How many tokens of the text lie beyond the limit of the stricter encoder."""
        lengths = (
            len(words(text, truncation=False, verbose=False).input_ids) - words.model_max_length
            for words in self.tokenizers
        )
        return max(0, *lengths)

    def generate(
        self,
        texts: Sequence[str],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        batch_size: int,
        before: Callable[[Sequence[int]], None] | None = None,
    ) -> Iterator[Image.Image]:
        """Images in the order of the texts; each depends on its text, seed, steps and guidance.

        `before` is told, ahead of each pass, the positions of its texts.
        Guidance of 1 or less (in most families) has no unconditional pass. On a CPU the batch size
        changes no pixel; on a GPU it may change the last bit of some; order and resume never do.
        """
        if len(texts) != len(seeds):
            raise ValueError(f"Each text needs one seed, but {len(texts)} and {len(seeds)} came.")
        for count, filled in self.passes(len(texts), batch_size):
            if before is not None:
                before(filled)
            images = self._generate_together(
                [texts[i] for i in filled], [seeds[i] for i in filled], steps, guidance
            )
            yield from images[:count]

    def generate_latents(
        self,
        conditioning: Conditioning,
        empty: Conditioning,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        batch_size: int,
    ) -> Iterator[torch.Tensor]:
        """Latents [c, h, w] as the denoiser knows them, float32 on the CPU, one for each row of the
        prompts' features; otherwise as `generate`. empty: the one row of the empty prompt."""
        for count, filled in self.passes(len(seeds), batch_size):
            positive = conditioning.map(itemgetter(filled))
            guided = self.family.guided(guidance)
            negative = empty.map(itemgetter([0] * len(filled))) if guided else None
            features = PromptFeatures(
                positive=positive.to(self.device).to(self.dtype),
                negative=negative and negative.to(self.device).to(self.dtype),
            )
            latents = self._run(
                features, [seeds[i] for i in filled], steps, guidance, output_type="latent"
            )
            latents = self.family.from_pipeline(self.pipe.vae, latents, self.latent_shape)
            yield from latents[:count].float().cpu()

    def decode(self, latents: Sequence[torch.Tensor], *, batch_size: int) -> Iterator[Image.Image]:
        """The images of latents as the denoiser knows them, each [c, h, w]."""
        import torch

        half = self.dtype is torch.float16  # SDXL's autoencoder overflows in it
        vae, family = self.pipe.vae, self.family
        if half:
            vae.float()
        try:
            for count, filled in self.passes(len(latents), batch_size):
                x = torch.stack([latents[i] for i in filled]).to(self.device, vae.dtype)
                zero = family.normalised(torch.zeros_like(x), vae)
                unit = family.normalised(torch.ones_like(x), vae)
                with torch.no_grad():
                    pixels = family.decoded(vae, (x - zero) / (unit - zero))
                images = self.pipe.image_processor.postprocess(pixels, output_type="np")
                yield from self._images(images)[:count]
        finally:
            if half:
                vae.half()

    def require_unadapted(self) -> None:
        """Raise AdapterError while an adapter is applied: what is encoded then, and kept by the
        base's fingerprint, would not be the base's."""
        if self._adapted:
            raise AdapterError(
                "Samples are encoded by the base's own networks, but an adapter is applied; leave "
                "its block first."
            )

    def parameter(self, name: str) -> torch.nn.Parameter:
        """The parameter of this name below the pipeline, as "unet.conv_in.weight"."""
        part, _, inside = name.partition(".")
        parameter: torch.nn.Parameter = getattr(self.pipe, part).get_parameter(inside)
        return parameter

    def _layer(self, name: str) -> tuple[torch.nn.Module, str]:
        """Of a parameter's name below the pipeline: what its layer lies in, and its name there."""
        part, _, inside = name.removesuffix(".weight").partition(".")
        parent, _, own = inside.rpartition(".")
        return getattr(self.pipe, part).get_submodule(parent), own

    @contextmanager
    def replaced(
        self, changes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]
    ) -> Iterator[None]:
        """While the block runs, each of these parameters, by their names below the pipeline, is
        what its function makes of it in float32. Then all is what it was, bit for bit.

        Adapters of any kind, and several at once: `adapters.applying.applied`.
        """
        if self._adapted:
            raise AdapterError("Only one adapter can be applied at a time; leave the first block.")
        self._adapted = True
        originals: dict[str, torch.Tensor] = {}
        layers: list[tuple[torch.nn.Module, str, torch.nn.Module]] = []
        try:
            for name, change in changes.items():
                parent, own = self._layer(name)
                layer = getattr(parent, own)
                if is_quantized(layer):
                    setattr(parent, own, dense(layer, change, self.dtype))
                    layers.append((parent, own, layer))
                    continue
                weight = self.parameter(name).data
                originals[name] = weight.clone()
                weight.copy_(change(weight.float()))
            yield
        finally:
            for name, value in originals.items():
                self.parameter(name).data.copy_(value)
            for parent, own, layer in layers:
                setattr(parent, own, layer)
            self._adapted = False

    @contextmanager
    def denoiser_alone(self) -> Iterator[None]:
        """While the block runs, the denoiser stays on the device and is never moved; with `offload`
        the other networks wait, and cannot be used."""
        if not self.offload:
            yield
            return
        self.pipe.remove_all_hooks()
        self.pipe.to("cpu", silence_dtype_warnings=True)
        self.denoiser.to(self.device)
        try:
            yield
        finally:
            self.pipe.enable_model_cpu_offload(device=self.device)

    @contextmanager
    def rewritten(self, rewriting: Rewriting) -> Iterator[None]:
        """While the block runs, images are generated from what `rewriting` makes of their text
        features."""
        if self._rewriting is not None:
            raise AdapterError("Text features can be rewritten once only; leave the first block.")
        self._rewriting = rewriting
        try:
            yield
        finally:
            self._rewriting = None

    @contextmanager
    def guided(self, guide: Guide) -> Iterator[None]:
        """While the block runs, each pass of images is generated with this guide."""
        if self._guide is not None:
            raise AdapterError("Only one guide can be applied at a time; leave the first block.")
        self._guide = guide
        try:
            yield
        finally:
            self._guide = None

    def features(self, texts: Sequence[str], *, guided: bool) -> PromptFeatures:
        """Text features that images are generated from: rewritten where they are."""
        features = self.text_features(texts, guided=guided)
        return features if self._rewriting is None else self._rewriting(features)

    def text_features(self, texts: Sequence[str], *, guided: bool) -> PromptFeatures:
        """What the text encoders make of these texts and, if guided, of the empty prompt."""
        return self.family.encode_text(
            self.pipe, texts, device=self.device, guided=guided, **self._text_limit
        )

    @property
    def _text_limit(self) -> dict[str, int]:
        def limit(part: str) -> int | None:
            return getattr(getattr(self.pipe, part, None), "model_max_length", None)

        return self.family.text_limit(limit)

    def noise_path(self) -> NoisePath:
        """How the base was trained to see noise, on its device."""
        return self.family.noise_path(self.pipe.scheduler.config).to(self.device)

    def _rows(self, batch_size: int) -> int:
        if self.device.type != "cpu":
            return batch_size
        _, height, width = self.latent_shape
        return IMAGES_AT_ONCE if height * width <= self.family.shared_pass else 1

    def passes(self, count: int, batch_size: int) -> Iterator[tuple[int, list[int]]]:
        """Of each pass how many of its results count, and the positions of its rows.

        Matrix products of another size round otherwise (measured: 1e-6, enough to turn a pixel by
        one), while within one size each row is independent of the others. So every pass has the
        same size, the last one filled up with copies.
        """
        rows = self._rows(batch_size)
        for start in range(0, count, rows):
            positions = list(range(start, min(start + rows, count)))
            yield len(positions), positions + positions[-1:] * (rows - len(positions))

    def _generate_together(
        self, texts: list[str], seeds: list[int], steps: int, guidance: float
    ) -> list[Image.Image]:
        with (self._guide or _unguided)(Pass(texts, steps)) as change:
            prompts = self._prompts(texts, guidance)
            images = self._run(prompts, seeds, steps, guidance, change=change)
        return self._images(images)

    def _run(
        self,
        prompts: list[str] | PromptFeatures,
        seeds: list[int],
        steps: int,
        guidance: float,
        *,
        output_type: str = "np",
        change: LatentChange | None = None,
    ) -> Any:
        """What the family's pipeline makes of noise by these seeds. Raises ConfigError for more
        steps than the base was trained to tell apart."""
        import torch

        trained = self.pipe.scheduler.config.num_train_timesteps
        if steps > trained:
            raise ConfigError(
                f"The base's noise schedule has {trained} timesteps, so that an image can have as "
                f"many steps, but {steps} were asked for. Set fewer."
            )
        shape = (1, *self.latent_shape)
        # CPU generators, so that every device starts from the same noise.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        latents = torch.cat([torch.randn(shape, generator=g) for g in generators])
        latents = latents.to(self.device)
        if not self.family.wide_noise:
            latents = latents.to(self.dtype)
        if change is not None:
            latents = begun(self.pipe, latents, change, steps=steps)
        family = self.family
        rescale = self.guidance_rescale
        sampling = family.sampling(steps=steps, guidance=guidance, guidance_rescale=rescale)
        return self.pipe(
            **(sampling | family.inputs(prompts, latents)),
            **self._text_limit,
            height=self.image_px,
            width=self.image_px,
            **({} if change is None else {"callback_on_step_end": between_steps(change)}),
            generator=generators,  # goes on to the schedulers that add noise at each step
            output_type=output_type,
        ).images

    def _images(self, images: Any) -> list[Image.Image]:
        """Images of pixels in [0, 1], [b, h, w, 3]."""
        import numpy as np

        if not np.isfinite(images).all():
            raise ModelError(
                f"The model generated pixels that are not finite with {self.dtype}. "
                "Set base.precision to bf16 or fp32."
            )
        pil_images: list[Image.Image] = self.pipe.image_processor.numpy_to_pil(images)
        return pil_images

    def _prompts(self, texts: list[str], guidance: float) -> list[str] | PromptFeatures:
        """The texts, or where features are rewritten, these."""
        import torch

        if self._rewriting is None:
            return texts
        with torch.no_grad():
            return self.features(texts, guided=self.family.guided(guidance))


@contextmanager
def _unguided(images: Pass) -> Iterator[None]:
    """Leave the model as it is."""
    yield
