"""The scorecard: every model's scores with intervals, and their differences to the base.

5-scores/scorecard/scorecard.json    the record
5-scores/scorecard/verdicts.jsonl    how each answer counted
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from selma import processes
from selma.backbones.judges import matching
from selma.backbones.judges.judge import Judge
from selma.config.scores import ScoresConfig, judge_name
from selma.errors import DataError
from selma.records.benchmarks import Answer, BenchmarkPrompt, repeated
from selma.records.scores import Comparison, Interval, Scorecard
from selma.row_files import write_rows
from selma.scores import faithfulness, statistics
from selma.scores.answering import (
    answer_item,
    ask,
    benchmark_hash,
    clip_item,
    has_choices,
    read_answer_file,
    read_clip_file,
)
from selma.scores.benchmarks import Benchmark, benchmark_of
from selma.scores.benchmarks.published import published
from selma.scores.faithfulness import Verdicts, Zeroing
from selma.scores.measures import DSG, TIFA, Measure, Points
from selma.scores.model_score import ModelIntervals, Role
from selma.scores.networks import ScoringNetworks
from selma.scores.preference import (
    Preferences,
    intervals,
    score_preferences,
    warn_of_choosers,
)
from selma.scores.soft import (
    of_whole_prompts,
    soft_difference,
    soft_interval,
    soft_scores,
    whole_prompt_questions,
)
from selma.scores.statistics import by_prompt
from selma.scores.tifa import Matcher, match_choices
from selma.workspace import SCORES, Item, Workspace, inside, manifest, read_lines, write_json


def score_models(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    images: Mapping[str, Path],
    config: ScoresConfig,
    folder: Workspace,
    *,
    roles: Mapping[str, str],
    seed: int,
    benchmark: Benchmark | None = None,
    compare: Sequence[tuple[str, str]] = (),
    name: str = "scorecard",
    networks: ScoringNetworks | None = None,
) -> Scorecard:
    """Score every model on the benchmark: the base first, the merged one last.

    images: model → finished item with one <id>.png for each prompt of
    `repeated(benchmark_prompts, config.seeds)`. roles: model → "base" (exactly one), "expert",
    "merged" or "other". benchmark: the prompts' benchmark; None takes the settings'. compare: pairs
    of models, the first of which is also compared with the second. name: of the scorecard's item.
    networks: None takes the settings'. Raises DataError for an image that is missing or broken, so
    that no denominator shrinks.
    """
    if not all(prompt.questions for prompt in benchmark_prompts):
        raise DataError(
            "Every benchmark prompt needs questions, but some have none. Let a language model "
            "write them first: `selma questions`."
        )
    benchmark = benchmark or benchmark_of(config.benchmark)
    models = _in_order(images, roles)
    networks = networks or ScoringNetworks(config)
    judge, second = networks.judge, networks.second_judge
    asked = repeated(benchmark_prompts, config.seeds)
    whole_prompts = whole_prompt_questions(asked, config.vqascore) if config.vqascore else []
    answered, second_answers, clips, whole_answers = {}, {}, {}, {}
    for model in models:
        generated = images[model]
        answered[model] = answer_item(
            asked, model, generated, judge, folder, words=config.choices_prompt
        )
        second_answers[model] = answer_item(
            asked,
            model,
            generated,
            second,
            folder,
            what="second-answers",
            words=config.choices_prompt,
        )
        if whole_prompts:
            whole_answers[model] = answer_item(
                whole_prompts, model, generated, judge, folder, what="vqascore"
            )
        if networks.clip:
            clips[model] = clip_item(asked, model, generated, networks.clip, folder)
    matcher_name = config.matcher if has_choices(benchmark_prompts) else None
    published_name = published(benchmark_prompts)
    in_order = {model: images[model] for model in models}
    preferences = score_preferences(asked, in_order, config, folder, load=networks.load.preference)
    item = folder.item(
        SCORES,
        name,
        recipe={
            "prompts": benchmark_hash(benchmark_prompts),
            "answers": {model: done.key for model, done in answered.items()},
            "second_answers": {model: done.key for model, done in second_answers.items()},
            "clip": {model: done.key for model, done in clips.items()},
            "vqascore": {model: done.key for model, done in whole_answers.items()},
            "roles": models,
            "config": config.model_dump(mode="json", include={"zeroing", "resamples", "split"}),
            "benchmark": _benchmark_name(config),
            "judges": [judge.name, second.name],
            "interval": "BCa, jackknife",
            "seed": seed,
            "matcher": matcher_name and matching.matcher_identity(matcher_name),
            "preferences": {p.about.label: p.keys for p in preferences},
            "chosen_by": config.chosen_by,
            "published": published_name,
            "compare": [list(pair) for pair in compare],
            "seeds": config.seeds,
            # DSG's and TIFA's follow from the questions.
            "measure": None if benchmark.measure in (DSG, TIFA) else benchmark.measure.label,
        },
    )
    with processes.main_first():
        if not item.done:
            warn_of_choosers(config)
            item.begin()
            matcher = networks.matcher if matcher_name else None
            answers = {model: _answers(asked, answered[model], matcher) for model in models}
            card, verdicts, points = _scorecard(
                benchmark_prompts,
                benchmark,
                config,
                models,
                answers,
                second_answers,
                clips,
                preferences,
                published_name,
                seed=seed,
            )
            bootstrap = {"seed": seed, "resamples": config.resamples}
            comparisons = _comparisons(
                asked, benchmark.measure, points, compare, config.seeds, bootstrap
            )
            card = card.model_copy(update={"comparisons": comparisons})
            card = _with_soft_scores(card, asked, answered, whole_answers, bootstrap)
            _write(item, card, verdicts, answers)
    return Scorecard.model_validate_json((item.path / "scorecard.json").read_text("utf-8"))


def read_answers(folder: Workspace, model: str, *, name: str = "scorecard") -> list[Answer]:
    """The reporting judge's answers about one model's images, in the benchmark's order.

    They have verdicts if the scorecard of this name was made from these very answers. Raises
    DataError if there are none.
    """
    answer_folder = inside(folder.root, f"{SCORES}/answers/{model}")
    answers = read_answer_file(answer_folder)
    if not answers:
        raise DataError(
            f"{answer_folder} must hold answers, but has none. Run the scores stage first."
        )
    card = inside(folder.root, f"{SCORES}/{name}")
    key = manifest(answer_folder).get("key")
    made_from = manifest(card).get("recipe", {}).get("answers", {})
    if key is None or made_from.get(model) != key:
        return answers
    rows = read_lines(card / "verdicts.jsonl")
    row_of = {row["prompt"]: row for row in rows if row["model"] == model}
    return [
        answer.model_copy(
            update={
                "verdict": row_of[answer.prompt_id]["verdicts"][answer.question_id],
                "choice": row_of[answer.prompt_id].get("matched", {}).get(answer.question_id),
            }
        )
        for answer in answers
    ]


def benchmark_score(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    images: Path,
    *,
    judge: Judge,
    zeroing: Zeroing = "cascading",
    measure: Measure = DSG,
) -> float:
    """Score one folder of images, 0-100, to choose a checkpoint by it; nothing is written."""
    answers = ask(benchmark_prompts, images, judge)
    verdicts = faithfulness.verdicts_by_prompt(benchmark_prompts, answers, zeroing=zeroing)
    return measure.score(measure.points(answers, verdicts))


def _in_order(images: Mapping[str, Path], roles: Mapping[str, str]) -> dict[str, Role]:
    """Model → role, the base first and the merged one last."""
    rank = {"base": 0, "expert": 1, "other": 2, "merged": 3}
    unknown = [model for model in images if roles.get(model) not in rank]
    bases = [model for model in images if roles.get(model) == "base"]
    if unknown or len(bases) != 1:
        raise DataError(
            f"Each model needs a role out of {', '.join(rank)}, and exactly one must be the base, "
            f"but without a role: {unknown or 'none'}, bases: {bases or 'none'}."
        )
    order = sorted(images, key=lambda model: rank[roles[model]])
    return {model: cast(Role, roles[model]) for model in order}


def _scorecard(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    benchmark: Benchmark,
    config: ScoresConfig,
    models: Mapping[str, Role],
    answers: Mapping[str, list[Answer]],
    second_answers: Mapping[str, Item],
    clips: Mapping[str, Item],
    preferences: Sequence[Preferences],
    published_name: str | None,
    *,
    seed: int,
) -> tuple[Scorecard, dict[str, Verdicts], dict[str, Points]]:
    """The scorecard, model → verdicts, and model → points."""
    asked = repeated(benchmark_prompts, config.seeds)
    verdicts: dict[str, Verdicts] = {
        model: faithfulness.verdicts_by_prompt(asked, given, zeroing=config.zeroing)
        for model, given in answers.items()
    }
    points: dict[str, Points] = {
        model: benchmark.measure.points(given, verdicts[model]) for model, given in answers.items()
    }
    clip_scores = {model: read_clip_file(item.path) for model, item in clips.items()}
    base = next(iter(models))
    model_intervals = ModelIntervals(
        asked,
        benchmark.measure,
        seeds=config.seeds,
        seed=seed,
        resamples=config.resamples,
        detailed=published_name is not None,
    )
    card = Scorecard(
        benchmark=_benchmark_name(config),
        split=config.split if "dev" in benchmark.splits else "all",
        judge=judge_name(config.judge),
        second_judge=judge_name(config.choosing_judge),
        prompts=len(benchmark_prompts),
        questions=sum(len(prompt.questions) for prompt in benchmark_prompts),
        seeds=config.seeds,
        models=tuple(
            model_intervals.model_score(
                model,
                role,
                points[model],
                clip_scores.get(model),
                base=None if model == base else (points[base], clip_scores.get(base)),
            ).model_copy(
                update={"unreadable": _unreadable(verdicts[model])}
                | intervals(
                    preferences,
                    model,
                    base=None if model == base else base,
                    seeds=config.seeds,
                    **model_intervals.bootstrap,
                )
            )
            for model, role in models.items()
        ),
        agreement=_agreement(asked, answers, second_answers),
        zeroing=config.zeroing,
        measure=benchmark.measure.label,
        matcher=config.matcher if has_choices(benchmark_prompts) else None,
        dependency_faults=faithfulness.dependency_faults(benchmark_prompts),
        published=published_name,
        preferences=tuple(preference.about for preference in preferences),
        clip_chose="clip" in config.chosen_by,
    )
    return card, verdicts, points


def _unreadable(verdicts: Verdicts) -> int:
    return sum(v == "unreadable" for of_prompt in verdicts.values() for v in of_prompt.values())


def _comparisons(
    asked: Sequence[BenchmarkPrompt],
    measure: Measure,
    points: Mapping[str, Points],
    pairs: Sequence[tuple[str, str]],
    seeds: int,
    bootstrap: dict[str, int],
) -> tuple[Comparison, ...]:
    comparisons = []
    for model, against in pairs:
        after, before = (
            100 * by_prompt(measure.prompt_scores(points[name]).values(), seeds)
            for name in (model, against)
        )
        if measure.over == "questions":
            sizes = np.array([len(prompt.questions) for prompt in asked][::seeds])
            after, before = (sizes[:, None] * percent for percent in (after, before))
            difference = statistics.paired_difference(after, before, sizes, **bootstrap)
        else:
            difference = statistics.paired_difference(after, before, **bootstrap)
        comparisons.append(Comparison(model=model, against=against, difference=difference))
    return tuple(comparisons)


def _with_soft_scores(
    card: Scorecard,
    asked: Sequence[BenchmarkPrompt],
    answered: Mapping[str, Item],
    whole_answers: Mapping[str, Item],
    bootstrap: dict[str, int],
) -> Scorecard:
    """The scorecard with the soft scores, if the judge gives probabilities."""
    fields: dict[str, dict[str, Interval | None]] = {model: {} for model in answered}
    for name, items in (("soft", answered), ("vqascore", whole_answers)):
        scores = {
            model: of_whole_prompts(soft_scores(read_answer_file(item.path)), asked, card.seeds)
            for model, item in items.items()
        }
        base = next(iter(scores.values()), {})
        for number, (model, of_model) in enumerate(scores.items()):
            fields[model][name] = soft_interval(of_model, seeds=card.seeds, **bootstrap)
            if number:
                change = soft_difference(of_model, base, seeds=card.seeds, **bootstrap)
                fields[model][f"{name}_difference"] = change
    models = tuple(
        model_score.model_copy(update=fields[model_score.model]) for model_score in card.models
    )
    return card.model_copy(update={"models": models})


def _answers(
    benchmark_prompts: Sequence[BenchmarkPrompt], item: Item, matcher: Matcher | None
) -> list[Answer]:
    answers = read_answer_file(item.path)
    return match_choices(benchmark_prompts, answers, matcher) if matcher else answers


def _agreement(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    first: Mapping[str, list[Answer]],
    second: Mapping[str, Item],
) -> float:
    """Share of questions about all models' images that both judges answer alike."""
    asked = {(prompt.id, q.id): q for prompt in benchmark_prompts for q in prompt.questions}

    def word(answer: Answer) -> str | None:
        return faithfulness.understood(asked[answer.prompt_id, answer.question_id], answer.text)

    same = [
        word(answer) == word(other)
        for model, answers in first.items()
        for answer, other in zip(answers, read_answer_file(second[model].path), strict=True)
    ]
    return round(sum(same) / len(same), 6)


def _benchmark_name(config: ScoresConfig) -> str:
    # The file's name alone: results hold no machine's paths; the prompts' hash tells files apart.
    return Path(config.benchmark).name


def _write(
    item: Item,
    card: Scorecard,
    verdicts: Mapping[str, Verdicts],
    answers: Mapping[str, list[Answer]],
) -> None:
    files = [item.path / "scorecard.json", item.path / "verdicts.jsonl"]
    write_json(files[0], card.model_dump(mode="json"))
    matched: dict[tuple[str, str], dict[str, str]] = {}
    for model, given in answers.items():
        for answer in given:
            if answer.choice is not None:
                choices = matched.setdefault((model, answer.prompt_id), {})
                choices[answer.question_id] = answer.choice
    rows: list[dict[str, Any]] = [
        {"model": model, "prompt": prompt, "verdicts": dict(of_prompt)}
        | ({"matched": matched[model, prompt]} if (model, prompt) in matched else {})
        for model, of_model in verdicts.items()
        for prompt, of_prompt in of_model.items()
    ]
    write_rows(files[1], rows)
    item.finish(files, {"models": len(card.models), "dependency_faults": card.dependency_faults})
