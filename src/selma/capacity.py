"""Whether a run's work fits its device, told from shapes before a weight is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from selma.backbones.bases import guidance_of
from selma.backbones.hub import find_device
from selma.backbones.memory import (
    Computing,
    Need,
    Parts,
    encoding_need,
    generation_need,
    image_operations,
    parts_of,
)
from selma.config import RunConfig, require_settings
from selma.config.experts import ExpertsConfig
from selma.config.guides import GuideSettings
from selma.config.merged import MixtureConfig
from selma.config.networks import BaseConfig
from selma.config.rewards import RewardedObjective
from selma.errors import ModelError
from selma.experts.encoding import AT_ONCE
from selma.experts.memory import (
    advice,
    mixed_weights,
    mixture_need,
    rollout_need,
    sample_operations,
    training_need,
)
from selma.experts.optimizing import require_precision


@dataclass(frozen=True)
class Work:
    """One piece of work on the base: what it needs, and what to change if that is too much."""

    need: Callable[[Parts], Need]
    changes: Callable[[Parts, Need, int], Sequence[str]]
    """Of a need above the limit."""


def work_of_stages(config: RunConfig) -> list[Work]:
    """What the six stages do with the base."""
    mixture = config.merged.mixture
    return [
        work_of_generation(config),
        encoding(),
        *([] if config.rewarded is None else [own_images(config.experts, config.rewarded)]),
        training(config.experts),
        *([] if mixture is None else [training_mixture(config, mixture), mixed_images(config)]),
    ]


def work_of_generation(config: RunConfig) -> Work:
    """Generating by the settings of the six stages."""
    guidance = max(config.images.guidance, config.scores.guidance or 0)
    return generating(config.images.batch_size, guidance=guidance, setting="images.batch_size")


def work_of_drawing(config: RunConfig) -> Work:
    """Generating training images with another base, `images.base`."""
    base = config.images.base
    assert base is not None
    guidance = guidance_of(base) if base.guidance is None else base.guidance
    return generating(config.images.batch_size, guidance=guidance, setting="images.batch_size")


def generating(batch_size: int, *, guidance: float, setting: str) -> Work:
    """Generating a batch at once; `setting` names its size."""

    def changes(parts: Parts, need: Need, limit: int) -> list[str]:
        return [f"{setting}: {fewer}"] if (fewer := need.fits(limit)) else []

    def need(parts: Parts) -> Need:
        return generation_need(parts, batch_size, guided=parts.family.guided(guidance))

    return Work(need, changes)


def encoding() -> Work:
    """Encoding training images."""
    return Work(lambda parts: encoding_need(parts, AT_ONCE), lambda parts, need, limit: ())


def training(config: ExpertsConfig) -> Work:
    """Training an expert."""
    return Work(
        lambda parts: training_need(parts, config),
        lambda parts, need, limit: advice(parts, config, need, limit),
    )


def own_images(config: ExpertsConfig, objective: RewardedObjective) -> Work:
    """Generating the images that experts learn from by rewards."""

    def changes(parts: Parts, need: Need, limit: int) -> list[str]:
        fewer = need.fits(limit)
        return [f"experts.objective.images_at_once: {fewer}"] if fewer else []

    return Work(lambda parts: rollout_need(parts, config, objective), changes)


def mixed_images(config: RunConfig) -> Work:
    """Generating benchmarks' images with a mixture, which cannot become the base's weights."""
    plain, experts = work_of_generation(config), len(config.prompts.skills)

    def need(parts: Parts) -> Need:
        factors = mixed_weights(parts, config.experts, experts=experts)
        alone = plain.need(parts)
        return replace(alone, what="generating, mixed", weights=alone.weights + factors)

    return Work(need, plain.changes)


def guiding(guide: GuideSettings) -> list[Work]:
    """A guide's own passes, one image at a time; none of a guide that has none."""
    from selma.images.guides import GUIDES

    need = GUIDES.find(guide.kind, setting="guide.kind").need
    none: Sequence[str] = ()
    return [] if need is None else [Work(lambda parts: need(parts, guide), lambda *_: none)]


def training_mixture(config: RunConfig, mixture: MixtureConfig) -> Work:
    """Training a mixture of the run's experts."""
    settings, experts = mixture.training(config.experts), len(config.prompts.skills)

    def changes(parts: Parts, need: Need, limit: int) -> list[str]:
        fewer = need.fits(limit)
        return [f"merged.mixture.micro_batch_size: {fewer} or less"] if fewer else []

    return Work(
        lambda parts: mixture_need(parts, config.experts, settings, experts=experts), changes
    )


