"""Subjects' images against the real ones and their prompts: DINO, CLIP-I, CLIP-T, LPIPS.

    5-scores/_subjects/<method>/<subject>/<step>/rows.jsonl    one line for each prompt, with each
                                                              image's own numbers

Every pair of images counts (`docs/subjects.md` says how the released evaluation differs).
"""

from __future__ import annotations

import hashlib
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
from selma.records.benchmarks import BenchmarkPrompt
from selma.row_files import Row, fill_rows
from selma.scores.answering import manifest
from selma.workspace import SCORES, Workspace, inside, read_lines

if TYPE_CHECKING:
    from torch import Tensor

NAME = "_subjects"
ROWS = "rows.jsonl"
DIGITS = 6


@dataclass(frozen=True)
class Networks:
    """What looks at the images. Loaded when first asked."""

    dino: ImageFeatures
    clip: TextFeatures
    lpips: Perception | None

    @property
    def fingerprints(self) -> list[str | None]:
        perception = None if self.lpips is None else self.lpips.fingerprint
        return [self.dino.fingerprint, self.clip.fingerprint, perception]

    @property
    def measures(self) -> tuple[SubjectMeasure, ...]:
        """Those that these networks give, in the table's order."""
        pairs = "over all pairs of a drawn and a real picture of the subject"
        found = [
            ("dino", self.dino.label, "higher", f"Cosine {pairs}.", self.dino.name),
            ("clip_i", self.clip.label, "higher", f"Cosine {pairs}.", self.clip.name),
            ("clip_t", "CLIP-T", "higher", "Cosine of a picture and its prompt.", self.clip.name),
        ]
        if self.lpips is not None:
            name = self.lpips.name
            found += [
                ("lpips_real", "LPIPS to real", "lower", f"Distance {pairs}, as released.", name),
                (
                    "lpips_diversity",
                    "LPIPS diversity",
                    "higher",
                    "Distance between pictures of one subject and prompt, as the paper says.",
                    name,
                ),
            ]
        return tuple(
            SubjectMeasure(key=k, label=label, better=b, meaning=m, network=n)  # type: ignore[arg-type]
            for k, label, b, m, n in found
        )


def load_networks(config: SubjectScores) -> Networks:
    """The networks of the settings. Raises ModelError."""
    return Networks(
        dino=load_dino(config.dino),
        clip=load_clip(config.clip),
        lpips=None if config.lpips is None else load_perception(config.lpips),
    )


class RealImages:
    """One subject's own images as the networks see them, each looked at once."""

    def __init__(self, subject: Subject, networks: Networks) -> None:
        self.subject = subject
        self.networks = networks
        self._by_size: dict[int, Tensor] = {}

    @property
    def digests(self) -> list[str]:
        paths = self.subject.images
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]

    @cached_property
    def opened(self) -> list[Image.Image]:
        return [open_image(path) for path in self.subject.images]

    @cached_property
    def dino(self) -> Tensor:
        return self.networks.dino.of_images(self.opened)

    @cached_property
    def clip(self) -> Tensor:
        return self.networks.clip.of_images(self.opened)

    def lpips(self, px: int) -> Tensor:
        """In the size of the generated ones, the middle square as in training."""
        assert self.networks.lpips is not None
        if px not in self._by_size:
            fitted = [ImageOps.fit(one, (px, px), Image.Resampling.BICUBIC) for one in self.opened]
            self._by_size[px] = self.networks.lpips.of_images(fitted)
        return self._by_size[px]

    def among_themselves(self, px: int) -> dict[str, float]:
        """Measure → mean over pairs of different images; {} of a single one."""
        if len(self.opened) < 2:
            return {}
        found = {"dino": _off(self.dino @ self.dino.mT), "clip_i": _off(self.clip @ self.clip.mT)}
        if self.networks.lpips is not None:
            rows = self.lpips(px)
            found["lpips_real"] = _off(distances(rows, rows))
        return {name: round(value, DIGITS) for name, value in found.items()}


def score_generated(
    real: RealImages,
    prompts: Sequence[BenchmarkPrompt],
    texts: Mapping[str, str],
    generated: Path,
    folder: Workspace,
    *,
    name: Sequence[str],
) -> list[Row]:
    """One row for each prompt of a subject, from the item if it is there.

    generated: a finished folder with <id>.png for each of `prompts`.  texts: number of a prompt →
    what CLIP-T reads.  name: of the item, as in ("oft", "cat_hat", "1000"). Raises DataError for a
    image that is missing or broken.
    """
    key = manifest(generated).get("key")
    if key is None:
        raise DataError(
            f"{generated} must be a finished folder of pictures. Run `selma subjects generate`."
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

    def looked_at(part: Sequence[tuple[str, list[str]]]) -> list[Row]:
        return [
            {"text": text} | measured([_open(generated, i) for i in ids], ids, text, real)
            for text, ids in part
        ]

    jobs = {number: (texts[number], ids) for number, ids in groups.items()}
    title = f"looking at {' '.join(name)}"
    fill_rows(path, jobs, looked_at, key="prompt", title=title, chunk=1)
    item.finish([path], {"prompts": len(groups)})
    seconds = round(time.monotonic() - started, 3)
    folder.journal(SCORES, what="subject", item="/".join(name), seconds=seconds)
    return read_lines(path)


def measured(images: Sequence[Image.Image], ids: Sequence[str], text: str, real: RealImages) -> Row:
    """The numbers of one prompt's images: their means, and each image's own."""
    networks = real.networks
    seen = networks.clip.of_images(images)
    columns = {
        "dino": (networks.dino.of_images(images) @ real.dino.mT).mean(dim=1).tolist(),
        "clip_i": (seen @ real.clip.mT).mean(dim=1).tolist(),
        "clip_t": (seen @ networks.clip.of_texts([text]).mT).flatten().tolist(),
    }
    row: Row = {"pairs": len(images) * len(real.opened)}
    if networks.lpips is not None:
        vectors = networks.lpips.of_images(images)
        to_real = distances(vectors, real.lpips(images[0].width))
        columns["lpips_real"] = to_real.mean(dim=1).tolist()
        if len(images) > 1:
            row["lpips_diversity"] = round(_off(distances(vectors, vectors)), DIGITS)
    each = [
        {"image": name, **{column: round(v[n], DIGITS) for column, v in columns.items()}}
        for n, name in enumerate(ids)
    ]
    means = {name: round(sum(v) / len(v), DIGITS) for name, v in columns.items()}
    return row | means | {"each": each}


def _open(folder: Path, name: str) -> Image.Image:
    return open_image(inside(folder, f"{name}.png"), remedy=REMEDY_FOR_GENERATED)


def _off(square: Tensor) -> float:
    """The mean of what lies beside the diagonal."""
    n = len(square)
    return float((square.sum() - square.diagonal().sum()) / (n * (n - 1)))
