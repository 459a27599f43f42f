"""Whether words are about a text, rather than repeated from the examples in the prompt."""

from __future__ import annotations

import re

# 13 of DSG-1k's 8182 facts share no word with their text; 9 of them are about these words.
_ALWAYS = {"person", "people", "word", "words", "text", "picture", "image", "photo", "photograph"}
_EMPTY = {
    *("a", "an", "the", "of", "in", "on", "at", "to", "and", "or", "with", "by", "for", "as"),
    *("is", "are", "was", "be", "it", "its", "this", "that"),
}
_STEM = 3  # letters that are compared, so that endings do not matter


def is_of(things: str, text: str) -> bool:
    """Whether a text names these things (`shares_a_word`), or they are what any text implies."""
    return shares_a_word(things, text) or bool(_words(things) & _ALWAYS)


def shares_a_word(things: str, text: str) -> bool:
    """Whether a text has a word of these things, endings ignored.

    True if either is not in Latin letters: some scripts set no blanks between words.
    """
    if sum(c.isascii() for c in text) < len(text) / 2:
        return True
    stems, text_stems = ({word[:_STEM] for word in _words(t) - _EMPTY} for t in (things, text))
    return bool(stems & text_stems) or not any(stem.isascii() and stem.isalpha() for stem in stems)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
