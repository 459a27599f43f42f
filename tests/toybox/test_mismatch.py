"""How captions are wrong, and what a perfect learner of them would generate."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from selma.toybox.benchmark import stated
from selma.toybox.captions import STYLES
from selma.toybox.mismatch import (
    COUNTED_AS,
    SEEN_AS,
    STYLE_FREQUENCY,
    WRONG,
    altered,
    facts,
    ideal,
    pictured,
    sample_web,
)
from selma.toybox.questions import claims, holds
from selma.toybox.scenes import Group, Scene, sample_scene

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


@pytest.mark.parametrize("guidance", [1.0, 2.0, 3.5])
def test_with_guidance_the_ideal_is_the_tempered_distribution_counted_out(guidance):
    """p(x|c)^g p(x)^(1-g) over all images x that the caption may have, p(x) counted on the web."""
    images, rng = Counter(), random.Random(2)
    for _ in range(60_000):
        shown = sample_web(rng)[2]
        if len(shown.groups) == 1 and shown.groups[0].kind in ("dog", "cat", "fish", "bird"):
            group = shown.groups[0]
            images[()] += 1
            # Natural colours differ from kind to kind, counts and poses do not.
            images.update([("count", group.count), ("pose", group.pose), shown.background])
            images["colour", group.colour if group.kind == "dog" else None] += 1
    dogs = sum(n for key, n in images.items() if key and key[0] == "colour" and key[1])

    def frequency(shown: Scene) -> float:
        group = shown.groups[0]
        shares = [
            images["count", group.count],
            images["pose", group.pose],
            images[shown.background],
        ]
        return math.prod(n / images[()] for n in shares) * images["colour", group.colour] / dogs

    weights: dict[Scene, float] = {}
    options = facts(ONE)
    for chosen in itertools.product((False, True), repeat=len(options)):
        wrong = [fact for fact, err in zip(options, chosen, strict=True) if err]
        chances = [WRONG["coco"][fact[0]] for fact in options]
        p = math.prod(c if err else 1 - c for c, err in zip(chances, chosen, strict=True))
        shown = altered(ONE, wrong)
        weights[shown] = p**guidance * frequency(shown) ** (1 - guidance)
    total = sum(weights.values())
    for claim, share in ideal(ONE, "coco", guidance).items():
        exact = sum(w for shown, w in weights.items() if satisfied(ONE, shown)[claim]) / total
        assert share == pytest.approx(exact, abs=0.05), claim


def test_guidance_brings_the_ideal_nearer_to_what_is_stated():
    scores = []
    for guidance in (1.0, 3.0, 9.0):
        shares = [
            share
            for content in stated("dev").values()
            for share in ideal(content.scene, content.style, guidance).values()
        ]
        scores.append(sum(shares) / len(shares))
        assert all(0 <= share <= 1 + 1e-9 for share in shares)
    assert scores[0] < scores[1] - 0.1 < scores[2] - 0.15
