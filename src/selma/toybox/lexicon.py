"""The words that toybox can draw, and those that its captions and questions are made of."""

from __future__ import annotations

from selma.toybox.captions import NUMBERS, PLACES, PLAIN_TAGS, QUALITY_TAGS, SIDES, plural
from selma.toybox.drawing import BACKGROUNDS, KINDS, POSES
from selma.toybox.scenes import COLOURS, RELATIONS

_PLAIN = (
    "a an and are at background bottom can drawing exactly group here image imagine in is left "
    "of odd on one picture right see shows side some strange the there this to top we"
)


def words() -> list[str]:
    """All words of toybox's captions and questions, in lower case, sorted."""
    phrases = [
        _PLAIN,
        *KINDS,
        *(plural(kind) for kind in KINDS),
        *COLOURS,
        *NUMBERS.values(),
        *BACKGROUNDS,
        *RELATIONS,
        *PLACES.values(),
        *POSES,
        *(side for pair in SIDES.values() for side in pair),
        *QUALITY_TAGS,
        *PLAIN_TAGS,
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})
