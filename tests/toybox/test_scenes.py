"""What must hold of every scene, picture, caption and question."""

import random

import numpy as np
import pytest

from selma.toybox.captions import STYLES, caption
from selma.toybox.drawing import BACKGROUNDS, IMAGE_PX, KINDS, compose, sprite
from selma.toybox.lexicon import words
from selma.toybox.questions import (
    CATEGORIES,
    ask,
    claims,
    holds,
    questions,
    relation_seen,
    sample_claim,
)
from selma.toybox.scenes import (
    COLOURS,
    NATURAL,
    Group,
    Placed,
    Scene,
    colours_of,
    complete,
    mistaken,
    never_shown,
    place,
    sample_scene,
    without,
)

SEEDS = range(300)


def scene_and_rng(seed: int, *, withheld: bool = True) -> tuple[Scene, random.Random]:
    rng = random.Random(seed)
    return sample_scene(rng, withheld=withheld), rng


def test_the_world_is_as_large_as_promised():
    assert len(KINDS) == 16 and len(BACKGROUNDS) == 6 and len(STYLES) == 5
    for kind in KINDS:
        assert colours_of(kind)[0] == NATURAL[kind]
        assert len(set(colours_of(kind))) == 7
        assert never_shown(kind) in colours_of(kind)[1:]


def test_objects_lie_inside_the_picture_and_apart():
    for seed in SEEDS:
        placed = place(*scene_and_rng(seed))
        taken = np.zeros((IMAGE_PX, IMAGE_PX), int)
        for p in placed:
            assert 0 <= p.left_px <= IMAGE_PX - p.side_px
            assert 0 <= p.top_px <= IMAGE_PX - p.side_px
            taken[p.top_px : p.top_px + p.side_px, p.left_px : p.left_px + p.side_px] += 1
        assert taken.max() == 1


def test_the_placed_objects_are_what_the_scene_says():
    for seed in SEEDS:
        scene, rng = scene_and_rng(seed)
        placed = place(scene, rng)
        for group in scene.groups:
            mine = [p for p in placed if p.kind == group.kind]
            assert len(mine) == group.count and {p.colour for p in mine} == {group.colour}
        if scene.relation in ("left of", "above"):
            first, second = ([p for p in placed if p.kind == group.kind] for group in scene.groups)
            side = "left_px" if scene.relation == "left of" else "top_px"
            end = max(getattr(p, side) + p.side_px for p in first)
            assert end <= min(getattr(p, side) for p in second)


def test_pre_training_never_shows_the_withheld_colours():
    for seed in SEEDS:
        scene, _ = scene_and_rng(seed, withheld=False)
        assert all(group.colour != never_shown(group.kind) for group in scene.groups)


def test_completing_keeps_what_was_said():
    said = Scene((Group("dog", count=1), Group("cup", colour="blue")), relation="above")
    for seed in SEEDS:
        whole = complete(said, random.Random(seed))
        assert whole.relation == "above" and whole.background
        assert whole.groups[0].count == 1 and whole.groups[1].colour == "blue"
        assert whole.groups[1].count in (2,)  # "some" is more than one


@pytest.mark.parametrize("kind", KINDS)
def test_a_sprite_shows_its_tint(kind):
    rgba = sprite(kind, COLOURS["purple"], 24)
    near = np.abs(rgba[..., :3].astype(int) - COLOURS["purple"]).sum(-1) < 60
    assert (near & (rgba[..., 3] > 200)).mean() > 0.12


def test_sprites_of_different_kinds_differ():
    drawn = [sprite(kind, COLOURS["red"], 24).tobytes() for kind in KINDS]
    assert len(set(drawn)) == len(KINDS)


def test_composing_leaves_the_background_and_the_sprites_alone():
    before = compose("sea", [])
    compose("sea", [("dog", COLOURS["red"], 32, 0, 0)])
    assert (compose("sea", []) == before).all()


