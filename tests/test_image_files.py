"""One opener of images, one limit."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from PIL import Image

import selma
from selma import image_files
from selma.errors import DataError
from selma.image_files import REMEDY_FOR_GENERATED, open_image

ROOT = Path(selma.__file__).parent
# The second reads what stands beside the pixels, of images that are opened by the first.
OPENERS = {"image_files.py", "applications/sur/parameters.py"}


def test_images_are_opened_in_one_module() -> None:
    opens = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open")
    }
    assert opens == OPENERS


def test_an_image_from_anywhere_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("1", (8001, 8000)).save(path)
    with pytest.raises(DataError, match=r"64000000 pixels, but this has 8001x8000"):
        open_image(path)
    assert image_files.MAX_PIXELS == 8000 * 8000


def test_what_was_generated_is_generated_again(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match=r"broken\.png: .* Replace it or remove it\.$"):
        open_image(path)
    with pytest.raises(DataError, match=r"generated again\.$"):
        open_image(path, remedy=REMEDY_FOR_GENERATED)


def test_a_file_of_more_bytes_than_pixels_need_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    monkeypatch.setattr("selma.image_files.MAX_BYTES", path.stat().st_size)
    assert open_image(path).size == (4, 4)
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"a\.png must have at most"):
        open_image(path)
