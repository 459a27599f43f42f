"""A named point of an image."""

from __future__ import annotations

from selma.records.record import Record


class Landmark(Record):
    """A named point of an image: `x` to the right and `y` down, both 0..1 of its sides."""

    name: str
    """Which point of a face it is, or what kind of object lies there; need not be unique."""
    x: float
    y: float
