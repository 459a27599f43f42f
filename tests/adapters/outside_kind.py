"""A kind of adapter as another package would add it: one file, which ends with its row.

It trains one scale for each neuron of attention's queries and values, W → diag(exp s) W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from selma.adapters.files import OUR_KEY, Lineage, given, lineage_json, write_safetensors
from selma.adapters.headers import lineage_of, opened
from selma.adapters.kind import AdapterKind, WeightChange
from selma.adapters.layers import Layers
from selma.config.adapters import AdapterSettings

ROLE = "log_scales"


class ScalesConfig(AdapterSettings):
    unmergeable = "the mean of scales is no scale of a mean"

    kind: Literal["scales"] = "scales"
    layers: tuple[str, ...] = ("to_q", "to_v")


@dataclass(frozen=True)
class ScalesFile:
    kind: ClassVar[str] = "scales"
    format: ClassVar[str] = "outside"
    merge_space: ClassVar[None] = None

    path: Path
    layers: tuple[str, ...]
    lineage: Lineage

    def scales(self, layer: str) -> Tensor:
        with opened(self.path) as file:
            tensor: Tensor = file.get_tensor(f"{layer}.{ROLE}")
        return tensor


def attach(
    denoiser: nn.Module, config: ScalesConfig, *, generator: torch.Generator, targets: Any
) -> dict[str, nn.Parameter]:
    denoiser.requires_grad_(False)
    tensors = {}
    for name, layer in denoiser.named_modules():
        if name.endswith(config.layers) and isinstance(layer, nn.Linear):
            scales = nn.Parameter(torch.zeros(layer.out_features, device=layer.weight.device))
            hook = layer.register_forward_hook(lambda _, x, y, s=scales: y * s.exp().to(y.dtype))
            layer.outside_hook = hook  # type: ignore[assignment]
            tensors[f"{name}.{ROLE}"] = scales
    return dict(sorted(tensors.items()))


def detach(denoiser: nn.Module) -> None:
    for layer in denoiser.modules():
        if hook := vars(layer).pop("outside_hook", None):
            hook.remove()


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: ScalesConfig,
    *,
    lineage: Lineage,
    component: str,
) -> None:
    named = {f"{component}.{name}": tensor for name, tensor in tensors.items()}
    write_safetensors(path, given(named), metadata={OUR_KEY: lineage_json(lineage)})


def read(place: Path, *, base: Layers | None = None) -> ScalesFile:
    path = place / ROW.file if place.is_dir() else place
    with opened(path) as file:
        layers = sorted(name.removesuffix(f".{ROLE}") for name in file.keys())  # noqa: SIM118
        return ScalesFile(path, tuple(layers), lineage_of(file.metadata() or {}, path))


def weight_changes(adapter: ScalesFile, *, strength: float = 1.0) -> dict[str, WeightChange]:
    def scaled(layer: str) -> WeightChange:
        return lambda weight: (strength * adapter.scales(layer)).exp()[:, None] * weight

    return {layer: scaled(layer) for layer in adapter.layers}


ROW = AdapterKind(
    name="scales",
    settings=ScalesConfig,
    file="scales.safetensors",
    read=read,
    attach=attach,
    detach=detach,
    save=save,
    weight_changes=weight_changes,
    describe=lambda adapter: [f"neurons: {sum(map(len, map(adapter.scales, adapter.layers)))}"],
)


def moved(path: Path) -> None:
    """Scales that change an image for certain."""
    with opened(path) as file:
        metadata = file.metadata()
    tensors = {name: t + 0.5 for name, t in safetensors.torch.load_file(path).items()}
    write_safetensors(path, given(tensors), metadata=metadata)
