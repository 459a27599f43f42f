"""A benchmark's scores of a folder of images by any judge; no run is needed.

Images are named by their prompt: <item_id>.png, .jpg as DSG's own program expects, or any other
format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import TypeAdapter, ValidationError

from selma.applications.evaluation.answer_cache import AnswerCache, RawAnswer
from selma.applications.evaluation.dsg import DsgRules, score_answers
from selma.applications.evaluation.grids import cut_grids, grid_of
from selma.backbones.judges import loading as judging
from selma.backbones.judges.judge import Chooser, Judge, Spelled, possible
from selma.backbones.judges.wordings import MultipleChoice
from selma.config.scores import (
    SHORT_JUDGES,
    AnyJudge,
    DetectorJudge,
    LocalJudge,
    ScoresConfig,
)
from selma.config.section import first_mistakes, require_kind
from selma.config.yaml_files import read_yaml
from selma.errors import ConfigError, DataError, ModelError
from selma.ids import listed
from selma.image_names import list_images, say_left_out
from selma.paths import AnyPath, as_path, require_path
from selma.records.benchmarks import Answer, BenchmarkPrompt, Question, repeated
from selma.records.scores import Interval
from selma.scores.answering import (
    WORDS,
    has_choices,
    has_spellings,
    require_speller,
    warn_of_unread,
)
from selma.scores.benchmarks import (
    Benchmark,
    benchmark_of,
    counted,
    load_benchmark,
    read_dsg,
)
from selma.scores.benchmarks.dsg import DSG
from selma.scores.benchmarks.layouts import Rules, RulesName, require_agreement
from selma.scores.describing import describe, known_of
from selma.scores.networks import Loaders
from selma.scores.soft import of_whole_prompts, soft_interval, soft_scores, whole_prompt_questions
from selma.scores.tifa import match_choices
from selma.texts import mistake_at, quoted


def score_images(
    images: AnyPath,
    *,
    benchmark: str = "toybox",
    split: str = "test",
    judge: AnyJudge = "toybox-a",
    rules: DsgRules,
    counting: RulesName = "sound",
    grid: str | None = None,
    answers: AnyPath | None = None,
    vqascore: str | None = None,
    choices_prompt: str = WORDS,
    matcher: str | None = None,
    seed: int = 0,
    resamples: int = 10_000,
    load: Loaders | None = None,
) -> dict[str, Any]:
    """Ask a judge about a folder of images, and score its answers by `rules`.

    Returns the fields of `score_dsg` with the judge, its raw answers and the soft scores.
    counting: the benchmark's own rules; what `rules` name must agree with them.  grid: "2x2" where
    each file is a grid of that many columns and rows of images of one prompt, which are cut apart.
    answers: folder of the answer cache; None is <images>-answers. vqascore: wording of one further
    question about the whole prompt. choices_prompt, matcher: for multiple-choice questions, as in
    `scores` of a run's settings. Raises DataError, ConfigError or ModelError.
    """
    require_kind(rules, DsgRules, maker="rules_of('default', {}) makes them.")
    images = as_path(images)
    answers = None if answers is None else as_path(answers)
    require_path(benchmark)
    row = benchmark_of(benchmark)
    counted_by = row.rules(counting)
    counting_rules = _with_own(rules, counted_by, counting)
    benchmark_prompts = _prompts(benchmark, row, split, rules)
    files, strangers = images_of(images, benchmark_prompts)
    generated = [prompt for prompt in benchmark_prompts if prompt.id in files]
    if not generated or (rules.missing == "refuse" and len(generated) < len(benchmark_prompts)):
        missing = [prompt.id for prompt in benchmark_prompts if prompt.id not in files]
        raise DataError(
            f"{images} must hold an image of every prompt, but {len(missing)} of "
            f"{len(benchmark_prompts)} "
            f"are missing, {missing[0]}.png first. "
            + (f"It has images of no prompt: {listed(strangers, missing)}. " if strangers else "")
            + "Generate them"
            + (", or say that missing ones are left_out or count as zero." if generated else ".")
        )
    answers = answers or images.with_name(f"{images.resolve().name}-answers")
    seeds = 1
    if grid is not None:
        columns, rows = grid_of(grid)
        seeds = columns * rows
        files = cut_grids(files, answers / "cells", columns=columns, rows=rows)
        generated, benchmark_prompts = (
            repeated(prompts, seeds) for prompts in (generated, benchmark_prompts)
        )
    load = load or Loaders()
    network = load.judge(judge, setting="judge")
    answer_cache = AnswerCache(answers, network)
    if has_spellings(generated):
        speller = _KeyedSpeller(network, generated)
        told = ask(AnswerCache(answers, speller), generated, files, _spelling_key)
        given = [_untold(answer) for answer in told]
    elif has_choices(generated):
        chooser = _KeyedChooser(network, generated, choices_prompt)
        choice_cache = AnswerCache(answer_cache.folder, chooser)
        given = ask(choice_cache, generated, files, _offer_key(choices_prompt))
        if matcher:
            given = match_choices(generated, given, load.matcher(matcher))
    else:
        warn_of_unread(network, generated)
        given = ask(answer_cache, generated, files)
    bootstrap = {"seed": seed, "resamples": resamples}
    counting_prompts = repeated(
        counted(benchmark_prompts[::seeds], counted_by, named=benchmark), seeds
    )
    known = {(prompt.id, q.id) for prompt in counting_prompts for q in prompt.questions}
    result = score_answers(
        counting_prompts,
        [answer for answer in given if (answer.prompt_id, answer.question_id) in known],
        rules=counting_rules,
        measure=counted_by.measure,
        beside=counted_by.beside,
        seeds=seeds,
        **bootstrap,
    )
    result |= {
        "benchmark": Path(benchmark).name,
        "split": split if "dev" in row.splits else "all",
        "measure": counted_by.measure.label,
        "counting": counting,
        "counting_about": counted_by.about,
        "images_of_each": seeds,
        "judge": network.name,
        "judge_fingerprint": network.fingerprint,
        "judge_info": describe(network, generated, choices=choices_prompt).model_dump(mode="json"),
        "known": known_of(row, judge, benchmark, _as_published(benchmark, row, split, rules)),
        "images": len(generated),
        "soft": _plain(
            soft_interval(
                of_whole_prompts(soft_scores(given, generated), generated, seeds),
                seeds=seeds,
                **bootstrap,
            )
        ),
        "answers": _raw(given),
        "images_of_no_prompt": strangers,
    }
    if has_choices(generated):
        result |= {"choices_prompt": choices_prompt, "matcher": matcher}
    if vqascore is not None:
        whole = whole_prompt_questions(generated, vqascore)
        warn_of_unread(network, whole)
        whole_answers = ask(answer_cache, whole, files)
        scores = of_whole_prompts(soft_scores(whole_answers, whole), whole, seeds)
        result |= {
            "vqascore": _plain(soft_interval(scores, seeds=seeds, **bootstrap)),
            "vqascore_wording": vqascore,
            "vqascore_per_prompt": {id: round(100 * score, 4) for id, score in scores.items()},
        }
    return result


def _with_own(rules: DsgRules, own: Rules, counting: RulesName) -> DsgRules:
    """The rules, with those of the benchmark's that say otherwise. Raises ConfigError where what
    is named is another than released rules have."""
    for field in ("zeroing", "reading") if counting == "released" else ():
        named = getattr(rules, field) if field in rules.model_fields_set else None
        require_agreement(own, field, named, key=field)
    changes: dict[str, Any] = {} if own.zeroing is None else {"zeroing": own.zeroing}
    changes |= {"reading": own.reading} if own.reading != "normalised" else {}
    return rules.model_copy(update=changes)


def judge_from(text: str) -> AnyJudge:
    """The settings of the judge that a command names: toybox-a, toybox-b, a short name, a YAML file
    as in `scores.judge`, or a model's folder or Hub id. Raises ConfigError."""
    require_path(text)
    row = judging.JUDGES.get(text)
    if row is not None and row.settings is None:
        return text
    if text in SHORT_JUDGES:
        return LocalJudge.model_validate(SHORT_JUDGES[text])
    path = Path(text)
    if path.suffix.lower() not in (".yaml", ".yml"):
        return LocalJudge(model=text)
    try:
        raw = read_yaml(path)
        if raw is None:
            raise ValueError("it is empty")
        judge: AnyJudge = TypeAdapter(AnyJudge).validate_python(raw)
    except (OSError, ValueError) as error:
        lines = (
            "; ".join(first_mistakes(error, lambda e: mistake_at(e["loc"], e["msg"]))[1])
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise ConfigError(f"{path} must hold a judge's settings, but: {lines}.") from error
    if isinstance(judge, LocalJudge | DetectorJudge) and (path.parent / judge.model).is_dir():
        return judge.model_copy(update={"model": str(path.parent / judge.model)})
    return judge


class _KeyedChooser:
    """A judge of multiple-choice questions behind the interface of `Judge`: it is asked by keys
    that hold the choices, so that the cache tells apart equal words with other choices."""

    def __init__(
        self, judge: Judge, benchmark_prompts: Sequence[BenchmarkPrompt], words: str
    ) -> None:
        if not isinstance(judge, Chooser):
            raise ModelError(
                f"The benchmark asks multiple-choice questions, but {judge.name} answers only yes "
                "or no. Name a judge that reads choices."
            )
        self.name, self.fingerprint = judge.name, judge.fingerprint
        self._judge, self._words, key = judge, words, _offer_key(words)
        self._offers: Mapping[str, MultipleChoice] = {
            key(q): MultipleChoice(q.text, q.choices or ("yes", "no"))
            for prompt in benchmark_prompts
            for q in prompt.questions
        }

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[RawAnswer]]:
        offered = [[self._offers[key] for key in keys] for keys in questions]
        replies = self._judge.choose(images, offered, words=self._words)
        return [[(text, None) for text in texts] for texts in replies]


