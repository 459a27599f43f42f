"""Stage 1: show the model some examples, ask for more, keep what is new, until there are enough.

arXiv:2403.06952, section 3.1. Each batch of replies is written to disk before it is used, and
everything else is worked out from the replies; so a run that was stopped reads them again, asks for
none of them twice, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from math import ceil
from pathlib import Path
from typing import Any

from selma.backbones.language import (
    LanguageModel,
    Reply,
    Sampling,
    load_language_model,
    model_identity,
    parallel_requests,
)
from selma.config import PromptsConfig, ServedLLM
from selma.errors import ConfigError, NoProgress
from selma.progress import Advance, progress
from selma.prompts.asking import continuation, end_of_list, instructions
from selma.prompts.contamination import ExamTexts
from selma.prompts.lexicon import caption_rules, reply_grammar
from selma.prompts.novelty import SimilarityIndex, unicode_words
from selma.prompts.parsing import parse_reply
from selma.prompts.skills import Skill, load_skills
from selma.randomness import rng, seed_for
from selma.records import Prompt, prompt_id
from selma.workspace import PROMPTS, Item, Workspace, append_line, read_lines, write_bytes

_CHARACTERS_PER_WORD = 20
"""A text of few but endless words is over its limit, too."""


def write_prompts(
    config: PromptsConfig, folder: Workspace, *, seed: int, exam_texts: Sequence[str]
) -> dict[str, list[Prompt]]:
    """Skill → exactly `config.per_skill` prompts, read back where they are there already.

    NoProgress if a model finds nothing new any more, BackendError if its server fails for good; in
    both cases what came is kept and the same call goes on from there.
    """
    skills = _usable_skills(config)

    @cache
    def model() -> LanguageModel:
        spent = sum(line.get("cost", 0.0) for line in _requests(folder))
        note = partial(folder.journal, PROMPTS)
        return load_language_model(config.backend, note=note, spent=spent)

    written = {}
    for skill in skills:
        item = folder.item(PROMPTS, skill.name, recipe=_recipe(skill, config, seed, exam_texts))
        if not item.done:
            began = time.monotonic()
            desk = Desk(skill, config, seed=seed, exam_texts=exam_texts)
            _fill(item, desk, model)
            seconds = round(time.monotonic() - began, 3)
            folder.journal(PROMPTS, skill=skill.name, seconds=seconds, **item.summary)
        written[skill.name] = _read(item.path / "prompts.jsonl")
    return written


def dropped(
    config: PromptsConfig, folder: Workspace, *, seed: int, exam_texts: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Skill → reason → how many texts were dropped for it; only of skills that are finished."""
    found = {}
    for skill in _usable_skills(config):
        item = folder.item(PROMPTS, skill.name, recipe=_recipe(skill, config, seed, exam_texts))
        if item.done:
            found[skill.name] = dict(item.summary["dropped"])
    return found


