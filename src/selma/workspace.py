"""The run folder: paths, what is done, what made it, whole-or-nothing writes.

An *item* is one folder that is made by one recipe (settings, parents, versions) and finished by its
manifest, written last. A folder that another recipe left is moved to `superseded/`: never mixed,
never lost. Manifests hold no times, so equal recipes leave equal bytes; times go to the journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field
from typing_extensions import TypedDict

from selma import processes
from selma.disk import NOT_OF_A_NAME, append_bytes, aside_of, failures, make_folder, move, refusal
from selma.disk import promote as promote
from selma.disk import sync_folder as sync_folder
from selma.disk import write_bytes as write_bytes
from selma.errors import DataError, WorkspaceError
from selma.folder_lock import locked_folder, shard_of_folder, shared_moment
from selma.manifests import FILE as MANIFEST
from selma.manifests import (
    NO_MANIFEST,
    PARENTS,
    PLAN,
    ROWS,
    SUPERSEDED,
    canonical,
    contents_digest,
    faults,
    has_many_rows,
    json_value,
    read_manifest,
    remembered_sha256,
    write_manifest,
)
from selma.manifests import file_sha256 as file_sha256
from selma.paths import AnyPath, as_path
from selma.plurals import counted
from selma.progress import warn
from selma.record_files import cut_torn_line, json_text, readable_rows
from selma.record_files import read_lines as read_lines
from selma.versions import ENTRY as VERSIONS
from selma.versions import differ_by_version_alone, difference, kept, versions

PROMPTS, IMAGES, EXPERTS = "1-prompts", "2-images", "3-experts"
MERGED, SCORES, REPORT = "4-merged", "5-scores", "6-report"
STAGES = (PROMPTS, IMAGES, EXPERTS, MERGED, SCORES, REPORT)

DECIDING: Mapping[str, tuple[str, ...]] = {
    PROMPTS: ("selma",),  # and what a language model runs on, where it runs here
    IMAGES: ("selma", "torch", "diffusers", "transformers", "numpy", "pillow"),
    EXPERTS: ("selma", "torch", "diffusers", "transformers", "peft", "numpy", "pillow"),
    MERGED: ("selma", "torch", "numpy", "safetensors"),
    SCORES: ("selma", "torch", "diffusers", "transformers", "numpy", "pillow"),
    REPORT: ("selma",),
}
"""Stage → the packages whose versions decide the bytes of its items."""

JOURNAL = "journal.jsonl"
COSTING = ("request", "failed request")
"""Events of the journal that have a cost of their own; other lines repeat it."""
BEGINNING_S = 600
"""How long a shard waits for others that begin items."""
_PLAN_ASIDE = aside_of(Path(PLAN)).name


_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class JournalLine(TypedDict, total=False):
    """What is read of the journal's lines by whoever reads any."""

    time: float
    stage: str
    event: str
    skill: str
    what: str
    seconds: _Amount
    cost: _Amount


_upgrades_said: set[str] = set()


def _say_upgraded(change: str, first: str) -> None:
    """Once for each difference: a run has many items."""
    if change in _upgrades_said:
        return
    _upgrades_said.add(change)
    warn(
        f"{first} was made by {change}. It and the like are made again; what is there is kept in "
        "superseded/, or where it is in a comparison. --keep takes it as it is."
    )


@cache
def _say_once(text: str) -> None:
    warn(text)


