"""Judges, judged: what is asked has the right answers, and bad judges are exposed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selma.applications.judges import asking
from selma.applications.judges.asking import CHANGED, NOTHING, OTHER, PLAIN, SAID, everything
from selma.applications.judges.checking import _judges, found_of, sentences
from selma.applications.judges.table import TITLE
from selma.cli import app
from selma.config.scores import ScoresConfig
from selma.records.benchmarks import Answer
from selma.records.judges import JudgeCheck
from selma.scores.answering import _say_unread
from selma.toybox.questions import claims
from selma.toybox.scenes import sample_scene

SHOWN = everything(24, seed=3)
Say = Callable[[str, str, str, str], str]
"""(what the image shows, question's words, right answer, way it is put) → an answer."""


def found(say: Say) -> JudgeCheck:
    answers = [
        Answer(
            prompt_id=each.prompt.id,
            question_id=question.id,
            text=say(each.prompt.group, question.text, question.answer, question.id),
        )
        for each in SHOWN
        for question in each.prompt.questions
    ]
    return found_of(SHOWN, answers, judge="made up", fingerprint="f", resamples=500)


DICE = random.Random(7)


def chance(_: str, text: str, right: str, way: str) -> str:
    return DICE.choice(["yes", "no"])


def by_words(_: str, text: str, right: str, way: str) -> str:
    """One who reads what is asked, and never looks: half of all words are a yes."""
    return random.Random(text).choice(["yes", "no"])


def test_a_perfect_judge_has_no_fault() -> None:
    check = found(lambda shows, text, right, way: right)
    assert check.faults == () and check.unread == 0
    assert sentences(check) == ["Nothing is wrong with it here."]
    for measure in ("right", "one_fact", "other_image", "turned", "reworded"):
        assert getattr(check, measure).mean == 100
    assert check.nothing and check.nothing.mean == 0
    assert check.yes_bias and check.yes_bias.mean == 0, "half of what is asked is so"
    assert set(check.categories) == {"entity", "colour", "count", "action", "spatial", "global"}
    assert check.scenes == 24 and check.images == len(SHOWN)


@pytest.mark.parametrize(
    ("say", "faults", "bias"),
    [
        (lambda *_: "yes", ("not look", "leans to yes", "one colour", "turns a question"), 50),
        (lambda *_: "no", ("not look", "leans to no", "turns a question"), -50),
        (chance, ("not look", "one colour", "turns a question", "contradicts"), 0),
        (by_words, ("not look", "turns a question", "contradicts"), None),
    ],
    ids=["always yes", "always no", "by chance", "by the words alone"],
)
def test_who_does_not_look_is_exposed(
    say: Say, faults: tuple[str, ...], bias: float | None
) -> None:
    check = found(say)
    for fault in faults:
        assert any(fault in sentence for sentence in check.faults), (fault, check.faults)
    assert check.one_fact and check.one_fact.low <= 0 <= check.one_fact.high
    assert check.right and abs(check.right.mean - 50) < 15
    if bias is not None:
        assert check.yes_bias and abs(check.yes_bias.mean - bias) < 10


def test_one_who_knows_things_and_not_facts_is_told_so() -> None:
    """Of any image it knows which scene it is of, and agrees with all that is said of that."""
    check = found(lambda shows, text, right, way: "yes" if shows in (SAID, CHANGED) else "no")
    assert "It does not tell images apart that differ in one fact." in check.faults
    assert check.other_image and check.other_image.mean == 100
    assert check.one_fact and check.one_fact.mean == 0
    assert not any("not look" in fault for fault in check.faults)


def test_what_cannot_be_read_is_counted_and_not_guessed() -> None:
    check = found(lambda shows, text, right, way: right if way.endswith(PLAIN) else "not read")
    assert check.turned is None and check.reworded is None and check.faults == ()
    unread = sum(not q.id.endswith(PLAIN) for each in SHOWN for q in each.prompt.questions)
    assert check.unread == pytest.approx(100 * unread / check.questions, abs=1e-3)
    assert "could not read" in sentences(check)[-1]
    mute = found(lambda *_: "perhaps")
    assert mute.right is None and mute.faults == ("It read none of the questions.",)


def test_every_question_is_asked_of_images_that_differ() -> None:
    by_id = {each.prompt.id: each for each in SHOWN}
    for each in SHOWN:
        number = each.prompt.id.partition("-")[0]
        if each.prompt.group == CHANGED:
            said = by_id[f"{number}-{SAID}"]
            assert (each.pixels != said.pixels).any()
            of_said = {q.id: q for q in said.prompt.questions}
            for question in each.prompt.questions:
                assert question.text == of_said[question.id].text
                assert question.answer != of_said[question.id].answer
        if each.prompt.group in (OTHER, NOTHING):
            assert {question.answer for question in each.prompt.questions} == {"no"}


def test_a_changed_scene_differs_in_that_fact_alone() -> None:
    rng = random.Random(5)
    for _ in range(60):
        scene = sample_scene(rng)
        facts = [claim for claim, _ in claims(scene)]
        for claim in facts:
            changed = [fact for fact, _ in claims(asking._changed(scene, claim, rng))]
            assert claim not in changed
            if claim[0] == "entity":  # all that is said of the thing is said of another
                continue
            gone = [fact for fact in facts if fact not in changed]
            assert gone == [claim]


def test_all_judges_that_report_are_checked_each_once() -> None:
    blip = {"kind": "transformers", "model": "Salesforce/blip-vqa-capfilt-large"}
    further = {"benchmark": "toybox", "prompts": 4}
    scores = ScoresConfig.model_validate(
        {"further": {"a": further | {"judge": blip}, "b": further | {"judge": blip}, "c": further}}
    )
    assert [*_judges(scores)] == ["judge", "further.a.judge", "choosing_judge"]


def test_the_command_judges_both_judges_and_the_report_has_a_section(tmp_path: Path) -> None:
    _say_unread.cache_clear()  # it is said once in a process
    out, folder = tmp_path / "checks.json", tmp_path / "run"
    (tmp_path / "run.yaml").write_text("name: little\nscores: {resamples: 200}\n")
    command = ["judge", "check", str(tmp_path / "run.yaml"), "--folder", str(folder)]
    result = CliRunner().invoke(app, [*command, "--scenes", "4", "--json", str(out)])
    assert result.exit_code == 0, result.output
    checks = json.loads(out.read_text())
    assert checks.keys() == {"judge", "choosing_judge"}
    for name, check in checks.items():
        kept = folder / "5-scores" / "judge-check" / name / "check.json"
        assert json.loads(kept.read_text()) == check
        assert check["right"]["mean"] > 95 and check["turned"] is None
    page = json.loads((folder / "6-report" / "pages" / "judges.json").read_text())
    assert page["title"] == TITLE and page["about"] == {"scores/judge": "toybox-a"}
    assert "toybox-b (chooses)" in page["headline"]
    # A question that is turned round has words that toybox's judges were not taught.
    words = " ".join(result.output.split())
    assert (
        "toybox-a cannot read" in words and "words, all of them toybox's. Such an answer" in words
    )
    assert "neither a yes nor a no" in words and "earns no point" not in words
    before = (kept.stat().st_mtime_ns, kept.read_bytes())
    again = CliRunner().invoke(app, [*command, "--scenes", "4"])
    assert again.exit_code == 0 and (kept.stat().st_mtime_ns, kept.read_bytes()) == before
