"""Variants of the SUR-adapter on one benchmark, each beside the base: what every choice is worth.

A variant is trained only once for equal settings of training, so that those that differ in
generation alone share an adapter. Everything is an item of the run's folder: a stopped ablation
goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from selma.applications.sur.pipeline import merged_of, opened_sur, samples, trained
from selma.applications.sur.records import SurResult
from selma.applications.sur.settings import (
    PAPER_SUR,
    RELEASED_SUR,
    SurRun,
    SurSettings,
    SurTraining,
)
from selma.config import require_settings
from selma.config.scores import ScoresConfig
from selma.config.section import first_mistakes, laid_over, mistake
from selma.errors import ConfigError
from selma.pipeline import Stages
from selma.records.adapters import AppliedAdapter, applied
from selma.records.benchmarks import BenchmarkPrompt, repeated
from selma.workspace import SCORES

NAME = "ablation"
BASE, AS_SET = "base", "as_set"
EXPERTS_ALONE, BOTH = "experts_alone", "experts_and_adapter"

Changes = Mapping[str, Any]

MENDED: Mapping[str, Changes] = {
    "released_gradient_fixed": {"losses": {"denoising": {"gradient": True}}},
    "released_attention_fixed": {"adapter": {"attention": "tokens"}},
    "released_positive_only": {"generation": {"negative": "alone"}},
    "released_no_dropout": {"generation": {"dropout": False}},
}
"""The release with one defect put right."""

OURS: Mapping[str, Changes] = {
    "teacher": {
        "losses": {"denoising": {"weight": 0.0}, "teacher": {"weight": 1.0, "timesteps": "even"}}
    },
    "timesteps": {
        "losses": {"denoising": {"weight": 0.0}, "teacher": {"weight": 1.0, "timesteps": "content"}}
    },
    "images": {"data": {"images": "own"}},
    "attention": {"losses": {"alignment": {"at": "attention"}}},
    "centred": {"adapter": {"centred": True}},
    "similarities": {"losses": {"distillation": {"match": "similarities"}}},
    "training": {
        "adapter": {"weight": 1.0},
        "training": SurTraining().model_dump(include=set(PAPER_SUR["training"])),
    },
}
"""Each change of ours that the paper can have by itself. Timesteps are weighed in the teacher's
loss, and so come with it."""

BACK: Mapping[str, Changes] = {"timesteps": {"losses": {"teacher": {"timesteps": "even"}}}}
"""What undoes a change, where that is not to do as the paper does."""

PROJECTIONS = ("random", "learned", "pca")
"""Of the language model's vectors, which similarities are told without."""


def variants(config: SurRun) -> dict[str, SurSettings]:
    """Name → settings, in the order of the table; "as_set" first. Raises ConfigError."""
    sur = require_settings(config, SurRun).sur
    steps = sur.ablation.steps
    equal: Changes = {"training": {"steps": steps}} if steps else {}
    settings_by_name = {}
    for name, changes in [(AS_SET, {}), *_all_changes(sur)]:
        try:
            settings_by_name[name] = SurSettings.model_validate(
                laid_over(laid_over(sur.model_dump(), changes), equal)
            )
        except ValidationError as error:
            _, lines = first_mistakes(error, lambda e: mistake(e, SurSettings))
            raise ConfigError(f"The variant {name!r} cannot be:\n" + "\n".join(lines)) from error
    wanted = sur.ablation.variants
    if strangers := [name for name in wanted if name not in settings_by_name]:
        raise ConfigError(
            f"sur.ablation.variants (or --only) must be some of {', '.join(settings_by_name)}, but "
            f"{strangers[0]!r} came."
        )
    return {
        name: settings
        for name, settings in settings_by_name.items()
        if not wanted or name in wanted
    }


def only(config: SurRun, names: Sequence[str]) -> SurRun:
    """The same settings with these variants alone."""
    sur = require_settings(config, SurRun).sur
    ablation = sur.ablation.model_copy(update={"variants": tuple(names)})
    return config.model_copy(update={"sur": sur.model_copy(update={"ablation": ablation})})


