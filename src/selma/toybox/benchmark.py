"""The benchmark: dev and locked test prompts over all styles and categories, fixed by seed.

Pre-training rejects every caption of the benchmark (see `benchmark_texts`). Nothing is ever chosen
on the test split.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from selma.records.benchmarks import BenchmarkPrompt
from selma.records.prompts import prompt_id
from selma.toybox import WORLD
from selma.toybox.captions import STYLES, Style, caption
from selma.toybox.questions import questions
from selma.toybox.scenes import NATURAL, Scene, sample_scene, without

Split = Literal["dev", "test"]
PER_STYLE = 64
_SEED = f"toybox benchmark {WORLD}"

# What each style tends not to say.
_DROP: dict[Style, dict[str, float]] = {
    "coco": {"colour": 0.1, "relation": 0.1, "background": 0.4},
    "narratives": {"colour": 0.1, "background": 0.1},
    "count": {"colour": 0.2, "relation": 0.4, "background": 0.6},
    "tags": {"colour": 0.1, "relation": 0.1, "background": 0.2},
    "whoops": {"relation": 0.1},
}


@dataclass(frozen=True)
class Stated:
    """What a benchmark prompt states, and the whole of the scene that it speaks of as tags."""

    style: Style
    scene: Scene
    keywords: str


@cache
def benchmark_prompts(split: Split) -> list[BenchmarkPrompt]:
    """320 prompts, 64 of each style; no text occurs twice, in neither split."""
    return [prompt for prompt, _ in _splits()[split]]


@cache
def stated(split: Split) -> dict[str, Stated]:
    """Prompt id → what the prompt states."""
    return {prompt.id: content for prompt, content in _splits()[split]}


@cache
def keyword_prompts(split: Split) -> dict[str, str]:
    """Prompt id → all of the scene that the prompt speaks of, as a list of tags: what a plain
    prompt could have been."""
    return {key: content.keywords for key, content in stated(split).items()}


@cache
def benchmark_texts() -> frozenset[str]:
    """All texts of both splits, in lower case."""
    return frozenset(p.text.lower() for split in _splits().values() for p, _ in split)


@cache
def keyword_texts() -> frozenset[str]:
    """All keyword prompts of both splits, in lower case."""
    return frozenset(
        content.keywords.lower() for split in _splits().values() for _, content in split
    )


@cache
def _splits() -> dict[str, list[tuple[BenchmarkPrompt, Stated]]]:
    rng = random.Random(_SEED)
    seen: set[str] = set()
    splits: dict[str, list[tuple[BenchmarkPrompt, Stated]]] = {"dev": [], "test": []}
    for prompts in splits.values():
        for style in STYLES:
            wanted = len(prompts) + PER_STYLE
            while len(prompts) < wanted:
                full, scene = scene_to_state(style, rng)
                text, keywords = caption(scene, style, rng), caption(full, "tags", rng)
                if text.lower() in seen:
                    continue
                seen.add(text.lower())
                prompt = BenchmarkPrompt(
                    id=prompt_id(style, text), text=text, group=style, questions=questions(scene)
                )
                prompts.append((prompt, Stated(style, scene, keywords)))
    return splits


def scene_to_state(style: Style, rng: random.Random) -> tuple[Scene, Scene]:
    """A whole scene, and what the style says of it."""
    while True:
        full = replace(sample_scene(rng), finish="crisp")
        scene = without(full, rng=rng, drop=_DROP[style])
        if _suits(scene, style):
            return full, scene


def _suits(scene: Scene, style: Style) -> bool:
    facts = sum(
        (g.colour is not None) + (g.count != 1) + (g.pose not in (None, "still"))
        for g in scene.groups
    )
    match style:
        case "count":
            return all(g.count for g in scene.groups) and any(g.count != 1 for g in scene.groups)
        case "whoops":
            return scene.background is not None and all(
                g.colour not in (NATURAL[g.kind], None) for g in scene.groups
            )
        case "narratives":
            return len(scene.groups) == 2
        case _:
            return facts >= 1
