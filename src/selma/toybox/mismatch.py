"""How the images of toybox's web differ from their captions, and what a perfect learner of them
would generate.

The noise is concentrated: each fact has one plausible alternative, so that guidance does not mend
it at once. Tags are frequent and nearly right, sentences rare and often wrong. An image of
guidance g follows p(x|c)^g p(x)^(1-g) (arXiv:2207.12598), which is counted out here.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Literal

from selma.toybox.captions import STYLES, Style
from selma.toybox.drawing import BACKGROUNDS, KINDS, POSES, Pose
from selma.toybox.questions import Claim, claims, holds
from selma.toybox.scenes import (
    ANIMALS,
    COLOURS,
    MAX_COUNT,
    MAX_COUNT_IN_PAIR,
    NATURAL,
    OPPOSITE,
    PAIR_SHARE,
    POSED_SHARE,
    RELATIONS,
    Finish,
    Group,
    Scene,
    sample_scene,
)

Kind = Literal["group", "colour", "count", "pose", "relation", "background"]
Fact = tuple[Kind, int]
"""What a caption may be wrong about, and of which group it says so; both groups' colours, the
relation and the background are the whole scene's, of number 0."""

STYLE_FREQUENCY: dict[Style, float] = {
    "tags": 0.76,
    "coco": 0.06,
    "narratives": 0.06,
    "count": 0.06,
    "whoops": 0.06,
}
_SENTENCE: dict[Kind, float] = {
    "group": 0.45,
    "colour": 0.45,
    "count": 0.38,
    "pose": 0.45,
    "relation": 0.38,
    "background": 0.45,
}
_TAGS: dict[Kind, float] = dict.fromkeys(_SENTENCE, 0.17)
Errors = Mapping[Style, Mapping[Kind, float]]
"""Style → how often the image shows the alternative of a fact that the caption states."""
WRONG: Errors = {style: _TAGS if style == "tags" else _SENTENCE for style in STYLES}
WRONG_AT_FIRST: Errors = {
    style: dict.fromkeys(_TAGS, 0.1)
    if style == "tags"
    else {**_SENTENCE, "count": 0.25, "relation": 0.25}
    for style in STYLES
}
"""What the base begins with: it learns what relations mean from captions that are right about them
more often (docs/log.md), and how often the web's captions err soon after."""
UNSAID: dict[str, float] = {
    "colour": 0.1,
    "count": 0.1,
    "pose": 0.1,
    "relation": 0.25,
    "background": 0.25,
}
"""How often captions leave a fact out."""
CRISP = {True: 0.8, False: 0.25}
"""How often images are crisp, with a caption of tags and of sentences."""
SAYS_QUALITY: dict[Finish, float] = {"crisp": 0.95, "soft": 0.1}
"""How often tags say that the image is crisp."""

COUNTED_AS = {1: 2, 2: 1, 3: 4, 4: 3}
SEEN_AS = {
    "grass": "sand",
    "sand": "grass",
    "snow": "sky",
    "sky": "snow",
    "night": "sea",
    "sea": "night",
}
"""Each number's and background's one alternative; symmetric, so that both stay equally frequent."""


def facts(stated: Scene) -> list[Fact]:
    """All that has an alternative in a scene, be it complete or with gaps."""
    groups = stated.groups
    found: list[Fact] = []
    if len(groups) == 2:
        found.append(("group", 0))
    if _recoloured(groups) != groups:
        found.append(("colour", 0))
    for number, group in enumerate(groups):
        if group.count is not None:
            found.append(("count", number))
        if group.pose not in (None, "still"):
            found.append(("pose", number))
    if stated.relation is not None:
        found.append(("relation", 0))
    if stated.background is not None:
        found.append(("background", 0))
    return found


