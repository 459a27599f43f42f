"""How the images of toybox's web differ from their captions, and what a perfect learner of them
would generate.

The noise is concentrated: each fact has one plausible alternative, so that guidance does not mend
it at once. Tags are frequent and nearly right, sentences rare and often wrong. An image of
guidance g follows p(x|c)^g p(x)^(1-g) (arXiv:2207.12598), which can be computed here fact by fact.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from selma.toybox.captions import STYLES, Style
from selma.toybox.drawing import BACKGROUNDS, KINDS
from selma.toybox.questions import Claim, claims
from selma.toybox.scenes import (
    ANIMALS,
    COLOURS,
    NATURAL,
    OPPOSITE,
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

    guidance >= 1; 1 is without.
    """
    branches = [_branch(stated, style, guidance, missing=False)]
    if len(stated.groups) == 2:
        branches.append(_branch(stated, style, guidance, missing=True))
    total = math.fsum(branch.weight for branch in branches)
    return {
        claim: math.fsum(b.weight / total * b.holds(claim, stated) for b in branches)
        for claim, _ in claims(stated)
    }


@dataclass(frozen=True)
class _Branch:
    """The images in which the second group is there, or in which it is missing."""

    weight: float
    right: dict[Fact, float]
    """Fact → how often it is right in this branch."""
    kinds: tuple[str, ...]

    def holds(self, claim: Claim, stated: Scene) -> float:
        numbers = {group.kind: number for number, group in enumerate(stated.groups)}
        category, subject = claim[0], claim[1]
        if category == "global":
            return self.right[("background", 0)]
        if subject not in self.kinds:
            return 0.0
        match category:
            case "spatial":
                return self.right[("relation", 0)] if claim[3] in self.kinds else 0.0
            case "colour":
                return self.right.get(("colour", 0), 1.0)
            case "count":
                return self.right[("count", numbers[subject])]
            case "action":
                return self.right[("pose", numbers[subject])]
            case _:
                return 1.0


@dataclass(frozen=True)
class _Outcome:
    """Images that are alike in what a fact says."""

    right: bool
    probability: float
    """Of one such image, given the caption."""
    frequency: float
    """Of one such image among all."""
    images: int = 1

    def weight(self, guidance: float) -> float:
        return self.images * self.probability**guidance * self.frequency ** (1 - guidance)


def _branch(stated: Scene, style: Style, guidance: float, *, missing: bool) -> _Branch:
    shown = altered(stated, [("group", 0)] if missing else [])
    error = WRONG[style]["group"] if len(stated.groups) == 2 else 0.0
    share = error if missing else 1 - error
    weight = share**guidance * math.prod(_kind_shares(shown)) ** (1 - guidance)
    outcomes = {
        fact: _two(shown, fact, WRONG[style][fact[0]])
        for fact in facts(shown)
        if fact[0] not in ("group", "colour")
    }
    if colours := _coloured(stated, WRONG[style]["colour"], missing=missing):
        outcomes["colour", 0] = colours
    right = {}
    for fact, each in outcomes.items():
        weights = [outcome.weight(guidance) for outcome in each]
        total = math.fsum(weights)
        right[fact] = math.fsum(w for w, o in zip(weights, each, strict=True) if o.right) / total
        weight *= total
    return _Branch(weight, right, tuple(group.kind for group in shown.groups))


def _two(shown: Scene, fact: Fact, error: float) -> list[_Outcome]:
    """What the caption says, and its one alternative."""
    return [
        _Outcome(True, 1 - error, _frequency(shown, fact)),
        _Outcome(False, error, _frequency(altered(shown, [fact]), fact)),
    ]


def _coloured(stated: Scene, error: float, *, missing: bool) -> list[_Outcome]:
    """What the images show of the colours that are stated; nothing where none is.

    A colour that the caption leaves out may be any, and may be the one that is exchanged.
    """
    said = [group.colour for group in stated.groups]
    count, any_colour = len(COLOURS), 1 / len(COLOURS)
    if said == [None] * len(said):
        return []
    if len(said) == 1:
        kind, colour = stated.groups[0].kind, said[0]
        natural = NATURAL[kind]
        frequencies = {c: _colour_frequency(c == natural) for c in (colour, natural)}
        if colour == natural:
            return [_Outcome(True, 1.0, frequencies[natural])]
        return [
            _Outcome(True, 1 - error, frequencies[colour]),
            _Outcome(False, error, frequencies[natural]),
        ]
    if missing:  # of the first alone; the second's colour may have been exchanged with it
        if said[0] is None:
            return []
        if said[1] is None:
            return [
                _Outcome(True, 1 - error + error * any_colour, any_colour),
                _Outcome(False, error * any_colour, any_colour, count - 1),
            ]
        return [
            _Outcome(True, 1.0 if said[0] == said[1] else 1 - error, any_colour),
            *([] if said[0] == said[1] else [_Outcome(False, error, any_colour)]),
        ]
    if None in said:
        pair = any_colour**2
        return [
            _Outcome(True, (1 - error) * any_colour, pair, count - 1),
            _Outcome(True, any_colour, pair),
            _Outcome(False, error * any_colour, pair, count - 1),
        ]
    if said[0] == said[1]:
        return [_Outcome(True, 1.0, any_colour**2)]
    return [_Outcome(True, 1 - error, any_colour**2), _Outcome(False, error, any_colour**2)]


def _kind_shares(scene: Scene) -> list[float]:
    """How frequent scenes of these kinds are among all images."""
    seen, groups = _seen(), len(scene.groups)
    return [seen[groups,] / seen[()], *(1 / (len(KINDS) - n) for n in range(groups))]


def _colour_frequency(natural: bool) -> float:
    """How frequent one colour is among single groups: the one that is expected, or another."""
    share = _seen()[1, "natural"] / _seen()[1,]
    return share if natural else (1 - share) / (len(COLOURS) - 1)


def _frequency(scene: Scene, fact: Fact) -> float:
    """How frequent what the scene says of the fact is among all images of as many groups."""
    seen, groups = _seen(), len(scene.groups)
    kind, number = fact
    match kind:
        case "relation":
            return 1 / len(RELATIONS)
        case "background":
            return 1 / len(BACKGROUNDS)
        case "count":
            return seen[groups, scene.groups[number].count] / (groups * seen[groups,])
        case _:
            return seen[groups, scene.groups[number].pose] / seen[groups, "animals"]


@cache
def _seen(images: int = 100_000) -> Counter[tuple[object, ...]]:
    """Of images with one group and with two: how many there are, and how many groups of each count,
    of animals, of animals in each pose, and in the natural colour."""
    rng = random.Random("toybox web")
    seen: Counter[tuple[object, ...]] = Counter()
    for _ in range(images):
        groups = sample_web(rng)[2].groups
        seen[()] += 1
        seen[len(groups),] += 1
        for group in groups:
            seen[len(groups), group.count] += 1
            seen[len(groups), "natural"] += group.colour == NATURAL[group.kind]
            if group.kind in ANIMALS:
                seen[len(groups), "animals"] += 1
                seen[len(groups), group.pose] += 1
    return seen