class _KeyedSpeller:
    """As `_KeyedChooser`, of a judge that spells; a cached answer's text is JSON of both."""

    def __init__(self, judge: Judge, benchmark_prompts: Sequence[BenchmarkPrompt]) -> None:
        self.name, self.fingerprint = judge.name, judge.fingerprint
        self._judge = require_speller(judge)
        self._spelled = {
            _spelling_key(q): Spelled(q.text, q.spellings)
            for prompt in benchmark_prompts
            for q in prompt.questions
        }

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[RawAnswer]]:
        asked = [[self._spelled[key] for key in keys] for keys in questions]
        told = self._judge.spell(images, asked)
        for _, chance in (token for row in told for _, first in row for token in first):
            possible(self.name, chance)
        return [[(json.dumps([text, first]), None) for text, first in row] for row in told]


def _spelling_key(question: Question) -> str:
    return json.dumps(["spelled", question.text, *question.spellings])


def _untold(answer: Answer) -> Answer:
    """The answer of which a cached text tells. Raises DataError if it tells none."""
    try:
        text, first = json.loads(answer.text)
        return Answer.model_validate(answer.model_dump() | {"text": text, "first": first})
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"A kept answer about prompt {answer.prompt_id} must tell a text and probabilities, "
            f"but is {quoted(answer.text)}. Remove its line to have it asked for again."
        ) from error


