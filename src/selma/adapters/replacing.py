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
from selma.plurals import counted


def replaced(
    model: TextToImage, adapters: Sequence[tuple[Path, Mapping[str, WeightChange]]]
) -> AbstractContextManager[None]:
    """While the block runs, the weights of denoiser and text encoders hold the adapters, in their
    order; then they are what they were, bit for bit.

    adapters: the path of each, for messages, and layer → its change. All changes of a weight are
    computed in float32 before it is rounded to its type. Raises AdapterError if the model has not
    all of the layers.
    """
    weights = _weight_names(model)
    by_weight: dict[str, list[WeightChange]] = {}
    for path, changes in adapters:
        if missing := sorted(changes.keys() - weights.keys()):
            raise AdapterError(
                f"{path} changes {counted(len(changes), 'layer')}, of which this model has "
                f"{len(changes) - len(missing)}; it has no {missing[0]}. It was made for another "
                "model."
            )
        for key, change in changes.items():
            by_weight.setdefault(weights[key], []).append(change)
    return model.replaced({name: one_after_another(each) for name, each in by_weight.items()})


def one_after_another(changes: Sequence[WeightChange]) -> WeightChange:
    """The change that makes these changes, the first of them first."""

    def change(weight: Tensor) -> Tensor:
        for each in changes:
            weight = each(weight)
        return weight

    return change


def _weight_names(model: TextToImage) -> dict[str, str]:
    """Layer, by our names → its weight's name below the pipeline."""
    parts = (model.family.component, *model.family.text_encoders)
    return {
        names.plain(part, name.removesuffix(".weight")): f"{part}.{name}"
        for part in parts
        if (network := getattr(model.pipe, part, None)) is not None
        for name, _ in network.named_parameters()
        if name.endswith(".weight")
    }
