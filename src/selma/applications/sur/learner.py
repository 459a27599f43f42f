"""The SUR-adapter's losses on encoded samples, for the one loop of `experts.training`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selma.adapters.sur.network import Adapted, Changes
from selma.applications.sur.attending import attended, cross_attentions
from selma.applications.sur.content import content_weights
from selma.applications.sur.encoding import SKILL, EncodedSamples
from selma.applications.sur.losses import distance, similarity_gaps, token_mean
from selma.applications.sur.settings import SurLosses, SurSettings
from selma.applications.sur.weights import SurWeights
from selma.experts.batches import Batch, training_batches
from selma.experts.losses import denoising_losses
from selma.randomness import seed_for

if TYPE_CHECKING:
    from selma.backbones.families.conditioning import Conditioning
    from selma.backbones.families.paths import NoisePath
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batches


@dataclass(frozen=True)
class Scene:
    """A batch as the denoiser sees it, and the captions that belong to it."""

    noisy: Tensor
    timesteps: Tensor
    times: Tensor
    """What the denoiser is told of the timesteps."""
    target: Tensor
    """What the denoising loss wants to be predicted."""
    captions: Conditioning
    """The batch's own, of which some may be the empty one."""


@dataclass(frozen=True)
class SurLearner:
    """The adapter's losses on encoded samples."""

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
            model=self.model,
        )

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        losses = self.config.losses
        scene = self.scene(batch, noise_path)
        with self._chance(batch, step):
            references = self.weights.changes_of_references() if needs_references(self) else None
            captions = scene.captions
            adapted = self.weights.adapter(captions.text, captions.pooled, references=references)
        parts = {"distillation": self._distillation(adapted, references, batch)}
        wanted, attention = self._taught(scene, adapted, batch)
        if attention is not None:
            parts["alignment"] = attention
        elif losses.alignment.at == "text":
            parts["alignment"] = self._alignment(adapted, batch)
        if losses.teacher.weight or losses.denoising.weight:
            prediction = self._predicted(scene, adapted)
            denoising = denoising_losses(prediction, scene.target)
            # As released, it trains nothing.
            parts["denoising"] = denoising if losses.denoising.gradient else denoising.detach()
            if wanted is not None and losses.teacher.weight:
                gaps = denoising_losses(prediction, wanted)
                parts["teacher"] = self._content[scene.timesteps] * gaps
        # An empty prompt has nothing to be taught but how to denoise.
        with_text = (~batch.dropped).float().to(self.model.device)
        parts = {n: p if n == "denoising" else with_text * p for n, p in parts.items()}
        return {"loss": _total(parts, losses), **parts}

    def scene(self, batch: Batch, noise_path: NoisePath) -> Scene:
        """The batch's latents with its noise."""
        model = self.model
        samples = self.data.captions.samples(batch).to(model.device)
        x0 = model.family.normalised(samples.latents, model.pipe.vae)
        noise, timesteps = batch.noise.to(model.device), batch.timesteps.to(model.device)
        noisy = noise_path.noisy(x0, noise, timesteps).to(model.dtype)
        target = noise_path.target(x0, noise, timesteps)
        times = noise_path.times(timesteps)
        return Scene(noisy, timesteps, times, target, samples.conditioning)

    def keywords(self, scene: Scene, batch: Batch) -> Conditioning:
        """The batch's keyword prompts in place of its captions."""
        data, device = self.data, self.model.device
        pooled = None if data.keyword_pooled is None else data.keyword_pooled[batch.indices]
        return replace(
            scene.captions,
            text=data.keywords[batch.indices].to(device),
            pooled=None if pooled is None else pooled.to(device),
        )

    def predict(self, scene: Scene, conditioning: Conditioning) -> Tensor:
        """What the base predicts of a scene, whatever it is told."""
        model = self.model
        return model.family.denoise(
            model.denoiser, scene.noisy, scene.times, conditioning.to(model.dtype)
        )

    @cached_property
    def _content(self) -> Tensor:
        """[timesteps], what each counts for the teacher."""
        return content_weights(self)

    @cached_property
    def _layers(self) -> list[nn.Module]:
        """Those whose outputs are aligned."""
        alignment = self.config.losses.alignment
        aligned = alignment.at == "attention" and alignment.weight > 0
        return cross_attentions(self.model.denoiser) if aligned else []

    @contextmanager
    def _chance(self, batch: Batch, step: int) -> Iterator[None]:
        """Where dropout is a function of the step, so that a resumed run goes on as one that never
        stopped."""
        adapter, device = self.config.adapter, self.model.device
        if adapter.form == "paper" or not adapter.dropout:
            yield
            return
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            which = batch.indices.tolist()
            torch.manual_seed(seed_for(self.seed, "experts", SKILL, "dropout", step, *which))
            yield

    def _taught(
        self, scene: Scene, adapted: Adapted, batch: Batch
    ) -> tuple[Tensor | None, Tensor | None]:
        """What the base predicts by the keyword prompts, and how far its attention to the adapted
        captions is from that to these, [b]; None for what no loss asks for."""
        if not self.config.losses.teacher.weight and not self._layers:
            return None, None
        with torch.no_grad(), attended(self._layers, adapted.text) as gaps:
            wanted = self.predict(scene, self.keywords(scene, batch))
        return wanted, torch.stack(gaps).mean(dim=0) if gaps else None

    def _predicted(self, scene: Scene, adapted: Adapted) -> Tensor:
        losses = self.config.losses
        trained = losses.denoising.gradient or losses.teacher.weight > 0
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            told = replace(scene.captions, text=adapted.text, pooled=adapted.pooled)
            return self.predict(scene, told)

    def _distillation(self, adapted: Adapted, references: Changes | None, batch: Batch) -> Tensor:
        """[b]: what the language model's vectors teach each block's queries."""
        how, device = self.config.losses.distillation, self.model.device
        vectors, mask = self.data.vectors[batch.indices].to(device), self._mask(batch)
        total = vectors.new_zeros(len(vectors))
        if how.match == "similarities":
            if references is None:
                return total
            others = self.weights.references
            known, known_mask = self.data.vectors[others], self.data.mask[others].to(device)
            for queries, known_queries in zip(adapted.queries, references.queries, strict=True):
                student = token_mean(queries, mask)[:, 0]
                student_others = token_mean(known_queries, known_mask)[:, 0]
                total += similarity_gaps(vectors, student, known.to(device), student_others)
            return total
        with torch.autocast(device.type, enabled=False):
            targets = self.weights.projection(vectors).unsqueeze(1)
        masked = mask if how.padding == "masked" else None
        widths = self.weights.adapter.widths.all
        for target, queries in zip(targets.split(widths, dim=-1), adapted.queries, strict=True):
            total = total + distance(target, queries, masked, masked, how)
        return total

    def _alignment(self, adapted: Adapted, batch: Batch) -> Tensor:
        """[b]: the keyword prompt's features into the adapted ones of the caption."""
        how, data, widths = self.config.losses.alignment, self.data, self.weights.adapter.widths
        i, device = batch.indices, self.model.device
        masked = how.padding == "masked"
        teacher_mask = data.keyword_mask[i].to(device) if masked else None
        student_mask = self._mask(batch) if masked else None
        total = adapted.text.new_zeros(len(i))
        keywords = data.keywords[i].to(device).split(widths.text, dim=-1)
        for target, features in zip(keywords, adapted.text.split(widths.text, dim=-1), strict=True):
            total = total + distance(target, features, teacher_mask, student_mask, how)
        if data.keyword_pooled is not None and adapted.pooled is not None:
            target, features = data.keyword_pooled[i].to(device), adapted.pooled
            total = total + distance(target.unsqueeze(1), features.unsqueeze(1), None, None, how)
        return total

    def _mask(self, batch: Batch) -> Tensor:
        return self.data.mask[batch.indices].to(self.model.device)


def needs_references(learner: SurLearner) -> bool:
    """Whether a loss or the adapter asks what is common to all captions."""
    distillation = learner.config.losses.distillation
    matched = distillation.match == "similarities" and distillation.weight > 0
    return learner.config.adapter.centred or matched


def _total(parts: Mapping[str, Tensor], losses: SurLosses) -> Tensor:
    """[b], the losses by their weights."""
    total = torch.zeros_like(parts["distillation"])
    for name, part in parts.items():
        total = total + getattr(losses, name).weight * part
    return total
