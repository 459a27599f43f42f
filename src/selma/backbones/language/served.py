"""A language model behind a server that speaks OpenAI's protocol (chat completions)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selma.backbones.language.loading import parallel_requests
from selma.backbones.language.model import Form, Note, Reply, Sampling
from selma.backbones.served import Answered, Request, Requests
from selma.config.networks import ServedLLM
from selma.errors import ConfigError


class ServedModel:
    """A model on a server; see `selma.backbones.language.model.LanguageModel`."""

    form: Form = "instructions"

    def __init__(
        self,
        backend: ServedLLM,
        *,
        note: Note | None = None,
        spent: float = 0.0,
        first_wait_s: float = 1.0,
    ) -> None:
        self.name = backend.model
        self.parallel = parallel_requests(backend)
        self._requests = Requests(
            backend,
            setting="prompts.backend",
            parallel=self.parallel,
            note=note,
            spent=spent,
            first_wait_s=first_wait_s,
        )

    def complete(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: Sampling
    ) -> list[Reply]:
        """See `LanguageModel.complete`. A server's replies need not be equal for equal seeds."""
        if sampling.grammar is not None:
            raise ConfigError(
                "prompts.lexicon holds a local model to a grammar, but prompts.backend is a "
                "server. Set prompts.lexicon to null, or use a local model."
            )
        asked = [_request(p, s, sampling) for p, s in zip(prompts, seeds, strict=True)]
        return [_reply(answered) for answered in self._requests.answers(asked)]


def _request(prompt: str, seed: int, sampling: Sampling) -> Request:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": sampling.temperature,
        "seed": seed % 2**31,  # some servers keep seeds in 32 bits
    }
    if sampling.top_p < 1:  # some models take either this or a temperature
        asked["top_p"] = sampling.top_p
    if sampling.stop:
        asked["stop"] = list(sampling.stop)
    # A token is at least one byte of text; the chat template adds a few.
    return Request(asked, sampling.max_new_tokens, most_tokens=len(prompt.encode()) + 64)


def _reply(answered: Answered) -> Reply:
    return Reply(
        text=answered.text,
        prompt_tokens=answered.prompt_tokens,
        reply_tokens=answered.reply_tokens,
        truncated=answered.choice.finish_reason == "length",
        cost=answered.cost,
        silence=answered.silence,
        left_out=answered.left_out,
    )
