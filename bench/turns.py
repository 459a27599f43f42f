"""Ways to do one thing, timed in turn: A B A B ..., so that a machine that drifts is fair to all.

Seconds are the CPU's, of this process and of those it started and ended, since a shared machine's
wall clock tells more of the neighbours; `clock` may be another where the disk is what matters.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

from rich.console import Console
from rich.table import Table

STEADY = 0.1
"""A side whose spread is wider than this share of its median is marked."""


def cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(found.ru_utime + found.ru_stime for found in used)


@dataclass
class Turns:
    """Seconds of each side, ours first."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, other: Turns) -> None:
        for name, seconds in other.seconds.items():
            self.seconds.setdefault(name, []).extend(seconds)

    def ratio(self, name: str) -> float:
        """How many times longer a side takes than the first one: median over the rounds."""
        ours = next(iter(self.seconds.values()))
        return median(b / a for a, b in zip(ours, self.seconds[name], strict=True))

    def show(self, title: str, *, note: str = "") -> None:
        table = Table("side", "seconds", "min", "max", "times ours", title=title, caption=note)
        for name, seconds in self.seconds.items():
            spread = (max(seconds) - min(seconds)) / median(seconds)
            shaky = f"  (spread {spread:.0%})" if spread > STEADY else ""
            cells = [f"{f(seconds):.4f}" for f in (median, min, max)]
            table.add_row(name + shaky, *cells, f"{self.ratio(name):.2f}")
        Console().print(table)


def in_turn(
    sides: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm: bool = True,
    clock: Callable[[], float] = cpu_seconds,
) -> Turns:
    """Run each side once in each round; with `warm` an uncounted round goes first."""
    found = Turns({name: [] for name in sides})
    for number in range(-1 if warm else 0, rounds):
        for name, side in sides.items():
            gc.collect()
            gc.disable()
            began = clock()
            side()
            spent = clock() - began
            gc.enable()
            if number >= 0:
                found.seconds[name].append(spent)
    return found
