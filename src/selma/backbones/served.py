"""Requests to a server that speaks OpenAI's protocol: attempts, waits, limits of time and money.

Requests of one batch run side by side. What may pass (429, 5xx, broken replies, lost connections)
is tried again with growing waits; what cannot (a wrong key, no money left) ends at once. The key is
read from the environment and written nowhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from selma.backbones.language.model import Silence
from selma.backbones.limits import Limits
from selma.backbones.messages import content, silence
from selma.backbones.parameters import Parameters
from selma.backbones.refusals import advice, as_sentence, reason
from selma.backbones.server_address import Address
from selma.config.networks import Server
from selma.errors import BackendError, ConfigError
from selma.texts import without_logins, without_secrets

if TYPE_CHECKING:
    import openai

T = TypeVar("T")

_LONGEST_WAIT_S = 60.0
_LONGEST_REPLY = 1_000_000  # characters; a list of captions has some thousand
_TELLING = 8  # characters of a secret; keys that are none (EMPTY, none) may be words of a reply
_MOST_TOKENS = 2**31
_MOST_REDIRECTS = 3  # within one server
_PASSING = {408, 409, 429}


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


class _Passing(Exception):
    """A failure that another attempt may not meet; `retry_after` is the server's wish in s."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Requests:
    """All requests to one server in one run. `setting` is where the config has the server;
    `first_wait_s` is the wait before the second attempt; it doubles from there."""

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
        self._server = server
        self._setting = setting
        self._parallel = parallel
        self._note = note or (lambda **_: None)
        self._first_wait_s = first_wait_s
        try:
            # The library's own variable, read here so that what it holds is hidden as well.
            theirs = os.environ.get("OPENAI_BASE_URL") or None
            self._address = Address.of(theirs if server.base_url is None else server.base_url)
        except ValueError:
            raise ConfigError(
                f"{setting}.base_url must be a server's address, as http://127.0.0.1:8080/v1, but "
                "is none."
            ) from None
        self._limits = Limits(server, setting=setting, spent=spent)
        self._parameters = Parameters(server, where=self._where, setting=setting, note=self._note)
        self._key = os.environ.get(server.key_variable, "")
        self._secrets = tuple(filter(None, (self._key, *self._address.secrets)))
        if not self._key and server.base_url is None:
            raise ConfigError(
                f"OpenAI's server needs a key in the environment variable {server.key_variable}, "
                f"which is not set. Set it, or name another server in {setting}.base_url."
            )

    def answers(self, requests: Sequence[Request]) -> list[Answered]:
        """One for each request, in order. Raises BackendError if there can be none."""
        return _run(self._all(requests))

    async def _all(self, requests: Sequence[Request]) -> list[Answered]:
        import httpx2
        import openai

        from selma.backbones.transport import Transport

        limit = asyncio.Semaphore(self._parallel)
        client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._address.bare,
            timeout=self._server.timeout_s,
            max_retries=0,  # the library would also retry where the account is out of money
            http_client=httpx2.AsyncClient(
                transport=Transport(self._address, where=self._where, setting=self._setting),
                timeout=self._server.timeout_s,
                follow_redirects=True,
                max_redirects=_MOST_REDIRECTS,
            ),
        )

        async def one(request: Request) -> Answered:
            async with limit:
                return await self._persist(client, request)

        async with client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(request)) for request in requests]
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _persist(self, client: openai.AsyncOpenAI, request: Request) -> Answered:
        """An answer, after as many attempts as it takes and the limits allow."""
        for attempt in range(1, self._server.max_attempts + 1):
            try:
                return await self._attempt(client, request, attempt)
            except _Passing as problem:
                if attempt == self._server.max_attempts:
                    raise BackendError(
                        f"{self._where} gave no usable reply in {attempt} attempts; the last: "
                        f"{problem}. What came before is kept; run the same command to go on."
                    ) from None
                wait = self._wait(attempt, problem.retry_after)
                self._limits.check_time(ahead=wait)
            await asyncio.sleep(wait)
        raise AssertionError("max_attempts is positive")

    async def _attempt(
        self, client: openai.AsyncOpenAI, request: Request, attempt: int
    ) -> Answered:
        began = time.monotonic()
        with self._limits.reservation(request.most_tokens, request.max_new_tokens) as most:
            try:
                # The client's timeouts are for each phase; this one is for the slow drip as well.
                async with asyncio.timeout(self._limits.time_left()):
                    answer = await self._ask(client, request)
                answered = self._answered(answer, most)
            except Exception as error:
                problem = self._judged(error)
                self._note(event="failed request", model=self._server.model, problem=str(problem))
                raise problem from None
            self._limits.spend(answered.cost)
        self._note(
            event="request",
            model=self._server.model,
            prompt_tokens=answered.prompt_tokens,
            reply_tokens=answered.reply_tokens,
            cost=answered.cost,
            attempts=attempt,
            seconds=round(time.monotonic() - began, 3),
        )
        return answered

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

    def _answered(self, answer: Any, most: float) -> Answered:
        choices = getattr(answer, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            instead = self._without_key(_instead(answer))
            raise _Passing(f"the answer is no chat completion{instead}")
        text = content(choices[0].message)
        if text is None or len(text) > _LONGEST_REPLY:
            raise _Passing(f"the reply is not text of at most {_LONGEST_REPLY} characters")
        long = [secret for secret in self._secrets if len(secret) >= _TELLING]
        if without_secrets(text, long) != text:
            raise _Passing("the reply repeats the key, or what is private in the address")
        usage = getattr(answer, "usage", None)
        counts = [_tokens(usage, name) for name in ("prompt_tokens", "completion_tokens")]
        read, written = (count or 0 for count in counts)
        # Where a server does not count, the limit on cost must still hold: take the most.
        cost = most if usage is None or None in counts else self._limits.price(read, written)
        quiet = silence(choices[0]) if not text.strip() else ""
        left_out = self._parameters.left_out
        return Answered(text, quiet, choices[0], read, written, cost, left_out)

    def _judged(self, error: Exception) -> Exception:
        """The same failure in our words, whatever the server put into it."""
        try:
            return self._judge(error)
        except Exception as fault:
            return _Passing(f"a refusal that cannot be read ({type(fault).__name__})")

    def _judge(self, error: Exception) -> Exception:
        """`_Passing`, or a BackendError that ends the run."""
        import openai

        from selma.backbones.transport import Unreadable

        for known in (error, error.__cause__):
            if isinstance(known, _Passing):
                return known
            if isinstance(known, BackendError):  # names where a server redirects to
                return BackendError(self._without_key(str(known)))
            if isinstance(known, Unreadable):
                return _Passing(self._without_key(str(known)))
        what = self._without_key(str(error) or type(error).__name__)
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            # Before it is cut, and after what JSON escapes is read.
            why = self._without_key(reason(self._without_key(error.response.text)))
            why = why or "no reason is given"
            passing = status in _PASSING or status >= 500
            if passing and "insufficient_quota" not in (error.code, error.type):
                wait = error.response.headers.get("retry-after")
                fault = "; see the server's own log" if status >= 500 else ""
                return _Passing(f"status {status}: {why}{fault}", _seconds(wait))
            key = bool(self._key)
            hint = advice(status, why, self._server, setting=self._setting, has_key=key)
            return BackendError(
                f"{self._where} refused the request for good (status {status}): "
                f"{as_sentence(why)} {hint}; what came before is kept."
            )
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return _Passing(f"no reply in {self._server.timeout_s:g} s")
        if isinstance(error, AttributeError | KeyError | IndexError | TypeError | ValueError):
            return _Passing("the answer has not the shape of a chat completion")
        cause = f" ({error.__cause__})" if str(error.__cause__ or "") else ""
        return _Passing(
            self._without_key(f"{type(error).__name__}: {what.rstrip('.'):.200}{cause:.200}")
        )

    @property
    def _where(self) -> str:
        return f"{self._address.bare or 'OpenAI'} (model {self._server.model})"

    def _without_key(self, text: str) -> str:
        return without_logins(without_secrets(text, self._secrets))

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        # Jitter keeps requests that failed together from coming back together.
        grown = self._first_wait_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        return min(_LONGEST_WAIT_S, grown if retry_after is None else max(retry_after, 0.0))


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


def _seconds(header: str | None) -> float | None:
    """A Retry-After header, in seconds or as a date; None where it says nothing."""
    if not header:
        return None
    try:
        value = float(header)
        return value if value == value else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(header)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return (when - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where a loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
