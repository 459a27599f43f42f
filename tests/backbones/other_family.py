"""A family of another package: straight paths of noise, time from 1 to 0, an output of the other
sign, shifted latents, a packed pipeline, a mask beside the text, and a denoiser called otherwise.

Its networks are tiny.py's with random weights; `build` saves them as a diffusers folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tiny
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from torch import Tensor
from transformers import CLIPTextModel

from selma.backbones.families import stable_diffusion
from selma.backbones.families.conditioning import Conditioning, PromptFeatures
from selma.backbones.families.family import Config

SHIFT, SCALE = 0.25, 0.5
COMPONENT = "transformer"


class StraightPipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """Draws along straight paths with plain classifier-free guidance."""

    model_cpu_offload_seq = f"text_encoder->{COMPONENT}->vae"
    unet_name = COMPONENT

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        transformer: Any,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
        self.register_modules(**parts, **{COMPONENT: transformer}, scheduler=scheduler)
        self.image_processor = VaeImageProcessor(vae_scale_factor=2)

    def encode_prompt(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Mask and features, in that order."""
        read = self.tokenizer(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        ).to(device)
        return read.attention_mask, self.text_encoder(read.input_ids).last_hidden_state

    @torch.no_grad()
    def __call__(
        self,
        *,
        features: PromptFeatures | None = None,
        prompt: list[str] | None = None,
        packed: Tensor,
        height: int,
        width: int,
        generator: Any,
        steps: int,
        cfg: float,
        output_type: str,
    ) -> Any:
        if features is None:
            features = encode_text(self, prompt or [], device=packed.device, guided=cfg > 1)
        denoiser = getattr(self, COMPONENT)
        latents = packed.mT.unflatten(-1, (8, 8))
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            times = t.expand(len(latents))
            velocity = denoise(denoiser, latents, times, features.positive)
            if features.negative is not None:
                empty = denoise(denoiser, latents, times, features.negative)
                velocity = empty + cfg * (velocity - empty)
            latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
        pixels = self.vae.decode(latents / SCALE + SHIFT, return_dict=False)[0]
        return SimpleNamespace(
            images=self.image_processor.postprocess(pixels, output_type=output_type)
        )


def encode_text(
    pipe: Any, texts: Sequence[str], *, device: torch.device, guided: bool
) -> PromptFeatures:
    """Text and, under a name of the family's own, its mask."""

    def side(given: Sequence[str]) -> Conditioning:
        mask, text = pipe.encode_prompt(given, device)
        return Conditioning(text=text, extra={"mask": mask})

    return PromptFeatures(
        positive=side(texts), negative=side([""] * len(texts)) if guided else None
    )


def inputs(prompts: Sequence[str] | PromptFeatures, latents: Tensor) -> dict[str, Any]:
    """The pipeline's arguments, under its own names."""
    given = isinstance(prompts, PromptFeatures)
    return {("features" if given else "prompt"): prompts, "packed": latents.flatten(2).mT}


def sampling(*, steps: int, guidance: float, guidance_rescale: float) -> dict[str, Any]:
    """The pipeline's arguments, under its own names."""
    return {"steps": steps, "cfg": guidance}


@dataclass(frozen=True)
class Straight:
    """x_t = (1 - σ) x0 + σ ε with σ = t / steps; the target is ε - x0."""

    steps: int = 1000

    def to(self, device: torch.device) -> Straight:
        return self

    def times(self, timesteps: Tensor) -> Tensor:
        return timesteps

    def noisy(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        sigma = (timesteps / self.steps).view(-1, 1, 1, 1)
        return (1 - sigma) * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - x0


def denoise(denoiser: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    """The denoiser counts time down from 1, and its output has the other sign."""
    prediction: Tensor = denoiser(
        noisy,
        (1000 - timesteps) / 1000,
        encoder_hidden_states=conditioning.text,
        encoder_attention_mask=conditioning.extra["mask"].bool(),
        return_dict=False,
    )[0]
    return -prediction


def conditioning_shapes(
    denoiser: Config, text_encoder: Config, images: int, dtype: torch.dtype
) -> Conditioning:
    known = stable_diffusion.conditioning_shapes(denoiser, text_encoder, images, dtype)
    return replace(known, extra={"mask": torch.ones(known.text.shape[:2])})


FAMILY = replace(
    stable_diffusion.FAMILY,
    name="straight",
    pipeline="other_family:StraightPipeline",
    component=COMPONENT,
    classes={
        COMPONENT: "diffusers:UNet2DConditionModel",
        "vae": "diffusers:AutoencoderKL",
        "text_encoder": "transformers:CLIPTextModel",
    },
    loading={},
    prediction=lambda scheduler: "flow",
    encode_text=encode_text,
    inputs=inputs,
    sampling=sampling,
    noise_path=lambda scheduler: Straight(),
    normalised=lambda latents, vae: (latents - SHIFT) * SCALE,
    denoise=denoise,
    conditioning_shapes=conditioning_shapes,
)


def build(folder: Path) -> Path:
    """Saves a pipeline of the family."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        words = tiny.tokenizer()
        StraightPipeline(
            vae=tiny.autoencoder(),
            text_encoder=tiny.text_encoder(words, width=32, kind=CLIPTextModel),
            tokenizer=words,
            transformer=tiny._unet(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        ).save_pretrained(folder, safe_serialization=True)
    return folder
