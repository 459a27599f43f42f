"""Answers about one model's images by either judge, with how each of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selma.config.scores import ScoresConfig
from selma.records.benchmarks import Answer, BenchmarkPrompt
from selma.scores import faithfulness
from selma.scores.answering import answer_item, has_choices, read_answer_file
from selma.scores.measures import Measure, Points
from selma.scores.tifa import match_choices
from selma.workspace import Workspace

if TYPE_CHECKING:
    from selma.backbones.judges.judge import Judge
    from selma.scores.benchmarks.layouts import Rules
    from selma.scores.networks import ScoringNetworks


def judged(
    asked: Sequence[BenchmarkPrompt],
    name: str,
    images: Path,
    folder: Workspace,
    *,
    judge: Judge,
    networks: ScoringNetworks,
    rules: Rules | None = None,
) -> list[Answer]:
    """The judge's answers, each with its verdict; those that are there are kept.

    asked: an element for each image.  name: of the answers' item.  networks: of the same settings.
    rules: by which answers count; None is soundly.
    """
    scores: ScoresConfig = networks.config
    item = answer_item(asked, name, images, judge, folder, words=scores.choices_prompt)
    answers = read_answer_file(item.path)
    if has_choices(asked) and networks.matcher is not None:
        answers = match_choices(asked, answers, networks.matcher)
    verdicts = faithfulness.verdicts_by_prompt(
        asked,
        answers,
        zeroing=(rules and rules.zeroing) or scores.zeroing,
        reading=rules.reading if rules else "normalised",
    )
    return [
        answer.model_copy(update={"verdict": verdicts[answer.prompt_id][answer.question_id]})
        for answer in answers
    ]


def points_of(answers: Sequence[Answer], measure: Measure) -> Points:
    """The points of all questions, from answers with verdicts."""
    verdicts: dict[str, dict[str, faithfulness.Verdict]] = {}
    for answer in answers:
        assert answer.verdict is not None
        verdicts.setdefault(answer.prompt_id, {})[answer.question_id] = answer.verdict
    return measure.points(answers, verdicts)
