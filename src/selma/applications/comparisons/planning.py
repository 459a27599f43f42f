"""What a comparison would make, row by row, told without loading a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from rich.console import Console

from selma.applications.comparisons.comparing import Bench
from selma.applications.comparisons.guiding import Setting
from selma.applications.comparisons.recipes import Plan, Recipe
from selma.applications.comparisons.sharing import SharedFinished, SharedWorkspace
from selma.backbones.hub import commits_or_unknown
from selma.config.experts import JOINT
from selma.config.rewards import RewardedObjective
from selma.console import show_unknown
from selma.finished import NotFinished, begun
from selma.pipeline import Stages
from selma.report.fitting import Column, Row, print_fitted
from selma.status import StageStatus, statuses_of_model
from selma.workspace import EXPERTS, IMAGES, MERGED, PROMPTS, recipe_key

COLUMNS = {PROMPTS: "prompts", IMAGES: "images", EXPERTS: "steps", MERGED: "merges"}
SCORED = "scored"


@dataclass(frozen=True)
class Amount:
    """How many there are to be made, of how many."""

    missing: int = 0
    all: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.missing + other.missing, self.all + other.all)

    def __str__(self) -> str:
        return f"{self.missing} of {self.all}" if self.all else ""


def to_make(plan: Plan) -> dict[str, dict[str, Amount]]:
    """Row → column → what is to be made; of what rows share, only the first row's is not there."""
    bench = Bench(plan, SharedWorkspace(plan.comparison.run_folder))
    counted: set[str] = set()
    amounts = {}
    for name, recipe in plan.recipes.items():
        row: dict[str, Amount] = {}
        for status, signature in _statuses(bench, recipe):
            amount = _amount(status)
            if signature in counted:
                amount = replace(amount, missing=0)
            counted.add(signature)
            row[COLUMNS[status.stage]] = row.get(COLUMNS[status.stage], Amount()) + amount
            if status.stage == MERGED and (mixture := recipe.config.merged.mixture) is not None:
                gates = mixture.training(recipe.config.experts).steps
                row[COLUMNS[EXPERTS]] += _of_gates(status, gates, counted=not amount.missing)
            if status.stage == EXPERTS and (objective := recipe.config.rewarded) is not None:
                row[COLUMNS[IMAGES]] = row[COLUMNS[IMAGES]] + _own_images(amount, objective)
        row[SCORED] = _to_score(bench, name, recipe)
        amounts[name] = row
    return amounts


def _statuses(bench: Bench, recipe: Recipe) -> Iterator[tuple[StageStatus, str]]:
    """The row's items, and what tells one from another."""
    if not recipe.stages:
        return

    def stages_of(config: object) -> Stages:
        return bench.resources.stages(replace(recipe, config=config), make=False)  # type: ignore[arg-type]

    for status in statuses_of_model(recipe.config, stages_of, recipe.stages):
        yield status, _signature(status, recipe)


def _signature(status: StageStatus, recipe: Recipe) -> str:
    """Equal for items that rows share, whether they are there or not."""
    config = recipe.config
    sections = {"prompts": config.prompts.model_dump(mode="json", exclude={"skills"})}
    if status.stage != PROMPTS:
        sections["base"] = config.base.model_dump(mode="json")
        sections["images"] = config.images.model_dump(mode="json")
        sections["images_by"] = {"row": recipe.row.images_by}
    if status.stage in (EXPERTS, MERGED):
        sections["experts"] = config.experts.model_dump(mode="json")
    if status.stage == MERGED:
        sections["merged"] = config.merged.model_dump(mode="json")
    if status.stage == MERGED or status.name == JOINT:
        sections["skills"] = {"skills": list(config.prompts.skills)}
    return recipe_key({"stage": status.stage, "name": status.name, **sections})


def _amount(status: StageStatus) -> Amount:
    want = 1 if status.want is None else status.want
    if status.state == "done":
        return Amount(0, want)
    have = (status.have or 0) if status.state == "partial" and status.want is not None else 0
    return Amount(max(want - have, 0), want)


def _of_gates(status: StageStatus, steps: int, *, counted: bool) -> Amount:
    """Steps of a mixture's gates, which are trained where others are merged."""
    have = (status.have or 0) if status.state == "partial" else 0
    return Amount(0 if counted else max(steps - have, 0), steps)


def _own_images(steps: Amount, objective: RewardedObjective) -> Amount:
    """Images that the rounds of these steps generate, where there are prompts enough."""

    def of(count: int) -> int:
        return -(-count // objective.updates_per_round) * objective.images_per_round

    return Amount(of(steps.missing), of(steps.all))


def _to_score(bench: Bench, row: str, recipe: Recipe) -> Amount:
    """Benchmark images; those at a row's own best guidance are known only after dev."""
    stages = bench.resources.stages(recipe, make=False)
    with suppress(NotFinished):  # then none of its images is there
        bench.adapters[row] = bench.resources.adapters(stages, recipe)
    sets: list[tuple[str, str | None, Setting]] = [
        (name, None, bench.training) for name in bench.plan.benchmarks
    ]
    if (choosing := bench.plan.choosing) is not None:
        sets += [(choosing, "dev", setting) for setting in bench.guidances]
    total = Amount()
    for benchmark, split, setting in sets:
        seeds = bench.plan.benchmarks[benchmark].scores.seeds
        count = len(bench.asked(benchmark, split)) * seeds
        total += Amount(count - _present(bench, row, benchmark, split, setting, count), count)
    return total


def _present(
    bench: Bench, row: str, benchmark: str, split: str | None, setting: Setting, count: int
) -> int:
    """How many of a row's images of a benchmark are there."""
    if row not in bench.adapters:
        return 0
    finished = SharedFinished(bench.folder.root)
    try:
        bench.images(row, benchmark, setting, split=split, folder=finished)
    except NotFinished as error:
        return sum(1 for _ in error.item.path.rglob("*.png")) if begun(error.item) else 0
    return count


def print_plan(plan: Plan, console: Console) -> None:
    """A line for each row: what is to be made of how much."""
    with commits_or_unknown() as unknown:
        amounts = to_make(plan)
    names = [*COLUMNS.values(), SCORED]
    rows = [
        Row([plan.comparison.row(row).title, *(str(of.get(name, "")) for name in names)])
        for row, of in amounts.items()
    ]
    total = {name: sum(of.get(name, Amount()).missing for of in amounts.values()) for name in names}
    rows.append(Row(["all, to make", *(str(total[name]) for name in names)], rule_above=True))
    columns = [Column("row", "name"), *(Column(name) for name in names)]
    print_fitted(console, columns, rows)
    console.print(
        "to make, of all; what rows share is told of the first. images: to train on, candidates "
        "and images of rounds among them; scored: benchmark images"
        + (
            ", to which those at each row's own best guidance are added."
            if plan.choosing is not None
            else "."
        ),
        highlight=False,
    )
    for name, config in plan.benchmarks.items():
        scores = config.scores
        console.print(f"{name}: {scores.split} split, {scores.seeds} image(s) of each prompt.")
    show_unknown(unknown)
