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
from selma.adapters.layouts.layout import CLIP_G, CLIP_L, GEMMA, T5_XXL, Layout, Place, Size
from selma.adapters.original import original_paths
from selma.backbones.families import FAMILIES
from selma.backbones.families.family import Config, Family

KNOWN_FILE = Path(__file__).with_name("layers.json")
SIDES_FILE = Path(__file__).with_name("layouts") / "sides.json"
"""Both are written by bench/layers.py."""

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
        return not key.endswith(_READS_TEXT) or shape[1] == self.shapes[key][1]

    def misfit(self, shapes: Shapes) -> str | None:
        """The first layer whose shape no model of these names has, however wide; None if there is
        none. In attention and in text encoders what is square, or eight times as wide as its input,
        is so in all, and alike in what lies together.

        shapes: of the weights that a file changes, all of them the model's by name.
        """
        together: dict[str, int] = {}
        for key, shape in shapes.items():
            own, given = squeezed(self.shapes[key]), squeezed(shape)
            if given[2:] != own[2:]:
                return key
            times = own[0] // own[1]
            component, module = names.split(key)
            around, *inside = _AROUND.split(module, maxsplit=1)
            group = component if component in names.TEXTS else around if inside else ""
            if not group or times not in (1, 8) or own != (times * own[1], own[1]):
                continue
            if key.endswith(_READS_TEXT):
                continue
            if given != (times * given[1], together.setdefault(group, given[1])):
                return key
        return None

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
        assert self.layout is not None and self.size is not None
        if component in names.TEXTS:
            encoder = _ENCODERS[self.layout.texts[component]]
            sides = encoder.sides[module.rpartition(".")[2]]
            return squeezed(shape) == tuple(encoder.widths[side] for side in sides)
        rows = self._rows(module)
        return not rows or any(_width(row, shape) in (None, self.size.width) for row in rows)

    def misfit(self, shapes: Shapes) -> str | None:
        assert self.layout is not None
        widths: set[int] | None = None
        known: dict[tuple[str, str], int] = {}
        for key, shape in shapes.items():
            component, module = names.split(key)
            if component in names.TEXTS:
                sides = _ENCODERS[self.layout.texts[component]].sides[module.rpartition(".")[2]]
                given = squeezed(shape)
                if len(given) != 2 or any(
                    known.setdefault((component, side), width) != width
                    for side, width in zip(sides, given, strict=True)
                ):
                    return key
                continue
            possible = {_width(row, shape) for row in self._rows(module)}
            if None in possible or not possible:
                continue
            found = {width for width in possible if width}
            widths = found if widths is None else widths & found
            if not widths:
                return key
        return None

    def _rows(self, module: str) -> Sequence[Sides]:
        """How many times as wide as the model each side of the layer is, in each kind of block;
        none of a layer that models have as they please."""
        assert self.layout is not None and self.size is not None
        block, _, rest = module.partition(".")
        if block in self.size.blocks:
            module = f"{block}.#.{rest.partition('.')[2]}"
        return _sides()[self.layout.transformer].get(module, ())

    def reads_text(self, key: str, shape: Sequence[int]) -> bool:
        return True

    def _counts(self, module: str) -> bool:
        """Whether the model has so many blocks."""
        assert self.size is not None
        block, _, rest = module.partition(".")
        count = self.size.blocks.get(block)
        return count is None or int(rest.partition(".")[0]) < count


Sides = tuple[int | None, ...]
"""Of a layer's weight: how many times as wide as the model its output and its input are, None where
that is of its own (text features, channels, ...); then its kernel, if it is a convolution."""


@cache
def _sides() -> Mapping[str, Mapping[str, Sequence[Sides]]]:
    """diffusers' class → its layer ("#" for a block's number) → sides, where blocks are of several
    kinds of each."""
    tables: dict[str, dict[str, Any]] = json.loads(SIDES_FILE.read_text("utf-8"))
    return {
        transformer: {module: [tuple(row) for row in rows] for module, rows in table.items()}
        for transformer, table in tables.items()
    }


def _width(sides: Sides, shape: Sequence[int]) -> int | None:
    """The width of the model that has such a weight: None if of any, 0 if of none."""
    given = squeezed(shape)
    if len(given) != len(sides) or given[2:] != sides[2:]:
        return 0
    pairs = [(side, times) for side, times in zip(given, sides[:2], strict=False) if times]
    widths = {side // times if side % times == 0 else 0 for side, times in pairs}
    return None if not widths else widths.pop() if len(widths) == 1 else 0


_READS_TEXT = (".attn2.to_k", ".attn2.to_v")
_AROUND = re.compile(r"\.(?:transformer_blocks|proj_in$|proj_out$)")
"""What lies in a UNet's attention, behind the attention's own name."""


_CLIP = re.compile(
    r"(?:text_model[._])?encoder[._]layers[._](\d+)[._]"
    r"(?:(self_attn)[._]([qkv]_proj|out_proj)|(mlp)[._](fc[12]))"
)
_T5 = re.compile(
    r"encoder[._]block[._](\d+)[._](layer)[._]"
    r"(?:(0)[._](SelfAttention)[._]([qkvo])|(1)[._](DenseReluDense)[._](wi_[01]|wo))"
)

_GEMMA = re.compile(
    r"(?:model[._])?layers[._](\d+)[._](?:(self_attn)[._]([qkvo]_proj)|(mlp)[._]((?:gate|up|down)_proj))"
)


class _Encoder(NamedTuple):
    path: re.Pattern[str]
    blocks: str
    """What its layers' names have before the number of the block."""
    layers: int
    sides: Mapping[str, str]
    """Layer → its output and its input: states, inside of attention (of queries, of keys and
    values), inside of the MLP."""
    widths: Mapping[str, int]


_SIDES_OF_CLIP = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), "ss"),
    "fc1": "ms",
    "fc2": "sm",
}
_SIDES_OF_T5 = {**dict.fromkeys("qkv", "as"), "o": "sa", "wi_0": "ms", "wi_1": "ms", "wo": "sm"}
_SIDES_OF_GEMMA = {
    **{"q_proj": "qs", "k_proj": "ks", "v_proj": "ks", "o_proj": "sq"},
    **{"gate_proj": "ms", "up_proj": "ms", "down_proj": "sm"},
}
_ENCODERS = {
    GEMMA: _Encoder(
        _GEMMA, "layers", 26, _SIDES_OF_GEMMA, {"s": 2304, "q": 2048, "k": 1024, "m": 9216}
    ),
    CLIP_L: _Encoder(_CLIP, "encoder.layers", 12, _SIDES_OF_CLIP, {"s": 768, "m": 3072}),
    CLIP_G: _Encoder(_CLIP, "encoder.layers", 32, _SIDES_OF_CLIP, {"s": 1280, "m": 5120}),
    T5_XXL: _Encoder(_T5, "encoder.block", 24, _SIDES_OF_T5, {"s": 4096, "a": 4096, "m": 10240}),
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
