"""Experts' weights and one global scale by score: merges are scored by a function that is handed
in, and CMA-ES (arXiv:1604.00772, by the package cma) proposes the next ones; of the scale alone,
halving the gaps beside the best does.

    5-scores/search/trials.jsonl        every trial: weights, scale, score; uniform weights first
    4-merged/trials.jsonl               those that the best was taken from; in the manifest as well
    4-merged/uniform/                   the same merge with uniform weights, to be compared with

A trial follows from the seed and the scores before it alone. So a search that was stopped goes on
where it was, and a larger budget goes on from a smaller one.
"""

from __future__ import annotations

import itertools
import math
import shutil
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selma.config.merged import MergedConfig, WeightSearch
from selma.disk import make_folder, read_regular
from selma.errors import ConfigError, DataError
from selma.merged.merging import (
    DIAGNOSTICS_FILE,
    by_skill,
    merge_recipe,
    merge_weights,
    merged_file,
    read_experts,
    write_merged,
)
from selma.merged.planning import planned
from selma.paths import AnyPath, as_path
from selma.progress import progress
from selma.record_files import read_rows
from selma.records.experts import Expert
from selma.records.merged import TRIAL, UNIFORM, Merged
from selma.records.rows import TrialRow
from selma.workspace import (
    MERGED,
    SCORES,
    Item,
    Workspace,
    append_lines,
    recipe_key,
    whole_recipe,
    write_bytes,
    write_json,
)

if TYPE_CHECKING:
    from selma.merged.merging import AnyFile

TRIALS = "trials.jsonl"

Point = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """One merge that was scored."""

    trial: int
    """0 has uniform weights and scale 1."""
    weights: Mapping[str, float]
    scale: float
    score: float
    """On the dev split, 0-100."""


def merge_searched(
    experts: Sequence[Expert],
    config: MergedConfig,
    folder: Workspace,
    *,
    dev_score: Callable[[Path], float],
    scored_by: Mapping[str, Any],
) -> Merged:
    """The best of `config.search.trials` merges by `dev_score` (an adapter's folder → higher is
    better), in `4-merged`; of equal scores the earliest.

    scored_by: all that a score depends on beside the adapter. Raises ConfigError where there is
    nothing to search, and DataError for a score that is no number.
    """
    assert config.search is not None
    by_name = by_skill(experts, config)
    keys = {skill: expert.key for skill, expert in by_name.items()}
    recipe = {
        **merge_recipe(keys, planned(config, {})),
        "search": _told(config.search),
        "scored_by": dict(scored_by),
    }
    item = folder.item(MERGED, recipe=recipe | {"trials": config.search.trials})
    if not item.done:
        record = folder.item(SCORES, "search", recipe=recipe)
        _search_and_write(item, record, by_name, config, dev_score=dev_score)
    return _merged(item, keys, config)


def _told(config: WeightSearch) -> dict[str, Any]:
    """The settings that trials depend on; that weights are searched goes without saying."""
    without = {"trials", *(("weights",) if config.weights else ())}
    return config.model_dump(mode="json", exclude=without)


def best(trials: Sequence[Trial]) -> Trial:
    """The highest score; of equal ones the earliest, so that uniform weights stay unless beaten."""
    return max(trials, key=lambda trial: (trial.score, -trial.trial))


def read_trials(folder: AnyPath) -> list[Trial]:
    """The trials in a merge's folder; [] if its weights were not searched."""
    folder = as_path(folder)
    return [Trial(**row) for row in read_rows(folder / TRIALS, TrialRow, repair=True)]


