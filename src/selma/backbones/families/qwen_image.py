"""Qwen-Image: a vision-language model reads the text, a video autoencoder has the images, and
guided predictions keep the length of unguided ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from selma.backbones.families import flow, flux
from selma.backbones.families.conditioning import MASK, Conditioning, PromptFeatures
from selma.backbones.families.family import Config, Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOKENS = 512
EMPTY = " "
"""Its makers' empty prompt."""
FORWARD = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")


def image_factor(vae: Config) -> int:
    """Each level of the autoencoder but the first halves the image."""
    return 2 ** len(vae.get("temperal_downsample") or [0] * 3)  # the library's spelling


def encode_text(
    pipe: Any, texts: Sequence[str], *, device: torch.device, guided: bool, **limit: int
) -> PromptFeatures:
    """The language model's features of the texts and, if guided, of the empty prompt."""
    import torch

    limit = {"max_sequence_length": TOKENS} | limit

    def side(given: Sequence[str]) -> Conditioning:
        text, mask = pipe.encode_prompt(list(given), device=device, **limit)
        if mask is None:
            mask = torch.ones(text.shape[:2], device=text.device)
        return Conditioning(text=text, extra={MASK: mask.bool()})

    return PromptFeatures(
        positive=side(texts), negative=side([EMPTY] * len(texts)) if guided else None
    )


def inputs(prompts: Sequence[str] | PromptFeatures, latents: Tensor) -> dict[str, Any]:
    """The pipeline's arguments; of texts it asks for as many empty ones."""
    named = flow.inputs(prompts, latents, mask="prompt_embeds_mask", pack=flow.packed)
    empty = None if isinstance(prompts, PromptFeatures) else [EMPTY] * len(prompts)
    return named | {"negative_prompt": empty}


def sampling(*, steps: int, guidance: float, guidance_rescale: float) -> dict[str, Any]:
    """The pipeline's arguments, which guides without an empty prompt not at all. Raises ConfigError
    for rescaled guidance: it has its own."""
    common = flow.sampling(steps=steps, guidance=guidance, guidance_rescale=guidance_rescale)
    return {
        "num_inference_steps": common["num_inference_steps"],
        "true_cfg_scale": guidance,
        "negative_prompt": EMPTY,
    }


def moments(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the images' latents: films of one frame."""
    posterior = vae.encode(pixels.unsqueeze(2)).latent_dist
    return posterior.mean.squeeze(2), posterior.logvar.squeeze(2)


def normalised(latents: Tensor, vae: Any) -> Tensor:
    """Latents of about zero mean and unit variance in each channel."""
    mean, std = (
        latents.new_tensor(vae.config[name]).view(1, -1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    scaled: Tensor = (latents - mean) / std
    return scaled


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Pixels [b, 3, h, w] of a film's only frame."""
    pixels: Tensor = vae.decode(latents.unsqueeze(2), return_dict=False)[0].squeeze(2)
    return pixels


def denoise(
    transformer: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning
) -> Tensor:
    """The transformer's velocity."""
    height, width = noisy.shape[-2:]
    predicted = transformer(
        hidden_states=flow.packed(noisy),
        timestep=timesteps / flow.STEPS,
        guidance=None,
        encoder_hidden_states=conditioning.text,
        encoder_hidden_states_mask=flow.mask_of(conditioning),
        img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
        return_dict=False,
    )[0]
    return flow.unpacked(predicted, height)


FAMILY = Family(
    name="qwen-image",
    pipeline="diffusers:QwenImagePipeline",
    component="transformer",
    classes={
        "transformer": "diffusers:QwenImageTransformer2DModel",
        "vae": "diffusers:AutoencoderKLQwenImage",
        "text_encoder": "transformers:Qwen2_5_VLForConditionalGeneration",
    },
    tokenizers=("tokenizer",),
    loading={},
    single_file={},
    latent_shape=flux.latent_shape,
    image_factor=image_factor,
    text_width=flow.text_width,
    prediction=flow.prediction,
    encode_text=encode_text,
    feature_widths=flow.feature_widths,
    inputs=inputs,
    sampling=sampling,
    from_pipeline=flux.from_pipeline,
    pack_line="pipe._pack_latents({0}, 1, {1}, {2}, {3})",
    longest_text=("tokenizer", TOKENS),
    noise_path=flow.noise_path,
    moments=moments,
    normalised=normalised,
    decoded=decoded,
    denoise=denoise,
    targets={"attention": flow.JOINT, "attention+ff": (*flow.JOINT, *FORWARD)},
    target_widths=flow.target_widths,
    conditioning_shapes=partial(flow.text_shapes, tokens=TOKENS),
    shared_pass=0,
)
