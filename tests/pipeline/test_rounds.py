"""DreamSync's rounds: a judge chooses images, and the next run generates with what they taught."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import tiny
from rich.console import Console
from typer.testing import CliRunner

from pipeline.killing import settings, tree
from pipeline.server import serving
from selma import cli, pipeline
from selma.config import RunConfig
from selma.errors import ConfigError
from selma.finished import NotFinished
from selma.preflight import check
from selma.status import statuses, table
from selma.workspace import manifest

HEADER = (
    "item_id", "text", "keywords", "proposition_id", "dependency", "category_broad",
    "category_detailed", "tuple", "question_natural_language",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    tiny.build("sd1", folder / "base")
    return folder


def config(place: Path, address: str, run: str, **images: object) -> RunConfig:
    raw = settings(place, address, run=run)
    # Which of random images a judge says yes to means nothing, so that nearly all must pass.
    choose = {"candidates": 3, "questions": str(place / "asked.csv"), "fewest_pairs": 1}
    raw["images"] |= {"choose": choose | {"threshold": 0.01}} | images  # type: ignore[operator]
    return RunConfig.model_validate(raw)


@pytest.fixture(scope="module")
def first(place: Path) -> RunConfig:
    """Round 1, up to its merged adapter; no question is there for one prompt of each skill."""
    with serving() as address:
        one = config(place, address, "one")
        plain = one.model_copy(update={"images": one.images.model_copy(update={"choose": None})})
        prompts = pipeline.prompts(plain)
        assert pipeline.questions(plain, prompts) == {}
        with open(place / "asked.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(HEADER)
            for of_skill in prompts.values():
                for number, prompt in enumerate(of_skill[1:]):
                    asked = [("Is there a dog?", "0"), ("Is the dog red?", "1")]
                    for row, (question, parents) in enumerate(asked, 1):
                        about = (f"{prompt.skill}_{number}", prompt.text, "", row, parents)
                        rows.writerow((*about, "entity", "whole", "", question))
        with pytest.raises(NotFinished, match="selma prompts"):
            pipeline.images(one)
        for stage in (pipeline.prompts, pipeline.images, pipeline.experts, pipeline.merge):
            stage(one)
    return one


def test_what_a_judge_left_is_shown_and_kept(first: RunConfig, place: Path) -> None:
    left = pipeline.survivors(first, ["coco", "whoops"])
    for skill, of_skill in left.items():
        rows = (first.run_folder / f"2-images/{skill}/train/metadata.jsonl").read_text()
        assert of_skill.prompts == 8 and of_skill.without_questions == 1
        assert len(rows.splitlines()) == 7 - of_skill.rejected
        summary = manifest(first.run_folder / "2-images" / skill)["summary"]
        assert summary["kept_share"] == of_skill.share
    path = place / "one.json"
    path.write_text(first.model_dump_json())  # JSON is YAML
    shown = CliRunner().invoke(cli.app, ["images", str(path)])
    assert shown.exit_code == 0, shown.output
    assert f"{100 * left['coco'].share:.1f}% of 8 prompts have an accepted image" in shown.output


def test_prompts_say_how_many_have_questions(first: RunConfig, place: Path) -> None:
    path = place / "one.json"
    path.write_text(first.model_dump_json())
    shown = CliRunner().invoke(cli.app, ["prompts", str(path)])
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines() == [
        f"{skill}: 8 prompts, 7 of them with questions" for skill in ("coco", "whoops")
    ]


def rows(run: RunConfig, skill: str = "coco") -> dict[str, tuple[object, ...]]:
    """The status of a skill's items."""
    found = {f"{s.stage}/{s.name}": (s.state, s.have, s.want) for s in statuses(run)}
    return {n: row for n, row in found.items() if re.fullmatch(rf"[123]-.*/{skill}", n)}


def rechosen(run: RunConfig, **choose: object) -> RunConfig:
    old = run.images
    assert old.choose is not None
    images = old.model_copy(update={"choose": old.choose.model_copy(update=choose)})
    return run.model_copy(update={"images": images})


def test_status_knows_them_finished(first: RunConfig) -> None:
    states = {(s.stage, s.name): s.state for s in statuses(first)}
    assert states["2-images", "coco"] == states["3-experts", "whoops"] == "done"
    assert states["1-prompts", "_questions/coco"] == "done"


def test_status_of_another_threshold_has_no_image_to_make(first: RunConfig) -> None:
    assert rows(rechosen(first, threshold=0.9)) == {
        "1-prompts/coco": ("done", 8, 8),
        "1-prompts/_questions/coco": ("done", 8, 8),
        "2-images/_candidates/coco": ("done", 21, 21),  # of the seven prompts with questions
        "2-images/coco": ("other settings", None, None),
        "3-experts/coco": ("waits", None, 8),
    }
    shown = Console(width=100, record=True, file=io.StringIO())
    shown.print(table(statuses(rechosen(first, threshold=0.9))))
    assert re.search(r"_candidates/coco +done +nothing", shown.export_text())


