"""OFT (arXiv:2306.07280) on a denoiser: attach, train, save, detach, apply.

Training turns a layer's input instead of its weight, x R before W, which is the same function. The
mathematics is `cayley`'s; the backward pass is written out, since Cayley's has a closed form that
needs no further system to be solved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selma.adapters import names
from selma.adapters.files import Lineage
from selma.adapters.kind import AdapterKind, WeightChange, autocast_kind, spread
from selma.adapters.rotations.cayley import drift, skew, triangle
from selma.adapters.rotations.energy import hyperspherical_energy
from selma.adapters.rotations.files import (
    MAGNITUDES,
    SKEW_ENTRIES,
    RotationFile,
    read_rotations,
    require_rotations_fit,
    turn_of,
    write_rotations,
)
from selma.adapters.rotations.foreign import convert_rotations, is_rotation, read_any_rotations
from selma.backbones.families.stable_diffusion import FAMILY
from selma.backbones.text_to_image import ROTATION_FILE
from selma.config.adapters import OftConfig, RotationConfig
from selma.errors import ConfigError
from selma.plurals import counted

Targets = Mapping[str, tuple[str, ...]]
"""A choice of layers → endings of their names."""
FEW_BLOCKS = 16
"""Up to here one product in place for each block beats a batched one, whose result is copied."""


def attach(
    denoiser: nn.Module,
    config: RotationConfig,
    *,
    generator: torch.Generator,
    targets: Targets = FAMILY.targets,
) -> dict[str, nn.Parameter]:
    """The trainable tensors by name ("<module>.oft_generator"), sorted; all else is frozen.

    They are float32 zeros, whatever the denoiser's type is, so that at first nothing changes;
    `generator` is not used. Raises ConfigError where blocks do not fill a layer.
    """
    denoiser.requires_grad_(False)
    tensors: dict[str, nn.Parameter] = {}
    for name, layer in turned_layers(denoiser, config, targets):
        blocks = config.blocks_of(layer.in_features)
        size = layer.in_features // blocks
        rows = 1 if config.share_blocks else blocks
        device = layer.weight.device
        entries = nn.Parameter(torch.zeros(rows, size * (size - 1) // 2, device=device))
        tensors[f"{name}.{SKEW_ENTRIES}"] = entries
        scales = None
        if config.magnitudes:
            scales = nn.Parameter(torch.zeros(layer.out_features, device=device))
            tensors[f"{name}.{MAGNITUDES}"] = scales
        # An instance's own forward: names, parameters and state of the denoiser stay as they are.
        layer.forward = _Turned(layer, entries, scales)  # type: ignore[assignment]
    return dict(sorted(tensors.items()))


def detach(denoiser: nn.Module) -> None:
    """Take whatever turns off; the denoiser is what it was."""
    for layer in denoiser.modules():
        if isinstance(vars(layer).get("forward"), _Turned):
            del layer.forward


@contextmanager
def switched_off(denoiser: nn.Module) -> Iterator[None]:
    """While the block runs, the denoiser predicts what it did before `attach`."""
    turned = {
        layer: layer.forward
        for layer in denoiser.modules()
        if isinstance(vars(layer).get("forward"), _Turned)
    }
    for layer in turned:
        del layer.forward
    try:
        yield
    finally:
        for layer, forward in turned.items():
            layer.forward = forward


def turned_layers(
    denoiser: nn.Module, config: RotationConfig, targets: Targets = FAMILY.targets
) -> Iterator[tuple[str, nn.Linear]]:
    """The layers that are turned, by their paths. Raises ConfigError if there are none."""
    endings = tuple(f".{ending}" for ending in targets.get(config.targets, ()))
    layers = [
        (name, layer)
        for name, layer in denoiser.named_modules()
        if name.endswith(endings) and isinstance(layer, nn.Linear)
    ]
    if not layers:
        raise ConfigError(
            f"experts.adapter turns layers of {config.targets}, but the denoiser has none."
        )
    yield from layers


def save(
    path: Path,
    factors: Mapping[str, nn.Parameter],
    config: RotationConfig,
    *,
    lineage: Lineage,
    component: str = names.UNET,
) -> None:
    """Write the tensors as our file; equal tensors give equal bytes."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, parameter in factors.items():
        module, _, role = name.rpartition(".")
        layers.setdefault(f"{component}.{module}", {})[role] = parameter.detach()
    turns = {key: turn_of(tensors, path=path, key=key) for key, tensors in layers.items()}
    write_rotations(path, turns, lineage=lineage, settings=config.model_dump(mode="json"))


def energies(denoiser: nn.Module, path: Path) -> dict[str, Any]:
    """Hyperspherical energy of each layer before and after, and of all of them together.

    A rotation leaves it as it was up to rounding; magnitudes, too, since it looks at directions.
    """
    file, layers = read_rotations(path), {}
    for key in file.layers:
        weight = denoiser.get_parameter(f"{names.split(key)[1]}.weight").detach().float()
        before = hyperspherical_energy(weight)
        after = hyperspherical_energy(file.turn(key).changed(weight, of=key))
        layers[names.split(key)[1]] = {"before": before, "after": after}
    total = {
        which: sum(energy[which] for energy in layers.values()) for which in ("before", "after")
    }
    return {"all": total, "layers": layers}


