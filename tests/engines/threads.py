"""An engine that several threads ask at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from selma.engines import Engine
from selma.engines.engine import Worker


def asked_by_threads(
    engine: Engine,
    make: Callable[[int], Callable[[int], Sequence[int]]],
    factors: Iterable[int],
    numbers: Sequence[int],
) -> dict[int, list[int]]:
    """Factor → the first of what comes of each number, each factor asked by a thread of its own."""
    answers: dict[int, list[int]] = {}

    def ask(factor: int) -> None:
        answers[factor] = [value for value, *_ in engine.map(Worker(make, (factor,)), numbers)]

    threads = [threading.Thread(target=ask, args=(factor,)) for factor in factors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers
