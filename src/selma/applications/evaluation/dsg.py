"""DSG scores of answers in a file, by named rules. Loads no model.

The two published programs follow different rules, which move the score of the same answers by up to
six points. The rules are therefore part of the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from selma.applications.evaluation.answer_files import read_answers
from selma.config.section import require_kind
from selma.errors import ConfigError, DataError
from selma.ids import listed
from selma.paths import AnyPath, as_path
from selma.plurals import counted
from selma.records.benchmarks import Answer, BenchmarkPrompt, Question
from selma.records.record import Record
from selma.records.scores import Interval, Zeroing
from selma.scores import faithfulness, statistics
from selma.scores.benchmarks import Dependencies, read_dsg
from selma.scores.benchmarks.layouts import source_of
from selma.scores.faithfulness import Reading, Verdicts
from selma.scores.measures import DSG, Measure, Points
from selma.texts import mistake_at, quoted

Average = Literal["prompt", "question", "benchmark"]
Missing = Literal["left_out", "zero", "upstream", "refuse"]
"""How a prompt without any answer counts; a score with `refuse` has none.

- upstream: as in DSG's two programs: 0, among all prompts (t2i_eval_dsg1k.py), but among TIFA's 160
  alone where the answers are about no others (tifa160_correlation.py).
"""
TIFA160 = "tifa160"
"""The source whose prompts DSG's program for human ratings takes alone."""


class DsgRules(Record):
    """Everything besides the answers that a DSG score depends on."""

    reading: Reading = "normalised"
    """Which texts are a yes: normalised ignores case, blanks and punctuation."""
    dependencies: Dependencies = "lenient"
    zeroing: Zeroing = "cascading"
    average: Average = "prompt"
    """What the score and the groups are means over (benchmark: as its own measure weighs prompts);
    categories are always means over questions."""
    missing: Missing = "left_out"
    """How a prompt without any answer counts; only some answers to one are always an error."""


PRESETS: Mapping[str, DsgRules] = {
    "default": DsgRules(),
    # The code released with arXiv:2310.18235, where a prompt without answers scores 0.
    "upstream": DsgRules(
        reading="exact",
        dependencies="whole_item",
        zeroing="one_level",
        average="prompt",
        missing="upstream",
    ),
    # The code released with arXiv:2403.06952.
    "selma-release": DsgRules(
        reading="exact", dependencies="verbatim", zeroing="row_order", average="question"
    ),
}


def rules_of(preset: str, changes: Mapping[str, str]) -> DsgRules:
    """A preset's rules with some of them replaced. Raises ConfigError."""
    if preset not in PRESETS:
        raise ConfigError(f"A preset must be one of {', '.join(PRESETS)}, but {preset!r} came.")
    try:
        named = PRESETS[preset].model_dump(exclude_unset=True)
        return DsgRules.model_validate(named | dict(changes))
    except ValidationError as error:
        what = error.errors()[0]
        raise ConfigError(
            f"{mistake_at(what['loc'], what['msg'])}, but {quoted(what['input'])} came."
        ) from error


def score_dsg(
    annotations: AnyPath,
    answers: AnyPath,
    *,
    rules: DsgRules,
    model: str | None = None,
    seed: int = 0,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Score one model's answers. The result is ready for JSON: scores are 0-100, points 0 or 1.

    annotations: CSV in DSG-1k's layout. answers: CSV with item_id, question_id and answer; if a
    column t2i_model names several models, `model` selects one of them. Raises DataError.
    """
    annotations, answers = as_path(annotations), as_path(answers)
    require_kind(rules, DsgRules, maker="rules_of('default', {}) makes them.")
    benchmark_prompts = read_dsg(annotations, dependencies=rules.dependencies)
    given, models = read_answers(answers, model)
    return score_answers(benchmark_prompts, given, rules=rules, seed=seed, resamples=resamples) | {
        "model": model or (models[0] if models else None),
        "models_in_file": models,
    }


def score_answers(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    given: Sequence[Answer],
    *,
    rules: DsgRules,
    measure: Measure = DSG,
    beside: Sequence[Measure] = (),
    seeds: int = 1,
    seed: int = 0,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Score answers to a benchmark's questions; the result is that of `score_dsg`.

    If the rules name no average, the measure's is taken.  beside: further measures of the same
    answers.  seeds: images of each prompt, which `benchmark_prompts` then have as
    `records.benchmarks.repeated` returns them. Raises DataError.
    """
    if "average" not in rules.model_fields_set:
        average: Average = "question" if measure.over == "questions" else "prompt"
        average = average if measure.weigh is None else "benchmark"
        rules = rules.model_copy(update={"average": average})
    covered = _covered(benchmark_prompts, given, rules)
    outside = len(benchmark_prompts) - len(covered)
    asked, verdicts = verdicts_given(covered, given, rules=rules)
    answered = {answer.prompt_id for answer in given}
    points = measure.points(given, verdicts)
    bootstrap = {"seed": seed, "resamples": resamples}
    mean = _Mean(rules.average, measure, points, asked, seeds=seeds, **bootstrap)
    within = measure.category_points(given, verdicts)
    factors = measure.question_weights(asked)
    in_categories = asked[seeds - 1 :: seeds] if measure.last_image else asked
    groups: dict[str, list[str]] = defaultdict(list)
    sources: dict[str, list[str]] = defaultdict(list)
    for prompt in asked:
        for group in prompt.tags or (prompt.group,):
            groups[group].append(prompt.id)
        sources[source_of(prompt.id)].append(prompt.id)
    total, by_group = mean(verdicts), {name: mean(ids) for name, ids in sorted(groups.items())}
    return {
        "score": _rounded(total.mean),
        "interval": _ends(total),
        "standard_error": _error(total),
        "rules": rules.model_dump(),
        "groups": {name: _rounded(of_group.mean) for name, of_group in by_group.items()},
        "group_intervals": {name: _ends(of_group) for name, of_group in by_group.items()},
        "group_standard_errors": {name: _error(of_group) for name, of_group in by_group.items()},
        "group_prompts": {name: of_group.n for name, of_group in by_group.items()},
        "sources": {
            name: _rounded(mean.without_interval(ids)) for name, ids in sorted(sources.items())
        },
        "categories": _shares(in_categories, within, faithfulness.detail, factors),
        "categories_broad": _shares(in_categories, within, lambda q: q.category, factors),
        "beside": {
            further.label: _told(
                _Mean(
                    rules.average,
                    further,
                    further.points(given, verdicts),
                    asked,
                    seeds=seeds,
                    **bootstrap,
                )(verdicts)
            )
            for further in beside
        },
        "prompts": len(verdicts) // seeds,
        "questions": sum(map(len, verdicts.values())),
        "unreadable": sum(
            v == "unreadable" for of_prompt in verdicts.values() for v in of_prompt.values()
        ),
        "zeroed": sum(v == "zeroed" for of_prompt in verdicts.values() for v in of_prompt.values()),
        "covered": {"source": TIFA160, "left_out": outside} if outside else None,
        "without_answers": [prompt.id for prompt in covered if prompt.id not in answered],
        "not_in_annotations": sorted(answered - {prompt.id for prompt in benchmark_prompts}),
        "not_asked": _not_asked(benchmark_prompts, given),
        "dependency_faults": faithfulness.dependency_faults(benchmark_prompts),
        "per_prompt": {
            id: _rounded(100 * score) for id, score in measure.prompt_scores(points).items()
        },
        "per_question": {
            id: {question: _point(point) for question, point in row.items()}
            for id, row in points.items()
        },
        "verdicts": {id: dict(of_prompt) for id, of_prompt in verdicts.items()},
    }


def verdicts_given(
    benchmark_prompts: Sequence[BenchmarkPrompt], given: Sequence[Answer], *, rules: DsgRules
) -> tuple[list[BenchmarkPrompt], Verdicts]:
    """The prompts that count under the rules, and the verdict on each of their questions.

    Answers to prompts that are not in the benchmark are ignored. Raises DataError.
    """
    benchmark_prompts = _covered(benchmark_prompts, given, rules)
    answered = {answer.prompt_id for answer in given}
    known = {prompt.id for prompt in benchmark_prompts}
    silent = [prompt for prompt in benchmark_prompts if prompt.id not in answered]
    if silent and rules.missing == "refuse":
        raise DataError(
            f"Every prompt must be answered, but {counted(len(silent), 'has', 'have')} no answer, "
            f"{silent[0].id} first. Leave them out or count them as zero by name."
        )
    asked = [prompt for prompt in benchmark_prompts if prompt.id in answered]
    if not asked:
        strangers = listed(sorted(answered), known)
        raise DataError(f"The answers are about no prompt of the questions, but about {strangers}.")
    verdicts = faithfulness.verdicts_by_prompt(
        asked,
        [answer for answer in given if answer.prompt_id in known],
        zeroing=rules.zeroing,
        reading=rules.reading,
    )
    if rules.missing in ("zero", "upstream"):
        verdicts |= {prompt.id: {q.id: "no" for q in prompt.questions} for prompt in silent}
        asked = list(benchmark_prompts)
    return asked, verdicts


def _covered(
    benchmark_prompts: Sequence[BenchmarkPrompt], given: Sequence[Answer], rules: DsgRules
) -> Sequence[BenchmarkPrompt]:
    """The prompts that the rules count over: all, or TIFA's 160 alone; see `Missing`."""
    if rules.missing != "upstream":
        return benchmark_prompts
    answered = {answer.prompt_id for answer in given}
    of_tifa = [prompt for prompt in benchmark_prompts if source_of(prompt.id) == TIFA160]
    answered_prompts = [prompt for prompt in benchmark_prompts if prompt.id in answered]
    only_tifa = all(source_of(prompt.id) == TIFA160 for prompt in answered_prompts)
    return of_tifa if answered_prompts and only_tifa else benchmark_prompts


def _not_asked(
    benchmark_prompts: Sequence[BenchmarkPrompt], given: Sequence[Answer]
) -> list[list[str]]:
    """[prompt, question] of each answer to a question that a known prompt does not have."""
    asked = {prompt.id: {q.id for q in prompt.questions} for prompt in benchmark_prompts}
    return [
        [answer.prompt_id, answer.question_id]
        for answer in given
        if answer.prompt_id in asked and answer.question_id not in asked[answer.prompt_id]
    ]


class _Mean:
    """Mean scores with their intervals, over prompts or over their questions."""

    def __init__(
        self,
        average: Average,
        measure: Measure,
        points: Points,
        asked: Sequence[BenchmarkPrompt],
        *,
        seeds: int,
        **bootstrap: int,
    ) -> None:
        self.average = average
        self.measure = measure
        self.points = points
        self.asked = {prompt.id: prompt for prompt in asked}
        self.seeds = seeds
        self.bootstrap = bootstrap

    def __call__(self, ids: Iterable[str]) -> Interval:
        return statistics.interval(*self._terms(ids), **self.bootstrap)

    def without_interval(self, ids: Iterable[str]) -> float:
        """The mean score alone: its interval takes most of the time."""
        totals, sizes = self._terms(ids)
        total = float(totals.mean(axis=1).sum())
        return total / (sum(sizes) if sizes else len(totals))

    def _terms(self, ids: Iterable[str]) -> tuple[NDArray[np.float64], list[float] | None]:
        """[prompts, seeds], what each image adds, and what each prompt weighs."""
        chosen = {id: self.points[id] for id in ids}
        shares = 100 * statistics.by_prompt(self.measure.prompt_scores(chosen).values(), self.seeds)
        weights = self._weights([self.asked[id] for id in chosen][:: self.seeds])
        return (shares if weights is None else shares * np.array(weights)[:, None]), weights

    def _weights(self, prompts: Sequence[BenchmarkPrompt]) -> list[float] | None:
        if self.average == "question":
            return [float(len(prompt.questions)) for prompt in prompts]
        return self.measure.weights(prompts) if self.average == "benchmark" else None


def _told(interval: Interval) -> dict[str, Any]:
    ends, error = _ends(interval), _error(interval)
    return {"score": _rounded(interval.mean), "interval": ends, "standard_error": error}


def _point(point: float) -> float:
    """A point as results have it: 0 and 1 as integers."""
    return int(point) if point in (0, 1) else round(point, 4)


def _rounded(score: float) -> float:
    return round(score, 4)


def _ends(interval: Interval) -> list[float]:
    return [_rounded(interval.low), _rounded(interval.high)]


def _error(interval: Interval) -> float | None:
    return None if interval.standard_error is None else _rounded(interval.standard_error)


def _shares(
    benchmark_prompts: Iterable[BenchmarkPrompt],
    points: Points,
    category: Callable[[Question], str],
    factors: Mapping[str, float],
) -> dict[str, float]:
    """Category → score over its questions, which weigh as `factors` of their prompts say."""
    earned: dict[str, float] = defaultdict(float)
    weights: dict[str, float] = defaultdict(float)
    for prompt in benchmark_prompts:
        for question in prompt.questions:
            name, factor = category(question), factors[prompt.id]
            earned[name] += factor * points[prompt.id][question.id]
            weights[name] += factor
    return {name: _rounded(100 * earned[name] / weights[name]) for name in sorted(earned)}
