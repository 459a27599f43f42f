"""A language model behind a server that speaks OpenAI's protocol (chat completions).

Requests of one batch run side by side. What may pass (429, 5xx, broken replies, lost connections)
is tried again with growing waits; what cannot (a wrong key, no money left) ends at once. The key is
read from the environment and written nowhere.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from selma.backbones.language import Form, Note, Reply, Sampling, parallel_requests
from selma.config import ServedLLM
from selma.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openai

T = TypeVar("T")

_LONGEST_WAIT_S = 60.0
_LONGEST_REPLY = 1_000_000  # characters; a list of captions has some thousand
_PASSING = {408, 409, 429}


class _Passing(Exception):
    """A failure that another attempt may not meet; `retry_after` is the server's wish in s."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServedModel:
    """A model on a server; see `selma.backbones.language.LanguageModel`.

    `first_wait_s` is the wait before the second attempt; it doubles from there.
    """

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
        self._backend = backend
        self._note = note or (lambda **_: None)
        self._spent = spent
        self._reserved = 0.0
        self._first_wait_s = first_wait_s
        self._began = time.monotonic()
        self._limit_name = "max_tokens"
        self._key = os.environ.get(backend.key_variable, "")
        if not self._key and backend.base_url is None:
            raise ConfigError(
                f"OpenAI's server needs a key in the environment variable {backend.key_variable}, "
                "which is not set. Set it, or name another server in prompts.backend.base_url."
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
        return _run(self._complete_all(prompts, seeds, sampling))

    async def _complete_all(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
    ) -> list[Reply]:
        import openai

        limit = asyncio.Semaphore(self.parallel)
        client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._backend.base_url,
            timeout=self._backend.timeout_s,
            max_retries=0,  # the library would also retry where the account is out of money
        )

        async def one(prompt: str, seed: int) -> Reply:
            async with limit:
                return await self._persist(client, prompt, seed, sampling)

        async with client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(one(prompt, seed))
                        for prompt, seed in zip(prompts, seeds, strict=True)
                    ]
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _persist(
        self, client: openai.AsyncOpenAI, prompt: str, seed: int, sampling: Sampling
    ) -> Reply:
        """A reply, after as many attempts as it takes and the limits allow."""
        for attempt in range(1, self._backend.max_attempts + 1):
            try:
                return await self._attempt(client, prompt, seed, sampling, attempt)
            except _Passing as problem:
                if attempt == self._backend.max_attempts:
                    raise BackendError(
                        f"{self._where} gave no usable reply in {attempt} attempts; the last: "
                        f"{problem}. What came before is kept; run the same command to go on."
                    ) from None
                wait = self._wait(attempt, problem.retry_after)
                self._check_time(ahead=wait)
            await asyncio.sleep(wait)
        raise AssertionError("max_attempts is positive")

    async def _attempt(
        self,
        client: openai.AsyncOpenAI,
        prompt: str,
        seed: int,
        sampling: Sampling,
        attempt: int,
    ) -> Reply:
        began = time.monotonic()
        with self._reservation(prompt, sampling) as most:
            try:
                # The client's timeouts are for each phase; this one is for the slow drip as well.
                async with asyncio.timeout(self._time_left()):
                    answer = await self._ask(client, prompt, seed, sampling)
                reply = self._reply(answer, most)
            except Exception as error:
                problem = self._judge(error)
                self._note(event="failed request", model=self.name, problem=str(problem))
                raise problem from None
            self._spent += reply.cost
        self._note(
            event="request",
            model=self.name,
            prompt_tokens=reply.prompt_tokens,
            reply_tokens=reply.reply_tokens,
            cost=reply.cost,
            attempts=attempt,
            seconds=round(time.monotonic() - began, 3),
        )
        return reply

    async def _ask(
        self, client: openai.AsyncOpenAI, prompt: str, seed: int, sampling: Sampling
    ) -> Any:
        import openai

        asked: dict[str, Any] = {
            "model": self._backend.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed % 2**31,  # some servers keep seeds in 32 bits
        }
        if sampling.stop:
            asked["stop"] = list(sampling.stop)
        create: Any = client.chat.completions.create  # its overloads know no ** of a dict
        try:
            return await create(**asked, **{self._limit_name: sampling.max_new_tokens})
        except openai.BadRequestError as error:
            if self._limit_name != "max_tokens" or "max_completion_tokens" not in str(error):
                raise
            self._limit_name = "max_completion_tokens"  # as OpenAI's newer models want it
        return await create(**asked, **{self._limit_name: sampling.max_new_tokens})

    def _reply(self, answer: Any, most: float) -> Reply:
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
        return Reply(
            text=text,
            prompt_tokens=read,
            reply_tokens=written,
            truncated=choices[0].finish_reason == "length",
            cost=cost,
        )

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
                f"{what:.300}. Check the key in {self._backend.key_variable}, the model's name "
                "and the account; what came before is kept."
            )
        if isinstance(error, BackendError | _Passing):
            return error
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return _Passing(f"no reply in {self._backend.timeout_s:g} s")
        return _Passing(f"{type(error).__name__}: {what:.200}")

    @property
    def _where(self) -> str:
        return f"{self._backend.base_url or 'OpenAI'} (model {self.name})"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "<key>") if self._key else text

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        # Jitter keeps five requests that failed together from coming back together.
        grown = self._first_wait_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        return min(_LONGEST_WAIT_S, grown if retry_after is None else max(retry_after, 0.0))

    def _time_left(self) -> float:
        self._check_time()
        longest = self._backend.max_seconds
        left = float("inf") if longest is None else self._began + longest - time.monotonic()
        return min(self._backend.timeout_s, left)

    def _check_time(self, *, ahead: float = 0.0) -> None:
        longest = self._backend.max_seconds
        if longest is not None and time.monotonic() + ahead >= self._began + longest:
            raise BackendError(
                f"prompts.backend.max_seconds allows {longest:g} s, which are over. What came is "
                "kept; run the same command to go on, or raise the limit."
            )

    def _price(self, read: float, written: float) -> float:
        backend = self._backend
        return (
            read * backend.price_per_million_input + written * backend.price_per_million_output
        ) / 1e6

    @contextmanager
    def _reservation(self, prompt: str, sampling: Sampling) -> Iterator[float]:
        """Holds back the most that a request can cost, so that no batch outspends the limit."""
        # A token is at least one byte of text; the chat template adds a few.
        most = self._price(len(prompt.encode()) + 64, sampling.max_new_tokens)
        limit = self._backend.max_cost
        if limit is not None and self._spent + self._reserved + most > limit:
            raise BackendError(
                f"prompts.backend.max_cost allows {limit:g}; {self._spent:.4g} is spent, and one "
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
