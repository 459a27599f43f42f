"""What a parser makes of a text, and which of its words a guide is told of."""

from __future__ import annotations

from selma.records.record import Record

Span = tuple[int, int]
"""Characters of a text, from the first to below the second."""
Sets = tuple[tuple[Span, ...], ...]
"""Words, or phrases, that belong together; what a set means is said by the guide that reads it."""


class Word(Record):
    """One word of a text with its arc, in the labels of Universal Dependencies and of spaCy's
    English models."""

    span: Span
    tag: str
    """Part of speech: NOUN, PROPN, ADJ, VERB, AUX, ..."""
    relation: str
    """To its head: amod, compound, acomp, conj, relcl, ..."""
    head: int
    """Number of the word that it depends on; its own where it is a root."""


class Parse(Record):
    """The words of a text in their order, and which of them are noun phrases.

    A parser leaves out words of which it knows nothing.
    """

    words: tuple[Word, ...] = ()
    chunks: tuple[Span, ...] = ()
    """Noun phrases without what follows their noun: numbers of words, from the first to below the
    second. The last word is the noun."""
