"""A judge's answers and a scorer's scores of images, one item for each model and network.

    5-scores/answers/<model>/answers.jsonl          the reporting judge: one line for each prompt
    5-scores/second-answers/<model>/answers.jsonl   a second judge, for their agreement
    5-scores/clip/<model>/scores.jsonl              CLIP's score of image and prompt
    5-scores/preferences/<label>/<model>/scores.jsonl    each preference scorer's

Every answer is kept, so that scores can be computed by another rule without the judge.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from selma import row_files
from selma.backbones.judges.judge import (
    Chooser,
    Judge,
    Reader,
    Scorer,
    Spelled,
    Speller,
    possible,
)
from selma.backbones.judges.wordings import MultipleChoice
from selma.errors import DataError, ModelError
from selma.image_files import REMEDY_FOR_GENERATED, open_image
from selma.image_places import image_of
from selma.manifests import contents_digest
from selma.plurals import counted
from selma.progress import warn
from selma.record_files import each_row
from selma.records.benchmarks import Answer, BenchmarkPrompt
from selma.records.rows import PromptAnswers, Scored
from selma.row_files import Row, fill_rows, in_rounds
from selma.texts import quoted
from selma.workspace import (
    SCORES,
    Item,
    Workspace,
    manifest,
    recipe_key,
)

ANSWERS = "answers.jsonl"
EARNS_NOTHING = "counts as unreadable and earns no point"
"""What becomes of an answer to a question that a judge cannot read, where scores are made."""
WORDS = "selma"
"""The default wording of multiple-choice questions."""


def answer_item(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    model: str,
    images: Path,
    judge: Judge,
    folder: Workspace,
    *,
    stage: str = SCORES,
    what: str = "answers",
    words: str = WORDS,
    unread: str = EARNS_NOTHING,
) -> Item:
    """Let a judge answer the questions about one model's images; a finished item is kept.

    stage: whose item it is.  words: wording of multiple-choice questions.  unread: what becomes of
    an answer to a question that the judge cannot read, for the warning. Raises DataError for an
    image that is missing or broken.
    """
    wording = {"choices_prompt": words} if has_choices(benchmark_prompts) else {}
    asked = [
        [p.id, [[q.id, q.text, *q.choices, *q.spellings] for q in p.questions]]
        for p in benchmark_prompts
    ]
    recipe = _recipe(asked, images, judge) | wording | unread_recipe(judge, benchmark_prompts)
    # Answers of a judge behind a server may have cost money.
    paid = (ANSWERS,) if getattr(judge, "paid", False) else ()
    item = folder.item(stage, what, model, recipe=recipe, paid=paid)
    if not item.done:
        warn_of_unread(judge, benchmark_prompts, unread)
        _fill(
            item,
            benchmark_prompts,
            images,
            file=ANSWERS,
            work=lambda part: _ask(judge, part, images, words),
            title=f"{judge.name}: {model}",
            folder=folder,
            stage=stage,
            at_once=_at_once(judge),
        )
    return item


def clip_item(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    model: str,
    images: Path,
    scorer: Scorer,
    folder: Workspace,
    *,
    what: Sequence[str] = ("clip",),
) -> Item:
    """Score how well each image of one model fits its prompt; see `answer_item`."""

    def work(part: Sequence[BenchmarkPrompt]) -> list[Row]:
        scores = scorer.score(_open(part, images), [prompt.text for prompt in part])
        return [{"score": score} for score in scores]

    texts = [[prompt.id, prompt.text] for prompt in benchmark_prompts]
    item = folder.item(SCORES, *what, model, recipe=_recipe(texts, images, scorer))
    if not item.done:
        title = f"{scorer.name}: {model}"
        _fill(
            item,
            benchmark_prompts,
            images,
            file="scores.jsonl",
            work=work,
            title=title,
            folder=folder,
            at_once=_at_once(scorer),
        )
    return item


def ask(benchmark_prompts: Sequence[BenchmarkPrompt], images: Path, judge: Judge) -> list[Answer]:
    """Let a judge answer the questions about one folder of images; nothing is written."""
    every = in_rounds(
        benchmark_prompts,
        lambda part: _ask(judge, part, images, WORDS),
        at_once=_at_once(judge),
    )
    return [answer for rows in every for answer in answers_of(rows)]


def read_answer_file(folder: Path) -> list[Answer]:
    """The answers in an item's folder, in the benchmark's order; [] without a file."""
    return list(each_answer(folder))


def each_answer(folder: Path) -> Iterator[Answer]:
    """`read_answer_file`, of which no more than a prompt's is in memory."""
    for row in each_row(folder / ANSWERS, PromptAnswers):
        yield from answers_of([row])


