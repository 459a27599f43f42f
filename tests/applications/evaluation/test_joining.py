"""Answers, questions, images and ratings that are joined by ids as people's tables have them."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from selma.applications.evaluation.correlation import dsg_agreement, tifa_agreement
from selma.applications.evaluation.dsg import PRESETS, rules_of, score_dsg
from selma.cli import app
from selma.errors import DataError, SelmaError

DSG = Path(__file__).parents[4] / "shared" / "data" / "dsg"
ANNOTATIONS, ANSWERS = DSG / "dsg-1k-anns.csv", DSG / "mplug_dsg.csv"
released = pytest.mark.skipif(not ANSWERS.exists(), reason=f"DSG's released files: not in {DSG}")

COLUMNS = "item_id,text,proposition_id,dependency,category_broad,category_detailed,"
COLUMNS += "question_natural_language\n"
QUESTIONS = (
    "inn_1,a blue inn,1,0,entity,whole,Is there an inn?\n"
    "inn_1,a blue inn,2,1,attribute,color,Is the inn blue?\n"
    "inn_2,a tall mast,1,0,entity,whole,Is there a mast?\n"
    "inn_2,a tall mast,2,1,attribute,size,Is the mast tall?\n"
)
PLAIN = "inn_1,1,yes\ninn_1,2,no\ninn_2,1,yes\ninn_2,2,yes\n"


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and output of `selma score ...`, on one line."""
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    if isinstance(result.exception, SelmaError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, " ".join(result.output.split())


def files(
    folder: Path, *, questions: str = QUESTIONS, answers: str = PLAIN,
    header: str = "item_id,question_id,answer\n",
) -> tuple[Path, Path]:  # fmt: skip
    (folder / "questions.csv").write_text(COLUMNS + questions)
    (folder / "answers.csv").write_text(header + answers)
    return folder / "questions.csv", folder / "answers.csv"


@pytest.mark.parametrize(
    "spelled",
    [
        {"answers": PLAIN.replace("inn_1,", "inn_1 ,")},
        {"answers": PLAIN.replace("inn_1,", " \tinn_1,")},
        {"answers": PLAIN.replace("inn_2,2,", "inn_2, 2 ,")},
        {"answers": PLAIN.replace("inn_2,", "inn_2\u00a0,")},
        {"questions": QUESTIONS.replace("inn_1,", " inn_1 ,")},
        {"questions": QUESTIONS.replace(",2,1,", ", 2 , 1,")},
        {"header": "item_id , question_id,answer \n"},
        {"header": "\ufeffitem_id,question_id,answer\n"},
    ],
)
def test_blanks_around_ids_and_names_change_nothing(tmp_path: Path, spelled: Any) -> None:
    clean = score_dsg(*files(tmp_path), rules=PRESETS["default"], resamples=10)
    changed = score_dsg(*files(tmp_path, **spelled), rules=PRESETS["default"], resamples=10)
    assert changed == clean and clean["score"] == 75


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"answers": PLAIN.replace(",1,yes", ",1.0,yes")},
            "inn_1 has no answer to question 1, but has answers to '1.0' (did you mean '1'?).",
        ),
        (
            {"answers": PLAIN.replace(",2,no", ",02,no")},
            "inn_1 has no answer to question 2, but has answers to '02' (did you mean '2'?).",
        ),
        ({"answers": PLAIN.replace("inn_1,2,no\n", "")}, "inn_1 has no answer to question 2."),
        (
            {"answers": PLAIN.replace("inn_", "INN-")},
            "about 'INN-1' (did you mean 'inn_1'?), 'INN-2' (did you mean 'inn_2'?).",
        ),
        (
            {"answers": "9,1,yes\n8,1,yes\n7,1,yes\n6,1,yes\n"},
            "but about '6', '7', '8' and 1 other.",
        ),
        ({"answers": PLAIN + "inn_1 ,1,yes\n"}, "inn_1 has two answers to question 1."),
        (
            {"questions": QUESTIONS.replace(",2,1,", ",2.0,1.0,")},
            "line 3: inn_1 depends on question '1.0', but it has '1'. Spell the numbers alike.",
        ),
    ],
)
def test_what_cannot_be_joined_is_named_with_the_nearest_id(
    tmp_path: Path, changes: Any, message: str
) -> None:
    with pytest.raises(DataError) as refusal:
        score_dsg(*files(tmp_path, **changes), rules=PRESETS["default"], resamples=10)
    assert message in str(refusal.value)


