"""A whole run's findings without a model: drawn toybox scenes, and a judge that knows them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from selma.config import RunConfig
from selma.config.scores import ScoresConfig
from selma.merged.diagnostics import Diagnostics
from selma.merged.lowrank import singular, stacked, truncated
from selma.randomness import rng
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.experts import Expert
from selma.records.images import Pair
from selma.records.merged import Merged
from selma.records.prompts import Prompt, prompt_id
from selma.records.report import Findings
from selma.scores.benchmarks import load_benchmark
from selma.scores.measures import DSG
from selma.scores.networks import Loaders, ScoringNetworks
from selma.scores.scoring import read_answers, score_models
from selma.toybox.captions import NUMBERS, STYLES, caption
from selma.toybox.mismatch import Kind, altered, facts
from selma.toybox.questions import Claim, holds
from selma.toybox.scenes import Group, Scene, complete, render, sample_scene
from selma.workspace import Workspace

COUNTS = {word: number for number, word in NUMBERS.items()}
WRONG: dict[Kind, float] = {
    "colour": 0.35,
    "count": 0.4,
    "relation": 0.4,
    "pose": 0.3,
    "background": 0.15,
    "group": 0.0,
}


class Painter:
    """Draws benchmark prompts, more or less wrong, and knows what is in each of its images: as a
    judge it says the truth, now and then hesitating over the relation."""

    name = "toybox-a"
    fingerprint = "truth"

    def __init__(self, benchmark_prompts: Sequence[BenchmarkPrompt], *, doubt: float = 0.0) -> None:
        self.claims = {q.text: claim(q) for prompt in benchmark_prompts for q in prompt.questions}
        self.scenes: dict[bytes, Scene] = {}
        self.doubt = doubt

    def draw(self, prompt: BenchmarkPrompt, *, share: float) -> Image.Image:
        """An image with `share` of the usual mistakes."""
        random_numbers = rng(0, prompt.id)
        meant, slips = complete(scene(prompt), random_numbers), rng(1, prompt.id)
        wrong = [fact for fact in facts(meant) if slips.random() < share * WRONG[fact[0]]]
        actual = altered(meant, wrong)
        image = paint(actual, rng(2, prompt.id))
        self.scenes[image.tobytes()] = actual
        return image

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        return [
            [self._say(self.scenes[image.tobytes()], text) for text in texts]
            for image, texts in zip(images, questions, strict=True)
        ]

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """How many of an image's words its prompt has; stands in for CLIP's cosine."""
        return [
            20.0 + sum(g.kind in text for g in self.scenes[image.tobytes()].groups)
            + 2.0 * sum(str(g.colour) in text for g in self.scenes[image.tobytes()].groups)
            for image, text in zip(images, texts, strict=True)
        ]  # fmt: skip

    def _say(self, drawn: Scene, text: str) -> tuple[str, float]:
        true = holds(self.claims[text], drawn)
        if self.doubt and rng(4, text, *(g.kind for g in drawn.groups)).random() < self.doubt:
            return ("no" if true else "yes"), 0.52
        return ("yes", 0.97) if true else ("no", 0.04)


def claim(question: Question) -> Claim:
    return (question.category, *question.detail.split(" | "))


def scene(prompt: BenchmarkPrompt) -> Scene:
    """What a toybox prompt states, read back from its questions."""
    claims = [claim(question) for question in prompt.questions]
    plural = {c[1] for c, q in zip(claims, prompt.questions, strict=True)
              if c[0] == "entity" and q.text.startswith("Are")}  # fmt: skip
    kinds = [c[1] for c in claims if c[0] == "entity"]
    values = {(c[0], c[1]): c[2] for c in claims if c[0] in ("colour", "count", "action")}
    groups = tuple(
        Group(
            kind,
            colour=values.get(("colour", kind)),
            count=COUNTS.get(values.get(("count", kind), ""), None if kind in plural else 1),
            pose=values.get(("action", kind)),  # type: ignore[arg-type]
        )
        for kind in kinds
    )
    relation = next((c[2] for c in claims if c[0] == "spatial"), None)
    background = next((c[1] for c in claims if c[0] == "global"), None)
    return Scene(groups, relation=relation, background=background)  # type: ignore[arg-type]


def paint(drawn: Scene, random_numbers: random.Random) -> Image.Image:
    return Image.fromarray(render(drawn, random_numbers))


def findings(root: Path, *, prompts: int = 20, merged: float = 0.7) -> Findings:
    """Findings of a run whose merged model makes `merged` of the base's mistakes; each expert is
    better at its own style alone."""
    folder = Workspace(root)
    config = RunConfig(name="little-world", scores=ScoresConfig(prompts=prompts))
    benchmark_prompts = load_benchmark(config.scores)
    truth, doubter = Painter(benchmark_prompts), Painter(benchmark_prompts, doubt=0.03)
    doubter.name, doubter.scenes = "toybox-b", truth.scenes
    shares = {"base": dict.fromkeys(STYLES, 1.0), "merged": dict.fromkeys(STYLES, merged)}
    shares |= {style: {s: 0.6 if s == style else 1.0 for s in STYLES} for style in STYLES}
    images = {}
    for model, share in shares.items():
        item = folder.item("5-scores", "images", model, recipe={"model": model})
        item.begin()
        for prompt in benchmark_prompts:
            drawn = truth.draw(prompt, share=share[prompt.group])  # type: ignore[index]
            drawn.save(item.path / f"{prompt.id}.png")
        item.finish(item.path.glob("*.png"), {})
        images[model] = item.path
    card = score_models(
        benchmark_prompts,
        images,
        config.scores,
        folder,
        roles={"base": "base", "merged": "merged"} | dict.fromkeys(STYLES, "expert"),
        seed=0,
        networks=ScoringNetworks(
            config.scores,
            Loaders(
                judge={"toybox-a": truth, "toybox-b": doubter}.__getitem__,
                scorer=lambda name: truth,
            ),
        ),
    )
    pairs = {style: training_pairs(root, style) for style in STYLES}
    return Findings(
        settings=config.model_dump(mode="json", exclude={"folder"}),
        prompts={style: [pair.prompt for pair in of_style] for style, of_style in pairs.items()},
        dropped={style: {"too_similar": 31, "in_exam": 2, "empty": 0} for style in STYLES[:-1]},
        replies={style: {"new": 9, "empty_at_limit": 4, "thought": 0} for style in STYLES[:-1]},
        pairs=pairs,
        experts=[Expert(skill=s, folder=root / s, key="0" * 16) for s in STYLES],
        merged=Merged(
            folder=root, key="1" * 16, method="mean_of_deltas", weights=dict.fromkeys(STYLES, 0.2)
        ),
        benchmark_prompts=benchmark_prompts,
        images=images,
        answers={model: read_answers(folder, model) for model in images},
        scorecard=card,
        measure=DSG.about,
        diagnostics=diagnostics(),
        journal=[
            {"stage": "1-prompts", "seconds": 312.5},
            {"stage": "2-images", "seconds": 941.0},
            {"stage": "3-experts", "seconds": 4210.9},
            {"stage": "3-experts", "seconds": 3890.2},
            {"stage": "4-merged", "seconds": 1.3},
            *folder.read_journal(),
        ],
        lineage={"base": "5f1e" * 4, "expert coco": "0" * 16, "merged": "1" * 16, "torch": "2.13"},
    )


def diagnostics() -> dict[str, Any]:
    """Real ones, of one small layer."""
    generator = torch.Generator().manual_seed(0)
    experts = {
        style: (torch.randn(2, 6, generator=generator), torch.randn(5, 2, generator=generator))
        for style in STYLES
    }
    diagnostics = Diagnostics(dict.fromkeys(STYLES, 0.2))
    merged = truncated(singular(stacked(list(experts.values()), [0.2] * 5)), rank=2)
    diagnostics.add_layer("unet.mid_block.a_layer", experts, merged)
    return diagnostics.summary


def training_pairs(root: Path, style: str, count: int = 10) -> list[Pair]:
    generated = []
    for i in range(count):
        random_numbers = rng(9, style, i)
        drawn = sample_scene(random_numbers)
        text = caption(drawn, style, random_numbers)  # type: ignore[arg-type]
        path = root / "pairs" / f"{style}-{i}.png"
        path.parent.mkdir(exist_ok=True)
        paint(drawn, random_numbers).save(path)
        prompt = Prompt(id=prompt_id(style, text), skill=style, text=text)
        generated.append(Pair(prompt=prompt, image=path, seed=i))
    return generated
