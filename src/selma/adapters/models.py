"""A base's layers and their shapes, read from configs and headers; no weight is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from selma.adapters import names
from selma.adapters.headers import opened, tensor_names
from selma.adapters.layers import Layers, known_models, layers_of
from selma.adapters.layouts import layout_of
from selma.adapters.layouts.layout import Layout
from selma.adapters.reading import AdapterFile, LayerFile
from selma.backbones.bases import row_of
from selma.backbones.families import family_of as family_named
from selma.errors import AdapterError, ModelError
from selma.paths import AnyPath, require_path
from selma.plainfiles import MOST_SETTINGS, plain_text
from selma.plurals import counted
from selma.toybox import base_folder

Family = Literal["sd1", "sd2", "sdxl"]

FAMILIES: dict[str, Family] = {"SD 1": "sd1", "SD 2": "sd2", "SDXL": "sdxl"}
"""A known model → what files call its family."""

CROSS_WIDTHS: dict[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text features that cross-attention reads."""


@dataclass(frozen=True)
class Model:
    """A pipeline folder's layers, by our names."""

    folder: Path
    family: Family | None
    """What files call it; None of families that they have no such name for."""
    prediction: str
    """What the denoiser predicts."""
    image_px: int
    files: Mapping[str, tuple[Path, ...]]
    """Component → its safetensors files."""
    shapes: Mapping[str, tuple[int, ...]]
    """Layer → its weight's shape, [out, in] or [out, in, k, k]."""
    layout: Layout | None = None
    """What files call the layers of its transformer."""
    released: Layers | None = None
    """What is known of a released model whose files are not at hand."""

    @cached_property
    def layers(self) -> Layers:
        """Its layers, by every name that files give them."""
        return self.released or Layers(str(self.folder), self.shapes, layout=self.layout)


def read_model(model: AnyPath) -> Model:
    """One of toybox's bases by name, the model in a diffusers folder, or what is known of a base by
    its short name, without its files. Raises ConfigError or ModelError."""
    name = os.fspath(require_path(model))
    if not Path(name).exists() and (known := _released(name)) is not None:
        return known
    folder = _folder(name)
    index = _json(folder / "model_index.json")
    base = family_named(index.get("_class_name"), model=str(folder))
    denoiser = _json(folder / base.component / "config.json")
    scheduler = _json(folder / "scheduler" / "scheduler_config.json")
    vae = _json(folder / "vae" / "config.json")
    prediction = base.prediction(scheduler)
    files = {
        component: tuple(sorted((folder / component).glob("*.safetensors")))
        for component in names.components()
        if component in index and (folder / component).is_dir()
    }
    return Model(
        folder=folder,
        family=_family(index, denoiser, prediction) if base.component == names.UNET else None,
        prediction=prediction,
        image_px=base.latent_shape(denoiser)[1] * base.image_factor(vae),
        files=files,
        layout=layout_of(base.classes[base.component]),
        shapes={
            key: shape for c, paths in files.items() for key, shape in _weights(c, paths).items()
        },
    )


def _released(name: str) -> Model | None:
    """What is known of a base of the table, which is not at hand; None of any other."""
    row = row_of(name)
    layers = next(
        (m for group in known_models() for m in group if row and row.layers == m.model), None
    )
    if row is None or layers is None:
        return None
    about = row.architecture
    return Model(
        folder=Path(name),
        family=FAMILIES.get(layers.model),
        prediction=about.prediction,
        image_px=about.image_px,
        files={},
        shapes=layers.shapes,
        layout=layers.layout,
        released=layers,
    )


def require_fit(layers: Mapping[str, LayerFile], base: Layers, *, who: object) -> None:
    """Raise AdapterError unless the base has each of the adapter's layers in its shape."""
    missing = [key for key in layers if not base.has(key)]
    if missing:
        raise AdapterError(
            f"{who} changes {counted(len(layers), 'layer')}, of which {base.model} has "
            f"{len(layers) - len(missing)}; it has no {missing[0]}. It was made for another model."
        )
    for key, layer in layers.items():
        if not base.fits(key, layer.weight_shape):
            shape = base.shape(key)
            raise AdapterError(
                f"{who}: the change of {key} is for a weight of {list(layer.weight_shape)}, but "
                f"that in {base.model} is {list(shape) if shape else 'another'}."
            )


def require_possible(file: AdapterFile) -> None:
    """Raise AdapterError where no model by whose names the file goes can have weights of its
    shapes, released or of another size. Without a base this is all that can be told."""
    shapes = {key: layer.weight_shape for key, layer in file.layers.items()}
    wrong = [(model, model.misfit(shapes)) for model in file.models]
    if not wrong or any(key is None for _, key in wrong):
        return
    model, key = wrong[0]
    raise AdapterError(
        f"{file.path}: the change of {key} is for a weight of {list(shapes[str(key)])}, which no "
        f"model with the names of {model.model} has beside the file's other layers, however wide "
        "it is. The file is damaged, or put together of several models'; if there is such a model, "
        "name it with --base."
    )


def weight_key(component: str, tensor: str) -> str | None:
    """Our name of the layer whose weight this tensor is; None for biases and their like."""
    if not tensor.endswith(".weight"):
        return None
    return names.plain(component, tensor.removesuffix(".weight"))


def _weights(component: str, paths: tuple[Path, ...]) -> dict[str, tuple[int, ...]]:
    weights: dict[str, tuple[int, ...]] = {}
    for path in paths:
        with opened(path) as file:
            weights |= {
                name.removesuffix(".weight"): tuple(file.get_slice(name).get_shape())
                for name in tensor_names(file, path)
                if name.endswith(".weight")
            }
    return layers_of(component, weights)


def _family(index: Mapping[str, Any], unet: Mapping[str, Any], prediction: str) -> Family:
    if unet.get("addition_embed_type") == "text_time" or names.TEXT_2 in index:
        return "sdxl"
    width = unet.get("cross_attention_dim")
    known = CROSS_WIDTHS.get(width) if isinstance(width, int) else None
    return known or ("sd2" if prediction == "v_prediction" else "sd1")


def _folder(model: str) -> Path:
    return base_folder(model) or Path(model).expanduser()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(plain_text(path, most=MOST_SETTINGS))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            '--base must be "toybox", a diffusers folder or a short name (selma bases), but '
            f"{path} cannot be read: {error}"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must be a mapping.")
    return value