def test_answers_to_questions_that_nobody_asked_are_counted_and_named(tmp_path: Path) -> None:
    more = "inn_1,3,yes\ninn_1,4,no\ninn_3.0,1,yes\nzz_9,1,no\n"
    questions = QUESTIONS + "inn_3,a mat,1,0,entity,whole,Is there a mat?\n"
    out = tmp_path / "out.json"
    paths = files(tmp_path, questions=questions, answers=PLAIN + more)
    code, output = run("dsg", "--annotations", paths[0], "--answers", paths[1], "--json", out)
    result = json.loads(out.read_text())
    assert (code, result["score"]) == (0, 75)
    assert result["not_asked"] == [["inn_1", "3"], ["inn_1", "4"]]
    assert result["not_in_annotations"] == ["inn_3.0", "zz_9"]
    assert result["without_answers"] == ["inn_3"]
    assert "2 answers to questions that nobody asked: 'inn_1: 3', 'inn_1: 4'." in output
    assert (
        "Answers about 2 prompts that nobody asked about: 'inn_3.0' (did you mean 'inn_3'?),"
        in (output)
    )
    assert "1 prompt without an answer: 'inn_3'." in output


# The 160 prompts of DSG's own two programs.


def program(items: Sequence[str], model: str) -> float:
    """What DSG's programs report: the mean over `items` of each item's share (vqa_utils.py), where
    an item without answers is given one wrong answer (data_utils.py)."""
    answers: dict[str, dict[int, str]] = defaultdict(dict)
    for row in rows(ANSWERS):
        if row["t2i_model"] == model:
            answers[row["item_id"]][int(row["question_id"])] = row["answer"]
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows(ANNOTATIONS):
        cells[row["item_id"]][row["proposition_id"]] = row["dependency"]
    scores = []
    for item in items:
        right = {q: answer == "yes" for q, answer in answers[item].items()} or {1: False}
        try:
            parents = {int(q): [*map(int, cell.split(","))] for q, cell in cells[item].items()}
        except ValueError:
            parents = {}
        good = [own and all(right.get(p, True) for p in parents.get(q, ()) if p)
                for q, own in right.items()]  # fmt: skip
        scores.append(sum(good) / len(good))
    return 100 * sum(scores) / len(scores)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@released
@pytest.mark.parametrize(
    ("model", "score"),
    [
        ("mini-dalle", 90.4491),
        ("sd1dot1", 87.9239),
        ("sd1dot5", 87.1490),
        ("vq-diffusion", 89.8587),
    ],
)
def test_upstream_counts_over_the_160_prompts_where_no_other_is_answered(
    tmp_path: Path, model: str, score: float
) -> None:
    out = tmp_path / "out.json"
    code, output = run("dsg", "--annotations", ANNOTATIONS, "--answers", ANSWERS, "--preset",
                       "upstream", "--model", model, "--json", out)  # fmt: skip
    result = json.loads(out.read_text())
    assert code == 0, output
    assert program([f"tifa160_{number}" for number in range(160)], model) == pytest.approx(
        score, abs=1e-4
    )
    assert result["score"] == pytest.approx(score, abs=1e-4)
    assert (result["prompts"], result["without_answers"]) == (160, ["tifa160_134"])
    assert result["covered"] == {"source": "tifa160", "left_out": 900}
    assert "Counted over the 160 prompts of tifa160 alone" in output and "other 900" in output


@released
def test_upstream_counts_over_all_prompts_where_all_sources_are_answered() -> None:
    every = list(dict.fromkeys(row["item_id"] for row in rows(ANNOTATIONS)))
    result = score_dsg(
        ANNOTATIONS, ANSWERS, rules=PRESETS["upstream"], model="sd2dot1", resamples=10
    )
    assert (result["prompts"], result["covered"]) == (1060, None)
    assert result["score"] == pytest.approx(program(every, "sd2dot1"), abs=1e-3)


