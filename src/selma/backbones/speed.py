"""The same networks in less time: blocks compiled, convolutions in another order of memory.

Adapters need no such setting: those that change weights are folded into them while they are
applied.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from selma.config.networks import BaseConfig
from selma.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

_COMPILERS = ("g++", "clang++", "c++")


def digests(base: BaseConfig) -> Iterator[str]:
    """What the settings add to the base's fingerprint: the last bits of results are others."""
    if base.compile:
        yield "compiled"
    if base.channels_last:
        yield "channels last"


def mistakes(base: BaseConfig, key: str) -> Iterator[str]:
    """What keeps the base from being compiled as the settings say."""
    if not base.compile:
        return
    if base.device == "cpu" and not any(map(shutil.which, _COMPILERS)):
        yield (
            f"{key}.compile: on a CPU PyTorch needs a C++ compiler, and {' or '.join(_COMPILERS)} "
            "is not on the PATH."
        )
    if base.device == "cuda" and find_spec("triton") is None:
        yield f"{key}.compile: on a GPU PyTorch needs the package triton, which is missing."


def make_faster(pipe: Any, base: BaseConfig, denoiser: str) -> None:
    """Change the loaded pipeline as the settings say. Raises ConfigError for a denoiser that names
    no blocks to compile."""
    if base.channels_last:
        for part in (denoiser, "vae"):
            _channels_last(getattr(pipe, part))
    if base.compile:
        import torch

        # Blocks of each width are compiled for drawing and for training, with and without adapters.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        network = getattr(pipe, denoiser)
        for block in _repeated(network):
            block.compile()


def _repeated(network: nn.Module) -> list[nn.Module]:
    """The blocks that the network repeats: compiled once, they serve at every place."""
    # Not every class names them; those that stay on one device of several are the same.
    kinds = ("_repeated_blocks", "_no_split_modules")
    names = next((names for kind in kinds if (names := getattr(network, kind, None))), ())
    found = [block for block in network.modules() if type(block).__name__ in names]
    if not found:
        raise ConfigError(
            f"base.compile: {type(network).__name__} names no repeated blocks, by which it would "
            "be compiled. Set it to false."
        )
    return found


def _channels_last(network: nn.Module) -> None:
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # other weights have no such order
            order = torch.channels_last
            module.weight.data = module.weight.data.contiguous(memory_format=order)
