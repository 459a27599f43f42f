"""A run's scores stage on multiple choice: asked with choices, matched, scored as TIFA."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from scores.colours import COLOURS, ColourJudge, image

from selma.backbones.judges.judge import Chooser
from selma.backbones.judges.toybox import pixels
from selma.backbones.judges.wordings import MultipleChoice
from selma.config.scores import ScoresConfig
from selma.errors import DataError, ModelError
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.scores import Scorecard
from selma.scores.benchmarks.tifa import TIFA
from selma.scores.networks import Loaders, ScoringNetworks
from selma.scores.scoring import read_answers, score_models
from selma.workspace import Workspace

CHOICES = ("red", "green", "blue")
BENCHMARK = [
    BenchmarkPrompt(
        id=f"a_{n}",
        text=f"all {colour}",
        group="a",
        questions=(
            Question(id="1", text="what colour?", category="color", choices=CHOICES, answer=colour),
            Question(
                id="2",
                text=f"Is there {colour}?",
                category="object",
                choices=("yes", "no"),
                answer="yes",
            ),
        ),
    )
    for n, colour in enumerate(CHOICES * 2)
]
ROLES = {"base": "base", "merged": "merged"}
SAID = {"red": "crimson", "green": "Green.", "blue": "blue"}
"""What the judge calls the colours: no choice, a choice but for its dress, a choice."""


class Namer(ColourJudge):
    """Names an image's main colour in its own words."""

    def choose(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[Sequence[MultipleChoice]],
        *,
        words: str,
    ) -> list[list[str]]:
        self._look(len(images))
        self.words = words
        with torch.inference_mode():
            shares = self.network.encode(pixels(images))
        names = [list(COLOURS)[int(share.argmax())] for share in shares]
        return [
            [
                SAID[name]
                if asked.choices == CHOICES
                else "yes"
                if name in asked.question
                else "no"
                for asked in some
            ]
            for name, some in zip(names, questions, strict=True)
        ]


def nearest(answers: Sequence[str], choices: Sequence[Sequence[str]]) -> list[int]:
    """By meaning, as far as it goes here."""
    return [list(few).index({"crimson": "red"}[a]) for a, few in zip(answers, choices, strict=True)]


def generate(folder: Workspace, model: str, colours: Sequence[str]) -> Path:
    item = folder.item("5-scores", "images", model, recipe={"model": model})
    item.begin()
    files = []
    for prompt, colour in zip(BENCHMARK, colours, strict=True):
        files.append(item.path / f"{prompt.id}.png")
        image(colour).save(files[-1])
    item.finish(files, {})
    return item.path


def score(folder: Workspace, judge: ColourJudge, matcher: str | None, **changed) -> Scorecard:
    images = {
        "base": generate(folder, "base", ["red"] * 6),
        "merged": generate(folder, "merged", CHOICES * 2),
    }
    config = ScoresConfig(
        benchmark="questions.json",
        matcher=matcher,
        resamples=50,
        choices_prompt=changed.get("words", "selma"),
    )
    load = Loaders(judge=lambda _: judge, scorer=lambda _: judge, matcher=lambda _: nearest)
    return score_models(
        changed.get("benchmark_prompts", BENCHMARK),
        images,
        config,
        folder,
        roles=ROLES,
        seed=0,
        benchmark=TIFA,
        networks=ScoringNetworks(config, load),
    )


def test_free_answers_are_matched_and_kept_as_they_came(tmp_path: Path) -> None:
    folder, judge = Workspace(tmp_path), Namer("namer")
    assert isinstance(judge, Chooser)
    card = score(folder, judge, "wordllama")
    base, merged = card.models
    assert (card.measure, card.matcher) == ("TIFA", "wordllama")
    assert (base.score.mean, merged.score.mean) == (pytest.approx(100 / 3), 100)
    assert merged.categories["color"].mean == 100 and base.unreadable == 0
    assert card.agreement == 1
    first, second, third = read_answers(folder, "merged")[:6:2]
    assert [(a.text, a.choice, a.verdict) for a in (first, second, third)] == [
        ("crimson", "red", "yes"),
        ("Green.", None, "yes"),
        ("blue", None, "yes"),
    ]


def test_without_a_matcher_they_are_unreadable_and_no_judge_is_asked_again(tmp_path: Path) -> None:
    folder, judge = Workspace(tmp_path), Namer("namer")
    score(folder, judge, "wordllama")
    seen = judge.seen
    merged = score(folder, judge, None).models[1]
    assert (merged.score.mean, merged.unreadable) == (pytest.approx(100 * 10 / 12), 2)
    assert judge.seen == seen
    rows = (folder.root / "5-scores" / "scorecard" / "verdicts.jsonl").read_text().splitlines()
    assert not any("matched" in json.loads(row) for row in rows)


def test_another_wording_asks_again(tmp_path: Path) -> None:
    folder, judge = Workspace(tmp_path), Namer("namer")
    score(folder, judge, None)
    seen = judge.seen
    score(folder, judge, None, words="tifa")
    assert judge.words == "tifa"
    # Both judges look at both models' images once more; the scorer does not.
    assert judge.seen - seen == 4 * len(BENCHMARK)


def test_a_judge_of_yes_and_no_is_not_asked_for_choices(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="answers only yes or no"):
        score(Workspace(tmp_path), ColourJudge("colours"), None)


def test_prompts_without_questions_are_refused(tmp_path: Path) -> None:
    bare = [prompt.model_copy(update={"questions": ()}) for prompt in BENCHMARK]
    with pytest.raises(DataError, match="selma questions"):
        score(Workspace(tmp_path), Namer("namer"), None, benchmark_prompts=bare)