OF_TIFA = (
    "tifa160_0,a net,1,0,entity,whole,Is there a net?\n"
    "tifa160_1,a pen,1,0,entity,whole,Is there a pen?\n"
    "whoops_0,a pin,1,0,entity,whole,Is there a pin?\n"
)


@pytest.mark.parametrize(
    ("answers", "missing", "score", "prompts"),
    [
        ("tifa160_0,1,yes\n", "upstream", 50, 2),
        ("tifa160_0,1,yes\nstranger,1,yes\n", "upstream", 50, 2),
        ("tifa160_0,1,yes\nwhoops_0,1,yes\n", "upstream", 200 / 3, 3),
        ("whoops_0,1,yes\n", "upstream", 100 / 3, 3),
        ("tifa160_0,1,yes\n", "zero", 100 / 3, 3),
        ("tifa160_0,1,yes\n", "left_out", 100, 1),
    ],
)
def test_what_the_file_covers_decides_over_what_upstream_counts(
    tmp_path: Path, answers: str, missing: str, score: float, prompts: int
) -> None:
    rules = rules_of("upstream", {"missing": missing})
    paths = files(tmp_path, questions=OF_TIFA, answers=answers)
    result = score_dsg(*paths, rules=rules, resamples=10)
    assert result["score"] == pytest.approx(score, abs=1e-3)
    assert result["prompts"] == prompts


# TIFA: whatever its own program takes as an id.

ASKED = [
    {"id": id, "caption": f"caption {id}", "question": question, "choices": choices,
     "answer": answer, "element_type": kind}
    for id in (0, 1, 2)
    for question, choices, answer, kind in (
        ("is it day?", ["yes", "no"], "yes", "other"),
        ("what stands there?", ["hut", "oak"], "oak", "object"),
    )
]  # fmt: skip
GIVEN = ["yes", "hut", "no", "oak", "yes", "oak"]


def tifa_program(asked: Sequence[Mapping[str, Any]], given: Sequence[str]) -> dict[str, Any]:
    """tifa_score.py's result for these answers, as it is written to a file."""
    scores: dict[Any, list[int]] = defaultdict(list)
    details: dict[Any, dict[str, Any]] = defaultdict(dict)
    for question, answer in zip(asked, given, strict=True):
        details[question["id"]][question["question"]] = {
            **question, "free_form_vqa": answer, "multiple_choice_vqa": answer,
            "scores": int(answer == question["answer"]),
        }  # fmt: skip
        scores[question["id"]].append(int(answer == question["answer"]))
    shares = [mean(of_caption) for of_caption in scores.values()]
    result = {
        "tifa_average": mean(shares),
        "tifa_stdev": stdev(shares),
        "question_details": details,
    }
    loaded: dict[str, Any] = json.loads(json.dumps(result))
    return loaded


@pytest.mark.parametrize("ids", [int, str, float, lambda id: f" {id} ", lambda id: 10**12 + id])
def test_tifas_ids_are_taken_as_its_program_takes_them(tmp_path: Path, ids: Any) -> None:
    asked = [row | {"id": ids(row["id"])} for row in ASKED]
    theirs = tifa_program(asked, GIVEN)
    questions, answers, out = (tmp_path / name for name in ("q.json", "a.json", "out.json"))
    questions.write_text(json.dumps(asked))
    answers.write_text(json.dumps(theirs))
    code, output = run("tifa", "--questions", questions, "--answers", answers, "--json", out)
    assert code == 0, output
    result = json.loads(out.read_text())
    assert (result["tifa_average"], result["tifa_stdev"]) == (
        theirs["tifa_average"],
        theirs["tifa_stdev"],
    )
    assert result["not_in_questions"] == result["without_answers"] == []
    assert list(result["per_prompt"]) == [str(ids(id)).strip() for id in (0, 1, 2)]


