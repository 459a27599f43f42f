"""How far generated images are from good ones, whatever they were asked to show.

5-scores/quality/<model>/scores.jsonl    each prompt's part in the kernel distance
5-scores/quality/<model>/distance.json   the Fréchet distance

Both distances (`scores.distances`) compare generated images with images that count as good.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from selma.backbones.perception.features import see_all
from selma.errors import DataError
from selma.image_files import REMEDY_FOR_GENERATED, open_image
from selma.image_places import image_of
from selma.record_files import read_record
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.rows import Distance
from selma.row_files import write_rows
from selma.scores.distances import frechet_distance, kernel_parts
from selma.workspace import (
    SCORES,
    Item,
    Workspace,
    file_sha256,
    manifest,
    recipe_key,
    write_json,
)

if TYPE_CHECKING:
    from torch import Tensor

FILE, DISTANCE = "scores.jsonl", "distance.json"
DIGITS = 6


class Encoder(Protocol):
    """Images → [n, width] float32."""

    @property
    def fingerprint(self) -> str: ...

    def see(self, images: Sequence[Image.Image]) -> Tensor: ...


def quality_items(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    images: dict[str, Path],
    good: Sequence[Path],
    encoder: Encoder,
    folder: Workspace,
) -> dict[str, Item]:
    """Model → the finished item with its distances from the good images. Raises DataError for an
    image that is missing or broken, and where there are fewer than two of either."""
    if min(len(benchmark_prompts), len(good)) < 2:
        raise DataError(
            f"Distances need at least 2 images of each kind, but {len(benchmark_prompts)} "
            "are generated and "
            f"{len(good)} are good. Set sur.scores.quality to null to do without."
        )
    digests = [file_sha256(path) for path in good]
    items = {
        model: folder.item(
            SCORES,
            "quality",
            model,
            recipe={
                "images": manifest(generated).get("key"),
                "benchmark": [prompt.id for prompt in benchmark_prompts],
                "good": recipe_key({"images": digests}),
                "network": encoder.fingerprint,
            },
        )
        for model, generated in images.items()
    }
    seen: Tensor | None = None
    for model, item in items.items():
        if not item.done:
            started = time.monotonic()
            seen = _see(encoder, good, "good images") if seen is None else seen
            paths = [image_of(images[model], prompt.id) for prompt in benchmark_prompts]
            _make(item, benchmark_prompts, _see(encoder, paths, model), seen)
            seconds = round(time.monotonic() - started, 3)
            folder.journal(SCORES, what=f"quality: {model}", seconds=seconds)
    return items


def read_distance(item: Item) -> float:
    return read_record(item.path / DISTANCE, Distance)["frechet"]


def _make(
    item: Item, benchmark_prompts: Sequence[BenchmarkPrompt], generated: Tensor, good: Tensor
) -> None:
    path = item.begin() / FILE
    parts = kernel_parts(generated, good).tolist()
    rows = [
        # A thousandth is what such distances are counted in.
        {"prompt": prompt.id, "score": round(1000 * part, DIGITS)}
        for prompt, part in zip(benchmark_prompts, parts, strict=True)
    ]
    write_rows(path, rows)
    write_json(item.path / DISTANCE, {"frechet": round(frechet_distance(generated, good), DIGITS)})
    item.finish(
        [path, item.path / DISTANCE], {"prompts": len(benchmark_prompts), "good": len(good)}
    )


def _see(encoder: Encoder, paths: Sequence[Path], what: str) -> Tensor:
    images = (open_image(path, remedy=REMEDY_FOR_GENERATED) for path in paths)
    return see_all(encoder.see, images, total=len(paths), what=what)
