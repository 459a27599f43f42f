"""What the stages of `selma control` hand to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from selma.records.landmarks import Landmark
from selma.records.record import Record
from selma.records.scores import Interval


class ControlSample(Record):
    """An image with its prompt and its condition, squares of one size (paths are absolute)."""

    id: str
    text: str
    image: Path
    conditioning_image: Path
    source: str = ""
    """Where it comes from; no path of this machine."""
    landmarks: tuple[Landmark, ...] | None = None
    """Where its landmarks lie; None where nobody says."""


class TrainedControl(Record):
    """A trained control network; `folder` holds `control.safetensors`."""

    label: str
    folder: Path
    key: str


class ControlScore(Record):
    """How one model's images keep to their condition."""

    model: str
    role: Literal["source", "base", "control"]
    """The source images themselves (what can be reached), the base without a condition, or a
    trained network."""
    parameters: int | None = None
    """How many numbers were trained."""
    measures: dict[str, Interval]
    differences: dict[str, Interval] = Field(default_factory=dict)
    """Minus the reference, paired by image; empty for the reference itself."""
    failures: int = 0
    """Images in which the reader did not find what must be there."""
    left_out: int = 0
    """Images of which nothing can be said, such as those without edges on both sides."""
    fid: float | None = None
    """Distance of all generated images from all source images; no mean over images, and so
    without an interval."""


class ControlCard(Record):
    """Every model on the same images of one condition."""

    condition: str
    images: int
    reference: str | None
    """The model that differences are taken from."""
    reader: str
    """What read the condition out of the images."""
    features: str | None
    """Of what the FID is."""
    models: tuple[ControlScore, ...]
