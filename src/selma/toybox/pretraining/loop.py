"""The resumable training loop that every part of toybox is pre-trained with.

Batches are a function of the seed and the step alone, so a resumed run sees what it would have
seen. A checkpoint is one safetensors file, written aside and renamed.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from selma.disk import make_way
from selma.errors import ModelError
from selma.progress import console, progress
from selma.toybox import WORLD


@dataclass
class Course:
    """What is trained, on what loss, for how long."""

    name: str
    model: nn.Module
    loss: Callable[[int], Tensor]
    """Scalar loss of the batch that belongs to a step (0-based)."""
    steps: int
    learning_rate: float
    draws: Mapping[str, int] = field(default_factory=dict)
    """What the loss makes its batches of, seed and size say; here it tells courses apart."""
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float | None = None
    """None is off. Otherwise the averaged weights are what `train` leaves in the model."""
    max_grad_norm: float = 1.0
    checkpoint_every: int = 250
    snapshot_every: int | None = None
    """Keep the averaged weights of every so many steps, as half-precision files beside the
    checkpoint; None keeps none."""
    limit_s: float | None = None
    """Stop after this long, at a checkpoint that a later run continues from; None is no limit."""

    def recipe(self) -> dict[str, Any]:
        """All that a checkpoint of this course rests on, beside the code."""
        names = (
            "steps", "learning_rate", "warmup_steps", "weight_decay", "ema_decay", "max_grad_norm",
        )  # fmt: skip
        return {"world": WORLD, **self.draws} | {name: getattr(self, name) for name in names}


def train(course: Course, folder: Path) -> dict[str, float]:
    """Trains in place and returns {"steps", "of_steps", "loss", "seconds"}; continues from `folder`
    if it holds a checkpoint of this course. Raises ModelError if it is another course's."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in course.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=course.learning_rate,
        weight_decay=course.weight_decay,
        betas=(0.9, 0.99),
        fused=True,
    )
    average = [p.detach().clone() for p in parameters] if course.ema_decay else None
    path = folder / f"{course.name}.safetensors"
    step, seconds, smoothed = _restore(path, course, optimizer, parameters, average)
    started = time.monotonic()
    with progress(course.name, total=course.steps, done=step) as advance:
        while step < course.steps and not _late(started, course):
            for group in optimizer.param_groups:
                group["lr"] = course.learning_rate * _schedule(step, course)
            loss = course.loss(step)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, course.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if average is not None and course.ema_decay is not None:
                # The short memory at the start keeps the random initial weights out of it.
                decay = min(course.ema_decay, (1 + step) / (10 + step))
                with torch.no_grad():
                    torch._foreach_lerp_(average, list[Tensor](parameters), 1 - decay)
            if average is not None and course.snapshot_every and not step % course.snapshot_every:
                _save_snapshot(folder / f"{course.name}-{step}.safetensors", course.model, average)
            value = loss.item()
            smoothed = value if math.isnan(smoothed) else 0.98 * smoothed + 0.02 * value
            advance(note=f"loss {smoothed:.4f}")
            last = step == course.steps or _late(started, course)
            if step % course.checkpoint_every == 0 or last:
                spent = seconds + time.monotonic() - started
                state = {"step": step, "seconds": spent, "loss": smoothed}
                _save(path, course, optimizer, parameters, average, state)
                console.print(f"{course.name} {step}/{course.steps} loss {smoothed:.4f}")
    if average is not None:
        with torch.no_grad():
            for parameter, mean in zip(parameters, average, strict=True):
                parameter.copy_(mean)
    return {
        "steps": step,
        "of_steps": course.steps,
        "loss": smoothed,
        "seconds": round(seconds + time.monotonic() - started, 1),
    }


def _late(started: float, course: Course) -> bool:
    return course.limit_s is not None and time.monotonic() - started >= course.limit_s


def _schedule(step: int, course: Course) -> float:
    """Linear warm-up, constant, and a linear fall to a tenth over the last third."""
    if step < course.warmup_steps:
        return (step + 1) / course.warmup_steps
    fall_from = course.steps * 2 // 3
    if step < fall_from:
        return 1.0
    return 1.0 - 0.9 * (step - fall_from) / max(1, course.steps - fall_from)


def _save(
    path: Path,
    course: Course,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    average: list[Tensor] | None,
    state: dict[str, float],
) -> None:
    tensors = {f"model.{k}": v.detach().contiguous() for k, v in course.model.state_dict().items()}
    for index, parameter in enumerate(parameters):
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{index}.{key}"] = value.detach().contiguous()
        if average is not None:
            tensors[f"average.{index}"] = average[index].contiguous()
    aside = path.with_suffix(".partial")
    make_way(path, aside)
    metadata = {"state": json.dumps(state), "recipe": json.dumps(course.recipe())}
    save_file({k: v.clone() for k, v in tensors.items()}, aside, metadata=metadata)
    os.replace(aside, path)


def _save_snapshot(path: Path, model: nn.Module, average: list[Tensor]) -> None:
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    aside = path.with_suffix(".partial")
    make_way(path, aside)
    save_file({k: v.half().contiguous() for k, v in zip(names, average, strict=True)}, aside)
    os.replace(aside, path)


def _restore(
    path: Path,
    course: Course,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    average: list[Tensor] | None,
) -> tuple[int, float, float]:
    """(step, seconds spent, loss) of the checkpoint that was loaded; (0, 0.0, NaN) if there is
    none."""
    if not path.exists():
        return 0, 0.0, math.nan
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    held, wanted = json.loads(metadata.get("recipe", "{}")), course.recipe()
    differing = [f"{k} {held.get(k)} instead of {v}" for k, v in wanted.items() if held.get(k) != v]
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    try:
        if differing:
            raise RuntimeError(", ".join(differing))
        course.model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{path} must hold a checkpoint of this course, but it is of another one: {error}. "
            "Move the file away to train from nothing."
        ) from error
    for index, parameter in enumerate(parameters):
        prefix = f"optimizer.{index}."
        optimizer.state[parameter] = {
            key.removeprefix(prefix): value.to(parameter.device)
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
        if average is not None:
            average[index].copy_(tensors[f"average.{index}"])
    state = json.loads(metadata["state"])
    return state["step"], state["seconds"], state["loss"]
