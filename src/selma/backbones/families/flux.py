"""FLUX.1: CLIP's pooled vector and T5, latents in patches, guidance as an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from selma.backbones.families import flow, stable_diffusion
from selma.backbones.families.conditioning import Conditioning, PromptFeatures
from selma.backbones.families.family import Config, Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOKENS = 512
TRAINED_AT = 1.0
"""The guidance that a training tells a network which is told one: there its velocity is that of the
images, and not one that is drawn towards the text (kohya's choice; diffusers' script has 3.5)."""
FORWARD = (*flow.FORWARD, "proj_mlp", "proj_out")


def latent_shape(transformer: Config) -> tuple[int, int, int]:
    """[c, h, w] of one image's latents; a patch has four."""
    return transformer.get("in_channels", 64) // 4, flow.SIDE, flow.SIDE


def encode_text(
    pipe: Any, texts: Sequence[str], *, device: torch.device, guided: bool, **limit: int
) -> PromptFeatures:
    """T5's features and CLIP's pooled vector of the texts and, if guided, of the empty prompt."""

    def side(given: Sequence[str]) -> Conditioning:
        text, pooled, _ = pipe.encode_prompt(list(given), None, device=device, **limit)
        return Conditioning(text=text, pooled=pooled)

    return PromptFeatures(
        positive=side(texts), negative=side([""] * len(texts)) if guided else None
    )


def feature_widths(pipe: Any) -> tuple[tuple[int, ...], int | None]:
    """T5's, and CLIP's pooled vector's."""
    return (int(pipe.text_encoder_2.config.d_model),), int(pipe.text_encoder.config.hidden_size)


def inputs(prompts: Sequence[str] | PromptFeatures, latents: Tensor) -> dict[str, Any]:
    """The pipeline's arguments; it needs no empty prompt."""
    named = flow.inputs(prompts, latents, pack=flow.packed)
    named.pop("negative_prompt_embeds", None)
    if isinstance(prompts, PromptFeatures):
        named["pooled_prompt_embeds"] = prompts.positive.pooled
    return named


def denoise(
    transformer: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning
) -> Tensor:
    """The transformer's velocity."""
    guidance = None
    if transformer.config.guidance_embeds:
        guidance = timesteps.new_full(timesteps.shape, TRAINED_AT, dtype=noisy.dtype)
    predicted = transformer(
        hidden_states=flow.packed(noisy),
        timestep=timesteps / flow.STEPS,
        guidance=guidance,
        pooled_projections=conditioning.pooled,
        encoder_hidden_states=conditioning.text,
        txt_ids=conditioning.text.new_zeros(conditioning.text.shape[1], 3),
        img_ids=flow.patch_ids(noisy),
        return_dict=False,
    )[0]
    return flow.unpacked(predicted, noisy.shape[-2])


def from_pipeline(vae: Any, latents: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """[b, c, h, w] of the pipeline's patches."""
    return flow.unpacked(latents, shape[1])


def conditioning_shapes(
    transformer: Config, text_encoder: Config, images: int, dtype: torch.dtype
) -> Conditioning:
    """T5's features and CLIP's pooled vectors of these many images."""
    pooled = int(transformer["pooled_projection_dim"])
    return flow.text_shapes(transformer, text_encoder, images, dtype, tokens=TOKENS, pooled=pooled)


FAMILY = Family(
    name="flux",
    pipeline="diffusers:FluxPipeline",
    component="transformer",
    classes={
        "transformer": "diffusers:FluxTransformer2DModel",
        "vae": "diffusers:AutoencoderKL",
        "text_encoder": "transformers:CLIPTextModel",
        "text_encoder_2": "transformers:T5EncoderModel",
    },
    tokenizers=("tokenizer", "tokenizer_2"),
    loading={"feature_extractor": None, "image_encoder": None},
    single_file={},
    latent_shape=latent_shape,
    image_factor=stable_diffusion.image_factor,
    text_width=flow.text_width,
    prediction=flow.prediction,
    encode_text=encode_text,
    feature_widths=feature_widths,
    inputs=inputs,
    sampling=flow.sampling,
    guided=lambda guidance: False,
    from_pipeline=from_pipeline,
    pack_line="pipe._pack_latents({0}, 1, {1}, {2}, {3})",
    longest_text=("tokenizer_2", TOKENS),
    noise_path=flow.noise_path,
    moments=stable_diffusion.moments,
    normalised=flow.shifted,
    denoise=denoise,
    targets={"attention": flow.JOINT, "attention+ff": (*flow.JOINT, *FORWARD)},
    target_widths=flow.target_widths,
    conditioning_shapes=conditioning_shapes,
)
