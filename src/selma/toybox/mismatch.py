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
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from selma.toybox.captions import STYLES, Style
from selma.toybox.drawing import BACKGROUNDS, KINDS
from selma.toybox.questions import Claim, claims
from selma.toybox.scenes import (
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
    "group": 0.5,
    "colour": 0.45,
    "count": 0.45,
    "pose": 0.45,
    "relation": 0.45,
    "background": 0.4,
}
_TAGS: dict[Kind, float] = dict.fromkeys(_SENTENCE, 0.1)
WRONG: dict[Style, dict[Kind, float]] = {
    style: _TAGS if style == "tags" else _SENTENCE for style in STYLES
}
"""Style → how often the image shows the alternative of a fact that the caption states."""
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


def pictured(stated: Scene, style: Style, rng: random.Random) -> Scene:
    """What the image shows whose caption of this style states this complete scene."""
    wrong = [fact for fact in facts(stated) if rng.random() < WRONG[style][fact[0]]]
    return altered(stated, wrong)


def sample_web(rng: random.Random) -> tuple[Style, Scene, Scene]:
    """A style, what its caption states, and what its image shows; both scenes are complete."""
    style = rng.choices(STYLES, [STYLE_FREQUENCY[style] for style in STYLES])[0]
    finish: Finish = "crisp" if rng.random() < CRISP[style == "tags"] else "soft"
    stated = replace(sample_scene(rng), finish=finish)
    return style, stated, pictured(stated, style, rng)


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


def _branch(stated: Scene, style: Style, guidance: float, *, missing: bool) -> _Branch:
    shown = altered(stated, [("group", 0)] if missing else [])
    error = WRONG[style]["group"] if len(stated.groups) == 2 else 0.0
    share = error if missing else 1 - error
    weight = share**guidance * math.prod(_kind_shares(shown)) ** (1 - guidance)
    right = {}
    for fact in facts(shown):
        if fact[0] == "group":
            continue
        error = WRONG[style][fact[0]]
        frequencies = [_frequency(scene, fact) for scene in (shown, altered(shown, [fact]))]
        parts = [
            p**guidance * q ** (1 - guidance)
            for p, q in zip((1 - error, error), frequencies, strict=True)
        ]
        right[fact] = parts[0] / sum(parts)
        weight *= sum(parts)
    return _Branch(weight, right, tuple(group.kind for group in shown.groups))


def _kind_shares(scene: Scene) -> list[float]:
    """How frequent scenes of these kinds are among all images."""
    seen, groups = _seen(), len(scene.groups)
    return [seen[groups,] / seen[()], *(1 / (len(KINDS) - n) for n in range(groups))]


def _frequency(scene: Scene, fact: Fact) -> float:
    """How frequent what the scene says of the fact is among all images of such groups."""
    seen, groups = _seen(), len(scene.groups)
    kind, number = fact
    match kind:
        case "colour":
            return math.prod(
                seen[groups, g.kind, g.colour] / seen[groups, g.kind] for g in scene.groups
            )
        case "relation":
            return 1 / len(RELATIONS)
        case "background":
            return 1 / len(BACKGROUNDS)
        case _:
            group = scene.groups[number]
            value = group.count if kind == "count" else group.pose
            return seen[groups, group.kind, value] / seen[groups, group.kind]


@cache
def _seen(images: int = 100_000) -> Counter[tuple[object, ...]]:
    """How often each number of groups, and of them each kind, colour, count and pose, is seen."""
    rng = random.Random("toybox web")
    seen: Counter[tuple[object, ...]] = Counter()
    for _ in range(images):
        groups = sample_web(rng)[2].groups
        seen[()] += 1
        seen[len(groups),] += 1
        for group in groups:
            for values in ((), (group.colour,), (group.count,), (group.pose,)):
                seen[len(groups), group.kind, *values] += 1
    return seen
