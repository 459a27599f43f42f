"""Texts from outside in messages and on terminals."""

from __future__ import annotations

import time
from typing import Any

import pytest

from selma.texts import legible, printable, quoted


@pytest.mark.parametrize(
    ("text", "cleaned", "shown"),
    [
        ("a dog\n\tsits", "a dog\n\tsits", "a dog\n\tsits"),
        ("\x1b[2Ja \x07dog", "[2Ja dog", "\\x1b[2Ja \\x07dog"),
        ("\x9b31m", "31m", "\\x9b31m"),
        ("a \u202edog\u2066", "a dog", "a \\u202edog\\u2066"),
        ("half \ud83d", "half ", "half \\ud83d"),
        ("\x00\r\x7f", "", "\\x00\\r\\x7f"),
        (
            "نمی\u200cخواهم 👩\u200d🚀 é",
            "نمی\u200cخواهم 👩\u200d🚀 é",
            "نمی\u200cخواهم 👩\u200d🚀 é",
        ),
    ],
)
def test_what_steers_is_dropped_or_shown(text: str, cleaned: str, shown: str) -> None:
    assert printable(text) == cleaned
    assert legible(text) == shown
    assert legible(shown) == shown
    shown.encode()


def deep(levels: int) -> Any:
    value: Any = "leaf"
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "value",
    [
        deep(30),
        "a" * 50_000_000,
        b"a" * 50_000_000,
        {f"k{n}": deep(20) for n in range(1000)},
        10**200_000,
        -(10**200_000),
        {"k" * 10**6: {"v" * 10**6}},
        list(range(10**6)),
    ],
    ids=["deep", "text", "bytes", "mapping", "number", "negative", "long keys", "list"],
)
def test_quotes_are_short_and_quick_whatever_they_are_of(value: Any) -> None:
    started = time.process_time()
    assert len(quoted(value)) <= 90
    assert time.process_time() - started < 0.5


def test_short_values_are_quoted_whole() -> None:
    values: list[Any] = [
        "it's",
        12,
        -3.5,
        None,
        True,
        {"a": 1},
        [1, 2],
        (1,),
        "\x1b[2J\u202e\ud800",
    ]
    assert [quoted(value) for value in values] == [repr(value) for value in values]
    assert quoted("a" * 100, 20).startswith("'aaa") and quoted("a" * 100, 20).endswith("...")
