"""Write questions about prompts to a file that stage 5 reads; every reply is kept as it comes.

FILE.csv (or .json)       the questions, in DSG-1k's (or TIFA's) layout, when all are done
FILE.quarantine.jsonl     the prompts without questions, with the reason and the raw replies
FILE.csv.work/            replies.jsonl, journal.jsonl (each request's cost), summary.json
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from selma.applications.questions.choices import write_choices
from selma.applications.questions.settings import QuestionsConfig
from selma.backbones.language.loading import load_language_model
from selma.backbones.language.model import LanguageModel
from selma.config.section import require_kind
from selma.errors import ConfigError, DataError
from selma.paths import AnyPath, as_path
from selma.prompts.questions.asking import load_style
from selma.prompts.questions.drafting import Draft, Requests, require_progress
from selma.prompts.questions.graph import GraphRow, write_graph
from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.benchmarks import read_benchmark
from selma.workspace import Workspace, write_bytes, write_json

_STAGE = "questions"
_SUFFIX = {"dsg": ".csv", "tifa": ".json"}
COLUMNS = (
    *("item_id", "text", "keywords", "proposition_id", "dependency"),
    *("category_broad", "category_detailed", "tuple", "question_natural_language"),
)
"""DSG-1k's columns, in its order."""


def write_questions(
    prompts: Sequence[BenchmarkPrompt], config: QuestionsConfig, out: AnyPath
) -> dict[str, Any]:
    """Let a language model write questions about each prompt to `out`.

    Returns a summary, ready for JSON: numbers of questions, requests, tokens, faults and prompts
    put aside. Raises NoProgress if no prompt, or none of `config.patience` in a row, gave
    questions, and BackendError if a server keeps failing; the same call continues from there.
    """
    out = as_path(out)
    require_kind(config, QuestionsConfig, maker="questions_config(style='dsg') makes them.")
    if out.suffix.lower() != _SUFFIX[config.style]:
        raise ConfigError(
            f"Questions of style {config.style} are a {_SUFFIX[config.style]} file, but {out} came."
        )
    folder = Workspace(out.with_name(f"{out.name}.work"))
    if out.exists() and not folder.root.exists():
        raise DataError(f"{out} is there and was not made by this command; name another file.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with folder.locked():
        began = time.monotonic()
        drafts, failures = _requests(config, folder).drafts(prompts, f"{_STAGE}: {config.style}")
        _write_aside(out, drafts)
        require_progress(drafts, failures, patience=config.patience)
        _write(out, [draft for draft in drafts if draft.failure is None], config)
        summary = _summary(drafts)
        write_json(folder.root / "summary.json", summary)
        seconds = round(time.monotonic() - began, 3)
        folder.journal(_STAGE, seconds=seconds, **summary)
    return summary


def _requests(config: QuestionsConfig, folder: Workspace) -> Requests:
    @cache
    def model() -> LanguageModel:
        note = partial(folder.journal, _STAGE)
        return load_language_model(config.backend, note=note, spent=folder.spent(_STAGE))

    return Requests(
        config,
        folder.root / "replies.jsonl",
        style=load_style(config.style),
        write=write_graph if config.style == "dsg" else write_choices,
        model=model,
    )


def _write_aside(out: Path, drafts: Sequence[Draft]) -> None:
    path = out.with_name(f"{out.stem}.quarantine.jsonl")
    rows = [
        {
            "id": draft.prompt.id,
            "text": draft.prompt.text,
            "reason": draft.failure,
            "faults": {what: count for what, count in sorted(draft.faults.items()) if count},
            "replies": [reply.text for reply in draft.replies],
        }
        for draft in drafts
        if draft.failure is not None
    ]
    if rows:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_bytes(path, "".join(lines).encode("utf-8"))
    else:
        path.unlink(missing_ok=True)


def _write(out: Path, drafts: Sequence[Draft], config: QuestionsConfig) -> None:
    text = _csv(drafts) if config.style == "dsg" else _json(drafts)
    write_bytes(out, text.encode("utf-8"))
    written = read_benchmark(out)
    if [prompt.id for prompt in written] != [draft.prompt.id for draft in drafts]:
        raise DataError(f"{out} does not read as it was written; this is a mistake of selma's.")


def _csv(drafts: Sequence[Draft]) -> str:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for draft in drafts:
        for number, row in enumerate(draft.rows, 1):
            assert isinstance(row, GraphRow)
            fact, parents = row.fact, ",".join(map(str, row.parents)) or "0"
            prompt = draft.prompt
            of_fact = (fact.category, fact.kind, str(fact), row.question)
            writer.writerow((prompt.id, prompt.text, fact.things, number, parents, *of_fact))
    return file.getvalue()


def _json(drafts: Sequence[Draft]) -> str:
    rows = [
        {"id": draft.prompt.id, "caption": draft.prompt.text} | vars(row)
        for draft in drafts
        for row in draft.rows
    ]
    return json.dumps(rows, indent=4, ensure_ascii=False) + "\n"


def _summary(drafts: Sequence[Draft]) -> dict[str, Any]:
    faults: Counter[str] = Counter()
    for draft in drafts:
        faults.update(draft.faults)
    replies = [reply for draft in drafts for reply in draft.replies]
    return {
        "prompts": len(drafts),
        "done": sum(draft.failure is None for draft in drafts),
        "quarantined": sum(draft.failure is not None for draft in drafts),
        "questions": sum(len(draft.rows) for draft in drafts),
        "requests": len(replies),
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "reply_tokens": sum(reply.reply_tokens for reply in replies),
        "cost": round(sum(reply.cost for reply in replies), 6),
        "faults": {what: count for what, count in sorted(faults.items()) if count},
    }
