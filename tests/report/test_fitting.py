"""Tables of scores in a terminal of 80 columns: folded or set apart, but nothing lost or broken."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from selma.applications.evaluation.table import print_given_scores
from selma.applications.hps.table import print_hps
from selma.records.scores import Interval, ModelScore, Scorecard, ScorerInfo
from selma.report.fitting import Column, Row, print_fitted
from selma.report.tables import print_preferences, print_scorecard

LONG = "an-expert-whose-name-goes-on-and-on-without-any-blank-at-all"


def at(mean: float) -> Interval:
    return Interval(mean=mean, low=mean - 11.1, high=mean + 11.1, n=320, standard_error=5.5)


def shown(show: Any, *what: Any, width: int = 80) -> str:
    out = io.StringIO()
    show(*what, Console(file=out, width=width, color_system=None))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def scorecard(*, further: bool) -> Scorecard:
    labels = ("imagereward", "a-label-of-a-scorer-as-long-as-labels-may-become")

    def model(name: str, role: str, mean: float) -> ModelScore:
        fields: dict[str, Any] = {"model": name, "role": role, "score": at(mean)}
        fields |= {"score_by_question": mean, "categories": {}, "groups": {}, "per_prompt": {}}
        fields["preferences"] = {label: at(-mean) for label in labels}
        if further:
            fields |= {"soft": at(mean), "vqascore": at(mean), "clip": at(mean)}
        if role != "base":
            fields["difference"] = at(-88.3)
            fields["preference_differences"] = {label: at(-12.34) for label in labels}
            fields["win_rates"] = {label: at(43.21) for label in labels}
        return ModelScore.model_validate(fields)

    return Scorecard(
        benchmark="a benchmark's file with a name that is rather long, too.json",
        split="all",
        judge="an-owner/and-a-judge-with-a-name-that-takes-a-line",
        prompts=1060,
        questions=8345,
        seeds=4,
        models=(
            model("base", "base", 65.43),
            model(LONG, "expert", 71.11),
            model("merged", "merged", 98.76),
        ),
        preferences=tuple(
            ScorerInfo(label=label, name=f"{label.title()} v1.0", scale="any", preprocessing="none",
                       weights="owner/name", fingerprint="0", chose=True)
            for label in labels
        ),
    )  # fmt: skip


def unfolded(text: str) -> str:
    """The text of all cells without blanks and frames, as folded names come together again."""
    rows = [re.split("[┃│]", line)[1:-1] for line in text.splitlines() if line[:1] in "┃│"]
    return "".join(cell.strip() for column in zip(*rows, strict=True) for cell in column)


@pytest.mark.parametrize("further", [False, True])
def test_a_scorecard_fits_80_columns_with_every_number_unbroken(further: bool) -> None:
    text = shown(print_scorecard, scorecard(further=further))
    numbers = ["65.4", "71.1", "98.8", "−88.3", "54.3 to 76.5", "−99.4 to −77.2"]
    for number in (*numbers, *(["VQAScore", "soft", "CLIP"] if further else [])):
        assert number in text, number
    # The names' columns come first, so that they are whole when cells are read downwards.
    table = text[text.index("┏") : text.index("DSG score, 0-100")]
    assert LONG in unfolded(table.split("└")[0])
    assert "4 images of each" in text


def test_preferences_fit_80_columns_with_every_number_unbroken() -> None:
    text = shown(print_preferences, scorecard(further=False))
    for number in (
        "−65.43",
        "−76.53 to −54.33",
        "−12.34",
        "−23.44 to −1.24",
        "43.2",
        "32.1 to 54.3",
    ):
        assert number in text, number
    table = text[text.index("┏") : text.index("means with")]
    assert LONG in unfolded(table) and "as-long-as-labels-may-become" in unfolded(table).lower()


def test_a_narrow_terminal_gets_several_tables() -> None:
    columns = [
        Column("model", "name"),
        Column("a"),
        Column("95%", "ends"),
        Column("b"),
        Column("c"),
    ]
    rows = [Row(["one", "12.345", "10.000 to 14.000", "7", "888888888"], bold=True), Row(["two"])]
    wide = shown(lambda console: print_fitted(console, columns, rows), width=80)
    assert wide.count("┏") == 1 and "12.345 │ 10.000 to 14.000" in wide
    narrow = shown(lambda console: print_fitted(console, columns, rows), width=36)
    assert narrow.count("┏") == 2 and narrow.count("two") == 2
    for number in ("12.345", "10.000 to 14.000", "7", "888888888"):
        assert number in narrow


def test_given_scores_fit_80_columns() -> None:
    result = {
        "score": 77.77, "interval": [66.6, 88.8], "standard_error": 5.55, "measure": "DSG",
        "groups": {LONG * 2: 12.3}, "group_standard_errors": {LONG * 2: 3.2},
        "categories": {"colour": 45.6}, "prompts": 1, "questions": 2, "without_answers": [],
    }  # fmt: skip
    text = shown(print_given_scores, result)
    assert "DSG 77.8" in text and "12.3" in text and "3.2" in text and "45.6" in text
    assert LONG * 2 in unfolded(text)


def test_styles_fit_80_columns() -> None:
    row = {"score": 27.123, "interval": [26.1, 28.2], "standard_error": 0.5, "images": 800}
    style = row | {"missing": 0}
    scorer = {"name": "HPS v2.1", "weights": "a/b", "scale": "any", "preprocessing": "none"}
    result = {"scorer": scorer, "styles": {LONG: style}, "complete": True} | style
    text = shown(print_hps, result)
    assert "26.10 to 28.20" in text and "27.12" in text and LONG in unfolded(text)
