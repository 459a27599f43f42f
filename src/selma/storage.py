"""A run's folder on an object store: pulled before a command works, pushed while it does and after.

Work goes on in a folder of this machine. Each file is known by what it was when both sides last
agreed (`.storage.json`), so that whichever side has changed is taken, and a file that has changed
on both is an error. Plans go first and manifests last, as an item writes them: whoever looks sees
whole items, and whoever goes on after a stop knows whose the files are.

A lock object has its owner and a beat that changes. Object stores have no locks, and machines no
common time: a lock whose beat is seen to change is alive, and one that stays for `quiet_s` is dead.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from selma.config.places import bare_address
from selma.disk import make_folder, written
from selma.errors import ConfigError, SelmaError, WorkspaceError
from selma.manifests import FILE as MANIFEST
from selma.manifests import PLAN, SUPERSEDED
from selma.plurals import counted
from selma.progress import warn
from selma.texts import legible
from selma.workspace import insider, read_json, write_json

INDEX = ".storage.json"
LOCK = ".lock.json"
AT_ONCE = 8
_TAGS = ("ETag", "etag", "md5Hash", "generation", "mtime", "created", "LastModified")
"""What stores call that which changes with an object's bytes."""
Sign = list[Any]
"""What a file or object is told by: its size, and what changes when it is written."""
_BOTH = {"here", "there"}
Result = TypeVar("Result")


@dataclass(frozen=True)
class Times:
    """How often what is done, in seconds."""

    beat_s: float = 20
    quiet_s: float = 90
    """How long a lock may stay as it is before its owner counts as dead; several beats."""
    push_s: float = 60
    settle_s: float = 2
    """After a dead owner's lock is taken: who else took it at this moment has written by then."""


@contextmanager
def stored(url: str | None, root: Path, times: Times | None = None) -> Iterator[None]:
    """While the block runs, `root` is what the store at `url` has, and goes there; nothing of it
    without a url. Raises ConfigError for a store that cannot be used, and WorkspaceError if another
    process has it, a file has changed on both sides, or the store cannot be reached."""
    if url is None:
        yield
        return
    storage = Storage(url, root, times or Times())
    with storage.held():
        storage.pull()
        with storage.pushed():
            yield


