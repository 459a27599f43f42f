"""GenEval's result files: its own summary's figures, worked out by hand, and broken rows."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selma.applications.evaluation.geneval import TAGS, score_geneval
from selma.cli import app
from selma.errors import DataError


def write(folder: Path, rows: list[Any]) -> Path:
    path = folder / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


NUMBERS = itertools.count()


def row(tag: str, prompt: str, correct: object) -> dict[str, Any]:
    """A line as its evaluate_images.py writes it."""
    about = {"tag": tag, "include": [{"class": "jar", "count": 1}], "prompt": prompt}
    return {
        "filename": f"out/{prompt}/{next(NUMBERS):04d}.png",
        "tag": tag, "prompt": prompt, "correct": correct,
        "reason": "", "metadata": json.dumps(about), "details": "{}",
    }  # fmt: skip


ROWS = [
    *(row("counting", "two jars", right) for right in (True, False, False, False)),
    *(row("counting", "three jars", right) for right in (True, True, False, False)),
    *(row("colors", "a red jar", right) for right in (True, True)),
]


def test_tags_weigh_alike(tmp_path: Path) -> None:
    found = score_geneval(write(tmp_path, ROWS), resamples=200)
    assert found["groups"] == {"counting": 37.5, "colors": 100.0}
    assert found["score"] == pytest.approx((37.5 + 100) / 2)
    assert (found["images"], found["prompts"]) == (10, 3)
    assert found["right_images"] == 50.0 and found["right_prompts"] == 100.0
    assert found["interval"][0] < found["score"] < found["interval"][1]
    # The spread is that of two prompts of counting, not of eight images.
    low, high = found["group_intervals"]["counting"]
    assert 25 <= low < 37.5 < high <= 50


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "must hold results"),
        ([row("counting", "x", 1)], "result 1: tag must be a text and correct true or false"),
        ([{"correct": True}], "result 1: tag must be a text"),
    ],
)
def test_what_is_no_result_is_named(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        score_geneval(write(tmp_path, rows))


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = CliRunner().invoke(
        app, ["score", "geneval", str(write(tmp_path, ROWS)), "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "GenEval 68.8 of 2 of 6 tags" in done.output and "counting" in done.output
    assert "3 prompts, 10 images" in done.output
    assert json.loads(out.read_text())["groups"]["colors"] == 100.0


def test_what_a_file_lacks_of_geneval_is_told(tmp_path: Path) -> None:
    rows = [*ROWS, row("dancing", "a jig", True)]
    found = score_geneval(write(tmp_path, rows), resamples=200)
    assert found["missing_tags"] == ["single_object", "two_object", "position", "color_attr"]
    assert found["other_tags"] == ["dancing"]
    assert found["prompts_too_few"] == {"counting": [2, 80], "colors": [1, 94]}
    told = CliRunner().invoke(app, ["score", "geneval", str(write(tmp_path, rows))]).output
    assert "Tags that are missing: single_object, two_object" in told
    assert "does not have, counted all the same: 'dancing'." in told
    assert "counting 2 of 80" in told


def test_of_a_whole_file_nothing_is_said(tmp_path: Path) -> None:
    rows = [row(tag, f"{tag} {n}", n % 2 == 0) for tag, all in TAGS.items() for n in range(all)]
    assert len(rows) == 553
    path = write(tmp_path, rows)
    found = score_geneval(path, resamples=200)
    assert not (found["missing_tags"] or found["other_tags"] or found["prompts_too_few"])
    told = CliRunner().invoke(app, ["score", "geneval", str(path)]).output
    assert " of 6 tags" not in told and "missing" not in told and "there" not in told


def test_an_image_with_two_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"but 1 image has several, 'out/two jars/"):
        score_geneval(write(tmp_path, [*ROWS, ROWS[0]]))
