"""Which layers a file means by its names: those of its base, or of one of the known models.

All names of a file are looked up together, since they are one model's. Nothing is guessed: a name
that leads to no layer is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selma.adapters import names
from selma.adapters.layers import FamilyLayers, Layers, Part, known_models, known_names
from selma.adapters.spellings import Spelling, spelling
from selma.backbones.families import denoiser_components
from selma.errors import AdapterError
from selma.plurals import counted

Shapes = Mapping[Spelling, tuple[int, ...] | None]
"""Layer as the file spells it → the shape of the weight that it changes; None if it is not said."""


@dataclass(frozen=True)
class Reading:
    """What a file's names mean."""

    parts: Mapping[Spelling, tuple[Part, ...]]
    """Layer as the file spells it → our layers, of which there are several where it joins them."""
    models: tuple[Layers, ...]
    """The models whose layers these are: one if the base is at hand; several where names and shapes
    do not tell them apart; none of a base that only the file's header names."""


def resolved(
    path: Path,
    shapes: Shapes,
    *,
    base: Layers | None = None,
    own_base: bool = False,
    own_names: bool = True,
) -> Reading:
    """The layers that the file at `path` means.

    base: the model that it is for; without one the known models are asked, and those preferred
    whose weights have the file's shapes.  own_base: whether the file's header says that selma
    wrote it, for a base that it names; if no known model has these layers, its names are that
    base's own, unless the layout joins or numbers them (not own_names). Raises AdapterError, which
    names the layer that is none.
    """
    models, exact, likely = _readings_of(shapes, known_models() if base is None else [(base,)])
    families = bool(likely) and isinstance(likely[0][0], FamilyLayers)
    if families and any(other != likely[0][1] for _, other in likely):
        raise AdapterError(_several(path, likely))
    if base is None and own_base and not exact:
        if families:
            return Reading(likely[0][1], ())
        if not own_names:
            raise AdapterError(_other_base(path, next(iter(shapes))))
        return Reading(_verbatim(path, list(shapes)), ())
    if not likely:
        raise AdapterError(_no_layer(path, shapes, models, base=base))
    parts = likely[0][1]
    return Reading(parts, tuple(model for model, other in likely if other == parts))


def denoiser_keys(
    path: Path,
    spelled: Collection[str],
    *,
    base: Layers | None = None,
    own_base: bool = False,
) -> tuple[dict[str, str], tuple[Layers, ...]]:
    """(name in the file → our name, models) of layers of the denoiser, which the file at `path`
    names with or without prefixes. Raises AdapterError as `resolved` does, if a layer is another
    network's, and if two names mean one layer."""
    layers = {}
    for name in spelled:
        layer = spelling(name)
        if layer is None or layer.component in names.TEXTS:
            raise AdapterError(f"{path} must turn layers of the denoiser alone, but has {name!r}.")
        layers[name] = layer
    reading = resolved(path, dict.fromkeys(layers.values()), base=base, own_base=own_base)
    keys: dict[str, str] = {}
    spelled_by: dict[str, str] = {}
    for name, layer in layers.items():
        key = reading.parts[layer][0].key
        if names.split(key)[0] not in denoiser_components():
            raise AdapterError(f"{path} must turn layers of the denoiser alone, but has {name!r}.")
        if spelled_by.setdefault(key, name) != name:
            twin = spelled_by[key]
            raise AdapterError(f"{path} names {key} twice, as {twin!r} and as {name!r}.")
        keys[name] = key
    return keys, reading.models


def models_of(shapes: Mapping[str, tuple[int, ...]], *, exact: bool) -> tuple[Layers, ...]:
    """The known models that have these layers, by our names; those alone whose weights have these
    shapes, if there are any, or in any case if `exact`."""
    spelled = {Spelling(*names.split(key)): shape for key, shape in shapes.items()}
    _, fitting, likely = _readings_of(spelled, known_models())
    return tuple(model for model, _ in likely if fitting or not exact)


_Readings = list[tuple[Layers, dict[Spelling, tuple[Part, ...]]]]


def _readings_of(
    shapes: Shapes, models: Iterable[Sequence[Layers]]
) -> tuple[list[Layers], bool, _Readings]:
    """(models asked, whether weights have all shapes, the readings that the shapes speak for).

    A group of models is asked only if no model of those before has weights of these shapes.
    """
    asked: list[Layers] = []
    readings: _Readings = []
    for group in models:
        asked += group
        readings += [(model, parts) for model in group for parts in _readings(model, shapes)]
        if exact := _fitting("fits", shapes, readings):
            return asked, True, exact
    return asked, False, _fitting("reads_text", shapes, readings) or readings


