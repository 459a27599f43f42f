"""Stable Diffusion 3 and 3.5: a transformer over text and image, two CLIP text encoders and T5, and
straight lines to noise (arXiv:2403.03206)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from selma.backbones.families import flow, stable_diffusion, stable_diffusion_xl
from selma.backbones.families.conditioning import Conditioning
from selma.backbones.families.family import Config, Family
from selma.config.timesteps import TimestepsConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor


T5_TOKENS = 256
"""Of which the pipeline reads no more, though T5 knows no limit."""


def latent_shape(transformer: Config) -> tuple[int, int, int]:
    """[c, h, w] of one image's latents; patches are the transformer's own affair."""
    side = int(transformer.get("sample_size") or 128)
    return transformer.get("in_channels", 16), side, side


encode_text = partial(stable_diffusion_xl.encode_text, prompt_2=None, prompt_3=None)
"""Of all three encoders; its pipeline must be told of each."""


def feature_widths(pipe: Any) -> tuple[tuple[int, ...], int | None]:
    """The CLIP encoders' side by side; both also pool a vector. T5's tokens follow them."""
    first, second = pipe.text_encoder.config, pipe.text_encoder_2.config
    widths = (int(first.hidden_size), int(second.hidden_size))
    return widths, int(first.projection_dim) + int(second.projection_dim)


def denoise(
    transformer: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning
) -> Tensor:
    """The transformer's velocity."""
    prediction: Tensor = transformer(
        hidden_states=noisy,
        timestep=timesteps,
        encoder_hidden_states=conditioning.text,
        pooled_projections=conditioning.pooled,
        return_dict=False,
    )[0]
    return prediction


def conditioning_shapes(
    transformer: Config, text_encoder: Config, images: int, dtype: torch.dtype
) -> Conditioning:
    """Text features and pooled vectors of these many images."""
    tokens = text_encoder["max_position_embeddings"] + T5_TOKENS
    pooled = int(transformer["pooled_projection_dim"])
    return flow.text_shapes(transformer, text_encoder, images, dtype, tokens=tokens, pooled=pooled)


FAMILY = Family(
    name="stable-diffusion-3",
    pipeline="diffusers:StableDiffusion3Pipeline",
    component="transformer",
    classes={
        "transformer": "diffusers:SD3Transformer2DModel",
        "vae": "diffusers:AutoencoderKL",
        "text_encoder": "transformers:CLIPTextModelWithProjection",
        "text_encoder_2": "transformers:CLIPTextModelWithProjection",
        "text_encoder_3": "transformers:T5EncoderModel",
    },
    tokenizers=("tokenizer", "tokenizer_2"),
    loading={"feature_extractor": None, "image_encoder": None},
    single_file={
        "transformer": ("model.diffusion_model.",),
        "autoencoder": ("first_stage_model.",),
        "text encoder": ("text_encoders.",),
    },
    latent_shape=latent_shape,
    image_factor=stable_diffusion.image_factor,
    text_width=flow.text_width,
    prediction=flow.prediction,
    encode_text=encode_text,
    feature_widths=feature_widths,
    inputs=stable_diffusion.inputs,
    sampling=flow.sampling,
    longest_text=("tokenizer_3", T5_TOKENS),
    noise_path=flow.noise_path,
    moments=stable_diffusion.moments,
    normalised=flow.shifted,
    denoise=denoise,
    timesteps=TimestepsConfig(kind="logit_normal"),  # as the paper trained it
    targets={"attention": flow.JOINT, "attention+ff": (*flow.JOINT, *flow.FORWARD)},
    target_widths=flow.target_widths,
    conditioning_shapes=conditioning_shapes,
)
