"""How one model's answers count: verdicts, points and matched choices, without the answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selma.records.benchmarks import Answer, BenchmarkPrompt
from selma.records.scores import Zeroing
from selma.scores.benchmarks.layouts import Rules
from selma.scores.faithfulness import Verdict, verdicts_in_turn
from selma.scores.measures import Points


@dataclass
class Counted:
    """One model's answers as they count, in the order of the prompts that do."""

    verdicts: dict[str, dict[str, Verdict]] = field(default_factory=dict)
    points: dict[str, dict[str, float]] = field(default_factory=dict)
    within: dict[str, dict[str, float]] = field(default_factory=dict)
    """Points as categories count them; `points` itself where these are the same."""
    beside: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Label of each further measure → its points."""
    matched: dict[str, dict[str, str]] = field(default_factory=dict)
    """Prompt id → question id → the choice that a matcher found."""

    @property
    def unreadable(self) -> int:
        return sum(v == "unreadable" for row in self.verdicts.values() for v in row.values())

    def rows(self, model: str) -> Iterator[dict[str, Any]]:
        """`records.rows.VerdictRow`s."""
        for prompt, of_prompt in self.verdicts.items():
            row = {"model": model, "prompt": prompt, "verdicts": of_prompt}
            yield row | ({"matched": self.matched[prompt]} if prompt in self.matched else {})


def count(
    counting: Sequence[BenchmarkPrompt],
    answers: Iterable[Answer],
    rules: Rules,
    *,
    zeroing: Zeroing,
) -> Counted:
    """Count the answers, of which no more than a prompt's are in memory.

    counting: the prompts and questions that count.  answers: those of a prompt in a row. Raises
    DataError if one is missing or comes twice.
    """
    measure, counted = rules.measure, Counted()
    counted.beside = {further.label: {} for further in rules.beside}
    if measure.category_point is None:
        counted.within = counted.points
    turns = verdicts_in_turn(counting, answers, zeroing=zeroing, reading=rules.reading)
    for id, given, verdicts in turns:
        own = {id: verdicts}
        counted.verdicts |= own
        counted.points |= measure.points(given, own)
        if measure.category_point is not None:
            counted.within |= measure.category_points(given, own)
        for further in rules.beside:
            counted.beside[further.label] |= further.points(given, own)
        if choices := {a.question_id: a.choice for a in given if a.choice is not None}:
            counted.matched[id] = choices
    order = [prompt.id for prompt in counting]
    for table in _tables(counted):
        if list(table) != order:
            _reorder(table, order)
    return counted


def _tables(counted: Counted) -> list[dict[str, Any]]:
    return [counted.verdicts, counted.points, counted.within, *counted.beside.values()]


def _reorder(table: dict[str, Any], order: Sequence[str]) -> None:
    for id in order:
        table[id] = table.pop(id)


def points_of(counted: Mapping[str, Counted]) -> dict[str, Points]:
    """Model → its points."""
    return {model: of.points for model, of in counted.items()}
