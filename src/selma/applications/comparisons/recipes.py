"""A comparison's file → one run's settings for each row and benchmark, or all mistakes at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selma import runfile
from selma.applications import loading
from selma.applications.comparisons.settings import Comparison, RowSettings
from selma.backbones.judges.loading import same_weights
from selma.config import RunConfig, read_mapping
from selma.config.guides import GuideSettings
from selma.config.places import map_paths
from selma.config.scores import AnyJudge, judge_name
from selma.config.section import first_mistakes, is_folder, laid_over, mistake
from selma.errors import ConfigError, SelmaError
from selma.images.guides.applying import guide_mistakes
from selma.paths import AnyPath, as_path
from selma.plurals import counted
from selma.preflight import asks_choosing_judge, every_mistake
from selma.prompts.skills import skill_names
from selma.scores.benchmarks import benchmark_of, dev_benchmark_of
from selma.workspace import EXPERTS, IMAGES, MERGED, PROMPTS, SCORES

MOST_TOLD = 20
"""Rows and benchmarks whose mistakes a message tells."""

TRAINED = (PROMPTS, IMAGES, EXPERTS)
"""Stages that a row's expert needs."""


@dataclass(frozen=True)
class Recipe:
    """One row with its settings."""

    row: RowSettings
    config: RunConfig

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that the row's model needs."""
        if self.row.model == "base":
            return ()
        return TRAINED if self.row.model == "expert" else (*TRAINED, MERGED)


@dataclass(frozen=True)
class Plan:
    """A comparison, checked as far as its settings alone can be."""

    comparison: Comparison
    shared: RunConfig
    recipes: Mapping[str, Recipe]
    """Row → its recipe, in order."""
    benchmarks: Mapping[str, RunConfig]
    """Name → the shared settings with its scores."""

    @cached_property
    def choosing(self) -> str | None:
        """The benchmark by whose dev prompts guidances are chosen; None if none are."""
        if not self.comparison.guidances:
            return None
        return next(
            (
                name
                for name, config in self.benchmarks.items()
                if dev_benchmark_of(config.scores) is not None
            ),
            None,
        )


def load_comparison(path: AnyPath, *, folder: AnyPath | None = None) -> Plan:
    """Read a comparison's file. Raises one ConfigError with the mistakes of all its rows.

    folder: in place of the file's.
    """
    path = as_path(path)
    raw = read_mapping(path)
    try:
        comparison = Comparison.model_validate(raw)
    except ValidationError as error:
        count, lines = first_mistakes(error, lambda wrong: mistake(wrong, Comparison))
        raise ConfigError(
            f"{path} has {counted(count, 'mistake')}:\n" + "\n".join(lines)
        ) from error
    comparison = map_paths(
        comparison,
        move=lambda name: str(path.parent / name),
        is_folder=lambda name: is_folder(path.parent / name),
    )
    if folder is not None:
        comparison = comparison.model_copy(update={"folder": as_path(folder)})
    return _planned(comparison, origin=path)


def _planned(comparison: Comparison, *, origin: Path) -> Plan:
    """The comparison with each row's settings. Raises one ConfigError with the mistakes of all."""
    raw = _shared(comparison)
    wrong: dict[str, str] = {}
    shared = _config(raw, "settings", wrong)
    recipes, benchmarks = {}, {}
    if shared is not None:
        # Whatever a row changes of its training images, the benchmark's have the shared steps.
        raw = laid_over(raw, {"scores": {"steps": shared.benchmark_steps}})
        for row in comparison.rows:
            if config := _config(laid_over(raw, row.settings), f"rows, {row.name}", wrong):
                recipes[row.name] = Recipe(row, config)
        if not comparison.benchmarks:
            benchmarks[_own_name(shared)] = RunConfig.model_validate(raw)
        for benchmark in comparison.benchmarks:
            changed = laid_over(raw, {"scores": benchmark.scores})
            if config := _config(changed, f"benchmarks, {benchmark.name}", wrong):
                benchmarks[benchmark.name] = config
    if wrong or shared is None:
        count = sum(lines.count("\n") + 1 for lines in wrong.values())
        told = [f"{key}:\n{lines}" for key, lines in wrong.items()]
        more = len(told) - MOST_TOLD
        text = "\n".join([*told[:MOST_TOLD], *([f"and in {more:,} more"] if more > 0 else [])])
        raise ConfigError(f"{origin} has {counted(count, 'mistake')}:\n{text}")
    return Plan(comparison, shared, recipes, benchmarks)


def _shared(comparison: Comparison) -> dict[str, Any]:
    """The settings that rows change, as they are given."""
    given: dict[str, Any] = {}
    if comparison.config is not None:
        run = loading.load_config(comparison.config)
        given = run.model_dump(include=set(RunConfig.model_fields), exclude_unset=True)
        # How experts that learn from rewards are merged by default is for each row to say.
        # As is what they take of a round.
        asked = read_mapping(as_path(comparison.config))
        defaults = {"merged": {"method", "search"}, "experts": {"batch_size", "micro_batch_size"}}
        for section, names in defaults.items():
            unasked = names - (asked.get(section) or {}).keys()
            settings = given.get(section, {})
            given[section] = {key: value for key, value in settings.items() if key not in unasked}
    own = {"name": comparison.name, "folder": comparison.run_folder}
    return laid_over(given, comparison.settings) | own


