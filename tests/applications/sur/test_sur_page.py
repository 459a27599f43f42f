"""What a SUR-adapter did, as a page of its own and as a section of the run's report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from report.test_page import CONFIG, HOSTILE, Parsed, addresses
from report.world import findings

from selma.applications.sur.page import meaning, sur_page, write_sur_page
from selma.applications.sur.records import Distances, SurResult
from selma.records.report import Findings
from selma.records.scores import Interval
from selma.report import page
from selma.report.pages import read_pages
from selma.workspace import Workspace


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings(tmp_path_factory.mktemp("world"), merged=0.3)


def test_what_a_sur_adapter_did_is_a_section(found: Findings, tmp_path: Path) -> None:
    base, *_ = found.scorecard.models
    sur = found.scorecard.models[-1].model_copy(update={"model": "sur", "role": "other"})
    card = found.scorecard.model_copy(update={"models": (base, sur), "guidance": 3.0})
    interval = Interval(mean=-1.25, low=-2.5, high=-0.5, n=20)
    distances = Distances(
        encoder=HOSTILE, fingerprint="f" * 16, images=40, kernel={"base": interval,
        "sur": interval}, kernel_differences={"sur": interval}, frechet={"base": 3.0, "sur": 2.5},
    )  # fmt: skip
    result = SurResult(
        card=card, keywords={p.id: HOSTILE for p in found.benchmark_prompts}, distances=distances
    )
    keys = {"images/base": "0123", "scores/judge": card.judge}
    run = dataclasses.replace(found, keys=keys)
    html = page.render(run, CONFIG, [sur_page(result, about=keys)])
    shown = Parsed(html)
    assert "Plain prompts, read by the SUR-adapter" in shown.text and "−1.25" in shown.text
    assert not any(tag == "script" and attrs for tag, attrs in shown.tags)
    assert "Plain prompts" not in Parsed(page.render(found, CONFIG)).text
    assert "made anew" not in shown.text
    change = sur.difference
    assert change is not None
    said = (
        f"Through the adapter plain prompts score {sur.score.mean:.1f} (DSG), without it "
        f"{base.score.mean:.1f}: {change.mean:+.1f} points on the same 20 benchmark prompts and "
        f"with the same seeds, both at guidance 3; the 95% interval is {change.low:+.1f} to "
        f"{change.high:+.1f}."
    )
    assert said in shown.text
    other = dataclasses.replace(found, keys=keys | {"scores/judge": "another"})
    told = Parsed(page.render(other, CONFIG, [sur_page(result, about=keys)])).text
    assert "made anew since: scores/judge." in told
    place = write_sur_page(
        result, found.benchmark_prompts,
        {"base": found.images["base"], "sur": found.images["merged"]},
        {"base": found.answers["base"], "sur": found.answers["merged"]}, CONFIG,
        Workspace(tmp_path), about=keys,
    )  # fmt: skip
    alone = Parsed(place.read_text())
    assert said in alone.text.split("Model")[0]  # above the first table
    assert sum(tag == "img" for tag, _ in alone.tags) == 2 * CONFIG.grid_prompts
    assert not any(tag == "script" for tag, _ in alone.tags)
    assert all(a.startswith(("data:", "#")) for a in addresses(alone))
    assert [handed.name for handed in read_pages(Workspace(tmp_path))] == ["sur"]


@pytest.mark.parametrize(
    ("low", "high", "end"),
    [
        (1.0, 3.0, "seeds; the 95% interval is +1.0 to +3.0."),
        (-1.0, 5.0, "which holds zero: this benchmark cannot tell the two apart."),
        (2.0, 2.0, "+2.0 points on the same 20 benchmark prompts and with the same seeds."),
    ],
)
def test_the_first_sentence_says_what_the_interval_allows(
    found: Findings, low: float, high: float, end: str
) -> None:
    base, *_, merged = found.scorecard.models
    change = Interval(mean=2.0, low=low, high=high, n=20)
    sur = merged.model_copy(update={"model": "sur", "role": "other", "difference": change})
    card = found.scorecard.model_copy(update={"models": (base, sur), "guidance": None})
    assert meaning(SurResult(card=card)).endswith(end)
    assert meaning(SurResult(card=card.model_copy(update={"models": (base,)}))) == ""
