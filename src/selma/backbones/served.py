"""Chat completions of a server that speaks OpenAI's protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from selma.backbones.exchange import Exchange, Passing
from selma.backbones.language.model import Silence
from selma.backbones.messages import content, silence
from selma.backbones.parameters import Parameters
from selma.backbones.refusals import reason
from selma.config.networks import Server

if TYPE_CHECKING:
    import openai

_LONGEST_REPLY = 1_000_000  # characters; a list of captions has some thousand
_MOST_TOKENS = 2**31


@dataclass(frozen=True)
class Request:
    """One chat completion: `asked` is what the client is called with, without the limit on tokens.
    `most_tokens` bounds what is read. A server may refuse whatever is asked beside the messages."""

    asked: dict[str, Any]
    max_new_tokens: int
    most_tokens: int


@dataclass(frozen=True)
class Answered:
    """What one request brought; `choice` is the client's own record of the reply."""

    text: str
    silence: Silence | Literal[""]
    choice: Any
    prompt_tokens: int
    reply_tokens: int
    cost: float
    left_out: tuple[str, ...]
    """Parameters that the server does not take."""


class Requests(Exchange[Request, Answered]):
    """All chat completions of one server in one run; see `Exchange`."""

    def __init__(
        self,
        server: Server,
        *,
        setting: str,
        parallel: int,
        note: Callable[..., None] | None = None,
        spent: float = 0.0,
        first_wait_s: float = 1.0,
    ) -> None:
        super().__init__(
            server,
            setting=setting,
            parallel=parallel,
            note=note,
            spent=spent,
            first_wait_s=first_wait_s,
        )
        self._server = server
        self._parameters = Parameters(server, where=self.where, setting=setting, note=self._note)

    async def _ask(self, client: openai.AsyncOpenAI, request: Request) -> Any:
        import openai

        create: Any = client.chat.completions.create  # its overloads know no ** of a dict
        while True:
            sent = self._parameters.sent(request.asked, request.max_new_tokens)
            try:
                return await create(model=self._server.model, **sent)
            except openai.APIStatusError as error:
                body = self._without_key(error.response.text)
                if error.status_code not in (400, 422) or not self._parameters.leave_out(
                    body, sent
                ):
                    raise

    def _read(self, answer: Any, request: Request, most: float) -> Answered:
        choices = getattr(answer, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            instead = self._without_key(_instead(answer))
            raise Passing(f"the answer is no chat completion{instead}")
        text = content(choices[0].message)
        if text is None or len(text) > _LONGEST_REPLY:
            raise Passing(f"the reply is not text of at most {_LONGEST_REPLY} characters")
        self._require_no_secret(text)
        usage = getattr(answer, "usage", None)
        counts = [_tokens(usage, name) for name in ("prompt_tokens", "completion_tokens")]
        read, written = (count or 0 for count in counts)
        # Where a server does not count, the limit on cost must still hold: take the most.
        cost = most if usage is None or None in counts else self._server.price(read, written)
        quiet = silence(choices[0]) if not text.strip() else ""
        left_out = self._parameters.left_out
        return Answered(text, quiet, choices[0], read, written, cost, left_out)

    def _most(self, request: Request) -> float:
        return self._server.price(request.most_tokens, request.max_new_tokens)

    def _cost(self, got: Answered) -> float:
        return got.cost

    def _facts(self, got: Answered) -> dict[str, Any]:
        return {"prompt_tokens": got.prompt_tokens, "reply_tokens": got.reply_tokens}


def _tokens(usage: Any, name: str) -> int | None:
    """A count that a server told, 0 where it told none; None for what is no number of tokens."""
    told = getattr(usage, name, None) or 0
    if not isinstance(told, int | float) or not 0 <= told <= _MOST_TOKENS:
        return None
    return int(told)


def _instead(answer: Any) -> str:
    """What an answer is that is no chat completion, in the server's words."""
    extra = getattr(answer, "model_extra", None) or {}
    text = answer if isinstance(answer, str) else json.dumps(extra) if extra.get("error") else ""
    return f": {reason(text)}" if text.strip() else ""
