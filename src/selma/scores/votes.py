"""People's votes on images, in the files of those who gathered them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from selma.errors import DataError
from selma.paths import AnyPath, as_path
from selma.scores.benchmarks import genai
from selma.scores.benchmarks.layouts import columns, in_folder
from selma.textfiles import csv_rows

ImageKey = tuple[str, str]
"""Model and prompt id, which name one image."""
RATING = ("t2i_model", "item_id", "answer")
SCORE = ("t2i_model", "item_id", "score")
"""Columns of a file of ratings, as DSG's authors released TIFA160's, and of one of scores."""


@dataclass(frozen=True)
class Votes:
    """What people say of images."""

    ratings: Mapping[ImageKey, float]
    """The mean of each image's votes."""
    has_prompts: bool
    """Whether the file holds the prompts, too, as a benchmark."""
    other_ids: Mapping[str, str] = field(default_factory=dict)
    """Prompt id → its id in TIFA's files, where the file tells it."""


def read_votes(path: AnyPath) -> Votes:
    """GenAI-Bench's genai_image.json (or the folder with it), or a CSV of ratings with t2i_model,
    item_id and answer, one row for each annotator, such as TIFA160's. Raises DataError."""
    path = as_path(path)
    if {*RATING} <= {*columns(path)}:
        other = _other_ids(path) if "source_id" in columns(path) else {}
        return Votes(read_ratings(path), has_prompts=False, other_ids=other)
    if in_folder(path, genai.FILE).suffix != ".json":
        raise DataError(
            f"{path} must be GenAI-Bench's {genai.FILE}, or a CSV of ratings with the columns "
            f"{', '.join(RATING)}. It is neither."
        )
    ratings = {
        (model, id): sum(votes) / len(votes)
        for model, of_model in genai.read_votes(path).items()
        for id, votes in of_model.items()
    }
    if not ratings:
        raise DataError(f"{path} must hold people's votes on images, but has prompts alone.")
    return Votes(ratings, has_prompts=True)


def read_ratings(path: Path) -> dict[ImageKey, float]:
    """Each image's mean rating, from a CSV with t2i_model, item_id and answer (a number), one row
    for each annotator. Raises DataError."""
    ratings: dict[ImageKey, list[float]] = defaultdict(list)
    for line, row in csv_rows(path, RATING):
        ratings[image_key(row)].append(_number(row["answer"], path, line, "rating", row))
    return {image: sum(of_image) / len(of_image) for image, of_image in ratings.items()}


def read_scores(path: AnyPath) -> dict[ImageKey, float]:
    """Each image's score, from a CSV with t2i_model, item_id and score. Raises DataError, also for
    an image with two."""
    path = as_path(path)
    scores: dict[ImageKey, float] = {}
    for line, row in csv_rows(path, SCORE):
        image = image_key(row)
        if image in scores:
            raise DataError(f"{path}, line {line}: {' '.join(image)} has two scores. Each has one.")
        scores[image] = _number(row["score"], path, line, "score", row)
    return scores


def image_key(row: Mapping[str, str]) -> ImageKey:
    """What joins a row to an image; blanks around it do not count."""
    return row["t2i_model"].strip(), row["item_id"].strip()


def _number(text: str, path: Path, line: int, what: str, row: Mapping[str, str]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    raise DataError(
        f"{path}, line {line}: a {what} must be a number, but {row['item_id']} has {text!r}."
    )


def _other_ids(path: Path) -> dict[str, str]:
    return {
        row["item_id"].strip(): row["source_id"].strip()
        for _, row in csv_rows(path, ("item_id", "source_id"))
    }
