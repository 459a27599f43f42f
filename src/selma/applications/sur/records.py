"""What the stages of `selma sur` hand to each other."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from selma.records.record import OutsideText, Record
from selma.records.scores import Interval, Scorecard


class SurSample(Record):
    """A plain caption, the keyword prompt that it stands for, and their image (SURD)."""

    id: str
    text: OutsideText
    """The caption."""
    prompt: OutsideText
    """The keyword prompt."""
    image: Path
    source: OutsideText = ""
    """Where it comes from: an address, a file's name, or the world that it was generated in."""
    licence: OutsideText = "unknown"


class TrainedSur(Record):
    """A trained SUR-adapter; `folder` holds `sur_adapter.safetensors`."""

    folder: Path
    key: str


class Distances(Record):
    """How far each model's images are from good ones, by an image encoder's vectors."""

    encoder: str
    fingerprint: str
    images: int
    """How many good images there are."""
    kernel: dict[str, Interval]
    """Model → kernel distance (KID) times 1000; 0 is no distance, and it may be below by chance."""
    kernel_differences: dict[str, Interval]
    """Model → minus the base's, paired by prompt; below 0 is nearer to the good images."""
    frechet: dict[str, float]
    """Model → Fréchet distance (FID); biased upwards by few images, for all models alike."""


class SurResult(Record):
    """What a SUR-adapter does to plain prompts; the base first."""

    card: Scorecard
    """Categories are kinds: counting, colour, action, and the benchmark's others. CLIP scores are
    against the plain prompts."""
    keywords: dict[str, str] = Field(default_factory=dict)
    """Prompt id → keyword prompt; empty where there are none."""
    keyword_clip: dict[str, Interval] = Field(default_factory=dict)
    """Model → 100 x cosine of image and keyword prompt."""
    keyword_clip_differences: dict[str, Interval] = Field(default_factory=dict)
    """Model → minus the base's, paired by prompt."""
    distances: Distances | None = None
