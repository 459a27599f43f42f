"""Benchmark prompts with their questions, and a judge's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from selma.errors import DataError
from selma.records.record import Chance, OutsideText, Record

Value = TypeVar("Value")


class Question(Record):
    """One question about an image: yes or no, with yes expected (DSG, arXiv:2310.18235), or
    multiple choice (TIFA, arXiv:2303.11897)."""

    id: str
    text: OutsideText
    category: OutsideText
    """Broad category: entity, colour, count, spatial, global, size, or the benchmark's own."""
    detail: OutsideText = ""
    """The benchmark's finer category, if it has one."""
    parents: tuple[str, ...] = ()
    """Ids of questions of the same prompt that must be answered yes for this one to make sense."""
    choices: tuple[OutsideText, ...] = ()
    """The possible answers; empty for a yes/no question."""
    answer: OutsideText = "yes"
    """The expected answer, for a faithful image."""
    spellings: tuple[OutsideText, ...] = ()
    """Ways to write the expected answer whose first tokens' probabilities make the point; empty
    where the judge's words do. Such a question is put word for word."""


class BenchmarkPrompt(Record):
    """One prompt of a benchmark with its questions; a user's own prompts have none at first."""

    id: str
    text: OutsideText
    group: OutsideText
    """The source or style that results are grouped by."""
    tags: tuple[OutsideText, ...] = ()
    """Groups that it belongs to where a prompt has several; they then stand for `group`."""
    questions: tuple[Question, ...]


def evenly(benchmark_prompts: Sequence[BenchmarkPrompt], count: int) -> list[BenchmarkPrompt]:
    """`count` prompts of a benchmark (or all, if it has fewer) in its order: as equally as possible
    over the groups and evenly spaced within each, so that no result influences the choice."""
    groups: dict[str, list[int]] = {}
    for position, prompt in enumerate(benchmark_prompts):
        groups.setdefault(prompt.group, []).append(position)
    taken = dict.fromkeys(groups, 0)
    while sum(taken.values()) < min(count, len(benchmark_prompts)):
        open_groups = [name for name in groups if taken[name] < len(groups[name])]
        taken[min(open_groups, key=taken.__getitem__)] += 1
    positions = [p for name, members in groups.items() for p in spaced(members, taken[name])]
    return [benchmark_prompts[position] for position in sorted(positions)]


def spaced(values: Sequence[Value], count: int) -> list[Value]:
    """`count` of the values (or all, if there are fewer), evenly spaced from end to end."""
    count = min(count, len(values))
    return [values[(2 * i + 1) * len(values) // (2 * count)] for i in range(count)]


def repeated(benchmark_prompts: Sequence[BenchmarkPrompt], seeds: int) -> list[BenchmarkPrompt]:
    """Each prompt of a benchmark `seeds` times in a row, once for each image that is generated of
    it: the first with its own id, the others with <id>-1, <id>-2 and so on. Raises DataError where
    that is another prompt's id."""
    images = [
        prompt.model_copy(update={"id": f"{prompt.id}-{k}"}) if k else prompt
        for prompt in benchmark_prompts
        for k in range(seeds)
    ]
    own = {prompt.id for prompt in benchmark_prompts} if seeds > 1 else set()
    if taken := next(
        (image.id for n, image in enumerate(images) if n % seeds and image.id in own), None
    ):
        raise DataError(
            f"Prompt {taken!r} has the name of another prompt's image {taken.rpartition('-')[2]}. "
            "Give it another id, or ask for one image of each."
        )
    return images


class Answer(Record):
    """A judge's answer to one question about one image; never discarded."""

    prompt_id: str
    question_id: str
    text: str
    """The raw answer, as the judge gave it."""
    yes: Chance | None = None
    """Probability of yes in [0, 1]; None if the judge gives none."""
    first: tuple[tuple[str, Chance], ...] = ()
    """Of each of the question's spellings the first token, "" if it tells nothing, and its
    probability; empty where the question has none."""
    verdict: Literal["yes", "no", "unreadable", "zeroed"] | None = None
    """How the answer counted: "yes" is the expected answer and alone earns a point; "zeroed" is a
    yes whose dependency was answered no. None before a scorecard is made."""
    choice: str | None = None
    """The choice that the text counts as, if a matcher found it."""
