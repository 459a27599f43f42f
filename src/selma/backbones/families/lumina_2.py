"""Lumina-Image 2: one stream of text and image behind a system prompt; its transformer counts time
from noise to image and predicts the velocity that way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from selma.backbones.families import flow, stable_diffusion
from selma.backbones.families.conditioning import MASK, Conditioning, PromptFeatures
from selma.backbones.families.family import Config, Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOKENS = 256
TEXT = "cap_feat_dim"
"""Where the config says the width of the text features."""
ATTENTION = tuple(f"attn.{layer}" for layer in flow.ATTENTION)
FORWARD = ("feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3")


def latent_shape(transformer: Config) -> tuple[int, int, int]:
    """[c, h, w] of one image's latents."""
    side = int(transformer.get("sample_size") or flow.SIDE)
    return transformer.get("in_channels", 16), side, side


def target_widths(transformer: Config) -> set[int]:
    """One width is everywhere."""
    return {int(transformer["hidden_size"])}


def encode_text(
    pipe: Any, texts: Sequence[str], *, device: torch.device, guided: bool, **limit: int
) -> PromptFeatures:
    """The language model's features of the texts behind the system prompt and, if guided, of the
    empty prompt without it."""
    text, mask, empty, empty_mask = pipe.encode_prompt(list(texts), guided, device=device, **limit)
    return PromptFeatures(
        positive=Conditioning(text=text, extra={MASK: mask.bool()}),
        negative=Conditioning(text=empty, extra={MASK: empty_mask.bool()}) if guided else None,
    )


def denoise(
    transformer: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning
) -> Tensor:
    """The velocity from image to noise: the transformer's turned round."""
    predicted: Tensor = transformer(
        hidden_states=noisy,
        timestep=1 - timesteps / flow.STEPS,
        encoder_hidden_states=conditioning.text,
        encoder_attention_mask=flow.mask_of(conditioning),
        return_dict=False,
    )[0]
    return -predicted


def conditioning_shapes(
    transformer: Config, text_encoder: Config, images: int, dtype: torch.dtype
) -> Conditioning:
    """The language model's features of these many images, and masks of which the transformer reads
    the texts' lengths: values, even where nothing else has any."""
    import torch

    known = flow.text_shapes(transformer, text_encoder, images, dtype, tokens=TOKENS, key=TEXT)
    mask = torch.ones(images, TOKENS, dtype=torch.bool, device="cpu")
    return replace(known, extra={MASK: mask})


FAMILY = Family(
    name="lumina-2",
    pipeline="diffusers:Lumina2Pipeline",
    component="transformer",
    classes={
        "transformer": "diffusers:Lumina2Transformer2DModel",
        "vae": "diffusers:AutoencoderKL",
        "text_encoder": "transformers:Gemma2Model",
    },
    tokenizers=("tokenizer",),
    loading={},
    single_file={},
    latent_shape=latent_shape,
    image_factor=stable_diffusion.image_factor,
    text_width=partial(flow.text_width, key=TEXT),
    prediction=flow.prediction,
    encode_text=encode_text,
    feature_widths=flow.feature_widths,
    inputs=partial(flow.inputs, mask="prompt_attention_mask"),
    sampling=flow.sampling,
    longest_text=("tokenizer", TOKENS),
    noise_path=flow.noise_path,
    moments=stable_diffusion.moments,
    normalised=flow.shifted,
    denoise=denoise,
    targets={"attention": ATTENTION, "attention+ff": (*ATTENTION, *FORWARD)},
    target_widths=target_widths,
    conditioning_shapes=conditioning_shapes,
)
