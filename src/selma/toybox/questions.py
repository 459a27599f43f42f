"""Scene → DSG questions with their dependencies (arXiv:2310.18235), and which of them hold.

A claim is one atomic statement; a question asks for it in words and expects yes.
"""

from __future__ import annotations

import random
from typing import Literal

from selma.records import Question
from selma.toybox.captions import NUMBERS, plural
from selma.toybox.drawing import BACKGROUNDS, KINDS
from selma.toybox.scenes import COLOURS, MAX_COUNT, OPPOSITE, RELATIONS, Scene

Category = Literal["entity", "colour", "count", "size", "spatial", "global"]
CATEGORIES: tuple[Category, ...] = ("entity", "colour", "count", "size", "spatial", "global")
Claim = tuple[str, ...]
"""(category, kind, value), ("spatial", kind, relation, other kind), ("entity", kind) or
("global", background)."""


def claims(scene: Scene) -> list[tuple[Claim, tuple[int, ...]]]:
    """All that a scene states, each with the positions of the claims it depends on."""
    found: list[tuple[Claim, tuple[int, ...]]] = []
    entities = []
    for group in scene.groups:
        entity = len(found)
        entities.append(entity)
        found.append((("entity", group.kind), ()))
        if group.colour:
            found.append((("colour", group.kind, group.colour), (entity,)))
        if group.count and group.count > 1:
            found.append((("count", group.kind, NUMBERS[group.count]), (entity,)))
        if group.size in ("small", "big"):
            found.append((("size", group.kind, group.size), (entity,)))
    if scene.relation:
        first, second = scene.groups
        found.append((("spatial", first.kind, scene.relation, second.kind), tuple(entities)))
    if scene.background:
        found.append((("global", scene.background), ()))
    return found


def questions(scene: Scene) -> tuple[Question, ...]:
    """The DSG questions of a caption that states this scene; ids are "1", "2", ..."""
    many = {group.kind: group.count != 1 for group in scene.groups}
    return tuple(
        Question(
            id=str(number),
            text=ask(claim, many),
            category=claim[0],
            detail=" | ".join(claim[1:]),
            parents=tuple(str(parent + 1) for parent in parents),
        )
        for number, (claim, parents) in enumerate(claims(scene), 1)
    )


def ask(claim: Claim, many: dict[str, bool]) -> str:
    """The claim as a yes/no question; `many` says which kinds are spoken of in the plural."""

    def the(kind: str) -> str:
        return f"the {plural(kind)}" if many.get(kind) else f"the {kind}"

    category, subject = claim[0], claim[1]
    is_are = "Are" if many.get(subject) else "Is"
    match category:
        case "entity":
            if many.get(subject):
                return f"Are there {plural(subject)}?"
            return f"Is there {'an' if subject[0] in 'aeiou' else 'a'} {subject}?"
        case "colour" | "size":
            return f"{is_are} {the(subject)} {claim[2]}?"
        case "count":
            return f"Are there {claim[2]} {plural(subject)}?"
        case "spatial":
            return f"{is_are} {the(subject)} {claim[2]} {the(claim[3])}?"
        case _:
            return f"Is the background {subject}?"


def holds(claim: Claim, scene: Scene) -> bool:
    """Whether a claim is true of a complete scene."""
    group = {g.kind: g for g in scene.groups}.get(claim[1])
    match claim[0]:
        case "entity":
            return group is not None
        case "colour":
            return group is not None and group.colour == claim[2]
        case "count":
            return (
                group is not None and group.count is not None and NUMBERS[group.count] == claim[2]
            )
        case "size":
            return group is not None and group.size == claim[2]
        case "spatial":
            return claim[1:] in _relations(scene)
        case _:
            return scene.background == claim[1]


def sample_claim(scene: Scene, rng: random.Random) -> tuple[Claim, bool]:
    """A claim about a complete scene and whether it holds; true and false about equally often."""
    category = rng.choice(CATEGORIES)
    group = rng.choice(scene.groups)
    absent = rng.choice([kind for kind in KINDS if kind not in {g.kind for g in scene.groups}])
    true = rng.random() < 0.5
    # A question about something absent is one more way to be false.
    kind = group.kind if true or rng.random() < 0.85 else absent
    match category:
        case "entity":
            claim: Claim = ("entity", group.kind if true else absent)
        case "colour":
            claim = ("colour", kind, str(group.colour) if true else rng.choice(list(COLOURS)))
        case "count":
            said = group.count if true and group.count else rng.randint(2, MAX_COUNT)
            claim = ("count", kind, NUMBERS[max(2, said)])
        case "size":
            said_size = group.size if true and group.size != "normal" else None
            claim = ("size", kind, said_size or rng.choice(("small", "big")))
        case "spatial":
            claim = _sample_relation(scene, rng, true, absent)
        case _:
            claim = ("global", str(scene.background) if true else rng.choice(BACKGROUNDS))
    return claim, holds(claim, scene)


def _sample_relation(scene: Scene, rng: random.Random, true: bool, absent: str) -> Claim:
    if len(scene.groups) == 1:
        pair = [scene.groups[0].kind, absent]
        rng.shuffle(pair)
        return ("spatial", pair[0], rng.choice(RELATIONS), pair[1])
    if true:
        return ("spatial", *rng.choice(sorted(_relations(scene))))
    pair = [group.kind for group in scene.groups]
    rng.shuffle(pair)
    return ("spatial", pair[0], rng.choice(RELATIONS), pair[1])


def _relations(scene: Scene) -> set[tuple[str, ...]]:
    """The relation of the scene and its converse."""
    if scene.relation is None:
        return set()
    first, second = (group.kind for group in scene.groups)
    return {(first, scene.relation, second), (second, OPPOSITE[scene.relation], first)}