def without_empty(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without its entries that are None or an empty list or mapping.

    What is off leaves no trace, so that results without it stay what they are when it is added to a
    recipe. False, 0 and "" are values; inside an entry nothing is left out.
    """
    return {
        name: value
        for name, value in recipe.items()
        if not (value is None or (isinstance(value, Mapping | list | tuple) and not value))
    }


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """16 hex digits that change with anything in the recipe (JSON values only) that is not empty;
    see `without_empty`."""
    return hashlib.sha256(canonical(without_empty(recipe)).encode()).hexdigest()[:16]


def whole_recipe(stage: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's recipe in plain values, with the versions that decide its bytes."""
    deciding = {**versions(DECIDING[stage]), **recipe.get(VERSIONS, {})}
    plain: dict[str, Any] = json.loads(canonical(without_empty({**recipe, VERSIONS: deciding})))
    return plain


def write_json(path: AnyPath, value: Any) -> None:
    path = as_path(path)
    write_bytes(path, (json_text(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none that can be read."""
    value = json_value(path)
    return value if isinstance(value, dict) else None


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the item in this folder; {} if it is not finished."""
    return read_manifest(folder) or {}


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """One JSON line, flushed to disk before this returns."""
    append_lines(path, [value])


def append_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines in one write, flushed to disk before this returns: one wait for the disk."""
    lines = [json_text(value, sort_keys=True) + "\n" for value in values]
    append_bytes(path, "".join(lines).encode())


def inside(root: Path, name: str) -> Path:
    """`root/name`, refused if it would leave the root (.., absolute, links, drive letters)."""
    if "\0" in name or not name.strip():
        raise DataError(f"A file name must be printable and not empty, but {name!r:.80} came.")
    try:
        path, top = (root / name).resolve(), root.resolve()
        path.is_file()  # a name too long for any file ends here
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a link to itself
        if isinstance(error, OSError) and error.errno in NOT_OF_A_NAME:
            raise refusal(error, root / name, task="read") from error
        reason = getattr(error, "strerror", None) or "a link leads to itself"
        raise DataError(f"{name!r:.80} cannot be a file inside {root}: {reason}.") from error
    if Path(name).is_absolute() or ":" in name or not path.is_relative_to(top):
        raise DataError(f"Files must lie inside {root}, but {name!r:.80} leads out of it.")
    return path


def insider(root: Path) -> Callable[[str], Path]:
    """`inside` of one root for very many names: links above a file are followed once."""
    folders: dict[str, Path] = {"": root.resolve()}

    def of(name: str) -> Path:
        above, _, last = name.rpartition("/")
        if last in ("", ".", "..") or not last.strip() or not {"\\", ":", "\0"}.isdisjoint(name):
            return inside(root, name)
        try:
            if above not in folders:
                folders[above] = inside(root, above)
            path = folders[above] / last
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
        except FileNotFoundError:
            return path
        except (OSError, DataError):
            return inside(root, name)
        return inside(root, name) if is_link else path

    return of


FactsOf = Callable[[Path, Mapping[str, Any]], Mapping[str, Any]]
"""(item's folder, its manifest's files) → what stands for the rows of one of them."""


class Earlier(NamedTuple):
    """What other versions made by the same settings."""

    folder: Path
    recipe: Mapping[str, Any]
    change: str
    """Where the versions differ, in words."""


class Item:
    """One folder made by one recipe. `begin`, fill `path`, `finish`.

    paid: files in it that cost money or people's time, so that a damaged one is refused rather than
    made again, and taken along when only versions differ.
    """

    by_key = False
    """Whether it lies in a folder named after its key, beside those of other recipes."""
    shown_only = False
    """Whether its folder is looked at and nothing in it may be written."""

    def __init__(
        self,
        root: Path,
        name: str,
        recipe: Mapping[str, Any],
        *,
        paid: Collection[str] = (),
        beginning: Callable[[str], None] | None = None,
    ) -> None:
        self.root = root
        self.name = name
        self.paid = paid
        self.beginning = beginning
        self.path = root / name
        self.recipe = recipe
        self.key = recipe_key(recipe)

    def earlier(self, *, finished: bool = False) -> Earlier | None:
        """What other versions of the packages made by the same settings, if there is such and this
        recipe's own is not there: finished by both, or else begun. Of several it is a finished one,
        and then the latest."""
        if self._own_manifest is not None:
            return None
        if not finished and self._is_own(read_json(self.path / PLAN)):
            return None
        found = []
        for folder in self._places():
            recipe = _recorded(folder)
            if not differ_by_version_alone(recipe, self.recipe):
                continue
            is_whole = read_manifest(folder) is not None and not _faults_in(folder)
            if is_whole or not finished:
                order = is_whole, folder.stat().st_mtime_ns
                found.append((order, Earlier(folder, recipe, difference(recipe, self.recipe))))
        return max(found, key=lambda each: each[0])[1] if found else None

    @property
    def change(self) -> str:
        """Where the recipe of what lies in its place is another, in words: "other experts.steps,
        version of torch, parent 2-images/coco"; "" if that is its own, or nobody knows it."""
        parents = {key: min(names) for key, names in _asked_for.get(self.root, {}).items()}
        changes = sorted(_changes(_recorded(self.path) or self.recipe, self.recipe, parents))
        more = [f"{len(changes) - 3} more"] if len(changes) > 3 else []
        return f"other {', '.join([*changes[:3], *more])}" if changes else ""

    def _places(self) -> list[Path]:
        """Folders in which other versions of it may lie."""
        if not self.by_key:
            return [self.path]
        return [each for each in _entries(self.path.parent) if each.is_dir()]

    def keep(self) -> None:
        """Become what other versions finished, where there is such."""
        if (earlier := self.earlier(finished=True)) is None:
            return
        _kept.setdefault(self.root, {})[self.name] = earlier.change
        _say_once(f"What was made by {earlier.change} is taken as it is.")
        self.path, self.name = earlier.folder, earlier.folder.relative_to(self.root).as_posix()
        self.recipe, self.key = earlier.recipe, recipe_key(earlier.recipe)
        self._forget()

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """What `finish` wrote, if this very recipe was finished of what its parents still are, and
        every file holds what was written; else None."""
        return None if self.faults else self._own_manifest

    @cached_property
    def faults(self) -> Mapping[str, str]:
        """File → what is wrong with it, of an item of this very recipe that was finished; {} if
        nothing is. Each file is read the first time that a process asks."""
        manifest = read_manifest(self.path)
        if manifest is not None and manifest["key"] != self.key:
            return {}
        return _faults_in(self.path) or self._changed_parents(manifest or {})

    @cached_property
    def _own_manifest(self) -> dict[str, Any] | None:
        manifest = read_manifest(self.path)
        return manifest if manifest is not None and manifest["key"] == self.key else None

    def _changed_parents(self, manifest: Mapping[str, Any]) -> dict[str, str]:
        """Of an item that was made of others which were made again since, and came out otherwise:
        its manifest, which no longer tells what it is."""
        for name, digest in manifest.get(PARENTS, {}).items():
            parent = read_manifest(self.root / name)
            if parent is None or parent["key"] not in strings_of(self.recipe):
                continue  # put away, or made by other settings: this recipe is not of it
            if contents_digest(parent) != digest:
                return {MANIFEST: f"it was made of {name}, whose files are others now"}
        return {}

    @property
    def done(self) -> bool:
        if self.manifest is None:
            return False
        # The manifest has all that it says; to look at a run writes nothing.
        if self.root in _locked and read_json(self.path / PLAN) != self._plan:
            write_json(self.path / PLAN, self._plan)
        return True

    @property
    def _plan(self) -> dict[str, Any]:
        return {"key": self.key, "recipe": self.recipe}

    @property
    def summary(self) -> dict[str, Any]:
        """The counts given to `finish`; only of a finished item."""
        if self.manifest is None:
            raise WorkspaceError(f"{self.path} is not finished; run its stage first.")
        return self.manifest["summary"]

    def begin(self, *, guests: Collection[str] = ()) -> Path:
        """The folder, ready to be filled or filled further.

        What another recipe left in it is moved to `superseded/`, except `guests`: names in it that
        are not the item's own. So is a damaged file, and everything that was made of what is
        there no more. Of several processes the main one begins, and all return. Raises
        WorkspaceError for a damaged file that was paid for.
        """
        wrong = self.faults  # looked at by each before any is moved
        if processes.shard():
            return self._begin_shared(guests)
        return self._begin_alone(wrong, guests)

    def _begin_shared(self, guests: Collection[str]) -> Path:
        """As a shard among others, one after another: what one has begun or finished is the
        item of all."""
        with shared_moment(self.root, wait_s=BEGINNING_S):
            self._forget()
            if self.manifest is None and not self._is_own(read_json(self.path / PLAN)):
                self._begin_alone(self.faults, guests)
            return self.path

    def require_free(self) -> None:
        """Raise WorkspaceError where `begin` does, in whatever process that may be."""
        self._require_free(self.earlier(), self.faults)

    def _require_free(self, earlier: Earlier | None, wrong: Mapping[str, str]) -> None:
        self._require_unpaid(self.path, wrong)
        if earlier:
            self._require_unpaid(earlier.folder, _faults_in(earlier.folder))
        else:
            self._require_known()

    def _begin_alone(self, wrong: Mapping[str, str], guests: Collection[str]) -> Path:
        earlier = self.earlier()
        self._require_free(earlier, wrong)
        processes.wait()
        if processes.main():
            if self.beginning:
                self.beginning(self.name)
            if earlier:
                self._upgrade(earlier, guests)
            self._begin({} if earlier else wrong, guests)
        processes.wait()
        self._forget()
        return self.path

    def _upgrade(self, earlier: Earlier, guests: Collection[str]) -> None:
        """Put aside what other versions made, but take along what was paid for: a server's replies
        are not of our making. At no moment are such files without a plan that tells whose they
        are."""
        if wrong := _faults_in(earlier.folder):  # which no --keep would take
            self._say(wrong)
        else:
            _say_upgraded(earlier.change, self.name)
        paid = [name for name in self.paid if (earlier.folder / name).is_file()]
        key = recipe_key(earlier.recipe)
        if earlier.folder != self.path:
            self._copy(paid, earlier.folder, self.path)
        elif paid:
            aside = self._free_place(key, begun=True)
            self._copy(paid, self.path, aside)
            self._move_out(aside, {*guests, *(name.partition("/")[0] for name in paid), PLAN})
            write_json(aside / PLAN, {"key": key, "recipe": earlier.recipe})
            write_json(self.path / PLAN, self._plan)
        else:
            self._move_out(self._free_place(key), guests)

    def _copy(self, names: Iterable[str], source: Path, target: Path) -> None:
        for name in names:
            if not (target / name).exists():  # of a start that was killed
                make_folder((target / name).parent)
                write_bytes(target / name, (source / name).read_bytes())

    def _require_known(self) -> None:
        """Raise WorkspaceError for files that were paid for if nothing tells by which recipe."""
        if self._is_own(read_json(self.path / PLAN)) or _recorded(self.path) is not None:
            return
        for name in self.paid:
            if os.path.lexists(self.path / name):
                raise WorkspaceError(
                    f"{self.path / PLAN} is damaged, so that nothing tells whose {name} beside it "
                    "is, which may have cost money. Restore it from a copy; or move "
                    f"{self.path / name} away to ask for its replies again."
                )

    def _require_unpaid(self, folder: Path, wrong: Mapping[str, str]) -> None:
        for name in self.paid:
            if not os.path.lexists(folder / name):
                continue
            if wrong.get(MANIFEST) == NO_MANIFEST:
                raise WorkspaceError(
                    f"{folder / MANIFEST} is damaged: {NO_MANIFEST}, so that {name}, which may "
                    "have cost money, cannot be verified. Restore it from a copy; or remove it to "
                    f"go on with {name} as it is."
                )
            if name in wrong:
                raise WorkspaceError(
                    f"{folder / name} is damaged: {wrong[name]}. It holds replies that may have "
                    "cost money. Restore it from a copy; or move it away to ask for them again."
                )

    def _begin(self, wrong: Mapping[str, str], guests: Collection[str]) -> None:
        plan = read_json(self.path / PLAN)
        if MANIFEST in wrong:
            self._say(wrong)
            self._supersede(self.key, guests)
            plan = None
        elif wrong:
            self._say(wrong)
            self._put_aside(name for name in wrong if os.path.lexists(self.path / name))
        elif self.path.exists() and not self._is_own(plan):
            names = {file.name for file in self.path.iterdir()}
            # Else it was killed between making the folder and having written the plan.
            if plan is not None or not names <= {_PLAN_ASIDE, *guests}:
                recipe = _recorded(self.path)
                self._supersede("unknown" if recipe is None else recipe_key(recipe), guests)
        make_folder(self.path)
        if plan != self._plan:
            write_json(self.path / PLAN, self._plan)
        with failures(self.path / MANIFEST, task="removed"):
            (self.path / MANIFEST).unlink(missing_ok=True)

    def _is_own(self, plan: Mapping[str, Any] | None) -> bool:
        """Whether what lies in the folder was begun by this very recipe. A plan that contradicts
        itself is damaged: its other half tells, or the manifest, or the folder's own name."""
        if self._own_manifest is not None:
            return True
        if plan is None:
            return self.by_key and any(e.name[0] != "." for e in _entries(self.path))
        recipe = plan.get("recipe")
        return plan.get("key") == self.key or (
            isinstance(recipe, Mapping) and recipe_key(recipe) == self.key
        )

    def _say(self, wrong: Mapping[str, str]) -> None:
        name, fault = next(iter(wrong.items()))
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        warn(f"{self.name}/{name}: {fault}{others}. Put aside in superseded/, and made again.")

    def finish(
        self,
        files: Iterable[Path],
        summary: Mapping[str, Any],
        *,
        rows: Mapping[str, FactsOf] | None = None,
    ) -> None:
        """Write the manifest, after which the item is done. Of several processes the main one
        writes it, when all have come here. rows: file of rows → what tells of large ones
        (`finished_rows`)."""
        processes.wait()
        if processes.main():
            self._finish(files, summary, rows or {})
        processes.wait()
        self._forget()

    def _forget(self) -> None:
        for name in ("manifest", "faults", "_own_manifest"):
            self.__dict__.pop(name, None)

    def _finish(
        self, files: Iterable[Path], summary: Mapping[str, Any], rows: Mapping[str, FactsOf]
    ) -> None:
        with failures(self.path, task="read"):
            entries: dict[str, Any] = {
                file.relative_to(self.path).as_posix(): {
                    "bytes": file.stat().st_size,
                    "sha256": remembered_sha256(file),
                }
                for file in sorted(files)
            }
        manifest = {
            "key": self.key,
            "recipe": self.recipe,
            "files": entries,
            "summary": dict(summary),
        }
        if parents := self._parents():
            manifest[PARENTS] = parents
        if large := [name for name in rows if has_many_rows(entries[name])]:
            manifest[ROWS] = {name: rows[name](self.path, entries) for name in large}
        write_manifest(self.path, manifest)

    def _parents(self) -> dict[str, str]:
        """Name → digest of each item's files whose key the recipe has."""
        known = _asked_for.get(self.root, {})
        names = {name for key in strings_of(self.recipe) for name in known.get(key, ())}
        manifests = {name: read_manifest(self.root / name) for name in sorted(names - {self.name})}
        return {name: contents_digest(m) for name, m in manifests.items() if m is not None}

    def _put_aside(self, names: Iterable[str]) -> None:
        target = self._free_place("damaged")
        # The manifest goes first: without it the item is one that was begun, whenever this ends.
        move(self.path / MANIFEST, target / MANIFEST)
        for name in names:
            move(self.path / name, target / name)

    def _supersede(self, old_key: str, guests: Collection[str]) -> None:
        """Move out what is not the guests', which never move: the plan last, since without it
        nobody knows whose the rest is."""
        self._move_out(self._free_place(old_key, begun=True), guests)

    def _move_out(self, target: Path, guests: Collection[str]) -> None:
        with failures(self.path, task="read"):
            names = {file.name for file in self.path.iterdir()}
        if names.isdisjoint(guests) and not target.exists():
            move(self.path, target)
            return
        for name in sorted(names.difference(guests), key=lambda name: (name == PLAN, name)):
            move(self.path / name, target / name)

    def _free_place(self, label: str, *, begun: bool = False) -> Path:
        """A folder in superseded/ that is not there yet; or, `begun`, in which no plan is yet."""
        for number in range(1000):
            suffix = label if number == 0 else f"{label}-{number}"
            target = self.root / SUPERSEDED / f"{self.name.replace('/', '_')}-{suffix}"
            if not target.exists() or (begun and not (target / PLAN).exists()):
                return target
        raise WorkspaceError(f"{self.root / 'superseded'} is full; remove what is not needed.")


def _changes(
    there: Mapping[str, Any], now: Mapping[str, Any], parents: Mapping[str, str], at: str = ""
) -> Iterator[str]:
    """Each entry in which two recipes differ. parents: key → item that has it now."""
    for name in {**now, **there}:
        old, new = there.get(name, ...), now.get(name, ...)  # None is a value inside an entry
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inside = "version of " if at + name == VERSIONS else f"{at}{name}."
            yield from _changes(old, new, parents, inside)
        elif old != new:
            parent = parents.get(new) if isinstance(new, str) else None
            yield f"parent {parent}" if parent else f"{at}{name:.60}"


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _recorded(folder: Path) -> dict[str, Any] | None:
    """The recipe by which a folder was made, as its manifest has it, else its plan; None where both
    are missing or damaged."""
    manifest, plan = read_manifest(folder), read_json(folder / PLAN) or {}
    recipe = plan.get("recipe") if manifest is None else manifest["recipe"]
    if not isinstance(recipe, dict):
        return None
    return recipe if manifest or recipe_key(recipe) == plan.get("key") else None


def _faults_in(folder: Path) -> Mapping[str, str]:
    """`faults` by the folder's own manifest; without a sound one nobody knows what the files should
    hold."""
    if (manifest := read_manifest(folder)) is not None:
        return faults(folder, manifest)
    return {MANIFEST: NO_MANIFEST} if os.path.lexists(folder / MANIFEST) else {}


_asked_for: dict[Path, dict[str, set[str]]] = {}
"""Run's folder → key → names of the items of this key that were asked for in this process."""


_locked: set[Path] = set()
"""Folders of runs that this process holds."""


_kept: dict[Path, dict[str, str]] = {}
"""Run's folder → item of other versions that was taken as it is → where its versions differ."""


def kept_in_words(root: Path) -> str:
    """Which results of other versions this process took as they are; "" for none."""
    taken = _kept.get(root, {})
    changes = "; ".join(sorted(set(taken.values())))
    return f"{counted(len(taken), 'item')}: {changes}" if taken else ""


def asked_for(item: Item) -> Item:
    """The item itself; those that are made of it will say so in their manifests. With `--keep` the
    one that other versions made, where there is such."""
    if kept():
        item.keep()
    _asked_for.setdefault(item.root, {}).setdefault(item.key, set()).add(item.name)
    return item


def strings_of(value: Any) -> set[str]:
    """All texts in plain values, keys of mappings aside."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return set()
    return {text for each in value for text in strings_of(each)}


class Workspace:
    """One run's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()  # as `inside` gives paths, so that they can be compared
        self.beginning: Callable[[str], None] | None = None
        """Called with an item's name before it is begun."""
        self._above: Mapping[str, tuple[str, ...]] = {}

    def within(self, stage: str, *names: str) -> Self:
        """The same run, with this stage's items in the folder `stage/names...` in place of the
        stage's own."""
        inner = copy(self)
        inner._above = {**self._above, stage: (*self._above.get(stage, ()), *names)}
        return inner

    def _name(self, stage: str, names: Sequence[str]) -> str:
        return "/".join((stage, *self._above.get(stage, ()), *names))

    def item(
        self,
        stage: str,
        *names: str,
        recipe: Mapping[str, Any],
        paid: Collection[str] = (),
    ) -> Item:
        """The item `root/stage/names...`, whose recipe is what its key depends on: all that is not
        empty, and the versions of what decides its bytes; further ones may be in its `versions`.
        Nothing is created before `begin`. paid: see `Item`."""
        name = self._name(stage, names)
        inside(self.root, name)
        whole = whole_recipe(stage, recipe)
        return asked_for(Item(self.root, name, whole, paid=paid, beginning=self.beginning))

    def folder_of(self, stage: str, *names: str) -> Path:
        """Where the item of these names lies that was last asked for, by whatever recipe."""
        return inside(self.root, self._name(stage, names))

    def journal(self, stage: str, **facts: Any) -> None:
        """Add a line to the run's journal: times, costs, whatever is not part of a result. Of
        several processes only the main one does."""
        if not processes.main():
            return
        make_folder(self.root)
        path = self.root / JOURNAL
        cut_torn_line(path)  # of a process that was killed
        append_line(path, {"time": time.time(), "stage": stage, **facts})

    def read_journal(self, *, start: int = 0) -> Iterator[Mapping[str, Any]]:
        """The journal's lines from this byte on, one at a time; one that is damaged is passed over,
        and said once in a process."""
        path, broken = self.root / JOURNAL, list[int]()
        yield from readable_rows(path, JournalLine, start=start, broken=broken)
        if broken and not start:
            _say_once(
                f"{path} has {counted(len(broken), 'damaged line')}, line {broken[0]} first; "
                "passed over, while what the others say of costs and times still counts."
            )

    def journal_end(self) -> int:
        """Bytes of the journal, from which on what is added later is read."""
        path = self.root / JOURNAL
        return path.stat().st_size if path.is_file() else 0

    def spent(self, stage: str) -> float:
        """What a stage's requests to servers have cost so far, by the journal."""
        return sum(
            line.get("cost", 0.0)
            for line in self.read_journal()
            if line.get("stage") == stage and line.get("event") in COSTING
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process, or for one run's processes together, of which the main
        one has the lock; see `locked_folder`."""
        processes.wait()  # so that all are joined, and end if the main process finds it taken
        if not processes.main():
            processes.wait()
            yield
            return
        shard = processes.shard()
        if shard is not None:
            with shard_of_folder(self.root, *shard):
                yield
            return
        with locked_folder(self.root):
            processes.wait()
            _locked.add(self.root)
            try:
                yield
            finally:
                _locked.discard(self.root)
