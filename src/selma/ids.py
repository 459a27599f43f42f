"""Ids by which two files are joined: strangers are named, each with the id that was probably meant.

Ids are compared without the blanks around them; nothing else is guessed. A number that went through
a table of floats ("1.0" for "1"), zeros in front, case and misspellings are told, not mended.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

_CLOSE = 0.75  # difflib's ratio; 0.6, its default, pairs most ids of one benchmark


def nearest(id: str, candidates: Collection[str]) -> str | None:
    """The candidate that was probably meant: the same but for case, separators, zeros in front or
    ".0" behind, else the closest spelling; None if nothing is close."""
    bare = _bare(id)
    alike = next((other for other in candidates if _bare(other) == bare), None)
    if alike is not None:
        return alike
    close = difflib.get_close_matches(id, list(candidates), n=1, cutoff=_CLOSE)
    return close[0] if close else None


def listed(strangers: Sequence[str], candidates: Collection[str], *, most: int = 3) -> str:
    """The first strangers, each with the nearest candidate, and how many more there are:
    "'1.0' (did you mean '1'?) and 4 others". Candidates are the ids without a partner."""
    names = [_with_nearest(id, candidates) for id in strangers[:most]]
    others = len(strangers) - len(names)
    if others:
        return f"{', '.join(names)} and {others} {'other' if others == 1 else 'others'}"
    return ", ".join(names)


def _with_nearest(id: str, candidates: Collection[str]) -> str:
    meant = nearest(id, candidates)
    return repr(id) if meant is None else f"{id!r} (did you mean {meant!r}?)"


def _bare(id: str) -> str:
    """What two spellings of one id have in common."""
    whole_numbers = re.sub(r"(?<=\d)\.0+(?!\d)", "", id.strip().casefold())
    without_zeros = re.sub(r"(?<!\d)0+(?=\d)", "", whole_numbers)
    return re.sub(r"[\s_.-]+", "_", without_zeros)