def test_every_claim_of_a_complete_scene_holds():
    for seed in SEEDS:
        scene, _ = scene_and_rng(seed)
        assert all(holds(claim, scene) for claim, _ in claims(scene))


def test_questions_depend_on_earlier_ones_of_the_same_prompt():
    for seed in SEEDS:
        scene, rng = scene_and_rng(seed)
        asked = questions(without(scene, rng=rng, drop={"colour": 0.3, "count": 0.3}))
        ids = [question.id for question in asked]
        for position, question in enumerate(asked):
            assert question.category in CATEGORIES
            assert all(parent in ids[:position] for parent in question.parents)


def test_captions_and_questions_use_only_words_of_the_lexicon():
    known = set(words())
    for seed in SEEDS:
        scene, rng = scene_and_rng(seed)
        said = without(scene, rng=rng, drop={"colour": 0.3, "count": 0.3, "relation": 0.5})
        texts = [caption(said, style, rng) for style in STYLES]
        texts += [question.text for question in questions(said)]
        for text in texts:
            assert set(text.lower().translate(str.maketrans("", "", ".,?")).split()) <= known


def test_a_caption_states_what_its_scene_states():
    scene = Scene((Group("apple", "red", 2, "small"), Group("dog", "brown", 1)), "left of", "grass")
    rng = random.Random(0)
    assert caption(scene, "narratives", rng).endswith(
        "two small red apples on the left side and a brown dog on the right side. "
        "In the background there is grass."
    )
    assert "two small red apples left of brown dog, grass" in caption(scene, "tags", rng)
    assert caption(Scene((Group("apple", count=None),)), "whoops", rng) == "some apples"


def test_claims_are_true_about_half_of_the_time_in_every_category():
    truths: dict[str, list[bool]] = {category: [] for category in CATEGORIES}
    for seed in range(4000):
        scene, rng = scene_and_rng(seed)
        claim, true = sample_claim(scene, place(scene, rng), rng)
        truths[claim[0]].append(true)
    for category, found in truths.items():
        assert 0.25 < sum(found) / len(found) < 0.65, category


def test_plural_questions_are_plural():
    assert ask(("entity", "apple"), {"apple": True}) == "Are there apples?"
    assert ask(("entity", "apple"), {}) == "Is there an apple?"
    assert ask(("spatial", "dog", "above", "cup"), {"cup": True}) == "Is the dog above the cups?"


def test_noise_forgets_and_errs_at_the_given_rates():
    rng = random.Random(1)
    scenes = [sample_scene(rng) for _ in range(2000)]
    lost = [without(s, rng=rng, drop={"background": 0.3}).background is None for s in scenes]
    assert 0.25 < sum(lost) / len(lost) < 0.35
    assert all(mistaken(s, rng=rng, wrong={}) == s for s in scenes)
    erred = [mistaken(s, rng=rng, wrong={"colour": 1.0}) != s for s in scenes]
    assert sum(erred) / len(erred) > 0.8


def test_a_relation_is_seen_where_a_straight_line_parts_the_kinds():
    def at(kind: str, left_px: int, top_px: int) -> Placed:
        return Placed(kind, "red", side_px=20, left_px=left_px, top_px=top_px)

    placed = [at("dog", 0, 0), at("dog", 8, 30), at("cat", 30, 12)]
    assert relation_seen(placed, "dog", "left of", "cat") is True
    assert relation_seen(placed, "cat", "right of", "dog") is True
    assert relation_seen(placed, "cat", "left of", "dog") is False
    assert relation_seen(placed, "dog", "above", "cat") is False
    assert relation_seen(placed[:1] + placed[2:], "dog", "above", "cat") is None  # they overlap
    for seed in range(200):
        scene, rng = scene_and_rng(seed)
        if len(scene.groups) == 2:
            first, second = (group.kind for group in scene.groups)
            objects = place(scene, rng)
            assert relation_seen(objects, first, scene.relation, second) is True
            assert relation_seen(objects, second, scene.relation, first) is False
