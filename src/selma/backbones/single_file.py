"""A base from one file of weights in the original layout, as most fine-tunes are passed on.

The file holds weights alone. Settings, tokenizers and what the network predicts come from the
configs of another model, which the user names; nothing is fetched or guessed in their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selma.errors import ModelError

PARTS = {
    "UNet": ("model.diffusion_model.",),
    "autoencoder": ("first_stage_model.",),
    "text encoder": ("cond_stage_model.", "conditioner.embedders."),
}
"""What a whole checkpoint has → how its tensors' names begin."""


def load_single_file(
    path: Path, family: str, *, configs: Path, dtype: Any, settings: dict[str, Any]
) -> Any:
    """The pipeline of class `family` with the file's weights and the configs of a folder.

    Raises ModelError where a part is missing, or does not fit the configs.
    """
    import diffusers

    _require_whole(path)
    try:
        pipe = getattr(diffusers, family).from_single_file(
            str(path),
            config=str(configs),
            dtype=dtype,
            local_files_only=True,
            **settings,
        )
    except Exception as error:  # many kinds: weights missing, of another shape or name
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} must hold every weight of a {family} as base.config has it, but: {said}"
        ) from error
    if empty := sorted(_unfilled(pipe)):
        raise ModelError(
            f"{path} must hold every weight of a {family} as base.config has it, but "
            f"{len(empty)} are missing, {empty[0]} first."
        )
    return pipe


def _unfilled(pipe: Any) -> Iterator[str]:
    """Weights that were announced and never came; diffusers finds only some of them by itself."""
    for part, network in pipe.components.items():
        for name, weight in getattr(network, "named_parameters", dict)():
            if weight.is_meta:
                yield f"{part}.{name}"


def _require_whole(path: Path) -> None:
    """Nothing, if the file has each part. A part that it lacks would be taken from the configs'
    model without a word."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} must be a whole safetensors file, but: {error}.") from error
    for what, prefixes in PARTS.items():
        if not any(name.startswith(prefixes) for name in names):
            raise ModelError(
                f"{path} must be a whole checkpoint in the original layout, but has no {what} "
                f"({' or '.join(prefixes)}...). An adapter or a part of a model is no base."
            )
