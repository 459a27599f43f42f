"""Where samples come from, each as a stream of candidates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from selma.applications.sur.civitai import Entry, read_dump
from selma.applications.sur.parameters import prompt_inside
from selma.applications.sur.samples import read_samples
from selma.applications.sur.settings import (
    CivitaiDump,
    ImageFolder,
    SampleFolder,
    SurData,
    ToyboxSamples,
)
from selma.errors import DataError
from selma.image_files import png_bytes
from selma.images.pairs import TEXTS, images
from selma.randomness import rng
from selma.toybox.benchmark import benchmark_texts, keyword_texts
from selma.toybox.captions import STYLES, caption
from selma.toybox.drawing import compose
from selma.toybox.scenes import COLOURS, Scene, place, sample_scene, without
from selma.workspace import file_sha256, inside

TOYBOX_LICENCE = "Apache-2.0"  # drawn by selma itself

# What a plain caption leaves out.
_UNSAID = {"colour": 0.2, "size": 0.6, "relation": 0.2, "background": 0.3}


@dataclass(frozen=True)
class Candidate:
    """A row before it is cleaned."""

    source: str
    """What names it: an address, or a file's name. No path of this machine."""
    prompt: str
    licence: str
    image: Callable[[], bytes]
    """The file's bytes. Raises DataError if there is none."""
    text: str | None = None
    """The caption, where the source has one."""
    marked: bool = False
    """Its source calls it unsafe."""


def candidates(config: SurData, *, seed: int) -> Iterator[Candidate]:
    """All rows of the source, in its order. Raises DataError where it cannot be read."""
    match config.source:
        case ToyboxSamples(count=count):
            yield from _toybox(count, seed)
        case CivitaiDump(dump=dump, images=folder, licence=licence):
            files = {path.stem: path for path in sorted(images(_folder(folder)), reverse=True)}
            for entry in read_dump(Path(dump)):
                yield _civitai(entry, files, licence)
        case ImageFolder(folder=folder, licence=licence):
            root = _folder(folder)
            for path in sorted(images(root)):
                data = inside(root, path.relative_to(root).as_posix()).read_bytes()
                name = path.relative_to(root).as_posix()
                yield Candidate(name, prompt_inside(data) or "", licence, path.read_bytes)
        case SampleFolder(folder=folder, licence=licence):
            for sample in read_samples(_folder(folder), base_px=None, licence=licence).samples:
                yield Candidate(
                    sample.source,
                    sample.prompt,
                    sample.licence,
                    sample.image.read_bytes,
                    text=sample.text,
                )


def source_digest(config: SurData) -> str:
    """Changes with the source's texts, and with names and sizes of its pictures; names no path.

    Pictures are not read for it: a collection is asked for often, and there may be thousands.
    """
    source, total = config.source, hashlib.sha256()
    for name in ("dump", "images", "folder"):
        if (where := getattr(source, name, None)) is None:
            continue
        root = Path(where)
        files = sorted(path for path in root.rglob("*") if path.is_file()) or [root]
        for path in files:
            if not path.is_file():
                raise DataError(f"sur.data.source.{name}: {root} must be there, but is not.")
            label = path.relative_to(root).as_posix() if path != root else ""
            text = path.suffix.lower() in TEXTS
            content = file_sha256(path) if text else path.stat().st_size
            total.update(f"{name} {label} {content}\n".encode())
    return total.hexdigest()


def _folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise DataError(f"{name} must be a folder of pictures, but is none.")
    return Path(name)


def _civitai(entry: Entry, files: dict[str, Path], licence: str | None) -> Candidate:
    path = next((files[name] for name in entry.names if name in files), None)

    def read() -> bytes:
        if path is None:
            raise DataError(f"None of {', '.join(entry.names)} is among the pictures.")
        return path.read_bytes()

    return Candidate(
        entry.address, entry.prompt, licence or entry.licence, read, marked=entry.marked
    )


def _toybox(count: int, seed: int) -> Iterator[Candidate]:
    """Scenes with their captions; none of an exam's texts or keyword prompts is among them."""
    forbidden, seen, number = benchmark_texts() | keyword_texts(), set[str](), 0
    while len(seen) < count:
        number += 1
        if number > 1000 * count:
            raise DataError(f"toybox has not as many as {count} different scenes for this seed.")
        draw = rng(seed, "triples", number)
        scene = sample_scene(draw)
        keywords = caption(scene, "tags", draw)
        plain = caption(without(scene, rng=draw, drop=_UNSAID), draw.choice(_PLAIN_STYLES), draw)
        if {keywords.lower(), plain.lower()} & forbidden or keywords in seen:
            continue
        seen.add(keywords)
        yield Candidate(
            f"toybox scene {number} of seed {seed}",
            keywords,
            TOYBOX_LICENCE,
            partial(_drawn, scene, seed, number),
            text=plain,
        )


_PLAIN_STYLES = tuple(style for style in STYLES if style in ("coco", "narratives"))


def _drawn(scene: Scene, seed: int, number: int) -> bytes:
    assert scene.background is not None  # a sampled scene leaves nothing open
    placed = place(scene, rng(seed, "triples", number, "places"))
    array = compose(
        scene.background,
        [(p.kind, COLOURS[p.colour], p.side_px, p.left_px, p.top_px) for p in placed],
    )
    return png_bytes(Image.fromarray(np.ascontiguousarray(array)))
