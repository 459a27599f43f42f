"""What stands beside a score: its judge, how that did where it was checked itself, and what is
known of such numbers; as sentences, and as JSON.

6-report/scores.json    every score of the page with all of this
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selma.plurals import counted
from selma.records.judges import Checked
from selma.records.report import Findings
from selma.records.scores import JudgeInfo, Scorecard
from selma.report.tables import between, cell, described, known_sentences, points, signed

FILE = "scores.json"
NOT_CHECKED = "It was not checked itself: selma judge check."


def judged(card: Scorecard, checks: Mapping[str, Checked]) -> list[str]:
    """Sentences about a scorecard's judge and what is known of its numbers."""
    images = counted(card.prompts * card.seeds, "image")
    who = described(card.judge_info, card.judge, images=f"{images} of each model")
    return [who, _checked(card, checks), *known_sentences(card.known)]


def _checked(card: Scorecard, checks: Mapping[str, Checked]) -> str:
    check = _check_of(card.judge_info, checks)
    if check is None:
        return NOT_CHECKED
    drawn, people = check.drawn, check.people
    if drawn.right is None:
        return "Checked itself, it could read none of the questions."
    parts = [f"right {cell(drawn.right)}%"]
    if drawn.yes_bias:
        bias = f"{signed(drawn.yes_bias.mean)} ({between(drawn.yes_bias, sign=True)})"
        parts.append(f"bias to yes {bias} points")
    if drawn.reworded:
        parts.append(f"alike in other words {cell(drawn.reworded)}%")
    if drawn.turned:
        parts.append(f"turned round with the question {cell(drawn.turned)}%")
    text = f"Checked itself on {counted(drawn.scenes, 'scene')}: {', '.join(parts)}."
    if people is not None and people.every.pairwise is not None:
        every = people.every
        text += f" With people's votes on {counted(every.images, 'image')} it agrees on "
        text += f"{cell(every.pairwise)}% of pairs"
        text += f", Kendall's tau {cell(every.kendall)}." if every.kendall else "."
    if drawn.unread:
        text += f" It could not read {points(drawn.unread)}% of the questions."
    return " ".join([text, *drawn.faults])


def _check_of(info: JudgeInfo | None, checks: Mapping[str, Checked]) -> Checked | None:
    return None if info is None else checks.get(info.fingerprint)


def as_json(findings: Findings) -> dict[str, Any]:
    """Benchmark → its scores with all that stands beside them, the first one's name first."""
    own = {findings.scorecard.benchmark: findings}
    parts = own | {name: part for name, part in findings.further.items() if name not in own}
    return {name: _part(part.scorecard, findings.checks) for name, part in parts.items()}


def _part(card: Scorecard, checks: Mapping[str, Checked]) -> dict[str, Any]:
    check = _check_of(card.judge_info, checks)
    told = card.model_dump(
        mode="json",
        include={"benchmark", "split", "measure", "rules", "rules_about", "judge", "judge_info",
                 "prompts", "questions", "seeds", "known"},
    )  # fmt: skip
    models = [
        model.model_dump(
            mode="json", include={"model", "role", "score", "difference", "unreadable"}
        )
        for model in card.models
    ]
    return told | {
        "images_of_each_model": card.prompts * card.seeds,
        "judge_check": check and check.model_dump(mode="json"),
        "models": models,
        "preferences": [scorer.model_dump(mode="json") for scorer in card.preferences],
    }
