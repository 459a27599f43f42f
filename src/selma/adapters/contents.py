"""An adapter that is told from others by its content, without reading it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from selma.errors import AdapterError
from selma.records.adapters import AppliedAdapter
from selma.workspace import file_sha256, manifest

TENSORS = "*.safetensors"
PEFT_SETTINGS = "adapter_config.json"
"""Alphas of a PEFT folder's factors lie beside them."""


def keyed(source: Path) -> AppliedAdapter:
    """The adapter in a file or folder, with a key that changes with any byte of its weights. Raises
    AdapterError."""
    tensors = tensor_files(source)
    settings = sorted({path.with_name(PEFT_SETTINGS) for path in tensors})
    digests = [file_sha256(path) for path in (*tensors, *settings) if path.is_file()]
    key = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return AppliedAdapter(path=source, key=key[:16])


def tensor_files(source: Path) -> list[Path]:
    """The files that hold an adapter's weights. Raises AdapterError if there are none, or if a run
    has not finished them."""
    if (source / "plan.json").is_file() and not manifest(source):
        raise AdapterError(f"{source} must be finished, but is not. Finish its run first.")
    tensors = [source] if source.is_file() else sorted(source.glob(TENSORS))
    tensors = tensors or sorted(source.glob(f"*/{TENSORS}"))
    if not tensors:
        raise AdapterError(f"{source} must hold an adapter's safetensors, but has none.")
    return tensors
