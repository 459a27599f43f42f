"""Reading imagefolders, our own and others': hostile names, broken pictures, missing files."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
import tiny
from PIL import Image
from test_draw_pairs import CONFIG, prompts

from selma.errors import DataError
from selma.images.drawing import draw_pairs
from selma.images.pairs import read_drawn, read_imagefolder
from selma.pictures import decode, open_picture
from selma.workspace import Workspace


def picture(size=(16, 16), mode="RGB", seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(image, kind="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def imagefolder(root, images, rows=None):
    """An imagefolder of these files, file name → bytes."""
    train = root / "train"
    train.mkdir(parents=True)
    for name, data in images.items():
        (train / name).write_bytes(data)
    if rows is None:
        rows = [{"file_name": name, "text": f"picture {name}"} for name in images]
    (train / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def read(root):
    return read_imagefolder(root, skill="mine", base_px=16)


def test_a_foreign_imagefolder_is_read(tmp_path):
    root = imagefolder(
        tmp_path,
        {
            "a.png": encoded(picture()),
            "b.jpg": encoded(picture((20, 30)), "JPEG"),
            "c.png": encoded(picture(mode="P")),
            "d.tif": encoded(picture(mode="CMYK"), "TIFF"),
        },
    )
    reading = read(root)
    assert [pair.prompt.text for pair in reading.pairs] == [
        f"picture {name}" for name in ("a.png", "b.jpg", "c.png", "d.tif")
    ]
    assert reading.counts == {"in": 4, "used": 4, "quarantined": 0}
    assert all(open_picture(p.image, max_pixels=1024).mode == "RGB" for p in reading.pairs)


def test_bad_pictures_are_quarantined_with_a_reason(tmp_path):
    whole = encoded(picture())
    root = imagefolder(
        tmp_path,
        {
            "whole.png": whole,
            "cut.png": whole[: len(whole) // 2],
            "cut.jpg": encoded(picture((16, 16)), "JPEG")[:-200],
            "empty.png": b"",
            "text.jpg": b"no picture at all",
            "large.png": encoded(picture((33, 32))),  # one column over four times 16x16
        },
    )
    reading = read(root)
    assert [pair.image.name for pair in reading.pairs] == ["whole.png"]
    assert set(reading.quarantined) == {"cut.png", "cut.jpg", "empty.png", "text.jpg", "large.png"}
    assert "33x32" in reading.quarantined["large.png"]
    assert reading.counts == {"in": 6, "used": 1, "quarantined": 5}


def test_a_bomb_is_refused_by_its_header():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
    )
    with pytest.raises(DataError, match=r"60000x60000|decoded"):
        decode(bomb, max_pixels=1024)


@pytest.mark.parametrize("share", range(5, 100, 5))
def test_every_truncation_is_refused(share):
    data = encoded(picture((16, 16)))
    with pytest.raises(DataError):
        decode(data[: len(data) * share // 100], max_pixels=1024)


def test_a_missing_picture_is_an_error(tmp_path):
    rows = [{"file_name": "gone.png", "text": "gone"}]
    with pytest.raises(DataError, match=r"gone\.png"):
        read(imagefolder(tmp_path, {}, rows))


def test_a_picture_without_a_row_is_an_error(tmp_path):
    data = encoded(picture())
    rows = [{"file_name": "a.png", "text": "a"}]
    with pytest.raises(DataError, match=r"b\.png"):
        read(imagefolder(tmp_path, {"a.png": data, "b.png": data}, rows))


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "train/../../secret.png", "c:secret.png", "a\0b", " "]
)
def test_no_name_leads_out(tmp_path, name):
    (tmp_path / "secret.png").write_bytes(encoded(picture()))
    with pytest.raises(DataError):
        read(imagefolder(tmp_path / "set", {}, [{"file_name": name, "text": "x"}]))


def test_no_link_leads_out(tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(picture()))
    root = imagefolder(tmp_path / "set", {}, [{"file_name": "link.png", "text": "x"}])
    (root / "train" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="inside"):
        read(root)


@pytest.mark.parametrize(
    "row",
    [{}, {"file_name": "a.png"}, {"file_name": 3, "text": "x"}, {"file_name": "a.png", "text": ""}],
)
def test_a_row_needs_name_and_text(tmp_path, row):
    with pytest.raises(DataError, match="line 1"):
        read(imagefolder(tmp_path, {}, [row]))


def test_a_fifo_does_not_hang(tmp_path):
    root = imagefolder(tmp_path, {}, [{"file_name": "pipe.png", "text": "x"}])
    os.mkfifo(root / "train" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png"):
        read(root)


def _draw(tmp_path):
    draw_pairs(
        {"cats": prompts()},
        CONFIG,
        Workspace(tmp_path),
        base=tiny.base("sd1"),
        seed=0,
        model=lambda: tiny.load("sd1"),
    )
    return tmp_path / "2-images" / "cats"


def test_rows_of_other_prompts_are_refused(tmp_path):
    folder = _draw(tmp_path)
    with pytest.raises(DataError, match="this run's prompts"):
        read_drawn(folder, prompts(count=2))


def test_datasets_loads_our_folder(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the optional package datasets")
    folder = _draw(tmp_path / "run")
    datasets.disable_progress_bars()
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(rows["text"]) == sorted(prompt.text for prompt in prompts())
    assert set(rows.column_names) == {
        "image", "text", "skill", "prompt_id", "seed", "tokens_cut",
    }  # fmt: skip
    assert rows[0]["image"].size == (16, 16)
