"""An adapter of any kind in another format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from selma.adapters.fusing import fuse
from selma.adapters.table import kind_of
from selma.errors import AdapterError, ConfigError
from selma.paths import AnyPath, as_path, require_path

FUSED = "fused"


def convert(
    source: AnyPath,
    out: AnyPath,
    *,
    to: str,
    base: AnyPath | None = None,
    precision: str | None = None,
    **options: Any,
) -> list[Path]:
    """The files written: the adapter at `source` in another format; or the folder `out`, if `to` is
    "fused": its base with the adapter in its weights (`fusing.fuse`).

    `base` ("toybox" or a diffusers folder) is needed only where the format's names want it, and to
    fuse; where it is given, the adapter must fit it. `precision` is that of fused weights.
    `options` are what the adapter's kind can be told beside (`AdapterKind.convert_options`); None
    counts as not given. Raises ConfigError or AdapterError.
    """
    source, out = as_path(source), as_path(out)
    kind = kind_of(source)
    options = {name: value for name, value in options.items() if value is not None}
    for name in options.keys() - (set() if to == FUSED else kind.convert_options):
        about = (
            f"{source} when it is fused" if to == FUSED else f"{source}, of the kind {kind.name}"
        )
        raise AdapterError(f"{name} says nothing of {about}: leave it out.")
    if to == FUSED:
        return [fuse(source, out, base=base, precision=precision)]
    if precision is not None:
        raise ConfigError("A precision belongs to --to fused: an adapter keeps its own.")
    if kind.convert is None:
        raise AdapterError(f"{source} is of the kind {kind.name}, which has one format alone.")
    base = None if base is None else os.fspath(require_path(base))
    return kind.convert(source, out, to=to, base=base, **options)
