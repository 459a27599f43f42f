"""Judges held against people's votes: by real judges, and by scores in a file."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny_judges
from PIL import Image
from typer.testing import CliRunner

from selma.applications.judges.people import check_scores
from selma.cli import app
from selma.errors import DataError, SelmaError
from selma.scores.benchmarks.genai import GENAI
from selma.scores.votes import read_votes
from selma.toybox.captions import caption
from selma.toybox.questions import ask, claims
from selma.toybox.scenes import render, sample_scene

SCENES = 12
MODELS = ("right", "wrong")


def run(*options: Any) -> str:
    result = CliRunner().invoke(app, ["judge", "check", *map(str, options)])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def refused(*options: Any) -> str:
    result = CliRunner().invoke(app, ["judge", "check", *map(str, options)])
    assert isinstance(result.exception, SelmaError), result.output
    return str(result.exception)


def drawn(folder: Path) -> None:
    """Of each prompt an image of it and one of the next prompt, with votes of 4.5 and 1.5 on them;
    questions in DSG's layout."""
    scenes = [sample_scene(random.Random(f"people/{n}")) for n in range(SCENES)]
    with (folder / "questions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "text", "proposition_id", "dependency", "category_broad",
                       "category_detailed", "question_natural_language"])  # fmt: skip
        for n, scene in enumerate(scenes):
            text = caption(scene, "tags", random.Random(n))
            many = {group.kind: group.count != 1 for group in scene.groups}
            for k, (claim, _) in enumerate(claims(scene), 1):
                where = "tifa160" if n % 2 else "whoops"
                rows.writerow([f"{where}_{n}", text, k, 0, claim[0], claim[0], ask(claim, many)])
    ids = [f"{'tifa160' if n % 2 else 'whoops'}_{n}" for n in range(SCENES)]
    lines = ["t2i_model,item_id,source_id,answer"]
    for model, step in zip(MODELS, (0, 1), strict=True):
        (folder / "images" / model).mkdir(parents=True)
        for n, id in enumerate(ids):
            pixels = render(scenes[(n + step) % SCENES], random.Random(n))
            # One is named by TIFA's id, as its authors' own folders are.
            name = "coco_1" if n == 1 else id
            Image.fromarray(pixels).save(folder / "images" / model / f"{name}.png")
            lines += [f"{model},{id},coco_{n},{vote}" for vote in ((1, 2) if step else (4, 5))]
    (folder / "votes.csv").write_text("\n".join([*lines, "absent,whoops_0,coco_0,3"]))
    (folder / "run.yaml").write_text("name: little\nscores: {resamples: 200}\n")


def test_toyboxs_judges_agree_with_who_sees_the_scene(tmp_path: Path) -> None:
    drawn(tmp_path)
    out, folder = tmp_path / "out.json", tmp_path / "run"
    command = [tmp_path / "run.yaml", "--folder", folder, "--scenes", 2, "--votes",
               tmp_path / "votes.csv", "--images", tmp_path / "images", "--benchmark",
               tmp_path / "questions.csv", "--json", out]  # fmt: skip
    output = run(*command)
    assert "1 image with votes have no score" in output.replace("images", "image")
    for name, check in json.loads(out.read_text()).items():
        people = check["people"]
        assert people["models"] == [*MODELS] and people["measure"] == "DSG"
        assert people["only_rated"] == 1 and people["unread"] == 0
        every = people["every"]
        assert every["images"] == 2 * SCENES and every["prompts"] == SCENES
        for measure in ("spearman", "kendall", "pearson", "pairwise"):
            assert 60 < every[measure]["low"] <= every[measure]["mean"] <= 100, measure
        assert {*people["skills"]} == {"tifa", "defying"}
        assert all(each["images"] == SCENES for each in people["skills"].values())
        kept = folder / "5-scores" / "judge-check" / "people" / name / "people.json"
        assert json.loads(kept.read_text()) == people
    page = json.loads((folder / "6-report" / "pages" / "judges.json").read_text())
    assert page["tables"][1]["caption"] == "Agreement with people's votes"
    before = kept.stat().st_mtime_ns
    run(*command)
    assert kept.stat().st_mtime_ns == before, "nothing is asked again"
    (tmp_path / "votes.csv").write_text(
        (tmp_path / "votes.csv").read_text() + "\nright,whoops_0,x,1"
    )
    answers = folder / "5-scores/judge-check/people-answers/judge/answers.jsonl"
    asked = answers.stat().st_mtime_ns
    run(*command)
    assert kept.stat().st_mtime_ns > before and answers.stat().st_mtime_ns == asked


def genai(folder: Path) -> Path:
    """Four prompts with two models' images each, in GenAI-Bench's layout."""
    folder.mkdir()
    votes = {"one": [[5, 5, 4], [3, 3, 3], [2, 2, 3], [1, 1, 1]],
             "two": [[4, 4, 4], [5, 4, 4], [1, 1, 2], [2, 1, 1]]}  # fmt: skip
    prompts = {
        f"{n:05}": {"prompt": f"red dog {n}", "models": {m: v[n] for m, v in votes.items()}}
        for n in range(4)
    }
    (folder / "genai_image.json").write_text(json.dumps(prompts))
    (folder / "genai_skills.json").write_text(json.dumps({"basic": [0, 1], "advanced": [1, 2, 3]}))
    for k, model in enumerate(votes):
        (folder / "images" / model).mkdir(parents=True)
        for n, id in enumerate(prompts):
            image = Image.new("RGB", (32, 32), (60 * n, 40 + 90 * k, 200 - 40 * n))
            image.save(folder / "images" / model / f"{id}.jpeg")
    return folder


