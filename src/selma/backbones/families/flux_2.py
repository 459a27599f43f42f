"""FLUX.2 klein: several layers of a language model read the text, latents are normalised by their
autoencoder's running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from selma.backbones.families import flow, stable_diffusion
from selma.backbones.families.conditioning import Conditioning, PromptFeatures
from selma.backbones.families.family import Config, Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOKENS = 512
LAYERS = 3
"""Of the language model, side by side."""
ATTENTION = (*flow.JOINT, "attn.to_qkv_mlp_proj", "attn.to_out")
FORWARD = ("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out")


def latent_shape(transformer: Config) -> tuple[int, int, int]:
    """[c, h, w] of one image's latents, each of four of the autoencoder's."""
    return transformer.get("in_channels", 128), flow.SIDE // 2, flow.SIDE // 2


def image_factor(vae: Config) -> int:
    """The autoencoder's, and patches of 2 x 2."""
    return 2 * stable_diffusion.image_factor(vae)


def target_widths(transformer: Config) -> set[int]:
    """The blocks' width, and where attention and feed-forward leave a block in one, theirs."""
    (width,) = flow.target_widths(transformer)
    return {width, width + int(width * transformer.get("mlp_ratio", 3.0))}


def encode_text(
    pipe: Any, texts: Sequence[str], *, device: torch.device, guided: bool, **limit: int
) -> PromptFeatures:
    """The language model's features of the texts and, if guided, of the empty prompt."""

    def side(given: Sequence[str]) -> Conditioning:
        return Conditioning(text=pipe.encode_prompt(list(given), device=device, **limit)[0])

    return PromptFeatures(
        positive=side(texts), negative=side([""] * len(texts)) if guided else None
    )


def feature_widths(pipe: Any) -> tuple[tuple[int, ...], int | None]:
    """Of each of the language model's layers."""
    return (int(pipe.text_encoder.config.hidden_size),) * LAYERS, None


def patches(latents: Tensor) -> Tensor:
    """The autoencoder's latents [b, c, h, w] as [b, 4c, h/2, w/2]."""
    from einops import rearrange

    return rearrange(latents, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2)


def moments(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the images' latents, in patches."""
    mean, logvar = stable_diffusion.moments(vae, pixels)
    return patches(mean), patches(logvar)


def normalised(latents: Tensor, vae: Any) -> Tensor:
    """Latents of about zero mean and unit variance, by the statistics of the autoencoder's
    training."""
    mean, variance = (part.view(1, -1, 1, 1) for part in (vae.bn.running_mean, vae.bn.running_var))
    spread = (variance + vae.config.batch_norm_eps).sqrt()
    return (latents - mean.to(latents)) / spread.to(latents)


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Pixels [b, 3, h, w] of latents in patches."""
    from einops import rearrange

    whole = rearrange(latents, "b (c p q) h w -> b c (h p) (w q)", p=2, q=2)
    pixels: Tensor = vae.decode(whole, return_dict=False)[0]
    return pixels


def from_pipeline(vae: Any, latents: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The pipeline's latents are the autoencoder's."""
    return normalised(patches(latents), vae)


def denoise(
    transformer: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning
) -> Tensor:
    """The transformer's velocity."""
    from einops import rearrange
    from torch.nn.functional import pad

    text, height = conditioning.text, noisy.shape[-2]
    places = pad(flow.patch_ids(noisy, patch=1), (0, 1))
    order = text.new_zeros(text.shape[1], 4)
    order[:, 3] = order.new_ones(len(order)).cumsum(0) - 1
    predicted = transformer(
        hidden_states=rearrange(noisy, "b c h w -> b (h w) c"),
        timestep=timesteps / flow.STEPS,
        guidance=None,
        encoder_hidden_states=text,
        txt_ids=order.expand(len(text), -1, -1),
        img_ids=places.expand(len(text), -1, -1),
        return_dict=False,
    )[0]
    return rearrange(predicted, "b (h w) c -> b c h w", h=height)


FAMILY = Family(
    name="flux-2-klein",
    pipeline="diffusers:Flux2KleinPipeline",
    component="transformer",
    classes={
        "transformer": "diffusers:Flux2Transformer2DModel",
        "vae": "diffusers:AutoencoderKLFlux2",
        "text_encoder": "transformers:Qwen3ForCausalLM",
    },
    tokenizers=("tokenizer",),
    loading={},
    single_file={},
    latent_shape=latent_shape,
    image_factor=image_factor,
    text_width=flow.text_width,
    prediction=flow.prediction,
    encode_text=encode_text,
    feature_widths=feature_widths,
    inputs=flow.inputs,
    sampling=flow.sampling,
    from_pipeline=from_pipeline,
    longest_text=("tokenizer", TOKENS),
    noise_path=flow.noise_path,
    moments=moments,
    normalised=normalised,
    decoded=decoded,
    denoise=denoise,
    targets={"attention": ATTENTION, "attention+ff": (*ATTENTION, *FORWARD)},
    target_widths=target_widths,
    conditioning_shapes=partial(flow.text_shapes, tokens=TOKENS),
)
