"""PEFT's folders of OFT: the same rotations with the other sign, where PEFT's Cayley is exact."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from selma.adapters import names
from selma.adapters.files import (
    OUR_KEY,
    as_json,
    given,
    lineage_json,
    notes_of,
    write_safetensors,
)
from selma.adapters.headers import lineage_of, opened, tensor_names
from selma.adapters.layers import Layers
from selma.adapters.peft_settings import PEFT_FILE, PEFT_SETTINGS, peft_json
from selma.adapters.resolving import denoiser_keys
from selma.adapters.rotations.cayley import (
    ball,
    cayley,
    orthogonality_error,
    projected,
    series,
    side,
    skew,
)
from selma.adapters.rotations.files import SKEW_ENTRIES, RotationFile, Turn
from selma.errors import AdapterError
from selma.texts import quoted
from selma.workspace import write_bytes

EXACT = 1e-6
"""A truncated series nearer to the rotation than this is the rotation, as far as float32 knows."""
MOST_TERMS = 100
"""Of such a series; PEFT's default is 5, and each costs a product of matrices."""

_HARMLESS = {
    "r", "oft_block_size", "coft", "eps", "block_share", "use_cayley_neumann",
    "num_cayley_neumann_terms", "module_dropout", "target_modules", "exclude_modules",
    "init_weights", "layers_to_transform", "layers_pattern", "inference_mode", "peft_version",
    "task_type", "auto_mapping", "base_model_name_or_path", "revision",
}  # fmt: skip


def read_peft_rotations(path: Path, *, base: Layers | None = None) -> RotationFile:
    """The rotations in a PEFT folder, given its file. Raises AdapterError."""
    settings = peft_json(path)
    for key, value in settings.items():
        if value and key not in _HARMLESS and (key, value) not in (
            ("bias", "none"), ("peft_type", "OFT"),
        ):  # fmt: skip
            raise AdapterError(
                f"{path} is no plain OFT: its settings have {quoted(key)} {quoted(value)}."
            )
    if "oft_block_size" not in settings:
        raise AdapterError(f"{path} is of PEFT before 0.14, whose OFT was another. Train it anew.")
    spelled: dict[str, str] = {}
    with opened(path) as file:
        metadata = file.metadata() or {}
        for name in tensor_names(file, path):
            match = re.fullmatch(r"base_model\.model\.(.+)\.oft_R(?:\.[^.]+)?\.weight", name)
            if match is None:
                raise AdapterError(f"{path} must hold oft_R of layers alone, but has {name!r}.")
            spelled[match[1]] = name
    lineage = lineage_of(metadata, path)
    keys, models = denoiser_keys(path, spelled, base=base, own_base=lineage.base is not None)
    by_layer = {keys[module]: name for module, name in spelled.items()}

    def give(key: str) -> Turn:
        with opened(path) as file:
            vector = file.get_tensor(by_layer[key]).float()
        return Turn(skew_entries=_of_peft(vector, settings, path=path, key=key))

    return RotationFile(
        path,
        "peft",
        names.sorted_layers(by_layer),
        give,
        lineage,
        notes=notes_of(metadata),
        models=models,
    )


def _of_peft(vector: Tensor, settings: Mapping[str, Any], *, path: Path, key: str) -> Tensor:
    """Our skew matrix of PEFT's: as it would itself project and turn when the adapter is used."""
    size = checked(vector, path=path, key=key)
    if settings.get("coft"):
        eps = _number(settings, "eps", 6e-5, most=1e6, path=path)
        radius = ball(eps, "peft", size=size, blocks=len(vector))
        vector = projected(vector, radius)
    if settings.get("use_cayley_neumann"):
        terms = _number(settings, "num_cayley_neumann_terms", 5, most=MOST_TERMS, path=path)
        return of_series(vector, int(terms), path=path, key=key)
    return -vector


def _number(
    settings: Mapping[str, Any], key: str, default: float, *, most: float, path: Path
) -> float:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise AdapterError(
            f"{path}: {key} must be a number from 0 to {most:g}, but is {quoted(value)}."
        )
    return value


