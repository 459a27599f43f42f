"""Scene → DSG questions with their dependencies (arXiv:2310.18235), and which of them hold.

A claim is one atomic statement; a question asks for it in words and expects yes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal

from selma.records.benchmarks import Question
from selma.toybox.captions import NUMBERS, plural
from selma.toybox.drawing import BACKGROUNDS, KINDS, POSES
from selma.toybox.scenes import (
    ANIMALS,
    COLOURS,
    MAX_COUNT,
    OPPOSITE,
    RELATIONS,
    Placed,
    Relation,
    Scene,
)

Category = Literal["entity", "colour", "count", "action", "spatial", "global"]
CATEGORIES: tuple[Category, ...] = ("entity", "colour", "count", "action", "spatial", "global")


MAX_WORDS = 12
"""Of a question, as far as a judge reads it."""


def words_of(question: str) -> list[str]:
    """A question's words, as judges read them."""
    return re.findall(r"[a-z0-9]+", question.lower())


Claim = tuple[str, ...]
"""(category, kind, value), ("spatial", kind, relation, other kind), ("entity", kind) or
("global", background)."""


def claims(scene: Scene) -> list[tuple[Claim, tuple[int, ...]]]:
    """All that a scene states, each with the positions of the claims it depends on."""
    stated: list[tuple[Claim, tuple[int, ...]]] = []
    entities = []
    for group in scene.groups:
        entity = len(stated)
        entities.append(entity)
        stated.append((("entity", group.kind), ()))
        if group.colour:
            stated.append((("colour", group.kind, group.colour), (entity,)))
        if group.count and group.count > 1:
            stated.append((("count", group.kind, NUMBERS[group.count]), (entity,)))
        if group.pose not in (None, "still"):
            stated.append((("action", group.kind, str(group.pose)), (entity,)))
    if scene.relation:
        first, second = scene.groups
        stated.append((("spatial", first.kind, scene.relation, second.kind), tuple(entities)))
    if scene.background:
        stated.append((("global", scene.background), ()))
    return stated


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


def not_several(scene: Scene) -> tuple[Question, ...]:
    """Whether there are two, three or four of each thing that a caption names one of, no expected:
    what DSG does not ask. Ids go on from those of `questions`, on whose entities they depend."""
    stated = [claim for claim, _ in claims(scene)]
    asked = [
        (("count", group.kind, NUMBERS[number]), stated.index(("entity", group.kind)))
        for group in scene.groups
        if group.count == 1
        for number in range(2, MAX_COUNT + 1)
    ]
    return tuple(
        Question(
            id=str(number),
            text=ask(claim, {}),
            category="count",
            detail=" | ".join(claim[1:]),
            parents=(str(entity + 1),),
            answer="no",
        )
        for number, (claim, entity) in enumerate(asked, len(stated) + 1)
    )


def the(kind: str, many: dict[str, bool]) -> str:
    """ "the dog", or "the dogs" where it is spoken of in the plural."""
    return f"the {plural(kind)}" if many.get(kind) else f"the {kind}"


def some(kind: str, many: dict[str, bool]) -> str:
    """ "a dog", "an apple", or "dogs"."""
    article = "an" if kind[0] in "aeiou" else "a"
    return plural(kind) if many.get(kind) else f"{article} {kind}"


def ask(claim: Claim, many: dict[str, bool]) -> str:
    """The claim as a yes/no question; `many` says which kinds are spoken of in the plural."""
    category, subject = claim[0], claim[1]
    is_are = "Are" if many.get(subject) else "Is"
    match category:
        case "entity":
            return f"{is_are} there {some(subject, many)}?"
        case "colour" | "action":
            return f"{is_are} {the(subject, many)} {claim[2]}?"
        case "count":
            return f"Are there {claim[2]} {plural(subject)}?"
        case "spatial":
            return f"{is_are} {the(subject, many)} {claim[2]} {the(claim[3], many)}?"
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
        case "action":
            return group is not None and group.pose == claim[2]
        case "spatial":
            return claim[1:] in _relations(scene)
        case _:
            return scene.background == claim[1]


def sample_claim(scene: Scene, placed: Sequence[Placed], rng: random.Random) -> tuple[Claim, bool]:
    """A claim about a complete scene and whether it is seen in the image; true and false about
    equally often. Relations are asked most, since they are learnt last."""
    relational = len(scene.groups) == 2 and rng.random() < 0.4
    category = "spatial" if relational else rng.choice(CATEGORIES)
    if category == "action" and not _anything_done(scene) and rng.random() < 0.8:
        category = "colour"  # nearly all questions for actions would be answered no
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
            number = group.count if true and group.count else rng.randint(2, MAX_COUNT)
            claim = ("count", kind, NUMBERS[max(2, number)])
        case "action":
            claim = _sample_action(scene, rng, kind, true)
        case "spatial":
            return _sample_relation(scene, placed, rng, true, absent)
        case _:
            claim = ("global", str(scene.background) if true else rng.choice(BACKGROUNDS))
    return claim, holds(claim, scene)


def _anything_done(scene: Scene) -> bool:
    return any(group.pose in POSES[1:] for group in scene.groups)


def _sample_action(scene: Scene, rng: random.Random, kind: str, true: bool) -> Claim:
    """One that is seen, if `true` and anything is done; else of an animal that is there, mostly."""
    posed = [group for group in scene.groups if group.pose in POSES[1:]]
    if posed and true:
        group = rng.choice(posed)
        return ("action", group.kind, str(group.pose))
    animals = [group.kind for group in scene.groups if group.kind in ANIMALS]
    return ("action", rng.choice([*animals, *animals, kind]), rng.choice(POSES[1:]))


def _sample_relation(
    scene: Scene, placed: Sequence[Placed], rng: random.Random, true: bool, absent: str
) -> tuple[Claim, bool]:
    kinds = [group.kind for group in scene.groups]
    if len(kinds) == 1 or (not true and rng.random() < 0.15):
        pair = [rng.choice(kinds), absent]
        rng.shuffle(pair)
        return ("spatial", pair[0], rng.choice(RELATIONS), pair[1]), False
    seen = [
        (first, relation, second)
        for first, second in (kinds, kinds[::-1])
        for relation in RELATIONS
        if relation_seen(placed, first, relation, second) is true
    ]
    return ("spatial", *rng.choice(seen)), true


def relation_seen(
    placed: Sequence[Placed], first: str, relation: Relation, second: str
) -> bool | None:
    """Whether the first kind lies on that side of the second: True if a straight line parts all of
    the one from all of the other, False if not even their middles are in order, None in between."""
    if relation in ("right of", "below"):
        first, second = second, first
    along = [
        (p.kind, p.left_px if relation in ("left of", "right of") else p.top_px, p.side_px)
        for p in placed
    ]
    near = [(start, side) for kind, start, side in along if kind == first]
    far = [(start, side) for kind, start, side in along if kind == second]
    if max(start + side for start, side in near) <= min(start for start, _ in far):
        return True
    middles = [sum(s + d / 2 for s, d in group) / len(group) for group in (near, far)]
    return None if middles[0] < middles[1] else False


def _relations(scene: Scene) -> set[tuple[str, ...]]:
    """The relation of the scene and its converse."""
    if scene.relation is None:
        return set()
    first, second = (group.kind for group in scene.groups)
    return {(first, scene.relation, second), (second, OPPOSITE[scene.relation], first)}
