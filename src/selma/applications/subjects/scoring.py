"""Compare generated images with the real ones and with their prompts: DINO, CLIP-I, CLIP-T, LPIPS.

    5-scores/_subjects/<method>/<subject>/<step>/rows.jsonl    one line for each prompt, with each
                                                               image's own numbers

Every pair of images counts (`docs/subjects.md` says how the released evaluation differs).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from selma.applications.subjects.records import Subject, SubjectMeasure
from selma.applications.subjects.settings import SubjectScores
from selma.backbones.perception.likeness import ImageFeatures, TextFeatures, load_clip, load_dino
from selma.backbones.perception.lpips import Perception, distances, load_perception
from selma.errors import DataError
from selma.image_files import REMEDY_FOR_GENERATED, open_image
from selma.image_places import image_of
from selma.records.benchmarks import BenchmarkPrompt
from selma.row_files import Row, fill_rows
from selma.workspace import SCORES, Workspace, file_sha256, manifest, read_lines

if TYPE_CHECKING:
    from torch import Tensor

NAME = "_subjects"
ROWS = "rows.jsonl"
DIGITS = 6


@dataclass(frozen=True)
class Networks:
    """The networks that compare images; each is loaded at its first use."""

    dino: ImageFeatures
    clip: TextFeatures
    lpips: Perception | None

    @property
    def fingerprints(self) -> list[str | None]:
        """One for each network, for recipes; None where LPIPS is off."""
        perception = None if self.lpips is None else self.lpips.fingerprint
        return [self.dino.fingerprint, self.clip.fingerprint, perception]

    @property
    def measures(self) -> tuple[SubjectMeasure, ...]:
        """The measures of these networks, in the table's order."""
        pairs = "over all pairs of a generated and a real image of the subject"
        columns = [
            ("dino", self.dino.label, "higher", f"Cosine {pairs}.", self.dino.name),
            ("clip_i", self.clip.label, "higher", f"Cosine {pairs}.", self.clip.name),
            ("clip_t", "CLIP-T", "higher", "Cosine of an image and its prompt.", self.clip.name),
        ]
        if self.lpips is not None:
            name = self.lpips.name
            diversity = "Distance between images of one subject and prompt, as the paper says."
            columns += [
                ("lpips_real", "LPIPS to real", "lower", f"Distance {pairs}, as released.", name),
                ("lpips_diversity", "LPIPS diversity", "higher", diversity, name),
            ]
        return tuple(
            SubjectMeasure(key=k, label=label, better=b, meaning=m, network=n)  # type: ignore[arg-type]
            for k, label, b, m, n in columns
        )


def load_networks(config: SubjectScores) -> Networks:
    """The networks that the settings name. Raises ModelError."""
    setting = "subjects.scores"
    return Networks(
        dino=load_dino(config.dino, setting=f"{setting}.dino"),
        clip=load_clip(config.clip, setting=f"{setting}.clip"),
        lpips=None
        if config.lpips is None
        else load_perception(config.lpips, setting=f"{setting}.lpips"),
    )


class RealImages:
    """One subject's own images and their features, each computed once."""

    def __init__(self, subject: Subject, networks: Networks) -> None:
        self.subject = subject
        self.networks = networks
        self._by_size: dict[int, Tensor] = {}

    @cached_property
    def digests(self) -> list[str]:
        """SHA-256 of each image file."""
        return [file_sha256(path) for path in self.subject.images]

    @cached_property
    def opened(self) -> list[Image.Image]:
        """The decoded images."""
        return [open_image(path) for path in self.subject.images]

    @cached_property
    def dino(self) -> Tensor:
        """[n, d], unit vectors."""
        return self.networks.dino.of_images(self.opened)

    @cached_property
    def clip(self) -> Tensor:
        """[n, d], unit vectors."""
        return self.networks.clip.of_images(self.opened)

    def lpips(self, px: int) -> Tensor:
        """LPIPS vectors of the middle squares, as in training, in the generated images' size."""
        assert self.networks.lpips is not None
        if px not in self._by_size:
            fitted = [ImageOps.fit(i, (px, px), Image.Resampling.BICUBIC) for i in self.opened]
            self._by_size[px] = self.networks.lpips.of_images(fitted)
        return self._by_size[px]

    def among_themselves(self, px: int) -> dict[str, float]:
        """Measure → mean over pairs of different images; {} if there is only one."""
        if len(self.opened) < 2:
            return {}
        means = {
            "dino": _off_diagonal_mean(self.dino @ self.dino.mT),
            "clip_i": _off_diagonal_mean(self.clip @ self.clip.mT),
        }
        if self.networks.lpips is not None:
            rows = self.lpips(px)
            means["lpips_real"] = _off_diagonal_mean(distances(rows, rows))
        return {name: round(value, DIGITS) for name, value in means.items()}


