"""What generators state about an image's prompt: A1111's text, and JSON of many programs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selma.textfiles import writable
from selma.texts import printable

_MOST = 4_000_000  # characters: a graph with everything it needs has some hundred thousand
_DEEP = 4
_SETTING = re.compile(r"\s*\w[\w /-]*:\s")
_STEPS = re.compile(r"\s*Steps:\s*\d+\s*")
_IS_JSON = re.compile(r'\s*(?:\{\s*["}]|\[\s*[\[{"\]])')
_NESTED = ("image", "meta", "metadata", "comfy", "extraMetadata", "v4_prompt", "caption", "prompt")


@dataclass(frozen=True)
class Statement:
    """A prompt, or the reason why there is none."""

    prompt: str = ""
    reason: str = ""

    def cleaned(self) -> Statement:
        """The same in `readable` texts."""
        return Statement(readable(self.prompt).strip(), readable(self.reason))


def readable(text: str) -> str:
    """The text without what steers a terminal or turns the direction, and a question mark for each
    half of a character, which JSON may name and no file can hold."""
    return printable(writable(text))


EMPTY = Statement(reason="the prompt is empty")


def text_statement(text: str, *, bare: bool) -> Statement:
    """The prompt in A1111's text or in JSON.

    bare: whether a text without A1111's settings is a prompt, too; comments of cameras are none.
    """
    text = text.removeprefix("\ufeff").strip("\0 \t\r\n")
    if len(text) > _MOST:
        return Statement(reason="the text is too long to be a prompt")
    if _IS_JSON.match(text):
        return json_statement(text)
    if not bare and not any(map(_begins_another_part, text.split("\n"))):
        return Statement(reason="a comment without a generator's settings")
    prompt = a1111(text)
    return Statement(prompt=prompt) if prompt else EMPTY


def a1111(parameters: str) -> str:
    """The lines before "Negative prompt:" and the settings, which are the last line that lists
    them: prompts have colons and steps, too. Tags and BREAK stay as they are written."""
    lines = [line.strip() for line in parameters.split("\n")]
    end = max((n for n, line in enumerate(lines) if _is_settings(line)), default=len(lines))
    negative = (n for n, line in enumerate(lines[:end]) if line.startswith("Negative prompt:"))
    return "\n".join(lines[: next(negative, end)]).strip()


def json_statement(text: str) -> Statement:
    """The prompt in JSON text; see `value_statement`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Statement(reason="JSON that is damaged")
    return value_statement(value)


def value_statement(value: Any, *, depth: int = 0) -> Statement:
    """The prompt in a JSON value: of SwarmUI, Fooocus, InvokeAI, NovelAI, Draw Things, Civitai and
    others who name it so, or of ComfyUI's graph."""
    from selma.applications.sur.comfy import graph_prompt, is_graph

    if not isinstance(value, dict) or depth > _DEEP:
        return Statement(reason="JSON that names no prompt")
    if isinstance(swarm := value.get("sui_image_params"), dict):
        return _stated(swarm, "prompt") or EMPTY
    if is_graph(value):
        own = _inner(value.get("extraMetadata"), depth)
        return own if own is not None and own.prompt else graph_prompt(value)
    for names in _NAMES:
        if statement := _stated(value, *names):
            return statement
    inner = [_inner(value[name], depth) for name in _NESTED if name in value]
    statements = [statement for statement in inner if statement is not None]
    if prompts := [statement for statement in statements if statement.prompt]:
        return prompts[0]
    is_empty = any(isinstance(value.get(names[0]), str) for names in _NAMES)
    return statements[0] if statements else EMPTY if is_empty else _NONE


_NONE = Statement(reason="JSON that names no prompt")
_NAMES = (
    ("positive_prompt", "positive_style_prompt"),
    ("prompt",),
    ("Prompt",),
    ("positivePrompt",),
    ("base_caption",),
)
"""Under which names texts stand; those of one row are parts of one prompt."""


def _stated(value: Mapping[str, Any], *names: str) -> Statement | None:
    texts = [value[name].strip() for name in names if isinstance(value.get(name), str)]
    if not texts or not texts[0] or _IS_JSON.match(texts[0]):
        return None
    return Statement(prompt=", ".join(dict.fromkeys(filter(None, texts))))


def _inner(value: Any, depth: int) -> Statement | None:
    """What a part of a JSON value states; None where it is no such part."""
    if isinstance(value, str) and _IS_JSON.match(value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return Statement(reason="JSON that is damaged")
    if isinstance(value, list):  # InvokeAI 2: prompts with their weights
        texts = [part.get("prompt") if isinstance(part, dict) else part for part in value]
        prompt = ", ".join(text.strip() for text in texts if isinstance(text, str) and text.strip())
        return Statement(prompt=prompt) if prompt else EMPTY
    return value_statement(value, depth=depth + 1) if isinstance(value, dict) else None


def _begins_another_part(line: str) -> bool:
    return line.strip().startswith("Negative prompt:") or _is_settings(line)


def _is_settings(line: str) -> bool:
    """A1111 takes the last line for settings if it has three; fewer must be all that it has."""
    parts = line.split(",")
    settings = [part for part in parts if _SETTING.match(part)]
    has_steps = any(_STEPS.fullmatch(part) for part in settings)
    return has_steps and (len(settings) >= 3 or len(settings) == len(parts))
