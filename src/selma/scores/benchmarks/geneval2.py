"""GenEval 2 (arXiv:2512.16853): Soft-TIFA, the probability of the expected answer's first token.

Its data is CC BY-NC: fetched at use, never part of a package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from selma.errors import DataError
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.record import Record
from selma.records.scores import MeasureInfo
from selma.scores.benchmarks.layouts import Benchmark, RemoteFile, Rules, first_keys, in_folder
from selma.scores.measures import Measure, chance, chance_repeated, geometric
from selma.textfiles import json_rows
from selma.texts import mistake_at, printable, quoted

FILE = "geneval2_data.jsonl"
YES = ("Yes", "yes", " yes", " Yes")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class _Row(Record):
    """A line of the file."""

    prompt: str = Field(min_length=1)
    atom_count: int
    vqa_list: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(min_length=1)
    skills: list[str]


def read_geneval2(path: Path) -> list[BenchmarkPrompt]:
    """Read GenEval 2's file, or the folder with it. Prompts are named by their line, from 000.

    A prompt's group is its number of atoms, a question's category its skill. Raises DataError.
    """
    path = in_folder(path, FILE)
    rows = json_rows(path)
    if not rows:
        raise DataError(f"{path} must hold prompts, but has none.")
    return [_prompt(path, number, row) for number, row in enumerate(rows)]


def _prompt(path: Path, number: int, given: object) -> BenchmarkPrompt:
    try:
        row = _Row.model_validate(given)
    except ValidationError as error:
        mistake = error.errors()[0]
        raise DataError(
            f"{path}, prompt {number}: {mistake_at(mistake['loc'], mistake['msg'])}."
        ) from error
    for what, text in (("prompt", row.prompt), *(("question", asked) for asked, _ in row.vqa_list)):
        if not printable(text).strip():
            raise DataError(
                f"{path}, prompt {number}: {what} must be a text, but is {quoted(text)}."
            )
    if len(row.skills) != len(row.vqa_list):
        raise DataError(
            f"{path}, prompt {number}: each question must have a skill, but "
            f"{len(row.vqa_list)} questions have {len(row.skills)}."
        )
    return BenchmarkPrompt(
        id=f"{number:03d}",
        text=row.prompt,
        group=f"{row.atom_count} atoms",
        questions=tuple(
            _question(path, number, str(n), question, answer, skill)
            for n, ((question, answer), skill) in enumerate(
                zip(row.vqa_list, row.skills, strict=True), 1
            )
        ),
    )


def _question(path: Path, number: int, id: str, question: str, answer: str, skill: str) -> Question:
    counts = question.startswith("How many")
    if answer.lower() not in (NUMBERS if counts else ("yes",)):
        wanted = "a number from one to ten" if counts else "Yes"
        raise DataError(
            f"{path}, prompt {number}: {question!r} must expect {wanted}, but expects {answer!r}."
        )
    return Question(
        id=id,
        text=f"{question} Answer in one word.",
        category=skill,
        answer=answer.lower(),
        spellings=_spellings(answer) if counts else YES,
    )


def _spellings(number: str) -> tuple[str, ...]:
    digits = str(NUMBERS.index(number.lower()) + 1)
    words = (number, number.capitalize())
    return (*words, *(f" {word}" for word in words), digits, f" {digits}")


def _measure(mean: str, *, released: bool) -> Measure:
    kinds = {"GM": "geometric", "AM": "arithmetic"}
    return Measure(
        MeasureInfo(
            label=f"Soft-TIFA {mean}{', released' if released else ''}",
            meaning=f"the {kinds[mean]} mean of the probabilities that the judge gives to the "
            "expected answers to a prompt's questions, averaged over prompts",
            earns="the probability of the expected answer",
        ),
        point=chance_repeated if released else chance,
        earned=geometric if mean == "GM" else sum,
    )


GENEVAL2 = Benchmark(
    name="geneval-2",
    layout="GenEval 2's JSON lines",
    measure=_measure("GM", released=False),
    beside=(_measure("AM", released=False),),
    released=Rules(
        _measure("GM", released=True),
        beside=(_measure("AM", released=True),),
        about="The probabilities of all spellings of an answer are summed, so that a token that "
        "begins two of them counts twice, and a blank before a digit counts for every number.",
    ),
    recognises=lambda path: {"prompt", "vqa_list"} <= first_keys(in_folder(path, FILE)),
    read=read_geneval2,
    files=(
        RemoteFile(
            FILE,
            "https://raw.githubusercontent.com/facebookresearch/GenEval2/"
            "a6e82d2289e8d418f27f0adee77908b07060eea3/geneval2_data.jsonl",
            sha256="09233adbc9f877fba205f1a20efa4a8640e7e62a91dfd55893562bed8a928e43",
            max_bytes=4_000_000,
        ),
    ),
    source="arXiv:2512.16853; github.com/facebookresearch/GenEval2",
    licence="CC BY-NC 4.0: not for commercial use",
    known="Its program counts probabilities of spellings that begin alike twice, so that "
    "published numbers are not sound ones.",
)
