"""All rows made, guided and scored alike: `selma compare`.

What is finished is not made again, whichever row made it; see `sharing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from selma import processes
from selma.applications.comparisons.costs import cost_of
from selma.applications.comparisons.guiding import Setting, best
from selma.applications.comparisons.judging import judged, points_of
from selma.applications.comparisons.recipes import Plan, check
from selma.applications.comparisons.records import (
    BEST,
    TRAINING,
    Compared,
    ComparedRow,
    Cost,
    Scored,
    Verdict,
)
from selma.applications.comparisons.rows import Resources
from selma.applications.comparisons.sharing import SharedWorkspace
from selma.errors import ConfigError
from selma.images.guides.applying import parsed
from selma.progress import console
from selma.records.adapters import AppliedAdapter
from selma.records.benchmarks import Answer, BenchmarkPrompt, repeated
from selma.records.scores import Comparison as Pair
from selma.records.scores import Scorecard
from selma.runfile import installed_versions, portable
from selma.scores.benchmarks import benchmark_of, dev_benchmark_of, load_benchmark
from selma.workspace import MERGED, Workspace, kept_in_words, read_json, write_json

FILE = "comparison.json"


def compare_rows(plan: Plan, *, report: bool = True) -> tuple[Compared, Path | None]:
    """Make and score all rows. What was found, and the page; None without `report`."""
    from selma.applications.comparisons.page import gallery, write_compared

    with opened(plan) as folder:
        bench = Bench(plan, folder)
        bench.parse_prompts()
        costs = bench.make_rows()
        compared = bench.compared(costs, bench.curves())
        if not report:
            return compared, None
        shown = gallery(compared, bench)
        return compared, write_compared(compared, shown, plan.shared.report, folder)


@contextmanager
def opened(plan: Plan) -> Iterator[SharedWorkspace]:
    """The comparison's folder, locked, when nothing is wrong with any row."""
    if (count := processes.launched()[1]) > 1:
        raise ConfigError(
            f"This command works in one process, but {count} were launched. Start it by itself."
        )
    check(plan)
    folder = SharedWorkspace(plan.comparison.run_folder)
    with folder.locked():
        _write_file(plan, folder)
        yield folder


def _write_file(plan: Plan, folder: Workspace) -> None:
    rows = {
        name: {"model": recipe.row.model, "settings": portable(recipe.config, folder.root)}
        for name, recipe in plan.recipes.items()
    }
    value = {"rows": rows, "versions": installed_versions()}
    if read_json(folder.root / FILE) != value:
        write_json(folder.root / FILE, value)


