"""Beside every score: who judged how, what a check of that judge found, and what is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import tiny_judges
from report.world import findings
from rich.console import Console

from selma.backbones.judges.loading import JUDGES, load_judge
from selma.backbones.preference.scorers import SCORERS
from selma.config import ReportConfig
from selma.config.scores import DetectorJudge, LocalJudge, ServedJudge
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.judges import Agreement, Checked, JudgeCheck, PeopleCheck
from selma.records.report import Findings
from selma.records.scores import Interval, JudgeInfo
from selma.report import page
from selma.report.judged import NOT_CHECKED, as_json, judged
from selma.report.tables import print_scorecard
from selma.scores.benchmarks import BENCHMARKS
from selma.scores.benchmarks.toybox import TOYBOX
from selma.scores.describing import describe, judge_checks, known_of
from selma.workspace import SCORES, Workspace, write_json

CONFIG = ReportConfig(grid_prompts=2, training_pairs=1)
INFO = JudgeInfo(
    name="little", fingerprint="f" * 64, weights="ab12", wording="{question}?", precision="bf16"
)
PROMPT = BenchmarkPrompt(
    id="a", text="a", group="all", questions=(Question(id="1", text="Is it?", category="entity"),)
)


def around(mean: float, *, n: int = 60) -> Interval:
    return Interval(mean=mean, low=mean - 2, high=mean + 2, n=n)


CHECK = Checked(
    drawn=JudgeCheck(
        judge="little", fingerprint="f" * 64, scenes=60, images=500, questions=900, unread=0,
        right=around(91.5), yes_bias=around(7.5), one_fact=around(80), other_image=around(90),
        nothing=around(1), turned=None, reworded=around(88), faults=("It leans to yes.",),
    ),
    people=PeopleCheck(
        judge="little", fingerprint="f" * 64, measure="VQAScore", models=("m",), unread=0,
        only_rated=0, only_scored=0,
        every=Agreement(images=90, prompts=30, spearman=None, kendall=around(41), pearson=None,
                        pairwise=around(63), tie=0.01),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    world = findings(tmp_path_factory.mktemp("world"), prompts=5)
    known = ("Nobody reaches 84.3.",)
    card = world.scorecard.model_copy(update={"judge_info": INFO, "known": known, "seeds": 2})
    return dataclasses.replace(world, scorecard=card)


def test_a_check_of_this_very_judge_is_told(found: Findings) -> None:
    sentences = judged(found.scorecard, {"f" * 64: CHECK})
    assert sentences == [
        "Judge little, of 10 images of each model; fingerprint ffffffffffffffff; weights ab12; "
        "questions put as: {question}?; precision bf16.",
        "Checked itself on 60 scenes: right 91.5 (89.5 to 93.5)%, bias to yes +7.5 (+5.5 to +9.5) "
        "points, alike in other words 88.0 (86.0 to 90.0)%. With people's votes on 90 images it "
        "agrees on 63.0 (61.0 to 65.0)% of pairs, Kendall's tau 41.0 (39.0 to 43.0). It leans to "
        "yes.",
        "Known: Nobody reaches 84.3.",
    ]
    # Of another wording or precision nothing was found.
    assert judged(found.scorecard, {"e" * 64: CHECK})[1] == NOT_CHECKED
    older = found.scorecard.model_copy(update={"judge_info": None})
    assert judged(older, {"f" * 64: CHECK})[:2] == [
        "Judge toybox-a, of 10 images of each model.", NOT_CHECKED
    ]  # fmt: skip


def test_page_json_and_terminal_have_it(found: Findings, tmp_path: Path) -> None:
    other = dataclasses.replace(
        found, scorecard=found.scorecard.model_copy(update={"known": ("Of the other.",)})
    )
    both = dataclasses.replace(found, checks={"f" * 64: CHECK}, further={"other": other})
    file = page.write_report(both, CONFIG, Workspace(tmp_path))
    html = file.read_text("utf-8")
    for text in ("Nobody reaches 84.3.", "Of the other.", "weights ab12", "precision bf16",
                 "bias to yes +7.5", "of 10 images of each model"):  # fmt: skip
        assert text in html, text
    kept = json.loads((file.parent / "scores.json").read_text())
    assert kept == as_json(both) and [*kept] == [found.scorecard.benchmark, "other"]
    first = kept[found.scorecard.benchmark]
    assert first["judge_info"] == INFO.model_dump() and first["images_of_each_model"] == 10
    assert first["judge_check"]["people"]["every"]["pairwise"]["mean"] == 63
    assert {model["model"] for model in first["models"]} >= {"base", "merged"}
    console = Console(width=300, record=True)
    print_scorecard(found.scorecard, console)
    text = console.export_text()
    assert "weights ab12" in text and "Known: Nobody reaches 84.3." in text
    # A check that comes later is in numbers and page of the finished report.
    late = dataclasses.replace(both, checks={})
    page.write_report(late, CONFIG, Workspace(tmp_path))
    kept = json.loads((file.parent / "scores.json").read_text())
    assert kept["other"]["judge_check"] is None


def test_a_scorecard_knows_its_judge(tmp_path: Path) -> None:
    card = findings(tmp_path, prompts=5).scorecard
    assert card.judge_info is not None and card.judge_info.name == "toybox-a"
    assert card.judge_info.fingerprint == "truth" and card.judge_info.weights == ""


def test_every_kind_of_judge_tells_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    local = LocalJudge(model=str(tiny_judges.folder("blip2-t5")), precision="bf16")
    judges = {
        "toybox-a": ("toybox-a", "{question}", "fp32"),
        "toybox-b": ("toybox-b", "{question}", "fp32"),
        "toybox-regions": ("toybox-regions", "plain questions, read as regions of a map", "fp32"),
        "transformers": (local, "Question: {question} Short answer:", "bf16"),
        "openai": (
            ServedJudge(base_url="http://127.0.0.1:1/v1", model="m"),
            "{question} Please answer yes or no.",
            "the server's",
        ),
        "detector": (
            DetectorJudge(model=str(tiny_judges.folder("blip")), threshold=0.25),
            "plain questions, read as boxes above 0.25, counted above 0.9",
            "fp32",
        ),
    }
    assert judges.keys() == {*JUDGES}
    for settings, wording, precision in judges.values():
        info = describe(load_judge(settings), [PROMPT], choices="selma")
        assert (info.wording, info.precision) == (wording, precision)
        assert info.weights and len(info.weights) <= 64
    spelled = PROMPT.model_copy(
        update={"questions": (Question(id="1", text="?", category="x", spellings=("four",)),)}
    )
    assert describe(load_judge("toybox-a"), [spelled], choices="x").wording.startswith("the bench")
    chosen = PROMPT.model_copy(
        update={"questions": (Question(id="1", text="?", category="x", choices=("a", "b")),)}
    )
    assert "Options:" in describe(load_judge("toybox-a"), [chosen], choices="selma").wording


def test_what_is_known_is_in_the_rows() -> None:
    """One sentence each, of published benchmarks, models and scorers."""
    sentences = {row.known for row in BENCHMARKS.values()} - {""}
    assert {row.name for row in BENCHMARKS.values() if row.known} == {
        row.name for row in BENCHMARKS.values() if row.files
    }
    sentences |= {row.family.known for row in SCORERS.values() if row.family} - {""}
    served = ServedJudge(base_url="http://127.0.0.1:1/v1", model="m")
    told = known_of(TOYBOX, served, "toybox", [PROMPT])
    assert told == ("What a server calls by one name may change behind it.",)
    assert known_of(TOYBOX, "toybox-a", "toybox", [PROMPT]) == ()
    for sentence in [*sentences, *told]:
        assert sentence.endswith(".") and len(sentence) < 300


def test_checks_are_found_by_fingerprint(tmp_path: Path) -> None:
    folder = Workspace(tmp_path)
    assert judge_checks(folder) == {}
    item = folder.item(SCORES, "judge-check", "judge", recipe={"a": 1})
    write_json(item.begin() / "check.json", CHECK.drawn.model_dump(mode="json"))
    assert judge_checks(folder) == {}, "not finished yet"
    item.finish([item.path / "check.json"], {})
    assert judge_checks(folder)["f" * 64] == Checked(drawn=CHECK.drawn)
    assert CHECK.people is not None
    item = folder.item(SCORES, "judge-check", "people", "judge", recipe={"a": 1})
    write_json(item.begin() / "people.json", CHECK.people.model_dump(mode="json"))
    item.finish([item.path / "people.json"], {})
    assert judge_checks(folder) == {"f" * 64: CHECK}
