"""Stable Diffusion 1.x and 2.x: a UNet, one CLIP text encoder, DDPM's noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from selma.backbones.families.conditioning import Conditioning, PromptFeatures
from selma.backbones.families.family import Config, Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from selma.backbones.families.paths import NoisePath

SD1: dict[str, Config] = {
    "unet": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "text_encoder": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}  # fmt: skip
"""What decides the layers of SD 1: where a config says no more, the class's defaults are SD 1's."""

SD2: dict[str, Config] = {
    "unet": {
        "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "text_encoder": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
        "num_attention_heads": 16,
    },
}  # fmt: skip

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
GEGLU = "ff.net.0.proj"


def latent_shape(unet: Config) -> tuple[int, int, int]:
    """[c, h, w] of one image's latents."""
    side = int(unet.get("sample_size") or 64)
    return unet.get("in_channels", 4), side, side


def image_factor(vae: Config) -> int:
    """Each block of the autoencoder but the last halves the image."""
    return 2 ** (len(vae.get("block_out_channels") or [0] * 4) - 1)


def text_width(unet: Config) -> int:
    """What cross-attention reads; 0 where it differs from block to block."""
    width = unet.get("cross_attention_dim")
    return width if isinstance(width, int) else 0


def target_widths(unet: Config) -> set[int]:
    """Input widths of the attention's projections."""
    channels, kinds = unet["block_out_channels"], unet["down_block_types"]
    widths = [n for n, kind in zip(channels, kinds, strict=True) if "CrossAttn" in kind]
    return {int(n) for n in (*widths, channels[-1], unet["cross_attention_dim"])}


def prediction(scheduler: Config) -> str:
    """ "epsilon", "v_prediction" or "sample"."""
    return str(scheduler.get("prediction_type", "epsilon"))


def encode_text(
    pipe: Any, texts: Sequence[str], *, device: torch.device, guided: bool
) -> PromptFeatures:
    """Features of the texts and, if guided, of the empty prompt, as the pipeline makes them."""
    text, empty = pipe.encode_prompt(
        prompt=list(texts),
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guided,
    )
    return PromptFeatures(
        positive=Conditioning(text=text), negative=Conditioning(text=empty) if guided else None
    )


def feature_widths(pipe: Any) -> tuple[tuple[int, ...], int | None]:
    """The one encoder's; no vector is pooled."""
    return (int(pipe.text_encoder.config.hidden_size),), None


def inputs(prompts: Sequence[str] | PromptFeatures, latents: Tensor) -> dict[str, Any]:
    """The pipeline's arguments."""
    if not isinstance(prompts, PromptFeatures):
        return {"prompt": list(prompts), "latents": latents}
    positive, negative = prompts.positive, prompts.negative
    named = {
        "prompt_embeds": positive.text,
        "negative_prompt_embeds": negative and negative.text,
        "pooled_prompt_embeds": positive.pooled,
        "negative_pooled_prompt_embeds": negative and negative.pooled,
        "latents": latents,
    }
    return {name: value for name, value in named.items() if value is not None}


def sampling(*, steps: int, guidance: float, guidance_rescale: float) -> dict[str, Any]:
    """The pipeline's arguments."""
    return {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "guidance_rescale": guidance_rescale,
    }


def noise_path(scheduler: Config) -> NoisePath:
    """DDPM's path with the scheduler's betas."""
    from selma.backbones.families.paths import variance_preserving

    return variance_preserving(scheduler, prediction(scheduler))


def moments(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the images' latents."""
    posterior = vae.encode(pixels).latent_dist
    return posterior.mean, posterior.logvar


def normalised(latents: Tensor, vae: Any) -> Tensor:
    """Latents of about unit variance."""
    scaled: Tensor = latents * vae.config["scaling_factor"]
    return scaled


def denoise(unet: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    """The UNet's prediction."""
    prediction: Tensor = unet(
        noisy,
        timesteps,
        encoder_hidden_states=conditioning.text,
        return_dict=False,
    )[0]
    return prediction


def map_sides(unet: Config) -> tuple[int, ...]:
    """Each level halves the latents' side; the middle has the coarsest level's."""
    side = latent_shape(unet)[1]
    down, up = unet["down_block_types"], unet["up_block_types"]
    middle = unet.get("mid_block_type") or ""
    kinds = [*enumerate(down), *enumerate(reversed(up)), (len(down) - 1, middle)]
    levels = sorted({level for level, kind in kinds if "CrossAttn" in kind})
    return tuple(-(-side // 2**level) for level in levels)


def plain_attention() -> Any:
    """Attention as two matrix products."""
    from diffusers.models.attention_processor import AttnProcessor

    return AttnProcessor()


def conditioning_shapes(
    unet: Config, text_encoder: Config, images: int, dtype: torch.dtype
) -> Conditioning:
    """Text features of these many images."""
    import torch

    tokens = text_encoder["max_position_embeddings"]
    return Conditioning(text=torch.empty(images, tokens, text_width(unet), dtype=dtype))


FAMILY = Family(
    name="stable-diffusion",
    pipeline="diffusers:StableDiffusionPipeline",
    component="unet",
    classes={
        "unet": "diffusers:UNet2DConditionModel",
        "vae": "diffusers:AutoencoderKL",
        "text_encoder": "transformers:CLIPTextModel",
    },
    tokenizers=("tokenizer",),
    loading={
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    },
    single_file={
        "UNet": ("model.diffusion_model.",),
        "autoencoder": ("first_stage_model.",),
        "text encoder": ("cond_stage_model.", "conditioner.embedders."),
    },
    released={"SD 1": SD1, "SD 2": SD2},
    latent_shape=latent_shape,
    image_factor=image_factor,
    text_width=text_width,
    prediction=prediction,
    encode_text=encode_text,
    feature_widths=feature_widths,
    inputs=inputs,
    sampling=sampling,
    noise_path=noise_path,
    moments=moments,
    normalised=normalised,
    denoise=denoise,
    map_sides=map_sides,
    plain_attention=plain_attention,
    targets={"attention": ATTENTION, "attention+geglu": (*ATTENTION, GEGLU)},
    target_widths=target_widths,
    conditioning_shapes=conditioning_shapes,
)
