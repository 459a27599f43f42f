"""What a toybox scene is: objects with a colour, a count and a size, a relation, a background.

A field that is None was not said. A scene with nothing left unsaid can be drawn; one with gaps is
what a caption states, what its questions ask, and what `complete` turns into a drawable scene.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from selma.toybox.drawing import BACKGROUNDS, IMAGE_PX, KINDS

Relation = Literal["left of", "right of", "above", "below"]
Size = Literal["small", "normal", "big"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 48, 44),
    "orange": (245, 146, 30),
    "yellow": (250, 214, 50),
    "green": (56, 160, 66),
    "blue": (52, 104, 222),
    "purple": (146, 66, 190),
    "brown": (134, 86, 48),
    "white": (246, 246, 246),
}
NATURAL: dict[str, str] = {
    "apple": "red",
    "banana": "yellow",
    "ball": "orange",
    "star": "yellow",
    "heart": "red",
    "tree": "green",
    "flower": "purple",
    "mushroom": "red",
    "fish": "orange",
    "bird": "blue",
    "dog": "brown",
    "cat": "orange",
    "car": "red",
    "boat": "white",
    "house": "brown",
    "cup": "white",
}
SIDE_PX: dict[Size, int] = {"small": 16, "normal": 24, "big": 32}
GRID_PX = 8
"""Corners of objects lie on this grid in every image that the base is trained or fine-tuned on:
pre-training's, SUR samples', subjects' and conditioned ones. It is one latent, a fourth of the
patterns to learn; on another grid the base's loss is half as high again, and fine-tuning learns the
grid."""
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
MAX_COUNT_IN_PAIR = 2  # more would not fit in half an image at normal size


def colours_of(kind: str) -> tuple[str, ...]:
    """The seven colours that a kind may have: its natural one first, then six others."""
    others = [colour for colour in COLOURS if colour != NATURAL[kind]]
    # Leaving out a different colour for each kind keeps all eight equally frequent.
    others.pop(KINDS.index(kind) % len(others))
    return (NATURAL[kind], *others)


def never_shown(kind: str) -> str:
    """The one colour of this kind that pre-training never shows; benchmarks do ask for it."""
    others = colours_of(kind)[1:]
    return others[(KINDS.index(kind) * 5 + 2) % len(others)]


@dataclass(frozen=True)
class Group:
    """One to four equal objects. A colour or size of None was not said; a count of None is
    "some": more than one."""

    kind: str
    colour: str | None = None
    count: int | None = None
    size: Size | None = None


@dataclass(frozen=True)
class Scene:
    """One group, or two of different kinds with a relation of the first to the second."""

    groups: tuple[Group, ...]
    relation: Relation | None = None
    background: str | None = None


@dataclass(frozen=True)
class Placed:
    """One drawn object; `left_px` and `top_px` are its upper left corner."""

    kind: str
    colour: str
    side_px: int
    left_px: int
    top_px: int


def sample_scene(rng: random.Random, *, withheld: bool = False) -> Scene:
    """A scene with nothing left unsaid. `withheld` allows colours that pre-training never shows."""
    kinds = rng.sample(KINDS, 2 if rng.random() < 0.6 else 1)
    most = MAX_COUNT_IN_PAIR if len(kinds) == 2 else MAX_COUNT
    groups = tuple(Group(kind, count=rng.randint(1, most)) for kind in kinds)
    return complete(Scene(groups), rng, withheld=withheld)


def complete(scene: Scene, rng: random.Random, *, withheld: bool = False) -> Scene:
    """The scene with every gap filled at random; what was said stays as it is."""
    in_pair = len(scene.groups) == 2
    return Scene(
        groups=tuple(_complete_group(g, rng, in_pair, withheld) for g in scene.groups),
        relation=(scene.relation or rng.choice(RELATIONS)) if in_pair else None,
        background=scene.background or rng.choice(BACKGROUNDS),
    )


def _complete_group(group: Group, rng: random.Random, in_pair: bool, withheld: bool) -> Group:
    colours = [c for c in colours_of(group.kind) if withheld or c != never_shown(group.kind)]
    natural_first = [colours[0]] * 2 + colours  # natural colours are three times as frequent
    most = MAX_COUNT_IN_PAIR if in_pair else MAX_COUNT
    count = group.count or rng.randint(2, most)
    sizes: list[Size] = ["normal", "normal", "small"]
    if count == 1:
        sizes.append("big")
    return Group(
        kind=group.kind,
        colour=group.colour or rng.choice(natural_first),
        count=count,
        size=group.size or rng.choice(sizes),
    )


def place(scene: Scene, rng: random.Random, *, grid_px: int = GRID_PX) -> list[Placed]:
    """Where each object of a complete scene sits: without overlap, wholly inside the image, its
    corner on a grid of `grid_px`."""
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
    """A lone object anywhere in its region; several in a quarter of the image each."""
    assert group.colour and group.count and group.size
    cell, side = IMAGE_PX // 2, SIDE_PX[group.size]
    columns, rows = {c for c, _ in cells}, {r for _, r in cells}
    if group.count == 1:
        spans = [(min(columns), max(columns), min(rows), max(rows))]
    else:
        spans = [(c, c, r, r) for c, r in rng.sample(cells, group.count)]
    for left, right, top, bottom in spans:
        yield Placed(
            kind=group.kind,
            colour=group.colour,
            side_px=side,
            left_px=rng.randrange(left * cell, (right + 1) * cell - side + 1, grid_px),
            top_px=rng.randrange(top * cell, (bottom + 1) * cell - side + 1, grid_px),
        )


def without(scene: Scene, *, rng: random.Random, drop: dict[str, float]) -> Scene:
    """The scene with gaps: each of colour, count, size, relation, background, group is forgotten
    with the probability given by `drop`."""

    def lost(what: str) -> bool:
        return rng.random() < drop.get(what, 0.0)

    groups = [
        replace(
            group,
            colour=None if lost("colour") else group.colour,
            count=None if lost("count") and group.count != 1 else group.count,
            size=None if lost("size") else group.size,
        )
        for group in scene.groups
    ]
    relation = None if lost("relation") else scene.relation
    if len(groups) == 2 and lost("group"):
        groups.pop(rng.randrange(2))
        relation = None
    background = None if lost("background") else scene.background
    return Scene(groups=tuple(groups), relation=relation, background=background)


def mistaken(scene: Scene, *, rng: random.Random, wrong: dict[str, float]) -> Scene:
    """The scene with errors: what is said of colour, count, relation or background is replaced by
    another value with the probability given by `wrong`."""

    def errs(what: str, value: object) -> bool:
        return value is not None and rng.random() < wrong.get(what, 0.0)

    groups = tuple(
        replace(
            group,
            colour=rng.choice(colours_of(group.kind))
            if errs("colour", group.colour)
            else group.colour,
            count=rng.randint(2, MAX_COUNT)
            if group.count != 1 and errs("count", group.count)
            else group.count,
        )
        for group in scene.groups
    )
    relation = rng.choice(RELATIONS) if errs("relation", scene.relation) else scene.relation
    background = (
        rng.choice(BACKGROUNDS) if errs("background", scene.background) else scene.background
    )
    return Scene(groups=groups, relation=relation, background=background)