def read_clip_file(folder: Path) -> list[float]:
    """The scores in an item's folder, in the benchmark's order."""
    return [row["score"] for row in each_row(folder / "scores.jsonl", Scored)]


def benchmark_hash(benchmark_prompts: Sequence[BenchmarkPrompt]) -> str:
    """16 hex digits that change with any word, question or dependency of the benchmark."""
    # What a benchmark does not have is not hashed: one of plain questions keeps the hash that it
    # had before others had choices, denials, spellings or tags.
    questions = [q for prompt in benchmark_prompts for q in prompt.questions]
    choices, answers = any(q.choices for q in questions), any(q.answer != "yes" for q in questions)
    lacking = {"spellings"} if not any(q.spellings for q in questions) else set()
    lacking |= set() if choices else {"choices"} if answers else {"choices", "answer"}
    plain: dict[str, Any] = {"questions": {"__all__": lacking}}
    if not any(prompt.tags for prompt in benchmark_prompts):
        plain["tags"] = True
    text = "\n".join(prompt.model_dump_json(exclude=plain) for prompt in benchmark_prompts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def has_choices(benchmark_prompts: Sequence[BenchmarkPrompt]) -> bool:
    """Whether any question is multiple choice."""
    return any(question.choices for prompt in benchmark_prompts for question in prompt.questions)


def has_spellings(benchmark_prompts: Sequence[BenchmarkPrompt]) -> bool:
    """Whether points are made of probabilities of spellings."""
    return any(question.spellings for prompt in benchmark_prompts for question in prompt.questions)


def unread_recipe(judge: Judge, benchmark_prompts: Sequence[BenchmarkPrompt]) -> dict[str, int]:
    """How many questions the judge cannot read, where there are any: such answers were once a
    yes or no all the same, and are not to be mixed with those."""
    count = len(_unread(judge, benchmark_prompts)[0])
    return {"unread": count} if count else {}


def warn_of_unread(
    judge: Judge, benchmark_prompts: Sequence[BenchmarkPrompt], counts: str = EARNS_NOTHING
) -> None:
    """Warn of questions that the judge cannot read, once. counts: what becomes of such answers."""
    unread, count = _unread(judge, benchmark_prompts)
    if unread:
        _say_unread(judge.name, len(unread), count, unread[0], getattr(judge, "reads", ""), counts)


def _unread(judge: Judge, benchmark_prompts: Sequence[BenchmarkPrompt]) -> tuple[list[str], int]:
    """Different questions that the judge cannot read, and how many it is asked."""
    texts = list(dict.fromkeys(q.text for prompt in benchmark_prompts for q in prompt.questions))
    return (judge.unread(texts) if isinstance(judge, Reader) else []), len(texts)


@cache
def _say_unread(
    judge: str, unread: int, questions: int, first: str, reads: str, counts: str
) -> None:
    why = f": it reads {reads}" if reads else ""
    warn(
        f"Warning: {judge} cannot read {unread} of {counted(questions, 'question')}, "
        f"{quoted(first)} first{why}. Such an answer {counts}. Name another judge, or leave these "
        "questions out."
    )


def _recipe(asked: list[Any], images: Path, network: Judge | Scorer) -> dict[str, Any]:
    """Everything that answers depend on; asked: what the network reads of the benchmark."""
    made = manifest(images)
    if not made:
        raise DataError(
            f"{images} must be a finished folder of images, but has no manifest. "
            "Generate the benchmark's images first."
        )
    return {
        "benchmark": recipe_key({"shown": asked}),
        "images": contents_digest(made),  # the same images have the same answers, whoever made them
        "network": network.fingerprint,
        "chunk": row_files.CHUNK,
    }


def _fill(
    item: Item,
    benchmark_prompts: Sequence[BenchmarkPrompt],
    images: Path,
    *,
    file: str,
    work: Callable[[Sequence[BenchmarkPrompt]], list[Row]],
    title: str,
    folder: Workspace,
    stage: str = SCORES,
    at_once: int = 1,
) -> None:
    """Write the item's missing lines, chunk by chunk, and finish it."""
    missing = [prompt.id for prompt in benchmark_prompts if not _image(images, prompt).is_file()]
    if missing:
        raise DataError(
            f"{images} must hold an image of every benchmark prompt, but "
            f"{counted(len(missing), 'is', 'are')} missing, {missing[0]}.png first. Remove the "
            "folder to have it generated again."
        )
    started = time.monotonic()
    path = item.begin() / file
    jobs = {prompt.id: prompt for prompt in benchmark_prompts}
    fill_rows(path, jobs, work, key="prompt", title=title, at_once=at_once)
    item.finish([path], {"prompts": len(benchmark_prompts)})
    folder.journal(stage, what=title, seconds=round(time.monotonic() - started, 3))


def _at_once(network: Judge | Scorer) -> int:
    """How many chunks of work a network that is elsewhere may be asked at the same time."""
    return int(getattr(network, "at_once", 1))


def answered(
    judge: Judge,
    benchmark_prompts: Sequence[BenchmarkPrompt],
    images: Sequence[Image.Image],
    words: str = WORDS,
) -> list[Row]:
    """A row of a judge's answers for each prompt and its image."""
    replies: list[list[tuple[str, float | None]]]
    if has_spellings(benchmark_prompts):
        return _spelled(judge, benchmark_prompts, images)
    if not has_choices(benchmark_prompts):
        questions = [
            [question.text for question in prompt.questions] for prompt in benchmark_prompts
        ]
        replies = judge.answer(images, questions)
    elif isinstance(judge, Chooser):
        offered = [
            [MultipleChoice(q.text, q.choices or ("yes", "no")) for q in prompt.questions]
            for prompt in benchmark_prompts
        ]
        chosen = judge.choose(images, offered, words=words)
        replies = [[(text, None) for text in texts] for texts in chosen]
    else:
        raise ModelError(
            f"The benchmark asks multiple-choice questions, but {judge.name} answers only yes or "
            "no. Name a judge that reads choices, or a benchmark of yes/no questions."
        )
    return [
        {
            "prompt": prompt.id,
            "answers": [
                {"question": question.id, "text": text, "yes": possible(judge.name, yes)}
                for question, (text, yes) in zip(prompt.questions, reply, strict=True)
            ],
        }
        for prompt, reply in zip(benchmark_prompts, replies, strict=True)
    ]


def _spelled(
    judge: Judge, benchmark_prompts: Sequence[BenchmarkPrompt], images: Sequence[Image.Image]
) -> list[Row]:
    told = require_speller(judge).spell(images, spelled_questions(benchmark_prompts))
    return [
        {
            "prompt": prompt.id,
            "answers": [
                {
                    "question": question.id,
                    "text": text,
                    "yes": None,
                    "first": [(token, possible(judge.name, chance)) for token, chance in first],
                }
                for question, (text, first) in zip(prompt.questions, reply, strict=True)
            ],
        }
        for prompt, reply in zip(benchmark_prompts, told, strict=True)
    ]


def require_speller(judge: Judge) -> Speller:
    """The judge, if it tells how likely spellings are. Raises ModelError."""
    if isinstance(judge, Speller):
        return judge
    raise ModelError(
        "The benchmark's score is made of probabilities of answers' first tokens, but "
        f"{judge.name} tells none. Name a judge that runs here, or one whose server tells them."
    )


def spelled_questions(benchmark_prompts: Sequence[BenchmarkPrompt]) -> list[list[Spelled]]:
    """The questions of each prompt with the spellings of their answers."""
    return [
        [Spelled(q.text, q.spellings) for q in prompt.questions] for prompt in benchmark_prompts
    ]


def _ask(
    judge: Judge, benchmark_prompts: Sequence[BenchmarkPrompt], images: Path, words: str
) -> list[Row]:
    return answered(judge, benchmark_prompts, _open(benchmark_prompts, images), words)


def answers_of(rows: Sequence[PromptAnswers] | Sequence[Row]) -> list[Answer]:
    """The answers in rows of `answered`."""
    return [
        Answer(
            prompt_id=row["prompt"],
            question_id=a["question"],
            text=a["text"],
            yes=a["yes"],
            first=tuple((str(token), float(p)) for token, p in a.get("first", ())),
        )
        for row in rows
        for a in row["answers"]
    ]


def _open(benchmark_prompts: Sequence[BenchmarkPrompt], images: Path) -> list[Image.Image]:
    return [
        open_image(_image(images, prompt), remedy=REMEDY_FOR_GENERATED)
        for prompt in benchmark_prompts
    ]


def _image(images: Path, prompt: BenchmarkPrompt) -> Path:
    return image_of(images, prompt.id)
