"""How captions are wrong, and what a perfect learner of them would generate."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from selma.toybox.benchmark import stated
from selma.toybox.captions import STYLES
from selma.toybox.mismatch import (
    COUNTED_AS,
    SEEN_AS,
    STYLE_FREQUENCY,
    UNSAID,
    WRONG,
    _images,
    altered,
    facts,
    ideal,
    pictured,
    sample_web,
)
from selma.toybox.questions import claims, holds
from selma.toybox.scenes import (
    ANIMALS,
    COLOURS,
    OPPOSITE,
    Group,
    Relation,
    Scene,
    complete,
    sample_scene,
    without,
)

ONE = Scene((Group("dog", "red", 2, "jumping"),), background="grass", finish="soft")
TWO = Scene(
    (Group("dog", "red", 2, "jumping"), Group("cup", "blue", 1, "still")),
    relation="above",
    background="sea",
    finish="soft",
)


def satisfied(stated_scene: Scene, shown: Scene) -> dict[tuple[str, ...], bool]:
    """Which claims hold of what is shown, their parents included."""
    results: list[tuple[tuple[str, ...], bool]] = []
    for claim, parents in claims(stated_scene):
        holding = holds(claim, shown) and all(results[parent][1] for parent in parents)
        results.append((claim, holding))
    return dict(results)


@pytest.mark.parametrize("table", [COUNTED_AS, SEEN_AS])
def test_alternatives_are_involutions_without_a_fixed_point(table):
    assert all(table[table[value]] == value != table[value] for value in table)


def test_each_alternative_is_undone_by_itself_and_changes_one_fact_alone():
    for seed in range(300):
        scene = sample_scene(random.Random(seed))
        for fact in facts(scene):
            changed = altered(scene, [fact])
            assert changed != scene
            wrong = [c for c, holding in satisfied(scene, changed).items() if not holding]
            if fact[0] in ("relation", "background", "count") or (
                fact[0] == "colour" and len(scene.groups) == 2
            ):
                assert altered(changed, [fact]) == scene
            if fact[0] != "group":
                categories = {claim[0] for claim in wrong}
                names = {"relation": "spatial", "background": "global", "pose": "action"}
                # A single object is not counted: "a dog" asks for no number.
                assert categories <= {names.get(fact[0], fact[0])}
            else:
                second = scene.groups[1].kind
                assert all(second in claim for claim in wrong)
        assert altered(scene, []) == scene


def test_nothing_has_an_alternative_that_is_not_stated():
    assert facts(Scene((Group("dog"),))) == []
    assert facts(Scene((Group("dog", "white", 1),))) == [("count", 0)]  # of its natural colour
    equal = replace(TWO, groups=tuple(replace(g, colour="red") for g in TWO.groups))
    assert ("colour", 0) not in facts(equal)


def test_the_web_errs_by_style_as_often_as_it_says():
    rng = random.Random(0)
    seen, wrong, styles = Counter(), Counter(), Counter()
    for _ in range(12_000):
        style, scene, shown = sample_web(rng)
        styles[style] += 1
        if scene.background:
            seen[style == "tags"] += 1
            wrong[style == "tags"] += scene.background != shown.background
    for tags, rate in ((True, WRONG["tags"]), (False, WRONG["coco"])):
        assert abs(wrong[tags] / seen[tags] - rate["background"]) < 0.02
    for style in STYLES:
        assert abs(styles[style] / 12_000 - STYLE_FREQUENCY[style]) < 0.02
    assert math.isclose(sum(STYLE_FREQUENCY.values()), 1.0)


@pytest.mark.parametrize("scene", [ONE, TWO])
@pytest.mark.parametrize("style", ["tags", "coco"])
def test_without_guidance_the_ideal_is_how_often_images_are_right(scene, style):
    rng, images = random.Random(1), 6000
    right = Counter()
    for _ in range(images):
        shown = pictured(scene, style, rng)
        right.update(c for c, holding in satisfied(scene, shown).items() if holding)
    for claim, share in ideal(scene, style, 1.0).items():
        assert share == pytest.approx(right[claim] / images, abs=0.02), claim


@cache
def outcomes(scene: Scene) -> list[tuple[Scene, list[tuple[str, bool]]]]:
    """What images of a caption of this scene may show, each with the facts that are wrong."""
    options = facts(scene)
    return [
        (
            in_order(altered(scene, [*itertools.compress(options, chosen)])),
            [(fact[0], err) for fact, err in zip(options, chosen, strict=True)],
        )
        for chosen in itertools.product((False, True), repeat=len(options))
    ]


def pictures(scene: Scene, style: str) -> Counter[tuple[Scene, str]]:
    """What images of a caption of this complete scene show, with their finish and probability."""
    images: Counter[tuple[Scene, str]] = Counter()
    wrong, crisp = WRONG[style], 0.8 if style == "tags" else 0.25
    for shown, errs in outcomes(replace(scene, finish=None)):
        p = math.prod(wrong[kind] if err else 1 - wrong[kind] for kind, err in errs)
        images[shown, "crisp"] += p * crisp
        images[shown, "soft"] += p * (1 - crisp)
    return images


def in_order(scene: Scene) -> Scene:
    """One of the two scenes that look alike: a dog above a cup, and a cup below a dog."""
    if len(scene.groups) == 1 or scene.groups[0].kind < scene.groups[1].kind:
        return scene
    return replace(scene, groups=scene.groups[::-1], relation=OPPOSITE[scene.relation])


def frequencies(
    *kinds: str,
    colours: Sequence[str | None],
    relations: Sequence[Relation | None],
    backgrounds: Sequence[str],
    second: int = 2,
) -> Counter[tuple[Scene, str]]:
    """How frequent images are whose captions state a complete scene of these kinds, in this order,
    and of these values; of the second, of up to so many."""
    two, images = len(kinds) == 2, Counter[tuple[Scene, str]]()
    each = [
        [
            (Group(kind, colour, count, pose), share / (6 * (2 if two else 4)))
            for colour in colours
            for count in range(1, most + 1)
            for pose, share in (
                {"still": 0.6, "sleeping": 0.2, "jumping": 0.2}
                if kind in ANIMALS
                else {"still": 1.0}
            ).items()
        ]
        for kind, most in zip(kinds, (2, second) if two else (4,), strict=True)
    ]
    for groups in itertools.product(*each):
        share = math.prod(share for _, share in groups)
        share *= (0.6 / (12 * 11) / 4 if two else 0.4 / 12) / 6
        for relation, background in itertools.product(relations, backgrounds):
            scene = Scene(tuple(group for group, _ in groups), relation, background)
            for style, frequency in (("tags", 0.76), ("coco", 0.24)):
                for shown, p in pictures(scene, style).items():
                    images[shown] += share * frequency * p
    return images


@cache
def frequencies_beside(stated_scene: Scene) -> Counter[tuple[Scene, str]]:
    """How frequent images are that a caption of this scene may have, and others like them."""
    groups, relation = stated_scene.groups, stated_scene.relation
    kinds, every = [group.kind for group in groups], [*COLOURS]
    backgrounds = [stated_scene.background, SEEN_AS[stated_scene.background]]
    images = frequencies(kinds[0], colours=every, relations=[None], backgrounds=backgrounds)
    # The second that is missing may have been one or two of eleven kinds, on any of four sides.
    left = frequencies(
        kinds[0], "tree", colours=every, relations=["above"], backgrounds=backgrounds, second=1
    )
    images.update({shown: 2 * 11 * 4 * p for shown, p in left.items() if len(shown[0].groups) == 1})
    for order in (kinds, kinds[::-1]) if len(kinds) == 2 else ():
        pairs = frequencies(
            *order,
            colours=[group.colour for group in groups],
            relations=[relation, OPPOSITE[relation]],
            backgrounds=backgrounds,
        )
        images.update({shown: p for shown, p in pairs.items() if len(shown[0].groups) == 2})
    return images


@pytest.mark.parametrize("style", ["tags", "coco"])
@pytest.mark.parametrize(
    "scene",
    [
        Scene((Group("car", "white", 4, "still"),), background="snow", finish="crisp"),
        TWO,
        Scene(
            (Group("cup", "blue", 1, "still"), Group("heart", "red", 2, "still")),
            relation="left of",
            background="sky",
            finish="crisp",
        ),
    ],
)
def test_with_guidance_the_ideal_is_the_tempered_distribution_counted_out(scene, style):
    """p(x|c)^g p(x)^(1-g) over all images x that the caption c may have, each p counted out."""
    says = {"crisp": 0.95, "soft": 0.1}
    images = {}
    for (shown, finish), p in pictures(scene, style).items():
        said = says[finish] if scene.finish == "crisp" else 1 - says[finish]
        images[shown, finish] = p * said if style == "tags" else p
    whole, seen = sum(images.values()), frequencies_beside(scene)
    for guidance in (1.0, 2.0, 3.0, 9.0):
        weights = {
            x: (p / whole) ** guidance * seen[x] ** (1 - guidance) for x, p in images.items()
        }
        total = sum(weights.values())
        for claim, share in ideal(scene, style, guidance).items():
            exact = sum(w for (shown, _), w in weights.items() if satisfied(scene, shown)[claim])
            assert share == pytest.approx(exact / total, abs=1e-9), (guidance, claim)


def test_what_is_not_said_may_be_anything_that_captions_leave_out():
    """Against scenes of the web whose captions say no more than "some dogs above a cup"."""
    said = Scene((Group("dog"), Group("cup", count=1)), relation="above", finish="soft")
    rng, images, right = random.Random(3), 0, Counter()
    beside = [("colour", "dog", "white"), ("count", "dog", "two"), ("action", "dog", "sleeping")]
    while images < 6000:
        kinds = tuple(Group(group.kind, count=rng.randint(1, 2)) for group in said.groups)
        scene = complete(replace(said, groups=kinds), rng)
        drop = {"colour": 1.0, "count": 1.0, "pose": UNSAID["pose"], "background": 1.0}
        told = without(scene, rng=rng, drop=drop)
        poses = {group.pose for group in told.groups}
        if poses <= {None, "still"} and [g.count for g in told.groups] == [None, 1]:
            images += 1
            shown = pictured(scene, "coco", rng)
            right.update(claim for claim in beside if holds(claim, shown))
    shown_of = _images(said, "coco")
    for claim in beside:
        share = sum(p for shown, p in shown_of.items() if holds(claim, shown))
        assert share == pytest.approx(right[claim] / images, abs=0.02), claim
    assert sum(shown_of.values()) == pytest.approx(1.0)


def test_guidance_brings_the_ideal_nearer_to_what_is_stated():
    scores = []
    for guidance in (1.0, 3.0, 9.0):
        shares = [
            share
            for content in [*stated("dev").values()][::4]
            for share in ideal(content.scene, content.style, guidance).values()
        ]
        scores.append(sum(shares) / len(shares))
        assert all(0 <= share <= 1 + 1e-9 for share in shares)
    assert scores[0] < scores[1] - 0.1 < scores[2] - 0.15
