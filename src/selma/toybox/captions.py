"""Scene → caption in five styles, one for each skill of the paper (arXiv:2403.06952, section 4.3).

A caption states just what the scene states: gaps are not mentioned.
"""

from __future__ import annotations

import random
from typing import Literal, get_args

from selma.toybox.scenes import Group, Scene

Style = Literal["coco", "narratives", "count", "tags", "whoops"]
STYLES: tuple[Style, ...] = get_args(Style)

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
PLACES = {
    "grass": "on the grass",
    "sand": "on the sand",
    "snow": "in the snow",
    "night": "at night",
    "sky": "in the sky",
    "sea": "in the sea",
}
DOINGS = {
    "grass": "walking on the grass",
    "sand": "sleeping on the sand",
    "snow": "skiing in the snow",
    "night": "dancing at night",
    "sky": "flying in the sky",
    "sea": "swimming in the sea",
}
SIDES = {
    "left of": ("on the left side", "on the right side"),
    "right of": ("on the right side", "on the left side"),
    "above": ("at the top", "at the bottom"),
    "below": ("at the bottom", "at the top"),
}
TAGS = ("vector art", "highly detailed", "flat colors", "cute icon", "sharp lines", "4k")


def plural(kind: str) -> str:
    """Plural of a kind."""
    return kind if kind == "fish" else f"{kind}s"


def noun_phrase(group: Group, *, article: str = "a") -> str:
    """Count, size, colour and kind, as far as they are said: "two small red apples"."""
    size = group.size if group.size in ("small", "big") else None
    adjectives = [word for word in (size, group.colour) if word]
    if group.count == 1:
        words = [*adjectives, group.kind]
        if article == "a" and words[0][0] in "aeiou":
            article = "an"
        return " ".join([article, *words])
    number = NUMBERS[group.count] if group.count else "some"
    return " ".join([number, *adjectives, plural(group.kind)])


def caption(scene: Scene, style: Style, rng: random.Random) -> str:
    """The scene in one style; `rng` chooses among equal wordings."""
    return _WRITERS[style](scene, rng)


def _related(scene: Scene, rng: random.Random, *, article: str = "a") -> str:
    phrases = [noun_phrase(group, article=article) for group in scene.groups]
    if scene.relation is None:
        return " and ".join(phrases)
    sideways = scene.relation in ("left of", "right of")
    relation = f"to the {scene.relation}" if sideways and rng.random() < 0.3 else scene.relation
    return f" {relation} ".join(phrases)


def _coco(scene: Scene, rng: random.Random) -> str:
    opening = rng.choice(("", "", "a drawing of "))
    setting = f" {PLACES[scene.background]}" if scene.background else ""
    return f"{opening}{_related(scene, rng)}{setting}"


def _narratives(scene: Scene, rng: random.Random) -> str:
    opening = rng.choice(("In this image we can see", "Here we can see", "This picture shows"))
    phrases = [noun_phrase(group) for group in scene.groups]
    if scene.relation is not None:
        near, far = SIDES[scene.relation]
        seen = f"{phrases[0]} {near} and {phrases[1]} {far}"
    else:
        seen = " and ".join(phrases)
    behind = f" In the background there is {scene.background}." if scene.background else ""
    return f"{opening} {seen}.{behind}"


def _count(scene: Scene, rng: random.Random) -> str:
    opening = rng.choice(("", "", "exactly "))
    setting = f" {PLACES[scene.background]}" if scene.background else ""
    return f"{opening}{_related(scene, rng, article='one')}{setting}"


def _tags(scene: Scene, rng: random.Random) -> str:
    tags = [noun_phrase(group).removeprefix("an ").removeprefix("a ") for group in scene.groups]
    if scene.relation is not None:
        tags = [f" {scene.relation} ".join(tags)]
    if scene.background:
        tags.append(scene.background)
    return ", ".join([*tags, *rng.sample(TAGS, rng.randint(1, 2))])


def _whoops(scene: Scene, rng: random.Random) -> str:
    doing = f" {DOINGS[scene.background]}" if scene.background else ""
    return f"{_related(scene, rng)}{doing}"


_WRITERS = {
    "coco": _coco,
    "narratives": _narratives,
    "count": _count,
    "tags": _tags,
    "whoops": _whoops,
}
