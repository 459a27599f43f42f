"""Whether words are about a text: what tells a model's repetition of its examples from its work."""

from __future__ import annotations

import re

# Of all 8182 questions of DSG-1k, 13 facts have no word of their text; 9 of these are about such.
_ALWAYS = {"person", "people", "word", "words", "text", "picture", "image", "photo", "photograph"}
_EMPTY = {
    *("a", "an", "the", "of", "in", "on", "at", "to", "and", "or", "with", "by", "for", "as"),
    *("is", "are", "was", "be", "it", "its", "this", "that"),
}
_BEGINNING = 3  # letters that are compared, so that endings do not matter


def is_of(things: str, text: str) -> bool:
    """Whether these things can be named by a text: `shares_a_word`, or what texts leave unsaid."""
    return shares_a_word(things, text) or bool(_words(things) & _ALWAYS)


def shares_a_word(things: str, text: str) -> bool:
    """Whether a text has a word of these things, endings aside; taken for granted where either is
    not in Latin letters, as of the scripts that set no blanks between words."""
    if sum(c.isascii() for c in text) < len(text) / 2:
        return True
    ours, theirs = ({word[:_BEGINNING] for word in _words(t) - _EMPTY} for t in (things, text))
    return bool(ours & theirs) or not any(word.isascii() and word.isalpha() for word in ours)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
