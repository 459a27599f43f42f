"""What a judge is asked when it is judged itself.

Toybox's scenes are drawn, so that what they show is known. Of each scene every fact is asked of its
image, of an image in which that fact alone is another, and of an image of another scene: the same
words, of which the right answer is yes once and no twice. Whoever answers by the words alone,
always alike or by chance tells none of these images apart.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.toybox.captions import NUMBERS, caption, plural
from selma.toybox.drawing import BACKGROUNDS, KINDS, POSES, Pose
from selma.toybox.questions import Claim, ask, claims, some, the
from selma.toybox.scenes import (
    ANIMALS,
    COLOURS,
    MAX_COUNT,
    MAX_COUNT_IN_PAIR,
    OPPOSITE,
    Relation,
    Scene,
    render,
    sample_scene,
)

SAID, CHANGED, OTHER, NOTHING = "said", "changed", "other", "nothing"
"""What an image shows: the scene; the scene with one fact changed; another scene; no thing."""
PLAIN, TURNED, REWORDED = "plain", "turned", "reworded"
"""How a question is put: in a benchmark's words; so that the right answer turns round; in other
words of the same meaning."""
EMPTY = 16
"""Images without any thing: half of one colour, half of noise."""
SIDE_PX = 64


@dataclass(frozen=True)
class Shown:
    """An image and what is asked about it; `group` of the prompt says what it shows."""

    prompt: BenchmarkPrompt
    pixels: np.ndarray
    """uint8 RGB, [64, 64, 3]."""


def everything(scenes: int, *, seed: int) -> list[Shown]:
    """All that is asked about this many scenes, and about images without any thing.

    An image's id is <scene>-said, <scene>-changed-<fact>, <scene>-other or nothing-<number>, a
    question's <fact>-plain, <fact>-turned or <fact>-reworded; `answer` is the right one.
    """
    drawn = [sample_scene(random.Random(f"{seed}/judged/{number}")) for number in range(scenes)]
    shown = [each for number in range(scenes) for each in _about(drawn, number, seed)]
    return shown + list(_nothing(seed))


def _about(drawn: list[Scene], number: int, seed: int) -> Iterator[Shown]:
    scene, rng = drawn[number], random.Random(f"{seed}/changed/{number}")
    facts = [claim for claim, _ in claims(scene)]
    many = {group.kind: group.count != 1 for group in scene.groups}
    questions = [_questions(fact, claim, many, True) for fact, claim in enumerate(facts)]
    yield _shown(scene, f"{number}-{SAID}", SAID, [q for each in questions for q in each], seed)
    for fact, claim in enumerate(facts):
        changed = _changed(scene, claim, rng)
        asked = _questions(fact, claim, many, False)
        yield _shown(changed, f"{number}-{CHANGED}-{fact}", CHANGED, asked, seed)
    other = _other(drawn, number)
    if other is not None:
        # "Is the dog not red?" has no right answer where there is no dog.
        asked = [_questions(fact, claim, many, False)[0] for fact, claim in enumerate(facts)]
        yield _shown(other, f"{number}-{OTHER}", OTHER, asked, seed)


def _shown(scene: Scene, id: str, group: str, asked: list[Question], seed: int) -> Shown:
    # The number of the scene alone, so that what is not changed lies where it lay.
    rng = random.Random(f"{seed}/placed/{id.partition('-')[0]}")
    text = caption(scene, "tags", random.Random(id))
    prompt = BenchmarkPrompt(id=id, text=text, group=group, questions=tuple(asked))
    return Shown(prompt, render(scene, rng))


def _nothing(seed: int) -> Iterator[Shown]:
    stream = np.random.default_rng([seed, EMPTY])
    questions = tuple(
        Question(
            id=f"{number}-{PLAIN}",
            text=ask(("entity", kind), {}),
            category="entity",
            detail=kind,
            answer="no",
        )
        for number, kind in enumerate(KINDS)
    )
    for number in range(EMPTY):
        pixels = stream.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        if number % 2:
            pixels = np.broadcast_to(pixels[0, 0], pixels.shape).copy()
        text = "one colour" if number % 2 else "noise"
        prompt = BenchmarkPrompt(
            id=f"{NOTHING}-{number}", text=text, group=NOTHING, questions=questions
        )
        yield Shown(prompt, pixels)


def _questions(fact: int, claim: Claim, many: dict[str, bool], holds: bool) -> list[Question]:
    """The fact put in each way, and the right answers."""
    words = {PLAIN: ask(claim, many), TURNED: turned(claim, many), REWORDED: reworded(claim, many)}
    return [
        Question(
            id=f"{fact}-{way}",
            text=text,
            category=claim[0],
            detail=" | ".join(claim[1:]),
            answer="yes" if holds != (way == TURNED) else "no",
        )
        for way, text in words.items()
    ]


def turned(claim: Claim, many: dict[str, bool]) -> str:
    """The question that is answered no where `questions.ask`'s is answered yes."""
    category, subject = claim[0], claim[1]
    is_are = "Are" if many.get(subject) else "Is"
    match category:
        case "entity":
            return f"{is_are} there no {plural(subject) if many.get(subject) else subject}?"
        case "count":
            return f"Is the number of {plural(subject)} other than {claim[2]}?"
        case "spatial":
            return f"{is_are} {the(subject, many)} not {claim[2]} {the(claim[3], many)}?"
        case "global":
            return f"Is the background not {subject}?"
        case _:
            return f"{is_are} {the(subject, many)} not {claim[2]}?"


