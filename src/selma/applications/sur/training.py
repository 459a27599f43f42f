"""The SUR-adapter's training: its three losses, in the one loop of `experts.training`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from selma.adapters.files import Lineage
from selma.adapters.sur import files as sur_files
from selma.adapters.sur import network as sur
from selma.adapters.sur.projection import as_tensors, projection
from selma.applications.sur.encoding import SKILL, EncodedTriples, as_pairs, encode_triples
from selma.applications.sur.records import Triple, Understanding
from selma.applications.sur.settings import Distance, SurSettings
from selma.backbones.language.vectors import vectors_identity
from selma.config.networks import BaseConfig
from selma.errors import DataError
from selma.experts.finishing import finish
from selma.experts.learners import denoising, plain_attention
from selma.experts.losses import divergences, over_tokens, token_mean
from selma.experts.recipes import encoding_recipe, image_digests, training_recipe
from selma.experts.tracking import tracked
from selma.experts.training import fit
from selma.randomness import seed_for
from selma.workspace import EXPERTS, Workspace, recipe_key

if TYPE_CHECKING:
    from selma.backbones.families.conditioning import Conditioning
    from selma.backbones.families.paths import NoisePath
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch

VARIANTS = f"{SKILL}-variants"


def train_sur(
    triples: Sequence[Triple],
    config: SurSettings,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
    variants: bool = False,
) -> Understanding:
    """The trained adapter in `3-experts/_sur`; resumable as experts are. `model` is called only if
    it is missing.

    With `variants` it lies in `3-experts/_sur-variants` by its recipe's key, unless it is the one
    in `_sur`: those with other settings stay. Raises TrainingDiverged, with the last checkpoint
    kept.
    """
    if not triples:
        raise DataError("The SUR-adapter needs at least one triple, but there is none.")
    digests = image_digests(as_pairs(triples))
    recipe = sur_recipe(triples, digests, config, base=base, seed=seed)
    names: tuple[str, ...] = (SKILL,)
    item = folder.item(EXPERTS, *names, recipe=recipe)
    if variants and not item.done:
        names = (VARIANTS, recipe_key(recipe))
        item = folder.item(EXPERTS, *names, recipe=recipe)
    trained = Understanding(folder=item.path, key=item.key)
    if item.done:
        shutil.rmtree(item.path / "checkpoints", ignore_errors=True)  # if killed just before
        return trained
    path, started = item.begin(), time.monotonic()
    data = encode_triples(
        triples,
        folder,
        llm=config.llm,
        flip=config.training.flip,
        digests=digests,
        recipe=encoding_recipe(recipe, flip=config.training.flip),
        model=model,
    )
    with tracked(config.training, folder.root / "tracking", skill=SKILL) as on_step:
        fit(
            model(),
            data.narratives,
            config.training,
            path,
            skill=SKILL,
            seed=seed,
            made_by={"skill": SKILL, "key": item.key},
            on_step=on_step,
            names=[triple.id for triple in triples],
            learner=SurLearner(model(), data, config, seed),
        )
    finish(item, config.training, pairs=len(triples), scores={}, file=sur_files.FILE)
    folder.journal(EXPERTS, skill="/".join(names), seconds=round(time.monotonic() - started, 3))
    return trained


def sur_recipe(
    triples: Sequence[Triple],
    digests: Sequence[str],
    config: SurSettings,
    *,
    base: BaseConfig,
    seed: int,
) -> dict[str, Any]:
    """All that the adapter's weights depend on."""
    rows = [[t.text, t.prompt, digest] for t, digest in zip(triples, digests, strict=True)]
    without = {"tracker", "checkpoint_every"}
    return {
        **training_recipe(rows, base=base, seed=seed),
        "adapter": config.adapter.model_dump(mode="json"),
        "losses": config.losses.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json", exclude=without),
        "vectors": vectors_identity(config.llm),
        "projection": config.llm.projection,
    }


