"""Which files of a folder are images: by their names, and by what Pillow's own registry reads."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image, ImageFile

from selma.processes import launched
from selma.progress import console

HIDDEN, TEXT, FOLDER = "hidden", "a text", "a folder"
"""Reasons that nobody wonders about: what lies beside images by its nature."""
QUIET = (HIDDEN, TEXT)
TEXTS = (".json", ".jsonl", ".csv", ".txt", ".caption", ".md", ".yaml", ".yml", ".html")
_NO_PIXELS = ("EPS", "MPEG")
"""Formats whose header Pillow reads alone: a program that others run, and a video."""
_PLUGINS = {"pillow_heif": ("register_heif_opener",), "pillow_jxl": ()}
"""Package → what makes Pillow read by it."""
_HEIF, _JXL = "pillow-heif", "pillow-jxl-plugin"
_ADDED = {".heic": _HEIF, ".heif": _HEIF, ".hif": _HEIF, ".jxl": _JXL}
"""What ends names of images that only a package adds → that package."""


@dataclass(frozen=True)
class Listing:
    """What is in a folder of images."""

    images: tuple[Path, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    """Name below the folder → why it is no image."""


@cache
def register_plugins() -> None:
    """Let Pillow read what installed plugins add to it, such as HEIC."""
    for package, functions in _PLUGINS.items():
        with suppress(ImportError):
            plugin = importlib.import_module(package)
            for name in functions:
                getattr(plugin, name)()


@cache
def image_suffixes() -> frozenset[str]:
    """Ends of names, in lower case, of formats whose pixels Pillow reads here."""
    Image.init()
    register_plugins()
    return frozenset(
        suffix.lower()
        for suffix, kind in Image.registered_extensions().items()
        if _has_pixels(kind)
    )


def _has_pixels(kind: str) -> bool:
    factory = Image.OPEN.get("JPEG" if kind == "MPO" else kind, (None,))[0]  # opened as JPEG is
    is_stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    return factory is not None and not is_stub and kind not in _NO_PIXELS


def is_image_name(path: Path) -> bool:
    return path.suffix.lower() in image_suffixes()


def list_images(folder: Path, *, deep: bool = False) -> Listing:
    """Every file of the folder, in the order of names: an image, or left out for a reason.

    deep: also of the folders in it; else each of them is left out.
    """
    images, left_out = [], {}
    for path in sorted(folder.rglob("*") if deep else folder.iterdir()):
        name = path.relative_to(folder)
        reason = reason_against(name, is_folder=path.is_dir())
        if deep and path.is_dir():
            continue
        if reason is None and not path.is_file():
            reason = "no file"
        if reason is None:
            images.append(path)
        else:
            left_out[name.as_posix()] = reason
    return Listing(tuple(images), left_out)


def reason_against(name: Path, *, is_folder: bool = False) -> str | None:
    """Why a file of this name is no image, if so."""
    if any(part.startswith(".") or part == "__MACOSX" for part in name.parts):
        return HIDDEN
    if is_folder:
        return FOLDER
    suffix = name.suffix.lower()
    if suffix in image_suffixes():
        return None
    if suffix in TEXTS:
        return TEXT
    if suffix in _ADDED:
        return f"Pillow reads no {suffix} without the package {_ADDED[suffix]}"
    return f"Pillow reads no {suffix}" if suffix else "its name has no end such as .png"


def reasons(left_out: Mapping[str, str]) -> dict[str, int]:
    """Reason → how many."""
    return dict(sorted(Counter(left_out.values()).items()))


def say_left_out(what: str, used: int, left_out: Mapping[str, str]) -> None:
    """Say on standard error which files are not used; nothing where all are images or texts."""
    if launched()[0] > 0 or not set(left_out.values()) - set(QUIET):
        return
    console.print(
        f"{what}: {used} used, {len(left_out)} left out: " + "; ".join(_groups(left_out)),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _groups(left_out: Mapping[str, str]) -> Iterator[str]:
    for reason in sorted(set(left_out.values()), key=lambda r: (r in QUIET, r)):
        names = [name for name, why in left_out.items() if why == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{', '.join(names[:3])}{more} ({reason})"
