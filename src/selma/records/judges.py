"""What is known of a judge itself."""

from __future__ import annotations

from pydantic import Field

from selma.records.record import Record
from selma.records.scores import Interval


class Agreement(Record):
    """How scores of images go along with people's ratings of them, times 100, with intervals over
    prompts. A measure is None where scores or ratings are all alike."""

    images: int
    prompts: int
    spearman: Interval | None
    kendall: Interval | None
    """Tau-b."""
    pearson: Interval | None
    pairwise: Interval | None
    """Per cent of all pairs of images on which scores and people agree: which is better, or that
    none is (arXiv:2305.14324)."""
    tie: float | None
    """Scores that differ by no more are alike: what agrees best with these people."""


class PeopleCheck(Record):
    """What a judge's scores are worth, by people's votes on the same images."""

    judge: str
    fingerprint: str
    """Empty of scores that were not asked for here."""
    measure: str
    """What the scores are called: "VQAScore"."""
    models: tuple[str, ...]
    """Whose images they are."""
    unread: float
    """Per cent of the answers that say nothing; 0 of scores in a file."""
    only_rated: int
    """Images with votes and without a score."""
    only_scored: int
    every: Agreement
    skills: dict[str, Agreement] = Field(default_factory=dict)
    """By the benchmark's skills, or its groups, where it has several."""


class JudgeCheck(Record):
    """How a judge answered where the right answers are known; per cent or points, means over
    scenes with their intervals. A measure is None where the judge could read no question of it."""

    judge: str
    fingerprint: str
    """The judge's own: it changes with weights, wording and precision."""
    scenes: int
    images: int
    questions: int
    unread: float
    """Per cent of the answers that are neither yes nor no."""
    right: Interval | None
    """Of questions that are as often answered rightly by yes as by no."""
    yes_bias: Interval | None
    """How much more often than half it says yes to them: 50 of one who always does."""
    one_fact: Interval | None
    """Yes where the image shows the fact minus yes where that fact alone is changed: 100 of one who
    sees it, 0 of one who does not look."""
    other_image: Interval | None
    """The same against an image of another scene, which a prompt does not fit at all."""
    nothing: Interval | None
    """Yes to things in images of one colour or noise."""
    turned: Interval | None
    """How often a question turned round is answered the other way."""
    reworded: Interval | None
    """How often other words of the same meaning are answered alike."""
    categories: dict[str, Interval] = Field(default_factory=dict)
    """`right`, by kind of fact."""
    faults: tuple[str, ...] = ()
    """What is wrong with it, a sentence each."""


class Checked(Record):
    """What was found of one judge."""

    drawn: JudgeCheck
    """By images whose content is known."""
    people: PeopleCheck | None = None
    """By people's votes, where there were any."""
