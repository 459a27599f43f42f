"""TIFA: its authors' worked sample, matching, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selma.applications.evaluation.correlation import tifa_agreement
from selma.applications.evaluation.tifa import (
    TifaAnswer,
    choose,
    read_tifa_answers,
    score_tifa,
)
from selma.cli import app
from selma.errors import DataError, ModelError
from selma.scores.tifa import TifaQuestion, read_tifa

TIFA = Path(__file__).parents[4] / "shared" / "data" / "tifa"
released = pytest.mark.skipif(not TIFA.exists(), reason=f"TIFA's sample files: not in {TIFA}")


def question(answer: str = "dog", *choices: str, id: str = "a_1", text: str = "what?"):
    return TifaQuestion(
        id=id,
        caption="c",
        question=text,
        choices=choices or ("dog", "cat"),
        answer=answer,
        element_type="animal/human",
    )


def said(free: str, *, id: str = "a_1", text: str = "what?", choice: str | None = None):
    return TifaAnswer(id=id, question=text, free=free, choice=choice)


@released
def test_the_worked_sample_is_reproduced_exactly(tmp_path: Path) -> None:
    theirs = json.loads((TIFA / "sample_evaluation_result.json").read_text())
    questions = read_tifa(TIFA / "sample_question_answers.json")
    found = score_tifa(questions, read_tifa_answers(TIFA / "sample_evaluation_result.json"))
    for field in ("tifa_average", "tifa_stdev", "accuracy_by_type"):
        assert found[field] == theirs[field], field
    free = [
        {"id": id, "question": text, "answer": row["free_form_vqa"]}
        for id, rows in theirs["question_details"].items()
        for text, row in rows.items()
    ]
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(free))
    # One free answer, "0", is no choice; the sample has it wrong whatever it is matched with.
    found = score_tifa(questions, read_tifa_answers(answers))
    assert (found["tifa_average"], found["unmatched"]) == (theirs["tifa_average"], 1)
    out = tmp_path / "out.json"
    command = ["score", "tifa", "--questions", str(TIFA / "sample_question_answers.json")]
    result = CliRunner().invoke(app, [*command, "--answers", str(answers), "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["score"] == 81.25


def test_a_literal_choice_is_kept_and_others_go_to_the_matcher() -> None:
    asked = [question(), question(), question()]
    answers = [said("cat"), said("puppy"), said("kitten")]

    def second(free, choices):
        assert (free, [*choices]) == (["puppy", "kitten"], [("dog", "cat")] * 2)
        return [0, 1]

    assert choose(asked, answers, second) == ["cat", "dog", "cat"]
    assert choose(asked, answers, None) == ["cat", None, None]
    assert choose(asked[:1], [said("puppy", choice="dog")], None) == ["dog"]


def test_static_embeddings_from_a_wheel_match_by_meaning() -> None:
    pytest.importorskip("wordllama", reason="the matcher's wheel is not installed")
    from selma.backbones.judges.matching import load_matcher

    match = load_matcher("wordllama")
    choices = [("car", "dog", "tree"), ("red", "green", "blue"), ("kitchen", "street", "beach")]
    assert match(["puppy", "crimson", "seashore"], choices) == [1, 0, 2]
    # Neither order nor company changes an answer.
    assert match(["seashore"], choices[2:]) == [2]


def test_an_encoder_matches_alone_as_in_company(tmp_path: Path) -> None:
    """A tiny random encoder of the paper's architecture (MPNet), through the paper's pooling."""
    import torch
    from transformers import BertTokenizerFast, MPNetConfig, MPNetModel

    from selma.backbones.judges.matching import load_matcher

    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "dog", "cat", "small", "old"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    MPNetModel(
        MPNetConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        )
    ).save_pretrained(tmp_path)
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    match = load_matcher(str(tmp_path))
    choices = [("cat", "small dog", "dog"), ("old", "cat", "dog")]
    assert match(["dog", "cat"], choices) == [2, 1]  # nothing is nearer than the same text
    assert match(["small dog old"], choices[:1]) == match(["small dog old", "x"], choices)[:1]
    with pytest.raises(ModelError, match="wordllama"):
        load_matcher(str(tmp_path / "nothing"))


def test_means_over_prompts_and_over_questions() -> None:
    questions = [
        question(),
        question("no", "yes", "no", text="red?"),
        question(id="b_2", text="who?"),
        question(id="c_3"),
    ]
    answers = [said("dog"), said("yes", text="red?"), said("dog", id="b_2", text="who?")]
    found = score_tifa(questions, answers, resamples=10)
    assert found["tifa_average"] == 0.75
    assert found["accuracy_by_type"] == {"animal/human": 2 / 3}
    assert found["tifa_stdev"] == pytest.approx(0.353553, abs=1e-6)
    assert (found["prompts"], found["without_answers"]) == (2, ["c_3"])
    assert found["per_question"] == {"a_1": {"what?": 1, "red?": 0}, "b_2": {"who?": 1}}


def test_answers_that_change_a_denominator_are_refused() -> None:
    both = [question(), question(text="red?")]
    with pytest.raises(DataError, match=r"no answer to 'red\?'"):
        score_tifa(both, [said("dog")])
    with pytest.raises(DataError, match="two answers"):
        score_tifa(both[:1], [said("dog"), said("dog")])
    with pytest.raises(DataError, match="no prompt"):
        score_tifa(both, [said("dog", id="z")])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.json", "[{]", "cannot be read"),
        ("q.json", "[]", "has none"),
        ("q.json", '[{"id": "a"}]', "question 0: caption"),
        ("q.json", '{"id": "a"}', "must be a JSON list"),
    ],
)
def test_broken_question_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_tifa(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{}", "question_details"),
        ("a.json", '[{"id": 3}]', "row 0"),
        ("a.csv", "id,question\na,b\n", "row 0"),
        ("b.csv", "", None),
    ],
)
def test_broken_answer_files(tmp_path: Path, name: str, text: str, message: str | None) -> None:
    (tmp_path / name).write_text(text)
    if message is None:
        with pytest.raises(DataError, match="no prompt"):
            score_tifa([question()], read_tifa_answers(tmp_path / name))
    else:
        with pytest.raises(DataError, match=message):
            read_tifa_answers(tmp_path / name)


RATINGS = "t2i_model,item_id,source_id,answer\n"


@pytest.fixture
def rated(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Three images: all answers right, two of three, none."""
    rows = [
        question("dog", "dog", "cat", id="coco_1", text="what animal?"),
        question("yes", "yes", "no", id="coco_1", text="is it a dog?"),
        # By DSG's program yes is right wherever the choices are yes and no.
        question("no", "yes", "no", id="coco_1", text="is it a cat?"),
    ]
    places = [tmp_path / name for name in ("questions.json", "answers.csv", "ratings.csv")]
    places[0].write_text(json.dumps([row.model_dump() for row in rows]))
    said_of = {"a": ("dog", "yes", "yes"), "b": ("Dog", "yes", "yes"), "c": ("cat", "no", "no")}
    lines = ["t2i_model,item_id,question,answer"]
    for model, answers in said_of.items():
        lines += [f"{model},i_1,{row.question},{a}" for row, a in zip(rows, answers, strict=True)]
    places[1].write_text("\n".join(lines))
    places[2].write_text(RATINGS + "a,i_1,coco_1,5\nb,i_1,coco_1,2\nb,i_1,coco_1,4\nc,i_1,coco_1,1")
    return places[0], places[1], places[2]


