"""A model's layers, with every name that files give them; and the models that are known.

A name means a layer only if some model has that layer: names are looked up, never built. Where the
base is not at hand, the released models of each family (`Family.released`) are what is known; those
that come with selma lie in layers.json, as bench/layers.py reads them off the models' own classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from selma.adapters import names
from selma.adapters.layouts import LAYOUTS
from selma.adapters.layouts.layout import CLIP_G, CLIP_L, T5_XXL, Layout, Place, Size
from selma.adapters.original import original_paths
from selma.backbones.families import FAMILIES
from selma.backbones.families.family import Config, Family

KNOWN_FILE = Path(__file__).with_name("layers.json")

Shapes = Mapping[str, tuple[int, ...]]
"""Layer, by our names → its weight's shape, [out, in] or [out, in, k, k]."""


class Cut(NamedTuple):
    """What of a file's layer is one of ours."""

    part: int
    of: int
    """Which of so many parts."""
    rows: tuple[int, int]
    """First and last but one of B's."""
    swapped: bool = False
    """Whether the halves of these rows change places."""


class Part(NamedTuple):
    """One layer that a file's name means, as a whole or cut out of it."""

    key: str
    cut: Cut | None = None


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a weight without a kernel of one pixel, which is a linear layer's."""
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of one model."""

    model: str
    """What messages call it: "SDXL", or a folder."""
    shapes: Shapes
    numbered: bool = True
    """Whether files may also name its UNet's layers by the original paths, which count blocks."""
    layout: Layout | None = None
    """What else files call the layers of a transformer."""

    def parts(
        self, component: str, path: str, shape: Sequence[int] | None
    ) -> tuple[Part, ...] | None:
        """The layers that a file means by a name, or None if this model has no such layer.

        shape: of the weight that the file's factors change; None if it is not said.
        """
        if (key := self.key(component, path)) is not None:
            return (Part(key),)
        if self.layout is None or component not in (names.UNET, self.layout.component):
            return None
        place = self.layout.original(path)
        return place and self._cut(place, shape)

    def _cut(self, place: Place, shape: Sequence[int] | None) -> tuple[Part, ...] | None:
        assert self.layout is not None
        keys = [f"{self.layout.component}.{module}" for module in place.modules]
        if not all(self.has(key) for key in keys):
            return None
        widths = shape and self.widths(place, shape)
        if shape and not widths:
            return None
        if len(keys) == 1:
            if not place.original.swaps or (shape and shape[0] != 2 * shape[1]):
                return (Part(keys[0]),)
            return (Part(keys[0], Cut(0, 1, (0, shape[0]), swapped=True)),) if shape else None
        if not widths:
            return None
        starts = [sum(widths[:n]) for n in range(len(keys))]
        return tuple(
            Part(key, Cut(n, len(keys), (start, start + width)))
            for n, (key, start, width) in enumerate(zip(keys, starts, widths, strict=True))
        )

    def widths(self, place: Place, shape: Sequence[int]) -> tuple[int, ...] | None:
        """How many rows each part of an original layer has; None if they are not the file's."""
        assert self.layout is not None
        rows = [self.shapes[f"{self.layout.component}.{m}"][0] for m in place.modules]
        return tuple(rows) if sum(rows) == shape[0] else None

    def has(self, key: str) -> bool:
        """Whether the model has the layer of this name, one of ours."""
        return key in self.shapes

    def shape(self, key: str) -> tuple[int, ...] | None:
        """Of the layer's weight, if it is known."""
        return self.shapes.get(key)

    def fits(self, key: str, shape: Sequence[int]) -> bool:
        """Whether the layer's weight has this shape, but for a kernel of one pixel."""
        return squeezed(shape) == squeezed(self.shapes[key])

    def reads_text(self, key: str, shape: Sequence[int]) -> bool:
        """Whether the text features that the layer reads, if any, are as wide as this weight's."""
        attends = key.endswith((".attn2.to_k", ".attn2.to_v"))
        return not attends or shape[1] == self.shapes[key][1]

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
                if self.layout and component == self.layout.component:  # "lora_unet_", of any base
                    keys[names.UNET, path] = keys[names.UNET, path.replace(".", "_")] = key
                if component in names.TEXTS and names.of_t5(module):  # "lora_te3_", of any base
                    keys[names.T5, path] = keys[names.T5, path.replace(".", "_")] = key
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


