"""Files of records and of others under seeded fuzz: each is read, or refused by an error of ours.

`SELMA_FUZZ` sets the cases of each reader, 10,000 under `make attack`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attacks import ROWS, Attack, dice

from selma.errors import SelmaError

CASES = int(os.environ.get("SELMA_FUZZ", "10000" if ROWS else "150"))
STRANGE: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**30, 1.5, "", "x", "\x00", "\ud800", [], [[]], {}, {"x": 1}),
    *([None], [{}], {"": None}, "1", float("inf"), float("nan"), "é" * 500),
)


def mutated(value: Any, pick: random.Random) -> Any:
    """The value with something strange somewhere in it."""
    if not isinstance(value, dict | list) or not value or pick.random() < 0.2:
        return pick.choice(STRANGE)
    if isinstance(value, list):
        at = pick.randrange(len(value))
        return [mutated(each, pick) if n == at else each for n, each in enumerate(value)]
    key = pick.choice(list(value))
    match pick.randrange(4):
        case 0:
            return {name: each for name, each in value.items() if name != key}
        case 1:
            return {**value, f"{key}x": value[key]}
        case _:
            return {**value, key: mutated(value[key], pick)}


def damaged(text: bytes, pick: random.Random, *, deep: bool = True) -> bytes:
    """The bytes cut, flipped, doubled or with others in between; `deep`: or nested without end."""
    at = pick.randrange(len(text) + 1)
    match pick.randrange(5 if deep else 4):
        case 0:
            return text[:at]
        case 1:
            return text[:at] + bytes([pick.randrange(256)]) + text[at + 1 :]
        case 2:
            return (
                text[:at]
                + pick.choice([b"\xff\x00{", b"[" * (5000 if deep else 30), b"\n", b"\xed\xa0\x80"])
                + text[at:]
            )
        case 3:
            return text + text[at:]
        case _:
            return b"[" * 100_000 + text


def fuzzed(sample: Any, seed: str, *, lines: bool) -> Iterator[bytes]:
    """First the sample, then it in ever other ways; several lines of it where `lines`."""
    pick = dice(seed)
    plain = json.dumps(sample).encode() + b"\n"
    whole = plain * 3 if lines else plain
    yield whole
    for number in range(CASES):
        if number % 2:
            yield damaged(whole, pick)
        else:
            other = json.dumps(mutated(sample, pick)).encode() + b"\n"
            yield plain + other + plain if lines else other


def fuzz(
    attack: Attack, row: str, path: Path, cases: Iterator[bytes], read: Callable[[], Any]
) -> int:
    """How many were read; all others must be our errors, and name the file or a neighbour of it."""
    path.write_bytes(next(cases))
    read()  # the sample itself
    accepted = held = 0
    attack.injects(f"fuzz: {row}", CASES)
    for held, data in enumerate(cases, 1):  # noqa: B007
        path.write_bytes(data)
        try:
            read()
            accepted += 1
        except SelmaError as error:
            assert str(path.parent) in str(error), error
            assert len(str(error)) < 2000 + len(str(path))
        except Exception as error:
            raise AssertionError(f"{data[:300]!r} came out as {error!r}") from error
    attack.held(f"fuzz: {row}", held)
    return accepted


def torn(sample: bytes, seed: str) -> Iterator[bytes]:
    """First the sample, then it damaged in ever other ways, often in several places."""
    pick = dice(seed)
    yield sample
    for number in range(CASES):
        data = sample
        for _ in range(pick.choice([1, 1, 2, 5])):
            # What is nested takes readers of YAML and of replies up to a second, and is seen once.
            data = damaged(data, pick, deep=False) if number else b"[" * 100_000 + data
        yield data
