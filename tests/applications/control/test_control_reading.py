"""What values of conditioning images mean, and that image and condition lie the same way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from selma.applications.control.preparing import prepare_control
from selma.applications.control.records import ControlSample
from selma.applications.control.settings import ConditionedFolder, ControlData
from selma.errors import DataError
from selma.workspace import Workspace

PX = 16
RAMP = np.linspace(0, 1, PX * PX).reshape(PX, PX)


def scene(root: Path, n: int, condition: Image.Image, *, end: str = "png") -> dict[str, str]:
    root.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(n).integers(0, 256, (PX, PX, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / f"{n}.png")
    condition.save(root / f"condition{n}.{end}")
    return {"file_name": f"{n}.png", "conditioning_image": f"condition{n}.{end}", "text": f"a {n}"}


def folder_of(root: Path, *conditions: Image.Image, end: str = "png") -> Path:
    """One image in val; the others, which these conditions belong to, in train."""
    rows = {"train": [scene(root / "train", n, c, end=end) for n, c in enumerate(conditions)]}
    rows["val"] = [scene(root / "val", 99, conditions[0], end=end)]
    for split, of_split in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in of_split)
        (root / split / "metadata.jsonl").write_text(lines)
    return root


def conditions(root: Path, condition: str, **settings: Any) -> list[NDArray[np.uint8]]:
    """What train's conditioning images have become."""
    train = samples(root, condition=condition, **settings)
    return [np.asarray(Image.open(sample.conditioning_image)) for sample in train]


def samples(root: Path, **settings: Any) -> list[ControlSample]:
    source = ConditionedFolder(folder=str(root))
    data = ControlData(source=source, **settings)
    return prepare_control(data, Workspace(root.with_name("run")), px=PX, seed=0)["train"]


def depth(black: float, white: float, dtype: Any = np.uint16) -> Image.Image:
    return Image.fromarray((black + RAMP * (white - black)).astype(dtype))


@pytest.mark.parametrize("end", ["png", "tiff"])
def test_depth_of_16_bits_fills_the_range(tmp_path: Path, end: str) -> None:
    """Millimetres, as depth cameras write them: each map by its own smallest and largest."""
    root = folder_of(tmp_path / "in", depth(500, 9000), depth(40_000, 65_000), end=end)
    for array in conditions(root, "depth"):
        assert np.abs(array[..., 0] - 255 * RAMP).max() <= 1


def test_a_fixed_range_keeps_depth_maps_comparable(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "in", depth(1000, 3000), depth(2000, 5000))
    first, second = conditions(root, "depth", depth_range=(1000, 5000))
    assert np.abs(first[..., 0] - 127.5 * RAMP).max() <= 1
    assert np.abs(second[..., 0] - (63.75 + 191.25 * RAMP)).max() <= 1


def test_a_falling_range_makes_near_white(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "in", depth(1000, 3000))
    (array,) = conditions(root, "depth", depth_range=(3000, 1000))
    assert np.abs(array[..., 0] - 255 * (1 - RAMP)).max() <= 1


def test_depth_of_floats_and_of_8_bits(tmp_path: Path) -> None:
    metres = depth(0.4, 8.5, np.float32)
    (array,) = conditions(folder_of(tmp_path / "f" / "in", metres, end="tiff"), "depth")
    assert np.abs(array[..., 0] - 255 * RAMP).max() <= 1
    plain = depth(20, 90, np.uint8)
    (array,) = conditions(folder_of(tmp_path / "l" / "in", plain), "depth")
    assert (array[..., 0] == np.asarray(plain)).all()


def test_numbers_of_classes_are_not_scaled(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a" / "in", depth(0, 149))
    (array,) = conditions(root, "segmentation")
    assert (array[..., 0] == np.asarray(depth(0, 149))).all()
    root = folder_of(tmp_path / "b" / "in", depth(0, 3000))
    with pytest.raises(DataError, match=r"condition\d+\.png: Numbers of classes"):
        conditions(root, "segmentation")


@pytest.mark.parametrize("condition", ["canny", "sketch", "landmarks", "densepose"])
def test_other_conditions_are_scaled_by_their_type(tmp_path: Path, condition: str) -> None:
    (array,) = conditions(folder_of(tmp_path / "in", depth(0, 65_535)), condition)
    assert np.abs(array[..., 0] - 255 * RAMP).max() <= 1


def test_transparent_parts_lie_over_the_background(tmp_path: Path) -> None:
    drawing = Image.new("RGBA", (PX, PX), (90, 0, 90, 0))
    root = folder_of(tmp_path / "in", drawing)
    for background, value in (("white", 255), ("black", 0)):
        (array,) = conditions(root, "sketch", background=background)
        assert (array == value).all()


def turned(path: Path, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", size, "red").save(path, exif=exif)


def test_an_image_and_a_condition_that_lie_otherwise_are_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "in", Image.new("L", (24, PX)))
    turned(root / "train" / "0.png", (24, PX))
    with pytest.raises(DataError, match=r"16x24 when it stands upright, but .* 24x16"):
        conditions(root, "sketch")
    turned(root / "train" / "condition0.png", (24, PX))
    assert len(conditions(root, "sketch")) == 1
