"""What transformers on straight lines to noise have in common: times, patches, padded texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from selma.backbones.families.conditioning import MASK, Conditioning, PromptFeatures
from selma.backbones.families.family import Config

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from selma.backbones.families.paths import NoisePath

SIDE = 128
"""Latents along an image's side, where the pipeline's code says it and no config does."""
STEPS = 1000
"""The transformers' times are shares of so many."""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
JOINT = (
    *(f"attn.{layer}" for layer in ATTENTION),
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
)  # fmt: skip
"""Attention of image and text in one, with layers of its own for each."""
FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
"""What follows it in such a block."""


def prediction(scheduler: Config) -> str:
    """The velocity along the line."""
    return "flow"


def noise_path(scheduler: Config) -> NoisePath:
    """Straight lines at the scheduler's times."""
    from selma.backbones.families.paths import rectified_flow

    return rectified_flow(scheduler)


def shifted(latents: Tensor, vae: Any) -> Tensor:
    """Latents of about zero mean and unit variance."""
    scaled: Tensor = (latents - vae.config["shift_factor"]) * vae.config["scaling_factor"]
    return scaled


def text_width(transformer: Config, *, key: str = "joint_attention_dim") -> int:
    """Of the text features that the transformer reads, which its config says under this key."""
    return int(transformer.get(key) or 0)


def feature_widths(pipe: Any) -> tuple[tuple[int, ...], int | None]:
    """The one encoder's; no vector is pooled."""
    return (int(pipe.text_encoder.config.get_text_config().hidden_size),), None


def target_widths(transformer: Config) -> set[int]:
    """One width is everywhere: heads x their size."""
    return {int(transformer["num_attention_heads"] * transformer["attention_head_dim"])}


def sampling(*, steps: int, guidance: float, guidance_rescale: float) -> dict[str, Any]:
    """The pipeline's arguments. Raises ConfigError for rescaled guidance: it has none."""
    from selma.errors import ConfigError

    if guidance_rescale:
        raise ConfigError(
            "base.guidance_rescale must be 0 for a base on straight lines to noise, whose pipeline "
            f"rescales no guidance, but is {guidance_rescale}."
        )
    return {"num_inference_steps": steps, "guidance_scale": guidance}


def inputs(
    prompts: Sequence[str] | PromptFeatures,
    latents: Tensor,
    *,
    mask: str | None = None,
    pack: Callable[[Tensor], Tensor] = lambda x: x,
) -> dict[str, Any]:
    """The pipeline's arguments.  mask: what it calls the masks of texts, after which tokens are
    left out.  pack: latents as it takes them."""
    if not isinstance(prompts, PromptFeatures):
        return {"prompt": list(prompts), "latents": pack(latents)}
    named: dict[str, Any] = {"latents": pack(latents)}
    for side, known in (("", prompts.positive), ("negative_", prompts.negative)):
        if known is not None:
            named[f"{side}prompt_embeds"] = known.text
            if mask is not None:
                named[f"{side}{mask}"] = known.extra[MASK]
    return named


def mask_of(known: Conditioning) -> Tensor | None:
    """[b, tokens] of booleans, which are text; None where nothing fills up."""
    mask = known.extra.get(MASK)
    return None if mask is None else mask.bool()  # files hold numbers


def packed(latents: Tensor) -> Tensor:
    """[b, c, h, w] as patches of 2 x 2, [b, h/2 * w/2, 4c]."""
    from einops import rearrange

    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpacked(patches: Tensor, height: int) -> Tensor:
    """What `packed` came from, of this height."""
    from einops import rearrange

    return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=height // 2, p=2, q=2)


def patch_ids(latents: Tensor, *, patch: int = 2) -> Tensor:
    """[h/patch * w/patch, 3] of (0, row, column) of each patch."""
    import torch

    rows, columns = (side // patch for side in latents.shape[-2:])
    return torch.cartesian_prod(
        *(torch.arange(n, device=latents.device, dtype=latents.dtype) for n in (1, rows, columns))
    )


def text_shapes(
    transformer: Config,
    text_encoder: Config,
    images: int,
    dtype: torch.dtype,
    *,
    tokens: int,
    key: str = "joint_attention_dim",
    pooled: int | None = None,
) -> Conditioning:
    """Text features of these many images and tokens, and the pooled vectors.  key: as in
    `text_width`."""
    import torch

    width = text_width(transformer, key=key)
    return Conditioning(
        text=torch.empty(images, tokens, width, dtype=dtype),
        pooled=None if pooled is None else torch.empty(images, pooled, dtype=dtype),
    )
