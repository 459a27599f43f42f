"""Numbers as lists are numbered, in several ways of writing them."""

from __future__ import annotations

import unicodedata

ENGLISH = {
    word: number
    for words in (
        "one two three four five six seven eight nine ten",
        "first second third fourth fifth sixth seventh eighth ninth tenth",
    )
    for number, word in enumerate(words.split(), 1)
}
"""Words that number things."""
STEMS = "甲乙丙丁戊己庚辛壬癸"
"""The heavenly stems, which number things in Chinese."""


def enclosed(character: str) -> int | None:
    """The value of a number in a circle, in parentheses, with a period, as one character."""
    if not character or unicodedata.category(character) != "No":
        return None
    value = unicodedata.numeric(character, -1.0)
    shape = unicodedata.decomposition(character).split(" ")[0]
    plain = shape in ("<super>", "<sub>", "<fraction>") or value != int(value)
    return None if plain else int(value)


def roman(text: str) -> int:
    """The number; 0 if it is not written as Romans would."""
    worth = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100, "d": 500, "m": 1000}
    total = 0
    for letter, after in zip(text, (*text[1:], ""), strict=True):
        total += -worth[letter] if after and worth[letter] < worth[after] else worth[letter]
    return total if 0 < total < 400 and _as_roman(total) == text else 0


def _as_roman(number: int) -> str:
    signs = ((100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"),
             (4, "iv"), (1, "i"))  # fmt: skip
    text = ""
    for worth, sign in signs:
        text += sign * (number // worth)
        number %= worth
    return text


def chinese(text: str) -> int:
    """The number that Chinese digits write, tens and hundreds among them."""
    digits = {c: n for n, c in enumerate("零一二三四五六七八九")} | {"两": 2}
    total = current = 0
    for character in text:
        if character in digits:
            current = digits[character]
        else:
            total += (current or 1) * (100 if character == "百" else 10)
            current = 0
    return total + current
