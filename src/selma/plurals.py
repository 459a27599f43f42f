"""Numbers with what they count, as a sentence has them."""

from __future__ import annotations


def counted(count: int, one: str, several: str | None = None) -> str:
    """The number with a word for one ("1 pair", "1 has") or for several ("2 pairs", "2 have").

    several: if left out, `one` with an s.
    """
    return f"{count} {one if count == 1 else several or f'{one}s'}"
