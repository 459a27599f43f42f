"""The kinds of adapters that can be trained, and full fine-tuning: what training asks of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from selma.adapters import full, lora
from selma.adapters.rotations import oft
from selma.backbones.text_to_image import ADAPTER_FILE, FULL_FILE, ROTATION_FILE


def _as_it_is(unet: nn.Module, factors: Mapping[str, nn.Parameter], config: Any) -> None:
    """Nothing has to be put right after a step."""


@dataclass(frozen=True)
class Kind:
    """One row: functions of one module, whose settings are those of its kind."""

    file: str
    """Name of the adapter's file in its folder."""
    attach: Callable[..., dict[str, nn.Parameter]]
    """(unet, settings, generator=...) → the trainable tensors by name, sorted; all else is frozen.
    At first they change nothing."""
    detach: Callable[[Any], None]
    save: Callable[..., None]
    """(path, tensors, settings, lineage=...): a file in which each tensor is "unet." + its name, or
    its name alone."""
    after_step: Callable[[nn.Module, Mapping[str, nn.Parameter], Any], None] = _as_it_is
    """What is done to the tensors after each step."""
    energies: Callable[[nn.Module, Path], dict[str, Any]] | None = None
    """Of a UNet without and with the adapter, where that says something."""


_OFT = Kind(ROTATION_FILE, oft.attach, oft.detach, oft.save, oft.after_step, oft.energies)

KINDS: dict[str, Kind] = {
    "lora": Kind(ADAPTER_FILE, lora.attach, lora.detach, lora.save),
    "oft": _OFT,
    "coft": _OFT,
    "full": Kind(FULL_FILE, full.attach, full.detach, full.save),
}
"""By the `kind` of the adapter's settings."""
