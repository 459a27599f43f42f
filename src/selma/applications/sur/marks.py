"""What programs put into prompts, and CLIP cannot read: weights, tags, switches."""

from __future__ import annotations

import re

_TAG = re.compile(r"<(?:lora|lyco|lycoris|hypernet|embedding)\s*:[^<>]*>", re.IGNORECASE)
_NUMBER = r"\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*"
_INNER = r"[^()\[\]]*?"
_WEIGHT = re.compile(rf"\(({_INNER})(?::{_NUMBER})?\)")
_EDIT = re.compile(rf"\[({_INNER})\]")
_ESCAPED = {r"\(": "\ue000", r"\)": "\ue001", r"\[": "\ue002", r"\]": "\ue003"}  # private use
_SWITCH = re.compile(r"\b(?:BREAK|AND)\b")
_SPACE = re.compile(r"\s+")
_COMMAS = re.compile(r"\s*,(?:\s*,)*\s*")


def stripped(prompt: str) -> str:
    """The prompt without marks, the rule "stripped".

    `<lora:...>` and its like go. Of (word:1.2), ((word)) and [word] the words stay, of [a:b:0.5]
    and [a|b] the first. BREAK and AND become commas; escaped brackets become brackets.
    """
    text = _TAG.sub(" ", prompt)
    for mark, keeper in _ESCAPED.items():
        text = text.replace(mark, keeper)
    before = None
    while before != text:  # from the innermost bracket outwards
        before = text
        text = _WEIGHT.sub(r"\1", text)
        text = _EDIT.sub(_first, text)
    for mark, keeper in _ESCAPED.items():
        text = text.replace(keeper, mark[1])
    text = _COMMAS.sub(", ", _SWITCH.sub(",", text))
    return _SPACE.sub(" ", text).strip(" ,")


def _first(brackets: re.Match[str]) -> str:
    inside = brackets[1]
    if "|" in inside:
        return inside.split("|")[0]
    parts = inside.split(":")
    return parts[0] if re.fullmatch(_NUMBER, parts[-1]) else inside
