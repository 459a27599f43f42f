"""COFT (arXiv:2306.07280): OFT whose rotations are held near the identity, after each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from selma.adapters.rotations.cayley import ball, projected
from selma.adapters.rotations.files import SKEW_ENTRIES
from selma.adapters.rotations.oft import OFT
from selma.config.adapters import CoftConfig


def after_step(
    denoiser: nn.Module, tensors: Mapping[str, nn.Parameter], config: CoftConfig
) -> None:
    """Project rotation parameters back into the ball.

    The released code projects before each forward pass instead, which leaves its last step outside.
    """
    for name, parameter in tensors.items():
        module, _, role = name.rpartition(".")
        if role == SKEW_ENTRIES:
            width = denoiser.get_submodule(module).in_features
            assert isinstance(width, int)
            with torch.no_grad():
                parameter.copy_(projected(parameter, radius_of(config, width)))


def radius_of(config: CoftConfig, width: int) -> float:
    """How large the norm of a block's skew matrix may be in a layer of this input width."""
    blocks = config.blocks_of(width)
    return ball(
        config.eps,
        config.radius,
        size=width // blocks,
        blocks=blocks,
        shared=config.share_blocks,
    )


COFT = replace(OFT, name="coft", settings=CoftConfig, after_step=after_step)