@dataclass(frozen=True, eq=False)
class FamilyLayers(Layers):
    """The layers of a released transformer, by its family's table of names, its width and the
    number of its blocks; a smaller model has the same names."""

    shapes: Shapes = field(default_factory=dict)
    size: Size | None = None

    def key(self, component: str, path: str) -> str | None:
        assert self.layout is not None
        if component in (names.UNET, self.layout.component):
            own = self.layout.own(path)
            return f"{self.layout.component}.{own}" if own and self._counts(own) else None
        texts = self.layout.texts
        if component == names.T5:
            component = next((part for part, kind in texts.items() if kind == T5_XXL), component)
        encoder = _ENCODERS[texts[component]] if component in texts else None
        match = encoder and encoder.path.fullmatch(path)
        if not match or not encoder or int(match[1]) >= encoder.layers:
            return None
        return f"{component}.{encoder.blocks}.{'.'.join(filter(None, match.groups()))}"

    def widths(self, place: Place, shape: Sequence[int]) -> tuple[int, ...] | None:
        rows = place.original.rows
        return rows(shape[1], shape[0], {}) if rows else (shape[0],)

    def has(self, key: str) -> bool:
        component, module = names.split(key)
        return self.key(component, module) == key

    def fits(self, key: str, shape: Sequence[int]) -> bool:
        """Whether the layer can be this released model's, as far as its width says it."""
        component, module = names.split(key)
        if component in names.TEXTS:
            assert self.layout is not None
            return set(shape) <= _ENCODERS[self.layout.texts[component]].widths
        assert self.size is not None
        width = self.size.width
        if _ATTENDS.search(module):
            return shape[1] == width
        inside = module.partition(".")[0] in self.size.blocks
        return not inside or any(side % width == 0 for side in shape)

    def reads_text(self, key: str, shape: Sequence[int]) -> bool:
        return True

    def _counts(self, module: str) -> bool:
        """Whether the model has so many blocks."""
        assert self.size is not None
        block, _, rest = module.partition(".")
        count = self.size.blocks.get(block)
        return count is None or int(rest.partition(".")[0]) < count


_ATTENDS = re.compile(r"\.(to_[qkv]|add_[qkv]_proj|to_qkv_mlp_proj)$")
_CLIP = re.compile(
    r"(?:text_model[._])?encoder[._]layers[._](\d+)[._]"
    r"(?:(self_attn)[._]([qkv]_proj|out_proj)|(mlp)[._](fc[12]))"
)
_T5 = re.compile(
    r"encoder[._]block[._](\d+)[._](layer)[._]"
    r"(?:(0)[._](SelfAttention)[._]([qkvo])|(1)[._](DenseReluDense)[._](wi_[01]|wo))"
)


class _Encoder(NamedTuple):
    path: re.Pattern[str]
    blocks: str
    """What its layers' names have before the number of the block."""
    layers: int
    widths: frozenset[int]


_ENCODERS = {
    CLIP_L: _Encoder(_CLIP, "encoder.layers", 12, frozenset((768, 3072))),
    CLIP_G: _Encoder(_CLIP, "encoder.layers", 32, frozenset((1280, 5120))),
    T5_XXL: _Encoder(_T5, "encoder.block", 24, frozenset((4096, 10240))),
}
"""The text encoders of the transformers' families whose layers have names in files."""


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
    yield _families()


@cache
def _families() -> tuple[FamilyLayers, ...]:
    return tuple(
        FamilyLayers(model, layout=layout, size=size)
        for layout in LAYOUTS
        for model, size in layout.sizes.items()
    )


def titles(models: Iterable[Layers], *, joint: str) -> str:
    """What messages call these models, each once, in the order of the known ones."""
    known = {title: n for n, title in enumerate(_known_titles())}
    ours = dict.fromkeys(layers.model for layers in models)
    return joint.join(sorted(ours, key=lambda title: known.get(title, len(known))))


def _known_titles() -> list[str]:
    added = [model for family in FAMILIES.values() for model in family.released]
    return [*(m.model for m in _packaged()), *added, *(m.model for m in _families())]


def known_names() -> str:
    """What messages call all of them."""
    packaged = [layers.model for layers in _packaged()]
    added = [model for family in FAMILIES.values() for model in family.released]
    return ", ".join(dict.fromkeys([*packaged, *added, *(row.title for row in LAYOUTS)]))


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
        if len(shape) in (2, 4) and not _is_table(path.rpartition(".")[2])
    }


def _is_table(name: str) -> bool:
    # Of T5, whose words' table is "shared", and of language models.
    tables = ("shared", "embed_tokens", "relative_attention_bias")
    return name.endswith("_embedding") or name in tables


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    for part, below in tree.items():
        if isinstance(below, Mapping):
            yield from _flat(below, f"{prefix}{part}.")
        else:
            yield f"{prefix}{part}", tuple(below)
