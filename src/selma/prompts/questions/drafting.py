"""Prompts on their way to questions by a language model; every reply is kept as it comes.

The result depends on the replies alone. A reply is kept under a key of everything it depends on, so
that a repeated call, with more prompts or after an interruption, requests none of them twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from selma.backbones.language.loading import model_identity, parallel_requests
from selma.backbones.language.model import LanguageModel, Reply, Sampling
from selma.backbones.language.replies import readable_answer
from selma.config.questions import WrittenQuestions
from selma.errors import NoProgress
from selma.plurals import counted
from selma.progress import progress
from selma.prompts.questions.asking import Ask, Style, Unusable, continuation, instructions
from selma.randomness import seed_for
from selma.record_files import REMEDY_FOR_REPLIES, read_rows
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.rows import KeyedReplies
from selma.workspace import append_line, recipe_key

_RETRY_TEMPERATURE = 0.7
Write = Callable[..., Generator[Ask, Reply, Any]]
"""(text, faults, attempts=) → requests, sent their replies, and in the end the questions."""


class Draft:
    """One prompt on its way to questions."""

    def __init__(self, prompt: BenchmarkPrompt, write: Write, *, attempts: int) -> None:
        self.prompt = prompt
        self.faults: Counter[str] = Counter()
        self.replies: list[Reply] = []
        self.rows: list[Any] = []
        """What `write` returned."""
        self.failure: str | None = None
        self.ask: Ask | None = None
        """The next request; None when the prompt is finished or has failed."""
        self._steps = write(prompt.text, self.faults, attempts=attempts)
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


class Requests:
    """Makes the drafts' requests, in batches that depend on the prompts alone.

    path: the file of replies.  model: called only where a reply is missing.
    """

    def __init__(
        self,
        config: WrittenQuestions,
        path: Path,
        *,
        style: Style,
        write: Write,
        model: Callable[[], LanguageModel],
    ) -> None:
        self.config = config
        self.path = path
        self.style = style
        self.write = write
        self.model = model
        self.identity = model_identity(config.backend)
        lines = read_rows(self.path, KeyedReplies, repair=True, remedy=REMEDY_FOR_REPLIES)
        self.known = {key: reply for line in lines for key, reply in line["replies"].items()}

    def drafts(self, prompts: Sequence[BenchmarkPrompt], title: str) -> tuple[list[Draft], int]:
        """The drafts, finished or failed, up to where patience ends, and how many failed in a row
        at the end."""
        size = parallel_requests(self.config.backend)
        drafts: list[Draft] = []
        failures = 0
        with progress(title, total=len(prompts)) as bar:
            for start in range(0, len(prompts), size):
                part = [
                    Draft(prompt, self.write, attempts=self.config.attempts)
                    for prompt in prompts[start : start + size]
                ]
                self._finish(part)
                drafts += part
                bar(len(part), note=f"{sum(d.failure is not None for d in drafts)} put aside")
                for draft in part:
                    failures = failures + 1 if draft.failure else 0
                if failures >= self.config.patience:
                    break
        return drafts, failures

    def _finish(self, drafts: Sequence[Draft]) -> None:
        while waiting := [(draft, draft.ask) for draft in drafts if draft.ask is not None]:
            first = waiting[0][1]
            batch = [
                (draft, ask)
                for draft, ask in waiting
                if (ask.step, ask.attempt) == (first.step, first.attempt)
            ]
            for (draft, _), reply in zip(batch, self._replies(batch), strict=True):
                draft.take(reply)

    def _replies(self, batch: Sequence[tuple[Draft, Ask]]) -> list[Reply]:
        """The replies to requests of one step and attempt, from the file or from the model."""
        keys = [self._key(draft, ask) for draft, ask in batch]
        missing = [index for index, key in enumerate(keys) if key not in self.known]
        if missing:
            replies = self._ask([batch[index] for index in missing])
            # A server's JSON can hold half a surrogate pair, which no file can.
            new: dict[str, Any] = {
                keys[index]: reply.record()
                | {"text": reply.text.encode("utf-8", "replace").decode()}
                for index, reply in zip(missing, replies, strict=True)
            }
            append_line(self.path, {"replies": new})
            self.known |= new
        return [Reply(**self.known[key]) for key in keys]

    def _ask(self, batch: Sequence[tuple[Draft, Ask]]) -> list[Reply]:
        ask, model = batch[0][1], self.model()
        continues = model.form == "continuation"
        sampling = self._sampling(ask, grammar=self.style.grammars[ask.step] if continues else None)
        put = continuation if continues else instructions
        return model.complete(
            [put(self.style, ask) for _, ask in batch],
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

    def _seed(self, draft: Draft, ask: Ask) -> int:
        return seed_for(self.config.seed, "questions", draft.prompt.id, ask.step, ask.attempt)

    def _key(self, draft: Draft, ask: Ask) -> str:
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


def require_progress(drafts: Sequence[Draft], failures: int, *, patience: int) -> None:
    """Raise NoProgress if no prompt, or none of the last `patience`, gave questions."""
    if failures < patience and not all(draft.failure for draft in drafts):
        return
    faults: Counter[str] = Counter()
    for draft in drafts:
        faults.update(draft.faults)
    commonest = ", ".join(f"{count} {what}" for what, count in faults.most_common(5) if count)
    raise NoProgress(
        f"The last {counted(failures, 'prompt')} gave no questions ({drafts[-1].failure}; most "
        f"often: {commonest}). All replies are kept. Name a larger model, or allow more attempts "
        "or new tokens."
    )