def memory(
    config: RunConfig,
    limit: int | None = None,
    *,
    guide: GuideSettings | None = None,
    shapes: Callable[[BaseConfig], Parts] = parts_of,
) -> tuple[list[Need], list[str]]:
    """What each piece of the six stages' work needs of the device's memory, and what to change
    where that is more than `limit` bytes (None: what the device has; no limit on a CPU). Loads no
    weights. A base on a server needs none.

    guide: a method that changes how benchmarks' images are generated.  shapes: a base's networks.
    """
    require_settings(config, RunConfig)
    needs: list[Need] = []
    changes: list[str] = []
    if isinstance(config.base, BaseConfig):
        own = _device_memory(config.base) if limit is None else limit
        work = work_of_stages(config) + ([] if guide is None else guiding(guide))
        needs, changes = _needs(config.base, work, own, shapes=shapes)
    if isinstance(drawing := config.images.base, BaseConfig):
        its = _device_memory(drawing, setting="images.base") if limit is None else limit
        work = [work_of_drawing(config)]
        more, further = _needs(drawing, work, its, setting="images.base", shapes=shapes)
        needs = [*(replace(need, what="images by images.base") for need in more), *needs]
        changes = [*further, *changes]
    return needs, changes


def computing(config: RunConfig, *, shapes: Callable[[BaseConfig], Parts] = parts_of) -> Computing:
    """What generating and training compute, counted on shapes. Raises ModelError, or ConfigError if
    the base is on a server."""
    require_settings(config, RunConfig)
    parts, steps = shapes(config.local_base), config.benchmark_steps
    guided = parts.family.guided(config.benchmark_guidance)
    step, image = image_operations(parts, steps=steps, guided=guided)
    parameters = sum(weight.numel() for weight in parts.denoiser.parameters())
    sample = sample_operations(parts, config.experts)
    return Computing(parameters, step, image, steps, sample)


def memory_of_each(
    configs: Mapping[str, RunConfig],
    limit: int | None = None,
    *,
    guides: Mapping[str, GuideSettings] | None = None,
    shapes: Callable[[BaseConfig], Parts] | None = None,
) -> dict[tuple[str, ...], tuple[list[Need], list[str]]]:
    """Names of runs that need the same → what `memory` says of them. guides: name of a run → its
    guide, if it has one."""
    names: dict[str, list[str]] = {}
    guides = guides or {}
    parts: Any = {
        "base": True,
        "images": {"batch_size", "guidance", "steps", "base"},
        "experts": True,
        "merged": {"mixture"},
        "scores": {"guidance", "steps"},
    }
    for name, config in configs.items():
        skills = len(config.prompts.skills) if config.merged.mixture is not None else 0
        guide = guides[name].model_dump_json() if name in guides else ""
        key = f"{config.model_dump_json(include=parts)} {skills} {guide}"
        names.setdefault(key, []).append(name)
    groups = [tuple(group) for group in names.values()]
    # Networks of this size take seconds to be made even without weights.
    shapes = shapes or cache(parts_of)
    return {
        group: memory(configs[group[0]], limit, guide=guides.get(group[0]), shapes=shapes)
        for group in groups
    }


def _needs(
    base: BaseConfig,
    work: Sequence[Work],
    limit: int | None,
    *,
    setting: str = "base",
    shapes: Callable[[BaseConfig], Parts] = parts_of,
) -> tuple[list[Need], list[str]]:
    parts = shapes(base)
    needs = [piece.need(parts) for piece in work]
    changes: list[str] = []
    if limit is not None:
        for piece, need in zip(work, needs, strict=True):
            changes += piece.changes(parts, need, limit) if need.total > limit else ()
        if any(need.total > limit for need in needs):
            changes += _smaller(base, setting)
    return needs, changes


def _smaller(base: BaseConfig, setting: str) -> list[str]:
    """What makes the whole base smaller."""
    half = [f"{setting}.precision: bf16"] if base.precision == "fp32" else []
    bits = [f"{setting}.quantization: int8"] if base.quantization is None else []
    return [
        *half,
        *([] if base.offload else [f"{setting}.offload: true"]),
        *bits,
        f"{setting}.image_px: a smaller one",
    ]


def _device_memory(base: BaseConfig, *, setting: str = "base") -> int | None:
    """Bytes that the base's device has; None for a CPU."""
    device = find_device(base.device, setting=f"{setting}.device")
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def require_device(config: RunConfig, *, trains: bool) -> None:
    """Raises ModelError unless this machine has the device that the base is set to, and ConfigError
    unless experts, if `trains`, can be trained there in their precision."""
    if isinstance(config.base, BaseConfig):
        device = find_device(config.base.device, setting="base.device")
        if trains:
            require_precision(config.experts, device=device)


def require_memory(base: BaseConfig, work: Sequence[Work], *, setting: str = "base") -> None:
    """Raises ModelError unless all this work fits the base's device, as far as shapes can tell.

    setting: where the base stands in the settings.
    """
    limit = _device_memory(base, setting=setting)
    if limit is None:
        return
    needs, changes = _needs(base, work, limit, setting=setting)
    if too_much := [need for need in needs if need.total > limit]:
        needed = ", ".join(f"{need.what} about {need.total / 2**30:.1f} GiB" for need in too_much)
        raise ModelError(
            f"The device has {limit / 2**30:.1f} GiB, but {needed} would be needed. Change one or "
            f"more of: {'; '.join(changes)}."
        )
