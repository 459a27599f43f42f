"""LPIPS, the perceptual distance (arXiv:1801.03924): how far apart two images look.

The features of five layers of AlexNet or VGG-16, each position's vector scaled to length one; their
squared differences, weighted by learned heads, summed over channels, averaged over positions and
summed over layers. Heads are never negative, so that this is the squared distance between two long
vectors, which each image has by itself. Written out because the packages need torchvision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from selma.backbones.hub import find_device, folder_digest
from selma.backbones.judges.toybox import pixels
from selma.backbones.perception.features import TOYBOX
from selma.backbones.perception.likeness import toybox_encoder
from selma.backbones.preference.checkpoints import read_state
from selma.backbones.preference.preprocessing import to_tensor
from selma.backbones.weights import Weights
from selma.config.networks import FeatureNetwork
from selma.disk import folder_written
from selma.errors import ModelError
from selma.paths import AnyPath, as_path

if TYPE_CHECKING:
    import torch

FILE = "lpips.safetensors"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""What the authors' program does to pixels in [-1, 1]."""
TINY = 1e-10

# Number of each convolution in torchvision's `features` → stride and padding; then after which of
# them a layer is read, and before which the maps are made smaller (pooling's side and stride).
ALEX = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
ALEX_READ, ALEX_POOLED, ALEX_POOL = (0, 3, 6, 8, 10), (3, 6), (3, 2)
VGG = dict.fromkeys((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (1, 1))
VGG_READ, VGG_POOLED, VGG_POOL = (2, 7, 14, 21, 28), (5, 10, 17, 24), (2, 2)
NETWORKS: dict[str, Any] = {
    "alex": (ALEX, ALEX_READ, ALEX_POOLED, ALEX_POOL),
    "vgg": (VGG, VGG_READ, VGG_POOLED, VGG_POOL),
}


class Perception(Protocol):
    """What two images are compared by."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def of_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """[n, d] float32: LPIPS is the squared distance of two rows. All images have one size."""
        ...


def load_perception(config: FeatureNetwork, *, setting: str) -> Perception:
    """LPIPS by the given weights, or its formula by toybox's own encoder. Raises ModelError."""
    return ToyboxPerception() if config.model == TOYBOX else Lpips(config, setting=setting)


def distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """[n, m] between the rows of [n, d] and [m, d]."""
    import torch

    # Differences first: a product would lose the digits of images that look alike.
    return torch.stack([(second - row).square().sum(dim=1) for row in first])


class Lpips:
    """AlexNet or VGG-16 with the heads of version 0.1; which of them the tensors tell."""

    def __init__(self, config: FeatureNetwork, *, setting: str) -> None:
        self._device, self._setting = config.device, setting
        self._files = Weights(config.model, config.revision)
        self.name = f"LPIPS ({self._files.label})"

    @cached_property
    def fingerprint(self) -> str:
        return f"lpips {self._files.fingerprint}"[:22]

    @cached_property
    def _tensors(self) -> dict[str, torch.Tensor]:
        path = self._files.file(FILE)
        if path is None:
            raise ModelError(
                f"{self._files.name} must hold {FILE}, but has none. Make one of torchvision's "
                "AlexNet and LPIPS's heads with `selma subjects lpips`."
            )
        device = find_device(self._device, setting=f"{self._setting}.device")
        state = read_state(path)
        require_whole(state, of=path)
        return {name: tensor.float().to(device) for name, tensor in state.items()}

    def of_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        import torch

        tensors = self._tensors
        device = tensors["features.0.weight"].device
        shift, scale = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
        rows = []
        with torch.inference_mode():
            for image in images:  # one by one: no neighbour moves the last digits
                x = 2 * to_tensor(image).unsqueeze(0).to(device) - 1
                layers = _layers((x - shift) / scale, tensors)
                weights = (tensors[f"lin{n}.model.1.weight"].flatten() for n in range(5))
                rows.append(_row(zip(layers, weights, strict=True)).cpu())
        return torch.cat(rows)


class ToyboxPerception:
    """LPIPS's formula over the blocks of toybox-a's image encoder, all channels weighing the
    same: its "baseline" without learned heads, and no number that others' LPIPS compares with."""

    name = "LPIPS's formula over toybox-a's image encoder"

    @cached_property
    def fingerprint(self) -> str:
        from selma.toybox import weights_folder

        return f"lpips {folder_digest(weights_folder() / 'judge-a')}"[:22]

    @cached_property
    def _blocks(self) -> Any:
        return toybox_encoder("a")

    def of_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        import torch

        def layers(x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for block in self._blocks:
                x = block(x)
                yield x, torch.ones(x.shape[1])

        with torch.inference_mode():
            return torch.cat([_row(layers(pixels([image]))) for image in images])


def convert_lpips(backbone: AnyPath, heads: AnyPath, out: AnyPath) -> Path:
    """The folder `out` with one safetensors file of both: torchvision's weights of AlexNet or
    VGG-16 and the heads that come with the lpips package. Nothing in them is run. Raises
    ModelError."""
    backbone, heads, out = as_path(backbone), as_path(heads), as_path(out)
    if out.exists():
        raise ModelError(f"{out} must not be there yet. Remove it, or choose another folder.")
    from safetensors.torch import save_file

    tensors = {**read_state(backbone), **read_state(heads)}
    state = {
        name: tensor.float().contiguous()
        for name, tensor in tensors.items()
        if re.fullmatch(r"features\.\d+\.(weight|bias)|lin\d\.model\.1\.weight", name)
    }
    require_whole(state, of=f"{backbone} and {heads}")
    with folder_written(out) as folder:
        save_file(state, folder / FILE)
    return out


def require_whole(state: Mapping[str, torch.Tensor], *, of: object) -> None:
    """Raises ModelError unless these are all tensors of one of the networks and its heads."""
    convolutions, read, *_ = NETWORKS[_which(state)]
    wanted = {f"features.{n}.{part}" for n in convolutions for part in ("weight", "bias")}
    wanted |= {f"lin{n}.model.1.weight" for n in range(5)}
    if wrong := sorted(wanted ^ state.keys()):
        raise ModelError(
            f"{of} must hold AlexNet's or VGG-16's convolutions and five heads, but {wrong[0]} is "
            f"missing or left over ({len(wrong)} in all)."
        )
    for n, layer in enumerate(read):
        head, width = state[f"lin{n}.model.1.weight"], len(state[f"features.{layer}.weight"])
        if head.numel() != width or head.min() < 0:
            raise ModelError(
                f"{of}: head {n} must have {width} weights, none below 0, but has {head.numel()}, "
                f"the least {float(head.min()):.3g}."
            )


def _which(state: Mapping[str, Any]) -> str:
    return "vgg" if "features.28.weight" in state else "alex"


def _layers(x: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """The five layers' maps [1, c, h, w]."""
    import torch.nn.functional as F

    convolutions, read, pooled, (side, stride) = NETWORKS[_which(tensors)]
    for number, (step, padding) in convolutions.items():
        if number in pooled:
            x = F.max_pool2d(x, side, stride)
        weight, bias = (tensors[f"features.{number}.{part}"] for part in ("weight", "bias"))
        x = F.relu(F.conv2d(x, weight, bias, stride=step, padding=padding))
        if number in read:
            yield x


def _row(layers: Any) -> torch.Tensor:
    """[1, d] of maps with their heads: unit vectors times the root of head over positions."""
    import torch

    parts = []
    for maps, head in layers:
        unit = maps / (maps.square().sum(dim=1, keepdim=True).sqrt() + TINY)
        positions = maps.shape[2] * maps.shape[3]
        parts.append((unit * (head.view(1, -1, 1, 1) / positions).sqrt()).flatten(1))
    return torch.cat(parts, dim=1)
