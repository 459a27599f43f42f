"""The terminal's table of control scores."""

from __future__ import annotations

import io

from rich.console import Console

from selma.applications.control.page import print_card
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
