"""Why a server refused a request, whatever the form of its body, and what can be done about it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from selma.config.networks import Endpoint
from selma.texts import mistake_at

LONGEST_REASON = 300
"""Characters of a server's own words that are shown and kept."""

_READ, _READ_OF_PAGE = 100_000, 10_000  # characters of a body, and of one that is HTML
_TEXT_KEYS = ("message", "detail", "error", "msg", "errors", "error_message", "error_description",
              "reason", "title", "description")  # fmt: skip
_RANGE = re.compile(
    r"too (?:large|high|small|low|long|big|many)|exceed|at (?:most|least)|(?:less|greater) than|"
    r"between|maximum|minimum|out of range|must be (?:[<>≤≥]|in\b)|context (?:length|window)",
    re.IGNORECASE,
)
_UNWANTED = re.compile(
    r"unset|omit|remove|default|unsupported|n[o'’]t support|unknown|unrecogni[sz]ed|unexpected|"
    r"extra|not (?:permitted|allowed)|only one|\bboth\b|mutually",
    re.IGNORECASE,
)
_TOGETHER = re.compile(
    r"\bboth\b|only one|together|at the same time|mutually|combin", re.IGNORECASE
)
_STATE = re.compile(
    r"\bcrash|\bunload|\bnot (?:yet |been |currently )*loaded|\bno models? (?:is |are )?loaded|"
    r"fail(?:ed|ure)? to load|load(?:ing)? (?:the )?model|out of memory|"
    r"insufficient (?:memory|vram)|exit code|\bterminated|shut(?:ting)? down|cuda error",
    re.IGNORECASE,
)
"""What a server says of itself, whatever was asked."""
_NO_MODEL = re.compile(
    r"\bmodel\b[^.;]{0,80}(?:not exist|not found|not available|not a valid)|"
    r"(?:unknown|invalid|no such) model\b",
    re.IGNORECASE,
)
_FIRST_TO_GO = ("top_p", "seed", "top_logprobs", "logprobs", "stop", "temperature")


def reason(body: str) -> str:
    """What the server says, on one line, cut to LONGEST_REASON characters."""
    text = " ".join(_printable(_words(body[:_READ])).split())
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"


def as_sentence(text: str) -> str:
    """The text with a full stop, unless it ends as a sentence does."""
    return text if text.endswith((".", "!", "?", "…", "。", "！", "？")) else f"{text}."


def refused_parameter(body: str, sent: Collection[str]) -> str | None:
    """The parameter, among those that were sent, that the server does not take; None if it names
    none, or rather bounds its value."""
    body = body[:_READ]
    words = _words(body)
    if _RANGE.search(words) and not _UNWANTED.search(words):
        return None
    named = [name for name in _named(_json(body)) if name in sent]
    if named:
        return named[0]
    places = {name: match.start() for name in sent if (match := _mention(name).search(words))}
    if len(places) > 1 and _TOGETHER.search(words):
        return next((name for name in _FIRST_TO_GO if name in places), None)
    return min(places, key=places.__getitem__, default=None)


class Advice(NamedTuple):
    """What the advice about one kind of request names."""

    path: str
    """Where the address in the settings ends before."""
    ranged: str
    """A setting that may be out of its range."""
    unknown: str
    """What to do about a parameter that is not taken; {setting} is where the server stands."""


OF_CHAT = Advice(
    "/chat/completions",
    "max_new_tokens",
    "A parameter that it does not take can be named in {setting}.omit",
)
OF_IMAGES = Advice(
    "/images/generations",
    "image_px, steps or guidance",
    "Check {setting}.dialect, which says what is sent, and {setting}.guidance_as",
)


def advice(
    status: int,
    why: str,
    server: Endpoint,
    *,
    setting: str,
    has_key: bool,
    words: Advice = OF_CHAT,
) -> str:
    """What the user can look at, for a status that no further attempt would change."""
    key = server.key_variable
    if status in (401, 403):
        return f"Check the key in {key}" if has_key else f"No key is set in {key}; set it"
    if status == 404 or (status in (400, 422) and _NO_MODEL.search(why)):
        return (
            f"Check {setting}.model and {setting}.base_url, which ends before {words.path} (mostly "
            "with /v1)"
        )
    if status in (400, 413, 422):
        if _STATE.search(why):
            return "Load the model again in the server, whose own log says why it failed"
        if _RANGE.search(why):
            return f"Change the setting that is out of its range, as {words.ranged}"
        return words.unknown.format(setting=setting)
    if status in (402, 429):
        return f"Check the account of the key in {key}"
    return f"Check {setting}.base_url and the server's own log"


def _words(body: str) -> str:
    """The sentences of a body: of JSON in any form, of HTML its text, else the body."""
    value = _json(body)
    if value is not None:
        return "; ".join(dict.fromkeys(_sentences(value))) or body
    if re.search(r"<(?:!doctype|html|body|head)\b", body[:1000], re.IGNORECASE):
        # The pattern takes time in the square of the length, where blocks are never closed.
        page = body[:_READ_OF_PAGE]
        text = re.sub(r"<(script|style)\b.*?</\1\s*>|<[^<>]*>", " ", page, flags=re.I | re.S)
        return html.unescape(text)
    return body


def _json(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _sentences(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth < 8:
        for part in value[:5]:
            yield from _sentences(part, depth + 1)
    elif isinstance(value, dict) and depth < 8:
        if isinstance(value.get("loc"), list) and "msg" in value:  # FastAPI's
            yield mistake_at(value["loc"], str(value["msg"]))
            return
        for key in _TEXT_KEYS:
            sentences = list(_sentences(value.get(key), depth + 1))
            if sentences:
                yield from sentences
                break
        raw = value["metadata"].get("raw") if isinstance(value.get("metadata"), dict) else None
        if isinstance(raw, str):  # what a server behind this one said
            yield _words(raw)


def _named(value: Any, depth: int = 0) -> Iterator[str]:
    """The parameters that fields of a body name: OpenAI's `param`, FastAPI's `loc`."""
    if depth > 8:
        return
    if isinstance(value, dict):
        if isinstance(value.get("param"), str):
            yield value["param"].removeprefix("body.")
        if isinstance(value.get("loc"), list):
            yield from (part for part in reversed(value["loc"]) if isinstance(part, str))
    for part in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from _named(part, depth + 1)


def _mention(name: str) -> re.Pattern[str]:
    """The name in a text, also as topP or top-p; "stop", which is a word, only between quotes."""
    pattern = rf"(?<![\w-]){name.replace('_', '[_-]?')}(?![\w-])"
    return re.compile(rf"[\"'`]{pattern}[\"'`]" if name == "stop" else pattern, re.IGNORECASE)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c.isspace() else " " for c in text)
