"""Captions read back: just what the scene states, in every style, and nothing by guess."""

import random
from dataclasses import replace

import pytest

from selma.toybox.benchmark import benchmark_prompts, stated
from selma.toybox.captions import STYLES, caption
from selma.toybox.parsing import UnreadableCaption, parse_caption
from selma.toybox.questions import questions
from selma.toybox.scenes import Group, Scene, sample_scene, without

DROP = dict.fromkeys(("colour", "count", "pose", "relation", "background", "group"), 0.3)


def as_said(scene, style):
    """The scene as far as a caption of the style says it."""
    groups = (replace(g, pose=None if g.pose == "still" else g.pose) for g in scene.groups)
    crisp = scene.finish if style == "tags" and scene.finish == "crisp" else None
    return replace(scene, groups=tuple(groups), finish=crisp)


@pytest.mark.parametrize("style", STYLES)
def test_a_caption_read_back_is_what_its_scene_states(style):
    rng = random.Random(f"read back {style}")
    texts = {}
    for _ in range(4000):
        scene = without(sample_scene(rng), rng=rng, drop=DROP if rng.random() < 0.7 else {})
        text = caption(scene, style, rng)
        assert parse_caption(text) == as_said(scene, style), text
        assert parse_caption(text[0].upper() + text[1:]) == as_said(scene, style)
        assert texts.setdefault(text, as_said(scene, style)) == as_said(scene, style)
    assert len(texts) > 2000


@pytest.mark.parametrize("split", ["dev", "test"])
def test_the_benchmark_would_get_its_own_questions(split):
    scenes = stated(split)
    for prompt in benchmark_prompts(split):
        scene = parse_caption(prompt.text)
        assert scene == as_said(scenes[prompt.id].scene, scenes[prompt.id].style)
        assert questions(scene) == prompt.questions


def test_what_language_models_may_write_beside():
    fish = Group("fish", "red", 2)
    assert parse_caption("Two red fish left of a cat") == Scene(
        (fish, Group("cat", None, 1)), "left of"
    )
    assert parse_caption("red fish, sea, 4k, cute icon") == Scene(
        (Group("fish", "red", 1),), None, "sea", "crisp"
    )
    assert parse_caption("an apple and some dogs") == Scene(
        (Group("apple", None, 1), Group("dog", None, None))
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "dogs",
        "a dogs",
        "two dog",
        "a dog and a dog",  # questions speak of a kind, so that there can be but one of it
        "a dog and a cat and a bird",
        "a red blue dog",
        "a dog on the grass in the snow",
        "in the sea, a dog on the grass",
        "a brown dog",
        "a dog to the above a cat",
        "a dog without a cat",
        "not a dog",
        "a dog, a cat and a bird",
        "a dog, a cat",
        "dog, cat, bird",
        "dog, grass, snow",
        "in this image we can see a dog at the top and a cat on the left side.",
        "in this image we can see a dog at the top and a cat at the top.",
        "on the left side there is a dog and on the left side a cat.",
        "here we can see a dog. the background is grass. the background is snow.",
        "a dog\nleft of a cat",
    ],
)
def test_what_states_no_scene_is_an_error(text):
    with pytest.raises(UnreadableCaption, match="one scene"):
        parse_caption(text)
