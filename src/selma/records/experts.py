"""Stage 3 leaves experts."""

from __future__ import annotations

from pathlib import Path

from selma.records.record import Record


class Expert(Record):
    """One trained adapter: `folder` holds `pytorch_lora_weights.safetensors`, or
    `rotations.safetensors` for OFT."""

    skill: str
    folder: Path
    key: str
    """The recipe's key of the workspace item that made it: equal keys, equal weights."""
