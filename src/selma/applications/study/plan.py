"""What a study compares, and each annotator's order: fixed by the run, a seed and their name."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from selma.errors import ConfigError, DataError, WorkspaceError
from selma.image_files import decode, png_bytes
from selma.image_places import image_of
from selma.randomness import rng
from selma.records.benchmarks import BenchmarkPrompt, evenly
from selma.records.record import Record
from selma.workspace import SCORES, inside, manifest, recipe_key

PAPER_PROMPTS = 200
"""How many prompts the paper's annotators saw (arXiv:2403.06952, section 5.5)."""
_PNG = b"\x89PNG\r\n\x1a\n"
_OPAQUE = (b"\0", b"\2", b"\3")
"""PNG's colour types without opacity: byte 25, behind the bits of a value."""


class Pair(Record):
    """One prompt of the benchmark and the two images that are compared."""

    id: str
    text: str
    group: str
    sha256: tuple[str, str]
    """Each model's image, so that a vote stays bound to the image that was seen."""


class Study(Record):
    """Two models' images of the same prompts."""

    models: tuple[str, str]
    """The reference, then the model whose wins are counted."""
    seed: int
    pairs: tuple[Pair, ...]

    @property
    def key(self) -> str:
        """16 hex digits: equal keys, equal prompts, images and orders."""
        return recipe_key(self.model_dump(mode="json"))


class Showing(NamedTuple):
    """One step of an annotator: a pair, and which of the two models (0 or 1) is on the left."""

    pair: Pair
    left: int


def plan_study(
    run: Path,
    benchmark_prompts: Sequence[BenchmarkPrompt],
    *,
    models: tuple[str, str],
    prompts: int,
    seed: int,
) -> Study:
    """Plan a study of `prompts` prompts of a run's benchmark, evenly over its groups.

    The paper sampled its 200 at random; an even choice is the same for everybody, and says as much
    about each group. Raises ConfigError for one model twice, WorkspaceError unless both models'
    images are finished.
    """
    if models[0] == models[1]:
        raise ConfigError(f"A study needs two different models, but {models[0]!r} came twice.")
    images = [_finished_images(run, model) for model in models]
    pairs = []
    for prompt in evenly(benchmark_prompts, prompts):
        for model, files in zip(models, images, strict=True):
            if prompt.id not in files:
                raise WorkspaceError(
                    f"{run} must hold an image of {prompt.id} by {model}, but has none. "
                    "Run `selma score CONFIG` again: the benchmark has changed since."
                )
        hashes = (images[0][prompt.id]["sha256"], images[1][prompt.id]["sha256"])
        pairs.append(Pair(id=prompt.id, text=prompt.text, group=prompt.group, sha256=hashes))
    return Study(models=models, seed=seed, pairs=tuple(pairs))


def showings(study: Study, annotator: str) -> list[Showing]:
    """All pairs in the annotator's own order; each model is on the left in half of them."""
    shuffled = rng(study.seed, "study", annotator)
    pairs = list(study.pairs)
    # One coin for each pair would leave some annotators with 60 of 100 on one side.
    sides = [number % 2 for number in range(len(pairs))]
    if len(pairs) % 2 and shuffled.random() < 0.5:
        sides[-1] = 1
    shuffled.shuffle(pairs)
    shuffled.shuffle(sides)
    return [Showing(pair, left) for pair, left in zip(pairs, sides, strict=True)]


class Images:
    """A study's images, as PNG files without metadata."""

    def __init__(self, run: Path, study: Study) -> None:
        self.run = run
        self.models = study.models
        self.hashes = {pair.id: pair.sha256 for pair in study.pairs}
        self.png = lru_cache(maxsize=64)(self._png)  # several annotators, few megabytes each

    def verify(self) -> None:
        """Read every file. Raises DataError for the first that is missing or has changed."""
        for prompt in self.hashes:
            for model in (0, 1):
                self._read(prompt, model)

    def _png(self, prompt: str, model: int) -> bytes:
        """The image of a prompt by the first (0) or second (1) model. A file that holds more than
        pixels may name its model in it, and is encoded anew."""
        data = self._read(prompt, model)
        return data if _only_pixels(data) else png_bytes(decode(data))

    def _read(self, prompt: str, model: int) -> bytes:
        path = image_of(inside(self.run, images_path(self.models[model])), prompt)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        if sha256(data).hexdigest() != self.hashes[prompt][model]:
            raise DataError(
                f"{path} must be the image that this study began with, but has changed. "
                "Restore it, or begin another study with --name."
            )
        return data


def _only_pixels(data: bytes) -> bool:
    """Whether this is an opaque PNG of 8 bits without metadata. Encoding anew would keep the
    annotator waiting: a second for 1024 x 1024."""
    offset = len(_PNG)
    header = data[:26]
    if not header.startswith(_PNG) or header[24:25] > b"\x08" or header[25:] not in _OPAQUE:
        return False
    while offset + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, offset)
        offset += size + 12
        if kind == b"IEND":
            return size == 0 and offset == len(data)
        if kind not in (b"IHDR", b"PLTE", b"IDAT"):
            return False
    return False


def images_path(model: str) -> str:
    """The path in a run of a model's benchmark images."""
    return f"{SCORES}/images/{model}"


def images_in(of_item: Mapping[str, Any]) -> dict[str, Any]:
    """Prompt id → its image's size and sha256, by the manifest of a model's images."""
    return {PurePosixPath(name).stem: entry for name, entry in of_item.get("files", {}).items()}


def _finished_images(run: Path, model: str) -> dict[str, Any]:
    """Prompt id → its image's size and sha256."""
    folder = inside(run, images_path(model))
    files = images_in(manifest(folder))
    if not files:
        each = (path.parent for path in folder.parent.glob("*/manifest.json"))
        finished = sorted(path.name for path in each if manifest(path))
        raise WorkspaceError(
            f"{folder} must hold finished images, but does not. "
            + (
                f"Finished are: {', '.join(finished)}."
                if finished
                else "Run `selma run CONFIG` first."
            )
        )
    return files
