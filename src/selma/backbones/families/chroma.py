"""Chroma: FLUX.1 without CLIP, with masked texts and guidance by the empty prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from selma.backbones.families import flow, flux
from selma.backbones.families.conditioning import MASK, Conditioning, PromptFeatures
from selma.config.timesteps import TimestepsConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def encode_text(
    pipe: Any, texts: Sequence[str], *, device: torch.device, guided: bool, **limit: int
) -> PromptFeatures:
    """T5's features of the texts and, if guided, of the empty prompt. Masks are numbers, as the
    pipeline has them, which its attention adds."""
    text, _, mask, empty, _, empty_mask = pipe.encode_prompt(
        list(texts), [""] * len(texts), device=device, do_classifier_free_guidance=guided, **limit
    )
    return PromptFeatures(
        positive=Conditioning(text=text, extra={MASK: mask}),
        negative=Conditioning(text=empty, extra={MASK: empty_mask}) if guided else None,
    )


def denoise(
    transformer: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning
) -> Tensor:
    """The transformer's velocity."""
    import torch

    patches = flow.packed(noisy)
    mask = conditioning.extra.get(MASK)
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(patches.shape[:2])], dim=1)
    predicted = transformer(
        hidden_states=patches,
        timestep=timesteps / flow.STEPS,
        encoder_hidden_states=conditioning.text,
        txt_ids=conditioning.text.new_zeros(conditioning.text.shape[1], 3),
        img_ids=flow.patch_ids(noisy),
        attention_mask=mask,
        return_dict=False,
    )[0]
    return flow.unpacked(predicted, noisy.shape[-2])


FAMILY = replace(
    flux.FAMILY,
    name="chroma",
    pipeline="diffusers:ChromaPipeline",
    classes={
        "transformer": "diffusers:ChromaTransformer2DModel",
        "vae": "diffusers:AutoencoderKL",
        "text_encoder": "transformers:T5EncoderModel",
    },
    tokenizers=("tokenizer",),
    encode_text=encode_text,
    feature_widths=flow.feature_widths,
    inputs=partial(flow.inputs, mask="prompt_attention_mask", pack=flow.packed),
    guided=lambda guidance: guidance > 1,
    longest_text=("tokenizer", flux.TOKENS),
    denoise=denoise,
    timesteps=TimestepsConfig(kind="logit_normal"),  # kohya's "sigmoid"
    conditioning_shapes=partial(flow.text_shapes, tokens=flux.TOKENS),
)