class Desk:
    """One skill's prompts as they grow: which examples to show next, and what is kept of a reply.

    A pure function of the replies put in, in order; touches no disk and no model.
    """

    def __init__(
        self, skill: Skill, config: PromptsConfig, *, seed: int, exam_texts: Sequence[str]
    ) -> None:
        self.skill = skill
        self.config = config
        self.kept: list[Prompt] = []
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.cost = 0.0
        self.without_news = 0
        """Requests in a row that added nothing."""
        self._seed = seed
        self._exam = ExamTexts(exam_texts, threshold=config.contamination_threshold)
        self._index = SimilarityIndex(config.novelty.threshold, config.novelty.arithmetic)
        for text in skill.seeds:
            self._index.add(text)

    @property
    def full(self) -> bool:
        return len(self.kept) >= self.config.per_skill

    def next_batch(self) -> range:
        """The numbers of the requests to be made now: no more than the missing prompts need."""
        missing = self.config.per_skill - len(self.kept)
        most = parallel_requests(self.config.backend)
        asked = self.counts["requests"]
        return range(asked, asked + min(most, ceil(missing / self.config.asked_per_reply)))

    def examples(self, request: int) -> list[tuple[str, str]]:
        """In-context examples as (id or seed text, text), from the pool before this batch."""
        pool = [(text, text) for text in self.skill.seeds]
        if self.config.example_pool == "growing":
            pool += [(prompt.id, prompt.text) for prompt in self.kept]
        stream = rng(self._seed, "prompts", self.skill.name, "examples", request)
        return stream.sample(pool, self.config.examples)

    def seed(self, request: int) -> int:
        return seed_for(self._seed, "prompts", self.skill.name, "request", request)

    def take(self, replies: Sequence[Reply], requests: range) -> list[Prompt]:
        """The prompts that a batch of replies adds."""
        examples = [self.examples(request) for request in requests]
        before = len(self.kept)
        for reply, shown in zip(replies, examples, strict=True):
            self._take_one(reply, tuple(parent for parent, _ in shown))
        return self.kept[before:]

    def _take_one(self, reply: Reply, parents: tuple[str, ...]) -> None:
        parsed = parse_reply(reply.text, truncated=reply.truncated)
        tokens = reply.prompt_tokens + reply.reply_tokens
        self.counts.update(
            requests=1,
            texts=len(parsed.captions),
            prompt_tokens=reply.prompt_tokens,
            reply_tokens=reply.reply_tokens,
        )
        self.cost += reply.cost
        self.dropped.update(parsed.dropped)
        before = len(self.kept)
        for text in parsed.captions:
            fault = self._fault(text)
            if fault is not None:
                self.dropped[fault] += 1
                continue
            self._index.add(text)
            self.kept.append(
                Prompt(
                    id=prompt_id(self.skill.name, text),
                    skill=self.skill.name,
                    text=text,
                    parents=parents,
                    model=self.config.backend.model,
                    tokens=round(tokens / len(parsed.captions), 3),
                )
            )
        self.without_news = 0 if len(self.kept) > before else self.without_news + 1

    def _fault(self, text: str) -> str | None:
        """Why a text is dropped; None if it is kept."""
        words = unicode_words(text)
        if self.full:
            return "surplus"
        if not words or self.skill.repeats(text):
            return "malformed"
        most = self.skill.max_words
        if max(len(words), len(text.split())) > most or len(text) > most * _CHARACTERS_PER_WORD:
            return "too_long"
        if self.skill.counts_too_far(text):
            return "count_too_high"
        if self._exam.contains(text):
            return "contaminated"
        if self._index.similar(text):
            return "similar"
        return None

    @property
    def summary(self) -> dict[str, Any]:
        """What was asked for, kept and dropped, and what it took; JSON."""
        return {
            "requests": self.counts["requests"],
            "texts": self.counts["texts"],
            "kept": len(self.kept),
            "dropped": dict(sorted(self.dropped.items())),
            "prompt_tokens": self.counts["prompt_tokens"],
            "reply_tokens": self.counts["reply_tokens"],
            "cost": round(self.cost, 6),
        }


def _fill(item: Item, desk: Desk, model: Callable[[], LanguageModel]) -> None:
    """Makes the item, or the rest of it."""
    replies, prompts = item.begin() / "replies.jsonl", item.path / "prompts.jsonl"
    for batch in _kept_replies(replies):
        desk.take(batch, desk.next_batch())
    # A crash between the two files leaves prompts behind replies: put them level.
    write_bytes(prompts, b"".join(map(_line, desk.kept)))
    desk.without_news = 0  # each start has all of its patience
    config = desk.config
    with progress(
        f"prompts: {desk.skill.name}", total=config.per_skill, done=len(desk.kept)
    ) as bar:
        while not desk.full:
            _one_batch(desk, model(), replies=replies, prompts=prompts, bar=bar)
            if desk.without_news >= config.patience and not desk.full:
                raise NoProgress(_no_progress(desk))
    item.finish([replies, prompts], desk.summary)


