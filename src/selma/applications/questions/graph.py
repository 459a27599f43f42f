"""DSG for a new text (arXiv:2310.18235): facts, what each depends on, and a question for each.

Pure: a generator that yields what is to be asked and is sent the replies. What a reply has wrong is
counted, and only the wrong part is asked for again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from selma.applications.questions.asking import Ask, Unusable
from selma.applications.questions.grounding import is_of, shares_a_word
from selma.applications.questions.lines import Row, rows
from selma.backbones.language.model import Reply
from selma.backbones.language.replies import REFUSAL, readable

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
    "",
    "0",
    "-",
    "none",
    "no",
    "nothing",
    "n/a",
    "na",
    "null",
    "root",
    "–",
    "—",
    "independent",
}


@dataclass(frozen=True)
class Fact:
    """One single thing that a text says."""

    category: str
    kind: str
    things: str

    def __str__(self) -> str:
        return f"{self.category} - {self.kind} ({self.things})"


@dataclass(frozen=True)
class GraphRow:
    """One row of the result; `parents` are numbers of rows, from 1."""

    fact: Fact
    parents: tuple[int, ...]
    question: str


def write_graph(
    text: str, faults: Counter[str], *, attempts: int
) -> Generator[Ask, Reply, list[GraphRow]]:
    """The graph of one text. `faults` counts what was wrong in replies. Raises Unusable."""
    facts = yield from _first(text, faults, attempts)
    shown = tuple(map(str, facts))

    def parents(reply: str) -> dict[int, tuple[int, ...]]:
        return read_dependencies(reply, len(facts), faults)

    def questions(reply: str) -> dict[int, str]:
        return read_questions(reply, facts, faults)

    after = yield from _every("dependencies", text, shown, parents, faults, attempts)
    asked = yield from _every("questions", text, shown, questions, faults, attempts)
    return [GraphRow(fact, after[number], asked[number]) for number, fact in enumerate(facts, 1)]


def _first(text: str, faults: Counter[str], attempts: int) -> Generator[Ask, Reply, list[Fact]]:
    for attempt in range(attempts):
        reply = yield Ask("tuples", text, attempt=attempt)
        facts, rejected = read_facts(reply.text, text, faults)
        if reply.truncated:
            faults["tuples: cut"] += 1
        # More wrong than right is a reply that was not understood.
        elif facts and rejected <= len(facts):
            return facts
        faults["tuples: asked again"] += attempt + 1 < attempts
    raise Unusable("no usable facts")


def _every(
    step: str,
    text: str,
    facts: tuple[str, ...],
    read: Callable[[str], dict[int, T]],
    faults: Counter[str],
    attempts: int,
) -> Generator[Ask, Reply, dict[int, T]]:
    """Number → what a step says of that fact, for all of them: what one attempt leaves out, another
    may give."""
    by_fact: dict[int, T] = {}
    for attempt in range(attempts):
        reply = yield Ask(step, text, facts, attempt)
        new = read(reply.text)
        if reply.truncated and new:
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
    """The facts in a reply about `text`, each once, and how many rows were none."""
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
            # The fact counts by what it says, so its number does not matter.
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
    """Number → numbers that it depends on, of the rows that say so clearly."""
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
    """Number → question, of the rows that ask for a yes or no about their own fact."""
    question_of: dict[int, str] = {}
    if REFUSAL.match(readable(reply)):
        faults["questions: refusal"] += 1
    for number, body in _with_numbers(rows(reply), len(facts), "questions", faults, shift=True):
        question = _question(body)
        if question is None:
            faults["questions: not yes or no"] += 1
        elif not shares_a_word(facts[number - 1].things, question):
            # Seen in DSG-1k itself: questions moved by one row, so that scores are of other facts.
            faults["questions: about another fact"] += 1
        elif number in question_of:
            faults["questions: number twice"] += 1
        else:
            question_of[number] = question
    return question_of


def _with_numbers(
    rows: Sequence[Row], count: int, step: str, faults: Counter[str], *, shift: bool
) -> list[tuple[int, str]]:
    """Rows whose number is one of the facts'.

    Rows without any numbers are counted off where there are as many as facts; with `shift`, so are
    rows numbered on from elsewhere, each by one.
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
    """A fact, or why it is none."""
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
    category, kind = _sorted(words)
    return Fact(category, kind, things) if category else "unknown category"


def _sorted(words: Sequence[str]) -> tuple[str | None, str]:
    """Category and kind out of the words before the brackets; no category if there is none."""
    kinds = [_kind(word) for word in words if word not in CATEGORIES]
    kind = next((k for k in kinds if k in _CATEGORY_OF), " ".join(kinds) or "-")
    category = next((word for word in words if word in CATEGORIES), _CATEGORY_OF.get(kind))
    if category == "entity" and kind == "-":
        kind = "whole"
    # DSG-1k has rarer kinds than these, but none of many words.
    return (category if len(kind.split()) <= 3 else None), kind


def _kind(word: str) -> str:
    word = word.strip().lower()
    return _SAME_KIND.get(word, word)


def _ids(body: str) -> list[int] | None:
    """The numbers that a cell of dependencies names, 0 among them for none; None if it is unclear.

    Words beside numbers ("1, the dog") are passed over, as DSG-1k has them too.
    """
    body = body.strip().strip("|").rpartition("|")[2].strip(" *_`.[]{}\"'")
    body = re.sub(r"\((\s*\d[\d\s,and]*)\)", r" \1 ", body)
    body = re.sub(r"^.*\)\s*[:–—>-]+", "", re.sub(r"\(([^()\d][^()]*)\)", ")", body))
    if body.strip(" .)").lower() in _NONE:
        return [0]
    numbers = [int(digits[:4]) for digits in re.findall(r"(?<![=\w.])\d+(?![\w])", body)]
    return numbers or None


def _question(body: str) -> str | None:
    """A question that can be answered by yes or no; None if the text is none."""
    cells = [cell for cell in body.split("|") if "?" in cell] or [body.rpartition("|")[2]]
    text = cells[-1].replace("**", "").strip(" \t*_`")
    # A fact may have been written before its question.
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
    circling = [number for number in parents_of if _reaches(parents_of, number)]
    faults["dependencies: in a cycle"] += len(circling)
    return {number: parents for number, parents in parents_of.items() if number not in circling}


def _reaches(parents: Mapping[int, tuple[int, ...]], start: int) -> bool:
    """Whether a fact depends on itself, through others."""
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