def ablate(config: SurRun, *, experts: bool = False) -> SurResult:
    """Every variant beside the base, on dev by the choosing judge unless the settings say
    otherwise. With `experts`, also the run's merged experts alone and with the adapter."""
    from selma.applications.sur.scoring import keyword_benchmark, score_sur

    chosen, sur = variants(config), config.sur
    split, scores = sur.ablation.split, _scores(config)
    with opened_sur(config, make=[SCORES]) as this:
        benchmark_prompts = _benchmark(this, split)
        images = {
            f"{NAME}/{name}": images_folder
            for name, images_folder in _generated(this, benchmark_prompts, chosen, experts=experts)
        }
        with this.at(SCORES, NAME) as folder:
            return score_sur(
                benchmark_prompts,
                images,
                scores,
                sur.scores,
                folder,
                keywords=keyword_benchmark(benchmark_prompts, scores, sur.scores, split=split),
                good=[sample.image for sample in samples(this, this.finished)],
                seed=config.seed,
                base=f"{NAME}/{BASE}",
                name=NAME,
                guidance=config.benchmark_guidance,
            )


def _generated(
    this: Stages[SurRun],
    benchmark_prompts: Sequence[BenchmarkPrompt],
    chosen: Mapping[str, SurSettings],
    *,
    experts: bool,
) -> Iterator[tuple[str, Any]]:
    """Each model's images, the base's first."""

    every = repeated(benchmark_prompts, this.config.scores.seeds)

    def generate(name: str, *adapters: AppliedAdapter) -> tuple[str, Any]:
        return name, this.generate(f"{NAME}/{name}", adapters, every)

    yield generate(BASE)
    for name, sur in chosen.items():
        yield generate(name, _adapter(this, sur))
    if experts:
        merged = applied(merged_of(this))
        yield generate(EXPERTS_ALONE, merged)
        yield generate(BOTH, merged, _adapter(this, this.config.sur))


def _adapter(this: Stages[SurRun], sur: SurSettings) -> AppliedAdapter:
    adapter = trained(this, this.folder, sur, variants=True)
    return AppliedAdapter(path=adapter.folder, key=adapter.key, options=sur.generation)


def _benchmark(this: Stages[SurRun], split: str) -> list[BenchmarkPrompt]:
    from selma.scores.benchmarks import load_benchmark

    scores, wanted = this.config.scores, this.config.sur.ablation.prompts
    if split == "dev":
        return load_benchmark(scores, split="dev", prompts=wanted or scores.dev_prompts)
    return load_benchmark(scores, split="test", prompts=wanted)


def _scores(config: SurRun) -> ScoresConfig:
    """On dev the judges change places, so that the reporting one has no say in what is chosen."""
    scores, split = config.scores, config.sur.ablation.split
    changes: dict[str, Any] = {"split": split}
    if split == "dev":
        changes |= {"judge": scores.choosing_judge, "choosing_judge": scores.judge}
    return scores.model_copy(update=changes)


def _all_changes(sur: SurSettings) -> Iterator[tuple[str, Changes]]:
    yield "as_released", RELEASED_SUR
    for name, mended in MENDED.items():
        yield name, laid_over(RELEASED_SUR, mended)
    yield "paper", PAPER_SUR
    for name, change in OURS.items():
        yield f"paper_with_{name}", laid_over(PAPER_SUR, change)
        yield f"{name}_as_paper", BACK.get(name) or _same_of(PAPER_SUR, change)
    for loss in ("distillation", "alignment", "denoising", "teacher"):
        if getattr(sur.losses, loss).weight:
            yield f"without_{loss}", {"losses": {loss: {"weight": 0.0}}}
    for kind in PROJECTIONS if sur.losses.distillation.match == "queries" else ():
        if kind != sur.llm.projection:
            yield f"projection_{kind}", {"llm": {"projection": kind}}
    for weight in sur.ablation.weights:
        if weight != sur.adapter.weight:
            yield f"weight_{weight:g}", {"adapter": {"weight": weight}}
    for negative in ("alone", "adapted"):
        if negative != sur.generation.negative:
            yield f"negative_{negative}", {"generation": {"negative": negative}}
    for layer in sur.ablation.layers:
        if layer != sur.llm.layer:
            yield f"layer_{layer}", {"llm": {"layer": layer}}
    for backend in sur.ablation.language_models:
        label = backend.model.rstrip("/").rpartition("/")[2]
        yield (
            f"vectors_of_{label}",
            {"llm": {"backend": backend.model_dump(), "layer": None, "file": None}},
        )
    yield from sur.ablation.own.items()


def _same_of(settings: Changes, like: Changes) -> Changes:
    """The settings that `like` has, at every depth, as far as `settings` has them."""
    return {
        name: _same_of(settings[name], value) if isinstance(value, Mapping) else settings[name]
        for name, value in like.items()
        if name in settings
    }
