"""Civitai's metadata, as its interface gives it: pages of models or of images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selma.applications.sur.statements import readable, value_statement
from selma.errors import DataError
from selma.textfiles import read_text

_RIGHTS = ("allowCommercialUse", "allowNoCredit", "allowDerivatives", "allowDifferentLicense")
_SAFE = ("", "none", "false", "0", "1")  # nsfwLevel counts from 1, for everybody


@dataclass(frozen=True)
class Entry:
    """One image that a dump tells of."""

    address: str
    names: tuple[str, ...]
    """What its file may be called, without extension: UUID, last part of the address, id."""
    prompt: str
    """Empty where none is told, for this reason:"""
    reason: str
    licence: str
    marked: bool
    """The site calls it unsafe."""


@dataclass(frozen=True)
class _Around:
    """What a model says for all of its images."""

    licence: str = "unknown"
    marked: bool = False


def read_dump(path: Path) -> Iterator[Entry]:
    """Every image that the page, or each page in the folder, tells of, in order. Raises
    DataError for what is no JSON, or tells of no image."""
    pages = sorted(path.glob("*.json")) if path.is_dir() else [path]
    count = 0
    for page in pages:
        try:
            value = json.loads(read_text(page))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{page} must be a page of metadata in JSON: {error}.") from error
        for entry in _walk(value, _Around()):
            count += 1
            yield entry
    if not count:
        raise DataError(
            f"{path} must be a JSON file with images' metadata, or a folder of them, but tells "
            "of no image."
        )


def _walk(value: Any, around: _Around) -> Iterator[Entry]:
    if isinstance(value, list):
        for part in value:
            yield from _walk(part, around)
    elif isinstance(value, dict):
        if isinstance(value.get("url"), str) and "meta" in value:
            yield _entry(value, around)
            return
        around = _stated(value, around)
        for part in value.values():
            yield from _walk(part, around)


def _stated(value: Mapping[str, Any], around: _Around) -> _Around:
    rights = [f"{name}={value[name]}" for name in _RIGHTS if name in value]
    who = value.get("creator")
    if rights and isinstance(who, dict) and isinstance(who.get("username"), str):
        rights.insert(0, f"creator {who['username']}")
    if rights:
        around = replace(around, licence=f"Civitai model {value.get('id')}: {', '.join(rights)}")
    return replace(around, marked=around.marked or _unsafe(value))


def _entry(row: Mapping[str, Any], around: _Around) -> Entry:
    meta, address = row["meta"], readable(row["url"])
    statement = value_statement(meta).cleaned()
    parts = address.split("?")[0].split("/")
    names = [parts[-1].rpartition(".")[0] or parts[-1]]
    # The address is .../<UUID>/width=450/<name>: the third part from the end.
    names += parts[-3:-2]
    if isinstance(row.get("id"), int | str):
        names.append(readable(str(row["id"])))
    own = row.get("license") or row.get("licence")
    return Entry(
        address=address,
        names=tuple(dict.fromkeys(name for name in reversed(names) if name)),
        prompt=statement.prompt,
        reason=statement.reason,
        licence=readable(own if isinstance(own, str) else around.licence),
        marked=around.marked or _unsafe(row),
    )


def _unsafe(row: Mapping[str, Any]) -> bool:
    # In words, since True equals 1 and is the opposite here.
    ratings = (str(row.get(name) or "").lower() for name in ("nsfw", "nsfwLevel"))
    return any(word not in _SAFE for word in ratings)
