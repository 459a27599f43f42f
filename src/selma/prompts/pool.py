"""One skill's prompts as they grow: what to ask next, and what to keep of what comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from math import ceil
from typing import Any

from selma.backbones.language.loading import model_identity, parallel_requests
from selma.backbones.language.model import Reply
from selma.config.prompts import PromptsConfig
from selma.prompts.contamination import index_of
from selma.prompts.novelty import SimilarityIndex, unicode_words
from selma.prompts.outcomes import outcome
from selma.prompts.parsing import parse_reply
from selma.prompts.skills import Skill
from selma.randomness import rng, seed_for
from selma.records.prompts import Prompt, prompt_id

_CHARACTERS_PER_WORD = 20
"""A text of few but endless words is over its limit, too."""


class PromptPool:
    """One skill's prompts as they grow: which examples to show next, and what is kept of a reply.

    A pure function of the replies put in, in order; touches no disk and no model.
    """

    def __init__(
        self, skill: Skill, config: PromptsConfig, *, seed: int, benchmark_texts: Sequence[str]
    ) -> None:
        self.skill = skill
        self.config = config
        self.kept: list[Prompt] = []
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        """Replies by what became of them; see `selma.prompts.outcomes`."""
        self.left_out: set[str] = set()
        """Parameters that a server did not take."""
        self.cost = 0.0
        self.without_news = 0
        """Requests in a row that added nothing."""
        self._no_captions = set[str]()
        self._seed = seed
        self._model = model_identity(config.backend)["model"]
        self._benchmark = index_of(tuple(benchmark_texts), threshold=config.contamination_threshold)
        self._index = SimilarityIndex(config.novelty.threshold, config.novelty.arithmetic)
        for text in skill.seeds:
            self._index.add(text)

    @property
    def full(self) -> bool:
        """Whether there are as many prompts as asked for."""
        return len(self.kept) >= self.config.per_skill

    def next_batch(self) -> range:
        """The numbers of the requests to be made now: no more than the missing prompts need."""
        missing = self.config.per_skill - len(self.kept)
        most = parallel_requests(self.config.backend)
        asked = self.counts["requests"]
        return range(asked, asked + min(most, ceil(missing / self.config.asked_per_reply)))

    def examples(self, request: int) -> list[tuple[str, str]]:
        """In-context examples as (id or seed text, text), from the pool before this batch."""
        seeds = self.skill.seeds
        grown = self.kept if self.config.example_pool == "growing" else []
        stream = rng(self._seed, "prompts", self.skill.name, "examples", request)
        # Of numbers, since a list of all prompts for each request takes longer than the rest.
        numbers = stream.sample(range(len(seeds) + len(grown)), self.config.examples)
        return [
            (seeds[n], seeds[n])
            if n < len(seeds)
            else (grown[n - len(seeds)].id, grown[n - len(seeds)].text)
            for n in numbers
        ]

    def seed(self, request: int) -> int:
        """Seed of a request to the language model."""
        return seed_for(self._seed, "prompts", self.skill.name, "request", request)

    def candidates(self, replies: Sequence[Reply]) -> list[str]:
        """The different captions of a batch that nothing speaks against so far."""
        texts = (
            text
            for reply in replies
            for text in parse_reply(reply.text, truncated=reply.truncated).captions
        )
        return [text for text in dict.fromkeys(texts) if self._fault(text) is None]

    def take(
        self, replies: Sequence[Reply], requests: range, *, no_captions: Collection[str] = ()
    ) -> list[Prompt]:
        """The prompts that a batch of replies adds.

        no_captions: texts among them that the quality gate does not let pass.
        """
        self._no_captions.update(no_captions)
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
                    model=self._model,
                    tokens=round(tokens / len(parsed.captions), 3),
                )
            )
        self.outcomes[outcome(reply, parsed, new=len(self.kept) - before)] += 1
        self.left_out.update(reply.left_out)
        self.without_news = 0 if len(self.kept) > before else self.without_news + 1

    def _fault(self, text: str) -> str | None:
        """Why a text is dropped; None if it is kept."""
        words = unicode_words(text)
        if self.full:
            return "surplus"
        if not words:
            return "malformed"
        most = self.skill.max_words
        if max(len(words), len(text.split())) > most or len(text) > most * _CHARACTERS_PER_WORD:
            return "too_long"
        if self.skill.counts_too_far(text):
            return "count_too_high"
        if (lack := self.skill.lacks(text)) is not None:
            return lack
        if text in self._no_captions:
            return "no_caption"
        if self._benchmark.contains(text):
            return "contaminated"
        if self._index.similar(text):
            return "similar"
        return None

    @property
    def summary(self) -> dict[str, Any]:
        """What was asked for, kept and dropped, and what it took; JSON."""
        left_out = {"left_out": sorted(self.left_out)} if self.left_out else {}
        return left_out | {
            "requests": self.counts["requests"],
            "replies": dict(sorted(self.outcomes.items())),
            "texts": self.counts["texts"],
            "kept": len(self.kept),
            "dropped": dict(sorted(self.dropped.items())),
            "prompt_tokens": self.counts["prompt_tokens"],
            "reply_tokens": self.counts["reply_tokens"],
            "cost": round(self.cost, 6),
        }
