"""Latents that are changed before each step, through what diffusers' pipelines offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from selma.backbones.text_to_image import LatentChange


def begun(pipe: Any, latents: Tensor, change: LatentChange, *, steps: int) -> Tensor:
    """The noise that a pipeline is to start from, so that its first step begins as changed.

    The pipeline multiplies noise by its scheduler's first deviation, and has no call before its
    first step.
    """
    scheduler = pipe.scheduler
    scheduler.set_timesteps(steps, device=latents.device)
    deviation = scheduler.init_noise_sigma
    added = change(latents * deviation, scheduler.timesteps[0], 0)
    return latents if added is None else latents + added / deviation


def between_steps(change: LatentChange) -> Callable[..., dict[str, Any]]:
    """What a pipeline calls after each step, so that the next one begins as changed."""

    def call(pipe: Any, step: int, timestep: Tensor, state: dict[str, Any]) -> dict[str, Any]:
        latents, coming = state["latents"], step + 1
        if coming < len(pipe.scheduler.timesteps):
            added = change(latents, pipe.scheduler.timesteps[coming], coming)
            latents = latents if added is None else latents + added
        return {"latents": latents}

    return call