@dataclass(frozen=True)
class SurLearner:
    """What the loop trains: the adapter and, if it is learned, the projection beside it."""

    model: TextToImage
    data: EncodedTriples
    config: SurSettings
    seed: int
    file: str = sur_files.FILE

    @cached_property
    def adapter(self) -> sur.SurAdapter:
        seed = seed_for(self.seed, "experts", SKILL, "init")
        made = sur.make(self.config.adapter, sur.widths_of(self.model), seed=seed)
        return made.to(self.model.device).train()

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

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        losses = self.config.losses
        samples = self.data.narratives.samples(batch).to(self.model.device)
        adapted = self._adapted(samples.conditioning, batch, step=step)
        seen = adapted if losses.denoising.gradient else _without_gradient(adapted)
        read = replace(samples.conditioning, text=seen.text, pooled=seen.pooled)
        read_samples = replace(samples, conditioning=read)
        # An empty prompt has nothing to be taught but how to denoise.
        told = (~batch.dropped).float().to(self.model.device)
        parts = {
            "denoising": denoising(self.model, read_samples, batch, noise_path),
            "distillation": told * self._distillation(adapted, batch),
            "alignment": told * self._alignment(adapted, batch),
        }
        weights = {name: getattr(losses, name).weight for name in parts}
        return {"loss": sum((weights[n] * p for n, p in parts.items()), torch.tensor(0.0)), **parts}

    def save(self, path: Path, parameters: Mapping[str, nn.Parameter], *, lineage: Lineage) -> None:
        llm = self.config.llm
        tensors = dict(self.adapter.state_dict())
        if llm.projection != "released":  # which forgets it, so that no one can go on with it
            kept = as_tensors(self.projection)
            tensors |= {sur_files.PROJECTION + name: tensor for name, tensor in kept.items()}
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
        """Nothing: any weights are an adapter."""

    def _adapted(self, conditioning: Conditioning, batch: Batch, *, step: int) -> sur.Adapted:
        if self.config.adapter.form == "paper" or not self.config.adapter.dropout:
            return self.adapter(conditioning.text, conditioning.pooled)
        # Dropout is a function of the step, so that a resumed run goes on as one never stopped.
        device = self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            which = batch.indices.tolist()
            torch.manual_seed(seed_for(self.seed, "experts", SKILL, "dropout", step, *which))
            return self.adapter(conditioning.text, conditioning.pooled)

    def _distillation(self, adapted: sur.Adapted, batch: Batch) -> Tensor:
        """[b]: the language model's vector into each block's queries."""
        how, widths = self.config.losses.distillation, self.adapter.widths.all
        vectors = self.data.vectors[batch.indices].to(self.model.device)
        with torch.autocast(self.model.device.type, enabled=False):
            targets = self.projection(vectors).unsqueeze(1).split(widths, dim=-1)
        mask = self._mask(self.data.mask, batch, how)
        total = vectors.new_zeros(len(vectors))
        for target, queries in zip(targets, adapted.queries, strict=True):
            total = total + _distance(target, queries, mask, mask, how)
        return total

    def _alignment(self, adapted: sur.Adapted, batch: Batch) -> Tensor:
        """[b]: the keyword prompt's features into the adapted ones of the narrative."""
        how, data, widths = self.config.losses.alignment, self.data, self.adapter.widths
        i, device = batch.indices, self.model.device
        mine = self._mask(data.mask, batch, how)
        theirs = self._mask(data.rich_mask, batch, how)
        total = adapted.text.new_zeros(len(i))
        rich = data.rich[i].to(device).split(widths.text, dim=-1)
        for target, made in zip(rich, adapted.text.split(widths.text, dim=-1), strict=True):
            total = total + _distance(target, made, theirs, mine, how)
        if data.rich_pooled is not None and adapted.pooled is not None:
            target, made = data.rich_pooled[i].to(device), adapted.pooled
            total = total + _distance(target.unsqueeze(1), made.unsqueeze(1), None, None, how)
        return total

    def _mask(self, mask: Tensor, batch: Batch, how: Distance) -> Tensor | None:
        return mask[batch.indices].to(self.model.device) if how.padding == "masked" else None


def _distance(
    teacher: Tensor,
    student: Tensor,
    teacher_mask: Tensor | None,
    student_mask: Tensor | None,
    how: Distance,
) -> Tensor:
    """[b] of features [b, tokens, width], of which the teacher's or both may have one token."""
    if how.tokens == "pooled":
        teacher = _one(teacher, teacher_mask)
        student = _one(student, student_mask)
    values = divergences(teacher, student, direction=how.direction, temperature=how.temperature)
    if values.shape[1] == 1:
        return values[:, 0]
    # Token by token, both must have one there; a single target is meant for each of the student's.
    both = student_mask
    if both is not None and teacher.shape[1] > 1 and teacher_mask is not None:
        both = both * teacher_mask
    return over_tokens(values, both, reduce=how.reduce)


def _one(features: Tensor, mask: Tensor | None) -> Tensor:
    return features if features.shape[1] == 1 else token_mean(features, mask)


def _without_gradient(adapted: sur.Adapted) -> sur.Adapted:
    """As released: the denoiser is handed a copy, so that its loss trains nothing."""
    pooled = None if adapted.pooled is None else adapted.pooled.detach()
    return replace(adapted, text=adapted.text.detach(), pooled=pooled)
