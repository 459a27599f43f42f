"""What every judge of images can be asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from PIL import Image

from selma.backbones.judges.wordings import MultipleChoice
from selma.errors import ModelError
from selma.texts import quoted

NOT_READ = "not read"
"""In place of an answer to a question that a judge knows it cannot read."""


class Judge(Protocol):
    """Answers yes/no questions about images."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes with all that answers depend on beside image and question (weights, wording,
        decoding) and with nothing else; to be had without loading the weights."""
        ...

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        """For each image and each of its questions: the raw text and P(yes), if there is one.
        An answer depends on its image and question alone."""
        ...


@runtime_checkable
class Chooser(Protocol):
    """A judge that can also be asked questions that come with choices."""

    def choose(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[Sequence[MultipleChoice]],
        *,
        words: str,
    ) -> list[list[str]]:
        """The raw text for each question, put in the wording that `words` names. It may be none of
        the choices: what it then counts as is not the judge's to say."""
        ...


class Spelled(NamedTuple):
    """A question that is put word for word, and ways to write one answer to it."""

    text: str
    spellings: tuple[str, ...]


FirstToken = tuple[str, float]
"""The first token of a spelling, and its probability over the whole vocabulary; the token is "" if
it tells no answer from another, as a blank before a digit does."""


@runtime_checkable
class Speller(Protocol):
    """A judge that tells how likely its answer begins as given spellings do."""

    def spell(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[Spelled]]
    ) -> list[list[tuple[str, list[FirstToken]]]]:
        """For each question the raw text, and the first token of each of its spellings. Several
        spellings may begin with the same token."""
        ...


@runtime_checkable
class Reader(Protocol):
    """A judge that knows which questions it cannot read. It answers them with a text that is
    neither yes nor no, which counts as unreadable. A text `reads`, if it has one, completes "it
    reads ..." in the warning."""

    def unread(self, questions: Sequence[str]) -> list[str]:
        """Those of the questions that it cannot read; loads no weights."""
        ...


@runtime_checkable
class Described(Protocol):
    """A judge that tells what it is."""

    @property
    def about(self) -> Mapping[str, str]:
        """Of the fields of `records.scores.JudgeInfo`: weights, wording and precision; loads no
        weights."""
        ...


class Scorer(Protocol):
    """Says how well an image fits a text; higher is better."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]: ...


def possible(name: str, chance: float | None) -> float | None:
    """A probability that the judge of this name tells, or None. Raises ModelError for a number
    that is none."""
    if chance is None or 0 <= chance <= 1:
        return chance
    raise ModelError(
        f"The judge {name} must tell probabilities between 0 and 1, but {quoted(chance)} "
        "came. Mend it, or name another judge."
    )


def parts(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover 0..count, in order."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