def _offer_key(words: str) -> Callable[[Question], str]:
    return lambda question: json.dumps([words, question.text, *question.choices])


def _prompts(named: str, row: Benchmark, split: str, rules: DsgRules) -> list[BenchmarkPrompt]:
    """The benchmark's prompts. Raises ConfigError if it lacks the split, and DataError if a prompt
    has no questions."""
    if row is DSG and split == "test":
        return read_dsg(Path(named), dependencies=rules.dependencies)
    try:
        config = ScoresConfig.model_validate({"benchmark": named, "split": split})
    except ValidationError as error:
        raise ConfigError(f"A split must be dev or test, but {split!r} came.") from error
    benchmark_prompts = load_benchmark(config)
    if not all(prompt.questions for prompt in benchmark_prompts):
        raise DataError(
            f"Every prompt of {named} needs questions, but some have none. Let a language model "
            "write them first: `selma questions`."
        )
    return benchmark_prompts


def _as_published(named: str, row: Benchmark, split: str, rules: DsgRules) -> list[BenchmarkPrompt]:
    """The benchmark's prompts with all dependencies, by which published ones are known."""
    return _prompts(named, row, split, rules.model_copy(update={"dependencies": "lenient"}))


def images_of(
    folder: Path, benchmark_prompts: Sequence[BenchmarkPrompt]
) -> tuple[dict[str, Path], list[str]]:
    """Prompt id → image file, for prompts that have one; and the names of images of no prompt,
    without suffix. Raises DataError if a prompt has two images."""
    try:
        listing = list_images(folder)
    except OSError as error:
        raise DataError(f"{folder} must be a folder of images, but {error.strerror}.") from error
    known = {prompt.id for prompt in benchmark_prompts}
    files: dict[str, Path] = {}
    strangers = []
    for path in listing.images:
        id = path.stem.strip()
        if id in files:
            names = f"{files[id].name}, {path.name}"
            raise DataError(f"{folder} has several images of one prompt: {names}.")
        if id in known:
            files[id] = path
        else:
            strangers.append(id)
    say_left_out(str(folder), len(files), listing.left_out)
    return files, strangers


def ask(
    answer_cache: AnswerCache,
    benchmark_prompts: Sequence[BenchmarkPrompt],
    images: dict[str, Path],
    key: Callable[[Question], str] = lambda question: question.text,
) -> list[Answer]:
    answered = answer_cache.ask(
        [images[prompt.id] for prompt in benchmark_prompts],
        [[key(question) for question in prompt.questions] for prompt in benchmark_prompts],
    )
    return [
        Answer(prompt_id=prompt.id, question_id=question.id, text=text, yes=yes)
        for prompt, replies in zip(benchmark_prompts, answered, strict=True)
        for question, (text, yes) in zip(prompt.questions, replies, strict=True)
    ]


def _raw(answers: Sequence[Answer]) -> dict[str, dict[str, dict[str, Any]]]:
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for answer in answers:
        row: dict[str, Any] = {"text": answer.text, "yes": answer.yes}
        if answer.first:
            row["first"] = [list(token) for token in answer.first]
        if answer.choice is not None:
            row["choice"] = answer.choice
        rows.setdefault(answer.prompt_id, {})[answer.question_id] = row
    return rows


def _plain(interval: Interval | None) -> dict[str, float | int] | None:
    if interval is None:
        return None
    return {name: round(value, 4) for name, value in interval.model_dump(exclude_none=True).items()}
