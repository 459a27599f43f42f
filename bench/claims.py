"""What SELMA gains on toybox: each model at its own best guidance, and what the algebra predicts.

    .venv/bin/python bench/claims.py configs/toybox-full.yaml --work FOLDER --dry-run
    .venv/bin/python bench/claims.py configs/toybox-full.yaml --work FOLDER

Makes stages 1 to 4 in FOLDER/run; then every model generates the dev split at each guidance, plain
and rescaled, and the choosing judge says which guidance is each one's best. On the test split the
reporting judge compares the models without guidance, at that of the training images, and each at
its own best: can the merged model do more than the base can? The tables are printed, and written to
FOLDER/claims.md and FOLDER/claims.json; images and answers stay in FOLDER, and are not made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import typer
from claimed import (
    BEST,
    ROLES,
    Claims,
    Sheet,
    as_json,
    as_markdown,
    own_minus_others,
    sentences,
    settings_on_test,
    sheets,
    style_of,
)
from rich.console import Console

from selma.applications.comparisons.guiding import Setting
from selma.applications.comparisons.judging import judged, points_of
from selma.applications.loading import load_config
from selma.config import RunConfig
from selma.errors import ConfigError
from selma.finished import Finished, NotFinished, begun
from selma.pipeline import Stages, opened
from selma.progress import console as log
from selma.progress import progress
from selma.prompts.skills import load_skills
from selma.records.adapters import AppliedAdapter
from selma.records.benchmarks import BenchmarkPrompt, repeated
from selma.records.scores import ModelScore
from selma.scores.benchmarks import benchmark_of, load_benchmark
from selma.scores.measures import Points
from selma.scores.model_score import ModelIntervals
from selma.status import statuses, table
from selma.toybox.pretraining.gates import RESCALED, ideal_score
from selma.workspace import STAGES, Workspace, write_bytes, write_json

Split = Literal["dev", "test"]
SPLITS: tuple[Split, ...] = ("dev", "test")
GUIDANCES = (1.0, 2.0, 3.0, 5.0, 7.0)


def main(
    config: Annotated[Path, typer.Argument(help="A run's settings, with toybox's benchmark.")],
    work: Annotated[Path, typer.Option(help="Folder for the run, images and answers.")],
    guidance: Annotated[
        list[float] | None, typer.Option(min=1, help="Measured on dev; else 1, 2, 3, 5 and 7.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=5, help="How many of each split.")] = 320,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is to make.")] = False,
) -> None:
    """Measure what each model gains, on test at the guidance that dev says is its best."""
    console = Console(width=120)
    settings = load_config(config, folder=work / "run")
    if settings.scores.benchmark != "toybox":
        raise ConfigError("Claims are measured on toybox. Set scores.benchmark to toybox.")
    bench = Bench(settings, Workspace(work), prompts, sorted({*(guidance or GUIDANCES)}))
    if dry_run:
        console.print(table([row for row in statuses(settings) if row.stage in STAGES[:4]]))
        console.print(to_make(bench).rich())
        return
    with bench.folder.locked():
        with opened(settings, make=STAGES[:4], checked=STAGES[:5]) as stages:
            bench.models = models_of(stages)
        claims = measured(bench)
        write_json(work / "claims.json", as_json(claims))
        write_bytes(work / "claims.md", as_markdown(claims).encode())
    for sheet in sheets(claims):
        console.print(sheet.rich())
    console.print(*sentences(claims), f"Written: {work / 'claims.md'}", sep="\n", highlight=False)


class Bench:
    """What generates and judges."""

    def __init__(
        self, config: RunConfig, folder: Workspace, prompts: int, guidances: Sequence[float]
    ) -> None:
        self.config, self.folder, self.guidances = config, folder, guidances
        self.measure = benchmark_of(config.scores.benchmark).measure
        self.models: dict[str, list[AppliedAdapter]] = {}
        self.stages = {
            rescaled: Stages(with_rescale(config, RESCALED if rescaled else 0.0), folder, make=[])
            for rescaled in (False, True)
        }
        self.networks = self.stages[False].networks
        self.prompts: dict[Split, list[BenchmarkPrompt]] = {
            split: load_benchmark(config.scores, split=split, prompts=prompts) for split in SPLITS
        }

    @property
    def dev_settings(self) -> list[Setting]:
        """Each guidance, plain and rescaled; none once."""
        every = [Setting.of(g, rescaled=r) for r in (False, True) for g in self.guidances]
        return list(dict.fromkeys(every))

    @cached_property
    def intervals(self) -> dict[Split, ModelIntervals]:
        """What the scorecard computes its scores and differences by."""
        scores, seed = self.config.scores, self.config.seed
        return {
            split: ModelIntervals(
                self.asked(split),
                self.measure,
                seeds=scores.seeds,
                seed=seed,
                resamples=scores.resamples,
                detailed=False,
            )
            for split in SPLITS
        }

    def asked(self, split: Split) -> list[BenchmarkPrompt]:
        """An element for each image."""
        return repeated(self.prompts[split], self.config.scores.seeds)

    def images(
        self, model: str, split: Split, setting: Setting, folder: Workspace | None = None
    ) -> Path:
        """The folder with the model's images, as stage 5 generates them; existing ones are kept."""
        return self.stages[setting.rescaled].generate(
            f"{split}-guidance-{str(setting).replace(' ', '-')}/{model}",
            self.models[model],
            self.asked(split),
            folder=folder or self.folder,
            guidance=setting.guidance,
        )

    def points(self, model: str, split: Split, setting: Setting) -> Points:
        """The points of all questions, on dev by the judge that chooses, on test by the other."""
        images, asked = self.images(model, split, setting), self.asked(split)
        judge = self.networks.choosing_judge if split == "dev" else self.networks.judge
        name = f"{images.parent.name}/{model}"
        answers = judged(asked, name, images, self.folder, judge=judge, networks=self.networks)
        return points_of(answers, self.measure)

    def missing(self, model: str, split: Split, setting: Setting) -> int:
        """How many of these images are not there yet."""
        count = len(self.asked(split))
        if model not in self.models:
            return count
        try:
            self.images(model, split, setting, Finished(self.folder.root))
        except NotFinished as error:
            images = error.item.path.glob("*.png") if begun(error.item) else ()
            return count - sum(1 for _ in images)
        return 0


