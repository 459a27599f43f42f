"""TIFA-style replies in every ugly shape met or thought of so far."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selma.applications.questions.choices import (
    ELEMENT_TYPES,
    Choice,
    read_choices,
    write_choices,
)
from selma.backbones.language.model import Reply
from selma.prompts.questions.asking import (
    Ask,
    Unusable,
    continuation,
    instructions,
    load_style,
)

TEXT = "two red boats near a pier"
YES = ("yes", "no")
FOUND = [
    Choice("boats", "object", "are there boats?", YES, "yes"),
    Choice("red", "color", "what color are the boats?", ("red", "blue", "white", "green"), "red"),
    Choice(
        "pier", "location", "where are the boats?", ("pier", "beach", "garage", "field"), "pier"
    ),
]
PLAIN = """About boats (object):
Q: are there boats?
Choices: yes, no
A: yes
About red (color):
Q: what color are the boats?
Choices: red, blue, white, green
A: red
About pier (location):
Q: where are the boats?
Choices: pier, beach, garage, field
A: pier"""
ROWS = [
    {
        "element": c.element,
        "element_type": c.element_type,
        "question": c.question,
        "choices": list(c.choices),
        "answer": c.answer,
    }
    for c in FOUND
]


def lettered(line: str) -> str:
    """Choices on lines of their own, each with a letter."""
    head, _, rest = line.partition(": ")
    if head != "Choices":
        return line
    options = [f"{'ABCD'[i]}) {choice}" for i, choice in enumerate(rest.split(", "))]
    return "\n".join(("Choices:", *options))


def in_line(line: str) -> str:
    head, _, rest = line.partition(": ")
    if head != "Choices":
        return line
    return "Choices: " + " ".join(f"({'abcd'[i]}) {c}" for i, c in enumerate(rest.split(", ")))


SHAPES = {
    "as asked": PLAIN,
    "chatter": f"Sure, here are the questions:\n\n{PLAIN}\n\nI hope they help!",
    "a fence": f"```\n{PLAIN}\n```",
    "empty lines": PLAIN.replace("\n", "\n\n"),
    "carriage returns": PLAIN.replace("\n", "\r\n"),
    "indented": PLAIN.replace("\n", "\n   "),
    "bullets": PLAIN.replace("\n", "\n- "),
    "bold labels": PLAIN.replace("Q:", "**Q:**").replace("A:", "**A:**").replace("Ch", "**Ch"),
    "bold headings": PLAIN.replace("About", "**About").replace("):", "):**"),
    "headings": PLAIN.replace("About", "### About"),
    "numbered headings": "\n".join(
        f"{n}. {line}" if line.startswith("About") else line
        for n, line in enumerate(PLAIN.split("\n"), 1)
    ),
    "numbered questions": PLAIN.replace("Q:", "Q1:").replace("A:", "A1:"),
    "long labels": PLAIN.replace("Q:", "Question:").replace("A:", "Answer:"),
    "other labels": PLAIN.replace("Choices:", "Options:").replace("A:", "Correct answer:"),
    "small letters": PLAIN.replace("Q:", "q:").replace("A:", "a:").replace("Choices", "choices"),
    "brackets": PLAIN.replace("Choices: ", "Choices: [").replace("\nA:", "]\nA:"),
    "semicolons": PLAIN.replace(", ", "; "),
    "slashes": PLAIN.replace(", ", " / "),
    "bars": PLAIN.replace(", ", " | "),
    "or": PLAIN.replace("yes, no", "yes, or no").replace(", green", ", or green"),
    "quotes": PLAIN.replace("A: red", 'A: "red"').replace("red, blue", '"red", "blue"'),
    "full stops": PLAIN.replace("A: yes", "A: yes.").replace("A: pier", "A: Pier."),
    "letters below": "\n".join(map(lettered, PLAIN.split("\n"))),
    "letters in a line": "\n".join(map(in_line, PLAIN.split("\n"))),
    "answers by letter": "\n".join(map(lettered, PLAIN.split("\n")))
    .replace("A: yes", "A: A")
    .replace("A: red", "Answer: (A)")
    .replace("A: pier", "Answer: A) pier"),
    "elements by name": PLAIN.replace("About boats (object):", "Element: boats\nType: object"),
    "no marks": PLAIN.replace("boats?", "boats"),
    "British": PLAIN.replace("(color)", "(colour)"),
    "other types": PLAIN.replace("(location)", "(place)"),
    "thoughts": f"<think>About dog (animal):\nQ: is it?\n</think>{PLAIN}",
    "a question twice": f"{PLAIN}\nQ: Are there boats?\nChoices: yes, no\nA: yes",
    "a choice twice": PLAIN.replace("blue, white", "blue, blue, white"),
    "cut off": f"{PLAIN}\nQ: how many boats are there?\nChoices: 1, 2, 3",
    "JSON": json.dumps(ROWS),
    "JSON in a fence": f"Here:\n```json\n{json.dumps(ROWS, indent=2)}\n```",
    "JSON under a key": json.dumps({"questions": ROWS}),
    "JSON by element": json.dumps(
        [{"element": r["element"], "type": r["element_type"], "questions": [r]} for r in ROWS]
    ),
    "JSON options": json.dumps(
        [
            {"entity": r["element"], "type": r["element_type"], "question": r["question"]}
            | {"options": dict(zip("ABCD", r["choices"], strict=False)), "answer": "A"}
            for r in ROWS
        ]
    ),
    "JSON text of choices": json.dumps([r | {"choices": ", ".join(r["choices"])} for r in ROWS]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_questions_survive(shape: str) -> None:
    found, rejected = read_choices(SHAPES[shape], TEXT, Counter())
    assert found == FOUND, shape
    assert rejected <= 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("A: red", "A: purple"), "answer is no choice"),
        (("A: red", "A: E"), "answer is no choice"),
        (("A: red", "A: B) red"), "answer is no choice"),
        (("red, blue, white, green", "red"), "too few choices"),
        (("red, blue, white, green", "red, Red, blue"), "too few choices"),
        (("(color)", "(quality)"), "unknown type"),
        (("About red", "About dragon"), "not in the text"),
        (("what color are the boats?", "?"), "no question"),
        (("what color are the boats?", "are there boats?"), "asked twice"),
    ],
)
def test_what_is_wrong_is_left_out_and_counted(change: tuple[str, str], fault: str) -> None:
    faults: Counter[str] = Counter()
    found, rejected = read_choices(PLAIN.replace(*change), TEXT, faults)
    assert found == [FOUND[0], FOUND[2]]
    assert (rejected, faults[f"choices: {fault}"]) == (1, 1)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=300),
        st.lists(
            st.sampled_from(
                [*PLAIN.split("\n"), "A) x", "A:", "Q:", "Choices:", "About (", "{", "["]
            )
        ).map("\n".join),
    )
)
def test_any_reply_gives_sound_questions_or_none(reply: str) -> None:
    for choice in read_choices(reply, TEXT, Counter())[0]:
        assert choice.answer in choice.choices and len(choice.choices) >= 2
        assert choice.element_type in ELEMENT_TYPES and choice.question


def test_a_cut_or_poor_reply_is_asked_again_and_then_given_up() -> None:
    faults: Counter[str] = Counter()
    steps = write_choices(TEXT, faults, attempts=3)
    assert next(steps).attempt == 0
    assert steps.send(Reply(PLAIN, 1, 1, truncated=True)).attempt == 1
    assert steps.send(Reply("I'm sorry, but no.", 1, 1, truncated=False)).attempt == 2
    with pytest.raises(StopIteration) as end:
        steps.send(Reply(PLAIN, 1, 1, truncated=False))
    made = end.value.value
    assert [(c.question, set(c.choices), c.answer) for c in made] == [
        (c.question, set(c.choices), c.answer) for c in FOUND
    ]
    assert made[0].choices == ("yes", "no")
    # The right one came first each time; it must not stay there.
    assert any(c.choices[0] != c.answer for c in made)
    assert faults["choices: cut"] == faults["choices: refusal"] == 1
    steps = write_choices(TEXT, faults, attempts=1)
    next(steps)
    with pytest.raises(Unusable, match="no usable questions"):
        steps.send(Reply("", 1, 1, truncated=False))


def test_the_examples_are_what_the_parser_reads() -> None:
    style = load_style("tifa")
    ask = Ask("choices", TEXT)
    shown = continuation(style, ask)
    for example in style.examples:
        block = shown.split(f"{example.text}\nQuestions:\n")[1].split("\n\n")[0]
        found, rejected = read_choices(block, example.text, Counter())
        assert [(c.question, list(c.choices), c.answer) for c in found] == [
            (row[2], row[3], row[4]) for row in example.rows
        ]
        assert not rejected
    assert instructions(style, ask).endswith(f"{TEXT}\nQuestions:")
