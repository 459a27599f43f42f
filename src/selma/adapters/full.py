"""Full fine-tuning: no adapter, all of the denoiser's weights themselves, as one safetensors file.

The file has diffusers' own name and the denoiser's own tensor names. So it takes the place of
`unet/diffusion_pytorch_model.safetensors` in the base's folder, or is loaded by
`pipe.unet.load_state_dict(safetensors.torch.load_file(path))`; selma applies it as an adapter, at
any strength, but alone. It cannot be merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from selma.adapters.files import OUR_KEY, Lineage, given, lineage_json, write_safetensors
from selma.adapters.folders import SAFETENSORS, has_suffix
from selma.adapters.headers import lineage_of, opened, tensor_names
from selma.adapters.kind import AdapterKind, WeightChange
from selma.adapters.layers import Layers
from selma.backbones.text_to_image import FULL_FILE, TextToImage
from selma.config.adapters import FullConfig
from selma.errors import AdapterError, ConfigError

FULL_KEY = "selma_full"
"""In the header of a file that holds a whole denoiser."""

_BEFORE: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()
"""What a denoiser's weights were before they were trained, on the CPU."""


def attach(
    denoiser: Any,
    config: FullConfig,
    *,
    generator: torch.Generator,
    targets: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, nn.Parameter]:
    """The denoiser's own parameters by name, sorted. Raises ConfigError unless they are float32,
    since steps as small as training's are lost in half precision."""
    half = {parameter.dtype for parameter in denoiser.parameters()} - {torch.float32}
    if half:
        raise ConfigError(
            f"Full fine-tuning needs base.precision fp32, but the denoiser is {half.pop()}. Set it "
            "to fp32; training.precision may stay lower."
        )
    _BEFORE[denoiser] = {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in denoiser.named_parameters()
    }
    denoiser.requires_grad_(True)
    return dict(sorted(denoiser.named_parameters()))


def detach(denoiser: nn.Module) -> None:
    """The denoiser is what it was, bit for bit, and frozen."""
    before = _BEFORE.pop(denoiser, {})
    for name, value in before.items():
        parameter = denoiser.get_parameter(name)
        parameter.data.copy_(value)
        parameter.grad = None
    denoiser.requires_grad_(False)


def save(
    path: Path,
    factors: Mapping[str, nn.Parameter],
    config: FullConfig,
    *,
    lineage: Lineage,
    component: str = "unet",
) -> None:
    """Write the parameters; equal ones give equal bytes."""
    metadata = {"format": "pt", OUR_KEY: lineage_json(lineage), FULL_KEY: component}
    write_safetensors(path, given(dict(factors)), metadata=metadata)


@dataclass(frozen=True)
class FullFile:
    """A whole denoiser on disk, its header read."""

    kind: ClassVar[str] = "full"
    format: ClassVar[str] = "diffusers"
    merge_space: ClassVar[None] = None

    path: Path
    component: str
    """The part of the pipeline that it takes the place of."""
    layers: tuple[str, ...]
    """All parameters, biases among them, by our names."""
    lineage: Lineage


def is_full(path: Path) -> bool:
    """Whether a file is a whole denoiser that selma trained, by its header."""
    if not has_suffix(path, SAFETENSORS) or not path.is_file():
        return False
    with opened(path) as file:
        return FULL_KEY in (file.metadata() or {})


def read(source: Path, *, base: Layers | None = None) -> FullFile:
    """The file, or the one in a folder of ours. Raises AdapterError if it is damaged."""
    path = source / FULL_FILE if source.is_dir() else source
    with opened(path) as file:
        metadata = file.metadata() or {}
        component = metadata.get(FULL_KEY, "unet")
        layers = tuple(f"{component}.{name}" for name in tensor_names(file, path))
        return FullFile(path, component, layers, lineage_of(metadata, path))


@contextmanager
def apply(
    model: TextToImage, adapter: FullFile, *, strength: float = 1.0, options: None = None
) -> Iterator[None]:
    """While the block runs, the denoiser's parameters are those of the file, or with another
    strength s what lies on the line W + s (W' - W). Raises AdapterError if they do not fit
    exactly."""
    path = adapter.path
    mine = dict(model.denoiser.named_parameters())
    with opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in tensor_names(file, path)}
    for name in sorted(mine.keys() | tensors.keys()):
        if name not in mine or name not in tensors or mine[name].shape != tensors[name].shape:
            raise AdapterError(
                f"{path} must hold this model's denoiser whole, but {name} is missing, left over "
                "or of another shape. It was trained on another model."
            )
    if strength != 1.0:
        tensors = {
            name: torch.lerp(mine[name].detach().cpu().float(), value.float(), strength)
            for name, value in tensors.items()
        }
    parameters = {f"{model.family.component}.{name}": value for name, value in tensors.items()}
    with model.replaced({name: _always(value) for name, value in parameters.items()}):
        yield


def _always(value: Tensor) -> WeightChange:
    return lambda weight: value


def in_diffusers(adapter: FullFile, strength: float) -> list[str] | None:
    """Plain diffusers loads the weights themselves, in full strength alone."""
    if strength != 1:
        return None
    return [
        "from safetensors.torch import load_file",
        f"pipe.{adapter.component}.load_state_dict(load_file({str(adapter.path)!r}))",
    ]


FULL = AdapterKind(
    name="full",
    settings=FullConfig,
    file=FULL_FILE,
    read=read,
    recognizes=is_full,
    attach=attach,
    detach=detach,
    save=save,
    apply=apply,
    alone=True,
    in_diffusers=in_diffusers,
)
