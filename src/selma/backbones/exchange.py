"""Requests to one server: attempts, waits, limits of time and money, whatever is asked.

Requests run side by side. What may pass (429, 5xx, broken replies, lost connections) is tried again
with growing waits; what cannot (a wrong key, no money left) ends at once. The key is read from the
environment and written nowhere.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from selma.backbones.limits import Limits
from selma.backbones.refusals import OF_CHAT, Advice, advice, as_sentence, reason
from selma.backbones.server_address import Address
from selma.config.networks import Endpoint
from selma.errors import BackendError, ConfigError
from selma.texts import without_logins, without_secrets

if TYPE_CHECKING:
    import openai

T = TypeVar("T")
Asked = TypeVar("Asked")
Got = TypeVar("Got")

_LONGEST_WAIT_S = 60.0
_TELLING = 8  # characters of a secret; keys that are none (EMPTY, none) may be words of a reply
_MOST_REDIRECTS = 3  # within one server
_PASSING = {408, 409, 429}


class Passing(Exception):
    """A failure that another attempt may not meet; `retry_after` is the server's wish in s."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Exchange(ABC, Generic[Asked, Got]):
    """All requests to one server in one run. `setting` is where the config has the server;
    `first_wait_s` is the wait before the second attempt; it doubles from there."""

    what = "chat completion"
    """What a reply must be, for messages."""
    most_bytes: int | None = None
    """Of a reply; None is the transport's own limit."""
    advice: Advice = OF_CHAT

    def __init__(
        self,
        server: Endpoint,
        *,
        setting: str,
        parallel: int,
        note: Callable[..., None] | None = None,
        spent: float = 0.0,
        first_wait_s: float = 1.0,
    ) -> None:
        self._endpoint = server
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
        self._key = os.environ.get(server.key_variable, "")
        self._secrets = tuple(filter(None, (self._key, *self._address.secrets)))
        if not self._key and server.base_url is None:
            raise ConfigError(
                f"OpenAI's server needs a key in the environment variable {server.key_variable}, "
                f"which is not set. Set it, or name another server in {setting}.base_url."
            )

    @abstractmethod
    async def _ask(self, client: openai.AsyncOpenAI, request: Asked) -> Any:
        """One attempt: what the server sends."""

    @abstractmethod
    def _read(self, answer: Any, request: Asked, most: float) -> Got:
        """What an answer holds. most: the most that it can have cost. Raises Passing, or a
        BackendError that ends the run."""

    @abstractmethod
    def _most(self, request: Asked) -> float:
        """The most that a request can cost."""

    @abstractmethod
    def _cost(self, got: Got) -> float:
        """What a reply has cost."""

    @abstractmethod
    def _facts(self, got: Got) -> dict[str, Any]:
        """What the journal keeps of a reply."""

    def answers(self, requests: Sequence[Asked]) -> list[Got]:
        """One for each request, in order. Raises BackendError if there can be none."""
        return run(self._all(requests))

    def stream(self, requests: Sequence[Asked]) -> Iterator[Got]:
        """The same one after the other, while the next ones are asked already: never more than
        run side by side are on their way or wait to be taken."""
        with _loop() as loop:
            client = self._client()
            ahead: deque[Future[Got]] = deque()
            try:
                for request in requests:
                    ahead.append(
                        asyncio.run_coroutine_threadsafe(self._persist(client, request), loop)
                    )
                    if len(ahead) == self._parallel:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()
                asyncio.run_coroutine_threadsafe(client.close(), loop).result()

    def _client(self) -> openai.AsyncOpenAI:
        import httpx2
        import openai

        from selma.backbones.transport import Transport

        return openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._address.bare,
            timeout=self._endpoint.timeout_s,
            max_retries=0,  # the library would also retry where the account is out of money
            http_client=httpx2.AsyncClient(
                transport=Transport(
                    self._address,
                    where=self.where,
                    setting=self._setting,
                    most_bytes=self.most_bytes,
                ),
                timeout=self._endpoint.timeout_s,
                follow_redirects=True,
                max_redirects=_MOST_REDIRECTS,
            ),
        )

    async def _all(self, requests: Sequence[Asked]) -> list[Got]:
        limit = asyncio.Semaphore(self._parallel)
        client = self._client()

        async def one(request: Asked) -> Got:
            async with limit:
                return await self._persist(client, request)

        async with client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(request)) for request in requests]
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _persist(self, client: openai.AsyncOpenAI, request: Asked) -> Got:
        """An answer, after as many attempts as it takes and the limits allow."""
        for attempt in range(1, self._endpoint.max_attempts + 1):
            try:
                return await self._attempt(client, request, attempt)
            except Passing as problem:
                if attempt == self._endpoint.max_attempts:
                    raise BackendError(
                        f"{self.where} gave no usable reply in {attempt} attempts; the last: "
                        f"{problem}. What came before is kept; run the same command to go on."
                    ) from None
                wait = self._wait(attempt, problem.retry_after)
                self._limits.check_time(ahead=wait)
            await asyncio.sleep(wait)
        raise AssertionError("max_attempts is positive")

    async def _attempt(self, client: openai.AsyncOpenAI, request: Asked, attempt: int) -> Got:
        began = time.monotonic()
        with self._limits.reservation(most := self._most(request)):
            cost = 0.0
            try:
                # The client's timeouts are for each phase; this one is for the slow drip as well.
                async with asyncio.timeout(self._limits.time_left()):
                    answer = await self._ask(client, request)
                cost = most  # a reply that is of no use was paid for, too
                got = self._read(answer, request, most)
            except Exception as error:
                problem = self._judged(error)
                self._limits.spend(cost)
                self._note(
                    event="failed request",
                    model=self._endpoint.model,
                    problem=str(problem),
                    **({"cost": cost} if cost else {}),
                )
                raise problem from None
            self._limits.spend(cost := self._cost(got))
        self._note(
            event="request",
            model=self._endpoint.model,
            **self._facts(got),
            cost=cost,
            attempts=attempt,
            seconds=round(time.monotonic() - began, 3),
        )
        return got

    def _require_no_secret(self, text: str) -> None:
        """Raises Passing for a reply that repeats what is private."""
        long = [secret for secret in self._secrets if len(secret) >= _TELLING]
        if without_secrets(text, long) != text:
            raise Passing("the reply repeats the key, or what is private in the address")

    def _judged(self, error: Exception) -> Exception:
        """The same failure in our words, whatever the server put into it."""
        try:
            return self._judge(error)
        except Exception as fault:
            return Passing(f"a refusal that cannot be read ({type(fault).__name__})")

    def _judge(self, error: Exception) -> Exception:
        """`Passing`, or a BackendError that ends the run."""
        import openai

        from selma.backbones.transport import Unreadable

        for known in (error, error.__cause__):
            if isinstance(known, Passing):
                return known
            if isinstance(known, BackendError):  # names where a server redirects to
                return BackendError(self._without_key(str(known)))
            if isinstance(known, Unreadable):
                return Passing(self._without_key(str(known)))
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
                return Passing(f"status {status}: {why}{fault}", _seconds(wait))
            key = bool(self._key)
            hint = advice(
                status, why, self._endpoint, setting=self._setting, has_key=key, words=self.advice
            )
            return BackendError(
                f"{self.where} refused the request for good (status {status}): "
                f"{as_sentence(why)} {hint}; what came before is kept."
            )
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return Passing(f"no reply in {self._endpoint.timeout_s:g} s")
        if isinstance(error, AttributeError | KeyError | IndexError | TypeError | ValueError):
            return Passing(f"the answer has not the shape of a {self.what}")
        cause = f" ({error.__cause__})" if str(error.__cause__ or "") else ""
        return Passing(
            self._without_key(f"{type(error).__name__}: {what.rstrip('.'):.200}{cause:.200}")
        )

    @property
    def where(self) -> str:
        """The server and its model, for messages."""
        return f"{self._address.bare or 'OpenAI'} (model {self._endpoint.model})"

    def _without_key(self, text: str) -> str:
        return without_logins(without_secrets(text, self._secrets))

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        # Jitter keeps requests that failed together from coming back together.
        grown = self._first_wait_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        return min(_LONGEST_WAIT_S, grown if retry_after is None else max(retry_after, 0.0))


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


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, also where a loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
