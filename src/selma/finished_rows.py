"""Rows of finished items. Very many become records only when somebody asks for one of them.

What recipes of later stages need of the rows, their number and a digest, is in the item's manifest,
or read from the file without making records: to look at a finished run of a million makes none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from selma.disk import regular
from selma.manifests import ROWS, SELF, has_many_rows, remembered_sha256
from selma.record_files import read_rows
from selma.records.finished import FinishedRows
from selma.records.prompts import Prompt
from selma.texts import printable
from selma.workspace import FactsOf, Item, recipe_key

PROMPTS_FILE = "prompts.jsonl"
_PART = 1_000
"""Rows that are decoded at a time."""
Row = TypeVar("Row")


def finished_rows(
    item: Item, name: str, facts_of: FactsOf, read: Callable[[], Sequence[Row]]
) -> Sequence[Row]:
    """The records of a finished item's file, read now if the file is small, or is no more what the
    manifest says: a digest stands for these very bytes alone."""
    manifest = item.manifest or {"files": {}}
    entry = manifest["files"].get(name)
    if entry is None or not has_many_rows(entry):
        return read()
    file = item.path / name
    if remembered_sha256(file) != entry["sha256"]:
        return read()
    facts = manifest.get(ROWS, {}).get(name) if SELF in manifest else None
    try:  # manifests of earlier versions have none
        return FinishedRows(file, facts or facts_of(item.path, manifest["files"]), read)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # Of another shape, which reading tells.
        return read()


def finished_prompts(item: Item) -> Sequence[Prompt]:
    """The prompts of a finished item of stage 1."""
    path = item.path / PROMPTS_FILE
    return finished_rows(item, PROMPTS_FILE, prompt_facts, lambda: read_rows(path, Prompt))


def prompt_facts(folder: Path, _: Mapping[str, Any]) -> dict[str, Any]:
    """How many prompts a file has, and their `prompts_digest`."""
    rows = [[row["id"], printable(row["text"])] for row in plain_rows(folder / PROMPTS_FILE)]
    return {"count": len(rows), "digest": texts_digest(rows)}


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """sha256, in hex, of the prompts' ids and texts in their order."""
    if isinstance(prompts, FinishedRows):
        return str(prompts.facts["digest"])
    return texts_digest([prompt.id, prompt.text] for prompt in prompts)


def texts_digest(rows: Iterable[list[str]]) -> str:
    """sha256, in hex, of ids and texts."""
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()


def pairs_key(rows: Sequence[list[str]]) -> str:
    """What stands in a training's recipe for its samples: each one's texts and image's sha256."""
    return recipe_key({"pairs": rows})


def plain_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The values of a JSON-lines file that selma wrote; they are not held against a shape. Raises
    ValueError for what is no JSON."""
    with regular(path) as file:
        while lines := list(islice(file, _PART)):
            yield from json.loads(b"[" + b",".join(lines) + b"]")
