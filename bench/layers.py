"""The layers of the known models, read off their own classes.

    python bench/layers.py       writes src/selma/adapters/layers.json

To be run again when a family's `released` configs, toybox's networks or diffusers' classes change;
a test compares the file with the classes.
"""

from __future__ import annotations

import json
from typing import Any

import typer

from selma.adapters.layers import KNOWN_FILE, Shapes, layer_shapes
from selma.backbones.families import FAMILIES, stable_diffusion, stable_diffusion_xl
from selma.toybox import weights_folder


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
    """Write the table anew."""
    lines = [
        f"{json.dumps(model)}:{json.dumps(tree, separators=(',', ':'))}"
        for model, tree in tables().items()
    ]
    KNOWN_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    typer.run(main)
