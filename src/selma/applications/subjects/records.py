"""What the stages of `selma subjects` hand to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from selma.records.record import Record
from selma.records.scores import Interval


class Subject(Record):
    """One thing that is to be generated again, with the images of it that there are."""

    name: str
    """Its folder's name; subjects are told apart by it, letter by letter."""
    kind: str
    """Its class word, as in "stuffed animal"."""
    images: tuple[Path, ...]
    prompts: tuple[str, ...]
    """Templates with {token} and {class}."""


class SubjectAdapter(Record):
    """What one method learnt of one subject."""

    subject: str
    method: str
    folder: Path
    key: str
    steps: tuple[int, ...]
    """At which its weights were kept, in order; the last are the result."""


class SubjectMeasure(Record):
    """One column of the subjects' table."""

    key: str
    label: str
    better: Literal["higher", "lower"]
    meaning: str
    network: str
    """What looked at the images."""


class SubjectRow(Record):
    """What one method reached; "base" generated the same prompts untrained, "real" are the images
    of the subjects themselves, against one another."""

    model: str
    values: dict[str, Interval]
    """Measure → mean over subjects and prompts; of "real" over subjects."""
    released: dict[str, float] = Field(default_factory=dict)
    """Measure → mean over all pairs of images, as the released evaluation has it: a subject with
    more images counts more."""
    subjects: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Subject → measure → mean over its prompts."""
    parameters: int | None = None
    """How many numbers were trained, for each subject."""


class SubjectComparison(Record):
    """One method minus another, paired by subject and prompt."""

    model: str
    against: str
    measure: str
    difference: Interval
    over_subjects: Interval
    """The same, with whole subjects resampled instead of prompts: what another choice of subjects
    might have given."""


class CurvePoint(Record):
    step: int
    values: dict[str, float]
    """Measure → mean over the subjects' curve prompts, an image each."""


class SubjectCard(Record):
    """All methods of a subject run in one table."""

    subjects: dict[str, str]
    """Name → class word."""
    token: str
    prompts: int
    images: int
    """For each prompt."""
    steps: int
    measures: tuple[SubjectMeasure, ...]
    rows: tuple[SubjectRow, ...]
    comparisons: tuple[SubjectComparison, ...]
    curves: dict[str, tuple[CurvePoint, ...]]
    curve_prompts: int