def score_generated(
    real: RealImages,
    prompts: Sequence[BenchmarkPrompt],
    texts: Mapping[str, str],
    generated: Path,
    folder: Workspace,
    *,
    name: Sequence[str],
) -> list[Row]:
    """Score a subject's images: one row for each prompt; a finished item is read instead.

    generated: a finished folder with <id>.png for each of `prompts`.  texts: number of a prompt →
    the text that CLIP-T reads.  name: the item's, such as ("oft", "cat_hat", "1000"). Raises
    DataError for an image that is missing or broken.
    """
    key = manifest(generated).get("key")
    if key is None:
        raise DataError(
            f"{generated} must be a finished folder of images. Run `selma subjects generate`."
        )
    recipe = {
        "images": key,
        "real": real.digests,
        "texts": dict(texts),
        "networks": real.networks.fingerprints,
    }
    item = folder.item(SCORES, NAME, *name, recipe=recipe)
    if item.done:
        return read_lines(item.path / ROWS)
    path, started = item.begin() / ROWS, time.monotonic()
    groups: dict[str, list[str]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.id.partition("-")[0], []).append(prompt.id)

    def scored(part: Sequence[tuple[str, list[str]]]) -> list[Row]:
        return [
            {"text": text} | measured([_open(generated, i) for i in ids], ids, text, real)
            for text, ids in part
        ]

    jobs = {number: (texts[number], ids) for number, ids in groups.items()}
    title = f"scoring {' '.join(name)}"
    fill_rows(path, jobs, scored, key="prompt", title=title, chunk=1)
    item.finish([path], {"prompts": len(groups)})
    seconds = round(time.monotonic() - started, 3)
    folder.journal(SCORES, what="subject", item="/".join(name), seconds=seconds)
    return read_lines(path)


def measured(images: Sequence[Image.Image], ids: Sequence[str], text: str, real: RealImages) -> Row:
    """Score one prompt's images: the means, and each image's own numbers."""
    networks = real.networks
    vectors = networks.clip.of_images(images)
    columns = {
        "dino": (networks.dino.of_images(images) @ real.dino.mT).mean(dim=1).tolist(),
        "clip_i": (vectors @ real.clip.mT).mean(dim=1).tolist(),
        "clip_t": (vectors @ networks.clip.of_texts([text]).mT).flatten().tolist(),
    }
    row: Row = {"pairs": len(images) * len(real.opened)}
    if networks.lpips is not None:
        vectors = networks.lpips.of_images(images)
        to_real = distances(vectors, real.lpips(images[0].width))
        columns["lpips_real"] = to_real.mean(dim=1).tolist()
        if len(images) > 1:
            row["lpips_diversity"] = round(_off_diagonal_mean(distances(vectors, vectors)), DIGITS)
    each = [
        {"image": name, **{column: round(v[n], DIGITS) for column, v in columns.items()}}
        for n, name in enumerate(ids)
    ]
    means = {name: round(sum(v) / len(v), DIGITS) for name, v in columns.items()}
    return row | means | {"each": each}


def _open(folder: Path, name: str) -> Image.Image:
    return open_image(image_of(folder, name), remedy=REMEDY_FOR_GENERATED)


def _off_diagonal_mean(square: Tensor) -> float:
    n = len(square)
    return float((square.sum() - square.diagonal().sum()) / (n * (n - 1)))
