"""Samples' images: upright, opaque, of 8 bits; every file of a source accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from applications.sur.test_sur_samples import blip, collect, counts, image, saved
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from selma.applications.sur.civitai import read_dump
from selma.applications.sur.collecting import REJECTED


def folder_of(root: Path, **images: tuple[Image.Image, dict[str, Any]]) -> dict[str, Any]:
    """An imagefolder of samples; the settings that read it."""
    root.mkdir(parents=True)
    rows = []
    for n, (name, (picture, how)) in enumerate(images.items()):
        file = name.replace("_", ".")
        picture.save(root / file, **how)
        rows.append({"file_name": file, "text": f"text {n}", "prompt": f"cat {n}, 4k"})
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": {"kind": "imagefolder", "folder": str(root)}, "image_px": 64}


def pixels(path: Path) -> Any:
    """As every other program reads it."""
    with Image.open(path) as kept:
        return np.asarray(kept.convert("RGB")).astype(int)


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return {"exif": exif}


def test_what_is_kept_is_what_a_viewer_shows(tmp_path: Path) -> None:
    see_through = Image.new("RGBA", (24, 24), (255, 0, 255, 0))
    see_through.paste((0, 200, 0, 255), (0, 0, 12, 24))
    ramp = Image.fromarray(np.linspace(0, 65535, 576).reshape(24, 24).astype(np.uint16))
    frames = [image(9), image(8)]
    made = collect(tmp_path, folder_of(
        tmp_path / "in",
        a_png=(image(1), turned(6)), b_png=(see_through, {}), c_png=(ramp, {}),
        d_webp=(frames[0], {"save_all": True, "append_images": frames[1:], "lossless": True}),
    ))  # fmt: skip
    kept = [pixels(sample.image) for sample in made]
    assert np.array_equal(kept[0], np.rot90(np.asarray(image(1)), -1))
    assert (kept[1][:, :12] == (0, 200, 0)).all() and (kept[1][:, 12:] == 255).all()
    assert np.abs(kept[2][..., 0] - np.linspace(0, 255, 576).reshape(24, 24)).max() <= 1
    assert np.array_equal(kept[3], np.asarray(frames[0]))
    assert {sample.image.suffix for sample in made} == {".png"}
    # A training opens them as they were collected.
    for sample, array in zip(made, kept, strict=True):
        with Image.open(sample.image) as again:
            assert again.mode == "RGB" and again.getexif() == {} and array.shape[2] == 3


@pytest.mark.parametrize("background", ["white", "navy"])
def test_the_background_is_a_setting(tmp_path: Path, background: str) -> None:
    see_through = Image.new("RGBA", (24, 24), (255, 0, 255, 0))
    settings = folder_of(tmp_path / "in", a_png=(see_through, {}))
    (sample,) = collect(tmp_path, settings | {"background": background})
    assert (pixels(sample.image) == {"white": 255, "navy": (0, 0, 128)}[background]).all()


def test_plain_images_keep_their_bytes(tmp_path: Path) -> None:
    settings = folder_of(
        tmp_path / "in", a_png=(image(1), {}), b_jpg=(image(2), {"quality": 90}),
        c_webp=(image(3), turned(1)),
    )  # fmt: skip
    made = collect(tmp_path, settings)
    assert [sample.image.read_bytes() for sample in made] == [
        (tmp_path / "in" / name).read_bytes() for name in ("a.png", "b.jpg", "c.webp")
    ]


def test_wide_images_are_duplicates_only_if_they_are_equal(tmp_path: Path) -> None:
    """Two of these become the same 8 bits; only one has the same values as another."""
    base = np.arange(576, dtype=np.uint16).reshape(24, 24) * 100
    maps = [Image.fromarray(array) for array in (base, base + np.uint16(1), base)]
    settings = folder_of(tmp_path / "in", **{f"{n}_png": (map, {}) for n, map in enumerate(maps)})
    assert len(collect(tmp_path, settings)) == 2
    assert counts(tmp_path, settings) == {"duplicate image": 1}


def test_every_file_of_a_source_is_used_or_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    for n, name in enumerate(["a.png", "sub/b.PNG", "c.png", "d.jfif"]):
        info = PngInfo()
        info.add_text("parameters", f"cat {n}\nSteps: 2")
        kind = (
            {"pnginfo": info} if name.lower().endswith("png") else {"comment": f"cat {n}\nSteps: 2"}
        )
        saved(root / name, seed=n, **kind)
    (root / "c.png").write_bytes(b"no image")
    for name in ("e.heic", "notes.txt", "._a.png", "sub/f.mp4"):
        (root / name).write_bytes(b"x")
    settings = {
        "source": {"kind": "images", "folder": str(root)},
        "captioner": {"kind": "captioner", "model": str(blip())},
    }
    made = collect(tmp_path, settings)
    assert [sample.source for sample in made] == ["a.png", "d.jfif", "sub/b.PNG"]
    assert counts(tmp_path, settings) == {"no prompt": 1, "not used": 2}
    rejected = (made[0].image.parents[1] / REJECTED).read_text().splitlines()
    rows = {row["source"]: row for row in map(json.loads, rejected)}
    assert set(rows) == {"c.png", "e.heic", "notes.txt", "._a.png", "sub/f.mp4"}
    assert rows["e.heic"]["detail"] == "Pillow reads no .heic without the package pillow-heif"
    assert rows["c.png"]["detail"] == "its metadata cannot be read"
    assert rows["notes.txt"]["reason"] == "lies beside the images"
    assert "3 used, 4 left out" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["in", "./in/../in", "linked"])
def test_images_that_no_row_names_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    settings = folder_of(tmp_path / "in", a_png=(image(1), {}))
    saved(tmp_path / "in" / "b.png", seed=2)
    (tmp_path / "linked").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    settings["source"]["folder"] = folder
    collect(tmp_path, settings)
    assert counts(tmp_path, settings) == {"not used": 1}


def test_dumps_of_both_kinds_are_read(tmp_path: Path) -> None:
    """The interface's `meta` has become {id, meta: {prompt, ...}}."""
    rows = [
        {"id": 1, "url": "https://x/a/1.jpeg", "meta": {"prompt": "a kite", "seed": 0}},
        {"id": 2, "url": "https://x/b/2.jpeg", "meta": {"id": 2, "meta": {"prompt": "a red kite"}}},
        {"id": 3, "url": "https://x/c/3.jpeg", "meta": {"id": 3, "meta": None}},
        {"id": 4, "url": "https://x/d/4.jpeg\ud83d", "meta": None, "license": "\ud83d"},
    ]
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps({"items": rows, "metadata": {}}), "utf-8-sig")
    entries = list(read_dump(dump))
    assert [entry.prompt for entry in entries] == ["a kite", "a red kite", "", ""]
    assert [bool(entry.reason) for entry in entries] == [False, False, True, True]
    assert (entries[3].address, entries[3].licence) == ("https://x/d/4.jpeg?", "?")
