"""Imagefolders and the pictures in them: hostile names, broken pictures, missing files."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny
from images.test_generating import CONFIG, prompts
from PIL import Image

from selma.errors import DataError
from selma.image_files import decode, open_image
from selma.imagefolders import rows, there
from selma.images.generating import generate_pairs
from selma.images.pairs import read_generated
from selma.workspace import Workspace


def image(size=(16, 16), mode="RGB", seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(image, kind="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def folder_of(root, *rows):
    """A skill's folder with these rows of metadata, and no picture."""
    (root / "train").mkdir(parents=True)
    (root / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def row(name):
    (prompt,) = prompts(count=1)
    told = {"text": prompt.text, "prompt_id": prompt.id, "seed": 0, "tokens_cut": 0}
    return {"file_name": name, **told}


def read(root):
    return read_generated(root, prompts(count=1))


@pytest.mark.parametrize(
    ("size", "mode", "kind"),
    [((16, 16), "RGB", "PNG"), ((20, 30), "RGB", "JPEG"), ((16, 16), "P", "PNG"),
     ((16, 16), "CMYK", "TIFF")],
)  # fmt: skip
def test_any_kind_of_image_is_red_green_blue(tmp_path, size, mode, kind):
    path = tmp_path / "image"
    path.write_bytes(encoded(image(size, mode), kind))
    seen = open_image(path, max_pixels=1024)
    assert (seen.mode, seen.size) == ("RGB", size)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (encoded(image(), "JPEG")[:-200], "decoded"),
        (b"", "decoded"),
        (b"no picture at all", "decoded"),
        (encoded(image((33, 32))), "33x32"),  # one column over four times 16x16
    ],
)
def test_bad_images_are_refused_with_the_reason(tmp_path, data, says):
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"bad\.png: .*{says}"):
        open_image(path, max_pixels=1024)


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
    data = encoded(image((16, 16)))
    with pytest.raises(DataError):
        decode(data[: len(data) * share // 100], max_pixels=1024)


def test_a_missing_image_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png"):
        read(folder_of(tmp_path, row("gone.png")))


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "x/../../secret.png", "c:secret.png", "a\0b", " "]
)
def test_no_name_leads_out(tmp_path, name):
    root = folder_of(tmp_path, row(name))
    (root / "secret.png").write_bytes(encoded(image()))
    with pytest.raises(DataError, match=r"leads out|printable|needs a text"):
        read(root)


def test_no_link_leads_out(tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(image()))
    root = folder_of(tmp_path / "set", row("link.png"))
    (root / "train" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="inside"):
        read(root)


@pytest.mark.parametrize(
    "row",
    [{}, {"file_name": "a.png"}, {"file_name": 3, "text": "x"}, {"file_name": "a.png", "text": ""}],
)
def test_a_row_needs_name_and_text(tmp_path, row):
    with pytest.raises(DataError, match="line 1"):
        read(folder_of(tmp_path, row))


def test_a_fifo_does_not_hang(tmp_path):
    root = folder_of(tmp_path, row("pipe.png"))
    os.mkfifo(root / "train" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png"):
        read(root)
    with pytest.raises(DataError, match="no such file"):
        open_image(root / "train" / "pipe.png", max_pixels=1024)


def _generate(tmp_path):
    generate_pairs(
        {"cats": prompts()},
        CONFIG,
        Workspace(tmp_path),
        base=tiny.base("sd1"),
        seed=0,
        model=lambda: tiny.load("sd1"),
    )
    return tmp_path / "2-images" / "cats"


def test_rows_of_other_prompts_are_refused(tmp_path):
    folder = _generate(tmp_path)
    with pytest.raises(DataError, match="this run's prompts"):
        read_generated(folder, prompts(count=2))


@pytest.mark.parametrize(
    ("name", "read"),
    [("a_1.png", "a_1.png"), (" a_1.png\t", "a_1.png"), (" odd .png", " odd .png")],
)
def test_a_file_is_named_without_the_blanks_around_it(tmp_path, name, read):
    for file in ("a_1.png", " odd .png"):
        Image.new("RGB", (8, 8)).save(tmp_path / file, format="PNG")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a cat"}))
    (row,) = rows(tmp_path)
    assert row["file_name"] == read
    there(tmp_path / read)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_not_named_as_what_was_meant(tmp_path, make):
    make(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png must be an image file, but is none"):
        there(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("A-1.png", r"Did you mean 'a_1\.png'\?"),
        ("a_01.png", r"Did you mean 'a_1\.png'\?"),
        ("other.png", "Restore it"),
    ],
)
def test_a_missing_file_is_named_with_the_nearest(tmp_path, name, says):
    Image.new("RGB", (8, 8)).save(tmp_path / "a_1.png")
    with pytest.raises(DataError, match=says):
        there(tmp_path / name)
