"""The kind "mixture": read, applied, described, and written as the LoRA that is nearest to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from selma.adapters import formats
from selma.adapters.files import Lineage
from selma.adapters.kind import AdapterKind, spread
from selma.adapters.mixtures.files import FILE, MixtureFile, is_mixture, read, require_fit
from selma.adapters.mixtures.mixing import mixed
from selma.adapters.models import read_model
from selma.adapters.reading import LayerFile
from selma.backbones.text_to_image import TextToImage
from selma.config.adapters import MixtureSettings
from selma.errors import AdapterError


@contextmanager
def apply(
    model: TextToImage, adapter: MixtureFile, *, strength: float = 1.0, options: None = None
) -> Iterator[None]:
    """While the block runs, each layer adds what its gate makes of the experts, times the strength.

    It is added to what the layer's weight gives, which other adapters may have changed.
    """
    with mixed(model.pipe, adapter.mixture, strength=strength):
        yield


def convert(source: Path, out: Path, *, to: str, base: str | None = None) -> list[Path]:
    """The files written: the LoRA that the mixture is with each gate at its mean over the training
    prompts. Its rank is the sum of the experts'. Raises AdapterError if no mean was measured."""
    model = None if base is None else read_model(base)
    file = read(source)
    if model is not None:
        require_fit(file, model.layers, source)
    if not file.measured:
        raise AdapterError(
            f"{source} must hold its gates' means to become a LoRA, but is a checkpoint without "
            "them. Finish its run first: `selma merge CONFIG`."
        )
    lineage = Lineage(file.lineage.base, {**file.lineage.made_by, "gates": "at their means"})
    layers = {key: _layer(file, key) for key in file.layers}
    adapter = formats.Adapter(layers, file.averaged, lineage, file.notes)
    return formats.write(out, adapter, to=to, model=model)


def _layer(file: MixtureFile, key: str) -> LayerFile:
    rank = file.ranks[key]
    return LayerFile(
        path=file.path,
        a="",
        b="",
        shape=file.layers[key],
        kernel=None,
        rank=rank,
        alpha=float(rank),
        dtypes=(torch.float32, torch.float32),
    )


def describe(file: MixtureFile) -> list[str]:
    """Its experts, their ranks, and the gates with what they chose on the training prompts."""
    ranks = torch.stack([file.give(key).ranks for key in file.layers])
    lines = [f"gates: one for each {'token' if file.gate == 'token' else 'sample'}"]
    for number, name in enumerate(file.experts):
        line = f"expert {name}: rank {spread(ranks[:, number].tolist())}"
        if file.measured:
            shares = [float(file.mean_gate(key)[number]) for key in file.layers]
            mean = sum(shares) / len(shares)
            line += f", mean share {mean:.4f}, {min(shares):.4f} to {max(shares):.4f} by layer"
        lines.append(line)
    return lines


MIXTURE = AdapterKind(
    name="mixture",
    settings=MixtureSettings,
    file=FILE,
    read=read,
    recognizes=is_mixture,
    apply=apply,
    require_fit=require_fit,
    convert=convert,
    describe=describe,
)
