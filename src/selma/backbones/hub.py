"""Where a model lies and what tells it from another; without loading it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma import processes
from selma.errors import ModelError, WorkspaceError
from selma.workspace import file_sha256, write_bytes

if TYPE_CHECKING:
    import torch

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_READ = {".safetensors", ".json", ".jinja", ".model", ".txt"}
"""What transformers reads of a model's folder; a README or weights in another format changes
nothing."""
LARGE = 16 * 2**20
"""Bytes from which on a digest is kept between processes."""


def model_config(model: str, revision: str | None, *, setting: str) -> dict[str, Any]:
    """A model's config.json, from its folder, the Hub or the Hub's cache. Raises ModelError."""
    folder = Path(model)
    try:
        if not folder.is_dir():
            import huggingface_hub

            commit = hub_commit(model, revision, setting=setting)
            name = huggingface_hub.hf_hub_download(model, "config.json", revision=commit)
            return dict(json.loads(Path(name).read_text("utf-8")))
        return dict(json.loads((folder / "config.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{setting}: {model} has no readable config.json: {error}") from error


def weights_digest(model: str, revision: str | None, *, setting: str) -> str:
    """Hex digits that change with any byte that is loaded of a folder; of a Hub repository, with
    its id and commit. The folder's own name and place do not count."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{hub_commit(model, revision, setting=setting)}"
    if not any(path.suffix == ".safetensors" for path in _files(folder)):
        raise ModelError(
            f"{setting}: {folder} must hold safetensors weights, but has none. Convert them; other "
            "formats can run code when they are read."
        )
    return folder_digest(folder)


def folder_digest(folder: Path) -> str:
    """64 hex digits over the names inside and the bytes of all that is loaded of a model's folder.
    A file is read again only when it has changed."""
    lines = [
        f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n" for path in _files(folder)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 in hex; a file is read again only when its size or times have changed. Of large files
    it is kept in the user's cache, since gigabytes take seconds to read."""
    state = path.stat()
    # The time of the last change cannot be set back, unlike that of the last writing.
    return _digest_once(path.resolve(), state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def cache_folder() -> Path:
    """Where selma keeps what can be made again; it need not be there yet."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "selma"


UNKNOWN = "unknown"
"""In place of a commit that cannot be had."""
_unknown: ContextVar[dict[str, str] | None] = ContextVar("unknown commits", default=None)


@contextmanager
def commits_or_unknown() -> Iterator[dict[str, str]]:
    """While the block runs, a commit that cannot be had is `UNKNOWN`, to look at a run without the
    Hub. Yields model → why it cannot be had."""
    reasons: dict[str, str] = {}
    token = _unknown.set(reasons)
    try:
        yield reasons
    finally:
        _unknown.reset(token)


def hub_commit(model: str, revision: str | None, *, setting: str, file: str = "config.json") -> str:
    """The commit that the revision (None: the newest) names; from the local cache if offline,
    where `file` tells whether the model is there. Raises ModelError."""
    return or_unknown(
        model, lambda: _hub_commit(model, revision, setting=setting, file=file), failures=ModelError
    )


def or_unknown(model: str, ask: Callable[[], str], *, failures: type[Exception]) -> str:
    """What is asked for of a model; `UNKNOWN` within `commits_or_unknown`, where it cannot be
    had."""
    reasons = _unknown.get()
    if reasons is None:
        return ask()
    try:
        if model not in reasons:
            return ask()
    except failures as error:
        reasons[model] = str(error)
    return UNKNOWN


@cache
def _hub_commit(model: str, revision: str | None, *, setting: str, file: str) -> str:
    if not HUB_ID.fullmatch(model):
        raise ModelError(
            f'{setting}: must be a folder or a Hub id like "owner/name", but {model!r} is neither.'
        )
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    import huggingface_hub

    try:
        return str(huggingface_hub.model_info(model, revision=revision).sha)
    except Exception as error:  # many kinds: no net, offline mode, no such repository, no right
        cached = huggingface_hub.try_to_load_from_cache(model, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name  # .../snapshots/<commit>/<file>
        raise ModelError(
            f"{setting}: {model} cannot be found on the Hub or in its cache: {error}"
        ) from error


def find_device(wanted: str, *, setting: str) -> torch.device:
    """The device that a setting asks for; "auto" is the fastest one. Raises ModelError."""
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        wanted = next(name for name, usable in available.items() if usable)
    if not available[wanted]:
        raise ModelError(f"{setting} is {wanted}, but PyTorch finds none. Set it to auto or cpu.")
    if wanted == "cuda":  # or no matrix product is the same each time; read before the first one
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if wanted == "cuda" and processes.launched()[1] > 1:
        return torch.device(wanted, processes.local_number() % torch.cuda.device_count())
    return torch.device(wanted)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in _READ and path.is_file())


@cache
def _digest_once(path: Path, size: int, *times: int) -> str:
    if size < LARGE:
        return file_sha256(path)
    name = hashlib.sha256(json.dumps([str(path), size, *times]).encode()).hexdigest()
    record = cache_folder() / "digests" / name
    with suppress(OSError):
        if re.fullmatch(r"[0-9a-f]{64}", known := record.read_text("ascii", errors="replace")):
            return known
    digest = file_sha256(path)
    with suppress(OSError, WorkspaceError):  # a home that cannot be written to costs only time
        record.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(record, digest.encode())
    return digest