def _one_batch(
    desk: Desk, model: LanguageModel, *, replies: Path, prompts: Path, bar: Advance
) -> None:
    requests = desk.next_batch()
    came = _ask(desk, model, requests)
    append_line(replies, {"first": requests.start, "replies": [vars(reply) for reply in came]})
    new = desk.take(came, requests)
    with open(prompts, "ab") as file:
        file.writelines(map(_line, new))
    bar(len(new))


def _ask(desk: Desk, model: LanguageModel, requests: range) -> list[Reply]:
    """Replies in order, each numbered as the list that it goes on with."""
    config, skill = desk.config, desk.skill
    shown = [[text for _, text in desk.examples(request)] for request in requests]
    seeds = [desk.seed(request) for request in requests]
    first, asked = config.examples + 1, config.asked_per_reply
    sampling = partial(
        Sampling,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
    )
    if config.lexicon is None and model.form == "instructions":
        texts = [instructions(skill, examples, asked=asked) for examples in shown]
        return model.complete(texts, seeds=seeds, sampling=sampling())
    grammar = None
    if config.lexicon is not None:
        grammar = reply_grammar(skill, config.lexicon, first=first, asked=asked)
    texts = [continuation(skill, examples) for examples in shown]
    # A grammar ends by itself; a stop would only meet the last line break.
    stop = () if grammar else end_of_list(first=first, asked=asked)
    came = model.complete(texts, seeds=seeds, sampling=sampling(stop=stop, grammar=grammar))
    return [Reply(**{**vars(reply), "text": f"{first}.{reply.text}"}) for reply in came]


def _kept_replies(path: Path) -> Iterator[list[Reply]]:
    for line in read_lines(path, repair=True):
        yield [Reply(**reply) for reply in line["replies"]]


def _read(path: Path) -> list[Prompt]:
    return [Prompt.model_validate(line) for line in read_lines(path)]


def _line(prompt: Prompt) -> bytes:
    return (prompt.model_dump_json() + "\n").encode()


def _no_progress(desk: Desk) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in desk.dropped.most_common()) or "nothing"
    return (
        f"Skill {desk.skill.name!r} needs {desk.config.per_skill} prompts and has "
        f"{len(desk.kept)}, which are kept, but the last {desk.without_news} requests added none "
        f"(dropped so far: {reasons}). Run the same command to try again with other examples; or "
        "raise prompts.novelty.threshold or prompts.temperature, add seeds to the skill, name a "
        "larger model, or lower prompts.per_skill to what there is."
    )


def _usable_skills(config: PromptsConfig) -> list[Skill]:
    skills = load_skills(config.skills)
    for skill in skills:
        if len(skill.seeds) < config.examples:
            raise ConfigError(
                f"prompts.examples is {config.examples}, but skill {skill.name!r} has only "
                f"{len(skill.seeds)} seeds. Add seeds, or lower prompts.examples."
            )
    if config.lexicon is not None and isinstance(config.backend, ServedLLM):
        raise ConfigError(
            "prompts.lexicon holds a local model to a grammar, but prompts.backend is a server. "
            "Set prompts.lexicon to null, or use a local model."
        )
    return skills


def _recipe(
    skill: Skill, config: PromptsConfig, seed: int, exam_texts: Sequence[str]
) -> dict[str, Any]:
    """Everything that a skill's prompts depend on."""
    settings = config.model_dump(mode="json", exclude={"skills", "backend", "patience"})
    if config.lexicon is not None:
        settings["lexicon"] = caption_rules(skill, config.lexicon)
    exam = None
    if config.contamination_threshold is not None:
        exam = hashlib.sha256("\n".join(sorted(exam_texts)).encode()).hexdigest()
    return {
        "skill": skill.model_dump(mode="json"),
        "settings": settings,
        "backend": model_identity(config.backend),
        "exam": exam,
        "seed": seed,
    }


def _requests(folder: Workspace) -> Iterator[dict[str, Any]]:
    for line in folder.read_journal():
        if line.get("stage") == PROMPTS and line.get("event") == "request":
            yield line
