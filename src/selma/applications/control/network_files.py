"""Control networks as files: branch or ControlNet, the adapter beside it, and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from selma.adapters import names
from selma.adapters.files import OUR_KEY, Lineage, as_json, given, lineage_json, write_safetensors
from selma.adapters.headers import header_json, lineage_of, opened, tensor_names
from selma.adapters.names import sorted_layers
from selma.adapters.replacing import replaced
from selma.adapters.rotations.files import ROLES, RotationFile, Turn, turn_of
from selma.adapters.rotations.oft import weight_changes
from selma.applications.control import networks
from selma.errors import AdapterError
from selma.texts import quoted

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage

FILE = "control.safetensors"
KEY = "selma_control"
NETWORK, ADAPTER = "control.", f"{names.UNET}."
VERSION = 1
MOST_HALVINGS = 8
"""Of an image's side by an autoencoder; those that are known halve it three to five times."""


@dataclass(frozen=True)
class ControlFile:
    """A control network's file."""

    path: Path
    about: Mapping[str, Any]
    """kind, condition, halvings, adapter (its settings, or None)."""
    network: Mapping[str, Tensor]
    adapter: Mapping[str, Tensor]
    """Parameter name in training, such as "<module>.oft_generator" → tensor; empty without an
    adapter."""
    lineage: Lineage

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return sum(t.numel() for part in (self.network, self.adapter) for t in part.values())

    @property
    def rotations(self) -> RotationFile | None:
        """The adapter as changes of weights, LoRA's included; None without an adapter."""
        layers: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.adapter.items():
            role = next((r for r in ROLES if name.endswith(f".{r}")), None)
            if role is None:
                raise AdapterError(f"{self.path}: {name} is no tensor of LoRA or OFT.")
            key = f"{names.UNET}.{name.removesuffix(f'.{role}')}"
            layers.setdefault(key, {})[role] = tensor.float()
        if not layers:
            return None

        def give(key: str) -> Turn:
            turn = turn_of(layers[key], path=self.path, key=key)
            if turn.low_rank is None:
                return turn
            a, b = turn.low_rank
            return Turn(low_rank=(a, self._scale(len(a)) * b))

        return RotationFile(self.path, "selma", sorted_layers(layers), give, self.lineage)

    def _scale(self, rank: int) -> float:
        alpha = (self.about["adapter"] or {}).get("alpha")
        return 1.0 if alpha is None else float(alpha) / rank


def save(
    path: Path,
    network: Mapping[str, Tensor],
    adapter: Mapping[str, Tensor],
    *,
    about: Mapping[str, Any],
    lineage: Lineage,
) -> None:
    """Write one file atomically; equal tensors give equal bytes."""
    tensors = {NETWORK + name: tensor for name, tensor in network.items()}
    tensors |= {ADAPTER + name: tensor for name, tensor in adapter.items()}
    metadata = {
        "format": "pt",
        OUR_KEY: lineage_json(lineage),
        KEY: as_json({"version": VERSION, **about}),
    }
    write_safetensors(path, given(tensors), metadata=metadata)


def load(path: Path) -> ControlFile:
    """Load the network in a file, or in a folder that holds `FILE`. Raises AdapterError."""
    path = path / FILE if path.is_dir() else path
    with opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in tensor_names(file, path)}
    about = {"adapter": None, **header_json(metadata, KEY, path)}
    if not _is_known(about):
        raise AdapterError(
            f"{path} must be a control network that selma wrote (control.safetensors), but its "
            f"header says {quoted(about)}."
        )
    return ControlFile(
        path=path,
        about=about,
        network=_part(tensors, NETWORK),
        adapter=_part(tensors, ADAPTER),
        lineage=lineage_of(metadata, path),
    )


def _is_known(about: Mapping[str, Any]) -> bool:
    halvings, adapter = about.get("halvings"), about["adapter"]
    return (
        about.get("version") == VERSION
        and about.get("kind") in ("branch", "controlnet")
        and isinstance(about.get("condition"), str)
        and type(halvings) is int
        and 0 <= halvings <= MOST_HALVINGS
        and (adapter is None or (isinstance(adapter, dict) and _is_scale(adapter.get("alpha"))))
    )


def _is_scale(alpha: Any) -> bool:
    return alpha is None or (type(alpha) in (int, float) and 0 < alpha < 1e6)


@contextmanager
def controlled(model: TextToImage, file: ControlFile) -> Iterator[networks.Conditioning]:
    """Condition the model while the block runs, on the images that the yielded `Conditioning` is
    shown. Afterwards the model is as before, bit for bit. Raises AdapterError if the file is of
    another model."""
    network = restored(model, file).to(model.device)
    conditioning = networks.Conditioning(network)
    rotations = file.rotations
    changes = {} if rotations is None else weight_changes(rotations)
    with replaced(model, [(file.path, changes)]), conditioning.within(model.denoiser):
        yield conditioning


def restored(model: TextToImage, file: ControlFile) -> nn.Module:
    """The network with the file's weights, frozen. Raises AdapterError."""
    if file.about["halvings"] != networks.halvings_of(model.pipe):
        raise AdapterError(
            f"{file.path} is for images {2 ** file.about['halvings']} times their latents, but "
            f"this base's are {model.pipe.vae_scale_factor} times. It was made for another model."
        )
    halvings = file.about["halvings"]
    network = networks.empty_network(file.about["kind"], model.denoiser, halvings=halvings)
    try:
        network.load_state_dict(dict(file.network))
    except RuntimeError as error:
        raise AdapterError(
            f"{file.path} does not fit this base: {str(error).splitlines()[-1].strip()} It was "
            "made for another model."
        ) from error
    return network.requires_grad_(False).eval()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