class Bench:
    """Generates and judges; every row's model in turn, on every benchmark."""

    def __init__(self, plan: Plan, folder: SharedWorkspace) -> None:
        self.plan, self.folder = plan, folder
        self.resources = Resources(plan, folder.clock)
        self.adapters: dict[str, list[AppliedAdapter]] = {}
        """Row → what is applied to its base."""
        self.stages = {
            name: self.resources.stages(recipe, make=True) for name, recipe in plan.recipes.items()
        }

    @cached_property
    def training(self) -> Setting:
        """The guidance of the training images, as the shared settings have it."""
        return Setting.of(self.plan.shared.images.guidance)

    @property
    def guidances(self) -> list[Setting]:
        if self.plan.choosing is None:
            return []
        return list(dict.fromkeys(map(Setting.of, sorted(self.plan.comparison.guidances))))

    def parse_prompts(self) -> None:
        """What guides are told of all benchmarks; first, so that a missing parser shows at once."""
        for row in self.plan.comparison.rows:
            if row.guide is None:
                continue
            base = self.plan.recipes[row.name].config.base
            for benchmark in self.plan.benchmarks:
                for split in (None, "dev") if benchmark == self.plan.choosing else (None,):
                    texts = [prompt.text for prompt in self.asked(benchmark, split)]
                    parsed(texts, row.guide, self.folder, base=base)

    def make_rows(self) -> dict[str, Cost]:
        """Every row's model; what each took."""
        costs = {}
        for number, (name, recipe) in enumerate(self.plan.recipes.items(), 1):
            _say(f"row {number} of {len(self.plan.recipes)}: {name}")
            stages = self.stages[name]
            self.adapters[name] = self.resources.adapters(stages, recipe)
            # What is asked for from now on is not the model's; and uniform weights need no trial.
            but = MERGED if recipe.row.model == "uniform" else None
            costs[name] = cost_of(stages.used, self.folder, recipe.config, but=but)
        return costs

    def asked(self, benchmark: str, split: str | None = None) -> list[BenchmarkPrompt]:
        """The benchmark's prompts; of dev those that guidances are chosen on."""
        scores = self.plan.benchmarks[benchmark].scores
        if split != "dev":
            return load_benchmark(scores)
        every = scores.model_copy(update={"prompts": None})
        return load_benchmark(every, split="dev", prompts=self.plan.comparison.dev_prompts)

    def images(
        self,
        row: str,
        benchmark: str,
        setting: Setting,
        *,
        split: str | None = None,
        folder: Workspace | None = None,
    ) -> Path:
        """The folder with the row's images of a benchmark; existing ones are kept."""
        config = self.plan.benchmarks[benchmark]
        name = "-".join([benchmark, split or config.scores.split, str(setting)])
        return self.stages[row].generate(
            name,
            self.adapters[row],
            repeated(self.asked(benchmark, split), config.scores.seeds),
            folder=folder or self.folder,
            guidance=setting.guidance,
            guide=self.plan.comparison.row(row).guide,
        )

    def curves(self) -> dict[str, dict[Setting, float]]:
        """Row → guidance → its score on dev by the choosing judge; {} if none is chosen."""
        benchmark = self.plan.choosing
        if benchmark is None:
            return {}
        config = self.plan.benchmarks[benchmark]
        curves: dict[str, dict[Setting, float]] = {}
        networks = self.resources.networks(config)
        row_of_dev = dev_benchmark_of(config.scores)
        assert row_of_dev is not None, "a benchmark to choose on has dev prompts"
        measure = row_of_dev.measure
        asked = repeated(self.asked(benchmark, "dev"), config.scores.seeds)
        for number, row in enumerate(self.plan.recipes, 1):
            _say(f"dev, {number} of {len(self.plan.recipes)}: {row}")
            curves[row] = {}
            for setting in self.guidances:
                images = self.images(row, benchmark, setting, split="dev")
                judge = networks.choosing_judge
                answers = judged(
                    asked, f"dev-{row}", images, self.folder, judge=judge, networks=networks
                )
                curves[row][setting] = measure.score(points_of(answers, measure), asked)
        return curves

    def compared(
        self, costs: Mapping[str, Cost], curves: Mapping[str, Mapping[Setting, float]]
    ) -> Compared:
        """Every row on every benchmark, at each reading of the guidance."""
        plan, comparison = self.plan, self.plan.comparison
        settings = self.settings({row: best(curve) for row, curve in curves.items()})
        scored = [
            Scored(benchmark=name, reading=reading, card=self._scorecard(name, reading, of_row))
            for reading, of_row in settings.items()
            for name in plan.benchmarks
        ]
        rows = [
            ComparedRow(
                name=row.name,
                title=row.title,
                model=row.model,
                cost=costs[row.name],
                curve={str(s): score for s, score in curves.get(row.name, {}).items()},
                best=settings[BEST][row.name].guidance if BEST in settings else None,
                paper=None if row.paper is None else (row.paper.base, row.paper.method),
                over=comparison.over(row),
            )
            for row in comparison.rows
        ]
        return Compared(
            name=comparison.name,
            title=comparison.title,
            base=comparison.base_row,
            against=comparison.against,
            training_guidance=self.training.guidance,
            rows=tuple(rows),
            scored=tuple(scored),
            verdicts=tuple(self._verdicts(scored)),
            paper=comparison.paper,
            notes=comparison.notes + self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        taken = kept_in_words(self.folder.root)
        return (f"Taken as other versions made it: {taken}.",) if taken else ()

    def settings(self, own: Mapping[str, Setting]) -> dict[str, dict[str, Setting]]:
        """Reading → row → how it is guided."""
        readings = {TRAINING: dict.fromkeys(self.plan.recipes, self.training)}
        return readings | ({BEST: dict(own)} if own else {})

    def _scorecard(
        self, benchmark: str, reading: str, settings: Mapping[str, Setting]
    ) -> Scorecard:
        from selma.scores.scoring import score_models

        config, base = self.plan.benchmarks[benchmark], self.plan.comparison.base_row
        images = {}
        for number, (row, setting) in enumerate(settings.items(), 1):
            _say(f"{benchmark}, {reading} guidance, {number} of {len(settings)}: {row}, {setting}")
            images[row] = self.images(row, benchmark, setting)
        chosen_by = (label for r in self.plan.recipes.values() for label in r.config.chosen_by)
        scores = config.scores.model_copy(
            update={"chosen_by": tuple(dict.fromkeys([*config.scores.chosen_by, *chosen_by]))}
        )
        return score_models(
            self.asked(benchmark),
            images,
            scores,
            self.folder,
            roles={row: "base" if row == base else "other" for row in images},
            seed=config.seed,
            compare=self._pairs(),
            name=f"scorecard-{benchmark}-{reading}",
            networks=self.resources.networks(config),
            guidance=None if reading == BEST else self.training.guidance,
        )

    def _pairs(self) -> list[tuple[str, str]]:
        """Rows that are compared beside those with the base."""
        comparison = self.plan.comparison
        pairs = [(claim.row, claim.over) for claim in comparison.claims]
        pairs += [
            (row.name, over)
            for row in comparison.rows
            if (over := comparison.over(row)) not in (row.name, comparison.base_row)
        ]
        if (against := comparison.against) is not None:
            pairs += [(row.name, against) for row in comparison.rows if row.name != against]
        return list(dict.fromkeys(pairs))

    def _verdicts(self, scored: Sequence[Scored]) -> Iterator[Verdict]:
        for claim in self.plan.comparison.claims:
            for of in scored:
                pair = difference(of.card, claim.row, claim.over)
                assert pair is not None
                yield Verdict(
                    says=claim.says,
                    row=claim.row,
                    over=claim.over,
                    benchmark=of.benchmark,
                    reading=of.reading,
                    difference=pair.difference,
                )

    def answers(self, row: str, benchmark: str, setting: Setting) -> list[Answer]:
        """The reporting judge's answers about a row's images, with verdicts."""
        config = self.plan.benchmarks[benchmark]
        networks = self.resources.networks(config)
        asked = repeated(self.asked(benchmark), config.scores.seeds)
        images = self.images(row, benchmark, setting)
        return judged(
            asked,
            row,
            images,
            self.folder,
            judge=networks.judge,
            networks=networks,
            rules=benchmark_of(config.scores.benchmark).rules(config.scores.rules),
        )


def difference(card: Scorecard, row: str, over: str) -> Pair | None:
    """One row minus another, where the scorecard compared them."""
    pairs = (pair for pair in card.comparisons if (pair.model, pair.against) == (row, over))
    return next(pairs, None)


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False)
