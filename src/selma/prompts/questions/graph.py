"""DSG for a new text (arXiv:2310.18235): facts, their dependencies, and a question about each.

Pure: a generator yields requests and is sent the replies. Faults of replies are counted, and only
the faulty part is requested again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from selma.backbones.language.model import Reply
from selma.backbones.language.replies import REFUSAL, readable
from selma.prompts.questions.asking import Ask, Unusable, is_cut
from selma.prompts.questions.grounding import is_of, shares_a_word
from selma.prompts.questions.lines import Row, rows

T = TypeVar("T")

CATEGORIES = ("entity", "attribute", "relation", "global", "other")
_MOST_FACTS = 100  # DSG-1k's longest text has 52
_KINDS = {
    "entity": ("whole", "part"),
    "relation": ("spatial", "action"),
    "other": ("count", "text rendering"),
    "attribute": ("color", "material", "shape", "size", "texture", "state", "type", "style"),
}
_CATEGORY_OF = {kind: category for category, kinds in _KINDS.items() for kind in kinds}
_SAME_KIND = {
    "colour": "color",
    "counting": "count",
    "number": "count",
    "quantity": "count",
    "text": "text rendering",
    "text-rendering": "text rendering",
    "rendering": "text rendering",
    "object": "whole",
}
_ASKS = {
    *("is", "are", "was", "were", "am", "do", "does", "did", "has", "have", "had"),
    *("can", "could", "will", "would", "should", "isn't", "aren't", "doesn't"),
}
_NONE = {
    *("", "0", "-", "–", "—", "none", "no", "nothing", "n/a", "na", "null", "root", "independent"),
}


@dataclass(frozen=True)
class Fact:
    """One statement of a text."""

    category: str
    kind: str
    things: str

    def __str__(self) -> str:
        return f"{self.category} - {self.kind} ({self.things})"


@dataclass(frozen=True)
class GraphRow:
    """One row of the graph; `parents` are row numbers, from 1."""

    fact: Fact
    parents: tuple[int, ...]
    question: str


def write_graph(
    text: str, faults: Counter[str], *, attempts: int
) -> Generator[Ask, Reply, list[GraphRow]]:
    """Write the graph of one text: yields requests and is sent the replies.

    `faults` counts faults of replies. Raises Unusable.
    """
    facts = yield from _write_facts(text, faults, attempts)
    shown = tuple(map(str, facts))

    def parents(reply: str) -> dict[int, tuple[int, ...]]:
        return read_dependencies(reply, len(facts), faults)

    def questions(reply: str) -> dict[int, str]:
        return read_questions(reply, facts, faults)

    parents_of = yield from _for_every_fact("dependencies", text, shown, parents, faults, attempts)
    question_of = yield from _for_every_fact("questions", text, shown, questions, faults, attempts)
    return [
        GraphRow(fact, parents_of[number], question_of[number])
        for number, fact in enumerate(facts, 1)
    ]


def _write_facts(
    text: str, faults: Counter[str], attempts: int
) -> Generator[Ask, Reply, list[Fact]]:
    for attempt in range(attempts):
        reply = yield Ask("tuples", text, attempt=attempt)
        facts, rejected = read_facts(reply.text, text, faults)
        if is_cut(reply):
            faults["tuples: cut"] += 1
        # A reply with more rejected rows than facts missed the task.
        elif facts and rejected <= len(facts):
            return facts
        faults["tuples: asked again"] += attempt + 1 < attempts
    raise Unusable("no usable facts")


def _for_every_fact(
    step: str,
    text: str,
    facts: tuple[str, ...],
    read: Callable[[str], dict[int, T]],
    faults: Counter[str],
    attempts: int,
) -> Generator[Ask, Reply, dict[int, T]]:
    """Number of each fact → its result of a step; later attempts fill what earlier ones lack."""
    by_fact: dict[int, T] = {}
    for attempt in range(attempts):
        reply = yield Ask(step, text, facts, attempt)
        new = read(reply.text)
        if is_cut(reply) and new:
            del new[max(new)]
            faults[f"{step}: cut"] += 1
        by_fact = new | by_fact
        if step == "dependencies":
            by_fact = _without_cycles(by_fact, faults)  # type: ignore[arg-type, assignment]
        missing = len(facts) - len(by_fact)
        if not missing:
            return by_fact
        faults[f"{step}: line missing"] += missing
        faults[f"{step}: asked again"] += attempt + 1 < attempts
    raise Unusable(f"{step} missing for {len(facts) - len(by_fact)} of {len(facts)} facts")


def read_facts(reply: str, text: str, faults: Counter[str]) -> tuple[list[Fact], int]:
    """The distinct facts in a reply about `text`, and the number of rejected rows."""
    facts: dict[str, Fact] = {}
    before = faults.total()
    seen: set[int] = set()
    chatter = 0
    if REFUSAL.match(readable(reply)):
        faults["tuples: refusal"] += 1
    for row in rows(reply):
        fact = _fact(row.body)
        if isinstance(fact, str):
            if row.number is None:
                chatter += 1
            else:
                faults[f"tuples: {fact}"] += 1
            continue
        if row.number is not None and row.number in seen:
            # A fact's number does not matter, only its words.
            faults["tuples: number twice"] += 1
            before += 1
        seen.add(row.number or 0)
        key = str(fact).casefold()
        if key in facts:
            faults["tuples: said twice"] += 1
        elif not is_of(fact.things, text):
            faults["tuples: not in the text"] += 1
        elif len(facts) >= _MOST_FACTS:
            faults["tuples: too many"] += 1
        else:
            facts[key] = fact
    rejected = faults.total() - before
    faults["tuples: chatter"] += chatter
    if not facts:
        faults["tuples: none"] += 1
    return list(facts.values()), rejected


def read_dependencies(reply: str, count: int, faults: Counter[str]) -> dict[int, tuple[int, ...]]:
    """Number → numbers that it depends on, from the unambiguous rows of a reply."""
    parents_of: dict[int, tuple[int, ...]] = {}
    for number, body in _with_numbers(rows(reply), count, "dependencies", faults, shift=False):
        named = _ids(body)
        if named is None:
            faults["dependencies: no number"] += 1
            continue
        if number in parents_of:
            faults["dependencies: number twice"] += 1
            continue
        wrong = [id for id in named if id > count]
        itself = [id for id in named if id == number]
        faults["dependencies: wrong number"] += len(wrong)
        faults["dependencies: names itself"] += len(itself)
        parents = [id for id in dict.fromkeys(named) if id not in (0, number) and id <= count]
        if parents or not wrong:
            parents_of[number] = tuple(parents)
    return parents_of


def read_questions(reply: str, facts: Sequence[Fact], faults: Counter[str]) -> dict[int, str]:
    """Number → question, from the rows with a yes/no question about their own fact."""
    question_of: dict[int, str] = {}
    if REFUSAL.match(readable(reply)):
        faults["questions: refusal"] += 1
    for number, body in _with_numbers(rows(reply), len(facts), "questions", faults, shift=True):
        question = _question(body)
        if question is None:
            faults["questions: not yes or no"] += 1
        elif not shares_a_word(facts[number - 1].things, question):
            # DSG-1k itself has questions shifted by one row, which score other facts.
            faults["questions: about another fact"] += 1
        elif number in question_of:
            faults["questions: number twice"] += 1
        else:
            question_of[number] = question
    return question_of


def _with_numbers(
    rows: Sequence[Row], count: int, step: str, faults: Counter[str], *, shift: bool
) -> list[tuple[int, str]]:
    """The rows of existing facts, with the facts' numbers.

    If no row has a number, they are numbered in order, provided that there are as many as facts;
    with `shift`, so are rows numbered consecutively from another start.
    """
    numbered = [(row.number, row.body) for row in rows if row.number is not None]
    if not numbered:
        bodies = [row.body for row in rows if _ids(row.body) is not None or "?" in row.body]
        if len(bodies) == count:
            return list(enumerate(bodies, 1))
    first = numbered[0][0] if numbered else 1
    if shift and first != 1 and [n for n, _ in numbered] == list(range(first, first + count)):
        faults[f"{step}: numbered otherwise"] += 1
        return [(n - first + 1, body) for n, body in numbered]
    faults[f"{step}: wrong number"] += sum(not 1 <= n <= count for n, _ in numbered)
    faults[f"{step}: chatter"] += len(rows) - len(numbered)
    return [(n, body) for n, body in numbered if 1 <= n <= count]


def _fact(body: str) -> Fact | str:
    """A fact, or the reason for its rejection."""
    body = body.strip(" \t*_`").replace("**", "")
    named = re.match(r"^([A-Za-z]+)\s*\(([a-z -]+)\)\s*[:–—-]\s*(.+)$", body)
    if named and _kind(named[2]) in _CATEGORY_OF:  # "entity (whole): dog"
        head, things = f"{named[1]} - {named[2]}", named[3]
    elif "(" in body:
        head, _, rest = body.partition("(")
        inner, closed, _ = rest.rpartition(")")
        things = inner if closed else rest
    elif ":" in body:  # "entity - whole: dog"
        head, _, things = body.partition(":")
    else:
        return "not a fact"
    words = [part for part in re.split(r"\s*[-–—:/|>]+\s*", head.strip(" -–—:|").lower()) if part]
    things = " ".join(things.strip().strip("|").split()).strip(" ,;.*_`")
    if not any(c.isalnum() for c in things) or len(things) > 300:
        return "not a fact"
    category, kind = _category_and_kind(words)
    return Fact(category, kind, things) if category else "unknown category"


def _category_and_kind(words: Sequence[str]) -> tuple[str | None, str]:
    """Category and kind from the words before the brackets; None for an unknown category."""
    kinds = [_kind(word) for word in words if word not in CATEGORIES]
    kind = next((k for k in kinds if k in _CATEGORY_OF), " ".join(kinds) or "-")
    category = next((word for word in words if word in CATEGORIES), _CATEGORY_OF.get(kind))
    if category == "entity" and kind == "-":
        kind = "whole"
    # DSG-1k has further kinds, but none of more words.
    return (category if len(kind.split()) <= 3 else None), kind


def _kind(word: str) -> str:
    word = word.strip().lower()
    return _SAME_KIND.get(word, word)


def _ids(body: str) -> list[int] | None:
    """The numbers in a cell of dependencies, [0] for none; None if it is unclear.

    Words beside numbers ("1, the dog") are ignored, as they occur in DSG-1k.
    """
    body = body.strip().strip("|").rpartition("|")[2].strip(" *_`.[]{}\"'")
    body = re.sub(r"\((\s*\d[\d\s,and]*)\)", r" \1 ", body)
    body = re.sub(r"^.*\)\s*[:–—>-]+", "", re.sub(r"\(([^()\d][^()]*)\)", ")", body))
    if body.strip(" .)").lower() in _NONE:
        return [0]
    numbers = [int(digits[:4]) for digits in re.findall(r"(?<![=\w.])\d+(?![\w])", body)]
    return numbers or None


def _question(body: str) -> str | None:
    """The yes/no question in a row; None if it has none."""
    cells = [cell for cell in body.split("|") if "?" in cell] or [body.rpartition("|")[2]]
    text = cells[-1].replace("**", "").strip(" \t*_`")
    # The fact may precede its question.
    text = re.sub(r"^(?:entity|attribute|relation|global|other)\b[^?]*?\)\s*[:–—>-]*\s*", "", text)
    text = re.sub(r"^(?:q|question)\s*\d*\s*[:.]\s*", "", text, flags=re.I)
    if text[:1] in "\"'“‘" and "?" in text:
        text = text[1:]
    if "?" in text:
        text = text[: text.rindex("?") + 1]
    text = " ".join(text.split())
    first = re.match(r"[A-Za-z']+", text)
    if first is None or first[0].lower() not in _ASKS or len(text.split()) < 2 or len(text) > 300:
        return None
    return text if text.endswith("?") else text.rstrip(".!;, ") + "?"


def _without_cycles(
    parents_of: dict[int, tuple[int, ...]], faults: Counter[str]
) -> dict[int, tuple[int, ...]]:
    in_cycle = [number for number in parents_of if _in_cycle(parents_of, number)]
    faults["dependencies: in a cycle"] += len(in_cycle)
    return {number: parents for number, parents in parents_of.items() if number not in in_cycle}


def _in_cycle(parents: Mapping[int, tuple[int, ...]], start: int) -> bool:
    """Whether a fact depends on itself, directly or through others."""
    seen: set[int] = set()
    front = list(parents[start])
    while front:
        number = front.pop()
        if number == start:
            return True
        if number not in seen:
            seen.add(number)
            front += parents.get(number, ())
    return False
