"""What a benchmark is, and what their files share: how a layout is told, what may be an id."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.measures import Measure

Split = Literal["dev", "test"]

DSG_GROUPS = {
    "tifa": "tifa",
    "stanford": "paragraph",
    "localized": "paragraph",
    "countbench": "count",
    "vrd": "relation",
    "diffusiondb": "real_user",
    "midjourney": "real_user",
    "posescript": "pose",
    "whoops": "defying",
    "drawtext": "text",
}
"""Part of an item's source → the group that DSG's own table has (arXiv:2310.18235)."""

# Ids become file names, on every system.
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")
_HEAD_BYTES = 65_536  # holds the header and the first record of any honest file


@dataclass(frozen=True)
class RemoteFile:
    """One of a benchmark's files as its authors offer it."""

    name: str
    url: str
    sha256: str | None
    """None where nobody has stated it: the sum of what came is then kept beside the file."""
    max_bytes: int
    """More is not the file."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, or one layout that benchmarks come in. A new one is a file with such a row.

    It has either `prompts`, and is chosen by its name, or `recognises` and `read`, and is known by
    the file or folder that the settings name.
    """

    name: str
    layout: str
    """What a message calls it."""
    measure: Measure
    """How answers become scores, and what these are called."""
    prompts: Callable[[Split], Sequence[BenchmarkPrompt]] | None = None
    """The prompts of a split, of a benchmark that needs no file."""
    splits: tuple[Split, ...] = ("test",)
    """With "dev", checkpoints and merge weights can be chosen on it."""
    recognises: Callable[[Path], bool] = lambda path: False
    """Whether this file or folder has the layout; never raises."""
    read: Callable[[Path], list[BenchmarkPrompt]] | None = None
    """The prompts of a file in its order; raises DataError for what has no safe meaning."""
    published: Callable[[BenchmarkPrompt], bool] | None = None
    """Whether a prompt with its questions is the published benchmark's own."""
    files: tuple[RemoteFile, ...] = ()
    """What `selma data fetch` brings."""
    source: str = ""
    licence: str = ""
    """Of the files."""


def group_of(item_id: str) -> str:
    """DSG's group of an item such as "stanford_paragraph_54"; the source itself if DSG has none,
    "all" if the id names no source."""
    source = source_of(item_id)
    return next((group for part, group in DSG_GROUPS.items() if part in source), source)


def source_of(item_id: str) -> str:
    """ "stanford_paragraph" of "stanford_paragraph_54"; "all" if the id names no source."""
    return item_id.rpartition("_")[0] or "all"


def unsafe_id(item_id: str) -> str | None:
    """Why this cannot be an id, as the end of a sentence; None if it can."""
    if _SAFE_ID.fullmatch(item_id):
        return None
    return (
        "must be letters, digits, dots, _ or -, at most 151, as it names a file, but is "
        f"{item_id[:80]!r}"
    )


def two_of_one_name(ids: Iterable[str]) -> tuple[str, str] | None:
    """The first two different ids that would name one file where case does not count."""
    seen: dict[str, str] = {}
    for item_id in ids:
        other = seen.setdefault(item_id.casefold(), item_id)
        if other != item_id:
            return other, item_id
    return None


def in_folder(path: Path, name: str) -> Path:
    """The file of this name, if `path` is a folder; else `path`."""
    return path / name if path.is_dir() else path


def head(path: Path) -> str:
    """The beginning of a file as text; "" if there is none. What is no UTF-8 is replaced."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


def columns(path: Path) -> list[str]:
    """The names in a CSV's first row; [] for another file."""
    if path.suffix.lower() != ".csv":
        return []
    try:
        return next(csv.reader(head(path).splitlines()), [])
    except csv.Error:
        return []


def first_keys(path: Path) -> set[str]:
    """The keys of the first object in a JSON or JSON-lines file, nested ones among them; empty for
    another file."""
    if path.suffix.lower() not in (".json", ".jsonl"):
        return set()
    first, _, _ = head(path).partition("}")
    return set(re.findall(r'"([A-Za-z_]+)"\s*:', first))
