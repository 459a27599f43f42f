"""Write questions about prompts to a file that stage 5 reads; every reply is kept as it comes.

    FILE.csv (or .json)       the questions, in DSG-1k's (or TIFA's) layout, when all are done
    FILE.quarantine.jsonl     the prompts without questions, with the reason and the raw replies
    FILE.csv.work/            replies.jsonl, journal.jsonl (each request's cost), summary.json

The result depends on the replies alone. A reply is kept under a key of everything it depends on, so
that a repeated call, with more prompts or after an interruption, requests none of them twice.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Generator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from selma.applications.questions.asking import (
    Ask,
    Unusable,
    continuation,
    instructions,
    load_style,
)
from selma.applications.questions.choices import Choice, write_choices
from selma.applications.questions.graph import GraphRow, write_graph
from selma.applications.questions.settings import QuestionsConfig
from selma.backbones.language.loading import load_language_model, model_identity, parallel_requests
from selma.backbones.language.model import LanguageModel, Reply, Sampling
from selma.backbones.language.replies import readable_answer
from selma.config.section import require_kind
from selma.errors import ConfigError, DataError, NoProgress
from selma.paths import AnyPath, as_path
from selma.progress import progress
from selma.randomness import seed_for
from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.benchmarks import read_benchmark
from selma.workspace import (
    Workspace,
    append_line,
    read_lines,
    recipe_key,
    write_bytes,
    write_json,
)

_STAGE = "questions"
_RETRY_TEMPERATURE = 0.7
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
        drafts, failures = _Requests(config, folder).drafts(prompts)
        _write_aside(out, drafts)
        if failures >= config.patience or all(draft.failure for draft in drafts):
            raise NoProgress(_no_progress(drafts, failures))
        _write(out, [draft for draft in drafts if draft.failure is None], config)
        summary = _summary(drafts)
        write_json(folder.root / "summary.json", summary)
        seconds = round(time.monotonic() - began, 3)
        folder.journal(_STAGE, seconds=seconds, **summary)
    return summary


class _Draft:
    """One prompt on its way to questions."""

    def __init__(self, prompt: BenchmarkPrompt, config: QuestionsConfig) -> None:
        self.prompt = prompt
        self.faults: Counter[str] = Counter()
        self.replies: list[Reply] = []
        self.rows: list[GraphRow] | list[Choice] = []
        self.failure: str | None = None
        self.ask: Ask | None = None
        """The next request; None when the prompt is finished or has failed."""
        write: Any = write_graph if config.style == "dsg" else write_choices
        self._steps: Generator[Ask, Reply, Any] = write(
            prompt.text, self.faults, attempts=config.attempts
        )
        self._advance(None)

    def take(self, reply: Reply) -> None:
        """Go on to the next request, with the reply to the last."""
        self.replies.append(reply)
        rest, thought, _ = readable_answer(reply.text)
        if not rest.strip():
            why = reply.silence or ("thought" if thought else "empty")
            cut = ", cut at max_new_tokens" if reply.truncated else ""
            self.faults[f"replies without an answer ({why}{cut})"] += 1
        self._advance(reply)

    def _advance(self, reply: Reply | None) -> None:
        self.ask = None
        try:
            self.ask = next(self._steps) if reply is None else self._steps.send(reply)
        except StopIteration as end:
            self.rows = end.value
        except Unusable as reason:
            self.failure = str(reason)


class _Requests:
    """Makes the drafts' requests, in batches that depend on the prompts alone."""

    def __init__(self, config: QuestionsConfig, folder: Workspace) -> None:
        self.config = config
        self.folder = folder
        self.style = load_style(config.style)
        self.identity = model_identity(config.backend)
        self.path = folder.root / "replies.jsonl"
        lines = read_lines(self.path, repair=True)
        self.known = {key: reply for line in lines for key, reply in line["replies"].items()}

    def drafts(self, prompts: Sequence[BenchmarkPrompt]) -> tuple[list[_Draft], int]:
        """The drafts, finished or failed, up to where patience ends, and how many failed in a row
        at the end."""
        size = parallel_requests(self.config.backend)
        drafts: list[_Draft] = []
        failures = 0
        with progress(f"questions: {self.config.style}", total=len(prompts)) as bar:
            for start in range(0, len(prompts), size):
                part = [_Draft(p, self.config) for p in prompts[start : start + size]]
                self._finish(part)
                drafts += part
                bar(len(part), note=f"{sum(d.failure is not None for d in drafts)} put aside")
                for draft in part:
                    failures = failures + 1 if draft.failure else 0
                if failures >= self.config.patience:
                    break
        return drafts, failures

    def _finish(self, drafts: Sequence[_Draft]) -> None:
        while waiting := [(draft, draft.ask) for draft in drafts if draft.ask is not None]:
            first = waiting[0][1]
            batch = [
                (draft, ask)
                for draft, ask in waiting
                if (ask.step, ask.attempt) == (first.step, first.attempt)
            ]
            for (draft, _), reply in zip(batch, self._replies(batch), strict=True):
                draft.take(reply)

    def _replies(self, batch: Sequence[tuple[_Draft, Ask]]) -> list[Reply]:
        """The replies to requests of one step and attempt, from the file or from the model."""
        keys = [self._key(draft, ask) for draft, ask in batch]
        missing = [index for index, key in enumerate(keys) if key not in self.known]
        if missing:
            replies = self._ask([batch[index] for index in missing])
            # A server's JSON can hold half a surrogate pair, which no file can.
            new = {
                keys[index]: reply.record()
                | {"text": reply.text.encode("utf-8", "replace").decode()}
                for index, reply in zip(missing, replies, strict=True)
            }
            append_line(self.path, {"replies": new})
            self.known |= new
        return [Reply(**self.known[key]) for key in keys]

    def _ask(self, batch: Sequence[tuple[_Draft, Ask]]) -> list[Reply]:
        ask = batch[0][1]
        continues = self._model.form == "continuation"
        sampling = self._sampling(ask, grammar=self.style.grammars[ask.step] if continues else None)
        write = continuation if continues else instructions
        return self._model.complete(
            [write(self.style, ask) for _, ask in batch],
            seeds=[self._seed(draft, ask) for draft, ask in batch],
            sampling=sampling,
        )

    def _sampling(self, ask: Ask, grammar: str | None) -> Sampling:
        temperature = self.config.temperature
        if ask.attempt:
            temperature = max(temperature, _RETRY_TEMPERATURE)
        return Sampling(
            max_new_tokens=self.config.max_new_tokens, temperature=temperature, grammar=grammar
        )

    def _seed(self, draft: _Draft, ask: Ask) -> int:
        return seed_for(self.config.seed, _STAGE, draft.prompt.id, ask.step, ask.attempt)

    def _key(self, draft: _Draft, ask: Ask) -> str:
        """A key that changes with everything a reply depends on, without loading the model."""
        return recipe_key(
            {
                "model": self.identity,
                "wishes": [instructions(self.style, ask), continuation(self.style, ask)],
                "grammar": self.style.grammars[ask.step],
                "sampling": vars(self._sampling(ask, None)),
                "seed": self._seed(draft, ask),
            }
        )

    @cached_property
    def _model(self) -> LanguageModel:
        lines = self.folder.read_journal()
        spent = sum(line.get("cost", 0.0) for line in lines if line.get("event") == "request")
        note = partial(self.folder.journal, _STAGE)
        return load_language_model(self.config.backend, note=note, spent=spent)