class Storage:
    """One run's folder, here and there."""

    def __init__(self, url: str, root: Path, times: Times) -> None:
        self.name = bare_address(url)
        self.root, self.times = root, times
        self.fs, self.base = _opened(url, self.name)
        if self._on_disk and _overlap(Path(self.base).resolve(), root.resolve()):
            raise ConfigError(
                f"storage: {self.name} and the run's folder {root} must lie apart, but one is in "
                "the other. Name another place."
            )
        self.owner = {
            "id": uuid.uuid4().hex,
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }
        self.lost = False
        self.ended = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock while the block runs."""
        self._take()
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        try:
            yield
        finally:
            self.ended.set()
            beating.join()
            try:
                if not self.lost and self._lock().get("id") == self.owner["id"]:
                    self.fs.rm_file(self._at(LOCK))
            except Exception as error:  # it counts as dead before long
                warn(f"Warning: the lock of {self.name} could not be removed: {_said(error)}")

    def pull(self) -> None:
        """Bring what the store has, and this folder has not."""
        self._require_no_links()
        remote = self._told("read", self._there)
        if not remote:  # a new store, or one that was emptied: all that is here goes there
            self.index.clear()
        local = insider(self.root)
        coming, both = [], []
        for name, sign in remote.items():
            local(name)  # raises for a name that would leave the folder
            was, here = self.index.get(name), self._sign(name)
            if was is not None and was["there"] == sign and here is not None:
                continue  # as it was, or changed here alone
            if here is None or (was is not None and was["here"] == here):
                coming.append(name)
            elif self._same(name, sign, here):
                self.index[name] = {"here": here, "there": sign}
            else:
                both.append(name)
        if both:
            raise WorkspaceError(
                f"{counted(len(both), 'file')} changed both here and in {self.name}, {both[0]} "
                f"first. Keep one of the two: name another folder for what is there (--folder), or "
                f"move {self.root / both[0]} and its like away."
            )
        gone = [name for name in self.index if name not in remote]
        for name in gone:
            # Removed by another machine, as checkpoints are; not if it was changed here since.
            if self._sign(name) == self.index.pop(name)["here"]:
                (self.root / name).unlink(missing_ok=True)
        try:
            for part in _in_order(coming):
                self._told("read", partial(self._each, self._bring, part, remote))
        finally:  # what came is no change of ours, if the next pull finds another there
            self._write_index()

    @contextmanager
    def pushed(self) -> Iterator[None]:
        """Push every so often while the block runs, and all at its end, however it ends."""
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(self.times.push_s):
                try:
                    self.push()
                except (SelmaError, OSError) as error:
                    warn(f"Warning: {error} It is tried again.")

        pushing = threading.Thread(target=go_on, daemon=True)
        pushing.start()
        try:
            yield
        except BaseException:
            _end(ended, pushing)
            try:
                self.push()
            except (SelmaError, OSError) as error:  # the first one is what went wrong
                warn(f"Warning: {error}")
            raise
        _end(ended, pushing)
        self.push()

    def push(self) -> None:
        """Bring to the store what has changed here, and remove there what was removed here."""
        here = dict(self._here())
        new = [n for n, sign in here.items() if self.index.get(n, {}).get("here") != sign]
        gone = [name for name in self.index if name not in here]
        aside = [name for name in new if name.startswith(f"{SUPERSEDED}/")]

        def remove(name: str) -> None:
            if self.fs.exists(self._at(name)):
                self.fs.rm_file(self._at(name))
            self.index.pop(name)

        def each(do: Callable[..., None], part: Iterable[str], *more: Any) -> None:
            if part:
                self._require_own()
                self._told("written", partial(self._each, do, part, *more))

        def send(names: Iterable[str]) -> None:
            for part in _in_order(names):
                each(self._send, part, here)

        try:
            send(aside)  # before the places they were moved from are emptied
            # A manifest that goes, goes first, as one that comes is last.
            for part in reversed(_in_order([*gone, *self._of_another_plan(new)])):
                each(remove, part)
            send(name for name in new if name not in set(aside))
        finally:
            self._write_index()

    def _require_own(self) -> None:
        """Raises WorkspaceError if another process has the lock, perhaps since the last beat: a
        network that comes back, or a machine that wakes up, may be here first."""
        self.lost = self.lost or self._told("locked", self._lock).get("id") != self.owner["id"]
        if self.lost:
            raise WorkspaceError(
                f"{self.name} was taken over by another process, since this one could not be seen "
                f"to be alive. What was made stays in {self.root}; it is not brought there."
            )

    def _of_another_plan(self, new: Iterable[str]) -> list[str]:
        """Which of the changed files are in the store beside a plan that is about to be replaced:
        until they come too, they would be taken for files of the new one."""
        known = [name for name in new if name in self.index]
        begun = tuple(
            name.removesuffix(PLAN)
            for name in known
            if name.rpartition("/")[2] == PLAN and not name.startswith(f"{SUPERSEDED}/")
        )
        return [name for name in known if name.startswith(begun)] if begun else []

    @cached_property
    def index(self) -> dict[str, dict[str, Sign]]:
        """File → its signs here and there when both were last the same. Of another store: none."""
        value = read_json(self.root / INDEX) or {}
        files = value.get("files") if value.get("url") == self.name else None
        known = files.items() if isinstance(files, dict) else ()
        return {n: signs for n, signs in known if isinstance(signs, dict) and signs.keys() == _BOTH}

    def _write_index(self) -> None:
        make_folder(self.root)
        write_json(self.root / INDEX, {"url": self.name, "files": self.index})

    def _here(self) -> Iterator[tuple[str, Sign]]:
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(filter(_is_kept, folders))
            # Files that appear meanwhile may be listed without the plan that came before them.
            for name in sorted({*filter(_is_kept, files), PLAN}):
                path = Path(folder, name).relative_to(self.root).as_posix()
                if (sign := self._sign(path)) is not None:
                    yield path, sign

    def _require_no_links(self) -> None:
        """Raises WorkspaceError for a link to a folder, whose files would be brought nowhere."""
        for folder, folders, _ in os.walk(self.root):
            folders[:] = filter(_is_kept, folders)
            for path in (Path(folder, name) for name in folders):
                if path.is_symlink():
                    raise WorkspaceError(
                        f"{path} is a link to a folder, whose files storage does not bring there. "
                        "Move the folder itself to its place, or set the run's folder to a larger "
                        "disk."
                    )

    def _sign(self, name: str) -> Sign | None:
        try:
            status = (self.root / name).stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        return [status.st_size, status.st_mtime_ns]

    def _there(self) -> dict[str, Sign]:
        self.fs.invalidate_cache()
        start = len(self.base) + 1
        every = self.fs.find(self.base, detail=True)
        names = {path[start:]: info for path, info in every.items()}
        return {name: _sign_of(info) for name, info in names.items() if name and _is_kept(name)}

    def _same(self, name: str, remote: Sign, here: Sign) -> bool:
        return remote[0] == here[0] and self._told(
            "read", lambda: self.fs.cat_file(self._at(name)) == (self.root / name).read_bytes()
        )

    def _bring(self, name: str, remote: Mapping[str, Sign]) -> None:
        path = self.root / name
        make_folder(path.parent)
        with self.fs.open(self._at(name), "rb") as source, written(path) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        sign = self._sign(name)
        assert sign is not None, "it was just written"
        self.index[name] = {"here": sign, "there": remote[name]}

    def _send(self, name: str, here: Mapping[str, Sign]) -> None:
        try:
            self._put(str(self.root / name), self._at(name))
        except FileNotFoundError:
            if self._sign(name) is not None:
                raise
            return  # removed meanwhile
        remote = _sign_of(self.fs.info(self._at(name), refresh=True))
        self.index[name] = {"here": here[name], "there": remote}

    def _put(self, local: str, target: str) -> None:
        above, _, last = target.rpartition("/")
        with self._whole(target, f"{above}/.{last}.partial") as place:
            self.fs.put_file(local, place)

    @contextmanager
    def _whole(self, target: str, aside: str) -> Iterator[str]:
        """Where to write an object that must be there whole or not at all, as object stores have
        them: in a folder aside, from where it is moved."""
        if self.fs.protocol[0] != "file":
            yield target
        else:
            yield aside
            Path(aside).replace(target)

    def _each(self, do: Callable[..., None], names: Iterable[str], *more: Any) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda name: do(name, *more), names):
                pass

    @property
    def _on_disk(self) -> bool:
        return bool(self.fs.protocol[0] == "file")

    def _at(self, name: str) -> str:
        return f"{self.base}/{name}"

    def _lock(self) -> dict[str, Any]:
        """What is in the lock object; {} if there is none."""
        self.fs.invalidate_cache()
        try:
            value = json.loads(self.fs.cat_file(self._at(LOCK)))
        except FileNotFoundError:
            return {}
        except ValueError:
            return {"id": "unreadable"}
        return value if isinstance(value, dict) else {"id": "unreadable"}

    def _sign_lock(self) -> None:
        value = json.dumps(self.owner | {"beat": uuid.uuid4().hex}).encode()
        target = self._at(LOCK)
        # One of its own, since several may take a lock at once. Half a lock would be another's.
        with self._whole(target, f"{target}.{self.owner['id']}") as place:
            self.fs.pipe_file(place, value)

    def _take(self) -> None:
        first = self._told("locked", self._lock)
        if first:
            warn(
                f"{self.name} has a lock of {_owner(first)}. It is watched for "
                f"{self.times.quiet_s:.0f} seconds, in which it would change if that were alive."
            )
        ends = time.monotonic() + self.times.quiet_s
        while first and time.monotonic() < ends:
            time.sleep(min(1, self.times.beat_s / 4))
            now = self._told("locked", self._lock)
            if now and now != first:
                raise self._refused(now)
            if not now:
                break  # it was released
        self._told("locked", self._sign_lock)
        time.sleep(self.times.settle_s)
        if (now := self._told("locked", self._lock)).get("id") != self.owner["id"]:
            raise self._refused(now)

    def _refused(self, owner: Mapping[str, Any]) -> WorkspaceError:
        return WorkspaceError(
            f"{self.name} is in use by {_owner(owner)}. Wait for it, or set storage to another "
            "place."
        )

    def _beat(self) -> None:
        while not self.ended.wait(self.times.beat_s):
            try:
                if self._lock().get("id") != self.owner["id"]:
                    self.lost = True
                    return
                self._sign_lock()
            except (
                Exception
            ):  # a store out of reach; pushing says so, and the next beat tries again
                continue

    def _told(self, how: str, do: Callable[[], Result]) -> Result:
        """What `do` returns; whatever a store's program raises becomes a WorkspaceError."""
        try:
            return do()
        except (SelmaError, AssertionError):
            raise
        except Exception as error:
            raise WorkspaceError(
                f"{self.name} could not be {how}: {_said(error)}. "
                f"What is finished stays in {self.root}; see to the store, its rights and the "
                "network, then run the same command again."
            ) from error


