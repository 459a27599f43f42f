"""The SUR-adapter's training: its three losses, in the one loop of `experts.training`."""

from __future__ import annotations

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
from selma.applications.sur.encoding import SKILL, EncodedSamples, as_pairs, encode_samples
from selma.applications.sur.losses import divergences, over_tokens, token_mean
from selma.applications.sur.records import SurSample, TrainedSur
from selma.applications.sur.settings import Distance, SurSettings
from selma.backbones.language.vectors import vectors_identity
from selma.config.networks import BaseConfig
from selma.errors import DataError
from selma.experts.batches import training_batches
from selma.experts.learners import plain_attention
from selma.experts.objectives.denoising import denoising_loss
from selma.experts.recipes import encoding_recipe, image_digests, training_recipe
from selma.experts.running import train_item
from selma.randomness import seed_for
from selma.workspace import EXPERTS, Workspace, recipe_key

if TYPE_CHECKING:
    from selma.backbones.families.conditioning import Conditioning
    from selma.backbones.families.paths import NoisePath
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch, Batches

VARIANTS = f"{SKILL}-variants"


def train_sur(
    samples: Sequence[SurSample],
    config: SurSettings,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
    variants: bool = False,
) -> TrainedSur:
    """The trained adapter in `3-experts/_sur`; resumable as experts are. `model` is called only if
    it is missing.

    With `variants` it lies in `3-experts/_sur-variants` by its recipe's key, unless it is the one
    in `_sur`: those with other settings stay. Raises TrainingDiverged, with the last checkpoint
    kept.
    """
    if not samples:
        raise DataError("The SUR-adapter needs at least one sample, but there is none.")
    digests = image_digests(as_pairs(samples))
    recipe = sur_recipe(samples, digests, config, base=base, seed=seed)
    names: tuple[str, ...] = (SKILL,)
    item = folder.item(EXPERTS, *names, recipe=recipe)
    if variants and not item.done:
        names = (VARIANTS, recipe_key(recipe))
        item = folder.item(EXPERTS, *names, recipe=recipe)

    def learner() -> SurLearner:
        data = encode_samples(
            samples,
            folder,
            llm=config.llm,
            flip=config.training.flip,
            digests=digests,
            recipe=encoding_recipe(recipe, flip=config.training.flip),
            model=model,
        )
        return SurLearner(model(), data, config, seed)

    train_item(
        item,
        learner,
        config.training,
        folder,
        title=SKILL,
        names=[sample.id for sample in samples],
        made_by={"skill": SKILL},
        journal={"skill": "/".join(names)},
    )
    return TrainedSur(folder=item.path, key=item.key)


def sur_recipe(
    samples: Sequence[SurSample],
    digests: Sequence[str],
    config: SurSettings,
    *,
    base: BaseConfig,
    seed: int,
) -> dict[str, Any]:
    """All that the adapter's weights depend on."""
    rows = [[t.text, t.prompt, digest] for t, digest in zip(samples, digests, strict=True)]
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
        adapter = sur.make(self.config.adapter, sur.widths_of(self.model), seed=seed)
        return adapter.to(self.model.device).train()

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


@dataclass(frozen=True)
class SurLearner:
    """The adapter's three losses on encoded samples."""

    model: TextToImage
    data: EncodedSamples
    config: SurSettings
    seed: int

    @cached_property
    def weights(self) -> SurWeights:
        return SurWeights(self.model, self.data, self.config, self.seed)

    @cached_property
    def batches(self) -> Batches:
        return training_batches(
            self.data.captions,
            self.config.training,
            skill=SKILL,
            seed=self.seed,
            train_timesteps=self.model.noise_path().steps,
        )

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        losses = self.config.losses
        samples = self.data.captions.samples(batch).to(self.model.device)
        adapted = self._adapted(samples.conditioning, batch, step=step)
        features = adapted if losses.denoising.gradient else _without_gradient(adapted)
        conditioning = replace(samples.conditioning, text=features.text, pooled=features.pooled)
        conditioned = replace(samples, conditioning=conditioning)
        # An empty prompt has nothing to be taught but how to denoise.
        with_text = (~batch.dropped).float().to(self.model.device)
        parts = {
            "denoising": denoising_loss(self.model, conditioned, batch, noise_path),
            "distillation": with_text * self._distillation(adapted, batch),
            "alignment": with_text * self._alignment(adapted, batch),
        }
        weights = {name: getattr(losses, name).weight for name in parts}
        return {"loss": sum((weights[n] * p for n, p in parts.items()), torch.tensor(0.0)), **parts}

    def _adapted(self, conditioning: Conditioning, batch: Batch, *, step: int) -> sur.Adapted:
        if self.config.adapter.form == "paper" or not self.config.adapter.dropout:
            return self.weights.adapter(conditioning.text, conditioning.pooled)
        # Dropout is a function of the step, so that a resumed run goes on as one never stopped.
        device = self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            which = batch.indices.tolist()
            torch.manual_seed(seed_for(self.seed, "experts", SKILL, "dropout", step, *which))
            return self.weights.adapter(conditioning.text, conditioning.pooled)

    def _distillation(self, adapted: sur.Adapted, batch: Batch) -> Tensor:
        """[b]: the language model's vector into each block's queries."""
        how, widths = self.config.losses.distillation, self.weights.adapter.widths.all
        vectors = self.data.vectors[batch.indices].to(self.model.device)
        with torch.autocast(self.model.device.type, enabled=False):
            targets = self.weights.projection(vectors).unsqueeze(1).split(widths, dim=-1)
        mask = self._mask(self.data.mask, batch, how)
        total = vectors.new_zeros(len(vectors))
        for target, queries in zip(targets, adapted.queries, strict=True):
            total = total + _distance(target, queries, mask, mask, how)
        return total

    def _alignment(self, adapted: sur.Adapted, batch: Batch) -> Tensor:
        """[b]: the keyword prompt's features into the adapted ones of the caption."""
        how, data, widths = self.config.losses.alignment, self.data, self.weights.adapter.widths
        i, device = batch.indices, self.model.device
        student_mask = self._mask(data.mask, batch, how)
        teacher_mask = self._mask(data.keyword_mask, batch, how)
        total = adapted.text.new_zeros(len(i))
        keywords = data.keywords[i].to(device).split(widths.text, dim=-1)
        for target, features in zip(keywords, adapted.text.split(widths.text, dim=-1), strict=True):
            total = total + _distance(target, features, teacher_mask, student_mask, how)
        if data.keyword_pooled is not None and adapted.pooled is not None:
            target, features = data.keyword_pooled[i].to(device), adapted.pooled
            total = total + _distance(target.unsqueeze(1), features.unsqueeze(1), None, None, how)
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
        teacher = _pooled(teacher, teacher_mask)
        student = _pooled(student, student_mask)
    values = divergences(teacher, student, direction=how.direction, temperature=how.temperature)
    if values.shape[1] == 1:
        return values[:, 0]
    # Token by token, both must have one there; a single target is meant for each of the student's.
    both = student_mask
    if both is not None and teacher.shape[1] > 1 and teacher_mask is not None:
        both = both * teacher_mask
    return over_tokens(values, both, reduce=how.reduce)


def _pooled(features: Tensor, mask: Tensor | None) -> Tensor:
    return features if features.shape[1] == 1 else token_mean(features, mask)


def _without_gradient(adapted: sur.Adapted) -> sur.Adapted:
    """The same values without a gradient: as released, the denoiser's loss trains nothing."""
    pooled = None if adapted.pooled is None else adapted.pooled.detach()
    return replace(adapted, text=adapted.text.detach(), pooled=pooled)