@pytest.mark.parametrize(
    ("cells", "code", "message"),
    [
        (
            "0,is it day? ,yes\n0,what stands there?,oak\n", 0,
            "2 prompts without an answer: '1', '2'.",
        ),
        (
            "0,is it day?,yes\n0,what stands there?,oak\n0,is it night?,no\n1.0,is it day?,no\n", 0,
            "1 prompt that nobody asked about: '1.0' (did you mean '1'?). 1 answer to questions "
            "that nobody asked: '0: is it night?'.",
        ),
        ("0.0,is it day?,yes\n", 3, "but about '0.0' (did you mean '0'?)."),
        (
            "0,is it day,yes\n0,what stands there?,oak\n", 3,
            "no answer to 'is it day?', but to 'is it day' (did you mean 'is it day?'?).",
        ),
        ("0,is it day?,yes\n0,is it day? ,no\n", 3, "two answers to 'is it day?'"),
    ],
)  # fmt: skip
def test_tifas_answers_are_joined_as_dsgs_are(
    tmp_path: Path, cells: str, code: int, message: str
) -> None:
    (tmp_path / "q.json").write_text(json.dumps(ASKED))
    (tmp_path / "a.csv").write_text("id,question,answer\n" + cells)
    came, output = run("tifa", "--questions", tmp_path / "q.json", "--answers", tmp_path / "a.csv")
    assert came == code and message in output, output


def test_images_of_no_prompt_are_named_and_suffixes_know_no_case(tmp_path: Path) -> None:
    questions, _ = files(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("inn_1.PNG", "inn_02.png", "mine.jpeg", "notes.txt"):
        Image.new("RGB", (32, 32)).save(folder / name, format="PNG")
    command = ("images", folder, "--benchmark", questions)
    code, output = run(*command)
    assert code == 3
    assert "It has images of no prompt: 'inn_02' (did you mean 'inn_2'?), 'mine'." in output
    out = tmp_path / "out.json"
    code, output = run(*command, "--missing", "left_out", "--json", out)
    assert code == 0, output
    assert json.loads(out.read_text())["images_of_no_prompt"] == ["inn_02", "mine"]
    assert "2 images of no prompt: 'inn_02' (did you mean 'inn_2'?), 'mine'." in output


RATED = "t2i_model,item_id,source_id,answer\n"


def test_ratings_are_joined_without_blanks_and_strangers_are_named(tmp_path: Path) -> None:
    questions = OF_TIFA.replace("whoops_0", "tifa160_2")
    answers = "".join(
        f"{model},tifa160_{n},1,{'yes' if n else 'no'}\n" for model in "xy" for n in range(3)
    )
    paths = files(tmp_path, questions=questions, answers=answers,
                  header="t2i_model,item_id,question_id,answer\n")  # fmt: skip
    ratings = tmp_path / "ratings.csv"
    lines = [f"{model},tifa160_{n},coco_{n},{n}" for model in "xy" for n in range(3)]
    ratings.write_text(RATED + "\n".join(lines))
    clean = dsg_agreement(*paths, ratings, rules=PRESETS["default"])
    assert (clean["images"], clean["only_rated"], clean["only_scored"]) == (6, 0, 0)
    ratings.write_text(RATED + "\n".join(line.replace(",tifa", " , tifa") for line in lines))
    assert dsg_agreement(*paths, ratings, rules=PRESETS["default"]) == clean
    ratings.write_text(RATED + "\n".join(line.replace("tifa160_", "TIFA160-") for line in lines))
    with pytest.raises(DataError, match=r"'x tifa160_0' \(did you mean 'x TIFA160-0'\?\)"):
        dsg_agreement(*paths, ratings, rules=PRESETS["default"])


def test_a_source_that_tifa_does_not_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps(ASKED))
    answers, ratings = tmp_path / "a.csv", tmp_path / "r.csv"
    answers.write_text("t2i_model,item_id,question,answer\nx,t_0,is it day?,yes\n")
    ratings.write_text(RATED + "x,t_0,0.0,3\n")
    with pytest.raises(DataError, match=r"source_id .* '0\.0' \(did you mean '0'\?\)"):
        tifa_agreement(tmp_path / "q.json", answers, ratings)
    ratings.write_text(RATED + "x,t_0,0,3\nx,t_0,1,3\n")
    with pytest.raises(DataError, match="line 3: t_0 has the source_id '1', but '0' before"):
        tifa_agreement(tmp_path / "q.json", answers, ratings)
