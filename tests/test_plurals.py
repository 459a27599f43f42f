"""A number's word is the one that a sentence has behind it."""

from __future__ import annotations

import pytest

from selma.plurals import counted, word


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ("pair",), "0 pairs"),
        (1, ("pair",), "1 pair"),
        (2, ("pair",), "2 pairs"),
        (1, ("has", "have"), "1 has"),
        (3, ("has", "have"), "3 have"),
    ],
)
def test_one_is_singular(count: int, words: tuple[str, ...], text: str) -> None:
    assert counted(count, *words) == text == f"{count} {word(count, *words)}"
