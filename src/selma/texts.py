"""Texts from outside: what of them stays, and how messages and terminals show the rest."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Iterable
from string import ascii_lowercase, ascii_uppercase
from typing import Any

_JOINERS = "\u200c\u200d"
"""ZWNJ and ZWJ belong to the spelling of Persian, Indic scripts and emoji."""

_ADDRESS = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{1,15}:/{1,2})([^\s<>]*)")
"""With its scheme; without one, nothing tells an address from other words. One slash is left of two
where an address was taken for a path."""

_HIDDEN = "<key>"
_TELLING, _TELLING_OF_WORDS = 8, 12  # characters of a secret
_WORDS = re.compile("[a-z _-]*")
"""As in "no-key-required", by which servers' sentences would lose words."""
_KINDS = {
    type(None): "nothing", str: "a text", bool: "true or false", int: "a number",
    float: "a number", list: "a list", tuple: "a list", dict: "a mapping", bytes: "bytes",
}  # fmt: skip
_LONGEST_NUMBER = 4096  # bits; Python itself refuses to write more than some 14,000


def printable(text: str) -> str:
    """Without control characters but for tabs and ends of lines, halves of characters, characters
    that nobody has assigned, and marks that turn the direction."""
    if text.isprintable():  # as nearly all are
        return text
    return "".join(
        c
        for c in text
        if c in "\n\t" or not (_steers(c) or unicodedata.category(c) in ("Co", "Cn"))
    )


def legible(text: str) -> str:
    """The text with an escape ("\\x1b") in place of each character that steers a terminal, turns
    the direction or is half of one. Ends of lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _steers(c) else ascii(c)[1:-1] for c in text)


def without_logins(text: str) -> str:
    """The text with dots in place of what may be private in each address in it: user and password,
    and all that follows ? or #."""
    return _ADDRESS.sub(_bare, text)


def _bare(address: re.Match[str]) -> str:
    scheme, rest = address.groups()
    before = re.split(r"[?#]", rest, maxsplit=1)[0]
    after = f"{rest[len(before)]}..." if len(rest) > len(before) else ""
    server = before.split("/", 1)[0]
    if "@" in server or ("@" in before and re.search(r":(?!\d*$)", server)):
        # A slash in a password ends what is taken for the server; what is left is then no port.
        part = server if "@" in server else before
        before = f"...@{part.rpartition('@')[2]}{before[len(part) :]}"
    return f"{scheme}{before}{after}"


_SMALL = str.maketrans(ascii_uppercase, ascii_lowercase)


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """The text with "<key>" in place of each secret, and of whatever part of one tells something of
    it: 8 characters in a row, or 12 that may be words, in small letters or capitals."""
    parts = set[str]()
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
        for size in (_TELLING, _TELLING_OF_WORDS):
            windows = (secret[at : at + size] for at in range(len(secret) - size + 1))
            telling = (w for w in windows if size > _TELLING or not _WORDS.fullmatch(w))
            parts.update(window.translate(_SMALL) for window in telling)
    covered, small = bytearray(len(text)), text.translate(_SMALL)
    for size in (_TELLING, _TELLING_OF_WORDS) if parts else ():
        for at in range(len(text) - size + 1):
            if small[at : at + size] in parts:
                covered[at : at + size] = bytes([1]) * size
    for run in reversed(list(re.finditer(rb"\x01+", covered))):
        text = text[: run.start()] + _HIDDEN + text[run.end() :]
    return text


def kind_in_words(value: Any) -> str:
    """What a value of a file is, in the words of YAML and JSON: "nothing", "a list", ..."""
    return _KINDS.get(type(value), "something else")


def quoted(value: Any, most: int = 80) -> str:
    """A value as code has it, on one line of some `most` characters: however large or deep it is,
    only what is shown of it is looked at."""
    short = _Short()
    short.maxstring = short.maxother = short.maxlong = most
    text = short.repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def place(keys: Iterable[str | int], most: int = 80) -> str:
    """Where in a record a mistake is: its keys with dots between, on one line, however long a key
    that somebody made up is."""
    text = legible(".".join(map(str, keys)))
    return text if len(text) <= most else f"{text[:most]}..."


def mistake_at(keys: Iterable[str | int], message: str) -> str:
    """A message with the place that it is about before it; of the whole record it has none."""
    where = place(keys)
    return f"{where}: {message}" if where else message


class _Short(reprlib.Repr):
    """Four entries of a container, and two levels of them."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 4

    def repr_str(self, x: str, level: int) -> str:
        return repr(x) if len(x) <= self.maxstring else f"{x[: self.maxstring]!r}..."

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x) if len(x) <= self.maxstring else f"{x[: self.maxstring]!r}..."

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= _LONGEST_NUMBER else f"{x.bit_length()} bits"


def _steers(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Cc", "Cs") or (category == "Cf" and character not in _JOINERS)
