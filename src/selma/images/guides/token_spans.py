"""Which tokens of a text a word or phrase of it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selma.records.parses import Sets, Span


def token_offsets(tokenizer: Any, text: str) -> list[Span]:
    """Each position's characters, as far as the encoder reads; equal ends where it has none, as the
    start and the end have none."""
    encoded = tokenizer(
        text, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True
    )
    return [(int(first), int(end)) for first, end in encoded["offset_mapping"]]


def tokens_of(span: Span, offsets: Sequence[Span]) -> list[int]:
    """Positions of the tokens in a span; none where it lies beyond what the encoder reads."""
    return [
        position
        for position, (first, end) in enumerate(offsets)
        if first < end and first < span[1] and end > span[0]
    ]


def token_sets(sets: Sets, offsets: Sequence[Span]) -> list[list[list[int]]]:
    """Set → word → its tokens. Words that are not read are left out; a set without its last word,
    too."""
    each = [[tokens_of(span, offsets) for span in words] for words in sets]
    return [[tokens for tokens in words if tokens] for words in each if words[-1]]
