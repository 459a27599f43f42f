"""HPS's benchmark (arXiv:2306.09341): pictures in four styles, 800 prompts each, one mean over all.

    DIR/{anime,concept-art,paintings,photo}/{index:05d}.jpg     the picture of prompt `index`
    PROMPTS/{anime,concept-art,paintings,photo}.json            a list of texts

The published program takes another prompt's picture where one is missing; here what is missing is
left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.backbones.preference import PreferenceScorer
from selma.errors import ConfigError, DataError
from selma.pictures import open_picture
from selma.progress import progress
from selma.records import Interval
from selma.scores import statistics

STYLES = ("anime", "concept-art", "paintings", "photo")
PROMPTS_EACH = 800
SUFFIXES = (".jpg", ".png")
MAX_PIXELS = 4096 * 4096
CHUNK = 32


def version_kind(version: str) -> str:
    """ "2.0" or "2.1" (a v before it does no harm) → the scorer's kind. Raises ConfigError."""
    kinds = {"2": "hps_v2", "2.0": "hps_v2", "2.1": "hps_v2.1"}
    if version.removeprefix("v") not in kinds:
        raise ConfigError(f"HPS's version must be 2.0 or 2.1, but {version!r} came.")
    return kinds[version.removeprefix("v")]


def read_hps_prompts(folder: Path) -> dict[str, list[str]]:
    """Style → its prompts, in the order that pictures are numbered by. Raises DataError."""
    found = {}
    for style in STYLES:
        path = folder / f"{style}.json"
        try:
            texts = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} must be a JSON list of prompts: {error}.") from error
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise DataError(f"{path} must be a list of texts and not empty.")
        found[style] = texts
    return found


def score_hps(
    pictures: Path,
    prompts: Mapping[str, Sequence[str]],
    scorer: PreferenceScorer,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """The result, ready for JSON: `score` is the mean over all pictures that are there, each style
    has its own, and `missing` counts those that are not.

    Raises DataError for a broken picture, or where there is none at all.
    """
    there = {style: dict(_pictures(pictures / style, len(texts))) for style, texts in
             prompts.items()}  # fmt: skip
    total = sum(map(len, there.values()))
    if not total:
        raise DataError(
            f"{pictures} must hold pictures as {STYLES[0]}/00000.jpg, in folders named "
            f"{', '.join(STYLES)}, but has none."
        )
    scores: dict[str, dict[int, float]] = {}
    with progress(scorer.name, total=total) as advance:
        for style, paths in there.items():
            scores[style] = {}
            numbers = sorted(paths)
            for start in range(0, len(numbers), CHUNK):
                part = numbers[start : start + CHUNK]
                opened = [open_picture(paths[i], max_pixels=MAX_PIXELS) for i in part]
                found = scorer.score(opened, [prompts[style][i] for i in part])
                scores[style] |= dict(zip(part, found, strict=True))
                advance(len(part))
    every = [score for of_style in scores.values() for score in of_style.values()]
    whole = statistics.interval(every, seed=seed, resamples=resamples)
    return {
        "score": whole.mean,
        "interval": [whole.low, whole.high],
        "pictures": total,
        "missing": sum(map(len, prompts.values())) - total,
        "styles": {
            style: {
                **_ends(of_style, seed=seed, resamples=resamples),
                "pictures": len(of_style),
                "missing": len(prompts[style]) - len(of_style),
            }
            for style, of_style in scores.items()
        },
        "complete": all(len(s) == PROMPTS_EACH == len(prompts[n]) for n, s in scores.items()),
        "scorer": {
            "name": scorer.name,
            "scale": scorer.scale,
            "preprocessing": scorer.preprocessing,
            "weights": scorer.weights,
            "fingerprint": scorer.fingerprint,
        },
        "per_picture": {
            style: {f"{i:05d}": score for i, score in of_style.items()}
            for style, of_style in scores.items()
        },
    }


def _pictures(folder: Path, count: int) -> Iterator[tuple[int, Path]]:
    """(index, file) of the pictures that are there. Raises DataError for one that is there twice,
    or that no prompt belongs to."""
    known = {f"{i:05d}": i for i in range(count)}
    seen: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in SUFFIXES:
            continue
        number = known.get(path.stem)
        if number is None:
            raise DataError(
                f"{path} belongs to no prompt: pictures are 00000 to {count - 1:05d}. Remove it."
            )
        if number in seen:
            raise DataError(f"{path} and {seen[number].name} are of one prompt. Remove one.")
        seen[number] = path
        yield number, path


def _ends(scores: Mapping[int, float], **bootstrap: int) -> dict[str, Any]:
    if not scores:
        return {"score": None, "interval": None}
    found: Interval = statistics.interval(list(scores.values()), **bootstrap)
    return {"score": found.mean, "interval": [found.low, found.high]}
