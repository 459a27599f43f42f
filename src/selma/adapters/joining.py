"""A transformer's LoRA by its original model's layers, some of which join several of diffusers'.

Joining is exact. Where the parts share A, rank and scale, B's rows lie one below another; else
their ranks lie side by side, each part's B in a block of its own, padded to one rank with zeros.
Readers of joined files then find each part's own factors again, and the header says their ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from selma.adapters import names
from selma.adapters.layouts.layout import Layout, Place
from selma.errors import AdapterError

if TYPE_CHECKING:
    from selma.adapters.reading import LayerFile

Give = Callable[[str], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Joined:
    """Layers by the original's names ("transformer.joint_blocks.0...."), and what gives factors."""

    layers: Mapping[str, LayerFile]
    give: Give
    ranks: Mapping[str, int]
    """Our layer → its rank, where readers would find another; 0 of what is no layer at all."""


def joined(
    layers: Mapping[str, LayerFile],
    give: Give,
    layout: Layout,
    *,
    shapes: Mapping[str, tuple[int, ...]],
) -> Joined:
    """The layers by the original model's names. shapes: of the base's weights, as far as known.

    Raises AdapterError if the original has no such layer, or if the width of a missing part cannot
    be told.
    """
    groups: dict[str, tuple[Place, dict[int, str]]] = {}
    for key in layers:
        component, module = names.split(key)
        place = layout.module(module) if component == layout.component else None
        if place is None:
            raise AdapterError(
                f"{key} has no name in the original {layout.title}: write diffusers or peft."
            )
        _, parts = groups.setdefault(place.path, (place, {}))
        parts[place.modules.index(module)] = key
    out: dict[str, LayerFile] = {}
    gives: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {}
    ranks: dict[str, int] = {}
    for path, (place, parts) in groups.items():
        name = f"{layout.component}.{path}"
        if len(place.modules) == 1:
            out[name], gives[name] = _renamed(layers, give, parts[0], swaps=place.original.swaps)
            continue
        widths = _widths(layers, place, parts, layout=layout, shapes=shapes)
        out[name], gives[name], own = _joined(layers, give, parts, widths)
        every = [f"{layout.component}.{module}" for module in place.modules]
        ranks |= {every[n]: rank for n, rank in own.items()}
    return Joined(out, lambda name: gives[name](), ranks)


def _renamed(
    layers: Mapping[str, LayerFile], give: Give, key: str, *, swaps: bool
) -> tuple[LayerFile, Callable[[], tuple[Tensor, Tensor]]]:
    layer = layers[key]
    if not swaps or layer.shape[0] != 2 * layer.shape[1]:
        return layer, lambda: give(key)

    def swapped() -> tuple[Tensor, Tensor]:
        a, b = give(key)
        return a, torch.cat([*reversed(b.chunk(2))])

    return layer, swapped


def _widths(
    layers: Mapping[str, LayerFile],
    place: Place,
    parts: Mapping[int, str],
    *,
    layout: Layout,
    shapes: Mapping[str, tuple[int, ...]],
) -> Sequence[int]:
    """The rows of every part, of those that are not changed as well."""
    every = [f"{layout.component}.{module}" for module in place.modules]
    if all(key in shapes for key in every):
        return [shapes[key][0] for key in every]
    known = {n: layers[key].shape[0] for n, key in parts.items()}
    rule, inside = place.original.rows, layers[next(iter(parts.values()))].shape[1]
    rows = rule(inside, None, known) if rule else None
    if rows is None or any(rows[n] != width for n, width in known.items()):
        raise AdapterError(
            f"{place.path} joins {', '.join(place.modules)}, whose widths cannot be told from "
            "those that are changed: name the model with --base."
        )
    return rows


def _joined(
    layers: Mapping[str, LayerFile], give: Give, parts: Mapping[int, str], widths: Sequence[int]
) -> tuple[LayerFile, Callable[[], tuple[Tensor, Tensor]], dict[int, int]]:
    """One layer, what gives its factors, and part → rank where readers would find another."""
    each = {n: layers[key] for n, key in parts.items()}
    first = next(iter(each.values()))
    like = len({(layer.rank, layer.scale, layer.dtypes) for layer in each.values()}) == 1
    absent = {n: 0 for n in range(len(widths)) if n not in each}
    if like and _share(give, list(parts.values())):

        def below() -> tuple[Tensor, Tensor]:
            bs = {n: give(key)[1] for n, key in parts.items()}
            zeros = next(iter(bs.values()))
            rows = [bs.get(n, zeros.new_zeros(w, first.rank)) for n, w in enumerate(widths)]
            return give(next(iter(parts.values())))[0], torch.cat(rows)

        return replace(first, shape=(sum(widths), first.shape[1]), cut=None), below, absent
    top, of = max(layer.rank for layer in each.values()), len(widths)
    scales = {layer.scale for layer in each.values()}
    scale = scales.pop() if len(scales) == 1 else None
    kept = scale is not None and len({layer.dtypes for layer in each.values()}) == 1

    def beside() -> tuple[Tensor, Tensor]:
        a = torch.zeros(top * of, first.shape[1])
        b = torch.zeros(sum(widths), top * of)
        for n, key in parts.items():
            own_a, own_b = (factor.float().flatten(1) for factor in give(key))
            # Scales that differ go into B; in float32 that rounds no more than they do themselves.
            factor = 1.0 if scale is not None else each[n].scale
            start = sum(widths[:n])
            a[n * top : n * top + len(own_a)] = own_a
            b[start : start + widths[n], n * top : n * top + len(own_a)] = own_b * factor
        return a, b

    layer = replace(
        first,
        shape=(sum(widths), first.shape[1]),
        rank=top * of,
        alpha=(1.0 if scale is None else scale) * top * of,
        dtypes=first.dtypes if kept else (torch.float32, torch.float32),
        cut=None,
    )
    smaller = {n: e.rank for n, e in each.items() if e.rank < top}
    return layer, beside, absent | smaller


def _share(give: Give, keys: Sequence[str]) -> bool:
    """Whether all layers have one A."""
    first = give(keys[0])[0]
    return all(torch.equal(first, give(key)[0]) for key in keys[1:])
