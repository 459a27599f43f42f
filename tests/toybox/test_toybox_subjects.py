"""Toybox's subjects: real images of their own, which differ from every sprite, in a real layout."""

import random

import numpy as np
import pytest
from PIL import Image

from selma.toybox import subjects
from selma.toybox.captions import NUMBERS
from selma.toybox.drawing import BACKGROUNDS, IMAGE_PX, background, compose, lay, rendered, sprite
from selma.toybox.lexicon import words
from selma.toybox.scenes import COLOURS, SIDE_PX, place, sample_scene
from selma.toybox.subjects import SUBJECTS


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda one: one.name)
def test_a_subject_is_no_sprite_of_its_kind(subject):
    mine = rendered(subject.shape, subject.rgb, SIDE_PX).astype(int)
    for rgb in COLOURS.values():
        other = sprite(subject.kind, rgb, SIDE_PX).astype(int)
        differ = (np.abs(mine - other).max(axis=2) > 40).sum()
        assert differ > 0.04 * SIDE_PX**2
    # It reaches no further than its kind, or to about a pixel from the rim.
    assert rim(mine) <= max(128, rim(sprite(subject.kind, subject.rgb, SIDE_PX)))


def test_subjects_lie_where_the_bases_objects_lie():
    corners = set()
    for seed in range(100):
        rng = random.Random(seed)
        corners |= {c for p in place(sample_scene(rng), rng) for c in (p.left_px, p.top_px)}
    assert corners == set(subjects.CORNERS_PX)


@pytest.mark.parametrize("prompts", [subjects.OBJECT_PROMPTS, subjects.LIVE_PROMPTS])
def test_prompts_are_in_toyboxs_words_and_name_no_subjects_kind(prompts):
    """As many as the benchmark's, and of other kinds: "a cup and a cup" could not be judged."""
    assert len(set(prompts)) == len(prompts) == 25
    kinds = {subject.kind for subject in SUBJECTS}
    for prompt in prompts:
        spoken = prompt.lower().replace("{}", "").translate(str.maketrans("", "", ".,")).split()
        assert prompt.count("{}") == 1 and set(spoken) <= set(words())
        assert not {word.removesuffix("s") for word in spoken} & kinds
        assert not set(spoken) & set(NUMBERS.values()) - {"one", "two"}


def rim(drawn):
    """The largest opacity along the four edges."""
    return max(int(edge[:, 3].max()) for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]))


def test_pictures_are_alike_each_time_and_differ_in_place_and_background():
    for subject in SUBJECTS:
        first, again = subjects.images(subject), subjects.images(subject)
        assert 4 <= len(first) <= 6
        assert all((a == b).all() for a, b in zip(first, again, strict=True))
        corners = {image[-1, -1].tobytes() + image[0, 0].tobytes() for image in first}
        assert len({image.tobytes() for image in first}) == len(first) and len(corners) > 1
        for image in first:
            assert image.shape == (IMAGE_PX, IMAGE_PX, 3) and image.dtype == np.uint8
    assert len(subjects.images(SUBJECTS[0], count=8)) == 8 > len(BACKGROUNDS)


def test_one_sprite_is_laid_as_scenes_are_composed():
    scene = background("grass").copy()
    lay(scene, sprite("cat", COLOURS["red"], 24), left_px=-4, top_px=50)
    assert (scene == compose("grass", [("cat", COLOURS["red"], 24, -4, 50, "still")])).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_band_is_the_part_between(axis):
    square = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    cut = np.array(subjects.band(square, 0.25, 0.5, axis=axis))
    assert cut[:, axis].min() == 0.25 and cut[:, axis].max() == 0.5
    x, y = cut.T
    area = abs((x * np.roll(y, 1) - y * np.roll(x, 1)).sum()) / 2
    assert area == pytest.approx(0.25)


def test_the_folder_has_the_datasets_layout(tmp_path):
    root = subjects.write_subjects(tmp_path / "data")
    assert {path.name for path in root.iterdir()} == {
        *(subject.name for subject in SUBJECTS),
        "prompts_and_classes.txt",
    }
    for subject in SUBJECTS:
        files = sorted((root / subject.name).iterdir())
        assert len(files) == subjects.IMAGES
        for path, pixels in zip(files, subjects.images(subject), strict=True):
            assert (np.asarray(Image.open(path)) == pixels).all()
