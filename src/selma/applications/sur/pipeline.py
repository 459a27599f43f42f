"""The SUR-adapter's flow (arXiv:2305.05189): samples → adapter → images → scores, in a run's
folder.

It stands beside the six stages: with the run's own base, benchmark and, if they are there, experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from selma.applications.sur.preflight import mistakes
from selma.applications.sur.records import SurResult, SurSample, TrainedSur
from selma.applications.sur.settings import SurRun, SurSettings
from selma.config import require_settings
from selma.pipeline import Stages, opened, part_keys
from selma.records.adapters import AppliedAdapter, applied
from selma.records.benchmarks import BenchmarkPrompt, repeated
from selma.records.merged import Merged
from selma.records.prompts import Prompt
from selma.workspace import EXPERTS, IMAGES, REPORT, SCORES, Workspace

if TYPE_CHECKING:
    from selma.capacity import Work

BASE, KEYWORDS, SUR = "base", "keywords", "sur"
MERGED, BOTH = "merged", "merged-sur"

OWN = "_sur-own"
"""The base's images of keyword prompts, among those of skills."""

COMMANDS = {
    f"{IMAGES}/_sur": "sur collect",
    f"{IMAGES}/{OWN}": "sur collect",
    f"{EXPERTS}/_sur": "sur train",
}
"""Item → the command that makes it."""
AGAINST = ((SUR, KEYWORDS), (BOTH, MERGED), (BOTH, SUR))
"""Who is also held against whom, beside all against the base."""


def collect(config: SurRun) -> tuple[list[SurSample], dict[str, int]]:
    """The samples, and reason → how many rows were rejected for it."""
    from selma.applications.sur.collecting import rejected

    with opened_sur(config, make=[IMAGES]) as this:
        collected = samples(this, this.folder)
        training_samples(this, this.folder, config.sur.data.images)
        return collected, rejected(this.folder, config.sur.data, seed=config.seed)


def train(config: SurRun) -> TrainedSur:
    """The adapter, trained on the samples that `collect` left."""
    # The run's own experts are not asked for.
    with opened_sur(config, make=[EXPERTS], checked=[]) as this:
        return trained(this, this.folder, config.sur)


def generate(config: SurRun, *, experts: bool = False) -> dict[str, Path]:
    """Model → folder with its image of each benchmark prompt: "base", "keywords" (the base, by
    keyword prompts, where there are any) and "sur"; with `experts` also "merged" and "merged-sur",
    by the run's own merged adapter."""
    # Nothing is judged yet, so that no judge need be there.
    with opened_sur(config, make=[SCORES], checked=[]) as this:
        return _images(this, _keywords(this), experts=experts)


def score(config: SurRun, *, experts: bool = False) -> tuple[SurResult, Path]:
    """Score what `generate` leaves, and write a page on it; missing images are made first."""
    from selma.applications.sur.page import write_sur_page
    from selma.applications.sur.scoring import score_sur
    from selma.scores.scoring import read_answers

    with opened_sur(config, make=[SCORES, REPORT]) as this:
        keywords = _keywords(this)
        images = _images(this, keywords, experts=experts)
        with this.at(SCORES, "sur") as folder:
            result = score_sur(
                this.benchmark_prompts,
                images,
                config.scores,
                config.sur.scores,
                folder,
                keywords=keywords,
                good=[sample.image for sample in samples(this, this.finished)],
                seed=config.seed,
                compare=[pair for pair in AGAINST if {*pair} <= images.keys()],
                guidance=config.benchmark_guidance,
            )
        answers = {model: read_answers(this.folder, model, name="sur") for model in images}
        # Of the images, those that the run's own report is about as well.
        of_the_run = {model: images[model] for model in (BASE, MERGED) if model in images}
        page = write_sur_page(
            result,
            this.benchmark_prompts,
            images,
            answers,
            config.report,
            this.folder,
            about=part_keys(of_the_run, result.card),
        )
        return result, page


def opened_sur(
    config: SurRun, *, make: Sequence[str], checked: Sequence[str] | None = None
) -> AbstractContextManager[Stages[SurRun]]:
    """The run's stages; `checked` where not all that `make` names is asked for."""
    return opened(
        require_settings(config, SurRun),
        make=make,
        checked=checked,
        mistakes=mistakes(config, make if checked is None else checked),
        commands=COMMANDS,
        work=_work,
    )


def _work(config: SurRun) -> list[Work]:
    """What is done with the base; training the adapter beside it is not counted."""
    from selma.capacity import encoding, work_of_generation

    return [work_of_generation(config), encoding()]


def samples(this: Stages[SurRun], folder: Workspace) -> list[SurSample]:
    """Those that are there, or made where the folder may make any."""
    from selma.applications.sur.collecting import collect_samples

    return collect_samples(this.config.sur.data, folder, seed=this.config.seed)


def training_samples(this: Stages[SurRun], folder: Workspace, images: str) -> list[SurSample]:
    """The samples with the images that are trained on: their own, or the base's of their keyword
    prompts, which `2-images/_sur-own` has."""
    from selma.images.generating import generate_pairs

    given = samples(this, this.finished)
    if images == "source":
        return given
    config, skill = this.config, OWN
    prompts = [Prompt(id=sample.id, skill=skill, text=sample.prompt) for sample in given]
    pairs = generate_pairs(
        {skill: prompts},
        config.images.model_copy(update={"per_prompt": 1, "choose": None}),
        folder,
        base=config.local_base,
        seed=config.seed,
        model=this.model,
    )[skill]
    return [
        sample.model_copy(update={"image": pair.image})
        for sample, pair in zip(given, pairs, strict=True)
    ]


def trained(
    this: Stages[SurRun], folder: Workspace, sur: SurSettings, *, variants: bool = False
) -> TrainedSur:
    """The adapter of these settings, by the run's samples, base and seed. What `variants` are
    trained on is made with them, as no other command makes it."""
    from selma.applications.sur.training import train_sur

    return train_sur(
        training_samples(this, folder if variants else this.finished, sur.data.images),
        sur,
        folder,
        base=this.config.local_base,
        seed=this.config.seed,
        model=this.model,
        variants=variants,
    )


def merged_of(this: Stages[SurRun]) -> Merged:
    return this.merge_experts(this.all_experts())


def _keywords(this: Stages[SurRun]) -> list[BenchmarkPrompt] | None:
    from selma.applications.sur.scoring import keyword_benchmark

    scores, sur = this.config.scores, this.config.sur.scores
    return keyword_benchmark(this.benchmark_prompts, scores, sur, split=scores.split)


def _images(
    this: Stages[SurRun], keywords: Sequence[BenchmarkPrompt] | None, *, experts: bool
) -> dict[str, Path]:
    sur = this.config.sur
    adapter = trained(this, this.finished, sur)
    read = AppliedAdapter(path=adapter.folder, key=adapter.key, options=sur.generation)
    images = {BASE: this.generate(BASE)}
    if keywords is not None:
        every = repeated(keywords, this.config.scores.seeds)
        images[KEYWORDS] = this.generate(KEYWORDS, prompts=every)
    images[SUR] = this.generate(SUR, [read])
    if experts:
        merged = applied(merged_of(this))
        images[MERGED] = this.generate(MERGED, [merged])
        images[BOTH] = this.generate(BOTH, [merged, read])
    return images
