"""A run's studies in its report: those with votes, and whether their images are current."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from applications.study.little import little_study
from applications.study.test_summary import papers_votes
from report.test_page import CONFIG, Parsed
from report.world import findings
from typer.testing import CliRunner

from selma import cli
from selma.applications.study.ballot import read_ballot
from selma.applications.study.database import study_file
from selma.applications.study.results import Studied, studied, study_page, write_study_page
from selma.applications.study.store import Store
from selma.applications.study.summary import summarise
from selma.errors import DataError
from selma.records.report import Findings
from selma.report import page, paper
from selma.report.pages import read_pages
from selma.workspace import Workspace


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return findings(tmp_path_factory.mktemp("world"), merged=0.3)


def report(run: Path, name: str = "votes") -> None:
    result = CliRunner().invoke(cli.app, ["study", "report", str(run), "--name", name])
    if result.exception:
        raise result.exception


def test_only_votes_make_a_study_and_new_images_make_it_old(
    tmp_path: Path, results: Findings
) -> None:
    study = little_study(tmp_path, prompts=4)
    store = Store(study_file(tmp_path, "votes"), study)
    secret = store.join("Ada").secret
    report(tmp_path)
    assert read_pages(Workspace(tmp_path)) == []
    for step in range(3):
        store.vote(secret, step, "left", seconds=1.0)
    report(tmp_path)  # while the study is served
    with_votes = studied(tmp_path, read_ballot(study_file(tmp_path, "votes")))
    store.close()
    (entry,) = read_pages(Workspace(tmp_path))
    assert entry.name == "study-votes" and entry.file == "study-votes.html" and with_votes.current
    assert with_votes.summary.votes == 3 and with_votes.summary.unfinished == ("Ada",)
    names = [name for name, _ in with_votes.rows]
    assert names[0] == "All" and set(names[1:]) == {pair.group for pair in study.pairs}
    total, *parts = (row for _, row in with_votes.rows)
    assert sum(p.win for p in parts) == total.win and total.win + total.lose == 3
    full = Parsed((tmp_path / "6-report" / "study-votes.html").read_text())
    section = Parsed(page.render(results, CONFIG, [entry])).text
    for text in (section, full.text):
        assert "1 of them had not finished." in text and "generated anew" not in text
        assert f"All {total.win} {total.lose} {total.tie} " in text and "by 1 person" in text
    assert not any(tag in ("script", "img") for tag, _ in full.tags)

    manifest = tmp_path / "5-scores" / "images" / "quagga" / "manifest.json"
    value = json.loads(manifest.read_text())
    value["files"][f"{study.pairs[0].id}.png"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(value))
    outdated = studied(tmp_path, read_ballot(study_file(tmp_path, "votes")))
    assert not outdated.current
    path = write_study_page(tmp_path, "votes", outdated)
    (entry,) = read_pages(Workspace(tmp_path))
    for html in (path.read_text(), page.render(results, CONFIG, [entry])):
        assert "generated anew" in Parsed(html).text


def test_the_report_names_images_made_anew_after_the_page(
    tmp_path: Path, results: Findings
) -> None:
    study = little_study(tmp_path, prompts=4)
    store = Store(study_file(tmp_path, "votes"), study)
    store.vote(store.join("Ada").secret, 0, "left", seconds=1.0)
    store.close()
    report(tmp_path)
    (entry,) = read_pages(Workspace(tmp_path))
    keys = dict(entry.about)
    assert set(keys) == {"images/okapi", "images/quagga"}
    same = dataclasses.replace(results, keys=keys)
    assert "made anew" not in page.render(same, CONFIG, [entry])
    keys["images/quagga"] = "other"
    text = Parsed(page.render(dataclasses.replace(results, keys=keys), CONFIG, [entry])).text
    assert "made anew since: images/quagga." in text


def test_votes_are_shown_like_table_8(results: Findings) -> None:
    assert 'id="page-study' not in page.render(results, CONFIG)
    summary = summarise(papers_votes(), resamples=300)
    new = study_page("votes", Studied(summary, current=True), about={}, votes={})
    html = page.render(results, CONFIG, [new])
    text = Parsed(html).text
    assert 'id="page-study-votes"' in html
    for row in (*summary.groups.values(), summary.all):
        assert f" {row.win} {row.lose} {row.tie} " in text
    assert "All 241 114 245 67.9" in text and "whoops 21 10 26 67.7" in text
    assert summary.alpha and f"alpha {summary.alpha.mean:.2f}".replace("-", "−") in text
    assert "generated anew" not in text and "The paper: SDXL" not in text
    old = study_page("votes", Studied(summary, current=False), about={}, votes=dict(paper.VOTES))
    text = Parsed(page.render(results, CONFIG, [old])).text
    assert "generated anew" in text and "The paper: SDXL" in text and "COCO 35 2 47 94.6" in text


@pytest.mark.parametrize("published", ["dsg-1k", None])
def test_the_papers_votes_are_shown_on_its_own_prompts(
    tmp_path: Path, results: Findings, published: str | None
) -> None:
    card = results.scorecard.model_copy(update={"published": published})
    (tmp_path / "5-scores" / "scorecard").mkdir(parents=True)
    (tmp_path / "5-scores" / "scorecard" / "scorecard.json").write_text(card.model_dump_json())
    study = Studied(summarise(papers_votes(), resamples=300), current=True)
    text = Parsed(write_study_page(tmp_path, "votes", study).read_text()).text
    assert ("The paper: SDXL" in text) == ("COCO 35 2 47 94.6" in text) == bool(published)


def test_what_is_no_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "votes.sqlite").write_text("no study")
    with pytest.raises(DataError, match=r"votes\.sqlite"):
        report(tmp_path)
