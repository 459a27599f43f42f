"""What the stages of `selma subjects` hand to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from selma.records.record import Record
from selma.records.scores import Interval


class Subject(Record):
    """One subject with its few images."""

    name: str
    """The name of its folder; names are compared letter by letter."""
    kind: str
    """Its class word, such as "stuffed animal"."""
    images: tuple[Path, ...]
    prompts: tuple[str, ...]
    """Templates with {token} and {class}."""


class SubjectAdapter(Record):
    """One method's adapter for one subject."""

    subject: str
    method: str
    folder: Path
    key: str
    steps: tuple[int, ...]
    """Steps whose weights were kept, in order; the last is the result."""


class SubjectMeasure(Record):
    """One column of the subjects' table."""

    key: str
    label: str
    better: Literal["higher", "lower"]
    meaning: str
    network: str
    """The network that compared the images."""


class SubjectRow(Record):
    """One method's scores. "base" generated the same prompts untrained; "real" compares the
    subjects' own images with one another."""

    model: str
    values: dict[str, Interval]
    """Measure → mean over subjects and prompts; for "real", over subjects."""
    released: dict[str, float] = Field(default_factory=dict)
    """Measure → mean over all pairs of images, as in the released evaluation: a subject with more
    images counts more."""
    subjects: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Subject → measure → mean over its prompts."""
    parameters: int | None = None
    """Trained parameters for each subject."""


class SubjectComparison(Record):
    """One method minus another, paired by subject and prompt."""

    model: str
    against: str
    measure: str
    difference: Interval
    over_subjects: Interval
    """The same, but resampling whole subjects instead of prompts: what another choice of subjects
    might have given."""


class CurvePoint(Record):
    """One checkpoint on a convergence curve."""

    step: int
    values: dict[str, float]
    """Measure → mean over the subjects' curve prompts, one image each."""


class SubjectCard(Record):
    """All methods of a `selma subjects` run in one table."""

    subjects: dict[str, str]
    """Name → class word."""
    token: str
    prompts: int
    images: int
    """Images for each prompt."""
    steps: int
    measures: tuple[SubjectMeasure, ...]
    rows: tuple[SubjectRow, ...]
    comparisons: tuple[SubjectComparison, ...]
    curves: dict[str, tuple[CurvePoint, ...]]
    curve_prompts: int
