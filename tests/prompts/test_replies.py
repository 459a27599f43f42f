"""Replies as models write them, and the captions that each holds: the tables in `replies/`.

A table is text that a person can read and add to. What stands before the first line of `%%%` is a
remark; then come shapes:

    %%% a name                  (cut) at its end: the limit on tokens ended the reply
    the reply, as it came
    %%% =>                      or, of a reply without captions,   %%% => none: its outcome
    a caption on each line, up to an empty line

An empty line before the next `%%%` does not belong to the reply.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from selma.prompts.parsing import parse_reply

TABLES = sorted((Path(__file__).parent / "replies").glob("*.txt"))


class Shape(NamedTuple):
    reply: str
    cut: bool
    captions: tuple[str, ...]
    outcome: str


def shapes(path: Path) -> dict[str, Shape]:
    """Name → shape, in the table's order; a name stands once."""
    text = path.read_text("utf-8")
    by_name = {}
    for match in re.finditer(
        r"^%%% (?!=>)(.+)\n((?:.*\n)*?)%%% =>(.*)\n((?:(?!%%% ).*\n)*)", text, re.MULTILINE
    ):
        name, reply, outcome, captions = match.groups()
        assert name not in by_name, name
        by_name[name] = Shape(
            reply.removesuffix("\n"),
            name.endswith("(cut)"),
            tuple(line for line in captions.split("\n") if line),
            outcome.removeprefix(" none: ") or "captions",
        )
    assert len(by_name) == len(re.findall(r"^%%% (?!=>)", text, re.MULTILINE)), path
    return by_name


ALL = [
    pytest.param(shape, id=f"{path.stem}: {name}")
    for path in TABLES
    for name, shape in shapes(path).items()
]


@pytest.mark.parametrize("shape", ALL)
def test_a_reply_gives_its_captions(shape: Shape) -> None:
    assert parse_reply(shape.reply, truncated=shape.cut).captions == shape.captions


@pytest.mark.parametrize("shape", [param for param in ALL if not param.values[0].captions])
def test_a_reply_without_captions_says_why(shape: Shape) -> None:
    assert parse_reply(shape.reply, truncated=shape.cut).outcome == shape.outcome


def test_there_are_shapes_enough() -> None:
    assert len(ALL) >= 120
