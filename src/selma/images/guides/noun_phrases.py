"""The noun phrases of a parse that StructureDiffusion (arXiv:2212.05032) encodes by themselves."""

from __future__ import annotations

from selma.images.guides.words import DESCRIBING, NOUNS, Arcs
from selma.records.parses import Parse, Span

DIRECTIONS = frozenset({"left", "right", "top", "bottom", "side", "front", "back", "middle"})
"""Alone with an article they say where something is, and name nothing."""


def noun_phrases(parse: Parse, text: str, *, subtrees: bool = False) -> list[Span]:
    """Those of more than one word, from the left, longer ones before those within them. The text
    itself is none of them.

    subtrees: also all that depends on a noun, if its words stand together.
    """
    runs = [*parse.chunks, *(_subtrees(parse) if subtrees else ())]
    spans = {
        (parse.words[first].span[0], parse.words[end - 1].span[1])
        for first, end in runs
        if end - first > 1 and not _direction(parse, (first, end), text)
    }
    everything = _stripped(text)
    return sorted(spans - {everything}, key=lambda span: (span[0], -span[1]))


def _direction(parse: Parse, run: tuple[int, int], text: str) -> bool:
    *before, noun = (parse.words[number] for number in range(*run))
    name = text[slice(*noun.span)].lower()
    return name in DIRECTIONS and not any(word.tag in DESCRIBING for word in before)


def _subtrees(parse: Parse) -> list[tuple[int, int]]:
    arcs, runs = Arcs(parse.words), []
    for noun, word in enumerate(parse.words):
        if word.tag not in NOUNS:
            continue
        below, waiting = set(), [noun]
        while waiting:
            number = waiting.pop()
            if parse.words[number].tag != "PUNCT":
                below.add(number)
                waiting += arcs.children[number]
        if max(below) - min(below) + 1 == len(below):
            runs.append((min(below), max(below) + 1))
    return runs


def _stripped(text: str) -> Span:
    """The text without blanks around it and full stops behind."""
    return len(text) - len(text.lstrip()), len(text.rstrip().rstrip(". "))
