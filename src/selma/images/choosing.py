"""Of several images of each prompt, the ones that a scorer finds nearest to it (DreamSync's way,
arXiv:2311.17946, with any scorer; nobody's label is needed)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selma.backbones.judges.judge import Scorer
from selma.image_files import open_image
from selma.progress import progress

AT_ONCE = 64
"""Images that are in memory together."""


def scored(
    generated: Sequence[tuple[Path, str]], scorer: Scorer, *, max_pixels: int
) -> list[float]:
    """The score of each image for its text. Raises DataError for an image that is missing or
    broken."""
    scores: list[float] = []
    with progress(f"choosing by {scorer.name}", total=len(generated)) as advance:
        for start in range(0, len(generated), AT_ONCE):
            batch = generated[start : start + AT_ONCE]
            images = [open_image(path, max_pixels=max_pixels) for path, _ in batch]
            scores += scorer.score(images, [text for _, text in batch])
            advance(len(batch))
    return scores


def best(scores: Sequence[float], *, keep: int) -> list[int]:
    """Places of the `keep` highest scores, best first; of equal ones, the first."""
    return sorted(range(len(scores)), key=lambda position: -scores[position])[:keep]
