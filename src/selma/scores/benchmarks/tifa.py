"""TIFA v1.0 (arXiv:2303.11897), and any JSON of multiple-choice questions in its layout."""

from __future__ import annotations

from pathlib import Path

from selma.errors import DataError
from selma.plurals import counted
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.scores import measures
from selma.scores.benchmarks import texts
from selma.scores.benchmarks.digests import digests, text_digest
from selma.scores.benchmarks.layouts import (
    Benchmark,
    RemoteFile,
    clashing_ids,
    first_keys,
    in_folder,
    unsafe_id,
)
from selma.scores.tifa import TifaQuestion, read_tifa

TEXTS, QUESTIONS = "tifa_v1.0_text_inputs.json", "tifa_v1.0_question_answers.json"

# A commit of August 2023; both files date from the benchmark's release in March.
_AT = "https://raw.githubusercontent.com/Yushi-Hu/tifa/b764a190e33366ed57fd26dde34dd53bc8562276"


def read_tifa_benchmark(path: Path) -> list[BenchmarkPrompt]:
    """Read the prompts of a question file, in the order of their first questions, or of a folder
    with both of TIFA's files, in the order of its texts.

    No question depends on another. A prompt's group is its source ("coco" for "coco_301091"), as in
    TIFA's own tables. Raises DataError; for a folder also if a text has no question, since leaving
    it out would change the benchmark unseen.
    """
    asked: dict[str, list[TifaQuestion]] = {}
    file = in_folder(path, QUESTIONS)
    for question in read_tifa(file):
        asked.setdefault(question.id, []).append(question)
    clash = clashing_ids(asked)
    if clash:
        raise DataError(f"{file}: ids {clash[0]!r} and {clash[1]!r} differ only in case.")
    if not path.is_dir():
        return [_prompt(file, id, questions) for id, questions in asked.items()]
    captions = {prompt.id: prompt.text for prompt in texts.read_texts(path / TEXTS)}
    _compare(path, captions, asked)
    return [_prompt(file, id, asked[id]) for id in captions]


def _compare(path: Path, captions: dict[str, str], asked: dict[str, list[TifaQuestion]]) -> None:
    silent = [id for id in captions if id not in asked]
    strangers = [id for id in asked if id not in captions]
    if silent or strangers:
        raise DataError(
            f"{path}: each prompt of {TEXTS} must have questions in {QUESTIONS} and no other may, "
            f"but {counted(len(silent), 'has', 'have')} none ({', '.join(silent[:3])}) and "
            f"{counted(len(strangers), 'is another prompt', 'are other prompts')} "
            f"({', '.join(strangers[:3])}). Name the question file alone to be scored "
            "on its prompts."
        )
    for id, caption in captions.items():
        if " ".join(asked[id][0].caption.split()) != " ".join(caption.split()):
            raise DataError(f"{path}: {id} has two texts: {caption!r}, {asked[id][0].caption!r}.")


def _prompt(path: Path, id: str, questions: list[TifaQuestion]) -> BenchmarkPrompt:
    unsafe = unsafe_id(id)
    if unsafe:
        raise DataError(f"{path}: id {unsafe}.")
    captions = {question.caption for question in questions}
    if len(captions) > 1:
        raise DataError(f"{path}: {id} has two texts: {', '.join(map(repr, sorted(captions)))}.")
    if not questions[0].caption.strip():
        raise DataError(f"{path}: {id} has an empty caption.")
    return BenchmarkPrompt(
        id=id,
        text=questions[0].caption,
        group=id.rpartition("_")[0] or "all",
        questions=tuple(
            Question(
                # A prompt may have the same question twice, so that its id is a number.
                id=str(number),
                text=question.question,
                category=question.element_type,
                answer=question.answer,
                choices=question.choices,
            )
            for number, question in enumerate(questions, 1)
        ),
    )


def _recognises(path: Path) -> bool:
    return {"question", "choices"} <= first_keys(in_folder(path, QUESTIONS))


def _published(prompt: BenchmarkPrompt) -> bool:
    """Whether a prompt has a published text and multiple-choice questions. The questions themselves
    are not compared: their file has no published checksum."""
    chosen = bool(prompt.questions) and all(question.choices for question in prompt.questions)
    return chosen and text_digest(prompt) in digests("tifa-v1.0")


TIFA = Benchmark(
    name="tifa-v1.0",
    layout="a JSON of multiple-choice questions in TIFA's layout, or a folder of TIFA's two files",
    measure=measures.TIFA,
    recognises=_recognises,
    read=read_tifa_benchmark,
    published=_published,
    files=(
        RemoteFile(
            TEXTS,
            f"{_AT}/tifa_v1.0/{TEXTS}",
            sha256="650281d508b056ac9782bc84d5493626424ee851a8778af90b9db554cfbc1a0f",
            max_bytes=4_000_000,
        ),
        RemoteFile(QUESTIONS, f"{_AT}/tifa_v1.0/{QUESTIONS}", sha256=None, max_bytes=64_000_000),
    ),
    source="arXiv:2303.11897; github.com/Yushi-Hu/tifa",
    licence="Apache-2.0",
    known="SELMA's program words choices differently from TIFA's; scores under two wordings "
    "differ.",
)
