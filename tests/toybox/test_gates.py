"""The gates of toybox's base: what they say of numbers, and that the weights pass them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from selma.backbones.bases import steps_of
from selma.config.networks import BaseConfig
from selma.toybox import weights_folder
from selma.toybox.benchmark import benchmark_prompts, stated
from selma.toybox.captions import STYLES
from selma.toybox.mismatch import ideal
from selma.toybox.pretraining.__main__ import SHIPPED, _record
from selma.toybox.pretraining.gates import (
    GATES,
    MEASURED,
    PARTS,
    RESTS_ON,
    best_guidance,
    fingerprint,
    gates,
    ideal_score,
    missed,
    rests_on,
    reworded,
    without_outdated,
)

JUDGES = ("judge-a", "judge-b")
PASSED = {
    "dsg_1": 55.0,
    "dsg_best": 75.0,
    "best_guidance": 4.0,
    "dsg_9": 72.0,
    "ideal_9": 95.0,
    "tags_minus_sentences": 12.0,
    "spatial": 55.0,
    "share_of_ideal": 88.0,
    "judge_a_degraded": 99.0,
    "judge_b_degraded": 98.5,
}


def test_the_weights_pass_every_gate() -> None:
    notes = json.loads((weights_folder() / "pretraining.json").read_text())
    assert missed(notes["gates"]) == []
    assert set(notes["gates"]) == {gate.name for gate in GATES}


def test_the_gates_were_measured_with_the_weights_that_are_there() -> None:
    """If this fails: new weights need new gates, `bench/gates.py --work FOLDER`."""
    notes = json.loads((weights_folder() / "pretraining.json").read_text())
    prompts, steps = len(benchmark_prompts("dev")), steps_of(BaseConfig(model="toybox"))
    assert notes[RESTS_ON] == rests_on(weights_folder(), prompts=prompts, steps=steps)


def test_the_recorded_gates_are_those_of_the_recorded_curve() -> None:
    notes = json.loads((weights_folder() / "pretraining.json").read_text())
    curve = {float(guidance): points for guidance, points in notes["guidance"]["plain"].items()}
    ideals = {g: ideal_score(benchmark_prompts("dev"), g) for g in (3.0, 9.0)}
    expected = gates(
        curve,
        ideals,
        spatial=dict.fromkeys(curve, notes["gates"]["spatial"]),
        tags_minus_sentences=notes["gates"]["tags_minus_sentences"],
        judges={judge: notes["gates"][f"{judge.replace('-', '_')}_degraded"] for judge in JUDGES},
    )
    assert notes["gates"] == pytest.approx(expected, abs=0.011)  # written with two decimals
    assert set(curve) == {float(guidance) for guidance in notes["guidance"]["rescaled"]}


@pytest.mark.parametrize("part", SHIPPED)
def test_what_is_noted_of_a_part_is_of_the_weights_that_are_there(part: str) -> None:
    """If this fails: pre-train the part by `python -m selma.toybox.pretraining --only`."""
    notes = json.loads((weights_folder() / "pretraining.json").read_text())
    assert notes[part]["weights"] == fingerprint(weights_folder() / part)


@pytest.mark.parametrize("part", ["reader", "base", "judge-b"])
def test_gates_go_when_a_part_that_they_rest_on_is_replaced(tmp_path: Path, part: str) -> None:
    for name in (*PARTS, "reader"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"old")
    measured: dict[str, object] = {key: {} for key in MEASURED}
    notes = measured | {RESTS_ON: rests_on(tmp_path, prompts=320, steps=8)}
    (tmp_path / "pretraining.json").write_text(json.dumps(notes))
    _record(tmp_path, part, {}, torch.device("cpu"))
    assert {*measured, RESTS_ON} <= json.loads((tmp_path / "pretraining.json").read_text()).keys()
    (tmp_path / part / "model.safetensors").write_bytes(b"new")
    _record(tmp_path, part, {}, torch.device("cpu"))
    kept = json.loads((tmp_path / "pretraining.json").read_text()).keys()
    assert kept == ({part, *measured, RESTS_ON} if part == "reader" else {part})


def test_gates_without_a_word_on_what_they_rest_on_go(tmp_path: Path) -> None:
    assert without_outdated({"gates": PASSED, "base": {}}, tmp_path) == {"base": {}}


def test_each_gate_can_be_missed_and_is_named() -> None:
    assert set(PASSED) == {gate.name for gate in GATES} and missed(PASSED) == []
    for name in PASSED:
        without = {key: value for key, value in PASSED.items() if key != name}
        if name != "dsg_best":  # others are held against it
            assert len(missed(without)) == 1 and name in missed(without)[0]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("dsg_1", 49.9, "dsg_1 .*at least 50, but is 49.9"),
        ("dsg_1", 62.1, "at most 62"),
        ("dsg_best", 69.9, "at least 70"),
        ("best_guidance", 2.0, "at least 3"),
        ("best_guidance", 7.0, "at most 6"),
        ("dsg_9", 73.1, "dsg_9 - dsg_best .*at most -2, but is -1.9"),
        ("ideal_9", 82.9, "ideal_9 - dsg_best .*at least 8, but is 7.9"),
        ("tags_minus_sentences", 7.9, "at least 8"),
        ("spatial", 49.9, "at least 50"),
        ("share_of_ideal", 84.9, "at least 85"),
        ("judge_a_degraded", 97.9, "at least 98"),
        ("judge_b_degraded", 97.9, "at least 98"),
        ("spatial", float("nan"), "at least 50, but is nan"),
        ("dsg_1", float("nan"), "at most 62, but is nan"),
    ],
)
def test_a_gate_that_is_missed_says_by_how_much(name: str, value: float, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        assert not missed(PASSED | {name: value}), missed(PASSED | {name: value})


def test_gates_are_read_from_the_curves() -> None:
    dsg = {1.0: 55.0, 3.0: 75.0, 4.0: 75.0, 9.0: 70.0}
    measured = gates(
        dsg,
        {3.0: 80.0, 9.0: 95.0},
        spatial={1.0: 30.0, 3.0: 60.0, 4.0: 61.0, 9.0: 50.0},
        tags_minus_sentences=9.0,
        judges={"judge-a": 99.0, "judge-b": 98.0},
    )
    assert best_guidance(dsg) == 3.0  # of equal ones the lowest
    assert measured["dsg_best"] == 75.0 and measured["spatial"] == 60.0
    assert measured["share_of_ideal"] == pytest.approx(93.75)
    assert missed(measured) == []


def test_the_ideal_score_is_the_mean_over_prompts() -> None:
    prompts = benchmark_prompts("dev")[:2]
    contents = [stated("dev")[prompt.id] for prompt in prompts]
    shares = [[*ideal(c.scene, c.style, 2.0).values()] for c in contents]
    expected = 100 * sum(sum(row) / len(row) for row in shares) / 2
    assert ideal_score(prompts, 2.0) == pytest.approx(expected)


def test_rewording_keeps_ids_and_questions_and_says_the_same() -> None:
    prompts = benchmark_prompts("dev")[:160]
    tags, sentences = (reworded(prompts, tags=value) for value in (True, False))
    for prompt, tag, sentence in zip(prompts, tags, sentences, strict=True):
        assert tag.id == sentence.id == prompt.id
        assert tag.questions == sentence.questions == prompt.questions
        content = stated("dev")[prompt.id].scene
        for group in content.groups:
            for fact in filter(None, (group.kind, group.colour)):
                assert fact in tag.text and fact in sentence.text
    assert any(tag.text.count(",") > 1 for tag in tags)
    assert len({s.text.split()[0] for s in sentences}) > len(STYLES)
    assert reworded(prompts, tags=False) == sentences