def test_status_of_more_candidates_has_them_all_to_make(first: RunConfig) -> None:
    found = rows(rechosen(first, candidates=4))
    assert found["2-images/_candidates/coco"] == ("other settings", None, 28)
    assert found["2-images/coco"] == ("waits", None, None)


def test_status_before_questions_are_there(first: RunConfig, place: Path) -> None:
    fresh = first.model_copy(update={"folder": place / "fresh"})
    assert rows(fresh) == {
        "1-prompts/coco": ("missing", None, 8),
        "1-prompts/_questions/coco": ("waits", None, 8),
        "2-images/_candidates/coco": ("waits", None, 24),
        "2-images/coco": ("waits", None, None),
        "3-experts/coco": ("waits", None, 8),
    }


def test_status_of_too_few_pairs_is_a_row(first: RunConfig) -> None:
    looked = [s for s in statuses(rechosen(first, fewest_pairs=8)) if s.name == "coco"]
    assert [s.state for s in looked] == ["done", "unknown", "waits"]
    assert "needs 8 pairs" in looked[1].why


def test_the_next_round_generates_with_the_last_ones_adapter(first: RunConfig, place: Path) -> None:
    merged = first.run_folder / "4-merged"
    two = RunConfig.model_validate(
        json.loads(first.model_dump_json())
        | {"name": "two", "folder": str(place / "two")}
        | {"images": json.loads(first.images.model_dump_json()) | {"adapter": str(merged)}}
    )
    with serving():
        # The server is another one, but its replies are here already.
        (place / "two").mkdir()
        (first.run_folder / "1-prompts").rename(place / "two" / "1-prompts")
        for stage in (pipeline.images, pipeline.experts, pipeline.merge):
            stage(two)
        (place / "two" / "1-prompts").rename(first.run_folder / "1-prompts")
    before, after = tree(first.run_folder), tree(two.run_folder)
    images = [name for name in before if "_candidates" in name and name.endswith("png")]
    assert len(images) == 2 * 7 * 3
    assert sum(before[name] != after[name] for name in images) > len(images) / 2
    recipes = [manifest(run.run_folder / "3-experts/coco")["recipe"] for run in (first, two)]
    assert recipes[0]["base"] == recipes[1]["base"]
    assert "adapter" in manifest(two.run_folder / "2-images/coco")["recipe"]
    file = "4-merged/pytorch_lora_weights.safetensors"
    assert before[file] != after[file]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"adapter": "nowhere"}, "images.adapter: must be a file or folder, but nowhere is"),
        ({"adapter": "empty"}, "images.adapter: .*empty must hold an adapter's safetensors"),
        ({"questions": "none.csv"}, "choose.questions: must be toybox, toybox_exact or a file"),
        ({"questions": "empty/plain.txt"}, "has no questions. Let a language model"),
        (
            {"questions": {"backend": {"kind": "openai", "model": "m"}}},
            "OPENAI_API_KEY",
        ),
        ({"questions": "toybox"}, "own words, but prompts.lexicon is null; set that to toybox"),
        ({"questions": "toybox"}, "none of the seeds of 'coco' is one; choose a skill of toybox"),
    ],
)
def test_mistakes_are_found_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/plain.txt").write_text("a dog\na cat\n")
    choose = {"questions": images.pop("questions", "toybox")}
    run = RunConfig.model_validate({"name": "x", "images": {**images, "choose": choose}})
    with pytest.raises(ConfigError, match=message):
        check(run)


@pytest.mark.parametrize(
    ("prompts", "images", "mistakes"),
    [
        ({}, {}, []),
        ({"lexicon": None}, {}, ["prompts.lexicon is null"]),
        ({"skills": ["toybox_coco", "coco"]}, {}, ["none of the seeds of 'coco' is one"]),
        ({"per_skill": 8}, {}, []),
        (
            {"per_skill": 1},
            {},
            ["fewest_pairs: a skill has at most 1 pair .* but needs 8; lower it"],
        ),
        ({"per_skill": 7}, {"per_prompt": 2}, []),
    ],
)
def test_questions_of_toybox_need_its_captions_and_enough_of_them(
    prompts: dict[str, object], images: dict[str, object], mistakes: list[str]
) -> None:
    settings = {"skills": ["toybox_coco"], "lexicon": "toybox"} | prompts
    choose = {"questions": "toybox"}
    run = RunConfig.model_validate(
        {"name": "x", "prompts": settings, "images": {**images, "choose": choose}}
    )
    if not mistakes:
        return check(run)
    with pytest.raises(ConfigError) as refused:
        check(run)
    for line, mistake in zip(str(refused.value).splitlines()[1:], mistakes, strict=True):
        assert re.search(mistake, line)
    return None


def test_a_scorers_threshold_needs_prompts_enough_as_questions_do() -> None:
    def run(**choose: object) -> RunConfig:
        prompts = {"skills": ["toybox_coco"], "per_skill": 3}
        return RunConfig.model_validate(
            {"name": "x", "prompts": prompts, "images": {"choose": choose}}
        )

    check(run())
    check(run(score_threshold=20.0, fewest_pairs=3))
    with pytest.raises(ConfigError, match=r"at most 3 pairs .* but needs 8; lower it"):
        check(run(score_threshold=20.0))
