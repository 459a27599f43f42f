"""The papers' data sets in their owners' layouts: a made-up sample of each is read by its code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from selma.applications.angles.experiment import loaded
from selma.applications.control.conditions import NUMBER_COLOURS, TOLERANCE, class_map
from selma.applications.control.preparing import prepare_control
from selma.applications.control.published import PUBLISHED, published_at
from selma.applications.control.records import ControlSample
from selma.applications.control.settings import Condition, ControlData, PublishedFolder
from selma.applications.control.sources import candidates, palette_of
from selma.applications.loading import data_sets
from selma.applications.subjects.images import read_subjects
from selma.applications.subjects.settings import SubjectData
from selma.applications.sur.samples import read_samples
from selma.cli import app
from selma.errors import ConfigError, DataError
from selma.workspace import Workspace

PX = 32


def photo(path: Path, n: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(n).integers(0, 256, (PX, PX, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def numbers(path: Path, left: int, right: int, *, px: int = PX) -> Path:
    """A map whose left half has one number, and its right half another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((px, px), left, dtype=np.uint8)
    values[:, px // 2 :] = right
    Image.fromarray(values).save(path)
    return path


def ade20k(root: Path) -> Path:
    for count, split in ((3, "training"), (2, "validation")):
        for n in range(count):
            name = f"ADE_{split[:5]}_{n:08d}"
            photo(root / "images" / split / f"{name}.jpg", n + 10 * count)
            numbers(root / "annotations" / split / f"{name}.png", 0, 150 - n)
    return root


def coco(root: Path) -> Path:
    for count, split in ((3, "train"), (2, "val")):
        images = [{"id": 7 * (n + 1), "file_name": f"{n:012d}.jpg"} for n in range(count)]
        captions = [
            {"id": 100 - k, "image_id": row["id"], "caption": f"{split} {row['id']}, {k}\n"}
            for row in images
            for k in range(2)
        ]
        stored = {"images": images[::-1], "annotations": captions}
        path = root / "annotations" / f"captions_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(stored))
        for n in range(count):
            photo(root / f"{split}2017" / f"{n:012d}.jpg", n + 10 * count)
            numbers(root / "stuffthingmaps" / f"{split}2017" / f"{n:012d}.png", 17, 255)
    return root


def deepfashion(root: Path) -> Path:
    captions = {}
    for n in range(5):
        name = f"WOMEN-Skirts-id_{n:08d}-01_1_front"
        photo(root / "images" / f"{name}.jpg", n)
        photo(root / "densepose" / f"{name}_densepose.png", 50 + n)
        captions[f"{name}.jpg"] = f"The person {n} wears a skirt."
        if n != 3:  # not shown from head to foot
            numbers(root / "segm" / f"{name}_segm.png", 0, 23)
    (root / "captions.json").write_text(json.dumps(captions))
    return root


def celeba(root: Path) -> Path:
    for n in (0, 1, 2, 1999, 2000):
        photo(root / "CelebA-HQ-img" / f"{n}.jpg", n)
        masks = root / "CelebAMask-HQ-mask-anno" / str(n // 2000)
        numbers(masks / f"{n:05d}_skin.png", 255, 0, px=PX // 2)
        numbers(masks / f"{n:05d}_nose.png", 0, 0, px=PX // 2)
        hair = np.zeros((PX // 2, PX // 2, 3), dtype=np.uint8)
        hair[: PX // 4] = 255
        Image.fromarray(hair).save(masks / f"{n:05d}_hair.png")
    return root


SAMPLES: dict[str, Callable[[Path], Path]] = {
    "ade20k": ade20k,
    "coco": coco,
    "deepfashion": deepfashion,
    "celeba-hq": celeba,
}


def data_of(root: Path, condition: Condition) -> ControlData:
    return ControlData(condition=condition, source=PublishedFolder(folder=str(root), val=2))


def prepared(root: Path, condition: Condition) -> dict[str, list[ControlSample]]:
    folder = Workspace(root.with_name("run"))
    return dict(prepare_control(data_of(root, condition), folder, px=PX, seed=0))  # type: ignore


def colours(sample: ControlSample) -> set[tuple[int, ...]]:
    with Image.open(sample.conditioning_image) as image:
        return {tuple(map(int, c)) for c in np.unique(np.asarray(image).reshape(-1, 3), axis=0)}


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.data_set.name)
def test_each_is_recognised_and_each_condition_read(row, tmp_path: Path) -> None:
    root = SAMPLES[row.data_set.name](tmp_path / "in")
    assert published_at(root) is row
    for condition in row.conditions:
        data = data_of(root, condition)
        names = {s: [c.name for c in candidates(data, s, seed=0)] for s in ("train", "val")}
        expected = 2 if (row.data_set.name, condition) == ("deepfashion", "segmentation") else 3
        assert len(names["train"]) == expected and len(names["val"]) == 2
        assert not set(names["train"]) & set(names["val"])
        for split in ("train", "val"):
            for candidate in candidates(data, split, seed=0):
                assert candidate.image().size == (PX, PX)
                assert (candidate.conditioning_image is None) == (condition == "canny")
    with pytest.raises(ConfigError, match="landmarks"):
        list(candidates(data_of(root, "landmarks"), "val", seed=0))


def test_numbers_of_ade20k_are_the_segmenters_classes(tmp_path: Path) -> None:
    root = ade20k(tmp_path / "in")
    palette = palette_of(data_of(root, "segmentation"))
    assert palette is not None and len(palette) == 150
    candidate = next(iter(candidates(data_of(root, "segmentation"), "train", seed=0)))
    assert candidate.conditioning_image is not None
    classes = class_map(candidate.conditioning_image(), palette)
    assert set(np.unique(classes)) == {-1, 149}, "what nobody named is no class"


def test_coco_has_its_own_captions_and_the_first_of_each_image(tmp_path: Path) -> None:
    splits = prepared(coco(tmp_path / "in"), "segmentation")
    assert [s.text for s in splits["train"]] == ["train 7, 1", "train 14, 1", "train 21, 1"]
    assert [s.source for s in splits["val"]] == [f"val2017/{n:012d}.jpg" for n in range(2)]
    assert colours(splits["val"][0]) == {NUMBER_COLOURS[17], NUMBER_COLOURS[255]}
    root = coco(tmp_path / "broken")
    (root / "annotations" / "captions_val2017.json").write_text('{"images": [{"id": 1}]}')
    with pytest.raises(DataError, match="file_name"):
        prepared(root, "canny")


def test_a_name_that_leads_out_of_coco_is_refused(tmp_path: Path) -> None:
    root = coco(tmp_path / "in")
    stored = {"images": [{"id": 1, "file_name": "../../x.jpg"}], "annotations": []}
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="must lie inside"):
        prepared(root, "canny")


def test_deepfashion_has_captions_and_pose(tmp_path: Path) -> None:
    splits = prepared(deepfashion(tmp_path / "in"), "densepose")
    assert len(splits["val"]) == 2 and len(splits["train"]) == 3
    assert all(s.text.startswith("The person") for s in splits["train"])


def test_masks_of_a_face_become_one_map(tmp_path: Path) -> None:
    root = celeba(tmp_path / "in")
    by_name = {c.name: c for c in candidates(data_of(root, "segmentation"), "train", seed=0)}
    by_name |= {c.name: c for c in candidates(data_of(root, "segmentation"), "val", seed=0)}
    assert set(by_name) == {f"{n}.jpg" for n in (0, 1, 2, 1999, 2000)}
    for candidate in by_name.values():
        assert candidate.conditioning_image is not None
        image = np.asarray(candidate.conditioning_image())
        assert tuple(image[0, -1]) == NUMBER_COLOURS[17], "hair lies over all"
        assert tuple(image[-1, 0]) == NUMBER_COLOURS[1] and tuple(image[-1, -1]) == (0, 0, 0)
    with pytest.raises(DataError, match="captioner"):
        prepared(root, "segmentation")


def test_a_folder_of_none_is_refused_with_what_would_tell(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="images/training"):
        prepared(tmp_path / "in", "canny")


def test_a_missing_map_is_named(tmp_path: Path) -> None:
    root = ade20k(tmp_path / "in")
    (root / "annotations" / "validation" / "ADE_valid_00000001.png").unlink()
    with pytest.raises(DataError, match=r"ADE_valid_00000001\.png must be there"):
        list(candidates(data_of(root, "segmentation"), "val", seed=0))


def test_colours_of_numbers_are_far_apart() -> None:
    every = np.array(NUMBER_COLOURS).astype(int)
    apart = np.abs(every[:, None] - every[None]).max(axis=2)
    assert apart[~np.eye(len(every), dtype=bool)].min() > 2 * TOLERANCE


def test_dreambooth_as_it_is_cloned(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    for subject in ("backpack", "dog6"):
        for n in range(4):
            photo(root / subject / f"{n:02d}.jpg", n)
    (root / "references_and_licenses.txt").write_text("backpack/00.jpg: unsplash\n")
    (root / "prompts_and_classes.txt").write_text(
        "Classes\n\nsubject_name,class\nbackpack,backpack\ndog6,dog\n\nPrompts\n\nObject Prompts\n"
        "prompt_list = [\n'a {0} {1} in the snow'.format(unique_token, class_token),\n]\n\n"
        "Live Subject Prompts\nprompt_list = [\n"
        "'a {0} {1} in a hat'.format(unique_token, class_token),\n]\n"
    )
    subjects = read_subjects(SubjectData(folder=str(root)), Workspace(tmp_path / "run"), base_px=16)
    assert [(s.name, s.kind, len(s.images)) for s in subjects] == [
        ("backpack", "backpack", 4),
        ("dog6", "dog", 4),
    ]


def test_flowers_as_they_are_unpacked(tmp_path: Path) -> None:
    for n in range(1, 4):
        photo(tmp_path / "jpg" / f"image_{n:05d}.jpg", n)
    assert loaded(str(tmp_path / "jpg"), 3, seed=0).shape == (3, 3, 64, 64)


def test_surd_as_it_is_unpacked(tmp_path: Path) -> None:
    photo(tmp_path / "SURD" / "a.png", 1)
    row = {"file_name": "a", "text": "a red car", "prompt": "car, red, masterpiece"}
    (tmp_path / "SURD" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = read_samples(tmp_path / "SURD", base_px=None).samples
    assert (sample.text, sample.prompt) == (row["text"], row["prompt"])


def test_every_data_set_is_listed_and_none_is_fetched() -> None:
    shown = CliRunner().invoke(app, ["data", "list"]).output
    rows = data_sets()
    assert {"oft-control", "dreambooth", "flowers-102", "surd", *SAMPLES} == {r.name for r in rows}
    for row in rows:
        assert f"\n{row.name}: " in shown and row.source in shown and row.licence in shown
        for command in ("fetch", "verify"):
            done = CliRunner().invoke(app, ["data", command, row.name])
            assert isinstance(done.exception, ConfigError)
            assert row.source in str(done.exception)