def test_scores_by_tifas_questions_are_held_against_ratings(rated) -> None:
    told = tifa_agreement(*rated)
    # Scores 1, 2/3, 0 and ratings 5, 3, 1: all pairs in one order.
    counts = {"images": 3, "prompts": 1, "only_rated": 0, "only_scored": 0}
    assert told.items() >= {"spearman": 1.0, "kendall": 1.0, "pairwise": 1.0, **counts}.items()
    # From their means: 4/9, 1/9, -5/9 and 2, 0, -2.
    assert told["pearson"] == pytest.approx(2 / (42 / 81 * 8) ** 0.5, abs=1e-5)
    assert told["intervals"]["spearman"] == [1.0, 1.0]
    # The second image, liked best, has but two right: by exact words, in no other way.
    rated[2].write_text(RATINGS + "a,i_1,coco_1,4\nb,i_1,coco_1,5\nc,i_1,coco_1,1\n")
    assert tifa_agreement(*rated)["spearman"] == 0.5
    shuffled = rated[1].read_text().splitlines()
    rated[1].write_text("\n".join([shuffled[0], *reversed(shuffled[1:])]))
    with pytest.raises(DataError, match="i_1 must have an answer to each of its 3 questions"):
        tifa_agreement(*rated)


@pytest.mark.skipif(
    not (TIFA / "tifa_v1.0_question_answers.json").exists(),
    reason=f"TIFA's question file (tifa_v1.0_question_answers.json) is not in {TIFA}",
)
def test_ratings_of_people_correlate_with_tifas_questions_as_published() -> None:
    dsg = TIFA.parent / "dsg"
    found = tifa_agreement(TIFA, dsg / "mplug_tifa.csv", dsg / "tifa160-likert-anns.csv")
    assert found["spearman"] == pytest.approx(0.352, abs=0.002)
    assert found["kendall"] == pytest.approx(0.259, abs=0.002)
    assert found["images"] == 800
