"""What conditions a UNet: OFT's control branch (arXiv:2306.07280) or a ControlNet.

The branch is the released code's without its dead parts: a small encoder of the condition, whose
last convolution starts at zero, added once to the output of the UNet's first convolution. That
reaches the first skip connection, too. Nothing else of the UNet is copied or changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from selma.errors import DataError, ModelError
from selma.image_files import open_image

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

Kind = Literal["branch", "controlnet"]

WIDTHS = (16, 32, 96, 256)
"""Channels of the encoder after each halving, as released."""


def new_network(kind: Kind, unet: UNet2DConditionModel, *, halvings: int, seed: int) -> nn.Module:
    """An untrained network, float32 on the CPU, which does not change any image yet.

    halvings: the autoencoder's factor between an image's and a latent's side is 2 to this power;
    1 to 3. Raises ModelError.
    """
    widths = widths_of(halvings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _built(kind, unet, widths, copied=True).float()


def empty_network(kind: Kind, unet: UNet2DConditionModel, *, halvings: int) -> nn.Module:
    """A network with arbitrary weights, to be loaded from a file."""
    return _built(kind, unet, widths_of(halvings), copied=False).float()


def widths_of(halvings: int) -> tuple[int, ...]:
    """The encoder's channels. Raises ModelError for a number of halvings that it has not."""
    if not 1 <= halvings < len(WIDTHS):
        raise ModelError(
            f"A condition's side must be 2, 4 or 8 times that of the latents, but this base's "
            f"images are {2**halvings} times their latents."
        )
    return WIDTHS[: halvings + 1]


def halvings_of(pipe: Any) -> int:
    """How many times the autoencoder halves an image's side."""
    return int(pipe.vae_scale_factor).bit_length() - 1


class Conditioning:
    """A network that conditions a UNet, and the conditioning images of the current batch."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._images: Tensor | None = None
        self._features: Tensor | None = None

    def show(self, conditioning_images: Tensor) -> None:
        """Condition the UNet on these from now on: [b, 3, h, w] in [0, 1], one for each sample. A
        batch of a multiple of b, such as guidance's two halves, repeats them."""
        weight = next(self.network.parameters())
        self._images, self._features = conditioning_images.to(weight.device, weight.dtype), None

    @contextmanager
    def within(self, unet: UNet2DConditionModel) -> Iterator[None]:
        """Condition the UNet while the block runs."""
        from diffusers import ControlNetModel

        if isinstance(self.network, ControlNetModel):
            hook = unet.register_forward_pre_hook(self._copied, with_kwargs=True)
        else:
            hook = unet.conv_in.register_forward_hook(self._added)
        try:
            yield
        finally:
            hook.remove()
            self._images = self._features = None

    def _added(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """The branch: added once to the first features."""
        features = self._features
        if features is None:
            features = self.network(self._required())
            if not torch.is_grad_enabled():  # the same for all of an image's steps
                self._features = features
        return output + _repeated(features, len(output)).to(output.dtype)

    def _copied(self, unet: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """ControlNet: added to every skip connection, from a copy of the encoder."""
        sample, timestep = args
        dtype = next(self.network.parameters()).dtype
        added = kwargs.get("added_cond_kwargs")
        down, middle = self.network(
            sample.to(dtype),
            timestep,
            encoder_hidden_states=kwargs["encoder_hidden_states"].to(dtype),
            controlnet_cond=_repeated(self._required(), len(sample)),
            added_cond_kwargs=added and {name: value.to(dtype) for name, value in added.items()},
            return_dict=False,
        )
        residuals = {
            "down_block_additional_residuals": tuple(part.to(sample.dtype) for part in down),
            "mid_block_additional_residual": middle.to(sample.dtype),
        }
        return args, {**kwargs, **residuals}

    def _required(self) -> Tensor:
        if self._images is None:
            raise ModelError(
                "The denoiser is conditioned, but was shown no image; call show first."
            )
        return self._images


def read_conditioning_images(paths: Sequence[Path], *, px: int) -> Tensor:
    """Read conditioning images as [b, 3, px, px] in [0, 1]. Raises DataError for a damaged one or
    one of another size."""
    arrays = []
    for path in paths:
        image = open_image(path, max_pixels=px**2)
        if image.size != (px, px):
            raise DataError(f"{path} must be {px}x{px}, the base's size, but is {image.size}.")
        arrays.append(torch.from_numpy(np.array(image)))
    return torch.stack(arrays).permute(0, 3, 1, 2).float() / 255


def _built(
    kind: Kind, unet: UNet2DConditionModel, widths: tuple[int, ...], *, copied: bool
) -> nn.Module:
    if not hasattr(unet, "conv_in") or not hasattr(unet, "down_blocks"):
        raise ModelError(
            "Conditions need a UNet, but this base's denoiser is a "
            f"{type(unet).__name__}. Choose a base of Stable Diffusion's families."
        )
    if kind == "controlnet":
        from diffusers import ControlNetModel

        network: nn.Module = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=widths, load_weights_from_unet=copied
        )
        return network
    # ControlNet's own encoder of conditions is the released branch, layer by layer.
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

    first = unet.config.block_out_channels[0]
    branch: nn.Module = ControlNetConditioningEmbedding(first, block_out_channels=widths)
    return branch


def _repeated(rows: Tensor, count: int) -> Tensor:
    """Repeat the rows up to `count`. Raises ModelError unless it is a multiple of their number."""
    if count % len(rows):
        raise ModelError(f"{count} samples cannot be generated from {len(rows)} conditions.")
    return rows.repeat(count // len(rows), *[1] * (rows.dim() - 1))
