"""A scorer's released checkpoint → a folder of safetensors that `load_preference` reads."""

from __future__ import annotations

from pathlib import Path

from selma.backbones.preference.checkpoints import Checkpoint, read_state
from selma.backbones.preference.scorers import SCORERS
from selma.backbones.weights import Weights
from selma.disk import folder_written
from selma.errors import ConfigError, ModelError
from selma.paths import AnyPath, as_path


def convert_weights(
    source: AnyPath,
    out: AnyPath,
    *,
    kind: str,
    tokenizer: str | None = None,
    config: AnyPath | None = None,
) -> Path:
    """The folder `out`, with the network in safetensors and its tokenizer; whole or not at all.

    source: HPS_v2_compressed.pt, ImageReward.pt, or a pytorch_model.bin; safetensors with those
    names do as well. kind: as in `scores.preferences`. config: a JSON of the network's shape, where
    it is not the released one; for pickscore and clip None is config.json beside the source.
    Raises ModelError.
    """
    source, out = as_path(source), as_path(out)
    config = None if config is None else as_path(config)
    row = SCORERS.get(kind)
    family = row.family if row else None
    if family is None or family.convert is None:
        kinds = [name for name, row in SCORERS.items() if row.family and row.family.convert]
        why = f" {kind} has no conversion." if row else ""
        raise ConfigError(f"kind must be one of {', '.join(kinds)}, but {kind!r} came.{why}")
    if out.exists():
        raise ModelError(f"{out} must not be there yet. Remove it, or choose another folder.")
    words = Weights(tokenizer or family.tokenizer or str(source.parent))
    checkpoint = Checkpoint(kind, read_state(source), source, config, words)
    with folder_written(out) as folder:
        family.convert(checkpoint, folder)
    return out