class Space:
    """Points of the search as weights and scale, with 0 for uniform weights and scale 1.

    Weights are their default sum times a softmax, so that all are positive; T experts need T - 1
    coordinates, along directions that treat no expert differently. The scale is exp of the last
    one, held within its bounds.
    """

    def __init__(self, uniform: Mapping[str, float], config: WeightSearch) -> None:
        self.skills = sorted(uniform)
        self.total = sum(uniform.values())
        self.config = config
        self.directions = contrasts(len(self.skills) if config.weights else 1, of=len(self.skills))
        free = self.directions.shape[1] + (config.scale is not None)
        if not free:
            raise ConfigError(
                "merged.search needs two experts or more, or a scale to search, but there is one "
                "expert and merged.search.scale is null."
            )
        self.size = max(2, free)  # CMA-ES is not made for one dimension; the second is ignored

    def at(self, point: Point) -> tuple[dict[str, float], float]:
        """Skill → weight, and the scale."""
        logits = self.directions @ point[: self.directions.shape[1]]
        shares = np.exp(logits - logits.max())
        shares *= self.total / shares.sum()
        weights = dict(zip(self.skills, map(float, shares), strict=True))
        if self.config.scale is None:
            return weights, 1.0
        low, high = self.config.scale
        return weights, min(max(math.exp(point[self.directions.shape[1]]), low), high)


def contrasts(count: int, *, of: int | None = None) -> Point:
    """[of or count, count - 1]: orthonormal columns, each of sum 0 (Helmert's)."""
    columns = np.zeros((of or count, count - 1))
    for k in range(1, count):
        columns[:k, k - 1] = 1
        columns[k, k - 1] = -k
        columns[:, k - 1] /= math.sqrt(k * (k + 1))
    return columns


def proposals(size: int, config: WeightSearch) -> Generator[Point, float, None]:
    """Points to try, the origin first; send the score of each to have the next."""
    if not config.weights and config.scale is not None:
        return halvings(*map(math.log, config.scale))
    return _by_cma(size, config)


def halvings(low: float, high: float) -> Generator[Point, float, None]:
    """0 and both bounds; then the middle of the wider gap beside the best so far, the lower gap of
    equal ones. Of equal scores the point nearest to 0 is the best."""
    scores: dict[float, float] = {}
    for point in (0.0, low, high):
        scores[point] = yield np.array([point])
    while True:
        points = sorted(scores)
        best_one = points.index(min(points, key=lambda point: (-scores[point], abs(point))))
        around = points[max(0, best_one - 1) : best_one + 2]
        start, end = max(itertools.pairwise(around), key=lambda gap: gap[1] - gap[0])
        scores[(start + end) / 2] = yield np.array([(start + end) / 2])


