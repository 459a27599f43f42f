"""Every file of a folder is an image or left out for a reason, and people are told."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from selma import image_names
from selma.image_names import image_suffixes, is_image_name, list_images, say_left_out

Image.init()


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@pytest.mark.parametrize(
    "name",
    ["a.png", "a.PNG", "a.Jpg", "a.jfif", "a.avif", "a.tga", "a.mpo", "a.jp2", "a.b.webp", "a.jpe"],
)
def test_names_of_images(name: str) -> None:
    assert is_image_name(Path(name))


@pytest.mark.parametrize(
    "name", ["a.eps", "a.mpg", "a.h5", "a.pdf", "a.mp4", "a.txt", "png", "a", "a.png.part", "a.svg"]
)
def test_names_of_others(name: str) -> None:
    assert not is_image_name(Path(name))


def test_every_format_that_is_written_here_is_read_here() -> None:
    image = Image.new("RGB", (8, 8), "red")
    for suffix, kind in Image.registered_extensions().items():
        try:
            buffer = io.BytesIO()
            image.save(buffer, kind)
        except Exception:  # not a format of RGB
            continue
        assert suffix in image_suffixes() or kind in ("EPS", "PDF")


def test_every_file_has_its_place(tmp_path: Path) -> None:
    root = touched(
        tmp_path, "a.png", "B.JPEG", "c.heic", "d", ".hidden.png", "._a.png", "notes.txt",
        "metadata.jsonl", "film.mp4", "sub/e.png", "__MACOSX/a.png", "sub/.DS_Store",
    )  # fmt: skip
    flat = list_images(root)
    assert [path.name for path in flat.images] == ["B.JPEG", "a.png"]
    assert flat.left_out == {
        ".hidden.png": "hidden",
        "._a.png": "hidden",
        "__MACOSX": "hidden",
        "c.heic": "Pillow reads no .heic without the package pillow-heif",
        "d": "its name has no end such as .png",
        "film.mp4": "Pillow reads no .mp4",
        "metadata.jsonl": "a text",
        "notes.txt": "a text",
        "sub": "a folder",
    }
    deep = list_images(root, deep=True)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    images = {path.relative_to(root).as_posix() for path in deep.images}
    assert images == {"a.png", "B.JPEG", "sub/e.png"}
    assert images | set(deep.left_out) == files and not images & set(deep.left_out)


def test_what_is_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    say_left_out("here", 2, {"a.txt": "a text", ".b": "hidden"})
    assert capsys.readouterr().err == ""
    say_left_out("here", 2, {"a.txt": "a text", **{f"{n}.heic": "no .heic" for n in range(5)}})
    assert capsys.readouterr().err == (
        "here: 2 used, 6 left out: 0.heic, 1.heic, 2.heic and 2 more (no .heic); a.txt (a text)\n"
    )


def test_plugins_that_are_installed_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class HeifFile(ImageFile.ImageFile):
        format = "SELMAHEIF"

    def register() -> None:
        Image.register_open("SELMAHEIF", HeifFile, lambda start: start.startswith(b"selma"))
        Image.register_extension("SELMAHEIF", ".heicish")

    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    for cached in (image_names.register_plugins, image_names.image_suffixes):
        cached.cache_clear()
    try:
        assert ".heicish" in image_suffixes()
    finally:
        for table in (Image.OPEN, Image.EXTENSION):
            table.pop("SELMAHEIF" if table is Image.OPEN else ".heicish", None)
        Image.ID.remove("SELMAHEIF")
        for cached in (image_names.register_plugins, image_names.image_suffixes):
            cached.cache_clear()
