"""Caption → the scene that it states: `captions` read back, in any of its styles.

The whole text must be made of the captions' own phrases, and mean one thing; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

from selma.errors import DataError
from selma.toybox.captions import NUMBERS, PLACES, PLAIN_TAGS, QUALITY_TAGS, SIDES, plural
from selma.toybox.drawing import BACKGROUNDS, KINDS, POSES, Pose
from selma.toybox.scenes import COLOURS, RELATIONS, Group, Relation, Scene


class UnreadableCaption(DataError):
    """A text states no scene of this world, or could state more than one."""


def parse_caption(text: str) -> Scene:
    """The scene that a caption states, with gaps where it says nothing; a pose of "still" is a gap.

    Capitals and a full stop at the end make no difference. Raises UnreadableCaption.
    """
    plain = text.strip().lower().removesuffix(".")
    scenes = {scene for read in (_sentence, _sides, _tags) for scene in read(plain)}
    if len(scenes) != 1:
        came = "states none" if not scenes else f"could state {len(scenes)}"
        raise UnreadableCaption(f"A caption must state one scene of toybox, but {text!r} {came}.")
    return scenes.pop()


def _one_of(*words: str) -> str:
    # Longest first, so that no word hides one that begins with it.
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


_COUNTS = {"": 1, "a": 1, "an": 1, "some": None} | {word: n for n, word in NUMBERS.items()}
_BEHIND = {phrase: name for name, phrase in PLACES.items()}
GROUP = re.compile(
    rf"(?:(?P<count>{_one_of(*filter(None, _COUNTS))}) )?"
    rf"(?:(?P<pose>{_one_of(*POSES[1:])}) )?(?:(?P<colour>{_one_of(*COLOURS)}) )?"
    rf"(?P<noun>{_one_of(*KINDS, *map(plural, KINDS))})"
)
_THINGS = r"(?P<first>.+?)(?: (?P<relation>{relations}) (?P<second>.+?))?"
_SENTENCE = re.compile(
    rf"(?:(?P<before>{_one_of(*_BEHIND)}), )?"
    rf"(?:(?:a|an) (?:drawing|picture|strange picture|odd picture|group) of |imagine |exactly "
    rf"|there (?:is|are) (?:exactly )?)?"
    + _THINGS.format(relations=f"and|(?:to the )?(?:left|right) of|{_one_of('above', 'below')}")
    + rf"(?: (?P<behind>{_one_of(*_BEHIND)}))?"
)
_SIDE = _one_of(*(side for pair in SIDES.values() for side in pair))
_BACKGROUND = (
    rf"(?:\. (?:in the background there is|the background is) (?P<place>{_one_of(*BACKGROUNDS)}))?"
)
_OPENING = "in this image we can see|here we can see|this picture shows"
_SIDES = (
    re.compile(rf"(?:{_OPENING}) (?P<first>[^.]+?) and (?P<second>[^.]+?){_BACKGROUND}"),
    re.compile(rf"(?:{_OPENING}) (?P<first>[^.]+?){_BACKGROUND}"),
    re.compile(
        rf"(?:{_OPENING}) (?P<first>[^.]+?) (?P<near>{_SIDE}) and (?P<second>[^.]+?) "
        rf"(?P<far>{_SIDE}){_BACKGROUND}"
    ),
    re.compile(
        rf"(?P<near>{_SIDE}) there (?:is|are) (?P<first>[^.]+?) and (?P<far>{_SIDE}) "
        rf"(?P<second>[^.]+?){_BACKGROUND}"
    ),
)
_RELATED = re.compile(_THINGS.format(relations=_one_of(*RELATIONS)))


def _sentence(text: str) -> Iterator[Scene]:
    """Of coco, count and whoops: things, and the place before or behind them."""
    match = _SENTENCE.fullmatch(text)
    if match is None or (match["before"] and match["behind"]):
        return
    place = match["before"] or match["behind"]
    yield from _scene(
        [match["first"], match["second"]],
        relation=match["relation"],
        background=_BEHIND[place] if place else None,
    )


def _sides(text: str) -> Iterator[Scene]:
    """Of narratives: the sides that two things are on tell the relation."""
    relations = {sides: relation for relation, sides in SIDES.items()}
    for pattern in _SIDES:
        if match := pattern.fullmatch(text):
            parts = match.groupdict()
            sides = (parts.get("near"), parts.get("far"))
            if sides == (None, None) or sides in relations:
                yield from _scene(
                    [parts["first"], parts.get("second")],
                    relation=relations.get(cast(tuple[str, str], sides)),
                    background=parts["place"],
                )


def _tags(text: str) -> Iterator[Scene]:
    """Of tags: one or two things or a relation, then a background, quality and style."""
    tags = text.split(", ")
    looks = [tag for tag in tags if tag in QUALITY_TAGS]
    said = [tag for tag in tags if tag not in (*QUALITY_TAGS, *PLAIN_TAGS)]
    background = said.pop() if said and said[-1] in BACKGROUNDS else None
    match = _RELATED.fullmatch(said[0]) if len(said) == 1 else None
    relation = match["relation"] if match else None
    things: list[str | None] = [match["first"], match["second"]] if match else [*said]
    if 1 <= len(things) <= 2:
        for scene in _scene(things, relation=relation, background=background, article=False):
            yield Scene(scene.groups, scene.relation, background, "crisp" if looks else None)


def _scene(
    phrases: list[str | None],
    *,
    relation: str | None,
    background: str | None,
    article: bool = True,
) -> Iterator[Scene]:
    """The scene of these noun phrases, if each is one and no kind comes twice."""
    groups = [_group(phrase, article=article) for phrase in phrases if phrase is not None]
    stated = [group for group in groups if group is not None]
    if len(stated) == len(groups) == len({group.kind for group in stated}):
        named = None if relation in (None, "and") else str(relation).removeprefix("to the ")
        yield Scene(tuple(stated), cast(Relation | None, named), background)


def _group(phrase: str, *, article: bool) -> Group | None:
    """What a noun phrase says; None if it is none. article: whether single things have one."""
    match = GROUP.fullmatch(phrase)
    if match is None:
        return None
    count = _COUNTS[match["count"] or ""]
    if count == 1 and article == (match["count"] is None):
        return None
    nouns = {kind if count == 1 else plural(kind): kind for kind in KINDS}
    if match["noun"] not in nouns:
        return None
    pose = cast(Pose | None, match["pose"])
    return Group(nouns[match["noun"]], match["colour"], count, pose)