def of_series(vector: Tensor, terms: int, *, path: Path, key: str) -> Tensor:
    """The skew matrix itself, where the series is the rotation; else AdapterError."""
    matrix = skew(vector)
    theirs = series(matrix, terms)
    wrong = float((theirs - cayley(matrix)).abs().max())
    if wrong > EXACT:
        raise AdapterError(
            f"{path} turns by a series of {terms} terms, which is no rotation: in {key} R Rᵀ is "
            f"{orthogonality_error(theirs):.2g} from the identity, and the rotation itself would "
            f"differ by {wrong:.2g}. Train with exact Cayley (PEFT: use_cayley_neumann=False), or "
            "fuse it with the program that made it."
        )
    return vector


def write_peft_rotations(
    folder: Path, file: RotationFile, *, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> list[Path]:
    """A folder that PEFT reads: the same rotations, by its exact Cayley. Raises AdapterError where
    PEFT's OFT cannot say it: magnitudes, low-rank changes, mixtures, or blocks without a rule.

    `shapes`, of the base's weights by our names of layers, are needed only where each layer has one
    block of a side of its own: how often it repeats its block then.
    """
    require_folder(folder)
    vectors: dict[str, Tensor] = {}
    for key in file.layers:
        turn = file.turn(key)
        if turn.tensors.keys() != {SKEW_ENTRIES} or turn.skew_entries is None:
            more = ", ".join(sorted(turn.tensors.keys() - {SKEW_ENTRIES}))
            raise AdapterError(
                f"PEFT's OFT only rotates, but {key} has {more}: write it --to selma."
            )
        vectors[names.split(key)[1]] = -turn.skew_entries
    settings = {
        "peft_type": "OFT",
        **_layout(vectors, {names.split(key)[1]: shape for key, shape in (shapes or {}).items()}),
        # Left off: these rotations lie within their ball already, and PEFT's eps is no width's.
        "coft": False,
        "use_cayley_neumann": False,
        "module_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_weights": True,
        "target_modules": sorted(vectors),
        "inference_mode": True,
        "base_model_name_or_path": None,
        "auto_mapping": dict(
            zip(("base_model_class", "parent_library"), names.PEFT_CLASSES[names.UNET], strict=True)
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{m}.oft_R.weight": vector for m, vector in vectors.items()}
    metadata = {"format": "pt", OUR_KEY: lineage_json(file.lineage), **file.notes}
    write_safetensors(folder / PEFT_FILE, given(tensors), metadata=metadata)
    write_bytes(folder / PEFT_SETTINGS, as_json(settings).encode())
    return [folder / PEFT_SETTINGS, folder / PEFT_FILE]


def require_folder(path: Path) -> None:
    """Raise AdapterError unless a folder can have this name."""
    if path.suffix == ".safetensors":
        raise AdapterError(f"A peft adapter is a folder, but {path} came.")


def _layout(vectors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Either r or the blocks' side, whichever all layers have in common."""
    rows = {len(vector) for vector in vectors.values()}
    sizes = {side(vector.shape[-1]) for vector in vectors.values()}
    if len(sizes) == 1:
        # One row may be a whole layer, or a block that all share; shared is right for both.
        return {"r": 0, "oft_block_size": sizes.pop(), "block_share": rows == {1}}
    if len(rows) == 1 and rows != {1}:
        return {"r": rows.pop(), "oft_block_size": 0, "block_share": False}
    if rows == {1}:
        if not vectors.keys() <= shapes.keys():
            raise AdapterError(
                f"Each layer has one block here, of sides {sorted(sizes)}, and PEFT must be told "
                "how often a layer repeats its own: name the base with --base."
            )
        counts = {shapes[m][1] // side(vector.shape[-1]) for m, vector in vectors.items()}
        if len(counts) == 1:
            return {"r": counts.pop(), "oft_block_size": 0, "block_share": True}
    raise AdapterError(
        f"PEFT wants one number of blocks or one size of them for all layers, but these have "
        f"{sorted(rows)} of {sorted(sizes)}: write it --to selma."
    )


def checked(vector: Tensor, *, path: Path, key: str) -> int:
    """b, the side of the blocks whose upper triangles these are. Raises AdapterError."""
    if vector.dim() != 2 or not vector.numel():
        raise AdapterError(f"{path}: the rotation of {key} cannot be {list(vector.shape)}.")
    return side(vector.shape[-1])
