"""Sana: linear attention over few, deep latents; a small language model reads the text, which a
long instruction precedes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from selma.backbones.families import flow, stable_diffusion
from selma.backbones.families.conditioning import MASK, Conditioning, PromptFeatures
from selma.backbones.families.family import Config, Family
from selma.config.timesteps import TimestepsConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from selma.backbones.families.paths import NoisePath

TOKENS = 300
TEXT = "caption_channels"
"""Where the config says the width of the text features."""
ATTENTION = tuple(f"attn{n}.{layer}" for n in (1, 2) for layer in flow.ATTENTION)


def latent_shape(transformer: Config) -> tuple[int, int, int]:
    """[c, h, w] of one image's latents."""
    side = int(transformer.get("sample_size") or 32)
    return transformer.get("in_channels", 32), side, side


def image_factor(vae: Config) -> int:
    """Each block of the autoencoder but the last halves the image."""
    return 2 ** (len(vae.get("encoder_block_out_channels") or [0] * 6) - 1)


def target_widths(transformer: Config) -> set[int]:
    """The blocks' width, and that of what they read of the text."""
    return {*flow.target_widths(transformer), int(transformer["cross_attention_dim"])}


def encode_text(
    pipe: Any, texts: Sequence[str], *, device: torch.device, guided: bool, **limit: int
) -> PromptFeatures:
    """The language model's features of the texts behind the pipeline's instruction and, if guided,
    of the empty prompt without it."""
    arguments = inspect.signature(type(pipe).__call__).parameters
    limit = {"max_sequence_length": TOKENS} | limit
    text, mask, empty, empty_mask = pipe.encode_prompt(
        list(texts),
        guided,
        device=device,
        complex_human_instruction=arguments["complex_human_instruction"].default,
        **limit,
    )
    return PromptFeatures(
        positive=Conditioning(text=text, extra={MASK: mask.bool()}),
        negative=Conditioning(text=empty, extra={MASK: empty_mask.bool()}) if guided else None,
    )


def sampling(*, steps: int, guidance: float, guidance_rescale: float) -> dict[str, Any]:
    """The pipeline's arguments; the size is as asked for, and no other that is cut."""
    common = flow.sampling(steps=steps, guidance=guidance, guidance_rescale=guidance_rescale)
    return common | {"use_resolution_binning": False}


def noise_path(scheduler: Config) -> NoisePath:
    """Straight lines at the times of the solver, which calls their shift `flow_shift`."""
    from selma.backbones.families.paths import rectified_flow

    return rectified_flow({"shift": scheduler.get("flow_shift", 1.0)} | dict(scheduler))


def moments(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The images' latents, which have no spread."""
    import torch

    latents = vae.encode(pixels, return_dict=False)[0]
    return latents, torch.full_like(latents, -torch.inf)


def denoise(
    transformer: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning
) -> Tensor:
    """The transformer's velocity, without a spread where it has learnt one."""
    predicted: Tensor = transformer(
        noisy,
        encoder_hidden_states=conditioning.text,
        encoder_attention_mask=flow.mask_of(conditioning),
        timestep=timesteps * transformer.config.timestep_scale,
        return_dict=False,
    )[0]
    return predicted[:, : noisy.shape[1]]


FAMILY = Family(
    name="sana",
    pipeline="diffusers:SanaPipeline",
    component="transformer",
    classes={
        "transformer": "diffusers:SanaTransformer2DModel",
        "vae": "diffusers:AutoencoderDC",
        "text_encoder": "transformers:Gemma2Model",
    },
    tokenizers=("tokenizer",),
    loading={},
    single_file={},
    latent_shape=latent_shape,
    image_factor=image_factor,
    text_width=partial(flow.text_width, key=TEXT),
    prediction=flow.prediction,
    encode_text=encode_text,
    feature_widths=flow.feature_widths,
    inputs=partial(flow.inputs, mask="prompt_attention_mask"),
    sampling=sampling,
    wide_noise=True,
    longest_text=("tokenizer", TOKENS),
    noise_path=noise_path,
    moments=moments,
    normalised=stable_diffusion.normalised,
    denoise=denoise,
    timesteps=TimestepsConfig(kind="logit_normal"),  # as its paper trained it
    targets={"attention": ATTENTION},
    target_widths=target_widths,
    conditioning_shapes=partial(flow.text_shapes, tokens=TOKENS, key=TEXT),
)