def _by_cma(size: int, config: WeightSearch) -> Generator[Point, float, None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no matplotlib to plot with
        import cma

    # numpy's global stream would be moved on by whoever generates images between two trials.
    stream = np.random.default_rng(config.seed)
    strategy = cma.CMAEvolutionStrategy(
        size * [0.0],
        config.spread,
        {
            "randn": lambda rows, columns: stream.standard_normal((rows, columns)),
            "seed": math.nan,
            "verbose": -9,
        },
    )
    yield np.zeros(size)
    while True:
        points = strategy.ask()
        scores = []
        for point in points:
            score = yield point
            scores.append(score)
        strategy.tell(points, [-score for score in scores])  # it looks for the smallest


def search(
    uniform: Mapping[str, float],
    config: WeightSearch,
    folder: Path,
    *,
    score: Callable[[Mapping[str, float], float], float],
) -> list[Trial]:
    """All trials; those on record in `folder` are not made again, and each new one is added."""
    space = Space(uniform, config)
    known = read_trials(folder)[: config.trials]
    trials: list[Trial] = []
    points = proposals(space.size, config)
    point = next(points)
    with progress("searching weights", total=config.trials, done=len(known)) as advance:
        for number in range(config.trials):
            # The origin would be uniform but for the last digit.
            weights, scale = space.at(point) if number else (dict(uniform), 1.0)
            if number < len(known):
                trials.append(_same(known[number], number, weights, scale, folder))
            else:
                trials.append(Trial(number, weights, scale, _number(score(weights, scale), number)))
                append_lines(folder / TRIALS, [asdict(trials[-1])])
                advance(note=f"best {best(trials).score:.2f}")
            point = points.send(trials[-1].score)
    return trials


def _same(
    known: Trial, number: int, weights: Mapping[str, float], scale: float, folder: Path
) -> Trial:
    """The trial on record, if it is the one that would be made now."""
    near = known.trial == number and known.weights.keys() == weights.keys()
    near = near and math.isclose(known.scale, scale, rel_tol=1e-6)
    if near and all(math.isclose(known.weights[s], w, rel_tol=1e-6) for s, w in weights.items()):
        return known
    raise DataError(
        f"{folder / TRIALS} holds another search: its trial {number} has the weights "
        f"{dict(known.weights)}, but {dict(weights)} would be tried. Remove {folder} to search "
        "anew."
    )


def _number(score: float, number: int) -> float:
    if not math.isfinite(score):
        raise DataError(f"A score must be a number, but trial {number} has {score}.")
    return float(score)


def _search_and_write(
    item: Item,
    record: Item,
    by_name: Mapping[str, Expert],
    config: MergedConfig,
    *,
    dev_score: Callable[[Path], float],
) -> None:
    """Search, and leave the best merge with its trials, and uniform weights where they lost."""
    assert config.search is not None
    files = read_experts(by_name, planned(config, {}))
    keys = {skill: expert.key for skill, expert in by_name.items()}
    write = partial(_write, files=files, keys=keys, config=config)
    item_folder = item.begin()

    def score_of(weights: Mapping[str, float], scale: float) -> float:
        write(item_folder / TRIAL, weights, scale, diagnose=False)
        return dev_score(item_folder / TRIAL)

    uniform = merge_weights(list(by_name), config)
    trials = search(uniform, config.search, record.begin(), score=score_of)
    shutil.rmtree(item_folder / TRIAL, ignore_errors=True)
    chosen = best(trials)
    written, diagnostics = write(item_folder, chosen.weights, chosen.scale)
    write_json(item_folder / DIAGNOSTICS_FILE, diagnostics)
    lines = read_regular(record.path / TRIALS).splitlines(keepends=True)
    write_bytes(item_folder / TRIALS, b"".join(lines[: config.search.trials]))
    written += [item_folder / DIAGNOSTICS_FILE, item_folder / TRIALS]
    if chosen.trial:
        written += write(item_folder / UNIFORM, uniform, 1.0)[0]
    item.finish(
        written,
        {
            "experts": len(files),
            "layers": len(diagnostics["layers"]),
            "chosen": asdict(chosen),
            "trials": [asdict(trial) for trial in trials],
        },
    )


def _write(
    folder: Path,
    weights: Mapping[str, float],
    scale: float,
    *,
    files: Mapping[str, AnyFile],
    keys: Mapping[str, str],
    config: MergedConfig,
    diagnose: bool = True,
) -> tuple[list[Path], dict[str, Any]]:
    """Write the merge with these weights; its files and its diagnostics."""
    make_folder(folder)
    plan = planned(_plain(config, weights, scale), weights)
    recipe = merge_recipe(keys, plan)
    return write_merged(files, plan, merged_file(plan, folder), made_by=recipe, diagnose=diagnose)


def _plain(config: MergedConfig, weights: Mapping[str, float], scale: float) -> MergedConfig:
    """The settings that would have given this very merge without a search."""
    return config.model_copy(update={"search": None, "weights": dict(weights), "scale": scale})


def _merged(item: Item, keys: Mapping[str, str], config: MergedConfig) -> Merged:
    chosen = item.summary["chosen"]
    uniform = None
    if chosen["trial"]:
        weights = merge_weights(list(keys), config)
        plan = planned(_plain(config, weights, 1.0), weights)
        uniform = Merged(
            folder=item.path / UNIFORM,
            key=recipe_key(whole_recipe(MERGED, merge_recipe(keys, plan))),
            method=config.method,
            weights=weights,
        )
    return Merged(
        folder=item.path,
        key=item.key,
        method=config.method,
        weights=chosen["weights"],
        scale=chosen["scale"],
        uniform=uniform,
    )
