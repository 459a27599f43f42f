"""Stage 2 leaves pairs of a prompt and its image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from selma.records.finished import FinishedRows
from selma.records.prompts import Prompt
from selma.records.record import Record


class Pair(Record):
    """A prompt and the image that was generated or given for it (`image` is an absolute path)."""

    prompt: Prompt
    image: Path
    seed: int | None
    """None of an image that was given."""
    tokens_cut: int = 0
    """Number of text tokens beyond the encoder's limit, which it ignores; mostly 0."""


class Preference(Record):
    """Two images of one prompt, of which the winner scores higher (absolute paths)."""

    prompt: Prompt
    winner: Path
    loser: Path
    difference: float
    """Of their scores; more than 0."""


class PreferenceCount(Record):
    """What making pairs of candidates left."""

    pairs: int
    dropped: int
    """Pairs that differ by no more than the judge's own noise."""
    least_difference: float
    """What that is."""
    measured: bool
    """Whether it was measured, or set."""
    prompts: int
    """With at least one pair."""
    images: int
    """In the pairs, each once."""


class Survivors(Record):
    """What thresholds of choosing left of a skill's prompts. Easy prompts survive more often."""

    prompts: int
    without_questions: int
    """Where questions are asked."""
    rejected: int
    """Prompts with questions, but without an image that the judge accepts."""
    below_score: int = 0
    """Other prompts without an image that reaches the scorer's threshold; where questions are
    asked, of those that the judge accepts."""

    @property
    def share(self) -> float:
        """Share of the prompts that are trained on, 0..1."""
        dropped = self.without_questions + self.rejected + self.below_score
        return 1 - dropped / max(self.prompts, 1)


def over_token_limit(pairs: Iterable[Pair]) -> int:
    """Number of prompts longer than a text encoder reads: 77 tokens for Stable Diffusion's."""
    if isinstance(pairs, FinishedRows):
        return int(pairs.facts["over_token_limit"])
    return len({pair.prompt.id for pair in pairs if pair.tokens_cut > 0})
