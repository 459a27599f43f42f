"""Pieces of a run's work, and the time that they take on so many devices of a kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from selma.devices import DEVICES, Device


@dataclass(frozen=True)
class Work:
    """Equal parts that wait for nothing of one another."""

    stage: str
    """Its folder, as 2-images."""
    what: str
    kind: Literal["training", "generating", "answering", "writing", "merging"]
    operations: float
    """Floating-point operations in all."""
    precision: str
    at_once: int
    """How many devices can share it: its parts."""

    def busy_s(self, device: Device) -> float:
        """Seconds of one device for all of it; of what no GPU does, of one thread."""
        if self.kind == "merging":
            device = DEVICES["cpu"] if device.memory_gib is not None else device
        return self.operations / (device.peak(self.precision) * device.share(self.kind).value)

    def seconds(self, device: Device, gpus: int) -> float:
        """From beginning to end: a GPU does whole parts, a processor's threads share each."""
        if device.memory_gib is None:
            return self.busy_s(device) / gpus
        parts = max(self.at_once, 1)
        return self.busy_s(device) / parts * math.ceil(parts / min(gpus, parts))


@dataclass(frozen=True)
class Asked:
    """What a run asks of servers."""

    what: str
    requests: int
    read: int
    """Tokens; 0 of images."""
    written: int
    cost: float | None
    """In the unit of the settings' prices; None where they give none."""


@dataclass(frozen=True)
class StagePlan:
    """One stage on all devices."""

    stage: str
    operations: float
    gpus: int
    """The most that are ever at work."""
    busy_s: float
    """Device seconds of its work, its start on each of those devices among it."""
    seconds: float
    """From beginning to end."""
    disk: float
    """Bytes that it leaves."""


@dataclass(frozen=True)
class Plan:
    """What a run costs on so many devices of a kind."""

    device: Device
    gpus: int
    stages: Sequence[StagePlan]
    work: Sequence[Work]
    asked: Sequence[Asked]
    most_disk: float
    """Bytes while experts are trained: checkpoints come on top of what stays."""
    assumed: Sequence[str]
    left_out: Sequence[str]
    """What was not counted, and why."""
    changes: Sequence[str] = field(default_factory=tuple)
    """What has to be changed for the work to fit the device's memory; none where it fits."""

    @property
    def operations(self) -> float:
        return sum(stage.operations for stage in self.stages)

    @property
    def busy_s(self) -> float:
        return sum(stage.busy_s for stage in self.stages)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def held_s(self) -> float:
        """Device seconds if all devices are held from beginning to end, at work or not."""
        return self.gpus * self.seconds

    @property
    def disk(self) -> float:
        return sum(stage.disk for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """All of it: seconds, bytes, and single operations."""
        totals = ("operations", "busy_s", "held_s", "seconds", "disk", "most_disk")
        return {
            "kind": self.device.name,
            "gpus": self.gpus,
            "peak": {each: self.device.peak(each) for each in ("bf16", "fp16", "fp32")},
            "shares": {
                each: vars(self.device.share(each))
                for each in sorted({work.kind for work in self.work})
            },
            "totals": {name: getattr(self, name) for name in totals},
            "stages": [vars(stage) for stage in self.stages],
            "work": [
                vars(work) | {"seconds": work.seconds(self.device, self.gpus)} for work in self.work
            ],
            "asked": [vars(asked) for asked in self.asked],
            "assumed": list(self.assumed),
            "left_out": list(self.left_out),
            "changes": list(self.changes),
        }


def staged(work: Sequence[Work], stage: str, device: Device, gpus: int, disk: float) -> StagePlan:
    """The stage's pieces one after another, each begun once on all of its devices."""
    own = [piece for piece in work if piece.stage == stage]
    most = max((min(gpus, piece.at_once) for piece in own), default=1)
    # Threads are one process, which starts once.
    most, starts = (gpus, 1) if device.memory_gib is None and own else (most, most)
    return StagePlan(
        stage,
        sum(piece.operations for piece in own),
        most,
        sum(piece.busy_s(device) for piece in own) + starts * device.start_s,
        sum(piece.seconds(device, gpus) for piece in own) + device.start_s,
        disk,
    )
