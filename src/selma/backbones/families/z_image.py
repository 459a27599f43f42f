"""Z-Image: one stream of text and image, whose transformer counts time from noise to image and
predicts the velocity that way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from selma.backbones.families import flow, stable_diffusion
from selma.backbones.families.conditioning import MASK, Conditioning, PromptFeatures
from selma.backbones.families.family import Config, Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOKENS = 512
TEXT = "cap_feat_dim"
"""Where the config says the width of the text features."""
ATTENTION = tuple(f"attention.{layer}" for layer in flow.ATTENTION)
FORWARD = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")


def latent_shape(transformer: Config) -> tuple[int, int, int]:
    """[c, h, w] of one image's latents."""
    return transformer.get("in_channels", 16), flow.SIDE, flow.SIDE


def target_widths(transformer: Config) -> set[int]:
    """One width is everywhere."""
    return {int(transformer["dim"])}


def encode_text(
    pipe: Any, texts: Sequence[str], *, device: torch.device, guided: bool, **limit: int
) -> PromptFeatures:
    """The language model's features of the texts and, if guided, of the empty prompt."""
    positive, negative = pipe.encode_prompt(
        list(texts), device=device, do_classifier_free_guidance=guided, **limit
    )
    return PromptFeatures(
        positive=filled_up(positive), negative=filled_up(negative) if guided else None
    )


def filled_up(rows: Sequence[Tensor]) -> Conditioning:
    """Texts, each [tokens, width], as long as the longest."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    text = pad_sequence(list(rows), batch_first=True)
    mask = torch.arange(text.shape[1], device=text.device) < lengths[:, None]
    return Conditioning(text=text, extra={MASK: mask})


def as_list(known: Conditioning) -> list[Tensor]:
    """The texts, each [tokens, width], without what fills them up."""
    mask = flow.mask_of(known)
    if mask is None:
        return list(known.text)
    return [row[is_text] for row, is_text in zip(known.text, mask, strict=True)]


def inputs(prompts: Sequence[str] | PromptFeatures, latents: Tensor) -> dict[str, Any]:
    """The pipeline's arguments."""
    if not isinstance(prompts, PromptFeatures):
        return {"prompt": list(prompts), "latents": latents}
    negative = [] if prompts.negative is None else as_list(prompts.negative)
    return {
        "prompt_embeds": as_list(prompts.positive),
        "negative_prompt_embeds": negative,
        "latents": latents,
    }


def denoise(
    transformer: Any, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning
) -> Tensor:
    """The velocity from image to noise: the transformer's turned round."""
    import torch

    images = transformer(
        list(noisy.unsqueeze(2)),
        (flow.STEPS - timesteps) / flow.STEPS,
        as_list(conditioning),
        return_dict=False,
    )[0]
    return -torch.stack(list(images)).squeeze(2)


FAMILY = Family(
    name="z-image",
    pipeline="diffusers:ZImagePipeline",
    component="transformer",
    classes={
        "transformer": "diffusers:ZImageTransformer2DModel",
        "vae": "diffusers:AutoencoderKL",
        "text_encoder": "transformers:Qwen3Model",
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
    inputs=inputs,
    sampling=flow.sampling,
    guided=lambda guidance: guidance > 0,  # which its pipeline adds to what the text alone gives
    wide_noise=True,
    longest_text=("tokenizer", TOKENS),
    noise_path=flow.noise_path,
    moments=stable_diffusion.moments,
    normalised=flow.shifted,
    denoise=denoise,
    targets={"attention": ATTENTION, "attention+ff": (*ATTENTION, *FORWARD)},
    target_widths=target_widths,
    conditioning_shapes=partial(flow.text_shapes, tokens=TOKENS, key=TEXT),
    shared_pass=0,
)
