"""What a toybox scene is: one or two groups of objects, a relation, a background.

A field that is None was not said. A scene with nothing left unsaid can be drawn; one with gaps is
what a caption states, what its questions ask, and what `complete` turns into a drawable scene.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from selma.toybox.drawing import BACKGROUNDS, IMAGE_PX, KINDS, POSES, Pose, compose, soften

Relation = Literal["left of", "right of", "above", "below"]
Finish = Literal["crisp", "soft"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 48, 44),
    "yellow": (250, 214, 50),
    "green": (56, 160, 66),
    "blue": (52, 104, 222),
    "purple": (146, 66, 190),
    "white": (246, 246, 246),
}
NATURAL: dict[str, str] = {
    "apple": "red",
    "star": "yellow",
    "heart": "red",
    "tree": "green",
    "flower": "purple",
    "fish": "blue",
    "bird": "yellow",
    "dog": "white",
    "cat": "white",
    "car": "blue",
    "house": "purple",
    "cup": "green",
}
"""What colour one would expect; each is expected of two kinds, so that all are equally frequent."""
ANIMALS = ("fish", "bird", "dog", "cat")
"""The kinds that can be seen to do something."""
SIDE_PX = 24
CELL_PX = IMAGE_PX // 2
"""An object lies in one of four cells."""
GRID_PX = 8
"""Where an object lies in its cell, in every image that the base is trained or fine-tuned on:
pre-training's, SUR samples', subjects' and conditioned ones. It is one latent. On another grid the
base's loss is about twice as high, and fine-tuning learns the grid."""
FINE_GRID_PX = 4
"""The grid of the images that autoencoder, judges and scorer are trained on: they must read what a
model generates, which keeps to no grid."""
RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")
OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
MAX_COUNT = 4
MAX_COUNT_IN_PAIR = 2  # each of two groups has two of the four cells
PAIR_SHARE = 0.6
"""How often a scene has two groups."""
POSED_SHARE = 0.4
"""How often animals are seen to do something."""


@dataclass(frozen=True)
class Group:
    """One to four equal objects. A colour or pose of None was not said; a count of None is "some":
    more than one. Only animals have poses other than "still"."""

    kind: str
    colour: str | None = None
    count: int | None = None
    pose: Pose | None = None


@dataclass(frozen=True)
class Scene:
    """One group, or two of different kinds with a relation of the first to the second."""

    groups: tuple[Group, ...]
    relation: Relation | None = None
    background: str | None = None
    finish: Finish | None = None


@dataclass(frozen=True)
class Placed:
    """One drawn object; `left_px` and `top_px` are its upper left corner."""

    kind: str
    colour: str
    left_px: int
    top_px: int
    pose: Pose = "still"
    side_px: int = SIDE_PX


def sample_scene(rng: random.Random) -> Scene:
    """A scene with nothing left unsaid."""
    kinds = rng.sample(KINDS, 2 if rng.random() < PAIR_SHARE else 1)
    most = MAX_COUNT_IN_PAIR if len(kinds) == 2 else MAX_COUNT
    groups = tuple(Group(kind, count=rng.randint(1, most)) for kind in kinds)
    return complete(Scene(groups), rng)


def complete(scene: Scene, rng: random.Random) -> Scene:
    """The scene with every gap filled at random; what was said stays as it is."""
    in_pair = len(scene.groups) == 2
    return Scene(
        groups=tuple(_complete_group(group, rng, in_pair) for group in scene.groups),
        relation=(scene.relation or rng.choice(RELATIONS)) if in_pair else None,
        background=scene.background or rng.choice(BACKGROUNDS),
        finish=scene.finish or rng.choice(("crisp", "soft")),
    )


def _complete_group(group: Group, rng: random.Random, in_pair: bool) -> Group:
    colour = rng.choice(list(COLOURS))
    posed = group.kind in ANIMALS and rng.random() < POSED_SHARE
    pose: Pose = rng.choice(POSES[1:]) if posed else POSES[0]
    count = rng.randint(2, MAX_COUNT_IN_PAIR if in_pair else MAX_COUNT)
    return Group(
        kind=group.kind,
        colour=group.colour or colour,
        count=group.count or count,
        pose=group.pose or pose,
    )


def place(scene: Scene, rng: random.Random, *, grid_px: int = GRID_PX) -> list[Placed]:
    """Where each object of a complete scene lies: each in a cell of its own, its corner on a grid
    of `grid_px`."""
    if len(scene.groups) == 1:
        cells = [(x, y) for x in (0, 1) for y in (0, 1)]
        return list(_place_group(scene.groups[0], cells, rng, grid_px))
    first, second = scene.groups
    halves = {
        "left of": ([(0, 0), (0, 1)], [(1, 0), (1, 1)]),
        "above": ([(0, 0), (1, 0)], [(0, 1), (1, 1)]),
    }
    if scene.relation in halves:
        near, far = halves[scene.relation]
    else:
        assert scene.relation is not None
        far, near = halves[OPPOSITE[scene.relation]]
    return [
        *_place_group(first, near, rng, grid_px),
        *_place_group(second, far, rng, grid_px),
    ]


def _place_group(
    group: Group, cells: list[tuple[int, int]], rng: random.Random, grid_px: int
) -> Iterator[Placed]:
    assert group.colour and group.count and group.pose
    for column, row in rng.sample(cells, group.count):
        shifts = (rng.randrange(0, CELL_PX - SIDE_PX + 1, grid_px) for _ in range(2))
        left, top = (
            CELL_PX * cell + shift for cell, shift in zip((column, row), shifts, strict=True)
        )
        yield Placed(group.kind, group.colour, left_px=left, top_px=top, pose=group.pose)


def paint(scene: Scene, placed: Sequence[Placed]) -> np.ndarray:
    """uint8 RGB image [64, 64, 3] of a complete scene whose objects have their places."""
    assert scene.background is not None
    sprites = [(p.kind, COLOURS[p.colour], p.side_px, p.left_px, p.top_px, p.pose) for p in placed]
    image = compose(scene.background, sprites)
    return soften(image) if scene.finish == "soft" else image


def render(scene: Scene, rng: random.Random, *, grid_px: int = GRID_PX) -> np.ndarray:
    """uint8 RGB image [64, 64, 3] of a complete scene, objects placed at random on the grid."""
    return paint(scene, place(scene, rng, grid_px=grid_px))


def without(scene: Scene, *, rng: random.Random, drop: dict[str, float]) -> Scene:
    """The scene with gaps: each of colour, count, pose, relation, background, group is forgotten
    with the probability given by `drop`."""

    def lost(what: str) -> bool:
        return rng.random() < drop.get(what, 0.0)

    groups = [
        replace(
            group,
            colour=None if lost("colour") else group.colour,
            count=None if lost("count") and group.count != 1 else group.count,
            pose=None if lost("pose") else group.pose,
        )
        for group in scene.groups
    ]
    relation = None if lost("relation") else scene.relation
    if len(groups) == 2 and lost("group"):
        groups.pop(rng.randrange(2))
        relation = None
    background = None if lost("background") else scene.background
    return replace(scene, groups=tuple(groups), relation=relation, background=background)