def _config(raw: Mapping[str, Any], key: str, wrong: dict[str, str]) -> RunConfig | None:
    """The settings; if they are wrong, None, and what is wrong is noted by the key."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        wrong[key] = "\n".join(first_mistakes(error, lambda e: mistake(e, RunConfig))[1])
        return None


def _own_name(config: RunConfig) -> str:
    try:
        return benchmark_of(config.scores.benchmark).measure.label
    except SelmaError:  # which preflight tells
        return Path(config.scores.benchmark).stem


def only(plan: Plan, names: Sequence[str]) -> Plan:
    """The plan with these rows, and those that they are compared with or trained by."""
    comparison = plan.comparison
    if strangers := [name for name in names if name not in plan.recipes]:
        raise ConfigError(
            f"--only must name rows ({', '.join(plan.recipes)}), but {strangers[0]!r} came."
        )
    wanted = {comparison.base_row, *names, *filter(None, [comparison.against])}
    for row in reversed(comparison.rows):
        if row.name in wanted and row.images_by is not None:
            wanted.add(row.images_by)
    rows = tuple(row for row in comparison.rows if row.name in wanted)
    claims = tuple(claim for claim in comparison.claims if {claim.row, claim.over} <= wanted)
    changes = {"rows": rows, "claims": claims, "base": comparison.base_row}
    return Plan(
        comparison.model_copy(update=changes),
        plan.shared,
        {row.name: plan.recipes[row.name] for row in rows},
        plan.benchmarks,
    )


def check(plan: Plan) -> None:
    """Raise one ConfigError with all mistakes that can be found before a model is loaded; what
    several rows have in common is said once."""
    rows_by_mistake: dict[str, list[str]] = {}
    for name, text in _mistakes(plan):
        rows = rows_by_mistake.setdefault(text, [])
        if name not in rows:
            rows.append(name)
    if rows_by_mistake:
        every = len(plan.recipes)
        lines = [
            f"  {text}" if len(names) >= every else f"  {', '.join(names)}: {text}"
            for text, names in rows_by_mistake.items()
        ]
        raise ConfigError(
            f"{plan.comparison.name} cannot start, for {counted(len(lines), 'mistake')}:\n"
            + "\n".join(lines)
        )


def _mistakes(plan: Plan) -> Iterator[tuple[str, str]]:
    """Row or benchmark, and what is wrong with it."""
    if (plan.comparison.run_folder / runfile.NAME).exists():
        yield (
            "folder",
            f"{plan.comparison.run_folder} holds a run, whose items lie otherwise; choose another "
            "name or folder.",
        )
    for name, recipe in plan.recipes.items():
        yield from ((name, text) for text in every_mistake(recipe.config, recipe.stages))
        yield from ((name, text) for text in _of_model(recipe))
    for name, config in plan.benchmarks.items():
        yield from ((name, text) for text in every_mistake(config, [SCORES]))
    yield from _judges(plan)
    if plan.comparison.guidances and not _dev(plan.benchmarks.values()):
        yield (
            "guidances",
            "no benchmark has dev prompts to choose a guidance on; set guidances to [].",
        )


def _dev(configs: Iterable[RunConfig]) -> bool:
    for config in configs:
        try:
            if dev_benchmark_of(config.scores) is not None:
                return True
        except SelmaError:  # told by the look at the benchmark
            return True
    return False


def _judges(plan: Plan) -> Iterator[tuple[str, str]]:
    """Rows, and the choice of guidances, in which a judge has a say that reports on a benchmark:
    what it chose would look better there than it is."""
    reporting = {name: config.scores.judge for name, config in plan.benchmarks.items()}
    choosing = {
        name: recipe.config.scores
        for name, recipe in plan.recipes.items()
        if asks_choosing_judge(recipe.config, recipe.stages)
    }
    if plan.choosing is not None:
        choosing["guidances"] = plan.benchmarks[plan.choosing].scores
    for name, scores in choosing.items():
        chooser = scores.choosing_judge
        benchmark = next((on for on, judge in reporting.items() if _one(judge, chooser)), None)
        if benchmark is not None:
            known, judge = judge_name(reporting[benchmark]), judge_name(chooser)
            under = "" if known == judge else f" under the name {known}, with the same weights"
            yield (
                name,
                f"scores.choosing_judge: {judge} reports on {benchmark}{under}, so that it may not "
                "choose or reward; set another one in the comparison's settings.",
            )


def _one(judge: AnyJudge, other: AnyJudge) -> bool:
    """Whether two judges are one, by name or by weights."""
    return judge_name(judge).casefold() == judge_name(other).casefold() or same_weights(
        judge, other
    )


def _of_model(recipe: Recipe) -> Iterator[str]:
    """What is wrong with the model that a row shows."""
    model, config = recipe.row.model, recipe.config
    if recipe.row.guide is not None:
        yield from guide_mistakes(recipe.row.guide, config.base, "guide", parsing=False)
    if model == "uniform" and config.merged.search is None:
        yield "model: uniform is beside searched weights; set merged.search, or model to merged."
    if model == "expert":
        try:
            names = skill_names(config.prompts.skills, given=config.prompts.given)
        except SelmaError:
            return
        if len(names) != 1 and config.experts.joint is None:
            yield (
                f"model: expert is for recipes with one expert, but this has {len(names)}; name "
                "one of prompts.skills, set experts.joint, or set model to merged."
            )


def check_file(path: AnyPath, *, folder: AnyPath | None = None) -> None:
    """Check a comparison's file. Raises one ConfigError with all mistakes."""
    check(load_comparison(path, folder=folder))


def runs(path: AnyPath) -> dict[str, RunConfig]:
    """Row → its settings, of a comparison's file."""
    return {name: recipe.config for name, recipe in load_comparison(path).recipes.items()}


def guides(path: AnyPath) -> dict[str, GuideSettings]:
    """Row → its guide, of the rows that have one."""
    recipes = load_comparison(path).recipes
    return {name: recipe.row.guide for name, recipe in recipes.items() if recipe.row.guide}
