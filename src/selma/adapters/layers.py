"""A model's layers, with every name that files give them; and the models that are known.

A name means a layer only if some model has that layer: names are looked up, never built. Where the
base is not at hand, the released models of each family (`Family.released`) are what is known; those
that come with selma lie in layers.json, as bench/layers.py reads them off the models' own classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from selma.adapters import names
from selma.adapters.original import original_paths
from selma.backbones.families import FAMILIES
from selma.backbones.families.family import Config, Family

KNOWN_FILE = Path(__file__).with_name("layers.json")

Shapes = Mapping[str, tuple[int, ...]]
"""Layer, by our names → its weight's shape, [out, in] or [out, in, k, k]."""


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of one model."""

    model: str
    """What messages call it: "SDXL", or a folder."""
    shapes: Shapes
    numbered: bool = True
    """Whether files may also name its UNet's layers by the original paths, which count blocks."""

    def key(self, component: str, path: str) -> str | None:
        """Our name of the layer that a file calls so, or None if this model has no such layer.

        path: as diffusers, the original UNet or transformers spell it, joined by "." or "_".
        """
        return self._keys.get((component, path))

    @cached_property
    def _keys(self) -> dict[tuple[str, str], str]:
        keys = {}
        for key in self.shapes:
            component, module = names.split(key)
            for path in self._paths(component, module):
                keys[component, path] = keys[component, path.replace(".", "_")] = key
        return keys

    def _paths(self, component: str, module: str) -> Iterator[str]:
        yield module
        if component in names.TEXTS:
            yield f"text_model.{module}"
        if self.numbered and component == names.UNET and module in self.originals:
            yield self.originals[module]

    @cached_property
    def originals(self) -> dict[str, str]:
        """Module of the UNet → its path in the original one."""
        modules = [m for c, m in map(names.split, self.shapes) if c == names.UNET]
        return original_paths(modules)

    def kohya_name(self, key: str, *, sdxl: bool) -> str | None:
        """kohya's name of a layer ("lora_unet_..."), or None where it would not lead back."""
        component, module = names.split(key)
        prefix, path = names.kohya_prefix(component, sdxl=sdxl), module
        if component == names.UNET and sdxl:
            path = self.originals.get(module, "")
        joined = names.with_text_model(component, path).replace(".", "_")
        return prefix + joined if prefix and self.key(component, joined) == key else None


def known_models() -> Iterator[tuple[Layers, ...]]:
    """The models that are known without their files: those that come with selma, then those of
    other packages, whose networks have to be built for it."""
    yield _packaged()
    packaged = {layers.model for layers in _packaged()}
    yield tuple(
        _built(model, family.name)
        for family in FAMILIES.values()
        for model in family.released
        if model not in packaged
    )


def known_names() -> str:
    """What messages call all of them."""
    packaged = [layers.model for layers in _packaged()]
    added = [model for family in FAMILIES.values() for model in family.released]
    return ", ".join(dict.fromkeys([*packaged, *added]))


@cache
def _packaged() -> tuple[Layers, ...]:
    tables: dict[str, Any] = json.loads(KNOWN_FILE.read_text("utf-8"))
    # toybox's files are selma's own: a number that only toybox has is another model's wrong one.
    return tuple(
        Layers(model, dict(_flat(tree)), numbered=model != "toybox")
        for model, tree in tables.items()
    )


@cache
def _built(model: str, family: str) -> Layers:
    return Layers(model, layer_shapes(FAMILIES[family], FAMILIES[family].released[model]))


def layer_shapes(family: Family, configs: Mapping[str, Config]) -> dict[str, tuple[int, ...]]:
    """The layers of a model with these configs, by its networks' own classes; nothing is loaded."""
    import torch

    shapes: dict[str, tuple[int, ...]] = {}
    for component, config in configs.items():
        if component not in family.classes:
            continue
        with torch.device("meta"):
            network = family.network(component, config)
        shapes |= network_shapes(component, network)
    return shapes


def network_shapes(component: str, network: Any) -> dict[str, tuple[int, ...]]:
    """The layers of one network, by our names: what multiplies its input by a weight."""
    weights = {
        name.removesuffix(".weight"): tuple(weight.shape)
        for name, weight in network.named_parameters()
        if name.endswith(".weight")
    }
    return layers_of(component, weights)


def layers_of(component: str, weights: Shapes) -> dict[str, tuple[int, ...]]:
    """Of a network's weights by path those that low-rank factors can change, by our names."""
    return {
        names.plain(component, path): shape
        for path, shape in weights.items()
        # An embedding is looked up in: its table is no layer's matrix.
        if len(shape) in (2, 4) and not path.endswith("_embedding")
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    for part, below in tree.items():
        if isinstance(below, Mapping):
            yield from _flat(below, f"{prefix}{part}.")
        else:
            yield f"{prefix}{part}", tuple(below)
