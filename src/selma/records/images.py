"""Stage 2 leaves pairs of a prompt and its picture."""

from __future__ import annotations

from pathlib import Path

from selma.records.prompts import Prompt
from selma.records.record import Record


class Pair(Record):
    """A prompt and the picture that the base model drew for it (`image` is an absolute path)."""

    prompt: Prompt
    image: Path
    seed: int
    tokens_cut: int = 0
    """How many text tokens beyond the encoder's limit were not seen; 0 for nearly all."""
