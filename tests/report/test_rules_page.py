"""The page of a scorecard by released rules, with measures beside the score."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from report.world import findings

from selma.config import ReportConfig
from selma.records.scores import Interval
from selma.report.page import write_report
from selma.workspace import Workspace


def test_rules_and_measures_beside_the_score_are_on_the_page(tmp_path: Path) -> None:
    found = findings(tmp_path / "world", prompts=4, merged=0.3)
    beside = Interval(mean=41.5, low=40.0, high=43.0, n=4)
    change = Interval(mean=7.25, low=5.0, high=9.0, n=4)
    models = tuple(
        model.model_copy(
            update={
                "beside": {"Soft-TIFA AM": beside},
                "beside_differences": {} if model.role == "base" else {"Soft-TIFA AM": change},
            }
        )
        for model in found.scorecard.models
    )
    plain = found.scorecard
    released = plain.model_copy(
        update={"models": models, "rules": "released", "rules_about": "Rows <first> are skipped."}
    )
    config = ReportConfig(grid_prompts=1, training_pairs=1)
    texts = []
    for number, card in enumerate((plain, released)):
        shown = dataclasses.replace(found, scorecard=card)
        path = write_report(shown, config, Workspace(tmp_path / f"run-{number}"))
        texts.append(path.read_text("utf-8"))
    assert "Counted as the released program counts" not in texts[0]
    assert "Soft-TIFA" not in texts[0]
    assert "Counted as the released program counts" in texts[1]
    assert "Rows &lt;first&gt; are skipped." in texts[1]
    assert texts[1].count("41.5") == len(models) and "+7.2" in texts[1]
