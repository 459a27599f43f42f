"""One door for every benchmark's file: DSG, TIFA, one's own prompts; and what no layout fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selma.applications.evaluation.tifa import read_tifa_answers, score_tifa
from selma.config import load_config
from selma.config.scores import ScoresConfig
from selma.errors import ConfigError, DataError
from selma.preflight import check
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.scores.answering import benchmark_hash
from selma.scores.benchmarks import layout_of, load_benchmark, read_benchmark
from selma.scores.benchmarks.tifa import QUESTIONS, TEXTS
from selma.scores.faithfulness import prompt_scores, understood, verdicts
from selma.scores.tifa import read_tifa

TIFA = Path(__file__).parents[3] / "shared" / "data" / "tifa"
released = pytest.mark.skipif(not TIFA.exists(), reason=f"TIFA's sample files: not in {TIFA}")

DSG_CSV = (
    "item_id,text,proposition_id,dependency,category_broad,category_detailed,"
    "question_natural_language\nx_1,a dog,1,0,entity,whole,Is there a dog?\n"
)


def tifa(id: str = "coco_1", **changed: Any) -> dict[str, Any]:
    return {
        "id": id,
        "caption": "a dog",
        "question": "what?",
        "choices": ["dog", "cat"],
        "answer": "dog",
        "element_type": "animal/human",
    } | changed


def folder_of(tmp_path: Path, texts: list[Any], questions: list[Any]) -> Path:
    (tmp_path / TEXTS).write_text(json.dumps(texts))
    (tmp_path / QUESTIONS).write_text(json.dumps(questions))
    return tmp_path


OWN = {
    "mine.txt": "# a note\na red dog\n\n  two cats  \n",
    "mine.csv": "text\na red dog\ntwo cats\n",
    "more.csv": "id,text,author\n7,a red dog,me\n8,two cats,me\n",
    "mine.jsonl": '{"text": "a red dog"}\n{"prompt": "two cats", "id": "c"}\n',
    "texts.jsonl": '"a red dog"\n"two cats"\n',
    "mine.json": json.dumps([{"id": "a", "caption": "a red dog"}, {"text": "two cats"}]),
}


@pytest.mark.parametrize("name", OWN)
def test_ones_own_prompts_have_ids_and_no_questions(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(OWN[name], "utf-8")
    if name == "texts.jsonl":
        assert layout_of(path).name == "prompts"
    benchmark_prompts = read_benchmark(path)
    assert [p.text for p in benchmark_prompts] == ["a red dog", "two cats"]
    assert all(not p.questions and p.group == "all" for p in benchmark_prompts)
    assert len({p.id for p in benchmark_prompts}) == 2


def test_an_id_made_of_the_text_stays_when_lines_move(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one dog\ntwo dogs\n")
    first = {p.text: p.id for p in read_benchmark(path)}
    path.write_text("no dog\ntwo dogs\none dog\n")
    second = {p.text: p.id for p in read_benchmark(path)}
    assert first == {text: second[text] for text in first}


def test_groups_are_given_or_the_ids_source(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,text,group\nwhoops_1,a,\nmine_2,b,\nz_3,c,odd\n")
    assert [p.group for p in read_benchmark(path)] == ["defying", "mine", "odd"]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.txt", "", "must hold prompts"),
        ("a.txt", "# only a note\n", "must hold prompts"),
        ("a.txt", "a dog\na cat\na dog\n", "line 3: .* already in line 1"),
        ("a.csv", "id,text\n../up,a\n", "line 2: id must be letters"),
        ("a.csv", "id,text\n1,a\n1,b\n", "line 3: 1 is already in line 2"),
        ("a.csv", "id,text\nA,a\na,b\n", "differ only in case"),
        ("a.csv", "id,text\n1,\n", "line 2: a prompt must have a text"),
        ("a.csv", "id,text\n1,a,b\n", "line 2: as many cells"),
        ("a.csv", 'id,text\n1,"a', "not valid CSV"),
        ("a.csv", "id,words\n1,a\n", "none of these layouts"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}\n', "line 2: a prompt must have a text"),
        ("a.jsonl", '{"text": "a"}\n{"text"\n', "line 2: it is not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', "line 2: a prompt must be an object"),
        ("a.json", '{"words": 1}', "none of these layouts"),
        ("a.yaml", "text: a", "none of these layouts"),
        ("a.json", '[{"question": "q", "choices": ["a"], "id": "1"}]', "question 0"),
        ("a.json", json.dumps([tifa(), tifa(caption="a cat")]), "two texts"),
        ("a.json", json.dumps([tifa(id="../x")]), "id must be letters"),
        ("a.json", json.dumps([tifa(caption=" ")]), "empty caption"),
        ("a.json", json.dumps([tifa(id="A_1"), tifa(id="a_1")]), "differ only in case"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(
    tmp_path: Path, name: str, text: str, what: str
) -> None:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=what) as caught:
        read_benchmark(path)
    assert str(path) in str(caught.value)


def test_each_layout_is_told_from_the_others(tmp_path: Path) -> None:
    dsg, asked, mine = tmp_path / "a.csv", tmp_path / "a.json", tmp_path / "b.csv"
    dsg.write_text(DSG_CSV)
    asked.write_text(json.dumps([tifa()]))
    mine.write_text("text,keywords\na,b\n")
    assert [layout_of(p).name for p in (dsg, asked, mine)] == ["dsg-1k", "tifa-v1.0", "prompts"]
    wide = tmp_path / "wide.csv"
    for encoding in ("utf-16", "utf-8-sig"):  # what can be read is recognised
        wide.write_text(DSG_CSV, encoding)
        assert layout_of(wide).name == "dsg-1k" and read_benchmark(wide) == read_benchmark(dsg)
        (tmp_path / "wide.json").write_text(json.dumps([tifa()]), encoding)
        assert layout_of(tmp_path / "wide.json").name == "tifa-v1.0"
    # One column of DSG's is enough to be told what the others lack.
    dsg.write_text(DSG_CSV.replace("category_broad", "category"))
    with pytest.raises(DataError, match="does not hold for category_broad"):
        read_benchmark(dsg)
    with pytest.raises(DataError, match="is missing"):
        layout_of(tmp_path / "gone.csv")


def test_tifas_questions_are_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    rows = [tifa(), tifa("drawbench_2", question="red?", choices=["yes", "no"], answer="no")]
    path.write_text(json.dumps([*rows, tifa(question="what?")]))
    first, second = read_benchmark(path)
    assert (first.group, second.group) == ("coco", "drawbench")
    assert [(q.id, q.text, q.category, q.parents) for q in first.questions] == [
        ("1", "what?", "animal/human", ()),
        ("2", "what?", "animal/human", ()),
    ]
    assert (second.questions[0].choices, second.questions[0].answer) == (("yes", "no"), "no")


def test_both_of_tifas_files_must_fit(tmp_path: Path) -> None:
    texts = [{"id": "b_2", "caption": "a cat"}, {"id": "coco_1", "caption": "a dog"}]
    questions = [tifa(), tifa("b_2", caption="a cat")]
    # The texts' order is the benchmark's.
    found = read_benchmark(folder_of(tmp_path, texts, questions))
    assert [p.id for p in found] == ["b_2", "coco_1"]
    with pytest.raises(DataError, match=r"1 has none \(b_2\)"):
        read_benchmark(folder_of(tmp_path, texts, questions[:1]))
    with pytest.raises(DataError, match=r"1 is another prompt \(x_9\)"):
        read_benchmark(folder_of(tmp_path, texts, [*questions, tifa("x_9")]))
    with pytest.raises(DataError, match="b_2 has two texts"):
        read_benchmark(folder_of(tmp_path, texts, [tifa(), tifa("b_2", caption="a cow")]))


ANIMAL = Question(
    id="1", text="what?", category="animal", choices=("dog", "cat", "the cow"), answer="dog"
)


@pytest.mark.parametrize(
    ("text", "said", "verdict"),
    [
        ("dog", "dog", "yes"),
        (" Dog. ", "dog", "yes"),
        ("cat", "cat", "no"),
        ("THE COW", "the cow", "no"),
        ("a dog", None, "unreadable"),
        ("puppy", None, "unreadable"),
        ("yes", None, "unreadable"),
        ("", None, "unreadable"),
    ],
)
def test_an_answer_counts_as_a_choice_only_if_it_is_one(
    text: str, said: str | None, verdict: str
) -> None:
    assert understood(ANIMAL, text) == said
    found = verdicts([ANIMAL], {"1": text}, zeroing="cascading")
    assert found == {"1": verdict}
    assert prompt_scores({"p": found})["p"] == (verdict == "yes")
    # To the letter, as TIFA's own program compares before it matches.
    exact = verdicts([ANIMAL], {"1": text}, zeroing="none", reading="exact")
    assert (exact["1"] == "yes") == (text == "dog")


def test_a_no_can_be_what_is_expected() -> None:
    question = Question(id="1", text="red?", category="color", choices=("yes", "no"), answer="no")
    for text, verdict in (("no", "yes"), ("No.", "yes"), ("yes", "no"), ("red", "unreadable")):
        assert verdicts([question], {"1": text}, zeroing="none") == {"1": verdict}


def test_choices_and_answers_are_part_of_a_benchmarks_hash_and_nothing_else_is() -> None:
    plain = Question(id="1", text="dog?", category="entity")

    def hashed(*questions: Question) -> str:
        return benchmark_hash([BenchmarkPrompt(id="a", text="t", group="g", questions=questions)])

    many = {
        hashed(plain),
        hashed(ANIMAL),
        hashed(ANIMAL.model_copy(update={"answer": "cat"})),
        hashed(ANIMAL.model_copy(update={"choices": ("dog", "cat")})),
    }
    assert len(many) == 4
    # Of a benchmark of yes and no the hash is as it was before there were choices.
    assert hashed(plain) == "b4097d939f4e4c99"


def test_a_run_is_told_what_its_benchmark_lacks(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a red dog\n")
    (tmp_path / "q.json").write_text(json.dumps([tifa()]))
    for name, says in {
        "mine.txt": "1 prompt has no questions",
        "q.json": "answer only yes or no",
    }.items():
        path = tmp_path / "run.yaml"
        path.write_text(f"folder: {tmp_path / 'run'}\nscores: {{benchmark: {name}}}\n")
        with pytest.raises(ConfigError, match=says):
            check(load_config(path))
    with pytest.raises(ConfigError, match="dev split"):
        load_benchmark(ScoresConfig(benchmark=str(tmp_path / "q.json")), split="dev")


@released
def test_a_run_scores_tifa_as_its_own_program() -> None:
    """The worked sample's raw answers, through the verdicts of a run: the same averages."""
    theirs = json.loads((TIFA / "sample_evaluation_result.json").read_text())
    benchmark_prompts = read_benchmark(TIFA / "sample_question_answers.json")
    answers = {
        (a.id, a.question): a.choice or a.free
        for a in read_tifa_answers(TIFA / "sample_evaluation_result.json")
    }
    found = {
        p.id: verdicts(
            p.questions, {q.id: answers[p.id, q.text] for q in p.questions}, zeroing="none"
        )
        for p in benchmark_prompts
    }
    scores = prompt_scores(found)
    assert sum(scores.values()) / len(scores) == theirs["tifa_average"]
    given = score_tifa(
        read_tifa(TIFA / "sample_question_answers.json"),
        read_tifa_answers(TIFA / "sample_evaluation_result.json"),
    )
    assert {id: round(100 * s, 4) for id, s in scores.items()} == given["per_prompt"]
