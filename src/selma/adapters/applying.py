"""Adapters of any kind on a model: what each makes of a weight, and several of them in order.

The first of several changes the base's weights, the second what the first left, and so on: a
rotation R after another Q gives W Qᵀ Rᵀ. Changes that only add (LoRA) are the same in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from selma.adapters import full, names
from selma.adapters.reading import AdapterFile, read_adapter
from selma.adapters.rotations.files import RotationFile
from selma.adapters.rotations.foreign import is_rotation, read_any_rotations
from selma.backbones.text_to_image import TextToImage
from selma.errors import AdapterError, ConfigError

Change = Callable[[Tensor], Tensor]
"""A layer's weight → the weight with the adapter; float32 or wider in and out."""


@contextmanager
def applied(
    model: TextToImage, places: Sequence[Path], *, strengths: Sequence[float] = ()
) -> Iterator[None]:
    """While the block runs, the UNet's weights hold the adapters, in their order; then they are
    what they were, bit for bit.

    places: files or folders of adapters, LoRA or OFT, or one of a whole UNet (`full`).
    strengths: one for each, 1 if left out; a rotation in any strength stays one. Raises
    AdapterError if one does not fit.
    """
    if strengths and len(strengths) != len(places):
        raise ConfigError(f"{len(places)} adapters need a strength each, but {strengths} came.")
    each = list(zip(places, strengths or [1.0] * len(places), strict=True))
    if not each:
        yield
    elif len(each) == 1 and full.is_full(each[0][0]):
        with full.drawn_with(model, each[0][0], strength=each[0][1]):
            yield
    elif len(each) == 1 and not is_rotation(each[0][0]):
        with model.adapted(each[0][0], scale=each[0][1]):
            yield
    else:
        with model.replaced(_in_order(model, each)):
            yield


def changes_of(file: AdapterFile | RotationFile, *, strength: float = 1.0) -> dict[str, Change]:
    """Layer, by our names → what the adapter makes of its weight."""
    if isinstance(file, RotationFile):
        return {key: _turning(file, key, strength) for key in file.layers}
    return {key: _adding(file, key, strength) for key in file.layers}


def read_any(
    place: Path, *, layers_per_block: int = names.LAYERS_PER_BLOCK
) -> AdapterFile | RotationFile:
    """The adapter in a file or folder, of whatever kind. Raises AdapterError."""
    if full.is_full(place):
        raise AdapterError(
            f"{place} is a whole UNet, no adapter: it can be drawn with alone, and neither merged, "
            "converted nor put behind others."
        )
    if is_rotation(place):
        return read_any_rotations(place, layers_per_block=layers_per_block)
    return read_adapter(place, layers_per_block=layers_per_block)


def _turning(file: RotationFile, key: str, strength: float) -> Change:
    def change(weight: Tensor) -> Tensor:
        turn = file.turn(key)
        turn.require_fit(tuple(weight.shape), of=f"{file.path}, {key}")
        return turn.scaled(strength).changed(weight, of=key)

    return change


def _adding(file: AdapterFile, key: str, strength: float) -> Change:
    def change(weight: Tensor) -> Tensor:
        a, b = (factor.to(weight.device) for factor in file.factors(key))
        scale = file.layers[key].scale * strength
        return weight.float() + scale * (b @ a).reshape(weight.shape)

    return change


def _in_order(model: TextToImage, each: Sequence[tuple[Path, float]]) -> Mapping[str, Change]:
    steps: dict[str, list[Change]] = {}
    for place, strength in each:
        file = read_any(place, layers_per_block=_per_block(model))
        for key, change in changes_of(file, strength=strength).items():
            component, module = names.split(key)
            if component != names.UNET:
                raise AdapterError(f"{place} must change the UNet alone, but changes {key}.")
            steps.setdefault(module, []).append(change)
    _require_there(model, steps)
    return {module: _one_after_another(some) for module, some in steps.items()}


def _per_block(model: TextToImage) -> int:
    found = model.pipe.unet.config.layers_per_block
    return found if isinstance(found, int) else names.LAYERS_PER_BLOCK


def _require_there(model: TextToImage, modules: Mapping[str, object]) -> None:
    there = {name.removesuffix(".weight") for name, _ in model.pipe.unet.named_parameters()}
    missing = sorted(modules.keys() - there)
    if missing:
        raise AdapterError(
            f"The adapters change {len(modules)} layers, of which this model has "
            f"{len(modules) - len(missing)}; it has no {missing[0]}. They are for another one."
        )


def _one_after_another(changes: Sequence[Change]) -> Change:
    def change(weight: Tensor) -> Tensor:
        for one in changes:
            weight = one(weight)
        return weight

    return change
