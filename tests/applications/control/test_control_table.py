"""The terminal's table of control scores."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from selma.applications.control.page import better, print_card
from selma.applications.control.records import ControlCard, ControlScore
from selma.records.scores import Interval


def test_in_eighty_columns_no_name_and_no_fid_is_cut() -> None:
    values = dict.fromkeys(
        ("miou", "macc", "aacc"),
        Interval(mean=59.1, low=25.1, high=76.7, n=200, standard_error=10.0),
    )
    score = ControlScore(
        model="oft-r4-magnitudes",
        role="control",
        parameters=590_000,
        measures=values,
        differences=values,
        fid=252.25,
    )
    card = ControlCard(
        condition="segmentation",
        images=200,
        reference="base",
        reader="segmenter",
        features="toybox-clip",
        models=(score,),
    )
    written = io.StringIO()
    console = Console(file=written, width=80)
    print_card(card, console)
    shown = written.getvalue()
    assert "252.25" in shown
    assert "…" not in shown


@pytest.mark.parametrize(
    ("low", "high", "css"),
    [
        (0.0006, 0.01, "gain"),
        (0.0004, 0.01, ""),
        (-0.01, -0.0004, ""),
        (-0.01, -0.0006, "loss"),
        (-0.01, 0.01, ""),
    ],
)
def test_a_difference_is_coloured_where_its_ends_as_shown_leave_out_zero(
    low: float, high: float, css: str
) -> None:
    change = Interval(mean=(low + high) / 2, low=low, high=high, n=9)
    assert better("f1", change) == css
    opposite = {"gain": "loss", "loss": "gain", "": ""}
    percent = {"mean": 10 * change.mean, "low": 10 * low, "high": 10 * high, "n": 9}
    assert better("error", Interval.model_validate(percent)) == opposite[css]
