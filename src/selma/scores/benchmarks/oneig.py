"""OneIG-Bench (arXiv:2506.07977): its alignment part, questions with dependencies as DSG's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.errors import DataError
from selma.plurals import counted, word
from selma.progress import warn
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.scores import MeasureInfo
from selma.scores.benchmarks.layouts import Benchmark, RemoteFile, Rules, unsafe_id
from selma.scores.measures import Measure
from selma.textfiles import csv_rows, parsed_json, read_text
from selma.texts import quoted

PROMPTS, QUESTIONS = "OneIG-Bench.csv", "scripts/alignment/Q_D"
CLASSES = {"anime": "Anime_Stylization", "human": "Portrait", "object": "General_Object"}
"""Class of questions → its prompts' category."""

_AT = (
    "https://raw.githubusercontent.com/OneIG-Bench/OneIG-Benchmark/"
    "41b49831e79e6dde5323618c164da1c4cf0f699d"
)
_SUMS = {
    PROMPTS: "e06c65b32252d82406fb1a27f13022b38d432c899a2486eb49ab0c100f83b3e1",
    f"{QUESTIONS}/anime.json": "21ea3d0360e69d72bc5f4cbb93b203d293d16f5c2f626634a52b990119e0a6e3",
    f"{QUESTIONS}/human.json": "0e92b25c6bc4091cac05fa0f4269b3b37465a7cd43ca2768f55f56149cdbf13b",
    f"{QUESTIONS}/object.json": "350dfdf72c2da143c78a7544d4c554faf6698c1ba4fcd27c7a9cc9199d487e0e",
}


def read_oneig(path: Path) -> list[BenchmarkPrompt]:
    """Read a folder as OneIG-Bench's repository has it: the prompts of the three classes.

    Prompts are named <class>_<id>, as in its results; their groups and questions' categories are
    the classes. Raises DataError.
    """
    texts = _texts(path / PROMPTS)
    prompts = []
    for name, category in CLASSES.items():
        file = path / QUESTIONS / f"{name}.json"
        rows = _object(file, read_text(file), "it")
        if not rows:
            raise DataError(f"{file} must have the prompts of a class, but has none.")
        unasked = [id for kind, id in texts if kind == category and id not in rows]
        if unasked:
            warn(
                f"{path / PROMPTS}: {counted(len(unasked), 'prompt')} of {category} "
                f"{word(len(unasked), 'has', 'have')} no questions in {file.name} and "
                f"{word(len(unasked), 'is', 'are')} left out, {unasked[0]} first."
            )
        for id, row in rows.items():
            where = f"{file}, {id}"
            text = texts.get((category, id))
            if not text:
                raise DataError(
                    f"{where}: {PROMPTS} must have its prompt in {category}, but has none."
                )
            if unsafe := unsafe_id(id):
                raise DataError(f"{where}: its id {unsafe}.")
            prompts.append(
                BenchmarkPrompt(
                    id=f"{name}_{id}",
                    text=text,
                    group=name,
                    questions=_questions(where, row, name),
                )
            )
    return prompts


def _texts(path: Path) -> dict[tuple[str, str], str]:
    """(category, id) → prompt. Raises DataError for two rows of one prompt."""
    texts: dict[tuple[str, str], str] = {}
    for line, cells in csv_rows(path, ("category", "id", "prompt_en")):
        key = cells["category"].strip(), cells["id"].strip()
        if key in texts:
            raise DataError(
                f"{path}, line {line}: {key[1]} of {key[0]} came before. Keep one of its rows."
            )
        texts[key] = cells["prompt_en"].strip()
    return texts


def _questions(where: str, row: Any, category: str) -> tuple[Question, ...]:
    """The questions of one prompt; each part may be JSON within JSON, as it is published."""
    parts = [row.get(key) if isinstance(row, dict) else None for key in ("question", "dependency")]
    texts, parents = (_object(where, p, "question and dependency") for p in parts)
    if texts.keys() != parents.keys():
        alone = sorted(texts.keys() ^ parents.keys())
        raise DataError(
            f"{where}: each question must have its dependencies, but not both are there of "
            f"{', '.join(alone[:5])}."
        )
    if not texts:
        raise DataError(f"{where}: it must have questions, but has none.")
    for id, text in texts.items():
        if not isinstance(text, str) or not text.strip() or not isinstance(parents[id], list):
            raise DataError(f"{where}: question {id} must be a text with a list of dependencies.")
    return tuple(
        Question(
            id=id,
            text=text.strip(),
            category=category,
            parents=tuple(str(parent) for parent in parents[id] if str(parent) != "0"),
        )
        for id, text in texts.items()
    )


def _object(where: object, value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = parsed_json(value)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: {what} must be JSON, but cannot be read: {error}."
            ) from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: {what} must be a JSON object, but is {quoted(value)}.")
    return value


def _measure(label: str) -> Measure:
    return Measure(
        MeasureInfo(
            label=label,
            meaning="the share of yes/no questions about an image that are answered as a faithful "
            "one makes them, averaged over prompts",
            earns="a plain yes",
        )
    )


ONEIG = Benchmark(
    name="oneig",
    layout="a folder as OneIG-Bench's repository has it",
    measure=_measure("OneIG alignment"),
    released=Rules(
        _measure("OneIG alignment, released"),
        zeroing="one_level",
        reading="capitalised",
        about='Only the exact text "Yes" counts, and a no takes the points of its direct children '
        "alone. Its program also leaves out images that are black, which count here.",
    ),
    recognises=lambda path: (path / QUESTIONS).is_dir(),
    read=read_oneig,
    files=tuple(
        RemoteFile(name, f"{_AT}/{name}", sha256=sha256, max_bytes=4_000_000)
        for name, sha256 in _SUMS.items()
    ),
    source="arXiv:2506.07977; github.com/OneIG-Bench/OneIG-Benchmark",
    licence="not stated by its authors",
    known="Its program leaves out images that are black, and asks Qwen2.5-VL-7B.",
)
