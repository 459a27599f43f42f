"""No image is in train and in val, and every file of an imagefolder is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from selma.applications.control.preparing import prepare_control
from selma.applications.control.settings import ConditionedFolder, ControlData, ReleasedFolder
from selma.errors import DataError
from selma.workspace import Workspace


def photo(n: int) -> Image.Image:
    noise = np.random.default_rng(n).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def saved(path: Path, image: Image.Image, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)
    return path


def written(path: Path, names: list[str]) -> None:
    rows = ({"file_name": name, "text": f"{n}: {name}"} for n, name in enumerate(names))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shown(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def prepared(root: Path, source: Any, **settings: Any) -> dict[str, list[bytes]]:
    data = ControlData(condition="canny", source=source, **settings)
    splits = prepare_control(data, Workspace(root / "run"), px=16, seed=0)
    return {split: [shown(s.image) for s in samples] for split, samples in splits.items()}


def summary(root: Path, split: str) -> dict[str, Any]:
    manifest = root / "run" / "2-images" / "_control" / "canny" / split / "manifest.json"
    return dict(json.loads(manifest.read_text())["summary"])


def test_captions_of_one_image_do_not_take_it_into_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    for n in range(6):
        saved(root / f"{n}.png", photo(n))
    written(root / "metadata.jsonl", [f"{n}.png" for n in range(6) for _ in range(5)])
    splits = prepared(tmp_path, ConditionedFolder(folder=str(root), val=4))
    assert len(splits["val"]) == 4 and not set(splits["val"]) & set(splits["train"])
    held = len(set(splits["val"]))
    assert len(splits["train"]) == 5 * (6 - held)
    assert summary(tmp_path, "train")["images"] == len(splits["train"])
    assert set(summary(tmp_path, "train")["left_out"].values()) == {"the same image is in val"}
    assert "the same image is in val" in capsys.readouterr().err


def turned(path: Path, image: Image.Image) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return saved(path, image.transpose(Image.Transpose.ROTATE_90), exif=exif)


@pytest.mark.parametrize("way", ["copied", "other format", "other mode", "turned", "named alike"])
def test_an_image_in_both_folders_is_left_out_of_train(tmp_path: Path, way: str) -> None:
    root, image = tmp_path / "in", photo(0)
    saved(root / "val" / "v.png", image)
    copies = {
        "copied": lambda: saved(root / "train" / "c.png", image),
        "other format": lambda: saved(root / "train" / "c.bmp", image),
        "other mode": lambda: saved(root / "train" / "c.tiff", image.convert("RGBA")),
        "turned": lambda: turned(root / "train" / "c.png", image),
        "named alike": lambda: saved(root / "train" / "v.png", image),
    }
    copy = copies[way]()
    saved(root / "train" / "other.png", photo(1))
    written(root / "val" / "metadata.jsonl", ["v.png"])
    written(root / "train" / "metadata.jsonl", [copy.name, "other.png"])
    splits = prepared(tmp_path, ConditionedFolder(folder=str(root)))
    assert len(splits["train"]) == 1 and not set(splits["train"]) & set(splits["val"])
    assert list(summary(tmp_path, "train")["left_out"]) == [f"train/{copy.name}"]


def test_the_first_images_are_counted_without_those_left_out(tmp_path: Path) -> None:
    root = tmp_path / "in"
    saved(root / "val" / "v.png", photo(0))
    for n in range(4):
        saved(root / "train" / f"{n}.png", photo(n))
    written(root / "val" / "metadata.jsonl", ["v.png"])
    written(root / "train" / "metadata.jsonl", [f"{n}.png" for n in range(4)])
    splits = prepared(tmp_path, ConditionedFolder(folder=str(root)), most_train=2)
    assert len(splits["train"]) == 2


def test_released_splits_are_kept_apart_too(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for split, numbers in (("train", (0, 1)), ("val", (1,))):
        rows = []
        for n in numbers:
            saved(root / split / "color" / f"{n}.png", photo(n))
            rows.append({"source": f"source/{n}.png", "target": f"target/{n}.png", "prompt": "x"})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / split / f"prompt_{split}_blip.json").write_text(lines)
    splits = prepared(tmp_path, ReleasedFolder(folder=str(root)))
    assert len(splits["train"]) == 1 and not set(splits["train"]) & set(splits["val"])


def test_splits_that_are_the_same_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for split in ("train", "val"):
        saved(root / split / "0.png", photo(0))
        written(root / split / "metadata.jsonl", ["0.png"])
    with pytest.raises(DataError, match="All images of train are in val, too"):
        prepared(tmp_path, ConditionedFolder(folder=str(root)))


def test_files_that_no_row_names_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    for n in range(4):
        saved(root / f"{n}.png", photo(n))
    for name in (".DS_Store", "notes.txt", "clip.mp4"):
        (root / name).write_text("x")
    written(root / "metadata.jsonl", ["0.png", "./1.png", "2.png"])
    prepared(tmp_path, ConditionedFolder(folder=str(root), val=1))
    assert summary(tmp_path, "train") == {"images": 2, "left_out": {
        "3.png": "no row names it", ".DS_Store": "hidden", "notes.txt": "a text",
        "clip.mp4": "Pillow reads no .mp4"}}  # fmt: skip
    assert summary(tmp_path, "val") == {"images": 1}
    said = capsys.readouterr().err
    assert "3.png (no row names it)" in said and "clip.mp4 (Pillow reads no .mp4)" in said
