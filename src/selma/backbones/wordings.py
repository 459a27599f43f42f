"""How a question is put to a judge."""

from __future__ import annotations

from typing import NamedTuple


class MultipleChoice(NamedTuple):
    """A question whose answer is one of some choices."""

    question: str
    choices: tuple[str, ...]
