"""What a model says beside its captions: openings, closings, and notes behind each caption."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_REMARK = re.compile(
    r"^\W*(?:(?:sure|certainly|of course|absolutely|okay|great|gladly)[!,.:]|"
    r"(?:sure|certainly|of course|absolutely|okay|great)\b(?=[^.!]*:$)|"
    r"here (?:are|is|you go)|here['’]s|below (?:are|is)|"
    r"these (?:are|captions?|prompts?|descriptions?|texts?)|"
    r"(?:each|all) (?:of these|captions?|prompts?)|"
    r"i (?:hope|tried|made|kept|have|can|will|think)|hope (?:this|these|it)|let me know|tell me if|"
    r"feel free|note(?: that|:)|please note|would you like|do you want|shall i|enjoy|"
    r"if you (?:need|want|would|like)|"
    r"hier (?:sind|ist)|gerne?[!,]|natürlich|ich hoffe|lass mich wissen|sag mir|hinweis:|"
    r"voici|bien sûr|n['’]hésitez?|j['’]espère|dites-moi|dis-moi|"
    r"aquí (?:tienes|están|hay)|claro|por supuesto|espero que|si (?:quieres|necesitas)|avísame|"
    r"ecco|certo|spero|fammi sapere|aqui (?:estão|está)|espero|me avise|"
    r"вот|конечно|надеюсь|дайте знать)(?:\b|(?<=\W))"
    r"|^\W*(?:好的|当然|以下是|下面是|这里是|希望|如果您|如需|はい|以下は|以下に|ご希望|もちろん|네|다음은|물론)",
    re.IGNORECASE,
)
_NOTE = re.compile(
    r"\s*[*_]{0,3}(?:[\(\[（【]([^()\[\]（）【】]{1,40})[\)\]）】]|[—–-]\s+([^—–()\[\]-]{1,40}))[*_]{0,3}\s*$"
)
_SORT = re.compile(r"(?<=\S)\s*[\(\[（【]([^\W\d_]+(?:[ -][^\W\d_]+)?)[\)\]）】]\s*$")
_NUMBER = re.compile(r"(?<![A-Za-z\d.,])\d+(?![A-Za-z\d])")
_COUNT = re.compile(r"\d+ words?|words?: \d+", re.IGNORECASE)


def is_remark(line: str) -> bool:
    """Whether a line speaks to the reader, rather than describe an image."""
    return _REMARK.match(line) is not None


def without_notes(texts: Sequence[str]) -> list[str]:
    """The texts without what stands behind several of them while only a number changes, as the
    count of their words."""
    notes = [_note(text) for text in texts]
    shapes = [_shape(note) for note in notes]
    times = Counter(shape for shape in shapes if shape is not None)
    listed = [n for n, note in enumerate(notes) if note is not None and _NUMBER.fullmatch(note)]
    if _sorts(texts):
        return [_SORT.sub("", text) for text in texts]
    rest = []
    for position, (text, note, shape) in enumerate(zip(texts, notes, shapes, strict=True)):
        repeats = shape is not None and times[shape] > 1
        if shape == "#":
            repeats = len(listed) > 1 and int(note or 0) in (position + 1, len(text.split()) - 1)
        counted = note is not None and _COUNT.fullmatch(note) is not None
        rest.append(_NOTE.sub("", text) if repeats or counted else text)
    return rest


def _sorts(texts: Sequence[str]) -> bool:
    """Whether each text ends with a word in parentheses, and one comes again."""
    sorts = [match[1].casefold() for text in texts if (match := _SORT.search(text))]
    return len(sorts) == len(texts) > 2 and len(set(sorts)) < len(sorts)


def _note(text: str) -> str | None:
    match = _NOTE.search(text)
    return None if match is None or not match.start() else (match[1] or match[2]).strip()


def _shape(note: str | None) -> str | None:
    """The note with # for its numbers; None if it has none."""
    if note is None or not _NUMBER.search(note):
        return None
    return _NUMBER.sub("#", note).casefold()
