"""A server's or gateway's error that came as if it were the model's reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selma.backbones.language.loose_json import Pairs

_KEYS = {"error", "errors", "err", "fault", "exception", "traceback", "errormessage", "errorcode"}
_KINDS = {"type", "object", "status", "kind", "level", "result"}
_FAILED = {"error", "errors", "fail", "failed", "failure", "exception"}
_CODES = {"status", "code", "statuscode", "httpstatus", "errorcode"}
_WORDS = {"message", "msg", "detail", "details", "reason"}
_FIRST_FAILURE, _LAST_FAILURE = 400, 599  # of HTTP


def is_server_error(content: Any, *, any_caption: Callable[[Pairs], bool]) -> bool:
    """Whether the one object of a reply says what failed: by a key, by its kind, by HTTP's status,
    or as no more than a message on one line. `any_caption` says that an object has captions."""
    if isinstance(content, list) and not isinstance(content, Pairs) and len(content) == 1:
        content = content[0]
    if not isinstance(content, Pairs) or any_caption(content):
        return False
    return any(_fails(_plain(key), value) for key, value in content) or _is_message(content)


def _fails(key: str, value: Any) -> bool:
    if key in _KEYS:
        return bool(value)
    if key in _KINDS and isinstance(value, str) and value.lower() in _FAILED:
        return True
    number = str(value)
    return key in _CODES and number.isdecimal() and _FIRST_FAILURE <= int(number) <= _LAST_FAILURE


def _is_message(pairs: Pairs) -> bool:
    """FastAPI's detail, or the message of a gateway: one line, or a list of what is wrong where."""
    texts = [(_plain(key), value) for key, value in pairs if isinstance(value, str | list)]
    return bool(texts) and all(
        key in _WORDS and ("\n" not in value if isinstance(value, str) else _locates(value))
        for key, value in texts
    )


def _locates(faults: list[Any]) -> bool:
    return any(isinstance(fault, Pairs) and "loc" in dict(fault) for fault in faults)


def _plain(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")
