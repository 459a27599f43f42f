"""Toybox's own pairs: captions of its grammar, and renders of what captions say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from PIL import Image

from selma.config.given import ToyboxPairs
from selma.errors import DataError
from selma.given.kind import Given, GivenImage, Texts
from selma.image_files import png_bytes
from selma.randomness import rng
from selma.records.prompts import Prompt
from selma.toybox.benchmark import benchmark_texts, keyword_texts, scene_to_state
from selma.toybox.captions import STYLES, Style, caption
from selma.toybox.parsing import UnreadableCaption, parse_caption
from selma.toybox.scenes import Scene, complete, render

WORLD = 2
"""Number of the world, whose captions and renders may change with the next."""
_MOST = 100_000  # scenes that are looked at for one skill
_PREFIX = "toybox_"


def texts(source: ToyboxPairs, skills: Sequence[str], *, seed: int) -> dict[str, Texts]:
    """Each skill's captions, all different and none of the benchmark's. Raises DataError for a
    skill that is no style of toybox."""
    styles = {skill: _style(skill) for skill in skills}
    return {
        skill: Texts({"toybox": WORLD, "seed": seed}, _captions(style, skill, seed))
        for skill, style in styles.items()
    }


def images(
    source: ToyboxPairs,
    prompts: Sequence[Prompt],
    *,
    skills: Sequence[str],
    per_prompt: int,
    seed: int,
) -> dict[str, list[GivenImage]]:
    """Prompt's id → renders that it is true of; none of a text that is no caption of toybox."""
    renders = {}
    for prompt in prompts:
        try:
            scene = replace(parse_caption(prompt.text), finish="crisp")
        except UnreadableCaption:
            continue
        names = [f"{prompt.id}-{number}.png" for number in range(per_prompt)]
        renders[prompt.id] = [
            GivenImage(name, ["toybox", WORLD, seed, name], partial(_drawn, scene, seed, name))
            for name in names
        ]
    return renders


def _style(skill: str) -> Style:
    style = skill.removeprefix(_PREFIX)
    if style not in STYLES or not skill.startswith(_PREFIX):
        known = ", ".join(f"{_PREFIX}{name}" for name in STYLES)
        raise DataError(f"Toybox has captions for {known}, but the skill {skill!r} came.")
    return next(name for name in STYLES if name == style)


def _captions(style: Style, skill: str, seed: int) -> Iterator[str]:
    forbidden, seen = benchmark_texts() | keyword_texts(), set[str]()
    for number in range(_MOST):
        stream = rng(seed, "given", skill, number)
        text = caption(scene_to_state(style, stream)[1], style, stream)
        if text.lower() not in forbidden and text.lower() not in seen:
            seen.add(text.lower())
            yield text


def _drawn(scene: Scene, seed: int, name: str) -> bytes:
    stream = rng(seed, "given", name)
    return png_bytes(Image.fromarray(render(complete(scene, stream), stream)))


KIND = Given(
    name="toybox",
    settings=ToyboxPairs,
    texts=texts,
    prompts_are="Captions of toybox's own scenes",
    images=images,
    images_are="rendered by toybox itself",
)
