"""Readers of records under seeded fuzz: what is none is an error of ours that names the file."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks import Attack
from fuzzing import CASES, fuzz, fuzzed
from typing_extensions import is_typeddict

import selma
from selma.applications.evaluation.tifa import read_tifa_answers
from selma.config.networks import BaseConfig
from selma.errors import DataError
from selma.finished import begun
from selma.manifests import read_manifest
from selma.record_files import json_text, read_record, read_rows, readable_rows
from selma.records import rows
from selma.records.prompts import Prompt
from selma.records.scores import Scorecard
from selma.report.pages import read_pages
from selma.row_files import write_rows
from selma.scores.hps import read_hps_prompts
from selma.scores.tifa import read_tifa
from selma.textfiles import json_rows
from selma.workspace import JournalLine, Workspace, append_lines, write_json

REPLY = {"text": "a", "prompt_tokens": 3, "reply_tokens": 4, "truncated": False, "cost": 0.1}
QUESTION = {"id": "1", "text": "is it a dog?", "category": "object"}
SAMPLES: dict[Any, dict[str, Any]] = {
    rows.ReplyRow: REPLY,
    rows.BatchOfReplies: {"first": 0, "replies": [REPLY, REPLY], "no_captions": ["a"]},
    rows.KeyedReplies: {"replies": {"k": REPLY}},
    rows.QuestionRow: {"id": "p", "text": "a dog", "questions": [QUESTION]},
    rows.AnswerRow: {"question": "1", "text": "yes", "yes": 0.5},
    rows.PromptAnswers: {
        "prompt": "p",
        "answers": [{"question": "1", "text": "yes", "yes": None}],
    },
    rows.Scored: {"score": 1.5},
    rows.PromptScore: {"prompt": "p", "score": 1},
    rows.VerdictRow: {"model": "base", "prompt": "p", "verdicts": {"1": "yes"}},
    rows.CandidateRow: {"candidate": "p-1", "prompt_id": "p", "text": "a dog", "score": 1.0},
    rows.PreferenceRow: {
        **{"prompt_id": "p", "text": "a dog", "winner": "a", "loser": "b"},
        **{"winner_score": 1.0, "loser_score": 0.5},
    },
    rows.ParsedText: {"text": "a dog", "sets": [[[0, 1]]]},
    rows.Caption: {"id": "p", "text": "a dog"},
    rows.Identified: {"id": "p"},
    rows.Loss: {"step": 1, "loss": None},
    rows.StepScore: {"step": 1, "score": 2.0},
    rows.Rewarded: {"prompt": "p", "reward": 0.5},
    rows.TrialRow: {"trial": 0, "weights": {"a": 1.0}, "scale": 1.0, "score": 50.0},
    rows.DiagnosticsFile: {"layers": {"unet.x": {"rank": 4}}},
    rows.HpsScores: {"per_image": {"anime": {"0": 0.2}}},
    rows.Distance: {"frechet": 1.0},
    rows.CachedAnswer: {"image": "x", "question": "q", "text": "yes", "yes": 0.5},
    rows.CachedPixels: {"file": "x", "pixels": "y", "opener": 2},
    rows.MetadataRow: {
        **{"file_name": "a.png", "text": "a dog", "prompt_id": "p", "seed": 7, "tokens_cut": 0},
    },
    Prompt: {"id": "p", "skill": "s", "text": "a dog"},
    JournalLine: {"time": 1.0, "stage": "1-prompts", "event": "request", "cost": 0.1},
}
"""Shape → a row that has it."""


def test_every_shape_has_a_sample() -> None:
    shapes = {
        s for s in vars(rows).values() if is_typeddict(s) and s.__module__ == rows.__name__
    } | {rows.QuestionRow}
    assert shapes <= SAMPLES.keys()


@pytest.mark.parametrize("shape", SAMPLES, ids=lambda shape: shape.__name__)
def test_rows_of_another_shape_are_refused(tmp_path: Path, shape: Any, attack: Attack) -> None:
    path = tmp_path / "rows.jsonl"
    cases = fuzzed(SAMPLES[shape], shape.__name__, lines=True)
    accepted = fuzz(attack, shape.__name__, path, cases, lambda: read_rows(path, shape))
    assert accepted < CASES, "something must be refused"
    path.write_bytes(json.dumps(SAMPLES[shape]).encode() + b"\n" + b'{"x": }\n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2 must be"):
        read_rows(path, shape)


@pytest.mark.parametrize(
    "wrong",
    [
        {"yes": 7000.0},
        {"yes": -0.1},
        {"yes": float("nan")},
        {"first": [["four", 8.0]]},
        {"first": [["four", "4"]]},
        {"first": [[0.5, 0.5]]},
    ],
)
def test_an_answer_has_no_probability_outside_0_to_1(tmp_path: Path, wrong: Any) -> None:
    path = tmp_path / "answers.jsonl"
    answer = {"question": "1", "text": "yes", "yes": 0.5, "first": [["four", 0.5]]}
    path.write_text(json.dumps({"prompt": "p", "answers": [answer]}) + "\n", "utf-8")
    assert read_rows(path, rows.PromptAnswers)
    path.write_text(json.dumps({"prompt": "p", "answers": [answer | wrong]}) + "\n", "utf-8")
    with pytest.raises(DataError, match=r"line 1 must have the shape of its kind, but at answers"):
        read_rows(path, rows.PromptAnswers)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nothing_is_written_that_json_does_not_have(tmp_path: Path, number: float) -> None:
    path = tmp_path / "scores"
    value = {"a": 1.0, "per": [{"b": number}]}
    for write in (write_json, lambda p, v: append_lines(p, [v]), lambda p, v: write_rows(p, [v])):
        with pytest.raises(DataError, match=r"but per\.0\.b is none"):
            write(path, value)
        assert not path.exists()
    assert json_text({"a": [1.5, "ä"]}) == '{"a": [1.5, "ä"]}'


@pytest.mark.parametrize("shape", [rows.Distance, rows.DiagnosticsFile, rows.HpsScores])
def test_records_of_another_shape_are_refused(tmp_path: Path, shape: Any, attack: Attack) -> None:
    path = tmp_path / "record.json"
    cases = fuzzed(SAMPLES[shape], shape.__name__, lines=False)
    fuzz(attack, f"one {shape.__name__}", path, cases, lambda: read_record(path, shape))


def test_a_scorecard_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scorecard.json"
    for data in (b"", b"{}", b"[]", b'{"models": 7}', b"[" * 100_000, b"\xff"):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"scorecard\.json"):
            read_record(path, Scorecard)


def test_a_log_loses_no_more_than_its_broken_lines(tmp_path: Path, attack: Attack) -> None:
    path = tmp_path / "journal.jsonl"
    sample = SAMPLES[JournalLine]

    def read() -> None:
        broken: list[int] = []
        lines = list(readable_rows(path, JournalLine, broken=broken))
        assert len(lines) + len(broken) <= path.read_bytes().count(b"\n") + 1

    fuzz(attack, "the journal", path, fuzzed(sample, "journal", lines=True), read)


def tifa_file(tmp_path: Path) -> tuple[Path, Any, Callable[[], Any]]:
    path = tmp_path / "questions.json"
    question = {"id": "1", "caption": "a dog", "question": "what is it?", "answer": "dog"}
    rest = {"choices": ["dog", "cat"], "element_type": "animal", "element": "dog"}
    return path, [question | rest], lambda: read_tifa(path)


def tifa_answers(tmp_path: Path) -> tuple[Path, Any, Callable[[], Any]]:
    path = tmp_path / "answers.json"
    row = {"id": "1", "question": "what?", "free_form_vqa": "dog", "multiple_choice_vqa": "dog"}
    return path, {"question_details": {"1": {"what?": row}}}, lambda: read_tifa_answers(path)


def tifa_answer_rows(tmp_path: Path) -> tuple[Path, Any, Callable[[], Any]]:
    path = tmp_path / "answers.json"
    return path, [{"id": 1, "question": "what?", "answer": "dog"}], lambda: read_tifa_answers(path)


def others_rows(tmp_path: Path) -> tuple[Path, Any, Callable[[], Any]]:
    path = tmp_path / "metadata.jsonl"
    return path, {"file_name": "a.png", "text": "a dog"}, lambda: json_rows(path)


def hps(tmp_path: Path) -> tuple[Path, Any, Callable[[], Any]]:
    for style in ("anime", "concept-art", "paintings", "photo"):
        (tmp_path / f"{style}.json").write_text('["a dog"]')
    return tmp_path / "anime.json", ["a dog", "a cat"], lambda: read_hps_prompts(tmp_path)


def model_index(tmp_path: Path) -> tuple[Path, Any, Callable[[], Any]]:
    from selma.backbones.base_files import base_family

    path = tmp_path / "model_index.json"
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    return path, index, lambda: base_family(BaseConfig(model=str(tmp_path)))


def page(tmp_path: Path) -> tuple[Path, Any, Callable[[], Any]]:
    folder = tmp_path / "6-report" / "pages"
    folder.mkdir(parents=True)
    sample = {"name": "a", "title": "A page", "headline": "what it says", "about": {}}
    return folder / "a.json", sample, lambda: read_pages(Workspace(tmp_path))


def item_manifest(tmp_path: Path) -> tuple[Path, Any, Callable[[], Any]]:
    item = Workspace(tmp_path).item("2-images", "a", recipe={"x": 1})
    (item.begin() / "a.txt").write_text("a")
    item.finish([item.path / "a.txt"], {})
    sample = json.loads((item.path / "manifest.json").read_text())

    def read() -> None:
        fresh = Workspace(tmp_path).item("2-images", "a", recipe={"x": 1})
        assert fresh.done in (True, False) and begun(fresh) is True
        read_manifest(item.path)

    return item.path / "manifest.json", sample, read


READERS = (
    *(tifa_file, tifa_answers, tifa_answer_rows, others_rows, hps, model_index, page),
    item_manifest,
)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_files_of_another_shape_are_refused(
    tmp_path: Path, reader: Callable[[Path], tuple[Path, Any, Callable[[], Any]]], attack: Attack
) -> None:
    path, sample, read = reader(tmp_path)
    name = reader.__name__.replace("_", " ")
    fuzz(attack, name, path, fuzzed(sample, reader.__name__, lines=False), read)


ALLOWED = {
    "record_files.py": "the one reader",
    "manifests.py": "manifests, which are read on any path",
    "workspace.py": "plans; a recipe in plain values",
    "textfiles.py": "others' rows",
    "folder_lock.py": "who holds the lock, for a message",
}


def test_own_files_are_read_in_one_place() -> None:
    """No module parses a file's JSON beside those that do nothing else, or say so here."""
    root = Path(selma.__file__).parent
    guilty = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and name not in ALLOWED and _parses_a_run_file(node):
                guilty.append(f"{name}:{node.lineno}")
    assert guilty == []


def _parses_a_run_file(call: ast.Call) -> bool:
    """`json.loads(item.path...)`, `model_validate_json(item.path...)` and their like."""
    text = ast.unparse(call)
    parses = text.startswith("json.load") or ".model_validate_json(" in text.split("(", 1)[0] + "("
    return parses and ("item.path" in text or "merged.folder" in text or "folder.root" in text)