def reworded(claim: Claim, many: dict[str, bool]) -> str:
    """`questions.ask`'s question in other words; of a relation it is the converse."""
    category, subject = claim[0], claim[1]
    match category:
        case "entity":
            return f"Does the image show {some(subject, many)}?"
        case "colour":
            return f"Is {claim[2]} the colour of {the(subject, many)}?"
        case "count":
            return f"Does the image show exactly {claim[2]} {plural(subject)}?"
        case "action":
            return f"Does the image show {the(subject, many)} {claim[2]}?"
        case "spatial":
            return ask(("spatial", claim[3], _opposite(claim[2]), subject), many)
        case _:
            return f"Does the image have {subject} as its background?"


def _changed(scene: Scene, claim: Claim, rng: random.Random) -> Scene:
    """The scene in which this fact is another, and everything else as it was."""
    if claim[0] == "global":
        others = [name for name in BACKGROUNDS if name != claim[1]]
        return replace(scene, background=rng.choice(others))
    if claim[0] == "spatial":
        return replace(scene, relation=_opposite(claim[2]))
    groups = list(scene.groups)
    at = next(i for i, group in enumerate(groups) if group.kind == claim[1])
    group = groups[at]
    match claim[0]:
        case "entity":
            present = {each.kind for each in groups}
            # One that can do what this one does.
            alike = ANIMALS if group.kind in ANIMALS else [k for k in KINDS if k not in ANIMALS]
            new = replace(group, kind=rng.choice([k for k in alike if k not in present]))
        case "colour":
            new = replace(group, colour=rng.choice([c for c in COLOURS if c != group.colour]))
        case "count":
            most = MAX_COUNT_IN_PAIR if len(groups) == 2 else MAX_COUNT
            counts = [n for n in range(1, most + 1) if NUMBERS[n] != claim[2]]
            new = replace(group, count=rng.choice(counts))
        case _:
            poses: list[Pose] = [pose for pose in POSES if pose != group.pose]
            new = replace(group, pose=rng.choice(poses))
    groups[at] = new
    return replace(scene, groups=tuple(groups))


def _opposite(relation: str) -> Relation:
    return OPPOSITE[cast(Relation, relation)]


def _other(drawn: list[Scene], number: int) -> Scene | None:
    """The next scene in which nothing that this one states is to be seen, if there is any."""
    scene = drawn[number]
    kinds = {group.kind for group in scene.groups}
    for step in range(1, len(drawn)):
        other = drawn[(number + step) % len(drawn)]
        if other.background != scene.background and not kinds & {g.kind for g in other.groups}:
            return other
    return None
