"""Released checkpoints: read without running anything in them, and written as safetensors.

Pickles are opened by torch.load(weights_only=True) alone, which builds tensors and plain
containers and runs nothing; what wants more is refused. Every tensor must have its place and every
place its tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from selma.backbones.weights import Weights
from selma.errors import ModelError
from selma.plurals import counted
from selma.texts import kind_in_words

if TYPE_CHECKING:
    import torch

# What checkpoints wrap their tensors in.
_WRAPPERS = ("state_dict", "model", "module")


class Checkpoint(NamedTuple):
    """A released checkpoint that becomes a folder."""

    kind: str
    """As in `scores.preferences`."""
    tensors: Mapping[str, torch.Tensor]
    source: Path
    """Its file."""
    config: Path | None
    """JSON of the network's shape, where it is not the released one."""
    tokenizer: Weights


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Name → tensor, of safetensors or of a pickle that holds nothing but tensors in plain
    containers. Raises ModelError."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"{path} must be a checkpoint, but there is no such file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # many kinds: forbidden or broken pickles, damaged archives
        said = str(error).strip().partition("\n")[0].rstrip(".")
        raise ModelError(
            f"{path} must hold tensors and nothing else, but cannot be read so "
            f"({type(error).__name__}: {said}). Pickles that would run code are never opened."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    if not isinstance(state, Mapping) or not state:
        raise ModelError(f"{path} must map names to tensors, but has {kind_in_words(state)}.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ModelError(f"{path} must map names to tensors, but {name!r} is none.")
    return dict(state)


def save_exactly(
    state: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    path: Path,
    *,
    what: str,
) -> None:
    """Write the tensors in the type that they came in. Raises ModelError unless their names and
    shapes are those that are wanted."""
    from safetensors.torch import save_file

    tensors = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    missing, extra = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    if missing or extra:
        raise ModelError(
            f"The checkpoint must hold exactly the tensors of {what}, but "
            f"{counted(len(missing), 'is', 'are')} missing "
            f"({', '.join(sorted(missing)[:1]) or 'none'}) and "
            f"{counted(len(extra), 'is', 'are')} left over "
            f"({', '.join(sorted(extra)[:1]) or 'none'})."
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ModelError(
                f"{what}: {name} must be {list(wanted[name].shape)}, but is {list(tensor.shape)}."
            )
    # Tensors that share memory are refused by safetensors; a clone never does.
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, path, {"format": "pt"})


def read_shape(path: Path) -> dict[str, Any]:
    """The settings of a network's shape. Raises ModelError."""
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} must be JSON, but cannot be read: {error}.") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path} must be a mapping of settings.")
    return settings