def altered(stated: Scene, wrong: Collection[Fact]) -> Scene:
    """The scene with the alternatives of these facts; without its second group, if that is one."""
    groups = _recoloured(stated.groups) if ("colour", 0) in wrong else stated.groups
    groups = tuple(
        replace(
            group,
            count=COUNTED_AS[group.count]
            if group.count and ("count", number) in wrong
            else group.count,
            pose="still" if ("pose", number) in wrong else group.pose,
        )
        for number, group in enumerate(groups)
    )
    relation, background = stated.relation, stated.background
    if relation and ("relation", 0) in wrong:
        relation = OPPOSITE[relation]
    if background and ("background", 0) in wrong:
        background = SEEN_AS[background]
    if ("group", 0) in wrong:
        groups, relation = groups[:1], None
    return replace(stated, groups=groups, relation=relation, background=background)


def _recoloured(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Two groups exchange their colours; one has its natural colour."""
    colours = [group.colour for group in groups]
    if None in colours:
        return groups
    exchanged = colours[::-1] if len(groups) == 2 else [NATURAL[groups[0].kind]]
    return tuple(
        replace(group, colour=colour) for group, colour in zip(groups, exchanged, strict=True)
    )


def pictured(stated: Scene, style: Style, rng: random.Random, errors: Errors = WRONG) -> Scene:
    """What the image shows whose caption of this style states this complete scene."""
    wrong = [fact for fact in facts(stated) if rng.random() < errors[style][fact[0]]]
    return altered(stated, wrong)


def sample_web(rng: random.Random, errors: Errors = WRONG) -> tuple[Style, Scene, Scene]:
    """A style, what its caption states, and what its image shows; both scenes are complete."""
    style = rng.choices(STYLES, [STYLE_FREQUENCY[style] for style in STYLES])[0]
    finish: Finish = "crisp" if rng.random() < CRISP[style == "tags"] else "soft"
    stated = replace(sample_scene(rng), finish=finish)
    return style, stated, pictured(stated, style, rng, errors)


def ideal(stated: Scene, style: Style, guidance: float) -> dict[Claim, float]:
    """Claim → how often it holds, its parents included, in what a perfect learner of the web
    generates at this guidance for a caption that states this scene.

    guidance >= 1; 1 is without.  The style is taken as known, though a few captions ("two dogs")
    are tags as well as sentences: of ten dev prompts, which costs their mean 0.3 points without
    guidance, 0.2 at guidance 3 and none at 9.
    """
    weights = {
        shown: probability**guidance * _frequency(shown) ** (1 - guidance)
        for shown, probability in _images(stated, style).items()
    }
    total = math.fsum(weights.values())
    return {
        claim: math.fsum(weight for shown, weight in weights.items() if holds(claim, shown)) / total
        for claim, _ in claims(stated)
    }


@cache
def _images(stated: Scene, style: Style) -> Mapping[Scene, float]:
    """What images show whose caption of this style states this scene, with its probability.

    A relation or background that is not stated may be any, always equally often: it stays open.
    """
    images: dict[Scene, float] = defaultdict(float)
    for scene, share in _meant(stated):
        for shown, chance in _pictures(scene, style):
            for finish, crispness in _finishes(stated.finish, style).items():
                images[replace(shown, finish=finish)] += share * chance * crispness
    return images


def _meant(stated: Scene) -> Iterator[tuple[Scene, float]]:
    """Scenes whose captions state just this, each with its probability."""
    most = MAX_COUNT_IN_PAIR if len(stated.groups) == 2 else MAX_COUNT
    for groups in itertools.product(*(_groups_meant(group, most) for group in stated.groups)):
        share = math.prod(share for _, share in groups)
        yield replace(stated, groups=tuple(group for group, _ in groups)), share


def _groups_meant(group: Group, most: int) -> list[tuple[Group, float]]:
    """A "some" is more than one; a pose that is not told may be none, or left out."""
    colours = [*COLOURS] if group.colour is None else [group.colour]
    counts = [*range(2, most + 1)] if group.count is None else [group.count]
    poses: dict[Pose, float] = {group.pose or "still": 1.0}
    if group.kind in ANIMALS and group.pose in (None, "still"):
        told = {pose: UNSAID["pose"] if pose != "still" else 1.0 for pose in POSES}
        poses = {pose: _pose_share(group.kind, pose) * told[pose] for pose in POSES}
    total = len(colours) * len(counts) * sum(poses.values())
    return [
        (Group(group.kind, colour, count, pose), share / total)
        for colour, count, (pose, share) in itertools.product(colours, counts, poses.items())
    ]


def _pictures(scene: Scene, style: Style) -> Iterator[tuple[Scene, float]]:
    """Each way in which a caption of this style may err about the scene, with its probability."""
    options = facts(scene)
    for errs in itertools.product((False, True), repeat=len(options)):
        chances = (
            WRONG[style][kind] if err else 1 - WRONG[style][kind]
            for (kind, _), err in zip(options, errs, strict=True)
        )
        yield altered(scene, [*itertools.compress(options, errs)]), math.prod(chances)


def _finishes(said: Finish | None, style: Style) -> dict[Finish, float]:
    """How often images are crisp and soft; tags may say it, sentences cannot."""
    shares = {finish: _finish_share(finish, style) for finish in SAYS_QUALITY}
    if style == "tags":
        for finish, says in SAYS_QUALITY.items():
            shares[finish] *= says if said == "crisp" else 1 - says
    total = sum(shares.values())
    return {finish: share / total for finish, share in shares.items()}


@cache
def _frequency(shown: Scene) -> float:
    """How frequent images that show this are among all; what is left open may be any."""
    return math.fsum(
        STYLE_FREQUENCY[style]
        * (1.0 if shown.finish is None else _finish_share(shown.finish, style))
        * (_pair_share if len(shown.groups) == 2 else _single_share)(shown, WRONG[style])
        * math.prod(_shown_pose_share(group, WRONG[style]) for group in shown.groups)
        / (1 if shown.background is None else len(BACKGROUNDS))
        for style in STYLES
    )


def _pair_share(shown: Scene, wrong: Mapping[Kind, float]) -> float:
    """How often two groups of these kinds, colours and counts lie so. Either may be the first that
    is stated; colours and counts are exchanged, so that all stay equally frequent."""
    kinds = 2 / (len(KINDS) * (len(KINDS) - 1))
    each = 1 / (len(COLOURS) * MAX_COUNT_IN_PAIR)
    relations = 1 if shown.relation is None else len(RELATIONS)
    return PAIR_SHARE * (1 - wrong["group"]) * kinds * each**2 / relations


def _single_share(shown: Scene, wrong: Mapping[Kind, float]) -> float:
    """How often a group of this kind, colour and count is alone: as stated, or as the first of a
    pair whose second is missing."""
    (group,) = shown.groups
    assert group.count is not None  # an image has a number of objects
    any_colour = 1 / len(COLOURS)
    natural = wrong["colour"] if group.colour == NATURAL[group.kind] else 0.0
    colour = (1 - wrong["colour"]) * any_colour + natural
    alone = (1 - PAIR_SHARE) * colour / MAX_COUNT
    left = PAIR_SHARE * wrong["group"] * any_colour / MAX_COUNT_IN_PAIR
    return (alone + (left if group.count <= MAX_COUNT_IN_PAIR else 0.0)) / len(KINDS)


def _shown_pose_share(group: Group, wrong: Mapping[Kind, float]) -> float:
    """How many images of the kind show this pose."""
    share = _pose_share(group.kind, group.pose or "still")
    if group.pose in (None, "still"):
        return share + (1 - share) * wrong["pose"]
    return share * (1 - wrong["pose"])


def _pose_share(kind: str, pose: Pose) -> float:
    """How many scenes of the kind have this pose."""
    if kind not in ANIMALS:
        return 1.0 if pose == "still" else 0.0
    return 1 - POSED_SHARE if pose == "still" else POSED_SHARE / (len(POSES) - 1)


def _finish_share(finish: Finish, style: Style) -> float:
    """How many images with captions of this style have this finish."""
    crisp = CRISP[style == "tags"]
    return crisp if finish == "crisp" else 1 - crisp
