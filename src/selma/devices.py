"""Kinds of device that work is planned for: what their makers say they do, and how much of it is
reached.

Peaks are dense (no sparsity), in 10^12 floating-point operations a second: bf16 and fp16 of tensor
cores with sums in fp32, and fp32 proper, since PyTorch takes TF32 for no product unasked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from selma.errors import ConfigError
from selma.registry import Table

ASSUMED = "assumed"
ON_H200 = "measured on one H200 (docs/performance.md, B4 and B5)"
ON_CPU = "measured on the demo (docs/performance.md)"


@dataclass(frozen=True)
class Share:
    """How much of a peak a kind of work reaches, 0 to 1, and how that is known."""

    value: float
    source: str = ASSUMED


@dataclass(frozen=True)
class Device:
    """A row of `DEVICES`: one GPU, or of a CPU one thread."""

    name: str
    memory_gib: int | None
    """None of a CPU, whose memory is the machine's."""
    half: float
    """Peak of bf16 and fp16, in 10^12 operations a second."""
    single: float
    """Peak of fp32."""
    training: Share
    generating: Share
    """Of images, and of encoding them."""
    answering: Share = Share(0.1)
    """Of judges and scorers: small batches, and images that are opened between them."""
    writing: Share = Share(0.01)
    """Of a language model on this device: a token reads all weights."""
    merging: Share = Share(0.5)
    """Of one thread, on every kind of device."""
    start_s: float = 60.0
    """Seconds that a stage takes beside its arithmetic, once: imports, weights, a look at files."""

    def peak(self, precision: str) -> float:
        """Operations a second."""
        return 1e12 * (self.single if precision == "fp32" else self.half)

    def share(self, work: str) -> Share:
        """Of "training", "generating", "answering", "writing" or "merging"."""
        share: Share = getattr(self, work)
        return share


def _gpu(
    name: str,
    memory: int,
    half: float,
    single: float,
    *,
    training: Share = Share(0.25),
    generating: Share = Share(0.3),
) -> Device:
    return Device(name, memory, half, single, training=training, generating=generating)


# 18% and 23% of 790, the rate of large products, are 0.14 and 0.18 of the sheet's 989.
_HOPPER = {"training": Share(0.14, ON_H200), "generating": Share(0.18, ON_H200)}
_ALIKE = {
    work: replace(share, source=f"{share.source}, the same chip") for work, share in _HOPPER.items()
}
DEVICES = Table(
    "kind of device",
    "selma.devices",
    [
        _gpu("l40", 48, 181.0, 90.5, generating=Share(0.4)),
        _gpu("l40s", 48, 362.0, 91.6),
        _gpu("a100", 80, 312.0, 19.5),
        _gpu("h100", 80, 989.0, 67.0, **_ALIKE),
        _gpu("h200", 141, 989.0, 67.0, **_HOPPER),
        _gpu("rtx4090", 24, 165.0, 82.6),
        Device(
            "cpu",
            None,
            half=0.12,
            single=0.12,
            training=Share(0.5, ON_CPU),
            generating=Share(0.5, ON_CPU),
            answering=Share(0.5, ON_CPU),
            writing=Share(0.6, ON_CPU),
            start_s=4.0,
        ),
    ],
)
"""A new kind is a row. Of the CPU's the peak is one thread's of the machine that
docs/performance.md names; `measured` replaces it."""
SECONDS = 0.5
"""For how long each kind of arithmetic is timed, at least."""


def measured(device: Device) -> Device:
    """The CPU's row with the peak of one thread of this machine: matrix products and convolutions
    of middling size in fp32, as many operations of each, by the processor's seconds, so that what
    else runs here takes nothing away. Raises ConfigError for another row."""
    if device.memory_gib is not None:
        raise ConfigError(
            f"--measure times this machine's processor, but --kind is {device.name}. Leave it out, "
            "or take --kind cpu."
        )
    import torch
    import torch.nn.functional as F

    rows, image, kernel = torch.rand(512, 512), torch.rand(8, 64, 32, 32), torch.rand(64, 64, 3, 3)
    works: Mapping[Callable[[], Any], float] = {
        lambda: rows @ rows: 2 * 512**3,
        lambda: F.conv2d(image, kernel, padding=1): 2 * 8 * 64 * 64 * 9 * 32 * 32,
    }
    with torch.inference_mode():
        rates = [_rate(work, operations) for work, operations in works.items()]
    rate = len(rates) / sum(1 / rate for rate in rates) / 1e12
    return replace(device, half=rate, single=rate)


def _rate(work: Callable[[], Any], operations: float) -> float:
    """Operations a second of the processor; of several rounds the best."""
    work()  # the first one makes room
    best, ends = 0.0, time.process_time() + SECONDS
    while time.process_time() < ends:
        began = time.process_time()
        for _ in range(8):
            work()
        best = max(best, 8 * operations / max(time.process_time() - began, 1e-9))
    return best
