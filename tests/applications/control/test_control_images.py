"""Images with conditions: the released layouts, imagefolders, toybox; squares that fit together."""

import json

import numpy as np
import pytest
from applications.sur.test_sur_samples import blip
from PIL import Image

from selma.applications.control.conditions import class_map, edges
from selma.applications.control.preparing import fitted, prepare_control
from selma.applications.control.settings import (
    CONDITIONS,
    ConditionedFolder,
    ControlData,
    ReleasedFolder,
    ToyboxImages,
)
from selma.applications.control.sources import candidates, source_digest
from selma.backbones.perception.captioning import CaptionModel
from selma.config.networks import Captioner
from selma.errors import ConfigError, DataError
from selma.toybox.benchmark import benchmark_texts
from selma.toybox.conditions import PALETTE
from selma.workspace import Workspace

TOYBOX = ToyboxImages(train=6, val=4)


def prepared(folder, data, *, px=64, seed=0):
    return prepare_control(data, Workspace(folder), px=px, seed=seed)


def photo(path, n=0, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(n).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_toybox_is_made_once_and_its_splits_share_nothing(tmp_path, condition):
    data = ControlData(condition=condition, source=TOYBOX)
    splits = prepared(tmp_path, data)
    texts = {split: {s.text.lower() for s in samples} for split, samples in splits.items()}
    assert [len(split) for split in texts.values()] == [6, 4]
    assert (
        not texts["train"] & texts["val"]
        and not (texts["train"] | texts["val"]) & benchmark_texts()
    )
    for sample in splits["val"]:
        with (
            Image.open(sample.image) as image,
            Image.open(sample.conditioning_image) as conditioning_image,
        ):
            assert image.size == conditioning_image.size == (64, 64)
            if condition == "canny":
                assert np.array_equal(edges(image, low=100, high=200), conditioning_image)
            if condition == "segmentation":
                assert (class_map(conditioning_image, PALETTE) >= 0).all()
        assert sample.landmarks
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert prepared(tmp_path, data) == splits
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == before
    # More training images leave validation as it was.
    larger = ControlData(condition=condition, source=ToyboxImages(train=8, val=4))
    assert [c.name for c in candidates(larger, "val", seed=0)] == [s.source for s in splits["val"]]


def ade20k(root):
    for split in ("train", "val"):
        rows = []
        for n in range(2):
            photo(root / split / "color" / f"{n}.png", n + len(split))
            colours = np.zeros((30, 40, 3), dtype=np.uint8)
            colours[:, 20:] = PALETTE[n]
            (root / split / "segm").mkdir(parents=True, exist_ok=True)
            Image.fromarray(colours).save(root / split / "segm" / f"{n}.png")
            rows.append({"source": f"source/{n}.png", "target": f"target/{n}.png",
                         "prompt": f"{split} {n}"})  # fmt: skip
        lines(root / split / f"prompt_{split}_blip.json", rows)
    return root


def test_the_released_layout(tmp_path):
    source = ReleasedFolder(folder=str(ade20k(tmp_path / "ADE20K")))
    splits = prepared(tmp_path / "run", ControlData(condition="segmentation", source=source), px=16)
    assert [s.text for s in splits["train"]] == ["train 0", "train 1"]
    assert [s.text for s in splits["val"]] == ["val 0", "val 1"]
    with Image.open(splits["val"][1].conditioning_image) as conditioning_image:
        # The middle square, and no colour that was not there.
        colours = np.unique(np.asarray(conditioning_image).reshape(-1, 3), axis=0)
        assert {tuple(map(int, c)) for c in colours} == {(0, 0, 0), PALETTE[1]}
    # Without a folder of edges, Canny makes them; depth needs one.
    canny = prepared(tmp_path / "run", ControlData(condition="canny", source=source), px=16)
    assert len(canny["val"]) == 2
    with pytest.raises(DataError, match="depth"):
        prepared(tmp_path / "run", ControlData(condition="depth", source=source), px=16)


def test_an_image_may_have_the_name_of_its_condition(tmp_path):
    """The released code reads the source's name alone."""
    root = ade20k(tmp_path / "ADE20K")
    rows = [{"source": "source/1.png", "target": "target/1.jpg", "prompt": "x"}]
    lines(root / "val" / "prompt_val_blip.json", rows)
    data = ControlData(condition="segmentation", source=ReleasedFolder(folder=str(root)))
    (candidate,) = candidates(data, "val", seed=0)
    assert candidate.name == "val/1.png"
    with Image.open(root / "val" / "color" / "1.png") as image:
        assert np.array_equal(candidate.image(), image)


def test_celeba(tmp_path):
    root = tmp_path / "celebhq-text"
    points = np.linspace(0, 1024, 136).reshape(68, 2)
    for split in ("train", "val"):
        photo(root / "celeba-hq-img" / f"{split}.jpg", len(split), size=(64, 64))
        photo(root / "celeba-hq-landmark2d_cond_512" / f"{split}.png", size=(32, 32))
        (root / "celeba-hq-landmark2d").mkdir(exist_ok=True)
        np.savetxt(root / "celeba-hq-landmark2d" / f"{split}.txt", points)
        rows = [{"image": f"{split}.jpg", "prompt": f"a {split} face"}]
        (root / f"prompt_{split}_blip.json").write_text(json.dumps(rows) + "\n")
    data = ControlData(condition="landmarks", source=ReleasedFolder(folder=str(root)))
    (sample,) = prepared(tmp_path / "run", data, px=16)["val"]
    assert sample.text == "a val face" and len(sample.landmarks) == 68
    assert sample.landmarks[-1].x == pytest.approx(1022 / 1024, abs=0.01)
    with pytest.raises(ConfigError, match="segmentation"):
        prepared(tmp_path, data.model_copy(update={"condition": "segmentation"}), px=16)


def imagefolder(root, count=5, **columns):
    rows = []
    for n in range(count):
        photo(root / f"{n}.png", n)
        photo(root / "depth" / f"{n}.png", n)
        rows.append({"file_name": f"{n}.png", "text": f"text {n}",
                     "conditioning_image": f"depth/{n}.png", **columns})  # fmt: skip
    lines(root / "metadata.jsonl", rows)
    return root


def test_any_imagefolder_with_a_conditioning_column(tmp_path):
    source = ConditionedFolder(folder=str(imagefolder(tmp_path / "data")), val=2)
    data = ControlData(condition="depth", source=source)
    splits = prepared(tmp_path / "run", data, px=16)
    names = {split: {s.source for s in samples} for split, samples in splits.items()}
    assert [len(split) for split in names.values()] == [3, 2]
    assert len(names["train"] | names["val"]) == 5
    other = source.model_copy(update={"conditioning": "sketch"})
    with pytest.raises(DataError, match="sketch"):
        prepared(tmp_path / "b", ControlData(condition="sketch", source=other), px=16)
    # Another seed holds out others.
    seeds = {tuple(sorted(c.name for c in candidates(data, "val", seed=seed))) for seed in range(6)}
    assert len(seeds) > 1


def test_metadata_may_be_a_csv(tmp_path):
    """The layout of `datasets`: the same images, names and texts; an empty cell is no name."""
    source = ConditionedFolder(folder=str(imagefolder(tmp_path / "data")), val=2)
    data = ControlData(condition="depth", source=source)
    expected = [(c.name, c.text) for c in candidates(data, "train", seed=0)]
    digest = source_digest(data)
    (tmp_path / "data" / "metadata.jsonl").unlink()
    table = tmp_path / "data" / "metadata.csv"
    rows = [f'{n}.png,"text {n}",depth/{n}.png' for n in range(5)]
    table.write_text("\n".join(["file_name,text,conditioning_image", *rows]))
    assert [(c.name, c.text) for c in candidates(data, "train", seed=0)] == expected
    assert source_digest(data) != digest
    table.write_text(table.read_text().replace(",depth/3.png", ","))
    with pytest.raises(DataError, match=r"'3\.png' has none"):
        [*candidates(data, "train", seed=0), *candidates(data, "val", seed=0)]


def test_images_without_prompts_need_a_captioner(tmp_path):
    source = ConditionedFolder(folder=str(imagefolder(tmp_path / "data", text="")), val=2)
    with pytest.raises(DataError, match="captioner"):
        prepared(tmp_path / "run", ControlData(condition="depth", source=source), px=16)


class Stop(Exception):
    pass


def test_a_captioner_writes_the_prompts_and_none_twice(tmp_path, monkeypatch):
    """They replace the source's; stopped after the first caption, it resumes with the second."""
    captioner = Captioner(model=str(blip()), device="cpu")
    source = ConditionedFolder(folder=str(imagefolder(tmp_path / "data", count=3)), val=1)
    data = ControlData(condition="depth", source=source, captioner=captioner)
    straight = prepared(tmp_path / "straight", data, px=16)
    caption = CaptionModel.caption
    calls = []

    def stopping(self, images):
        if len(calls) == 1:
            calls.append(None)
            raise Stop
        calls.append(images)
        return caption(self, images)

    monkeypatch.setattr(CaptionModel, "caption", stopping)
    with pytest.raises(Stop):
        prepared(tmp_path / "cut", data, px=16)
    cut = prepared(tmp_path / "cut", data, px=16)
    assert len(calls) == 4  # each of three images once, and the stop
    for split, samples in straight.items():
        assert [s.text for s in samples] == [s.text for s in cut[split]]
        assert not any(s.text.startswith("text ") for s in samples)
    assert not list(tmp_path.rglob("captions.jsonl"))


def test_a_damaged_image_is_named(tmp_path):
    root = ade20k(tmp_path / "ADE20K")
    (root / "train" / "color" / "1.png").write_bytes(b"no image")
    data = ControlData(condition="segmentation", source=ReleasedFolder(folder=str(root)))
    with pytest.raises(DataError, match=r"1\.png"):
        prepared(tmp_path / "run", data, px=16)
    rows = [{"source": "../../../secret/0.png", "target": "target/0.png", "prompt": "x"}]
    lines(root / "train" / "prompt_train_blip.json", rows)
    with pytest.raises(DataError, match="leads out"):
        prepared(tmp_path / "run", data, px=16)


def test_landmarks_move_with_the_cropped_square(tmp_path):
    points = [{"name": "nose", "x": 0.5, "y": 0.5}, {"name": "ear", "x": 0.25, "y": 0.0}]
    root = imagefolder(tmp_path / "data", landmarks=points)
    data = ControlData(condition="landmarks", source=ConditionedFolder(folder=str(root), val=2))
    for sample in prepared(tmp_path / "run", data, px=16)["val"]:
        nose, ear = sample.landmarks
        # 40 x 30: the square begins 5 px from the left.
        assert (nose.x, nose.y) == pytest.approx((0.5, 0.5))
        assert (ear.x, ear.y) == pytest.approx((5 / 30, 0.0))


def test_only_colours_that_mean_nothing_are_averaged():
    board = Image.fromarray((255 * (np.indices((30, 40)).sum(0) % 2)).astype(np.uint8))
    assert set(np.unique(fitted(board, 13, smooth=False))) == {0, 255}
    assert not {0, 255} & set(np.unique(fitted(board, 13)))
    assert fitted(board, 30, smooth=False).size == (30, 30)
