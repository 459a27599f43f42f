"""A scorer's released checkpoint → a folder of safetensors that `load_preference` reads.

Pickles are opened by torch.load(weights_only=True) alone, which builds tensors and plain
containers and runs nothing; what wants more is refused. Every tensor must have its place and every
place its tensor.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.backbones.preference import imagereward, open_clip
from selma.backbones.preference.scorers import SCORERS
from selma.backbones.weights import Weights, load_tokenizer
from selma.errors import ModelError

if TYPE_CHECKING:
    import torch

# What checkpoints wrap their tensors in.
_WRAPPERS = ("state_dict", "model", "module")


def convert_weights(
    source: Path,
    out: Path,
    *,
    kind: str,
    tokenizer: str | None = None,
    config: Path | None = None,
) -> Path:
    """The folder `out`, with the network in safetensors and its tokenizer; whole or not at all.

    source: HPS_v2_compressed.pt, ImageReward.pt, or a pytorch_model.bin; safetensors with those
    names do as well. kind: as in `scores.preferences`. config: a JSON of the network's shape, where
    it is not the released one; for pickscore and clip None is config.json beside the source.
    Raises ModelError.
    """
    families = {name: row.family for name, row in SCORERS.items() if row.family is not None}
    if kind not in families:
        raise ModelError(f"kind must be one of {', '.join(families)}, but {kind!r} came.")
    if out.exists():
        raise ModelError(f"{out} must not be there yet. Remove it, or choose another folder.")
    state = read_state(source)
    words = Weights(tokenizer or families[kind].tokenizer or str(source.parent))
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        if kind == "imagereward":
            _write_imagereward(state, aside, config)
        else:
            _write_clip(state, aside, kind, config or source.with_name("config.json"))
        _write_tokenizer(words, aside, kind)
        os.replace(aside, out)
    except OSError as error:
        raise ModelError(f"{out} could not be written: {error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


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
        raise ModelError(
            f"{path} must hold tensors and nothing else, but cannot be read so: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__} "
            "Pickles that would run code are never opened."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    if not isinstance(state, Mapping) or not state:
        raise ModelError(f"{path} must map names to tensors, but is a {type(state).__name__}.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ModelError(f"{path} must map names to tensors, but {name!r} is none.")
    return dict(state)


def _write_clip(state: Mapping[str, torch.Tensor], folder: Path, kind: str, config: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel

    ours = kind.startswith("hps")
    settings = _settings(config) if config.is_file() else open_clip.vit_h_14() if ours else None
    if settings is None:
        raise ModelError(f"A checkpoint of kind {kind} needs its {config}, which is not there.")
    if ours:
        state = open_clip.to_transformers(state)
    shape = CLIPConfig(**settings)
    with torch.device("meta"):
        wanted = CLIPModel(shape).state_dict()
    _save(state, wanted, folder / "model.safetensors", what=kind)
    shape.save_pretrained(folder)


def _write_imagereward(
    state: Mapping[str, torch.Tensor], folder: Path, config: Path | None
) -> None:
    import torch
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    settings = _settings(config) if config else imagereward.shape()
    tensors = imagereward.parts(state)
    vision = BlipVisionConfig(**settings["vision"])
    text = BlipTextConfig(**settings["text"])
    with torch.device("meta"):
        wanted = {
            "vision": BlipVisionModel(vision).state_dict(),
            "text": BlipTextModel(text, add_pooling_layer=False).state_dict(),
            "head": imagereward.empty_head(text.hidden_size).state_dict(),
        }
    for part, shape in (("vision", vision), ("text", text)):
        (folder / part).mkdir()
        _save(tensors[part], wanted[part], folder / part / "model.safetensors", what=part)
        shape.save_pretrained(folder / part)
    _save(tensors["head"], wanted["head"], folder / imagereward.HEAD, what="head")


def _write_tokenizer(words: Weights, folder: Path, kind: str) -> None:
    from transformers import BertTokenizer, CLIPTokenizer

    tokenizer = load_tokenizer(BertTokenizer if kind == "imagereward" else CLIPTokenizer, words)
    tokenizer.save_pretrained(folder)


def _save(
    state: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    path: Path,
    *,
    what: str,
) -> None:
    """Writes the tensors in the type that they came in, if their names and shapes are those that
    are wanted."""
    from safetensors.torch import save_file

    tensors = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    missing, extra = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    if missing or extra:
        raise ModelError(
            f"The checkpoint must hold exactly the tensors of {what}, but {len(missing)} are "
            f"missing ({', '.join(sorted(missing)[:1]) or 'none'}) and {len(extra)} are left over "
            f"({', '.join(sorted(extra)[:1]) or 'none'})."
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ModelError(
                f"{what}: {name} must be {list(wanted[name].shape)}, but is {list(tensor.shape)}."
            )
    # Tensors that share memory are refused by safetensors; a clone never does.
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, path, {"format": "pt"})


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} must be JSON, but cannot be read: {error}.") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path} must be a mapping of settings.")
    return settings
