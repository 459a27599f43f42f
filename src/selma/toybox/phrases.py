"""The noun phrases of a caption, as a parser would find them: by toybox's own grammar."""

from __future__ import annotations

import re

from selma.records.parses import Parse, Word
from selma.toybox.parsing import GROUP, UnreadableCaption, parse_caption

TAGS = {"count": ("DET", "det"), "pose": ("VERB", "amod"), "colour": ("ADJ", "amod")}
"""Part of a noun phrase → its tag and its relation to the noun."""
_PHRASE = re.compile(rf"\b{GROUP.pattern}\b")


def parse(text: str) -> Parse:
    """The caption's noun phrases; none of a text that is no caption of this world."""
    try:
        scene = parse_caption(text)
    except UnreadableCaption:
        return Parse()
    matches = list(_PHRASE.finditer(text.lower()))
    if len(matches) != len(scene.groups):
        return Parse()
    words: list[Word] = []
    chunks: list[tuple[int, int]] = []
    for match in matches:
        first = len(words)
        parts = [part for part in TAGS if match[part] is not None]
        noun = first + len(parts)
        for part in parts:
            tag, relation = TAGS[part]
            words.append(Word(span=match.span(part), tag=tag, relation=relation, head=noun))
        words.append(Word(span=match.span("noun"), tag="NOUN", relation="ROOT", head=noun))
        chunks.append((first, noun + 1))
    return Parse(words=tuple(words), chunks=tuple(chunks))
