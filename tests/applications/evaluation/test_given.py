"""Given answers → DSG: equal to the two published programs, restated here in a few lines each."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selma.applications.evaluation.answer_files import read_answers
from selma.applications.evaluation.dsg import PRESETS, rules_of, score_dsg
from selma.cli import app
from selma.errors import ConfigError, DataError

DSG = Path(__file__).parents[4] / "shared" / "data" / "dsg"
ANNOTATIONS, ANSWERS = DSG / "dsg-1k-anns.csv", DSG / "mplug_dsg.csv"
released = pytest.mark.skipif(not ANSWERS.exists(), reason=f"DSG's released files: not in {DSG}")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def items() -> dict[str, list[dict[str, str]]]:
    """Item → its rows in the file's order, each with the answer about SD 2.1's image."""
    said = {
        (row["item_id"], row["question_id"]): row["answer"]
        for row in rows(ANSWERS)
        if row["t2i_model"] == "sd2dot1"
    }
    found = defaultdict(list)
    for row in rows(ANNOTATIONS):
        answer = said.get((row["item_id"], row["proposition_id"]))
        found[row["item_id"]].append(row | {"said": answer})
    return found


GROUP_OF = {
    "stanford_paragraph": "paragraph",
    "localized_narratives": "paragraph",
    "countbench": "count",
    "vrd": "relation",
    "diffusiondb": "real_user",
    "midjourney": "real_user",
    "posescript": "pose",
    "whoops": "defying",
    "drawtext": "text",
    "tifa160": "tifa",
}


@released
def test_upstream_equals_the_program_of_dsg() -> None:
    """Exact "yes"; a cell that is no list of numbers frees its whole item; only a parent's own
    answer zeroes; mean over items; an item without answers is 0."""
    groups = defaultdict(list)
    for item, asked in items().items():
        score = 0.0
        if asked[0]["said"] is not None:
            own = {int(row["proposition_id"]): row["said"] == "yes" for row in asked}
            try:
                parents = {
                    int(row["proposition_id"]): [int(p) for p in row["dependency"].split(",")]
                    for row in asked
                }
            except ValueError:
                parents = {}
            good = [own[q] and all(p == 0 or own[p] for p in parents.get(q, [])) for q in own]
            score = 100 * sum(good) / len(good)
        groups[GROUP_OF[item.rpartition("_")[0]]].append(score)
    found = score_dsg(ANNOTATIONS, ANSWERS, rules=PRESETS["upstream"], resamples=100)
    everything = [score for scores in groups.values() for score in scores]
    assert found["prompts"] == len(everything) == 1060
    assert found["score"] == pytest.approx(sum(everything) / 1060, abs=1e-3)
    assert found["groups"] == {
        name: pytest.approx(sum(scores) / len(scores), abs=1e-3) for name, scores in groups.items()
    }
    assert found["model"] == "sd2dot1"  # the one model with answers to every prompt of the file
    assert found["without_answers"] == ["tifa160_134"]
    assert sum(found["per_prompt"].values()) / 1060 == pytest.approx(found["score"], abs=1e-3)


@released
def test_selma_release_equals_the_program_of_selma() -> None:
    """Exact "yes"; ids between commas are not stripped; one walk down the rows in which what was
    zeroed counts as no; mean over questions, in all and for each detailed category."""
    points: list[float] = []
    categories = defaultdict(list)
    for asked in items().values():
        if asked[0]["said"] is None:
            continue
        score = {row["proposition_id"]: float(row["said"] == "yes") for row in asked}
        for row in asked:
            for parent in row["dependency"].split(","):
                if score.get(parent) == 0:
                    score[row["proposition_id"]] = 0.0
        for row in asked:
            points.append(score[row["proposition_id"]])
            name = row["category_detailed"]
            categories["global" if name == "-" else name].append(points[-1])
    found = score_dsg(ANNOTATIONS, ANSWERS, rules=PRESETS["selma-release"], resamples=100)
    assert found["score"] == pytest.approx(100 * sum(points) / len(points), abs=1e-3)
    assert {name.strip(): score for name, score in found["categories"].items()} == {
        name.strip(): pytest.approx(100 * sum(got) / len(got), abs=1e-3)
        for name, got in categories.items()
    }
    assert found["questions"] == len(points) == 8174


@released
def test_ratings_of_people_correlate_as_published() -> None:
    """0.463 and 0.380 are the figures of DSG's program on these files."""
    found = CliRunner().invoke(
        app,
        ["score", "correlate", "--annotations", str(ANNOTATIONS), "--answers", str(ANSWERS),
         "--ratings", str(DSG / "tifa160-likert-anns.csv"), "--preset", "upstream"],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    first, intervals = found.output.strip().split("\n", 1)
    said = dict(part.split() for part in first.split(", "))
    assert intervals.startswith("95% over prompts: spearman 0.39")
    assert float(said["spearman"]) == pytest.approx(0.463, abs=0.002)
    assert float(said["kendall"]) == pytest.approx(0.380, abs=0.002)
    assert said["images"] == "800"


HEADER = "item_id,text,proposition_id,dependency,category_broad,category_detailed,"
HEADER += "question_natural_language\n"
TWO_ITEMS = HEADER + (
    'a_1,two dogs,1,0,entity,whole,dogs?\na_1,two dogs,2,"1, 3",other,count,two?\n'
    "a_1,two dogs,3,0,attribute,color,red?\n"
    "b_1,a cat,1,0,entity,whole,cat?\nb_1,a cat,2,1 left,attribute,color,grey?\n"
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "questions.csv").write_text(TWO_ITEMS)
    (tmp_path / "answers.csv").write_text(
        "item_id,question_id,answer\n"
        "a_1,1,Yes\na_1,2,yes\na_1,3,no\nb_1,1,no\nb_1,2,yes\n"
    )  # fmt: skip
    return tmp_path / "questions.csv", tmp_path / "answers.csv"


@pytest.mark.parametrize(
    ("preset", "changes", "score"),
    [
        # "two?" hangs on 3, which is no; "grey?" hangs on "1 left", which is nothing.
        ("default", {}, 100 * (1 / 3 + 1 / 2) / 2),
        ("default", {"zeroing": "none"}, 100 * (2 / 3 + 1 / 2) / 2),
        ("default", {"average": "question"}, 100 * 2 / 5),
        ("default", {"reading": "exact"}, 100 * (0 + 1 / 2) / 2),
        # "Yes" is not yes; b_1 loses its dependencies, a_1 keeps them.
        ("upstream", {}, 100 * (0 + 1 / 2) / 2),
        # " 3" is no id, but 1 is.
        ("selma-release", {}, 100 * 1 / 5),
        ("selma-release", {"reading": "normalised"}, 100 * 3 / 5),
        # In the order of rows 3 comes too late to have been zeroed, but its own answer counts.
        ("default", {"zeroing": "row_order"}, 100 * (1 / 3 + 1 / 2) / 2),
    ],
)
def test_each_rule_changes_what_it_says(files, preset, changes, score) -> None:
    found = score_dsg(*files, rules=rules_of(preset, changes), resamples=10)
    assert found["score"] == pytest.approx(score, abs=1e-3)
    assert found["rules"] == rules_of(preset, changes).model_dump()


def test_prompts_without_answers_are_named_and_counted_by_the_rule(files) -> None:
    questions, answers = files
    answers.write_text("item_id,question_id,answer\nb_1,1,yes\nb_1,2,yes\nz_9,1,yes\n")
    left_out = score_dsg(questions, answers, rules=PRESETS["default"], resamples=10)
    assert (left_out["score"], left_out["without_answers"]) == (100, ["a_1"])
    assert left_out["not_in_annotations"] == ["z_9"]
    zero = score_dsg(questions, answers, rules=rules_of("default", {"missing": "zero"}))
    assert (zero["score"], zero["prompts"]) == (50, 2)
    with pytest.raises(DataError, match="a_1 first"):
        score_dsg(questions, answers, rules=rules_of("default", {"missing": "refuse"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns item_id, question_id, answer"),
        ("item_id,question_id,answer\n", "only a header"),
        ("item_id,answer\na_1,yes\n", "not hold for question_id"),
        ("item_id,question_id,answer\na_1,1\n", "line 2"),
        ("item_id,question_id,answer\na_1,1,yes,no\n", "line 2"),
        ("item_id,question_id,answer\na_1,1,yes\n", "a_1 has no answer to question 2"),
        ("item_id,question_id,answer\nz_1,1,yes\n", "about no prompt"),
        ("item_id,question_id,answer\na_1,1,yes\na_1,1,yes\n", "two answers"),
        ("item_id,question_id,answer,t2i_model\na_1,1,yes,x\nb_1,1,yes,y\n", "x, y"),
    ],
)
def test_broken_answers_are_one_clear_error(files, text: str, message: str) -> None:
    questions, answers = files
    answers.write_text(text)
    with pytest.raises(DataError, match=message):
        score_dsg(questions, answers, rules=PRESETS["default"], resamples=10)


def test_a_model_is_chosen_by_name(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("item_id,question_id,answer,t2i_model\na,1,yes,x\na,1,no,y\n")
    assert read_answers(path, "y")[0][0].text == "no"
    with pytest.raises(DataError, match="must hold answers about z"):
        read_answers(path, "z")


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ConfigError, match="preset must be one of"):
        rules_of("paper", {})
    with pytest.raises(ConfigError, match="zeroing"):
        rules_of("default", {"zeroing": "some"})


def test_the_command_writes_everything_as_json(files, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = ["score", "dsg", "--annotations", files[0], "--answers", files[1], "--json", out]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["per_question"] == {"a_1": {"1": 1, "2": 0, "3": 0}, "b_1": {"1": 0, "2": 1}}
    assert found["verdicts"]["a_1"] == {"1": "yes", "2": "zeroed", "3": "no"}
    assert found["categories"] == {"color": 50, "count": 0, "whole": 50}
    assert found["groups"] == {"a": pytest.approx(33.3333), "b": 50}
    assert "41.7" in result.output
