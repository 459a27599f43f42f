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
    """Its name in the source; never a path of the machine."""
    landmarks: tuple[Landmark, ...] | None = None
    """Its landmarks' positions; None if the source has none."""


class TrainedControl(Record):
    """A trained control network; `folder` holds `control.safetensors`."""

    label: str
    folder: Path
    key: str


class ControlScore(Record):
    """How well one model's images follow their condition."""

    model: str
    role: Literal["source", "base", "control"]
    """The source images themselves (the best possible), the base without a condition, or a
    trained network."""
    parameters: int | None = None
    """Trained parameters."""
    measures: dict[str, Interval]
    differences: dict[str, Interval] = Field(default_factory=dict)
    """Minus the reference, paired by image; empty for the reference itself."""
    failures: int = 0
    """Images in which the reader did not find every landmark."""
    left_out: int = 0
    """Images that cannot be measured, such as those without edges on either side."""
    fid: float | None = None
    """Distance of all generated images from all source images; not a mean over images, and
    therefore without an interval."""


class ControlCard(Record):
    """Every model on the same images of one condition."""

    condition: str
    images: int
    reference: str | None
    """The model that is subtracted in differences."""
    reader: str
    """The network that read the condition from the images."""
    features: str | None
    """The features that FID compares."""
    models: tuple[ControlScore, ...]
