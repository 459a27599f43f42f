"""Questions about a run's prompts, from each source: made once, and what has none is counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scripted import Script, says, serving, writes

from selma.config.questions import WrittenQuestions
from selma.errors import DataError, NoProgress
from selma.prompts.questions.sources import write_questions
from selma.records.prompts import Prompt, prompt_id
from selma.scores.benchmarks import read_benchmark
from selma.scores.faithfulness import verdicts
from selma.workspace import Workspace, manifest

ITEM = "1-prompts/_questions/things"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")


def prompts(*texts: str) -> dict[str, list[Prompt]]:
    return {"things": [Prompt(id=prompt_id("things", t), skill="things", text=t) for t in texts]}


def asked(root: Path, texts: list[str], source: Any) -> dict[str, list[str]]:
    of_skill = write_questions(prompts(*texts), source, Workspace(root), read_file=read_benchmark)[
        "things"
    ]
    assert all(prompt.group == "things" for prompt in of_skill)
    return {prompt.text: [question.text for question in prompt.questions] for prompt in of_skill}


def summary(root: Path) -> dict[str, Any]:
    return manifest(root / ITEM)["summary"]


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    paths = [path for path in (root / ITEM).rglob("*") if path.is_file()]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_toyboxs_captions_are_read_back(tmp_path: Path) -> None:
    texts = ["two red dogs above a cat", "a thing of beauty", "a sleeping cat in the snow"]
    assert asked(tmp_path, texts, "toybox") == {
        texts[0]: [
            "Are there dogs?",
            "Are the dogs red?",
            "Are there two dogs?",
            "Is there a cat?",
            "Are the dogs above the cat?",
        ],
        texts[2]: ["Is there a cat?", "Is the cat sleeping?", "Is the background snow?"],
    }
    counted = {"prompts": 3, "questions": 8, "dropped": {"no caption of toybox": 1}}
    assert summary(tmp_path) == counted
    before = contents(tmp_path)
    asked(tmp_path, texts, "toybox")
    assert contents(tmp_path) == before


def test_exactly_one_is_asked_for_where_one_is_named(tmp_path: Path) -> None:
    text = "two red dogs above a cat"
    plain = asked(tmp_path, [text], "toybox")[text]
    found = write_questions(
        prompts(text), "toybox_exact", Workspace(tmp_path), read_file=read_benchmark
    )["things"][0].questions
    assert [question.text for question in found[:5]] == plain
    more = [(question.text, question.answer, question.parents) for question in found[5:]]
    assert more == [(f"Are there {n} cats?", "no", ("4",)) for n in ("two", "three", "four")]
    said = {"1": "yes", "2": "yes", "3": "yes", "4": "yes", "5": "yes"}
    one, two = {"6": "no", "7": "no", "8": "no"}, {"6": "yes", "7": "no", "8": "no"}
    none = said | one | {"4": "no"}
    shares = {
        name: sum(v == "yes" for v in verdicts(found, texts, zeroing="cascading").values())
        for name, texts in {"one": said | one, "two": said | two, "none": none}.items()
    }
    assert shares == {"one": 8, "two": 7, "none": 3}  # nothing is earned by drawing no cat at all


def test_a_files_prompts_are_found_by_their_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    like = {"choices": ["yes", "no"], "answer": "yes", "element_type": "object", "element": "it"}
    rows = [
        {"id": f"q{n}", "caption": caption, "question": f"Is it {caption}?", **like}
        for n, caption in enumerate(["a lamp", "a boat"])
    ]
    path.write_text(json.dumps(rows))
    assert asked(tmp_path, ["a boat", "a car"], str(path)) == {"a boat": ["Is it a boat?"]}
    assert summary(tmp_path)["dropped"] == {"not in the file": 1}
    path.write_text(json.dumps([*rows, rows[0] | {"question": "Is it light?", "id": "q7"}]))
    with pytest.raises(DataError, match="two for 'a lamp'"):
        asked(tmp_path, ["a boat", "a car"], str(path))


def answers(request: dict[str, Any]) -> str:
    given = request["messages"][0]["content"].rpartition("nothing else.")[2].strip().split("\n")
    thing = given[1].removeprefix("a red ")
    return {
        "Facts:": f"1 | entity - whole ({thing})\n2 | attribute - color ({thing}, red)",
        "Dependencies:": "1 | 0\n2 | 1",
        "Questions:": f"1 | Is there a {thing}?\n2 | Is the {thing} red?",
    }[given[-1]]


def written(server: Script, **more: Any) -> WrittenQuestions:
    backend = {"kind": "openai", "model": "m", "base_url": server.url, "max_attempts": 1}
    return WrittenQuestions.model_validate({"backend": backend} | more)


def test_a_language_model_is_asked_once_for_each_reply(tmp_path: Path) -> None:
    texts = ["a red dog", "a red cup", "a red lamp"]
    expected = {t: [f"Is there {t.replace('red ', '')}?", f"Is the {t[6:]} red?"] for t in texts}
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    with serving(Script(writes(answers))) as server:
        config = written(server)
        assert asked(whole, texts, config) == expected
        requests = len(server.asked)
        assert requests == 9
        assert asked(whole, texts, config) == expected
        shutil.copytree(whole, torn)
        (torn / ITEM / "manifest.json").unlink()
        (torn / ITEM / "questions.jsonl").unlink()
        assert asked(torn, texts, config) == expected
        assert len(server.asked) == requests
    first = contents(whole)
    assert {name: data for name, (data, _) in contents(torn).items()} == {
        name: data for name, (data, _) in first.items()
    }


def test_a_model_without_usable_replies_is_a_report(tmp_path: Path) -> None:
    with (
        serving(Script(says("I would rather not."))) as server,
        pytest.raises(NoProgress, match="gave no questions"),
    ):
        asked(tmp_path, ["a red dog"], written(server, attempts=1))
    assert not manifest(tmp_path / ITEM)
