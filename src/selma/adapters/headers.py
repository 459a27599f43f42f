"""Headers of adapters' files: what lies in a file before any tensor is read, and who wrote it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from selma.adapters.files import OUR_KEY, Lineage
from selma.adapters.spellings import LONGEST_NAME
from selma.disk import is_regular
from selma.errors import AdapterError
from selma.manifests import State, state_of, verified
from selma.texts import quoted

MOST_TENSORS = 20_000
"""Of a file; the largest of a known model, SDXL's with both text encoders, has 3,177."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The safetensors file. Raises AdapterError if it is none, or if it is a finished item's and
    was damaged since."""
    with _faults(path), _opened(path) as file:
        yield file


class Kept:
    """Files that are opened once for all their tensors: each time a header is read as a whole."""

    def __init__(self) -> None:
        self._files: dict[Path, tuple[State | None, Any]] = {}

    @contextmanager
    def opened(self, path: Path) -> Iterator[Any]:
        """As `opened`; anew if the file is another since."""
        with _faults(path):
            state = state_of(path.stat()) if is_regular(path) else None
            known = self._files.get(path)
            if known is None or known[0] != state:
                self._files[path] = known = (state, _opened(path))
            yield known[1]


def _opened(path: Path) -> Any:
    if not is_regular(path):
        raise AdapterError(f"{path} must be an adapter's file, but there is none.")
    verified(path, raises=AdapterError)
    return safe_open(path, framework="pt")


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} must be a whole safetensors file, but: {error}.") from error


def tensor_names(file: Any, path: Path) -> list[str]:
    """The names of an opened file's tensors, sorted. Raises AdapterError unless their number and
    their lengths are an adapter's or a model's."""
    tensors: list[str] = sorted(file.keys())
    if len(tensors) > MOST_TENSORS:
        raise AdapterError(f"{path} may have {MOST_TENSORS:,} tensors, but has {len(tensors):,}.")
    if long := next((name for name in tensors if len(name) > LONGEST_NAME), None):
        raise AdapterError(
            f"{path}: a tensor's name may have {LONGEST_NAME} characters, but that which begins "
            f"{quoted(long)} has {len(long):,}."
        )
    return tensors


def parameter_count(path: Path) -> int:
    """How many numbers a safetensors file holds; only its header is read."""
    with opened(path) as file:
        shapes = (file.get_slice(name).get_shape() for name in tensor_names(file, path))
        return sum(math.prod(shape) for shape in shapes)


def lineage_of(metadata: Mapping[str, str], path: Path) -> Lineage:
    """The lineage in a header."""
    ours = header_json(metadata, OUR_KEY, path)
    made_by = ours.get("made_by")
    return Lineage(
        base=str(ours["base"]) if ours.get("base") else None,
        made_by=made_by if isinstance(made_by, dict) else {},
    )


def header_json(metadata: Mapping[str, str], key: str, path: Path) -> dict[str, Any]:
    """An entry of a header that must be a mapping in JSON. Raises AdapterError."""
    try:
        value = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: the header's {key} must be JSON, but: {error}.") from error
    if not isinstance(value, dict):
        raise AdapterError(f"{path}: the header's {key} must be a mapping.")
    return value
