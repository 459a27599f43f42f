"""What is sent with a request to a server: all that it takes.

A parameter that a refusal names is left out from then on, which is said once and noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selma.backbones.refusals import reason, refused_parameter
from selma.config.networks import Server
from selma.progress import console

_LIMIT, _NEWER_LIMIT = "max_tokens", "max_completion_tokens"
_EFFECTS = {
    "seed": "equal requests need not bring equal replies",
    "temperature": "replies are drawn at the server's own temperature",
    "top_p": "replies are drawn from the server's own part of the distribution",
    "logprobs": "answers come without probabilities",
    "top_logprobs": "answers come without probabilities",
    "stop": "replies may be longer",
    _NEWER_LIMIT: "only the server bounds the length of replies",
}
_REFUSED: dict[tuple[str | None, str], set[str]] = {}
"""(address, model) → parameters that this server does not take: what one part of a process found
out, all of it knows."""


class Parameters:
    """What one server takes. `where` and `setting` are its address and place in the config, for
    messages; `note` writes to the journal."""

    def __init__(
        self, server: Server, *, where: str, setting: str, note: Callable[..., None]
    ) -> None:
        self._server = server
        self._where = where
        self._setting = setting
        self._note = note
        self._refused = _REFUSED.setdefault((server.base_url, server.model), set())

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the server turned out not to take, under any name."""
        return tuple(sorted(self._refused - {_LIMIT}))

    def sent(self, asked: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
        """What is sent of a request: all but what the server refused or the settings omit."""
        out = {*self._refused, *self._server.omit}
        limit = {_NEWER_LIMIT if _LIMIT in out else _LIMIT: max_new_tokens}
        if _LIMIT in self._server.omit:
            limit = {}
        if "logprobs" in out:
            out.add("top_logprobs")
        return {name: value for name, value in {**asked, **limit}.items() if name not in out}

    def leave_out(self, body: str, sent: Mapping[str, Any]) -> bool:
        """Whether a refusal with this body names a parameter that is left out from now on."""
        name = refused_parameter(body, sent.keys() - {"messages"})
        if _LIMIT in sent and _NEWER_LIMIT in body:
            name = _LIMIT
        if name is None or (name == _NEWER_LIMIT and self._server.max_cost is not None):
            return False  # without a limit on tokens there is none on cost
        if name not in self._refused:
            self._refused.add(name)
            why = reason(body)
            self._note(event="left out", model=self._server.model, parameter=name, reason=why)
            if name != _LIMIT:  # which has another name
                self._say(name, why)
        return True

    def _say(self, name: str, why: str) -> None:
        console.print(
            f"Warning: {self._where} does not take {name}, which is left out from now on: "
            f"{_EFFECTS.get(name, 'its own choice holds')} ({why}). {self._setting}.omit leaves it "
            "out from the start.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
