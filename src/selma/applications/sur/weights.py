"""What is trained: the SUR-adapter and, if it is learned, the projection beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selma.adapters.files import Lineage
from selma.adapters.sur import files as sur_files
from selma.adapters.sur import network as sur
from selma.adapters.sur.projection import as_tensors, projection
from selma.applications.sur.encoding import SKILL, EncodedSamples
from selma.applications.sur.settings import SurSettings
from selma.backbones.language.vectors import vectors_identity
from selma.experts.learners import plain_attention
from selma.randomness import seed_for
from selma.records.benchmarks import spaced

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage

REFERENCES = 32
"""Captions that stand for all: a mean over them is off by less than a fifth of their spread."""


@dataclass(frozen=True)
class SurWeights:
    """What is trained: the adapter and, if it is learned, the projection beside it."""

    model: TextToImage
    data: EncodedSamples
    config: SurSettings
    seed: int
    file: str = sur_files.FILE

    @cached_property
    def adapter(self) -> sur.SurAdapter:
        seed = seed_for(self.seed, "experts", SKILL, "init")
        tokens = self.data.mask.shape[1]
        widths = sur.widths_of(self.model)
        adapter = sur.make(self.config.adapter, widths, tokens=tokens, seed=seed)
        return adapter.to(self.model.device).train()

    @cached_property
    def references(self) -> Tensor:
        """[r], captions spread evenly over the samples: what is common to all is told from them, so
        that no sample alters another of its batch."""
        return torch.tensor(spaced(range(len(self.data.captions)), REFERENCES))

    def changes_of_references(self) -> sur.Changes:
        """What the adapter makes of the reference captions."""
        conditioning, device = self.data.captions.conditioning, self.model.device
        text, pooled = conditioning.text[self.references], conditioning.pooled
        return self.adapter.changes(
            text.to(device), None if pooled is None else pooled[self.references].to(device)
        )

    @cached_property
    def projection(self) -> nn.Linear:
        """From the language model's vectors to all blocks' widths, side by side."""
        width = sum(self.adapter.widths.all)
        seed = seed_for(self.seed, "experts", SKILL, "projection")
        kind = self.config.llm.projection
        return projection(kind, self.data.vectors, width, seed=seed).to(self.model.device)

    @contextmanager
    def attached(self) -> Iterator[dict[str, nn.Parameter]]:
        named = dict(self.adapter.named_parameters())
        for name, parameter in self.projection.named_parameters():
            if parameter.requires_grad:
                named[sur_files.PROJECTION + name] = parameter
        with plain_attention(self.model, self.config.training):
            yield dict(sorted(named.items()))

    def save(self, path: Path, parameters: Mapping[str, nn.Parameter], *, lineage: Lineage) -> None:
        llm = self.config.llm
        if self.config.adapter.centred:
            with torch.no_grad():
                self.adapter.centre(self.changes_of_references())
        tensors = dict(self.adapter.state_dict())
        if llm.projection != "released":  # which forgets it, so that no one can go on with it
            projected = as_tensors(self.projection)
            tensors |= {sur_files.PROJECTION + name: tensor for name, tensor in projected.items()}
        sur_files.save(
            path,
            tensors,
            self.config.adapter,
            self.adapter.widths,
            lineage=lineage,
            settings={
                "vectors": vectors_identity(llm),
                "projection": llm.projection,
                "losses": self.config.losses.model_dump(mode="json"),
            },
        )

    def read(self, path: Path) -> Mapping[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(path)

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Do nothing: any weights are an adapter."""

    def energies(self, path: Path) -> None:
        """None: it does not rotate the denoiser's weights."""
