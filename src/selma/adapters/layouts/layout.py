"""The columns of the table of layouts: what a family's original model calls diffusers' layers.

An original model may have one layer where diffusers has several, whose rows then lie one below the
other (q, k and v). "#" in a path is the number of a block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

Rows = Callable[[int, int | None, Mapping[int, int]], tuple[int, ...] | None]
"""(input width, output width or None, part → its known output width) → the output width of each
part of a joined layer; None where they cannot be told, or cannot be those of this layer."""


def times(*factors: int) -> Rows:
    """Parts that are so many times as wide as their input."""
    return lambda inside, out, known: _sum(out, tuple(factor * inside for factor in factors))


def grouped(inside: int, out: int | None, known: Mapping[int, int]) -> tuple[int, ...] | None:
    """q as wide as the input, and narrower k and v, which several heads share."""
    width = known.get(1, known.get(2)) or ((out - inside) // 2 if out is not None else 0)
    return _sum(out, (inside, width, width)) if width < inside else None


def _sum(out: int | None, rows: tuple[int, ...]) -> tuple[int, ...] | None:
    return rows if min(rows) > 0 and out in (None, sum(rows)) else None


@dataclass(frozen=True)
class Original:
    """One layer of the original model."""

    path: str
    modules: tuple[str, ...]
    """diffusers' layers, in the order of their rows."""
    rows: Rows | None = None
    """None of one layer that may have any shape. What a name means is told by shapes as well, where
    two families call different layers alike."""
    swaps: bool = False
    """Whether a weight of two outputs for each input holds shift and scale, and diffusers' scale
    and shift."""


def renamed(names: Mapping[str, str], *, at: str = "", to: str = "") -> tuple[Original, ...]:
    """Original layer → diffusers', both below these paths."""
    return tuple(Original(at + path, (to + module,)) for path, module in names.items())


def joined(path: str, modules: str, *, to: str, rows: Rows | None = None) -> Original:
    """diffusers' layers (their names in one text) that are one in the original."""
    names = tuple(to + module for module in modules.split())
    return Original(path, names, rows or times(*(1 for _ in names)))


def same(*modules: str) -> tuple[Original, ...]:
    """Layers of one name in both."""
    return tuple(Original(module, (module,)) for module in modules)


CLIP_L, CLIP_G, T5_XXL, GEMMA = "CLIP-L", "OpenCLIP-G", "T5-XXL", "Gemma 2 2B"


class Size(NamedTuple):
    """One released model."""

    width: int
    """Of its hidden states."""
    blocks: Mapping[str, int]
    """diffusers' name of a list of blocks → how many there are."""


class Place(NamedTuple):
    """Where a name leads in the table."""

    original: Original
    number: str
    """Of the block; empty without one."""

    @property
    def path(self) -> str:
        return self.original.path.replace("#", self.number)

    @property
    def modules(self) -> tuple[str, ...]:
        """diffusers' layers."""
        return tuple(module.replace("#", self.number) for module in self.original.modules)


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """One row: the names of one family of transformers."""

    transformer: str
    """diffusers' class, by which a base finds its row."""
    title: str
    """What messages call the family."""
    originals: tuple[Original, ...]
    sizes: Mapping[str, Size]
    """Released model → its size, by which names that several families have are told apart."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Text encoder that adapters change → what it is (`CLIP_L`, `CLIP_G`, `T5_XXL` or `GEMMA`)."""
    kohya_splits: bool = False
    """Whether kohya's trainers keep diffusers' layers apart, rather than the original's."""
    kohya_module: str = "networks.lora"
    """The trainer's module, as its files name it."""
    component: str = "transformer"

    def original(self, path: str) -> Place | None:
        """The layer that the original model calls so, by dots or joined by "_"."""
        return _found(self._originals, path)

    def module(self, path: str) -> Place | None:
        """The original layer of which diffusers' is the whole or a part."""
        return _found(self._modules, path)

    def own(self, path: str) -> str | None:
        """diffusers' name of the layer that a file calls so, by dots or joined by "_"."""
        place = _found(self._modules, path)
        if place is None:
            return None
        flat = path.replace(".", "_")
        return next(m for m in place.modules if m.replace(".", "_") == flat)

    @cached_property
    def _originals(self) -> _Table:
        return _table((original.path, original) for original in self.originals)

    @cached_property
    def _modules(self) -> _Table:
        return _table((module, o) for o in self.originals for module in o.modules)


_Table = Mapping[str, list[tuple[tuple[str, ...], Original]]]
"""Path with every number replaced → (the numbers, "#" for a block's, original layer)."""

_NUMBERS = re.compile(r"(\d+|#)")


def _table(rows: Iterator[tuple[str, Original]]) -> _Table:
    table: dict[str, list[tuple[tuple[str, ...], Original]]] = {}
    for path, original in rows:
        for spelled in dict.fromkeys((path, path.replace(".", "_"))):
            skeleton, numbers = _split(spelled)
            table.setdefault(skeleton, []).append((numbers, original))
    return table


def _found(table: _Table, path: str) -> Place | None:
    skeleton, numbers = _split(path)
    for wanted, original in table.get(skeleton, ()):
        free = [n for n, w in zip(numbers, wanted, strict=True) if w == "#"]
        fixed = all(w in ("#", n) for n, w in zip(numbers, wanted, strict=True))
        if fixed and all(str(int(n)) == n for n in free):
            return Place(original, free[0] if free else "")
    return None


def _split(path: str) -> tuple[str, tuple[str, ...]]:
    parts = _NUMBERS.split(path)
    return "#".join(parts[::2]), tuple(parts[1::2])
