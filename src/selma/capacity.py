"""Whether a run's work fits its device, told from shapes before a weight is loaded."""

from __future__ import annotations

import torch

from selma.backbones.hub import find_device
from selma.backbones.memory import Need, encoding_need, generation_need, parts_of
from selma.config import RunConfig
from selma.config.networks import BaseConfig
from selma.errors import ModelError
from selma.experts.encoding import AT_ONCE
from selma.experts.memory import advice, training_need


def memory(config: RunConfig, limit: int | None = None) -> tuple[list[Need], list[str]]:
    """What each piece of work needs of the device's memory, and what to change where that is more
    than `limit` bytes (None: what the device has; no limit on a CPU). Loads no weights."""
    limit = _device_memory(config.base) if limit is None else limit
    parts = parts_of(config.base)
    images, scores = config.images, config.scores
    guidance = max(images.guidance, scores.guidance or 0)
    needs = [
        generation_need(parts, images.batch_size, guided=guidance > 1),
        encoding_need(parts, AT_ONCE),
        training_need(parts, config.experts),
    ]
    generation, training = needs[0], needs[-1]
    changes = []
    if limit is not None:
        if generation.total > limit and (fewer := generation.fits(limit)):
            changes.append(f"images.batch_size: {fewer}")
        if training.total > limit:
            changes += advice(parts, config.experts, training, limit)
        if any(need.total > limit for need in needs):
            changes += _smaller(config.base)
    return needs, changes


def _smaller(base: BaseConfig) -> list[str]:
    """What makes the whole base smaller."""
    half = ["base.precision: bf16"] if base.precision == "fp32" else []
    return half + ([] if base.offload else ["base.offload: true"])


def _device_memory(base: BaseConfig) -> int | None:
    """Bytes that the run's device has; None for a CPU."""
    device = find_device(base.device, setting="base.device")
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def require_memory(config: RunConfig) -> None:
    """Raises ModelError unless the run fits its device, as far as shapes can tell."""
    limit = _device_memory(config.base)
    if limit is None:
        return
    needs, changes = memory(config, limit)
    if too_much := [need for need in needs if need.total > limit]:
        needed = ", ".join(f"{need.what} about {need.total / 2**30:.1f} GiB" for need in too_much)
        raise ModelError(
            f"The device has {limit / 2**30:.1f} GiB, but {needed} would be needed. Change one or "
            f"more of: {'; '.join(changes)}."
        )