def _fitting(test: str, shapes: Shapes, readings: _Readings) -> _Readings:
    """The readings whose models say yes of each layer. test: a method of theirs."""
    return [
        (model, parts)
        for model, parts in readings
        if all(
            getattr(model, test)(part.key, _shape_of(part, shape))
            for spelled, shape in shapes.items()
            if shape is not None
            for part in parts[spelled]
        )
    ]


def _shape_of(part: Part, shape: tuple[int, ...]) -> tuple[int, ...]:
    if part.cut is None:
        return shape
    start, stop = part.cut.rows
    return (stop - start, *shape[1:])


def _readings(model: Layers, shapes: Shapes) -> Iterator[dict[Spelling, tuple[Part, ...]]]:
    """Each way to find all layers in this model: a text encoder's need not say of which it is."""
    tried: list[dict[Spelling, tuple[Part, ...]]] = []
    for text in names.TEXTS:
        known: dict[Spelling, tuple[Part, ...]] = {}
        for layer, shape in shapes.items():
            if (parts := _parts(model, layer, shape, text)) is None:
                break  # most models lack the first one already
            known[layer] = parts
        else:
            if known not in tried:
                tried.append(known)
                yield known


def _parts(
    model: Layers, layer: Spelling, shape: tuple[int, ...] | None, text: str
) -> tuple[Part, ...] | None:
    components = (layer.component,) if layer.component else (*denoiser_components(), text)
    each = (model.parts(component, layer.path, shape) for component in components)
    return next((parts for parts in each if parts is not None), None)


_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)


def _verbatim(path: Path, layers: Sequence[Spelling]) -> dict[Spelling, tuple[Part, ...]]:
    """Our own names, as they stand."""
    parts: dict[Spelling, tuple[Part, ...]] = {}
    for layer in layers:
        any_t5 = layer.component in (None, names.T5) and names.of_t5(layer.path)
        if any_t5 or not _PATH.fullmatch(layer.path):
            raise AdapterError(_other_base(path, layer))
        text = ".self_attn." in layer.path or ".mlp." in layer.path
        # A PEFT folder of one component need not say which it is.
        component = layer.component or (names.TEXT if text else names.UNET)
        parts[layer] = (Part(names.plain(component, layer.path)),)
    return parts


def _several(path: Path, likely: _Readings) -> str:
    models = dict.fromkeys(model.layout.title for model, _ in likely if model.layout)
    return (
        f"{path} names layers that {' and '.join(models)} call alike and mean differently, and "
        "their shapes do not tell which: name the model with --base."
    )


def _other_base(path: Path, layer: Spelling) -> str:
    return (
        f"{path} names a layer {layer.path!r}, and was made for a base that is none of the known "
        f"models ({known_names()}): name that base with --base."
    )


def _no_layer(path: Path, shapes: Shapes, models: Sequence[Layers], *, base: Layers | None) -> str:
    """Which name leads nowhere, for the message."""
    missing = {
        model: [layer for layer, shape in shapes.items() if not _has(model, layer, shape)]
        for model in models
    }
    if base is not None:
        if lacking := _lacking_encoder(missing[base], base):
            return f"{path} {lacking}"
        return (
            f"{path} changes {counted(len(shapes), 'layer')}, of which {base.model} has "
            f"{len(shapes) - len(missing[base])}; it has no {missing[base][0].path}. "
            "It was made for another model."
        )
    everywhere = set(shapes).intersection(*missing.values())
    nowhere = [layer for layer in shapes if layer in everywhere]
    if nowhere:
        return (
            f"{path} names a layer {nowhere[0].path!r} that none of {known_names()} has. If "
            "another model has it, name that with --base."
        )
    each = "; ".join(
        f"{m.model} has no {absent[0].path}" for m, absent in missing.items() if absent
    )
    return f"{path} must change layers of one model, but mixes them: {each}. Name it with --base."


def _lacking_encoder(missing: Sequence[Spelling], base: Layers) -> str | None:
    """The layers that are missing, in a sentence, if they are of text encoders that the base has
    not: pipelines are also loaded and saved without their largest one."""
    parts = {names.split(key)[0] for key in base.shapes}
    t5 = any(map(names.of_t5, (names.split(key)[1] for key in base.shapes)))
    there = parts | ({names.T5} if t5 else set())
    texts = (*names.TEXTS, names.T5)
    if any(layer.component not in texts or layer.component in there for layer in missing):
        return None
    encoders = sorted({str(layer.component).replace(names.T5, "T5") for layer in missing})
    shown = ", ".join(layer.path for layer in missing[:3]) + (", ..." if missing[3:] else "")
    return (
        f"changes {counted(len(missing), 'layer')} of {' and '.join(encoders)}, which "
        f"{base.model} has not: {shown}. Load the base with this text encoder, or take these "
        "layers out of the file."
    )


def _has(model: Layers, layer: Spelling, shape: tuple[int, ...] | None) -> bool:
    return any(_parts(model, layer, shape, text) is not None for text in names.TEXTS)
