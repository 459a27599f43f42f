"""An adapter of any kind in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.adapters.table import kind_of
from selma.errors import AdapterError
from selma.paths import AnyPath, as_path


def convert(
    source: AnyPath, out: AnyPath, *, to: str, base: AnyPath | None = None, **options: Any
) -> list[Path]:
    """The files written: the adapter at `source` in another format.

    `base` ("toybox" or a diffusers folder) is needed only where the format's names want it; where
    it is given, the adapter must fit it. `options` are what the adapter's kind can be told beside
    (`AdapterKind.convert_options`); None counts as not given. Raises AdapterError.
    """
    source, out = as_path(source), as_path(out)
    kind = kind_of(source)
    if kind.convert is None:
        raise AdapterError(f"{source} is of the kind {kind.name}, which has one format alone.")
    options = {name: value for name, value in options.items() if value is not None}
    for name in options.keys() - kind.convert_options:
        raise AdapterError(
            f"{name} says nothing of {source}, which is of the kind {kind.name}: leave it out."
        )
    return kind.convert(source, out, to=to, base=base, **options)
