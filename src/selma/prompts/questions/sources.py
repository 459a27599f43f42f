"""Questions about the prompts of a run, from the source that the settings name.

1-prompts/_questions/<skill>/questions.jsonl    each prompt with its questions, or the reason
                                                why it has none
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from selma.backbones.language.loading import (
    deciding_versions,
    load_language_model,
    model_identity,
    paid_files,
)
from selma.backbones.language.model import LanguageModel
from selma.config.images import BY_TOYBOX
from selma.config.questions import WrittenQuestions
from selma.errors import DataError
from selma.prompts.questions.asking import load_style
from selma.prompts.questions.drafting import Draft, Requests, require_progress
from selma.prompts.questions.graph import write_graph
from selma.record_files import read_rows
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.prompts import Prompt
from selma.records.rows import QuestionRow
from selma.row_files import write_rows
from selma.texts import quoted
from selma.toybox import WORLD
from selma.workspace import PROMPTS, Item, Workspace, file_sha256

NAME = "_questions"
REPLIES = "replies.jsonl"
_FILE = "questions.jsonl"
_STYLE = "dsg"
Asked = tuple[Question, ...] | str
"""A prompt's questions, or why it has none."""
Read = Callable[[Path], Sequence[BenchmarkPrompt]]
"""Reads a benchmark's file."""


@dataclass(frozen=True)
class Source:
    """Where questions come from."""

    recipe: Any
    """What they depend on beside the prompts."""
    ask: Callable[[Sequence[Prompt], Item], Sequence[Asked]]
    """What each prompt is asked; the item is there for what must be kept on the way."""
    paid: tuple[str, ...] = ()
    """Files that it leaves in the item and that may have cost money."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package → version, of those that decide what is asked, beside selma's own."""


def write_questions(
    prompts: Mapping[str, Sequence[Prompt]],
    source: str | WrittenQuestions,
    folder: Workspace,
    *,
    read_file: Read,
) -> dict[str, list[BenchmarkPrompt]]:
    """Skill → its prompts that have questions, with them; made once. Raises DataError for a file
    that cannot be used, and NoProgress or BackendError as `prompts.writing` does."""
    if isinstance(source, WrittenQuestions):
        made_by = _written(source, folder)
    elif source in BY_TOYBOX:
        exact = source == "toybox_exact"
        made_by = Source(
            f"{source} {WORLD}", lambda prompts, item: [_of_caption(p.text, exact) for p in prompts]
        )
    else:
        path = Path(source)
        made_by = Source(
            {"file": file_sha256(path)}, lambda prompts, item: _of_file(prompts, path, read_file)
        )
    return {
        skill: _of_skill(skill, skill_prompts, made_by, folder)
        for skill, skill_prompts in prompts.items()
    }


def _of_skill(
    skill: str, prompts: Sequence[Prompt], source: Source, folder: Workspace
) -> list[BenchmarkPrompt]:
    recipe = {
        "prompts": [[prompt.id, prompt.text] for prompt in prompts],
        "source": source.recipe,
        "versions": source.versions,
    }
    item = folder.item(PROMPTS, NAME, skill, recipe=recipe, paid=source.paid)
    if not item.done:
        began, path = time.monotonic(), item.begin() / _FILE
        asked = source.ask(prompts, item)
        write_rows(path, map(_row, prompts, asked))
        item.finish(
            item.path.glob("*.jsonl"),
            {
                "prompts": len(prompts),
                "questions": sum(len(a) for a in asked if not isinstance(a, str)),
                "dropped": Counter(a for a in asked if isinstance(a, str)),
            },
        )
        seconds = round(time.monotonic() - began, 3)
        folder.journal(PROMPTS, what=f"questions: {skill}", seconds=seconds, **item.summary)
    return [
        BenchmarkPrompt(id=row.id, text=row.text, group=skill, questions=row.questions)
        for row in read_rows(item.path / _FILE, QuestionRow)
        if row.questions is not None
    ]


def _row(prompt: Prompt, asked: Asked) -> dict[str, Any]:
    row = {"id": prompt.id, "text": prompt.text}
    if isinstance(asked, str):
        return {**row, "dropped": asked}
    return {**row, "questions": [q.model_dump(mode="json", exclude_defaults=True) for q in asked]}


def _of_caption(text: str, exact: bool = False) -> Asked:
    from selma.toybox.parsing import UnreadableCaption, parse_caption
    from selma.toybox.questions import not_several, questions

    try:
        scene = parse_caption(text)
    except UnreadableCaption:
        return "no caption of toybox"
    return questions(scene) + (not_several(scene) if exact else ())


def toybox_reads(text: str) -> bool:
    """Whether toybox has questions about a prompt."""
    return not isinstance(_of_caption(text), str)


def _of_file(prompts: Sequence[Prompt], path: Path, read: Read) -> list[Asked]:
    questions_of: dict[str, Asked] = {}
    for prompt in read(path):
        asked = prompt.questions or "no questions in the file"
        if questions_of.setdefault(prompt.text, asked) != asked:
            raise DataError(
                f"{path} must have one set of questions for each text, but has two for "
                f"{quoted(prompt.text)}. Remove one of them."
            )
    return [questions_of.get(prompt.text, "not in the file") for prompt in prompts]


def _written(config: WrittenQuestions, folder: Workspace) -> Source:
    style = load_style(_STYLE)

    @cache
    def model() -> LanguageModel:
        note = partial(folder.journal, PROMPTS)
        return load_language_model(config.backend, note=note, spent=folder.spent(PROMPTS))

    def ask(prompts: Sequence[Prompt], item: Item) -> list[Asked]:
        requests = Requests(
            config, item.path / REPLIES, style=style, write=write_graph, model=model
        )
        texts = [BenchmarkPrompt(id=p.id, text=p.text, group="", questions=()) for p in prompts]
        drafts, failures = requests.drafts(texts, f"questions: {prompts[0].skill}")
        require_progress(drafts, failures, patience=config.patience)
        return [_of_draft(draft) for draft in drafts]

    settings = config.model_dump(mode="json", exclude={"backend", "patience"})
    identity = model_identity(config.backend)
    return Source(
        {**settings, "backend": identity, "style": style.model_dump(mode="json")},
        ask,
        paid=paid_files(config.backend, REPLIES),
        versions=deciding_versions(config.backend),
    )


def _of_draft(draft: Draft) -> Asked:
    if draft.failure is not None:
        return "no usable reply"
    return tuple(
        Question(
            id=str(number),
            text=row.question,
            category=row.fact.category,
            detail="" if row.fact.kind == "-" else row.fact.kind,
            parents=tuple(map(str, row.parents)),
        )
        for number, row in enumerate(draft.rows, 1)
    )
