"""What must hold of every scene, picture, caption and question."""

import random
from dataclasses import replace

import numpy as np
import pytest

from selma.toybox.captions import PLAIN_TAGS, QUALITY_TAGS, STYLES, caption
from selma.toybox.drawing import BACKGROUNDS, IMAGE_PX, KINDS, POSES, compose, soften, sprite
from selma.toybox.lexicon import words
from selma.toybox.pretraining.language import new_tokenizer
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
    ANIMALS,
    COLOURS,
    FINE_GRID_PX,
    GRID_PX,
    NATURAL,
    RELATIONS,
    SIDE_PX,
    Group,
    Placed,
    Scene,
    complete,
    paint,
    place,
    render,
    sample_scene,
    without,
)

SEEDS = range(300)


def scene_and_rng(seed: int) -> tuple[Scene, random.Random]:
    rng = random.Random(seed)
    return sample_scene(rng), rng


def test_the_world_is_as_large_as_promised():
    assert len(KINDS) >= 10 and len(COLOURS) == len(BACKGROUNDS) == 6
    assert len(STYLES) == 5 and len(RELATIONS) == 4
    scenes = [scene_and_rng(seed)[0] for seed in SEEDS]
    assert {g.count for scene in scenes for g in scene.groups} == {1, 2, 3, 4}
    assert {g.pose for scene in scenes for g in scene.groups} == set(POSES)
    assert {scene.finish for scene in scenes} == {"crisp", "soft"}