def _no_progress(drafts: Sequence[_Draft], failures: int) -> str:
    faults: Counter[str] = Counter()
    for draft in drafts:
        faults.update(draft.faults)
    commonest = ", ".join(f"{count} {what}" for what, count in faults.most_common(5) if count)
    return (
        f"The last {failures} prompts gave no questions ({drafts[-1].failure}; most often: "
        f"{commonest}). All replies are kept. Name a larger model, or allow more attempts or new "
        "tokens."
    )


def _write_aside(out: Path, drafts: Sequence[_Draft]) -> None:
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


def _write(out: Path, drafts: Sequence[_Draft], config: QuestionsConfig) -> None:
    text = _csv(drafts) if config.style == "dsg" else _json(drafts)
    write_bytes(out, text.encode("utf-8"))
    written = read_benchmark(out)
    if [prompt.id for prompt in written] != [draft.prompt.id for draft in drafts]:
        raise DataError(f"{out} does not read as it was written; this is a mistake of selma's.")


def _csv(drafts: Sequence[_Draft]) -> str:
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


def _json(drafts: Sequence[_Draft]) -> str:
    rows = [
        {"id": draft.prompt.id, "caption": draft.prompt.text} | vars(row)
        for draft in drafts
        for row in draft.rows
    ]
    return json.dumps(rows, indent=4, ensure_ascii=False) + "\n"


def _summary(drafts: Sequence[_Draft]) -> dict[str, Any]:
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
