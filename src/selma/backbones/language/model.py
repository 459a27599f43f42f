"""What every language model that writes can be asked, and what it replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Form = Literal["instructions", "continuation"]
"""What a model understands: a wish in words, or the beginning of a text to go on with."""

Note = Callable[..., None]
"""Takes facts by keyword (event, tokens, cost, seconds) for the run's journal."""

Silence = Literal["null", "thought", "refusal", "filtered", "tool_call"]
"""Why a reply is empty: its content is null and nothing else is there; it is a thought, in a field
of its own, a refusal, or a call of a tool; a filter stopped it."""


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. `temperature` 0 is greedy; `top_p` 1 is the whole distribution."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """A reply ends before the first of these; they are not part of it."""
    grammar: str | None = None
    """llguidance's Lark; only of local models, which then continue rather than follow a wish."""


@dataclass(frozen=True)
class Reply:
    """What one request brought."""

    text: str
    prompt_tokens: int
    reply_tokens: int
    truncated: bool
    """The limit on tokens ended it, so its last words may be cut."""
    cost: float = 0.0
    silence: Silence | Literal[""] = ""
    """Why a server sent no text."""
    left_out: Sequence[str] = ()
    """Parameters that were not sent, since the server does not take them."""

    def record(self) -> dict[str, Any]:
        """As JSON, without what says nothing; `Reply(**record)` is the same reply."""
        empty = {name for name in ("silence", "left_out") if not getattr(self, name)}
        return {name: value for name, value in vars(self).items() if name not in empty}


class LanguageModel(Protocol):
    """A model that completes texts."""

    @property
    def name(self) -> str: ...

    @property
    def form(self) -> Form: ...

    @property
    def parallel(self) -> int:
        """How many requests it takes at once."""
        ...

    def complete(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: Sampling
    ) -> list[Reply]:
        """One reply for each prompt, in order. Equal calls give equal replies from a local model on
        the same machine. BackendError or ModelError if there can be no reply."""
        ...
