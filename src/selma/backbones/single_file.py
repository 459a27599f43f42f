"""A base from one file of weights in the original layout, as most fine-tunes are passed on.

The file holds weights alone. Settings, tokenizers and what the network predicts come from the
configs of another model, which the user names; nothing is fetched or guessed in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selma.backbones.families.family import Family
from selma.errors import ModelError
from selma.plurals import counted


def load_single_file(
    path: Path, family: Family, *, configs: Path, dtype: Any, settings: dict[str, Any]
) -> Any:
    """The family's pipeline with the file's weights and the configs of a folder.

    Raises ModelError where a part is missing, or does not fit the configs.
    """
    require_whole(path, family.single_file)
    try:
        pipe = family.load_pipeline_class().from_single_file(
            str(path),
            config=str(configs),
            dtype=dtype,
            local_files_only=True,
            **settings,
        )
    except Exception as error:  # many kinds: weights missing, of another shape or name
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} must hold every weight of a {family.pipeline_class} as base.config has it, "
            f"but: {reason}"
        ) from error
    if empty := sorted(_unfilled(pipe)):
        raise ModelError(
            f"{path} must hold every weight of a {family.pipeline_class} as base.config has it, "
            f"but {counted(len(empty), 'is', 'are')} missing, {empty[0]} first."
        )
    return pipe


def _unfilled(pipe: Any) -> Iterator[str]:
    """Weights that were announced and never came; diffusers finds only some of them by itself."""
    for part, network in pipe.components.items():
        for name, weight in getattr(network, "named_parameters", dict)():
            if weight.is_meta:
                yield f"{part}.{name}"


def require_whole(path: Path, parts: Mapping[str, tuple[str, ...]]) -> None:
    """Raises ModelError unless the file has each part: one that it lacks would be taken from the
    configs' model without a word. Only its header is read, and no model library."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} must be a whole safetensors file, but: {error}.") from error
    for what, prefixes in parts.items():
        if not any(name.startswith(prefixes) for name in names):
            raise ModelError(
                f"{path} must be a whole checkpoint in the original layout, but has no {what} "
                f"({' or '.join(prefixes)}...). An adapter or a part of a model is no base."
            )
