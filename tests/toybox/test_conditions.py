"""Signals of scenes: maps and points that fit the pictures, and readers that find them again."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import SegformerForSemanticSegmentation

from selma.applications.control.conditions import class_map, edges, is_edge
from selma.backbones.perception.locating import ToyboxLocator
from selma.backbones.perception.segmenting import TransformersSegmenter
from selma.errors import ModelError
from selma.toybox import weights_folder
from selma.toybox.conditions import (
    CLASSES,
    PALETTE,
    PART_COLOURS,
    class_image,
    classes_of,
    depth_image,
    landmark_image,
    landmarks,
    part_image,
    parts_of,
    sketch_image,
)
from selma.toybox.drawing import _INK
from selma.toybox.landmarks import CELLS, found_landmarks, load_reader
from selma.toybox.pretraining import locating, segmenting
from selma.toybox.pretraining.locating import losses, targets, train_reader
from selma.toybox.pretraining.segmenting import enlarged, lesson, train_segmenter
from selma.toybox.scenes import Placed, paint, place, sample_scene


def scenes(count=20):
    for seed in range(count):
        rng = random.Random(seed)
        scene = replace(sample_scene(rng), finish="crisp")
        yield scene, place(scene, rng, grid_px=1)


def test_colours_are_far_apart_and_lead_back_to_classes():
    pairs = [(a, b) for a in PALETTE for b in PALETTE if a != b]
    assert len(set(PALETTE)) == len(CLASSES) == 18
    assert min(max(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in pairs) > 2 * 8
    for scene, placed in scenes():
        found = class_map(class_image(scene.background, placed), PALETTE)
        assert np.array_equal(found, classes_of(scene.background, placed))


def test_a_map_has_what_is_in_the_scene_where_it_differs_from_the_background():
    for scene, placed in scenes():
        found = classes_of(scene.background, placed)
        there = {CLASSES[n] for n in np.unique(found)}
        assert there == {scene.background, *(p.kind for p in placed)}
        image, empty = paint(scene, placed), paint(scene, [])
        behind = found == CLASSES.index(scene.background)
        # Half-covered edges apart, the background shows where no object is.
        assert (image[behind] == empty[behind]).mean() > 0.9


def test_dots_lie_in_the_middle_of_objects_in_their_colours():
    for _scene, placed in scenes():
        points = landmarks(placed)
        image = np.asarray(landmark_image(points))
        for point in points:
            seen = tuple(int(v) for v in image[int(point.y * 64 - 1), int(point.x * 64 - 1)])
            assert seen in [PALETTE[CLASSES.index(p.kind)] for p in placed]


@pytest.mark.parametrize("pose", ["still", "sleeping", "jumping"])
def test_objects_are_nearer_than_the_ground_and_nearer_the_lower_they_stand(pose):
    high, low = (Placed("dog", "red", 8, top, pose) for top in (0, 40))
    depth = np.asarray(depth_image([high, low]))[..., 0].astype(int)
    ground = np.asarray(depth_image([]))[..., 0].astype(int)
    assert (np.diff(ground[:, 0]) >= 0).all() and (ground == ground[:, :1]).all()
    classes = classes_of("sea", [high, low]) == CLASSES.index("dog")
    assert (depth[~classes] == ground[~classes]).all()
    nearness = [set(depth[rows][classes[rows]]) for rows in (slice(32), slice(32, 64))]
    assert [len(values) for values in nearness] == [1, 1]
    assert ground.max() < min(nearness[0]) < min(nearness[1]) == 255


def test_a_sketch_has_ink_where_the_image_has_and_nothing_of_colours():
    for scene, placed in scenes():
        recoloured = [replace(p, colour="white") for p in placed]
        sketch = np.asarray(sketch_image(placed)).astype(int)
        assert (sketch == np.asarray(sketch_image(recoloured))).all()
        image = paint(scene, placed).astype(int)
        inked = np.abs(image - _INK).max(axis=2) < 12
        objects = classes_of(scene.background, placed) < CLASSES.index("grass")
        assert (sketch[inked & objects].max(axis=1) < 100).all()
        assert (sketch[0, 0] == 255).all() or objects[0, 0] or inked[0, 0]
        assert 0.01 < (sketch < 128).all(axis=2).mean() < 0.4


def test_parts_are_a_bodys_thirds_which_move_with_its_pose():
    still, sleeping, jumping = (
        parts_of([Placed("dog", "red", 8, 8, pose)]) for pose in ("still", "sleeping", "jumping")
    )
    assert all(set(np.unique(parts)) >= {0, 2, 3, 5, 7, 8} for parts in (still, sleeping, jumping))
    heights = [np.ptp(np.flatnonzero((p > 0).any(axis=1))) for p in (still, sleeping, jumping)]
    assert heights[1] < heights[2] < heights[0]
    assert np.flatnonzero((sleeping > 0).any(axis=1)).min() > 8 + 8  # no letters of sleep
    assert np.flatnonzero((jumping > 0).any(axis=1)).max() < 8 + 19  # no shadow
    for scene, placed in scenes():
        parts = parts_of(placed)
        # Bodies are what classes are, but for shadows and letters.
        objects = classes_of(scene.background, placed) < CLASSES.index("grass")
        assert not (parts[~objects] > 0).any()
        if all(p.pose == "still" for p in placed):
            assert (parts[objects] > 0).all()
        assert np.array_equal(class_map(part_image(placed), PART_COLOURS), parts)


def test_parts_colours_are_far_apart():
    pairs = [(a, b) for a in PART_COLOURS for b in PART_COLOURS if a != b]
    assert len(PART_COLOURS) == 10
    assert min(max(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in pairs) >= 40


def test_canny_finds_the_outlines_of_objects_alone():
    from PIL import Image

    for scene, placed in scenes(5):
        found = edges(Image.fromarray(paint(scene, placed)), low=100, high=200)
        empty = edges(Image.fromarray(paint(scene, [])), low=100, high=200)
        assert is_edge(found).sum() > is_edge(empty).sum() + 20 * len(placed)


def test_the_reader_gives_back_what_it_was_taught():
    """Its targets, as if it were sure of them, decode to the very landmarks."""
    each = [placed for _, placed in scenes()]
    truth, places = targets(each)
    found = found_landmarks(20 * truth - 10, places.nan_to_num(0.0))
    for said, placed in zip(found, each, strict=True):
        wanted = sorted((p.name, p.x, p.y) for p in landmarks(placed))
        assert _near(sorted((p.name, p.x, p.y) for p in said), wanted)
    unsure = found_landmarks(truth - 2, places.nan_to_num(0.0))
    assert not any(unsure)
    assert truth.shape[-1] == CELLS
    right = losses(20 * truth - 10, places.nan_to_num(0.0), truth, places)
    wrong = losses(10 - 20 * truth, places.nan_to_num(0.0), truth, places)
    assert right < 0.01 < wrong


def _near(said, wanted):
    return len(said) == len(wanted) and all(
        a[0] == b[0] and abs(a[1] - b[1]) < 1e-6 and abs(a[2] - b[2]) < 1e-6
        for a, b in zip(said, wanted, strict=True)
    )


def test_the_readers_that_come_along_are_right_on_held_out_renders():
    segmenter = SegformerForSemanticSegmentation.from_pretrained(weights_folder() / "segmenter")
    found = segmenting.accuracies(segmenter.float(), seed=12_345, images=100)
    assert found["pixels"] > 98 and found["miou"] > 90, found
    found = locating.accuracies(load_reader(weights_folder() / "reader"), seed=12_345, images=200)
    assert found["whole"] >= 99 and found["px"] < 1, found


def test_pre_training_leaves_readers_that_are_loaded_again(tmp_path):
    cpu = torch.device("cpu")
    train_segmenter(tmp_path, steps=1, batch=2, seed=0, device=cpu)
    train_reader(tmp_path, steps=1, batch=2, seed=0, device=cpu)
    from PIL import Image

    pixels, classes = lesson(random.Random(0), 2)
    assert pixels.shape == (2, 3, 64, 64) and classes.shape == (2, 64, 64)
    scene, placed = next(iter(scenes(1)))
    image = Image.fromarray(paint(scene, placed))
    segmenter = TransformersSegmenter(
        str(tmp_path / "segmenter"), revision=None, device="cpu", setting="scores"
    )
    (found,) = segmenter.segment([image])
    assert found.shape == (64, 64) and segmenter.classes == len(CLASSES)
    # As the network itself says, whatever transformers' preparation does.
    network, _ = segmenter._network
    plain = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        said = enlarged(network(pixel_values=plain).logits).argmax(1)[0].numpy()
    assert (said == found).mean() > 0.99
    assert load_reader(tmp_path / "reader")(plain)[0].shape == (1, 12, CELLS, CELLS)
    assert len(ToyboxLocator(tmp_path / "reader").locate([image], [("a", "b")])) == 1
    with pytest.raises(ModelError, match="landmark reader"):
        load_reader(tmp_path)