def _opened(url: str, name: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ConfigError(
            "storage needs the package fsspec, which is missing. Install it: "
            "pip install 'selma[storage]', and s3fs for s3:// or gcsfs for gs://."
        ) from error
    more = {"auto_mkdir": True} if url.startswith("file://") else {}
    try:
        fs, base = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False, **more)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"storage: {name} cannot be used: {error}.") from error
    return fs, base.rstrip("/")


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _is_kept(name: str) -> bool:
    """Whether a file or folder is the run's. What lies aside, locks and the index are one
    machine's, and stores' programs write objects for folders, with a slash at their end."""
    return not name.endswith("/") and not any(part.startswith(".") for part in name.split("/"))


def _owner(lock: Mapping[str, Any]) -> str:
    return legible(f"process {lock.get('pid')} on {lock.get('host')}")[:100]


def _said(error: Exception) -> str:
    return legible(" ".join(f"{type(error).__name__}: {error}".split()))[:240]


def _sign_of(info: Mapping[str, Any]) -> Sign:
    return [info["size"], next((str(info[tag]) for tag in _TAGS if info.get(tag)), "")]


def _in_order(names: Iterable[str]) -> list[list[str]]:
    """Plans first: files without one are nobody's. Manifests last: they say that all is there."""
    parts: list[list[str]] = [[], [], []]
    for name in names:
        parts[{PLAN: 0, MANIFEST: 2}.get(name.rpartition("/")[2], 1)].append(name)
    return parts


def _end(ended: threading.Event, thread: threading.Thread) -> None:
    ended.set()
    thread.join()
