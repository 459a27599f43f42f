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
SIDES = {
    "left of": ("on the left side", "on the right side"),
    "right of": ("on the right side", "on the left side"),
    "above": ("at the top", "at the bottom"),
    "below": ("at the bottom", "at the top"),
}
QUALITY_TAGS = ("highly detailed", "sharp lines", "high quality", "4k")
"""Said of crisp images alone."""
PLAIN_TAGS = ("vector art", "flat colors", "cute icon")


def plural(kind: str) -> str:
    """Plural of a kind."""
    return kind if kind == "fish" else f"{kind}s"


def noun_phrase(group: Group, *, article: str = "a") -> str:
    """Count, pose, colour and kind, as far as they are said: "two sleeping red dogs"."""
    pose = group.pose if group.pose != "still" else None
    adjectives = [word for word in (pose, group.colour) if word]
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


def _there_is(scene: Scene) -> str:
    return "there is" if scene.groups[0].count == 1 else "there are"


def _somewhere(scene: Scene, text: str, rng: random.Random) -> str:
    """The text with its place, mostly behind it."""
    if scene.background is None:
        return text
    place = PLACES[scene.background]
    return f"{place}, {text}" if rng.random() < 0.2 else f"{text} {place}"


def _coco(scene: Scene, rng: random.Random) -> str:
    opening = rng.choice(("", "", "a drawing of ", "a picture of ", f"{_there_is(scene)} "))
    return _somewhere(scene, f"{opening}{_related(scene, rng)}", rng)


def _narratives(scene: Scene, rng: random.Random) -> str:
    opening = rng.choice(("in this image we can see", "here we can see", "this picture shows"))
    phrases = [noun_phrase(group) for group in scene.groups]
    if scene.relation is None:
        text = f"{opening} {' and '.join(phrases)}"
    else:
        near, far = SIDES[scene.relation]
        if rng.random() < 0.3:
            text = f"{near} {_there_is(scene)} {phrases[0]} and {far} {phrases[1]}"
        else:
            text = f"{opening} {phrases[0]} {near} and {phrases[1]} {far}"
    if scene.background is None:
        return f"{text}."
    behind = rng.choice(("in the background there is", "the background is"))
    return f"{text}. {behind} {scene.background}."


def _count(scene: Scene, rng: random.Random) -> str:
    opening = rng.choice(
        ("exactly ", "exactly ", f"{_there_is(scene)} exactly ", "", "a group of ")
    )
    return _somewhere(scene, f"{opening}{_related(scene, rng, article='one')}", rng)


def _tags(scene: Scene, rng: random.Random) -> str:
    tags = [noun_phrase(group).removeprefix("an ").removeprefix("a ") for group in scene.groups]
    if scene.relation is not None:
        tags = [f" {scene.relation} ".join(tags)]
    if scene.background:
        tags.append(scene.background)
    if scene.finish == "crisp":
        tags += rng.sample(QUALITY_TAGS, rng.randint(1, 2))
    tags += rng.sample(PLAIN_TAGS, rng.randint(0, 1))
    return ", ".join(tags)


def _whoops(scene: Scene, rng: random.Random) -> str:
    opening = rng.choice(("imagine ", "a strange picture of ", "an odd picture of ", ""))
    return _somewhere(scene, f"{opening}{_related(scene, rng)}", rng)


_WRITERS = {
    "coco": _coco,
    "narratives": _narratives,
    "count": _count,
    "tags": _tags,
    "whoops": _whoops,
}
