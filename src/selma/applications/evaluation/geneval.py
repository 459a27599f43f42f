"""GenEval's result files (arXiv:2310.11513), read: its detector is not run here.

Each line is an image: its prompt's tag, the prompt, and whether the detector found what it asks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from selma.errors import DataError
from selma.paths import AnyPath, as_path
from selma.plurals import counted
from selma.scores import statistics
from selma.textfiles import json_rows
from selma.texts import quoted

_DIGITS = 4
TAGS = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}
"""GenEval's tags → how many prompts it has of each."""


def score_geneval(path: AnyPath, *, seed: int = 0, resamples: int = 10_000) -> dict[str, Any]:
    """The scores of GenEval's results, 0-100, ready for JSON.

    `score` is the mean of the tags' shares of right images, as in its own summary, with its
    interval over prompts; `right_images` and `right_prompts` (with any right image) are its other
    figures. `missing_tags`, `prompts_too_few` and `other_tags` say in what the file is not all of
    GenEval. Raises DataError for a row that is not an image's, and an image with two rows.
    """
    path = as_path(path)
    if not path.exists():
        raise DataError(f"{path} must hold results, a line for each image, but is missing.")
    rows = json_rows(path)
    if not rows:
        raise DataError(f"{path} must hold results, a line for each image, but has none.")
    for number, row in enumerate(rows, 1):
        if not (isinstance(row.get("tag"), str) and isinstance(row.get("correct"), bool)):
            raise DataError(
                f"{path}, result {number}: tag must be a text and correct true or false, but they "
                f"are {quoted(row.get('tag'))}, {quoted(row.get('correct'))}."
            )
    files = Counter(row["filename"] for row in rows if isinstance(row.get("filename"), str))
    if twice := [name for name, count in files.items() if count > 1]:
        raise DataError(
            f"{path} must have one result for each image, but "
            f"{counted(len(twice), 'image has', 'images have')} several, {quoted(twice[0])} first. "
            "Remove those that are not wanted."
        )
    images = Counter(row["tag"] for row in rows)
    bootstrap = {"seed": seed, "resamples": resamples}
    overall = statistics.interval(*_terms(rows, images), **bootstrap)
    by_tag = {
        tag: statistics.interval(*_terms([r for r in rows if r["tag"] == tag], images), **bootstrap)
        for tag in images
    }
    prompts = _by_prompt(rows)
    prompts_by_tag = Counter(tag for tag, _ in prompts)
    return {
        "measure": "GenEval",
        "score": round(overall.mean, _DIGITS),
        "interval": [round(overall.low, _DIGITS), round(overall.high, _DIGITS)],
        "standard_error": overall.standard_error and round(overall.standard_error, _DIGITS),
        "groups": {tag: round(of_tag.mean, _DIGITS) for tag, of_tag in by_tag.items()},
        "group_intervals": {
            tag: [round(of_tag.low, _DIGITS), round(of_tag.high, _DIGITS)]
            for tag, of_tag in by_tag.items()
        },
        "group_standard_errors": {
            tag: round(of_tag.standard_error, _DIGITS)
            for tag, of_tag in by_tag.items()
            if of_tag.standard_error is not None
        },
        "right_images": round(100 * sum(row["correct"] for row in rows) / len(rows), _DIGITS),
        "right_prompts": round(
            100 * sum(any(r["correct"] for r in of) for of in prompts.values()) / len(prompts),
            _DIGITS,
        ),
        "images": len(rows),
        "prompts": len(prompts),
        "images_by_tag": dict(images),
        "prompts_by_tag": dict(prompts_by_tag),
        "missing_tags": [tag for tag in TAGS if tag not in images],
        "other_tags": [tag for tag in images if tag not in TAGS],
        "prompts_too_few": {
            tag: [prompts_by_tag[tag], wanted]
            for tag, wanted in TAGS.items()
            if 0 < prompts_by_tag[tag] < wanted
        },
    }


def _by_prompt(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Tag and metadata (or prompt, where a row has none) → the rows of its images."""
    prompts: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        prompts[row["tag"], str(row.get("metadata", row.get("prompt", "")))].append(row)
    return prompts


def _terms(
    rows: Sequence[Mapping[str, Any]], images: Mapping[str, int]
) -> tuple[list[float], list[float]]:
    """What each prompt adds and weighs, so that all tags weigh alike, and a tag's images."""
    totals, weights = [], []
    for (tag, _), of_prompt in _by_prompt(rows).items():
        totals.append(100 * sum(row["correct"] for row in of_prompt) / images[tag])
        weights.append(len(of_prompt) / images[tag])
    return totals, weights