def test_a_real_judge_is_asked_genai_benchs_question(tmp_path: Path) -> None:
    """Its votes are its own benchmark's; a tiny judge of random weights is asked end to end, and
    scores that it gave go along with votes as scores in a file do."""
    folder = genai(tmp_path / "genai")
    judge = {"kind": "transformers", "model": str(tiny_judges.folder("qwen2-vl")), "device": "cpu"}
    settings = {"name": "x", "scores": {"judge": judge, "resamples": 100}}
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    out = tmp_path / "out.json"
    run(tmp_path / "run.yaml", "--folder", tmp_path / "run", "--scenes", 2, "--votes", folder,
        "--images", folder / "images", "--json", out)  # fmt: skip
    people = json.loads(out.read_text())["judge"]["people"]
    assert people["measure"] == GENAI.measure.label and people["every"]["images"] == 8
    assert people["every"]["pearson"] is not None
    assert {name: each["images"] for name, each in people["skills"].items()} == {
        "advanced": 6, "basic": 4
    }  # fmt: skip
    # Toybox's judge has none of the words: it says nothing, and agrees with nobody.
    other = json.loads(out.read_text())["choosing_judge"]["people"]
    assert other["unread"] == 100 and other["every"]["kendall"] is None

    rows = (tmp_path / "run/5-scores/judge-check/people-answers/judge/answers.jsonl").read_text()
    lines = ["t2i_model,item_id,score"]
    for row in map(json.loads, rows.splitlines()):
        (answer,) = row["answers"]
        model, id = row["prompt"].split("/")
        tokens = {token: p for token, p in answer["first"] if token}
        lines.append(f"{model},{id},{sum(tokens.values())}")
    (tmp_path / "scores.csv").write_text("\n".join(lines))
    again = tmp_path / "again.json"
    run("--votes", folder, "--scores", tmp_path / "scores.csv", "--json", again)
    told = json.loads(again.read_text())
    for measure in ("spearman", "kendall", "pearson", "pairwise"):
        ours, theirs = told["every"][measure], people["every"][measure]
        assert ours["mean"] == pytest.approx(theirs["mean"], abs=1e-3), measure
    assert told["fingerprint"] == "" and {*told["skills"]} == {"advanced", "basic"}


def test_scores_in_a_file_by_hand(tmp_path: Path) -> None:
    """Votes 14/3, 3, 7/3, 1 and 4, 13/3, 4/3, 4/3; scores in their very order are perfect."""
    folder = genai(tmp_path / "genai")
    votes = read_votes(folder)
    assert votes.has_prompts and votes.ratings["one", "00000"] == pytest.approx(14 / 3)
    lines = [f"{m},{id},{10 * vote - 3}" for (m, id), vote in votes.ratings.items()]
    (tmp_path / "s.csv").write_text("t2i_model,item_id,score\n" + "\n".join(lines[:-1]))
    check = check_scores(folder, tmp_path / "s.csv", resamples=100)
    assert (check.only_rated, check.only_scored, check.every.images) == (1, 0, 7)
    for measure in ("spearman", "kendall", "pearson", "pairwise"):
        assert getattr(check.every, measure).mean == pytest.approx(100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t2i_model,item_id,score\na,b,x\n", "line 2: a score must be a number, but b has 'x'"),
        ("t2i_model,item_id,score\na,b,nan\n", "line 2: a score must be a number"),
        ("t2i_model,item_id,score\na,b,1\n a,b ,2\n", "line 3: a b has two scores"),
        ("t2i_model,item_id\na,b\n", "must have the columns t2i_model, item_id, score"),
        ("t2i_model,item_id,score\nOne,00000,1\n", r"did you mean 'one 00000'\?"),
    ],
)
def test_scores_that_cannot_be_meant_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        check_scores(genai(tmp_path / "genai"), tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "Name a CONFIG, whose judges are checked"),
        (("--votes", "v.csv"), "--votes needs --images"),
        (("--images", "i"), "--images and --scores go with --votes"),
        (("r.yaml", "--votes", "v.csv", "--scores", "s.csv"), "--scores asks no judge"),
    ],
)
def test_options_say_one_thing(options: tuple[str, ...], words: str) -> None:
    assert words in refused(*options)


def test_images_and_votes_that_do_not_meet_are_named(tmp_path: Path) -> None:
    drawn(tmp_path)
    config = [tmp_path / "run.yaml", "--folder", tmp_path / "run", "--scenes", 2, "--votes"]
    rest = ["--images", tmp_path / "images", "--benchmark", tmp_path / "questions.csv"]
    (tmp_path / "others.csv").write_text("t2i_model,item_id,answer\nright,whoops_99,3\n")
    words = refused(*config, tmp_path / "others.csv", *rest)
    assert "must have votes on prompts of" in words and "'whoops_99'" in words
    (tmp_path / "others.csv").write_text("t2i_model,item_id,answer\nnobody,whoops_0,3\n")
    words = refused(*config, tmp_path / "others.csv", *rest)
    assert "a folder for each model" in words and "nobody/whoops_0.png" in words
    (tmp_path / "plain.txt").write_text("a dog\n")
    assert "a CSV of ratings" in refused(*config, tmp_path / "plain.txt", *rest)