def with_rescale(config: RunConfig, rescale: float) -> RunConfig:
    """The settings with the base's guidance rescaled."""
    base = config.base.model_copy(update={"guidance_rescale": rescale})
    return config.model_copy(update={"base": base})


def models_of(stages: Stages) -> dict[str, list[AppliedAdapter]]:
    """Model → its adapters, after stages 1 to 4."""
    experts = stages.all_experts()
    return stages.adapters_by_model(experts, stages.merge_experts(experts))


def measured(bench: Bench) -> Claims:
    """Generate and score everything, dev first."""
    config, scores = bench.config, bench.measure.prompt_scores
    dev = points_on_dev(bench)
    asked = bench.asked("dev")
    curves = {
        model: {setting: bench.measure.score(of, asked) for setting, of in row.items()}
        for model, row in dev.items()
    }
    settings = settings_on_test(curves, config.images.guidance)
    test = scores_on_test(bench, settings)
    gains = {}
    for guidance in bench.guidances:
        after, before = (scores(dev[m][Setting.of(guidance)]) for m in ("merged", "base"))
        gains[guidance] = bench.intervals["dev"].mean({id: after[id] - before[id] for id in before})
    experts = {
        style_of(model): scores(bench.points(model, "test", settings[BEST][model]))
        for model in bench.models
        if model not in ROLES
    }
    change = own_minus_others(bench.asked("test"), experts)
    with progress("ideal sampler", total=len(bench.guidances)) as advance:
        ideal = {}
        for guidance in bench.guidances:
            ideal[guidance] = ideal_score(bench.prompts["dev"], guidance)
            advance()
    return Claims(
        about=f"{config.name}: {len(bench.prompts['dev'])} dev prompts by "
        f"{bench.networks.choosing_judge.name}, {len(bench.prompts['test'])} test prompts by "
        f"{bench.networks.judge.name}, {config.benchmark_steps} steps",
        training_guidance=config.images.guidance,
        curves=curves,
        ideal=ideal,
        settings=settings,
        test=test,
        gains=gains,
        own_experts=bench.intervals["test"].mean(change) if change else None,
    )


def points_on_dev(bench: Bench) -> dict[str, dict[Setting, Points]]:
    """Model → how it is guided → the points of all questions."""
    dev: dict[str, dict[Setting, Points]] = {model: {} for model in bench.models}
    jobs = [(model, setting) for setting in bench.dev_settings for model in bench.models]
    for number, (model, setting) in enumerate(jobs, 1):
        log.print(f"dev, {number} of {len(jobs)}: {model}, guidance {setting}", highlight=False)
        dev[model][setting] = bench.points(model, "dev", setting)
    return dev


def scores_on_test(
    bench: Bench, settings: Mapping[str, Mapping[str, Setting]]
) -> dict[str, dict[str, ModelScore]]:
    """Comparison → model → its scores, with differences to the base's there."""
    test: dict[str, dict[str, ModelScore]] = {}
    for name, setting_of in settings.items():
        log.print(f"test, {len(test) + 1} of {len(settings)}: {name}", highlight=False)
        found = {model: bench.points(model, "test", s) for model, s in setting_of.items()}
        test[name] = {}
        with progress(f"intervals: {name}", total=len(found)) as advance:
            for model, points in found.items():
                test[name][model] = bench.intervals["test"].model_score(
                    model,
                    ROLES.get(model, "expert"),
                    points,
                    None,
                    base=None if model == "base" else (found["base"], None),
                )
                advance()
    return test


def to_make(bench: Bench) -> Sheet:
    """How many images are to be generated; the best guidances are known after dev alone."""
    try:
        bench.models = models_of(Stages(bench.config, Workspace(bench.config.run_folder), make=[]))
        models = list(bench.models)
    except NotFinished:  # without experts, none of their images is there
        names = [skill.name for skill in load_skills(bench.config.prompts.skills)]
        models = ["base", *(names if bench.config.scores.experts else []), "merged"]
    fixed = dict.fromkeys((Setting(1.0), Setting.of(bench.config.images.guidance)))
    sets: list[tuple[Split, Setting]] = [("dev", setting) for setting in bench.dev_settings]
    rows, total = [], 0
    for split, setting in [*sets, *(("test", setting) for setting in fixed)]:
        missing = sum(bench.missing(model, split, setting) for model in models)
        total += missing
        count = len(models) * len(bench.asked(split))
        rows.append([f"{split}, guidance {setting}", f"{count}", f"{missing}"])
    most = 2 * len(models) * len(bench.asked("test"))
    rows += [[f"test, {BEST}, plain and rescaled", *[f"≤ {most}"] * 2]]
    rows += [["all", "", f"≤ {total + most}"]]
    return Sheet(f"Images of {', '.join(models)}", ["images", "all", "to make"], rows)


if __name__ == "__main__":
    typer.run(main)
