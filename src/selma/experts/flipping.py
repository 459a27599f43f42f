"""Which images may be mirrored without making their caption wrong."""

from __future__ import annotations

import re

_SIDES = r"left|right|leftmost|rightmost|lefthand|righthand|clockwise|counterclockwise|east|west"
_LETTERING = (
    r"text|texts|word|words|letter|letters|lettering|number|numbers|digit|digits|sign|signs|"
    r"logo|logos|label|labels|caption|captions|slogan|writing|written|write|writes|reads|"
    r"reading|says|saying|spells|spelling|spelled|inscription|inscribed|title|titled|poster|"
    r"newspaper|book|books|clock|clocks|watch|map|maps|license|licence|jersey|graffiti|alphabet"
)
_FIXED = re.compile(rf"\b(?:{_SIDES}|{_LETTERING})\b|[\"“”«»]|\d", re.IGNORECASE)


def may_flip(caption: str) -> bool:
    """False where the caption names a side, or lettering that would be mirrored.

    Errs on the safe side: an image that is not mirrored is still trained on.
    """
    return _FIXED.search(caption) is None
