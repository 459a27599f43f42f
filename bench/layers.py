"""The layers of the known models, read off their own classes.

    python bench/layers.py       writes layers.json and layouts/sides.json of src/selma/adapters

To be run again when a family's `released` configs, toybox's networks or diffusers' classes change;
a test compares the file with the classes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import typer

from selma.adapters.layers import KNOWN_FILE, SIDES_FILE, Shapes, layer_shapes
from selma.adapters.layouts import LAYOUTS
from selma.backbones.families import FAMILIES, stable_diffusion, stable_diffusion_xl
from selma.toybox import weights_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from adapters.family_shapes import layers

TEXT_INPUTS = re.compile(r"caption_embedder\.1")
"""Whose input is as wide as a language model's states, which is no width of the transformer's."""


def sides() -> dict[str, dict[str, list[list[int | None]]]]:
    """diffusers' class → layer → its sides in each kind of block (`adapters.layers.Sides`)."""
    every: dict[str, dict[str, list[list[int | None]]]] = {}
    for layout in LAYOUTS:
        shapes = layers(layout.transformer).shapes
        width = next(shape[1] for key, shape in shapes.items() if key.endswith(".to_q"))
        blocks = {block for size in layout.sizes.values() for block in size.blocks}
        table = every.setdefault(layout.transformer, {})
        for key, shape in sorted(shapes.items()):
            module = key.partition(".")[2]
            block, _, rest = module.partition(".")
            if block in blocks:
                module = f"{block}.#.{rest.partition('.')[2]}"
            row = [side // width if side % width == 0 else None for side in shape[:2]]
            if TEXT_INPUTS.search(module):
                row[1] = None
            kernel = list(shape[2:]) if shape[2:] != (1, 1) else []
            rows = table.setdefault(module, [])
            if [*row, *kernel] not in rows:
                rows.append([*row, *kernel])
    return every


def tables() -> dict[str, dict[str, Any]]:
    """Model → its layers as a tree; toybox is last, since files that fit another are that one's."""
    rows = (stable_diffusion.FAMILY, stable_diffusion_xl.FAMILY)
    known = {
        model: nested(layer_shapes(family, configs))
        for family in rows
        for model, configs in family.released.items()
    }
    folder = weights_folder() / "base"
    configs = {
        part: json.loads((folder / part / "config.json").read_text("utf-8"))
        for part in ("unet", "text_encoder")
    }
    family = FAMILIES[stable_diffusion.FAMILY.name]
    return known | {"toybox": nested(layer_shapes(family, configs))}


def nested(shapes: Shapes) -> dict[str, Any]:
    """The layers as a tree of the parts of their names, as layers.json has them."""
    tree: dict[str, Any] = {}
    for key, shape in sorted(shapes.items()):
        *parts, last = key.split(".")
        branch = tree
        for part in parts:
            branch = branch.setdefault(part, {})
        branch[last] = list(shape)
    return tree


def main() -> None:
    """Write the tables anew."""
    lines = [
        f"{json.dumps(model)}:{json.dumps(tree, separators=(',', ':'))}"
        for model, tree in tables().items()
    ]
    KNOWN_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    lines = [
        f"{json.dumps(transformer)}:{json.dumps(table, separators=(',', ':'))}"
        for transformer, table in sides().items()
    ]
    SIDES_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    typer.run(main)
