"""What `selma compare` leaves: every row's scores, and what it took to make its model."""

from __future__ import annotations

from pydantic import Field

from selma.records.record import Record
from selma.records.scores import Interval, Scorecard

TRAINING, BEST = "training", "best"
"""Readings: all rows at the guidance of the training images; each at its own best."""


class Cost(Record):
    """What a row's model took to make, from nothing; rows share what they have in common."""

    generated: int = 0
    """Images generated to be trained on or to choose by."""
    scored: int = 0
    """Images that a judge or a scorer looked at to choose by."""
    trained: int = 0
    """Images that its experts were trained on."""
    steps: int = 0
    seconds: float = 0.0
    """Of all that was finished; attempts that were cut off are not in it."""


class ComparedRow(Record):
    name: str
    title: str
    model: str
    cost: Cost
    curve: dict[str, float] = Field(default_factory=dict)
    """Guidance → score on dev by the choosing judge; empty if no guidance was chosen."""
    best: float | None = None
    """The guidance with the highest of them."""
    paper: tuple[str, str] | None = None
    """Base and method in the paper's table."""
    over: str
    """The row that its gain beside the paper's is over."""


class Scored(Record):
    """All rows on one benchmark at one reading of the guidance."""

    benchmark: str
    reading: str
    card: Scorecard


class Verdict(Record):
    """A claim, and what the difference of two rows says of it."""

    says: str
    row: str
    over: str
    benchmark: str
    reading: str
    difference: Interval

    @property
    def word(self) -> str:
        if self.difference.low > 0:
            return "holds"
        return "does not hold" if self.difference.high < 0 else "cannot be told"


class Compared(Record):
    """All that was found."""

    name: str
    title: str
    base: str
    against: str | None
    training_guidance: float
    rows: tuple[ComparedRow, ...]
    scored: tuple[Scored, ...]
    verdicts: tuple[Verdict, ...] = ()
    paper: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def readings(self) -> list[str]:
        return list(dict.fromkeys(scored.reading for scored in self.scored))

    def cards(self, reading: str) -> dict[str, Scorecard]:
        """Benchmark → its scorecard."""
        return {
            scored.benchmark: scored.card for scored in self.scored if scored.reading == reading
        }
