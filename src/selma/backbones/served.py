"""Requests to a server that speaks OpenAI's protocol: attempts, waits, limits of time and money.

Requests of one batch run side by side. What may pass (429, 5xx, broken replies, lost connections)
is tried again with growing waits; what cannot (a wrong key, no money left) ends at once. The key is
read from the environment and written nowhere.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from selma.config.networks import Server
from selma.config.places import bare_address
from selma.errors import BackendError, ConfigError

if TYPE_CHECKING:
    import openai

T = TypeVar("T")

_LONGEST_WAIT_S = 60.0
_LONGEST_REPLY = 1_000_000  # characters; a list of captions has some thousand
_PASSING = {408, 409, 429}


@dataclass(frozen=True)
class Request:
    """One chat completion: `asked` is what the client is called with, without the limit on tokens.
    `most_tokens` bounds what is read; a server may refuse what `optional` names."""

    asked: dict[str, Any]
    max_new_tokens: int
    most_tokens: int
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """What one request brought; `choice` is the client's own record of the reply."""

    text: str
    choice: Any
    prompt_tokens: int
    reply_tokens: int
    cost: float


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
        self._spent = spent
        self._reserved = 0.0
        self._first_wait_s = first_wait_s
        self._began = time.monotonic()
        self._limit_name = "max_tokens"
        self._refused: set[str] = set()
        self._key = os.environ.get(server.key_variable, "")
        if not self._key and server.base_url is None:
            raise ConfigError(
                f"OpenAI's server needs a key in the environment variable {server.key_variable}, "
                f"which is not set. Set it, or name another server in {setting}.base_url."
            )

    def answers(self, requests: Sequence[Request]) -> list[Answered]:
        """One for each request, in order. Raises BackendError if there can be none."""
        return _run(self._all(requests))

    async def _all(self, requests: Sequence[Request]) -> list[Answered]:
        import openai

        limit = asyncio.Semaphore(self._parallel)
        client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._server.base_url,
            timeout=self._server.timeout_s,
            max_retries=0,  # the library would also retry where the account is out of money
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
                self._check_time(ahead=wait)
            await asyncio.sleep(wait)
        raise AssertionError("max_attempts is positive")

    async def _attempt(
        self, client: openai.AsyncOpenAI, request: Request, attempt: int
    ) -> Answered:
        began = time.monotonic()
        with self._reservation(request) as most:
            try:
                # The client's timeouts are for each phase; this one is for the slow drip as well.
                async with asyncio.timeout(self._time_left()):
                    answer = await self._ask(client, request)
                answered = self._answered(answer, most)
            except Exception as error:
                problem = self._judge(error)
                self._note(event="failed request", model=self._server.model, problem=str(problem))
                raise problem from None
            self._spent += answered.cost
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
            asked = {name: v for name, v in request.asked.items() if name not in self._refused}
            asked[self._limit_name] = request.max_new_tokens
            try:
                return await create(model=self._server.model, **asked)
            except openai.BadRequestError as error:
                if "max_completion_tokens" in str(error) and "max_tokens" in asked:
                    self._limit_name = "max_completion_tokens"  # as OpenAI's newer models want it
                    continue
                unwanted = {name for name in request.optional if name in asked}
                if not unwanted or not any(name in str(error) for name in unwanted):
                    raise
                self._refused |= unwanted

    def _answered(self, answer: Any, most: float) -> Answered:
        choices = getattr(answer, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise _Passing("the answer is no chat completion")
        text = choices[0].message.content or ""
        if not isinstance(text, str) or len(text) > _LONGEST_REPLY:
            raise _Passing(f"the reply is not text of at most {_LONGEST_REPLY} characters")
        usage = getattr(answer, "usage", None)
        read, written = (
            max(int(getattr(usage, name, None) or 0), 0)
            for name in ("prompt_tokens", "completion_tokens")
        )
        # Where a server does not count, the limit on cost must still hold: take the most.
        cost = self._price(read, written) if usage is not None else most
        return Answered(text, choices[0], read, written, cost)

    def _judge(self, error: Exception) -> Exception:
        """The same failure in our words: `_Passing`, or a BackendError that ends the run."""
        import openai

        what = self._without_key(str(error) or type(error).__name__)
        if isinstance(error, openai.APIStatusError):
            passing = error.status_code in _PASSING or error.status_code >= 500
            if passing and "insufficient_quota" not in (error.code, error.type):
                wait = error.response.headers.get("retry-after")
                return _Passing(f"status {error.status_code}: {what:.200}", _seconds(wait))
            return BackendError(
                f"{self._where} refused the request for good (status {error.status_code}): "
                f"{what:.300}. Check the key in {self._server.key_variable}, the model's name "
                "and the account; what came before is kept."
            )
        if isinstance(error, BackendError | _Passing):
            return error
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return _Passing(f"no reply in {self._server.timeout_s:g} s")
        return _Passing(f"{type(error).__name__}: {what:.200}")

    @property
    def _where(self) -> str:
        return f"{bare_address(self._server.base_url) or 'OpenAI'} (model {self._server.model})"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "<key>") if self._key else text

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        # Jitter keeps requests that failed together from coming back together.
        grown = self._first_wait_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        return min(_LONGEST_WAIT_S, grown if retry_after is None else max(retry_after, 0.0))

    def _time_left(self) -> float:
        self._check_time()
        longest = self._server.max_seconds
        left = float("inf") if longest is None else self._began + longest - time.monotonic()
        return min(self._server.timeout_s, left)

    def _check_time(self, *, ahead: float = 0.0) -> None:
        longest = self._server.max_seconds
        if longest is not None and time.monotonic() + ahead >= self._began + longest:
            raise BackendError(
                f"{self._setting}.max_seconds allows {longest:g} s, which are over. What came is "
                "kept; run the same command to go on, or raise the limit."
            )

    def _price(self, read: float, written: float) -> float:
        server = self._server
        return (
            read * server.price_per_million_input + written * server.price_per_million_output
        ) / 1e6

    @contextmanager
    def _reservation(self, request: Request) -> Iterator[float]:
        """Holds back the most that a request can cost, so that no batch outspends the limit."""
        most = self._price(request.most_tokens, request.max_new_tokens)
        limit = self._server.max_cost
        if limit is not None and self._spent + self._reserved + most > limit:
            raise BackendError(
                f"{self._setting}.max_cost allows {limit:g}; {self._spent:.4g} is spent, and one "
                f"more request may cost {most:.4g}. What came is kept; raise the limit and run "
                "the same command to go on."
            )
        self._reserved += most
        try:
            yield most
        finally:
            self._reserved -= most


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
    except (TypeError, ValueError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return (when - datetime.now(UTC)).total_seconds()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where a loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
