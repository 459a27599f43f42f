"""The limits of time and money for all requests to one server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from selma.config.networks import Endpoint
from selma.errors import BackendError


class Limits:
    """What is left of `server`'s limits; `setting` is where the config has it, `spent` what earlier
    requests have cost. Every method raises BackendError where a limit is reached."""

    def __init__(self, server: Endpoint, *, setting: str, spent: float) -> None:
        self._server = server
        self._setting = setting
        self._spent = spent
        self._reserved = 0.0
        self._began = time.monotonic()

    def time_left(self) -> float:
        """Seconds that one more request may take."""
        self.check_time()
        longest = self._server.max_seconds
        left = float("inf") if longest is None else self._began + longest - time.monotonic()
        return min(self._server.timeout_s, left)

    def check_time(self, *, ahead: float = 0.0) -> None:
        """Whether there is time left, `ahead` seconds from now."""
        longest = self._server.max_seconds
        if longest is not None and time.monotonic() + ahead >= self._began + longest:
            raise BackendError(
                f"{self._setting}.max_seconds allows {longest:g} s, which are over. What came is "
                "kept; run the same command to go on, or raise the limit."
            )

    def spend(self, cost: float) -> None:
        self._spent += cost

    @contextmanager
    def reservation(self, most: float) -> Iterator[None]:
        """Holds back the most that a request can cost, so that no batch outspends the limit."""
        limit = self._server.max_cost
        if limit is not None and self._spent + self._reserved + most > limit:
            raise BackendError(
                f"{self._setting}.max_cost allows {limit:g}; {self._spent:.4g} is spent, and one "
                f"more request may cost {most:.4g}. What came is kept; raise the limit and run "
                "the same command to go on."
            )
        self._reserved += most
        try:
            yield
        finally:
            self._reserved -= most
