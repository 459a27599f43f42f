"""Weights with adapters in them, for as long as they are applied.

The first of several adapters changes the base's weights, the second what the first left, and so on:
a rotation R after another Q gives W Qᵀ Rᵀ. Adapters that only add (LoRA) commute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor

from selma.adapters import names
from selma.adapters.kind import WeightChange
from selma.backbones.text_to_image import TextToImage
from selma.errors import AdapterError


def replaced(
    model: TextToImage, adapters: Sequence[tuple[Path, Mapping[str, WeightChange]]]
) -> AbstractContextManager[None]:
    """While the block runs, the denoiser's weights hold the adapters, in their order; then they are
    what they were, bit for bit.

    adapters: the path of each, for messages, and layer → its change. All changes of a weight are
    computed in float32 before it is rounded to its type. Raises AdapterError if one does not fit.
    """
    by_module: dict[str, list[WeightChange]] = {}
    for path, changes in adapters:
        for key, change in changes.items():
            component, module = names.split(key)
            if component != model.family.component:
                raise AdapterError(f"{path} must change the denoiser alone, but changes {key}.")
            by_module.setdefault(module, []).append(change)
    _require_modules(model, by_module)
    return model.replaced({module: one_after_another(each) for module, each in by_module.items()})


def one_after_another(changes: Sequence[WeightChange]) -> WeightChange:
    """The change that makes these changes, the first of them first."""

    def change(weight: Tensor) -> Tensor:
        for each in changes:
            weight = each(weight)
        return weight

    return change


def _require_modules(model: TextToImage, modules: Mapping[str, object]) -> None:
    present = {name.removesuffix(".weight") for name, _ in model.denoiser.named_parameters()}
    missing = sorted(modules.keys() - present)
    if missing:
        raise AdapterError(
            f"The adapters change {len(modules)} layers, of which this model has "
            f"{len(modules) - len(missing)}; it has no {missing[0]}. They are for another one."
        )
