"""A benchmark's row, and helpers for its files: recognising a layout, checking ids."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from selma.errors import ConfigError
from selma.paths import AnyPath, as_path
from selma.plainfiles import plain_head
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.scores import Zeroing
from selma.scores.faithfulness import Reading
from selma.scores.measures import Measure
from selma.textfiles import encoding_of

if TYPE_CHECKING:  # importing all settings takes a while, and reading a benchmark needs none
    from selma.config.scores import ScoresConfig

Split = Literal["dev", "test"]
RulesName = Literal["sound", "released"]
"""How answers become a score: "sound", or as the program does that was released with a benchmark,
whose faults are part of published numbers."""

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

# Ids become file names on every system.
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")
_HEAD_BYTES = 65_536  # holds the header and the first record of any honest file


@dataclass(frozen=True)
class RemoteFile:
    """One of a benchmark's files, where its authors published it."""

    name: str
    url: str
    sha256: str | None
    """None if nobody has published it: the downloaded file's sum is then kept beside it."""
    max_bytes: int
    """A longer download is not the file."""
    git_blob: str | None = None
    """The file's id in git at the address's commit, a SHA-1, where no sha256 is known."""
    alone: bool = True
    """Whether the benchmark is recognised by this file alone; only then is one without a known
    checksum read as it comes."""


@dataclass(frozen=True)
class Rules:
    """One way from a judge's answers to a benchmark's score."""

    measure: Measure
    beside: tuple[Measure, ...] = ()
    """Further measures of the same answers, told beside the score."""
    zeroing: Zeroing | None = None
    """None is as the settings say."""
    reading: Reading = "normalised"
    counted: Callable[[Sequence[BenchmarkPrompt]], list[BenchmarkPrompt]] | None = None
    """All prompts of the file → those that count, with the questions that count; None counts all.
    The judge is asked all the same."""
    read: Callable[[Path], list[BenchmarkPrompt]] | None = None
    """Reads the file where the program reads it otherwise; None is as the benchmark does."""
    about: str = ""
    """In what they differ from sound ones: a sentence, for reports."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, or one layout of benchmarks' files.

    It has either `prompts` and is chosen by its name, or `recognises` and `read` and is chosen by
    the file or folder that the settings name.
    """

    name: str
    layout: str
    """The layout in words, for messages."""
    measure: Measure
    """How answers become scores, soundly."""
    beside: tuple[Measure, ...] = ()
    """Further measures of the same answers, told beside the score."""
    released: Rules | None = None
    """The rules of the program that was released with it, if they are others."""
    detailed: bool = False
    """Whether results have a row for each of its finer categories."""
    prompts: Callable[[Split], Sequence[BenchmarkPrompt]] | None = None
    """The prompts of a split, if the benchmark needs no file."""
    splits: tuple[Split, ...] = ("test",)
    """Checkpoints and merge weights can be chosen on a "dev" split."""
    recognises: Callable[[Path], bool] = lambda path: False
    """Whether this file or folder has the layout; never raises."""
    read: Callable[[Path], list[BenchmarkPrompt]] | None = None
    """Reads a file's prompts in its order; raises DataError for an ambiguous file."""
    published: Callable[[BenchmarkPrompt], bool] | None = None
    """Whether a prompt with its questions is of the published benchmark."""
    files: tuple[RemoteFile, ...] = ()
    """The files that `selma data fetch` downloads."""
    source: str = ""
    licence: str = ""
    """The files' licence."""
    known: str = ""
    """A sentence on published numbers that others do not reach, and why, if any are known."""

    def rules(self, name: RulesName) -> Rules:
        """The rules of this name. Raises ConfigError for released ones that nobody knows."""
        if name == "sound":
            return Rules(self.measure, self.beside)
        if self.released is None:
            raise ConfigError(
                f"scores.rules must be sound for {self.name}: no program with other rules was "
                f"released with it, but {name} came."
            )
        return self.released


def rules_named(benchmark: Benchmark, scores: ScoresConfig) -> Rules:
    """The rules that settings name. Raises ConfigError where they also name a zeroing, which the
    rules have otherwise."""
    rules = benchmark.rules(scores.rules)
    named = scores.zeroing if "zeroing" in scores.model_fields_set else None
    require_agreement(rules, "zeroing", named, key="scores.zeroing")
    return rules


def require_agreement(
    rules: Rules, field: Literal["zeroing", "reading"], named: str | None, *, key: str
) -> None:
    """Raises ConfigError if released rules have another zeroing or reading than what is named."""
    own = getattr(rules, field)
    # A reading that is not the program's own is the common one, which what is named goes before.
    if named is not None and named != own and own not in (None, "normalised"):
        raise ConfigError(
            f"{key} must be {own}, or be left out, as the released rules of "
            f"{rules.measure.label!r} have it, but is {named}. Leave it out, or count by sound "
            "rules."
        )


def group_of(item_id: str) -> str:
    """DSG's group of an item such as "stanford_paragraph_54"; without one, the item's source."""
    source = source_of(item_id)
    return next((group for part, group in DSG_GROUPS.items() if part in source), source)


def source_of(item_id: str) -> str:
    """The source of an item: "stanford_paragraph" for "stanford_paragraph_54", "all" for "54"."""
    return item_id.rpartition("_")[0] or "all"


def unsafe_id(item_id: str) -> str | None:
    """The reason why this cannot be an id, as the end of a sentence; None if it can."""
    if _SAFE_ID.fullmatch(item_id):
        return None
    return (
        "must be letters, digits, dots, _ or -, at most 151, as it names a file, but is "
        f"{item_id[:80]!r}"
    )


def clashing_ids(ids: Iterable[str]) -> tuple[str, str] | None:
    """The first two ids that differ only in case, and would name one file on some systems."""
    seen: dict[str, str] = {}
    for item_id in ids:
        other = seen.setdefault(item_id.casefold(), item_id)
        if other != item_id:
            return other, item_id
    return None


def in_folder(path: AnyPath, name: str) -> Path:
    """The file of this name if `path` is a folder, otherwise `path`."""
    path = as_path(path)
    return path / name if path.is_dir() else path


def head(path: Path) -> str:
    """The beginning of a file as text, in the encoding that it is read in; "" if it cannot be read.
    What is invalid is replaced."""
    try:
        data = plain_head(path, most=_HEAD_BYTES)
    except OSError:
        return ""
    return data.decode(encoding_of(data), errors="replace")


def columns(path: Path) -> list[str]:
    """The names in a CSV's first row; [] for any other file."""
    if path.suffix.lower() != ".csv":
        return []
    try:
        return [name.strip() for name in next(csv.reader(head(path).splitlines()), [])]
    except csv.Error:
        return []


def first_keys(path: Path) -> set[str]:
    """The keys of the first object in a JSON or JSON-lines file, nested ones included; empty
    for any other file."""
    if path.suffix.lower() not in (".json", ".jsonl"):
        return set()
    text, depth = head(path), 0
    keys: set[str] = set()
    # A brace within a text ends nothing, and the first object not before those within it.
    for part in re.finditer(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}]', text):
        if part[0] in "{}":
            depth += 1 if part[0] == "{" else -1
            if depth <= 0:
                break
        elif part[2]:
            keys.add(part[1])
    return keys
