"""What a message of a chat completion says, in any of the forms in which servers put it."""

from __future__ import annotations

from typing import Any, Literal

from selma.backbones.language.model import Silence

_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")


def content(message: Any) -> str | None:
    """The text of a message, "" where it is null; a list of parts is joined, without thoughts.
    None if it is of no such form."""
    parts = message.content
    if isinstance(parts, list):
        texts = [_text(part) for part in parts]
        return None if None in texts else _whole("".join(map(str, texts)))
    if parts is None:
        return ""
    return _whole(parts) if isinstance(parts, str) else None


def silence(choice: Any) -> Silence | Literal[""]:
    """Why a reply without text has none; "" if it is just empty."""
    message = choice.message
    if getattr(choice, "finish_reason", None) == "content_filter":
        return "filtered"
    if getattr(message, "refusal", None):
        return "refusal"
    if getattr(message, "tool_calls", None) or getattr(message, "function_call", None):
        return "tool_call"
    if isinstance(message.content, list) or any(getattr(message, name, None) for name in _THOUGHTS):
        return "thought"
    return "null" if message.content is None else ""


def _text(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return None
    if "think" in str(part.get("type", "")) or "reason" in str(part.get("type", "")):
        return ""
    return part["text"] if isinstance(part.get("text"), str) else None


def _whole(text: str) -> str:
    """The text with halves of surrogate pairs, which no file can hold, replaced."""
    return text.encode("utf-8", "replace").decode()
