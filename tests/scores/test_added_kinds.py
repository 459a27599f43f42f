"""A benchmark, judges and a scorer that another package adds, through the real commands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
import tiny
import yaml
from PIL import Image, ImageStat
from pipeline.killing import settings
from pipeline.server import serving
from typer.testing import CliRunner

from selma.backbones.judges.loading import JudgeKind
from selma.backbones.preference.scorers import ScorerKind
from selma.cli import app
from selma.config import load_config
from selma.config.scores import ScorerSettings
from selma.config.section import Section
from selma.errors import ConfigError
from selma.preflight import check
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.scores import MeasureInfo, Scorecard
from selma.registry import registered
from selma.scores.benchmarks.layouts import Benchmark
from selma.scores.measures import Measure, all_or_nothing

LINES = """\
dogs_1 | a red dog | Is there a dog? | Is the dog red?
dogs_2 | a blue dog | Is there a dog? | Is the dog blue?
cats_1 | a green cat | Is there a cat? | Is the cat green?
cats_2 | a cat that sits on a mat beside a hat and looks at a bat | Is there a cat?
"""


def read_lines(path: Path) -> list[BenchmarkPrompt]:
    prompts = []
    for line in path.read_text().splitlines():
        id, text, *questions = (part.strip() for part in line.split("|"))
        asked = tuple(
            Question(id=str(n), text=question, category="colour" if n else "object")
            for n, question in enumerate(questions)
        )
        prompts.append(BenchmarkPrompt(id=id, text=text, group=id[:4], questions=asked))
    return prompts


STRICT = Measure(
    MeasureInfo(label="Strict", meaning="the share of prompts without a fault", earns="a yes"),
    earned=all_or_nothing,
)
BENCHMARK = Benchmark(
    name="pets",
    layout="lines of pets",
    measure=STRICT,
    recognises=lambda path: path.suffix == ".pets",
    read=read_lines,
)


class ToneSettings(Section):
    kind: Literal["tone"] = "tone"
    brighter_than: float = 100.0


class ToneJudge:
    """Sees every animal, and a colour where an image is bright."""

    def __init__(self, name: str, brighter_than: float) -> None:
        self.name, self.brighter_than = name, brighter_than
        self.fingerprint = f"tone-{brighter_than}"

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        return [
            [self._answer(image, question) for question in asked]
            for image, asked in zip(images, questions, strict=True)
        ]

    def _answer(self, image: Image.Image, question: str) -> tuple[str, float | None]:
        seen = question.startswith("Is there") or brightness(image) > self.brighter_than
        return ("yes" if seen else "no"), None


def brightness(image: Image.Image) -> float:
    return float(ImageStat.Stat(image.convert("L")).mean[0])


class GlowSettings(ScorerSettings):
    kind: Literal["glow"] = "glow"
    half: bool = False


class Glow:
    name, scale, preprocessing, weights = "Glow v7", "mean of grey", "grey", "none"

    def __init__(self, config: GlowSettings) -> None:
        self.fingerprint = f"glow-{config.half}"
        self.half = config.half

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        return [brightness(image) / (2 if self.half else 1) for image in images]


def load_tone(config: ToneSettings, *, setting: str) -> ToneJudge:
    return ToneJudge("tone", config.brighter_than)


def look_tone(config: ToneSettings, key: str) -> Iterator[str]:
    if config.brighter_than > 255:
        yield f"{key}.brighter_than: no image is as bright as {config.brighter_than:g}."


ROWS = (
    ("selma.benchmarks", BENCHMARK),
    ("selma.judges", JudgeKind("tone", load_tone, ToneSettings, chooses=False, look=look_tone)),
    ("selma.judges", JudgeKind("dim", lambda name, setting: ToneJudge(name, 10.0), chooses=False)),
    ("selma.scorers", ScorerKind("glow", Glow, GlowSettings)),
)


@pytest.fixture(autouse=True)
def added() -> Iterator[None]:
    with ExitStack() as stack:
        for group, row in ROWS:
            stack.enter_context(registered(group, row))
        yield


def invoked(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def test_images_are_scored_by_the_measure_of_an_added_benchmark(tmp_path: Path) -> None:
    (tmp_path / "some.pets").write_text(LINES)
    (tmp_path / "judge.yaml").write_text("{kind: tone, brighter_than: 50}")
    folder = tmp_path / "images"
    folder.mkdir()
    for number, prompt in enumerate(read_lines(tmp_path / "some.pets")):
        Image.new("RGB", (8, 8), (number * 40,) * 3).save(folder / f"{prompt.id}.png")
    benchmark = ("--benchmark", tmp_path / "some.pets", "--json", tmp_path / "out.json")
    text = invoked("score", "images", folder, *benchmark, "--judge", tmp_path / "judge.yaml")
    # Two dark dogs have no colour; DSG would give them a half.
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["per_prompt"] == {"dogs_1": 0, "dogs_2": 0, "cats_1": 100, "cats_2": 100}
    assert (found["score"], found["measure"], found["judge"]) == (50, "Strict", "tone")
    assert "Strict 50.0" in text and "tone" in text
    text = invoked("score", "images", folder, *benchmark, "--judge", "dim")
    assert "Strict 75.0" in text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added")
    tiny.build("sd1", folder / "base")
    (folder / "some.pets").write_text(LINES)
    return folder


def written(place: Path, address: str, **scores: Any) -> Path:
    """A tiny run's settings as a file."""
    raw = settings(place, address, run="run")
    raw["scores"] = {
        "benchmark": "some.pets",
        "resamples": 50,
        "judge": {"kind": "tone", "brighter_than": 120},
        "choosing_judge": "dim",
        "preferences": [{"kind": "glow", "half": True, "label": "half-glow"}],
    } | scores
    path = place / "added.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_a_run_on_added_kinds_shows_them_in_scorecard_terminal_and_report(place: Path) -> None:
    with serving() as address:
        path = written(place, address)
        text = invoked("run", path)
        again, images = invoked("score", path), invoked("images", path)
    run = place / "run"
    card = Scorecard.model_validate_json((run / "5-scores/scorecard/scorecard.json").read_text())
    assert (card.benchmark, card.measure, card.judge) == ("some.pets", "Strict", "tone")
    assert card.second_judge == "dim" and card.prompts == 4 and card.questions == 7
    assert [(scorer.label, scorer.name) for scorer in card.preferences] == [
        ("half-glow", Glow.name)
    ]
    assert all(set(model.per_prompt.values()) <= {0.0, 1.0} for model in card.models)
    half = {model.model: model.preferences["half-glow"].mean for model in card.models}
    assert 0 < half["base"] <= 127.5
    page = (run / "6-report" / "index.html").read_text()
    assert "Strict score" in page and "the share of prompts without a fault" in page
    assert "Only a yes earns a point" in page and "Glow v7" in page and "DSG" not in page
    assert "Strict" in again and "Glow v7" in again and "judge tone" in again
    # The tiny base's tokenizer knows few words, so that every prompt is too long for it.
    lengths = "coco: 8 images, 8 prompts over the text encoder's token limit"
    assert lengths in images and lengths in text and "Strict" in text
    assert "longer than the text encoder reads" in page
    assert "benchmark: 4 prompts, 1 over the text encoder's token limit" in text
    assert "(1 over the text encoder’s token limit)" in page


def test_mistakes_of_added_rows_are_told_before_anything_is_made(place: Path) -> None:
    judge = {"kind": "tone", "brighter_than": 300}
    with pytest.raises(ConfigError, match=r"scores\.judge\.brighter_than: no image is as bright"):
        check(load_config(written(place, "http://localhost:1/v1", judge=judge)), ["5-scores"])
    for judge_setting in ("bright", {"kind": "bright"}):
        wrong = written(place, "http://localhost:1/v1", judge=judge_setting)
        with pytest.raises(ConfigError, match=r"-regions, dim, .*, or a mapping whose kind is"):
            load_config(wrong)
    wrong = written(place, "http://localhost:1/v1", preferences=[{"kind": "glow", "halves": 1}])
    with pytest.raises(ConfigError, match="halves"):
        load_config(wrong)
