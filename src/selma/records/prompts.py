"""Stage 1 leaves prompts."""

from __future__ import annotations

import hashlib

from selma.records.record import OutsideText, Record


def prompt_id(skill: str, text: str) -> str:
    """16 hex digits from skill and text: safe as a file name, equal for equal prompts."""
    return hashlib.sha256(f"{skill}\n{text}".encode()).hexdigest()[:16]


class Prompt(Record):
    """One text that an LLM wrote for a skill. `parents` are the ids or texts of its in-context
    examples; `tokens` is what the reply that held it cost, divided by the prompts in it."""

    id: str
    skill: str
    text: OutsideText
    parents: tuple[str, ...] = ()
    model: str = ""
    tokens: float = 0.0
