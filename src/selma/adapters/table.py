"""All kinds of adapters in one table, and an adapter's kind by its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.adapters.full import FULL
from selma.adapters.kind import AdapterKind
from selma.adapters.layers import Layers
from selma.adapters.lora import LORA
from selma.adapters.mixtures.mixture import MIXTURE
from selma.adapters.rotations.coft import COFT
from selma.adapters.rotations.oft import OFT
from selma.adapters.sur.rewriting import SUR
from selma.errors import AdapterError
from selma.paths import AnyPath, as_path
from selma.registry import Table

ADAPTERS = Table("kind of adapter", "selma.adapters", [LORA, OFT, COFT, FULL, SUR, MIXTURE])


def kind_of(source: AnyPath) -> AdapterKind:
    """The kind of the adapter in a file or folder, by its name or its content.

    What no kind knows counts as LoRA, whose reader says what is wrong with it.
    """
    source, kinds = as_path(source), ADAPTERS.values()
    by_name = (kind for kind in kinds if _is_named(source, kind.file))
    by_content = (kind for kind in kinds if kind.recognizes and kind.recognizes(source))
    return next(by_name, None) or next(by_content, LORA)


def read_any(source: AnyPath, *, base: Layers | None = None) -> Any:
    """The adapter in a file or folder, of whatever kind: an `Adapter`, with what else its kind has.

    Raises AdapterError.
    """
    source = as_path(source)
    return kind_of(source).read(source, base=base)


def read_mergeable(source: Path, *, base: Layers | None = None) -> Any:
    """The adapter in a file or folder. Raises AdapterError if its kind cannot be merged, or if it
    does not fit the base."""
    kind = kind_of(source)
    if kind.merge_space is None:
        raise AdapterError(f"{source} cannot be merged: {kind.unmergeable}.")
    adapter = kind.read(source, base=base)
    if base is not None:
        kind.require_fit(adapter, base, source)
    return adapter


def adapter_file(source: Path) -> Path:
    """An adapter's file: `source` itself, or what lies in that folder (LoRA's name if nothing)."""
    if not source.is_dir():
        return source
    files = (source / kind.file for kind in ADAPTERS.values())
    return next((path for path in files if path.is_file()), source / LORA.file)


def _is_named(source: Path, file: str) -> bool:
    """Whether the place is the file of this name, or a folder that holds it."""
    return (source / file).is_file() or (source.name == file and source.is_file())
