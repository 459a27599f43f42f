"""Numbers with what they count, as a sentence has them."""

from __future__ import annotations


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """The number with a word for one ("1 pair", "1 has") or for several ("2 pairs", "2 have").

    plural: if left out, `singular` with an s.
    """
    return f"{count} {word(count, singular, plural)}"


def word(count: int, singular: str, plural: str | None = None) -> str:
    """The word of `counted` alone."""
    return singular if count == 1 else plural or f"{singular}s"
