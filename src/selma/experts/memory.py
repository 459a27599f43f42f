"""What training an expert needs of a device's memory, counted on shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from selma.adapters.table import ADAPTERS
from selma.backbones.memory import (
    DTYPES,
    Need,
    Parts,
    denoised,
    generation_need,
    operations,
    peak,
    straight,
)
from selma.backbones.shape_modes import Shapes
from selma.config.adapters import LoraConfig
from selma.config.experts import DenoisingObjective, ExpertsConfig, TrainingConfig
from selma.config.rewards import RewardedObjective
from selma.experts.losses import denoising_losses
from selma.experts.objectives import OBJECTIVES

MOMENTS = 2
"""Of AdamW, float32, for each trained weight."""


def training_need(parts: Parts, config: ExpertsConfig) -> Need:
    """One step of training: a forward and a backward pass are run on shapes, with the adapter
    attached. Gradients count as fixed: they do not grow with the batch."""
    narrow = None if config.precision == "fp32" else DTYPES[config.precision]
    with _attached(parts, config) as factors:
        if config.gradient_checkpointing:
            parts.denoiser.enable_gradient_checkpointing(partial(_again, narrow=narrow))

        def step(images: int) -> Any:
            _forward_and_back(parts, images)
            for factor in factors:
                factor.grad = None

        rows = OBJECTIVES[config.objective.kind].images(config.objective)
        try:
            first, second = (peak(lambda n=n: step(n * rows), narrow=narrow) for n in (1, 2))  # type: ignore[misc]
        finally:
            parts.denoiser.disable_gradient_checkpointing()
        trained = _trained(factors)
    weights = parts.held(parts.denoiser) if parts.base.offload else parts.weights
    at_once = config.micro_batch_size or config.batch_size
    return Need("training", weights, trained, *straight(first, second), at_once)


def sample_operations(parts: Parts, config: ExpertsConfig) -> int:
    """Floating-point operations of one sample of a training step: forward and backward, and again
    forward where activations are not kept."""
    rows = OBJECTIVES[config.objective.kind].images(config.objective)
    with _attached(parts, config):
        again = 0
        if config.gradient_checkpointing:
            with torch.no_grad():
                again = operations(lambda: denoised(parts, rows))
        return operations(lambda: _forward_and_back(parts, rows)) + again


def _forward_and_back(parts: Parts, images: int) -> None:
    prediction = denoised(parts, images)
    denoising_losses(prediction, torch.empty_like(prediction)).mean().backward()


def rollout_need(parts: Parts, config: ExpertsConfig, objective: RewardedObjective) -> Need:
    """Generating the images that an expert is rewarded for, while it is trained. What rewards them
    comes on top."""
    with _attached(parts, config) as factors:
        trained = _trained(factors)
    need = generation_need(
        parts, objective.images_at_once, guided=parts.family.guided(objective.guidance)
    )
    return replace(need, what="own images", trained=trained)


@contextmanager
def _attached(parts: Parts, config: ExpertsConfig) -> Iterator[list[nn.Parameter]]:
    """While the block runs, the denoiser has the adapter. Yields what is trained of it."""
    kind = ADAPTERS[config.adapter.kind]
    try:
        with torch.device("meta"):
            unused = torch.Generator("cpu")  # shapes draw no numbers
            factors = kind.attach(
                parts.denoiser, config.adapter, generator=unused, targets=parts.family.targets
            )
        yield list(factors.values())
    finally:
        kind.detach(parts.denoiser)


def adapter_size(parts: Parts, config: ExpertsConfig) -> tuple[int, int]:
    """How many weights an adapter has, and how many multiplications make its weight deltas of them,
    as if each layer were as high as wide."""
    with _attached(parts, config) as factors:
        deltas = sum(factor.numel() * max(factor.shape, default=1) for factor in factors) // 2
        return sum(factor.numel() for factor in factors), deltas


def _trained(factors: Sequence[nn.Parameter]) -> int:
    """Bytes of the trained weights and their moments."""
    return (1 + MOMENTS) * sum(factor.nbytes for factor in factors)


def mixture_need(
    parts: Parts, config: ExpertsConfig, training: TrainingConfig, *, experts: int
) -> Need:
    """One step of training a mixture's gates: as a LoRA's of all ranks together, of which factors
    are frozen, and gates, a rank-th of A, are trained."""
    assert isinstance(config.adapter, LoraConfig)
    shared = {name: getattr(training, name) for name in TrainingConfig.model_fields}
    wide = together(config, experts).model_copy(update=shared)
    need = training_need(parts, wide)
    factors = need.trained // (1 + MOMENTS)  # float32, as many bytes of gradients among the fixed
    gates = factors // (2 * config.adapter.rank)
    return replace(
        need,
        what="training the mixture",
        weights=need.weights + factors,
        trained=(1 + MOMENTS) * gates,
        fixed=max(0, need.fixed - factors) + gates,
    )


def mixed_weights(parts: Parts, config: ExpertsConfig, *, experts: int) -> int:
    """Bytes of a mixture's factors, which lie beside the base in its precision."""
    with _attached(parts, together(config, experts)) as factors:
        return sum(factor.numel() for factor in factors) * parts.dtype.itemsize


def together(config: ExpertsConfig, experts: int) -> ExpertsConfig:
    """Settings of an adapter as wide as these experts' together, trained by the paper's loss."""
    assert isinstance(config.adapter, LoraConfig)
    wide = config.adapter.model_copy(update={"rank": config.adapter.rank * experts})
    return config.model_copy(update={"adapter": wide, "objective": DenoisingObjective()})


def advice(parts: Parts, config: ExpertsConfig, need: Need, limit: int) -> list[str]:
    """What to change so that training stays below the limit; the mildest first."""
    changes = []
    if fitting := _micro_batch(config, need.fits(limit)):
        changes.append(f"experts.micro_batch_size: {fitting}")
    if not config.gradient_checkpointing:
        spared = training_need(parts, config.model_copy(update={"gradient_checkpointing": True}))
        if at_once := _micro_batch(config, min(need.images, spared.fits(limit))):
            with_it = f" and experts.micro_batch_size: {at_once}" if at_once < need.images else ""
            changes.append(f"experts.gradient_checkpointing: true{with_it}")
    return changes


def _again(module: nn.Module, *args: Any, narrow: torch.dtype | None) -> Any:
    """As diffusers' own checkpointing; a block is computed again under the mode that it had."""
    return checkpoint(
        module.__call__,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), Shapes(narrow)),
    )


def _micro_batch(config: ExpertsConfig, most: int) -> int:
    """The largest divisor of the batch size up to `most`; 0 if there is none."""
    return max((n for n in range(1, most + 1) if config.batch_size % n == 0), default=0)