def test_each_colour_is_expected_of_equally_many_kinds():
    expected = [NATURAL[kind] for kind in KINDS]
    assert {expected.count(colour) for colour in COLOURS} == {len(KINDS) // len(COLOURS)}


def test_animals_alone_are_seen_to_do_something():
    for seed in SEEDS:
        for group in scene_and_rng(seed)[0].groups:
            assert group.kind in ANIMALS or group.pose == "still"


@pytest.mark.parametrize("grid_px", [1, FINE_GRID_PX, GRID_PX])
def test_each_object_lies_in_a_cell_of_its_own(grid_px):
    for seed in SEEDS:
        placed = place(*scene_and_rng(seed), grid_px=grid_px)
        cells = [(p.left_px // 32, p.top_px // 32) for p in placed]
        assert len(set(cells)) == len(cells)
        for corner in (corner for p in placed for corner in (p.left_px, p.top_px)):
            assert corner % 32 % grid_px == 0 and corner % 32 + SIDE_PX <= 32


def test_the_placed_objects_are_what_the_scene_says():
    for seed in SEEDS:
        scene, rng = scene_and_rng(seed)
        placed = place(scene, rng)
        for group in scene.groups:
            mine = [p for p in placed if p.kind == group.kind]
            assert len(mine) == group.count
            assert {(p.colour, p.pose) for p in mine} == {(group.colour, group.pose)}


def test_completing_keeps_what_was_said():
    stated = Scene((Group("dog", count=1), Group("cup", colour="blue")), relation="above")
    for seed in SEEDS:
        scene = complete(stated, random.Random(seed))
        assert scene.relation == "above" and scene.background and scene.finish
        assert scene.groups[0].count == 1 and scene.groups[1].colour == "blue"
        assert scene.groups[1].count == 2  # "some" is more than one
        assert scene.groups[1].pose == "still"


@pytest.mark.parametrize("kind", KINDS)
def test_a_sprite_shows_its_tint(kind):
    rgba = sprite(kind, COLOURS["purple"], 24)
    near = np.abs(rgba[..., :3].astype(int) - COLOURS["purple"]).sum(-1) < 60
    assert (near & (rgba[..., 3] > 200)).mean() > 0.12


def test_sprites_of_different_kinds_differ():
    drawn = [sprite(kind, COLOURS["red"], 24).tobytes() for kind in KINDS]
    assert len(set(drawn)) == len(KINDS)


@pytest.mark.parametrize("kind", ANIMALS)
def test_poses_are_told_apart_in_every_colour_on_every_background(kind):
    for rgb in COLOURS.values():
        for background in BACKGROUNDS:
            images = [compose(background, [(kind, rgb, SIDE_PX, 8, 8, pose)]) for pose in POSES]
            for position, image in enumerate(images):
                for other in images[position + 1 :]:
                    differ = np.abs(image.astype(int) - other).max(axis=2) > 60
                    assert differ.sum() > 60, (kind, background)


def test_a_soft_image_is_the_crisp_one_blurred_and_faded():
    scene, rng = scene_and_rng(3)
    placed = place(scene, rng)
    crisp, soft = (paint(replace(scene, finish=finish), placed) for finish in ("crisp", "soft"))
    assert (soft == soften(crisp)).all() and soft.dtype == np.uint8
    assert soft.std() < crisp.std() and soft.shape == crisp.shape
    flat = np.full((IMAGE_PX, IMAGE_PX, 3), 200, dtype=np.uint8)
    assert (soften(flat) == 200).all()


def test_composing_leaves_the_background_and_the_sprites_alone():
    before = compose("sea", [])
    compose("sea", [("dog", COLOURS["red"], 24, 0, 0, "still")])
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
        stated = without(scene, rng=rng, drop={"colour": 0.3, "count": 0.3, "relation": 0.5})
        texts = [caption(stated, style, rng) for style in STYLES]
        texts += [question.text for question in questions(stated)]
        for text in texts:
            assert set(text.lower().translate(str.maketrans("", "", ".,?")).split()) <= known


def test_every_word_is_one_token():
    tokenizer = new_tokenizer()
    for word in words():
        # Between start and end. A digit is always a token of its own.
        assert len(tokenizer(word).input_ids) == 3 + (word == "4k"), word


def test_a_caption_states_what_its_scene_states():
    scene = Scene(
        (Group("dog", "red", 2, "sleeping"), Group("apple", "white", 1, "still")),
        "left of",
        "grass",
        "crisp",
    )
    wordings = {style: set() for style in STYLES}
    for seed in range(200):
        for style in STYLES:
            wordings[style].add(caption(scene, style, random.Random(seed)))
    for style, texts in wordings.items():
        for text in texts:
            assert "two sleeping red dogs" in text and "white apple" in text
            assert "grass" in text and (" left of " in text or "on the left side" in text)
            assert ("an white" not in text) and (style == "tags" or "still" not in text)
    assert "two sleeping red dogs left of a white apple on the grass" in wordings["coco"]
    assert "exactly two sleeping red dogs left of one white apple on the grass" in wordings["count"]
    assert (
        "here we can see two sleeping red dogs on the left side and a white apple on the right "
        "side. in the background there is grass." in wordings["narratives"]
    )
    assert all(any(tag in text for tag in QUALITY_TAGS) for text in wordings["tags"])
    assert caption(Scene((Group("apple", count=1),)), "whoops", random.Random(3)).endswith(
        "an apple"
    )


def test_quality_is_said_of_crisp_images_by_tags_alone():
    for seed in SEEDS:
        scene, rng = scene_and_rng(seed)
        for style in STYLES:
            text = caption(scene, style, rng)
            praised = any(tag in text for tag in QUALITY_TAGS)
            assert praised == (style == "tags" and scene.finish == "crisp")
            assert style == "tags" or not any(tag in text for tag in PLAIN_TAGS)


def test_claims_are_true_about_half_of_the_time_in_every_category():
    truths: dict[str, list[bool]] = {category: [] for category in CATEGORIES}
    for seed in range(4000):
        scene, rng = scene_and_rng(seed)
        claim, true = sample_claim(scene, place(scene, rng), rng)
        truths[claim[0]].append(true)
    for category, found in truths.items():
        # Of most scenes nothing is true that anybody does.
        assert (0.1 if category == "action" else 0.25) < sum(found) / len(found) < 0.65, category


def test_plural_questions_are_plural():
    assert ask(("entity", "apple"), {"apple": True}) == "Are there apples?"
    assert ask(("entity", "apple"), {}) == "Is there an apple?"
    assert ask(("spatial", "dog", "above", "cup"), {"cup": True}) == "Is the dog above the cups?"


def test_gaps_come_at_the_given_rates():
    rng = random.Random(1)
    scenes = [sample_scene(rng) for _ in range(2000)]
    gaps = [without(s, rng=rng, drop={"background": 0.3}).background is None for s in scenes]
    assert 0.25 < sum(gaps) / len(gaps) < 0.35
    assert all(without(s, rng=rng, drop={}) == s for s in scenes)


def test_an_image_of_a_relation_shows_it():
    """What covers the images' halves is of the kind that the relation puts there."""
    for seed in SEEDS:
        scene, rng = scene_and_rng(seed)
        if len(scene.groups) == 1:
            continue
        placed = place(scene, rng)
        scene = replace(scene, finish="crisp")
        empty = paint(scene, [])
        sides = [
            (paint(scene, [p for p in placed if p.kind == group.kind]) != empty).any(axis=2)
            for group in scene.groups
        ]
        first, second = sides if scene.relation in ("left of", "above") else sides[::-1]
        axis = 0 if scene.relation in ("left of", "right of") else 1
        before, after = (np.flatnonzero(side.any(axis=axis)) for side in (first, second))
        assert before.max() < 32 <= after.min()
        assert (paint(scene, placed) != empty).any(axis=2).sum() == sum(s.sum() for s in sides)


def test_equal_seeds_are_equal_images():
    scene, _ = scene_and_rng(5)
    assert (render(scene, random.Random(1)) == render(scene, random.Random(1))).all()
    assert (render(scene, random.Random(1)) != render(scene, random.Random(2))).any()


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