class _Turned:
    """The forward pass of a linear layer whose weight is D W Rᵀ."""

    def __init__(
        self, layer: nn.Linear, skew_entries: Tensor, log_magnitudes: Tensor | None = None
    ) -> None:
        self.layer, self.skew_entries, self.log_magnitudes = layer, skew_entries, log_magnitudes

    def __call__(self, x: Tensor) -> Tensor:
        layer, kind = self.layer, autocast_kind(x)
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))  # as the layer itself would
        rotated = _Rotated.apply(x, self.skew_entries)
        if self.log_magnitudes is None:
            return nn.functional.linear(rotated, layer.weight, layer.bias)
        y = nn.functional.linear(rotated, layer.weight)
        y = y * self.log_magnitudes.exp().to(y.dtype)
        return y if layer.bias is None else y + layer.bias.to(y.dtype)


def turned_by(x: Tensor, change: Tensor) -> Tensor:
    """x R = x + x (R - I), which keeps the digits of small rotations in half precision, too.

    x: [..., r b].  change: R - I, [r, b, b] or [1, b, b], in x's type.
    """
    rows, size = change.shape[0], change.shape[-1]
    flat = x.reshape(-1, x.shape[-1])
    if rows == 1:
        parts = flat.reshape(-1, size)
        return torch.addmm(parts, parts, change[0]).reshape(x.shape)
    if rows > FEW_BLOCKS:
        parts = _in_blocks(flat, change)
        return torch.baddbmm(parts, parts, change).transpose(0, 1).reshape(x.shape)
    result = flat.clone()
    for block in range(rows):
        here = slice(block * size, (block + 1) * size)
        result[:, here].addmm_(flat[:, here], change[block])
    return result.reshape(x.shape)


def _in_blocks(flat: Tensor, change: Tensor) -> Tensor:
    """[r, rows of x, b], without a copy."""
    return flat.unflatten(1, change.shape[:2]).transpose(0, 1)


class _Rotated(torch.autograd.Function):
    """x R of a skew matrix's upper triangle; keeps x and R - I for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, vector: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(autocast_kind(x), enabled=False):
            change = drift(skew(vector))
            ctx.save_for_backward(x, change)
            return turned_by(x, change.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, change = ctx.saved_tensors
        to_x = to_vector = None
        if ctx.needs_input_grad[0]:
            to_x = turned_by(gradient, change.mT.to(gradient.dtype))
        if ctx.needs_input_grad[1]:
            to_vector = _to_vector(_outer(x, gradient, change), change)
        return to_x, to_vector


def _outer(x: Tensor, gradient: Tensor, change: Tensor) -> Tensor:
    """xᵀ g of each block, in the change's shape and type: the loss's gradient by R."""
    width = change.shape[-1] if len(change) == 1 else x.shape[-1]
    parts = [_in_blocks(tensor.reshape(-1, width), change) for tensor in (x, gradient)]
    return torch.bmm(parts[0].mT, parts[1]).to(change.dtype)


def _to_vector(by_rotation: Tensor, change: Tensor) -> Tensor:
    """The gradient by S's triangle. With X = (I - S)⁻¹ = I + (R - I) / 2 the rotation's
    differential is 2 X dS X, so that the gradient by S is 2 Xᵀ G Xᵀ."""
    x = change.mT / 2 + torch.eye(change.shape[-1], dtype=change.dtype, device=change.device)
    by_skew = 2 * x @ by_rotation @ x
    return triangle(by_skew - by_skew.mT)


def weight_changes(adapter: RotationFile, *, strength: float = 1.0) -> dict[str, WeightChange]:
    """Layer → what the adapter makes of its weight; a rotation in any strength stays one."""
    return {key: _turning(adapter, key, strength) for key in adapter.layers}


def _turning(adapter: RotationFile, key: str, strength: float) -> WeightChange:
    def change(weight: Tensor) -> Tensor:
        turn = adapter.turn(key)
        turn.require_fit(tuple(weight.shape), of=f"{adapter.path}, {key}")
        return turn.scaled(strength).changed(weight, of=key)

    return change


def describe(adapter: RotationFile) -> list[str]:
    """Its blocks, what else it changes, and its settings."""
    turns = [adapter.turn(key) for key in adapter.layers]
    each = [turn.skew_entries if turn.mixture is None else turn.mixture for turn in turns]
    blocks = [block for block in each if block is not None]
    lines = []
    if blocks:
        sides = spread(turn.size for turn in turns if turn.size)
        lines += [
            f"blocks stored for a layer: {spread(len(block) for block in blocks)} of side {sides}"
        ]
    roles = Counter(role for turn in turns for role in turn.tensors)
    lines += [f"{role}: in {counted(count, 'layer')}" for role, count in sorted(roles.items())]
    lines += [f"numbers: {sum(t.numel() for turn in turns for t in turn.tensors.values())}"]
    return lines + [f"{key}: {value}" for key, value in sorted(adapter.about.items())]


OFT = AdapterKind(
    name="oft",
    settings=OftConfig,
    file=ROTATION_FILE,
    read=read_any_rotations,
    recognizes=is_rotation,
    attach=attach,
    detach=detach,
    switched_off=switched_off,
    save=save,
    energies=energies,
    weight_changes=weight_changes,
    require_fit=lambda adapter, base, who: require_rotations_fit(adapter, base.shapes, who=who),
    convert=convert_rotations,
    convert_options=frozenset({"coft_eps"}),
    describe=describe,
)
