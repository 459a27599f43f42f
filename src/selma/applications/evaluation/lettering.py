"""Whether images have the texts that their prompts ask for, by OneIG-Bench (arXiv:2506.07977).

ED: letters to be put in, taken out or exchanged between what is read and what was asked, a mean
over images. CR: images in which nothing is to be changed. WAC: words asked for that are there, of
all of them. Text score: 1 - min(M, ED) (1 - CR) (1 - WAC) / M, with M = 100, or 50 of Chinese.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rapidfuzz.distance import Levenshtein

from selma.applications.evaluation.answer_cache import AnswerCache
from selma.applications.evaluation.images import ask, images_of
from selma.backbones.perception.lettering import RapidReader, TextReader
from selma.errors import DataError
from selma.ids import listed
from selma.paths import AnyPath, as_path
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.scores import statistics
from selma.scores.benchmarks import read_benchmark
from selma.scores.benchmarks.layouts import columns
from selma.textfiles import csv_rows

MOST_EDITS, MOST_EDITS_CHINESE = 100, 50
ONEIG = ("id", "text_content")
"""Columns of OneIG's text_content.csv."""
_QUOTED = re.compile(
    r'"([^"]+)"|\u201c([^\u201d]+)\u201d|\u00ab([^\u00bb]+)\u00bb|\u300c([^\u300d]+)\u300d'
)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_QUESTION = Question(id="text", text="What is written?", category="text")


class Lettering(NamedTuple):
    """What one image has of the text that it was to have."""

    edits: int
    whole: bool
    found: int
    """Words asked for that are there; of Chinese, characters."""
    words: int
    letters: int
    """Of the text asked for."""


def asked_text(prompt: str) -> str | None:
    """What stands in quotation marks (straight, curly, angled or Chinese) in a prompt, joined by
    blanks; None if nothing does."""
    parts = [next(filter(None, found.groups())) for found in _QUOTED.finditer(prompt)]
    return " ".join(parts) or None


def bare(text: str) -> str:
    """Letters, digits and single blanks alone; of Chinese no blanks either."""
    kept = "".join(letter for letter in text if letter.isalnum() or letter.isspace())
    return "".join(kept.split()) if _CHINESE.search(kept) else " ".join(kept.split())


def compared(asked: str, read: str) -> Lettering:
    """What was read in an image held against what was asked for. Case counts."""
    asked, read = bare(asked), bare(read)
    split = list if _CHINESE.search(asked) else str.split
    words, there = Counter(split(asked)), Counter(split(read))
    edits = Levenshtein.distance(asked, read)
    return Lettering(edits, edits == 0, (words & there).total(), words.total(), len(asked))


def measures(rows: NDArray[np.float64], *, most: int) -> dict[str, NDArray[np.float64]]:
    """Measure → its value from sums [r, 7]: images, edits, whole ones, words found, words,
    letters, and letters that need no change."""
    images, edits, whole, found, words, letters, right = rows.T
    distance, complete, accuracy = edits / images, whole / images, found / words
    return {
        "text_score": 100
        * (1 - np.minimum(most, distance) * (1 - complete) * (1 - accuracy) / most),
        "edits": distance,
        "whole": 100 * complete,
        "words": 100 * accuracy,
        "letters": 100 * right / letters,
    }


def score_text(
    images: AnyPath,
    texts: AnyPath,
    *,
    answers: AnyPath | None = None,
    reader: TextReader | None = None,
    seed: int = 0,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Read a folder of images and compare it with what its prompts ask for.

    texts: prompts with the text in quotation marks, in any layout of `selma questions`, or OneIG's
    CSV of id and text_content. Images are named by their prompt's id; what is read is kept in
    `answers`, by default <images>-answers. Returns the measures, each with its interval over
    prompts; those that ask for no text count in none, and are listed. Raises DataError, ModelError.
    """
    images, texts = as_path(images), as_path(texts)
    wanted, without = _wanted(texts)
    prompts = [
        BenchmarkPrompt(id=id, text=text, group="text", questions=(_QUESTION,))
        for id, text in wanted.items()
    ]
    files, strangers = images_of(images, prompts)
    strangers = [id for id in strangers if id not in without]
    missing = [id for id in wanted if id not in files]
    if missing:
        raise DataError(
            f"{images} must hold an image of every prompt that asks for a text, but {len(missing)} "
            f"of {len(prompts)} are missing, {missing[0]}.png first. "
            + (
                f"It has images of no such prompt: {listed(strangers, missing)}. "
                if strangers
                else ""
            )
            + "Generate them."
        )
    network = _Asked(reader or RapidReader())
    place = as_path(answers) if answers else images.with_name(f"{images.resolve().name}-answers")
    given = {a.prompt_id: a.text for a in ask(AnswerCache(place, network), prompts, files)}
    found = {id: compared(text, given[id]) for id, text in wanted.items()}
    return {
        "reader": network.name,
        "reader_fingerprint": network.fingerprint,
        "prompts": len(prompts),
        "prompts_without_text": without,
        "images_of_no_prompt": strangers,
        "per_prompt": {
            id: {"asked": wanted[id], "read": given[id], **row._asdict()}
            for id, row in found.items()
        },
        **_scores(wanted, found, seed=seed, resamples=resamples),
    }


def _scores(
    wanted: Mapping[str, str], found: Mapping[str, Lettering], *, seed: int, resamples: int
) -> dict[str, Any]:
    chinese = sum(bool(_CHINESE.search(text)) for text in wanted.values())
    most = MOST_EDITS_CHINESE if 2 * chinese > len(wanted) else MOST_EDITS
    sums = np.array(
        [
            [1, f.edits, f.whole, f.found, f.words, f.letters, max(0, f.letters - f.edits)]
            for f in found.values()
        ],
        np.float64,
    )
    names = list(measures(sums.sum(axis=0)[None], most=most))
    return {"most_edits": most} | {
        name: statistics.interval_of(
            sums,
            lambda rows, name=name: measures(rows, most=most)[name],  # type: ignore[misc]
            seed=seed,
            resamples=resamples,
        ).model_dump()
        for name in names
    }


def _wanted(path: Path) -> tuple[dict[str, str], list[str]]:
    """(prompt id → the text that its image is to have, ids of prompts that ask for none). Raises
    DataError."""
    if set(ONEIG) <= set(columns(path)):
        asked: dict[str, str | None] = {}
        for line, row in csv_rows(path, ONEIG):
            if (id := row["id"].strip()) in asked:
                raise DataError(
                    f"{path}, line {line}: {id!r} came before. One prompt has one text."
                )
            asked[id] = row["text_content"]
    else:
        asked = {prompt.id: asked_text(prompt.text) for prompt in read_benchmark(path)}
    wanted = {id: text for id, text in asked.items() if text is not None and bare(text)}
    if not wanted:
        raise DataError(
            f"{path} must have prompts with a text to be written, in quotation marks, but has none."
        )
    return wanted, [id for id in asked if id not in wanted]


class _Asked:
    """A reader behind the interface of `Judge`, for the cache of answers."""

    def __init__(self, reader: TextReader) -> None:
        self.reader, self.name, self.fingerprint = reader, reader.name, reader.fingerprint

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        return [
            [(self.reader.read(image), None)] * len(texts)
            for image, texts in zip(images, questions, strict=True)
        ]
