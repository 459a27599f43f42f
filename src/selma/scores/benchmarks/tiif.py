"""TIIF-Bench (arXiv:2506.02161): short and long prompts, with questions that expect yes and no."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from selma.errors import DataError
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.scores import MeasureInfo
from selma.scores.benchmarks.layouts import Benchmark, RemoteFile, Rules
from selma.scores.measures import Measure
from selma.textfiles import json_rows
from selma.texts import printable, quoted

DIMENSIONS = {
    "basic: attribute": ("shape+color", "color+texture", "texture+color", "shape+texture"),
    "basic: relation": ("2d_spatial_relation", "3d_spatial_relation", "action+2d", "action+3d"),
    "basic: reasoning": ("numeracy", "negation", "differentiation", "comparison"),
    "advanced: attribute + relation": (
        *("action+color", "action+texture", "color+2d", "color+3d"),
        *("shape+2d", "shape+3d", "texture+2d", "texture+3d"),
    ),
    "advanced: attribute + reasoning": (
        *("numeracy+color", "numeracy+texture", "comparison+color", "comparison+texture"),
        *("differentiation+color", "differentiation+texture", "negation+color", "negation+texture"),
    ),
    "advanced: relation + reasoning": (
        *("numeracy+2d", "numeracy+3d", "comparison+2d", "comparison+3d"),
        *("differentiation+2d", "differentiation+3d", "negation+2d", "negation+3d"),
    ),
    "advanced: text": ("text",),
    "advanced: style": ("style",),
    "real world": ("real_world",),
}
"""Each of the nine parts of its score → the types of prompts in it."""
_PART = {type: part for part, types in DIMENSIONS.items() for type in types}
_FOLDERS = (("test_prompts", "test_eval_prompts"), ("testmini_prompts", "testmini_eval_prompts"))
_LENGTHS = ("short", "long")
_AT = (
    "https://raw.githubusercontent.com/A113N-W3I/TIIF-Bench/"
    "3aae7504d2546516eaec2fea82fde9ae445dfea3/data"
)


def read_tiif(path: Path) -> list[BenchmarkPrompt]:
    """Read the folder `data` of TIIF-Bench: all prompts, or where only those are there, testmini's.

    Line n of a type's prompts has its questions in line n of that type's questions. Each line is a
    prompt of each length: <type>_<n>_short and <type>_<n>_long, with + written as -, of the groups
    short and long. A question's category is one of the nine parts of the score, its detail the
    type. Raises DataError.
    """
    texts, asked = next(
        ((path / t, path / q) for t, q in _FOLDERS if (path / t).is_dir()), (path, path)
    )
    types = sorted(
        file.name.removesuffix("_prompts.jsonl") for file in texts.glob("*_prompts.jsonl")
    )
    if not types:
        raise DataError(f"{texts} must hold files named <type>_prompts.jsonl, but has none.")
    return [prompt for type in types for prompt in _of_type(texts, asked, type)]


def _of_type(texts: Path, asked: Path, type: str) -> list[BenchmarkPrompt]:
    prompts = json_rows(texts / f"{type}_prompts.jsonl")
    questions = json_rows(asked / f"{type}_eval_prompts.jsonl")
    if len(prompts) != len(questions):
        raise DataError(
            f"{asked}: {type}_eval_prompts.jsonl must have questions for each of {len(prompts)} "
            f"prompts, but has {len(questions)}."
        )
    result = []
    for number, (row, about) in enumerate(zip(prompts, questions, strict=True)):
        for length in _LENGTHS:
            text = row.get(f"{length}_description")
            if not isinstance(text, str) or not printable(text).strip():
                raise DataError(
                    f"{texts}: {type}, line {number + 1}: {length}_description must be a text, but "
                    f"is {quoted(text)}."
                )
            result.append(
                BenchmarkPrompt(
                    id=f"{type.replace('+', '-')}_{number}_{length}",
                    text=text.strip(),
                    group=length,
                    questions=_questions(asked, type, number, about),
                )
            )
    return result


def _questions(asked: Path, type: str, number: int, row: dict[str, Any]) -> tuple[Question, ...]:
    texts, answers = row.get("yn_question_list"), row.get("yn_answer_list")
    if not (
        isinstance(texts, list)
        and isinstance(answers, list)
        and len(texts) == len(answers) > 0
        and all(isinstance(text, str) and printable(text).strip() for text in texts)
        and all(isinstance(a, str) and a.strip().lower() in ("yes", "no") for a in answers)
    ):
        raise DataError(
            f"{asked}: {type}, line {number + 1}: each question must have the answer yes or no, "
            f"but {quoted(texts)} have {quoted(answers)}."
        )
    return tuple(
        Question(
            id=str(n),
            text=text.strip(),
            category=_PART.get(type, type),
            detail=type,
            answer=answer.strip().lower(),
        )
        for n, (text, answer) in enumerate(zip(texts, answers, strict=True), 1)
    )


def mean_of_types(prompts: Sequence[BenchmarkPrompt]) -> list[float]:
    """What prompts weigh so that the score is the mean of the parts, a part the mean of its types,
    and a type the mean of its questions."""
    questions: Counter[str] = Counter()
    types: dict[str, set[str]] = defaultdict(set)
    for prompt in prompts:
        first = prompt.questions[0]
        questions[first.detail] += len(prompt.questions)
        types[first.category].add(first.detail)
    return [
        len(prompt.questions) / (questions[first.detail] * len(types[first.category]) * len(types))
        for prompt in prompts
        for first in (prompt.questions[0],)
    ]


@cache
def _files() -> tuple[RemoteFile, ...]:
    """Its files; their sums are of the commit in the address."""
    listed = files("selma.scores.benchmarks") / "digests" / "files" / "tiif.txt"
    result = []
    for line in listed.read_text("ascii").splitlines():
        type, *sums = line.split()
        names = [f"test_prompts/{type}_prompts.jsonl"]
        names.append(f"test_eval_prompts/{type}_eval_prompts.jsonl")
        for name, sha256 in zip(names, sums, strict=True):
            result.append(
                RemoteFile(name, f"{_AT}/{quote(name)}", sha256=sha256, max_bytes=4_000_000)
            )
    return tuple(result)


_MEASURE = Measure(
    MeasureInfo(
        label="TIIF",
        meaning="the share of questions that are answered as a faithful image makes them, yes or "
        "no: the mean of nine parts, each the mean of its types of prompts",
        earns="the expected answer, yes or no,",
    ),
    weigh=mean_of_types,
)

TIIF = Benchmark(
    name="tiif",
    layout="the folder data of TIIF-Bench",
    measure=_MEASURE,
    released=Rules(
        replace(_MEASURE, about=_MEASURE.about.model_copy(update={"label": "TIIF, released"})),
        reading="leading",
        about="An answer counts by its first word, whatever follows. Its program also puts all "
        "questions about an image at once, in one of three wordings by chance.",
    ),
    detailed=True,
    recognises=lambda path: any((path / texts).is_dir() for texts, _ in _FOLDERS),
    read=read_tiif,
    files=_files(),
    source="arXiv:2506.02161; github.com/A113N-W3I/TIIF-Bench",
    licence="not stated by its authors",
    known="Published numbers are GPT-4o's, which changes, asked all questions of an image at once.",
)
