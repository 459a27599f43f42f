"""A base's layers and their shapes, read from configs and headers; no weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selma.adapters import names
from selma.adapters.reading import LayerFile, opened
from selma.backbones.families import family_of as family_named
from selma.errors import AdapterError, ModelError
from selma.toybox import base_folder

Family = Literal["sd1", "sd2", "sdxl"]

CROSS_WIDTHS: dict[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text features that cross-attention reads."""


@dataclass(frozen=True)
class Model:
    """A pipeline folder's layers, by our names."""

    folder: Path
    family: Family | None
    """What files call it; None of families that they have no such name for."""
    layers_per_block: int
    prediction: str
    """What the denoiser predicts."""
    image_px: int
    files: Mapping[str, tuple[Path, ...]]
    """Component → its safetensors files."""
    shapes: Mapping[str, tuple[int, ...]]
    """Layer → its weight's shape, [out, in] or [out, in, k, k]."""


def read_model(model: str) -> Model:
    """One of toybox's bases by name, or the model in a diffusers folder. Raises ModelError."""
    folder = _folder(model)
    index = _json(folder / "model_index.json")
    base = family_named(index.get("_class_name"), model=str(folder))
    denoiser = _json(folder / base.component / "config.json")
    scheduler = _json(folder / "scheduler" / "scheduler_config.json")
    vae = _json(folder / "vae" / "config.json")
    prediction = base.prediction(scheduler)
    per_block = denoiser.get("layers_per_block", names.LAYERS_PER_BLOCK)
    if not isinstance(per_block, int):
        raise ModelError(f"{folder}: a UNet with layers_per_block {per_block} has no known names.")
    files = {
        component: tuple(sorted((folder / component).glob("*.safetensors")))
        for component in names.components()
        if component in index and (folder / component).is_dir()
    }
    return Model(
        folder=folder,
        family=_family(index, denoiser, prediction) if base.component == names.UNET else None,
        layers_per_block=per_block,
        prediction=prediction,
        image_px=base.latent_shape(denoiser)[1] * base.image_factor(vae),
        files=files,
        shapes={key: shape for c, paths in files.items() for key, shape in _weights(c, paths)},
    )


def require_fit(layers: Mapping[str, LayerFile], model: Model, *, who: object) -> None:
    """Raise AdapterError unless the model has each of the adapter's layers in its shape."""
    missing = [key for key in layers if key not in model.shapes]
    if missing:
        raise AdapterError(
            f"{who} changes {len(layers)} layers, of which {model.folder} has "
            f"{len(layers) - len(missing)}; it has no {missing[0]}. It was made for another model."
        )
    for key, layer in layers.items():
        kernel = layer.kernel or ()
        out, *inside = model.shapes[key]
        width = 1
        for side in inside:
            width *= side
        if (out, width) != layer.shape or tuple(inside[1:]) != kernel:
            raise AdapterError(
                f"{who}: the change of {key} is {list(layer.shape)} with kernel {list(kernel)}, "
                f"but the weight in {model.folder} is {list(model.shapes[key])}."
            )


def family_of(layers: Mapping[str, LayerFile]) -> Family | None:
    """The family as layers tell it: by the width of text features, or by what only SDXL has.
    None where they do not tell."""
    for key, layer in layers.items():
        component, module = names.split(key)
        if component == names.TEXT_2 or "transformer_blocks.1." in module:
            return "sdxl"
        if module.startswith("add_embedding."):
            return "sdxl"
        if component == names.UNET and module.endswith((".attn2.to_k", ".attn2.to_v")):
            return CROSS_WIDTHS.get(layer.shape[1])
    return None


def weight_key(component: str, tensor: str) -> str | None:
    """Our name of the layer whose weight this tensor is; None for biases and their like."""
    if not tensor.endswith(".weight"):
        return None
    return names.plain(component, tensor.removesuffix(".weight"))


def _weights(component: str, paths: tuple[Path, ...]) -> list[tuple[str, tuple[int, ...]]]:
    weights = []
    for path in paths:
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118
                shape = tuple(file.get_slice(name).get_shape())
                key = weight_key(component, name)
                if key is not None and len(shape) in (2, 4):
                    weights.append((key, shape))
    return weights


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
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f'--base must be "toybox" or a diffusers folder, but {path} cannot be read: {error}'
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must be a mapping.")
    return value
