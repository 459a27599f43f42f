"""Stable Diffusion XL: as Stable Diffusion, with a second text encoder, whose pooled vector the
UNet reads, and with the image's size and crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from selma.backbones.families import stable_diffusion
from selma.backbones.families.conditioning import Conditioning, PromptFeatures
from selma.backbones.families.family import Config, Crop

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SDXL: dict[str, Config] = {
    "unet": {
        "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
    "text_encoder": stable_diffusion.SD1["text_encoder"],
    "text_encoder_2": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
        "num_attention_heads": 20, "projection_dim": 1280,
    },
}  # fmt: skip
"""What decides the layers of SDXL."""

SIZES = 6
"""Numbers about size and crop that the UNet reads."""


def encode_text(
    pipe: Any, texts: Sequence[str], *, device: torch.device, guided: bool, **more: Any
) -> PromptFeatures:
    """Features of the texts and, if guided, of the empty prompt, as the pipeline makes them when
    it is told `more`."""
    text, empty_text, pooled, empty_pooled = pipe.encode_prompt(
        prompt=list(texts),
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guided,
        **more,
    )
    return PromptFeatures(
        positive=Conditioning(text=text, pooled=pooled),
        negative=Conditioning(text=empty_text, pooled=empty_pooled) if guided else None,
    )


def feature_widths(pipe: Any) -> tuple[tuple[int, ...], int | None]:
    """Both encoders', and the second one's pooled vector's."""
    first, second = pipe.text_encoder.config, pipe.text_encoder_2.config
    return (int(first.hidden_size), int(second.hidden_size)), int(second.projection_dim)


def denoise(unet: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    """The UNet's prediction."""
    prediction: Tensor = unet(
        noisy,
        timesteps,
        encoder_hidden_states=conditioning.text,
        added_cond_kwargs={
            "text_embeds": conditioning.pooled,
            "time_ids": conditioning.time_ids,
        },
        return_dict=False,
    )[0]
    return prediction


def with_crops(known: Conditioning, crops: Sequence[Crop]) -> Conditioning:
    """Adds each image's original size, crop and target size (arXiv:2307.01952, section 2.2)."""
    import torch

    sizes = [[c.height, c.width, c.top, c.left, c.image_px, c.image_px] for c in crops]
    return replace(known, time_ids=torch.tensor(sizes, dtype=torch.float32))


def conditioning_shapes(
    unet: Config, text_encoder: Config, images: int, dtype: torch.dtype
) -> Conditioning:
    """Text features, pooled vectors and sizes of these many images."""
    import torch

    pooled = unet["projection_class_embeddings_input_dim"]
    pooled -= SIZES * unet["addition_time_embed_dim"]
    return replace(
        stable_diffusion.conditioning_shapes(unet, text_encoder, images, dtype),
        pooled=torch.empty(images, pooled, dtype=dtype),
        time_ids=torch.empty(images, SIZES),
    )


FAMILY = replace(
    stable_diffusion.FAMILY,
    name="stable-diffusion-xl",
    pipeline="diffusers:StableDiffusionXLPipeline",
    classes={
        **stable_diffusion.FAMILY.classes,
        "text_encoder_2": "transformers:CLIPTextModelWithProjection",
    },
    tokenizers=("tokenizer", "tokenizer_2"),
    released={"SDXL": SDXL},
    loading={"feature_extractor": None, "image_encoder": None, "add_watermarker": False},
    encode_text=encode_text,
    feature_widths=feature_widths,
    denoise=denoise,
    with_crops=with_crops,
    conditioning_shapes=conditioning_shapes,
)
