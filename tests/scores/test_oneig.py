"""OneIG-Bench's alignment part in its repository's layout, counted both ways by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selma.applications.evaluation.dsg import DsgRules, score_answers
from selma.errors import DataError
from selma.records.benchmarks import Answer
from selma.scores.benchmarks import layout_of, read_benchmark
from selma.scores.benchmarks.oneig import ONEIG
from selma.scores.faithfulness import dependency_faults

# Questions and dependencies of anime 000: 3 needs 2, which needs 1; 4 names itself.
ANIME = (
    {"1": "Is there a fox?", "2": "Has it a hat?", "3": "Is the hat red?", "4": "Is it day?"},
    {"1": [0], "2": [1], "3": [2], "4": [4]},
)
OTHERS = ({"1": "Is there a nurse?"}, {"1": [0]})


def write(folder: Path, anime: Any = ANIME, *, nested: bool = True) -> Path:
    below = folder / "scripts" / "alignment" / "Q_D"
    below.mkdir(parents=True)
    for name, (question, dependency) in (("anime", anime), ("human", OTHERS), ("object", OTHERS)):
        parts = {"question": question, "dependency": dependency}
        row = {k: json.dumps(v) if nested else v for k, v in parts.items()}
        (below / f"{name}.json").write_text(json.dumps({"000": row}))
    (folder / "OneIG-Bench.csv").write_text(
        "category,id,prompt_en,type,prompt_length,class\n"
        'Anime_Stylization,000,"fox, hat",T,short,\n'
        "Portrait,000,A nurse smiles.,NP,short,\n"
        "General_Object,000,A nurse doll.,NP,short,\n"
        "Text_Rendering,000,A sign.,NP,short,\n"
    )
    return folder


@pytest.mark.parametrize("nested", [True, False])
def test_three_classes_are_read(tmp_path: Path, nested: bool) -> None:
    folder = write(tmp_path, nested=nested)
    assert layout_of(folder) is ONEIG
    prompts = read_benchmark(folder)
    assert [prompt.id for prompt in prompts] == ["anime_000", "human_000", "object_000"]
    assert [prompt.text for prompt in prompts] == ["fox, hat", "A nurse smiles.", "A nurse doll."]
    assert [q.parents for q in prompts[0].questions] == [(), ("1",), ("2",), ("4",)]
    assert dependency_faults(prompts) == {"names itself": 1}


def test_both_counts_of_the_same_answers(tmp_path: Path) -> None:
    prompts = read_benchmark(write(tmp_path))
    texts = {"anime_000": ["No", "Yes", "Yes", "Yes"], "human_000": ["Yes"], "object_000": ["yes."]}
    given = [
        Answer(prompt_id=id, question_id=str(n), text=text)
        for id, said in texts.items()
        for n, text in enumerate(said, 1)
    ]
    scores = {}
    for name in ("sound", "released"):
        rules = ONEIG.rules(name)  # type: ignore[arg-type]
        own = DsgRules(reading=rules.reading, zeroing=rules.zeroing or "cascading")
        scores[name] = score_answers(
            prompts, given, rules=own, measure=rules.measure, resamples=50
        )["score"]
    # No fox: no hat, and no colour of it. One level takes the hat alone, whose own answer was yes.
    assert scores["sound"] == pytest.approx(100 * (1 / 4 + 1 + 1) / 3, abs=1e-3)
    assert scores["released"] == pytest.approx(100 * (2 / 4 + 1 + 0) / 3, abs=1e-3)


@pytest.mark.parametrize(
    ("anime", "words"),
    [
        (({"1": "a?", "2": "b?"}, {"1": [0]}), "anime.json, 000: each question must have its dep"),
        (({}, {}), "000: it must have questions"),
        (({"1": ""}, {"1": [0]}), "question 1 must be a text"),
        (("[]", {"1": [0]}), "must be a JSON object"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, anime: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_benchmark(write(tmp_path, anime))


def test_a_prompt_without_text_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "OneIG-Bench.csv").write_text("category,id,prompt_en\nPortrait,000,A nurse.\n")
    with pytest.raises(DataError, match=r"000: OneIG-Bench\.csv must have its prompt in Anime"):
        read_benchmark(folder)


def test_an_empty_class_is_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "scripts" / "alignment" / "Q_D" / "human.json").write_text("{}")
    with pytest.raises(DataError, match=r"human\.json must have the prompts of a class"):
        read_benchmark(folder)


def test_prompts_without_questions_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path)
    with (folder / "OneIG-Bench.csv").open("a") as file:
        file.write("Portrait,001,A cook.,NP,short,\nPortrait,002,A clown.,NP,short,\n")
    assert len(read_benchmark(folder)) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "2 prompts of Portrait have no questions in human.json and are left out, 001" in told
    path = folder / "OneIG-Bench.csv"
    path.write_text(path.read_text().replace("Portrait,002,A clown.,NP,short,\n", ""))
    read_benchmark(folder)
    told = " ".join(capsys.readouterr().err.split())
    assert "1 prompt of Portrait has no questions in human.json and is left out, 001" in told


def test_two_rows_of_one_prompt_are_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path)
    with (folder / "OneIG-Bench.csv").open("a") as file:
        file.write("Portrait,000,A cook.,NP,short,\n")
    with pytest.raises(DataError, match="line 6: 000 of Portrait came before"):
        read_benchmark(folder)


@pytest.mark.parametrize("where", ["prompt", "question"])
def test_a_key_that_stands_twice_is_an_error(tmp_path: Path, where: str) -> None:
    """Others keep the last alone, so that a prompt or a question would be gone unseen."""
    folder = write(tmp_path, nested=False)
    file = folder / "scripts" / "alignment" / "Q_D" / "human.json"
    row = '{"question": {"1": "a?"}, "dependency": {"1": [0]}}'
    if where == "question":
        row = row.replace('"1": "a?"', '"1": "a?", "1": "b?"')
    file.write_text(f'{{"000": {row}' + (f', "000": {row}}}' if where == "prompt" else "}"))
    with pytest.raises(DataError, match="stands there twice"):
        read_benchmark(folder)
