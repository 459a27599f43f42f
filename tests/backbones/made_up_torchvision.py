"""A package that transformers takes for torchvision, and of which nothing can be used."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.29.0"
_NOTHING = """

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def used(*args, **how):
        raise AssertionError(f"torchvision's {name} was used")

    return used
"""
_WAYS = "NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING LANCZOS".split()  # noqa: SIM905
_FILES = {
    "__init__.py": f'__version__ = "{VERSION}"\n',
    "io.py": _NOTHING + "\n\nclass ImageReadMode:\n    RGB = 1\n",
    "ops/__init__.py": _NOTHING,
    "ops/boxes.py": _NOTHING,
    "transforms/__init__.py": "from enum import Enum\n\n\nclass InterpolationMode(Enum):\n"
    + "".join(f"    {way} = {way.lower()!r}\n" for way in _WAYS)
    + _NOTHING,
    "transforms/functional.py": _NOTHING,
    "transforms/v2/__init__.py": _NOTHING,
    "transforms/v2/functional.py": _NOTHING,
}


def build(folder: Path) -> Path:
    """The folder with the package and what tells its version, to be put on sys.path."""
    for name, text in _FILES.items():
        path = folder / "torchvision" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    about = folder / f"torchvision-{VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torchvision\nVersion: {VERSION}\n"
    )
    return folder
