"""Changes of weights, layer by layer: as selma reads them in a file, and how far two differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from selma.adapters import names
from selma.adapters.applying import applied, chosen
from selma.adapters.files import Lineage
from selma.adapters.formats import Adapter, write
from selma.adapters.models import Model, read_model
from selma.adapters.reading import LayerFile
from selma.adapters.table import kind_of
from selma.backbones.text_to_image import load_text_to_image
from selma.config.networks import BaseConfig

Deltas = dict[str, Tensor]
"""Layer, by selma's names, → what is added to its weight."""

COMPONENTS = (names.UNET, *names.TEXTS)
LINEAR = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2")
IN_TEXT = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2")
PROJECTIONS = (".proj_in", ".proj_out")
CONVOLUTIONS = (".conv1", ".conv2", ".conv_shortcut", ".downsamplers.0.conv", ".upsamplers.0.conv")


def read(path: Path, base: Path) -> Deltas:
    """What selma reads in a file of LoRA: of zeros as weights, what is added to them."""
    model = read_model(str(base))
    kind = kind_of(path)
    file = kind.read(path, base=model.layers)
    kind.require_fit(file, model.layers, path)
    assert kind.weight_changes is not None
    changes = kind.weight_changes(file)
    return {key: change(torch.zeros(model.shapes[key])) for key, change in changes.items()}


def generated_with(path: Path, empty: Path, *, strength: float = 1.0) -> Deltas:
    """The weights of an empty base while `selma generate` generates with the file."""
    model = load_text_to_image(BaseConfig(model=str(empty), device="cpu"))
    with applied(model, chosen([path], [strength])):
        return weights(model.pipe)


def weights(pipe: object) -> Deltas:
    """Copies of the weights of an empty pipeline's layers that are not zero."""
    parts = {component: getattr(pipe, component, None) for component in COMPONENTS}
    layers = {
        names.plain(component, path): module
        for component, part in parts.items()
        if part is not None
        for path, module in part.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    return {key: m.weight.detach().clone() for key, m in layers.items() if m.weight.any()}


def written_by_others(path: Path) -> Deltas:
    """The changes that another program computed, under diffusers' or selma's names."""
    tensors = load_file(path)
    return {names.plain(*names.split(name)): tensor for name, tensor in tensors.items()}


def difference(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> float:
    """The largest relative distance of a layer, ‖theirs - ours‖ / ‖ours‖. Both must have the same
    layers, and none may be zero."""
    assert theirs.keys() == ours.keys(), sorted(theirs.keys() ^ ours.keys())[:5]
    return max(_distance(theirs[key], ours[key]) for key in ours)


def _distance(theirs: Tensor, ours: Tensor) -> float:
    assert theirs.numel() == ours.numel() and ours.any()
    ours = ours.double()
    return float((theirs.double().reshape(ours.shape) - ours).norm() / ours.norm())


def random_lora(
    path: Path,
    base: Path,
    *,
    endings: tuple[str, ...] = (*LINEAR, *IN_TEXT),
    components: tuple[str, ...] = COMPONENTS,
    ranks: tuple[int, ...] = (2,),
    alphas: tuple[float, ...] = (3.0,),
    dtype: torch.dtype = torch.float32,
    to: str = "diffusers",
    seed: int = 0,
) -> Deltas:
    """Write a LoRA with random factors for the base's layers of these endings, as selma writes it;
    return its changes as they follow from the factors, in double.

    Layer n has the nth rank and alpha, which repeat.
    """
    model = read_model(str(base))
    generator = torch.Generator().manual_seed(seed)
    layers, factors = {}, {}
    for key in layers_of(model, endings, components):
        rank, alpha = (values[len(layers) % len(values)] for values in (ranks, alphas))
        layers[key] = _layer(model.shapes[key], rank, alpha, dtype)
        out, inside = layers[key].shape
        a = torch.randn(rank, inside, generator=generator)
        b = 0.1 * torch.randn(out, rank, generator=generator)
        factors[key] = (a.to(dtype), b.to(dtype))
    write(path, Adapter(layers, factors.__getitem__, Lineage(), notes={}), to=to, model=model)
    return {
        key: (layer.scale * factors[key][1].double() @ factors[key][0].double()).reshape(
            model.shapes[key]
        )
        for key, layer in layers.items()
    }


def layers_of(
    model: Model, endings: tuple[str, ...], components: tuple[str, ...] = COMPONENTS
) -> list[str]:
    """Layers of these endings, sorted."""
    return [
        key
        for key in sorted(model.shapes)
        if names.split(key)[0] in components and key.endswith(endings)
    ]


def _layer(shape: tuple[int, ...], rank: int, alpha: float, dtype: torch.dtype) -> LayerFile:
    out, *inside = shape
    width = 1
    for side in inside:
        width *= side
    kernel = (inside[1], inside[2]) if len(inside) == 3 else None
    return LayerFile(None, "", "", (out, width), kernel, rank, alpha, (dtype, dtype))
