"""The captions in a reply that is JSON or nearly so: which of its strings they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from selma.backbones.language.loose_json import Pairs, Value, strings, values
from selma.prompts.server_errors import is_server_error

_CAPTION_KEYS = (
    *("caption", "prompt", "description", "text", "sentence", "scene", "narrative"),
    *("content", "value", "title"),
)
"""What models call a caption, the likeliest first."""


class Strings(NamedTuple):
    """The strings that are captions, where the first value begins, and whether one was cut."""

    texts: list[str]
    start: int
    cut: bool


def caption_strings(text: str) -> Strings | None:
    """The captions in all JSON of a reply; None if it has none."""
    parts: list[Value] = list(values(text))
    listed = strings(text)
    if listed is not None and (len(listed.value) > 1 or _inner(listed.value)):
        parts = [listed] if not parts or listed.start < parts[0].start else parts
    if not parts:
        return None
    content = parts[0].value if len(parts) == 1 else [part.value for part in parts]
    if is_server_error(content, any_caption=lambda pairs: any(map(_names_captions, pairs))):
        return Strings([], parts[0].start, cut=False)
    return Strings(list(_captions(content)), parts[0].start, any(part.cut for part in parts))


def is_caption_key(key: str) -> bool:
    """Whether a label or key says that a caption follows."""
    return _rank(key) is not None


def caption_key(keys: Iterable[str]) -> str | None:
    """The likeliest of these labels or keys to say that a caption follows; None if none does."""
    ranks = {key: rank for key in keys if (rank := _rank(key)) is not None}
    return min(ranks, key=ranks.__getitem__, default=None)


def _inner(content: Any) -> list[Any]:
    """The JSON that a single string holds."""
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if isinstance(content, str) and content.lstrip()[:1] in ("[", "{"):
        return [part.value for part in values(content)]
    return []


def _captions(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        inner = _inner(content)
        yield from _captions(inner) if inner else [content]
    elif isinstance(content, Pairs):
        for part in _of_object(content):
            yield from _captions(part)
    elif isinstance(content, list):
        key = _common_key([part for part in content if isinstance(part, Pairs)])
        for part in content:
            if isinstance(part, Pairs) and key is not None and key in dict(part):
                yield from _captions([value for name, value in part if name == key])
            else:
                yield from _captions(part)


def _of_object(pairs: Pairs) -> list[Any]:
    """The values that hold captions: those of the likeliest key, else lists and objects rather than
    what stands beside them."""
    held = [(key, value) for key, value in pairs if _holds_strings(value)]
    ranks = [rank for key, _ in held if (rank := _rank(key)) is not None]
    if ranks:
        return [value for key, value in held if _rank(key) == min(ranks)]
    containers = [value for _, value in held if isinstance(value, list)]
    return containers or [value for _, value in held]


def _common_key(objects: Sequence[Pairs]) -> str | None:
    """The key whose values are the captions of several objects: the likeliest by name, else the one
    with the longest texts."""
    if len(objects) < 2 or any(_has_containers(pairs) for pairs in objects):
        return None
    totals: dict[str, int] = {}
    for key, value in (pair for pairs in objects for pair in pairs):
        if isinstance(value, str):
            totals[key] = totals.get(key, 0) + len(value)
    named = [key for key in totals if _rank(key) is not None]
    shared = [key for key in totals if sum(key in dict(pairs) for pairs in objects) > 1]
    if named:
        best = min(_rank(key) or 0 for key in named)
        named = [key for key in named if _rank(key) == best]
        return named[0] if len(named) == 1 else None
    return max(shared, key=totals.__getitem__, default=None)


def _rank(key: str) -> int | None:
    """How likely the key is a caption's, from 0; None if its name does not say so."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key))
    names = [word.lower().removesuffix("s") for word in words]
    if any(name.startswith("neg") for name in names):
        return None
    ranks: Iterable[int] = (n for n, name in enumerate(_CAPTION_KEYS) if name in names)
    return next(iter(ranks), None)


def _names_captions(pair: tuple[str, Any]) -> bool:
    """Whether a pair holds captions by its key; a title is what errors have, too."""
    rank = _rank(pair[0])
    return rank is not None and _CAPTION_KEYS[rank] != "title" and _holds_strings(pair[1])


def _holds_strings(content: Any) -> bool:
    if isinstance(content, Pairs):
        return any(_holds_strings(value) for _, value in content)
    if isinstance(content, list):
        return any(map(_holds_strings, content))
    return isinstance(content, str)


def _has_containers(pairs: Pairs) -> bool:
    return any(isinstance(value, list) and _holds_strings(value) for _, value in pairs)
