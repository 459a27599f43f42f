"""AdamW with its schedule of learning rates and, in fp16, a loss scaler."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor, nn

from selma.config.experts import TrainingConfig
from selma.errors import ConfigError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Optimization:
    """All that a training's next step depends on beside the weights."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], config: TrainingConfig, *, device: torch.device
    ) -> None:
        self.parameters = list(parameters)
        self.max_norm = config.max_grad_norm or math.inf
        self.device = device
        self.deterministic = config.deterministic and device.type == "cuda"
        self.dtype = DTYPES.get(config.precision)
        """Of autocast; None computes in float32."""
        self.foreach = device.type == "cpu" or None
        """All parameters at once: on a CPU the same bits in half the time, on a GPU the default."""
        self.adamw = torch.optim.AdamW(
            self.parameters,
            foreach=self.foreach,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )
        self.rates = get_scheduler(
            _schedule_name(config),
            self.adamw,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=config.steps,
        )
        self.scaler = torch.amp.GradScaler("cuda") if config.precision == "fp16" else None
        self.bad_in_a_row = 0
        """How many steps up to now had a loss or gradient that is not finite."""
        self.decay, self.followed = config.ema_decay, 0
        self.averages = [p.detach().clone() for p in self.parameters] if self.decay else []
        """Moving averages of the parameters, in their order; none unless the settings ask."""

    @property
    def learning_rate(self) -> float:
        """The next step's."""
        return float(self.rates.get_last_lr()[0])

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass, by the settings' precision."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """While the block runs, a GPU computes by algorithms that leave equal bits each time, if
        the settings ask. Raises ConfigError where one of the base's layers has none."""
        if not self.deterministic:
            yield
            return
        before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        )
        # Warnings would not do: attention's backward pass then stays as it is.
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            raise ConfigError(
                "experts.deterministic is true, but the base needs an algorithm that differs from "
                f"run to run: {error} Set experts.deterministic to false."
            ) from error
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the parameters'."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, loss: float) -> tuple[float, bool]:
        """The gradients' norm before clipping, and whether the weights may have changed; then the
        gradients are gone and the learning rate is the next one.

        loss: that of the gradients. A step is not taken if it or the norm is not finite.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.adamw)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.max_norm, foreach=self.foreach))
        taken = self.scaler is not None or (math.isfinite(loss) and math.isfinite(norm))
        if self.scaler is not None:
            self.scaler.step(self.adamw)  # skips a bad step by itself, and learns from it
            self.scaler.update()
        elif taken:
            self.adamw.step()
        self.adamw.zero_grad()
        self.bad_in_a_row = self.bad_in_a_row + 1 if self._is_bad(loss, norm) else 0
        with warnings.catch_warnings():
            # PyTorch warns if the first step was a skipped one; that is what we mean.
            warnings.filterwarnings("ignore", message="Detected call of")
            self.rates.step()
        return norm, taken

    def follow(self) -> None:
        """Let the averages follow the parameters after a step was taken. The first steps weigh
        more, so that where training began is soon forgotten."""
        if self.decay is None:
            return
        self.followed += 1
        decay = min(self.decay, self.followed / (self.followed + 9))
        with torch.no_grad():
            for average, parameter in zip(self.averages, self.parameters, strict=True):
                average.lerp_(parameter, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[list[Tensor]]:
        """While the block runs, the parameters are their averages, if there are any; yields what
        they were without."""
        raw = [parameter.detach().clone() for parameter in self.parameters] if self.averages else []
        for parameter, average in zip(self.parameters, self.averages, strict=False):
            parameter.data.copy_(average)
        try:
            yield raw
        finally:
            for parameter, values in zip(self.parameters, raw, strict=False):
                parameter.data.copy_(values)

    def state(self) -> dict[str, Any]:
        """What `load` takes, as JSON; AdamW's moments are tensors and kept by themselves."""
        followed = {} if self.decay is None else {"followed": self.followed}
        return {
            **followed,
            "rates": self.rates.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "bad": self.bad_in_a_row,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on as `state` was."""
        self.rates.load_state_dict(state["rates"])
        for group, rate in zip(self.adamw.param_groups, self.rates.get_last_lr(), strict=True):
            group["lr"] = rate  # a restored schedule does not hand its rate on by itself
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.bad_in_a_row = state["bad"]
        self.followed = state.get("followed", 0)

    def _is_bad(self, loss: float, norm: float) -> bool:
        """Whether a step counts against the run. Overflowing gradients are a loss scaler's daily
        business, as long as it can still go down."""
        searching = self.scaler is not None and self.scaler.get_scale() > 1
        return not math.isfinite(loss) or (not math.isfinite(norm) and not searching)


def require_precision(config: TrainingConfig, *, device: torch.device) -> None:
    """Raises ConfigError unless the device can train in the settings' precision."""
    if why := config.untrainable(device.type, "the model is on"):
        raise ConfigError(f"experts.precision: {why}")


def _schedule_name(config: TrainingConfig) -> str:
    warm = config.schedule == "constant" and config.warmup_steps
    return "constant_with_warmup" if warm else config.schedule
