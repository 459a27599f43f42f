"""A language model's reply → captions, whatever shape the reply has; never a blank one.

A reply is data: nothing in it is obeyed, formatted or used as a path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from selma.backbones.language.replies import FENCE, REFUSAL, readable_answer
from selma.prompts.json_replies import Strings, caption_strings
from selma.prompts.listing import fenced_lines, list_start, listed_texts, unmarked
from selma.prompts.remarks import without_notes
from selma.prompts.segments import Texts
from selma.prompts.tables import quoted_rows
from selma.prompts.wrapping import bare, titled_in_bold
from selma.texts import printable

Outcome = Literal["captions", "empty", "thought", "refusal", "cut", "blank", "unparsed"]
"""What a reply came to: captions; nothing at all; a thought without an answer; a refusal; one
caption that the limit on tokens broke off; items without a letter; text that is no list."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Parsed:
    """What one reply holds: its captions in order, how many items were dropped for what
    ("blank", "refusal", "cut": an item that the limit on tokens broke off), and what it came to."""

    captions: tuple[str, ...]
    dropped: Counter[str] = field(default_factory=Counter)
    outcome: Outcome = "captions"


def parse_reply(text: str | None, *, truncated: bool = False) -> Parsed:
    """The captions in a reply: numbered, bulleted, tabled, as JSON or one on each line.

    `truncated` says that the model was stopped by its limit, so the last item is not whole. Each
    caption is one line of at least one letter or digit, without control characters.
    """
    answer, thought, unended = readable_answer(text or "")
    items, cut = _items(answer, truncated and not unended)
    dropped = Counter({"cut": 1} if cut else {})
    captions = []
    for item in map(bare, titled_in_bold(without_notes(items))):
        if not any(c.isalnum() for c in item):
            dropped["blank"] += 1
        elif REFUSAL.match(item):
            dropped["refusal"] += 1
        else:
            captions.append(item)
    outcome: Outcome = "captions"
    if not captions:
        outcome = _outcome(answer, dropped, thought=thought, truncated=truncated)
    return Parsed(tuple(captions), dropped, outcome)


def _items(text: str, truncated: bool) -> tuple[list[str], bool]:
    """The items of a reply, and whether one more was cut off."""
    for lines in (fenced_lines(text), [ln for ln in text.split("\n") if not FENCE.match(ln)]):
        inner = "\n".join(lines)
        in_rows = quoted_rows(lines)
        if in_rows is not None:
            cut = truncated and not inner.rstrip().endswith('"')
            return (in_rows[:-1] if cut else in_rows), cut
        in_json = caption_strings(inner)
        if in_json is not None and not _in_list(inner, in_json):
            return [printable(item) for item in _of_strings(in_json.texts)], in_json.cut
    texts, to_the_end = listed_texts(text)
    cut = truncated and to_the_end and bool(texts)
    return (texts[:-1] if cut else texts), cut


def _in_list(text: str, in_json: Strings) -> bool:
    """Whether the brackets belong to a numbered caption."""
    start = list_start(text)
    return (start is not None and start <= in_json.start) or (
        not in_json.texts and start is not None
    )


def _of_strings(strings: Sequence[str]) -> list[str]:
    """The strings without markers; a string that is a list of its own becomes its items."""
    if len(strings) == 1 and "\n" in strings[0]:
        texts: Texts = listed_texts(strings[0])
        return texts.texts or list(strings)
    return unmarked(strings) if len(strings) > 1 else list(strings)


def _outcome(answer: str, dropped: Counter[str], *, thought: bool, truncated: bool) -> Outcome:
    if not answer.strip():
        return "thought" if thought else "empty"
    if dropped["refusal"] or REFUSAL.match(answer):
        return "refusal"
    if dropped["cut"] or truncated:
        return "cut"
    return "blank" if dropped["blank"] else "unparsed"
