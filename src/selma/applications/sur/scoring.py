"""What a SUR-adapter does to plain prompts: accuracy by kind, CLIP score against the plain and the
keyword prompt, preference, and how far the images are from good ones.

5-scores/<name>/             the scorecard, with kinds of questions in place of categories
5-scores/<name>-result/  all that is said beside it, with the scorecard inside
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.applications.sur.quality import quality_items, read_distance
from selma.applications.sur.records import Distances, SurResult
from selma.applications.sur.settings import SurScores
from selma.backbones.perception import features
from selma.config.scores import ScoresConfig
from selma.errors import DataError
from selma.records.benchmarks import BenchmarkPrompt, Question, repeated
from selma.records.scores import Interval
from selma.scores import statistics
from selma.scores.answering import clip_item, read_clip_file
from selma.scores.benchmarks import TOYBOX
from selma.scores.networks import ScoringNetworks
from selma.scores.scoring import score_models
from selma.textfiles import csv_rows
from selma.workspace import SCORES, Workspace, write_json

BASE = "base"
FILE = "result.json"

KINDS = {
    "count": "counting", "counting": "counting", "color": "colour", "colour": "colour",
    "action": "action", "activity": "action",
}  # fmt: skip
"""What benchmarks call the paper's three kinds; DSG-1k says it in its finer category."""


def kind_of(question: Question) -> str:
    """counting, colour or action (the paper's kinds), else the benchmark's own category."""
    names = (question.category.lower(), question.detail.lower())
    return next((KINDS[name] for name in names if name in KINDS), question.category)


def by_kind(benchmark_prompts: Sequence[BenchmarkPrompt]) -> list[BenchmarkPrompt]:
    """The same benchmark, its questions sorted into kinds."""
    return [
        prompt.model_copy(
            update={
                "questions": tuple(
                    question.model_copy(update={"category": kind_of(question)})
                    for question in prompt.questions
                )
            }
        )
        for prompt in benchmark_prompts
    ]


def keyword_benchmark(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    scores: ScoresConfig,
    sur: SurScores,
    *,
    split: str,
) -> list[BenchmarkPrompt] | None:
    """The benchmark with each prompt's keyword prompt as its text; None where there are none.
    Raises DataError for a file that lacks one."""
    if sur.keywords is not None:
        path = Path(sur.keywords)
        known = {row["item_id"]: row["prompt"] for _, row in csv_rows(path, ("item_id", "prompt"))}
    elif scores.benchmark == TOYBOX.name:
        from selma.toybox.benchmark import keyword_prompts

        known = keyword_prompts("dev" if split == "dev" else "test")
    else:
        return None
    if absent := [
        prompt.id for prompt in benchmark_prompts if not known.get(prompt.id, "").strip()
    ]:
        raise DataError(
            f"{sur.keywords} must have a keyword prompt for each benchmark prompt, but "
            f"{len(absent)} have none, {absent[0]} first."
        )
    return [
        prompt.model_copy(update={"text": known[prompt.id].strip()}) for prompt in benchmark_prompts
    ]


def score_sur(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    images: Mapping[str, Path],
    scores: ScoresConfig,
    sur: SurScores,
    folder: Workspace,
    *,
    keywords: Sequence[BenchmarkPrompt] | None,
    good: Sequence[Path],
    seed: int,
    compare: Sequence[tuple[str, str]] = (),
    base: str = BASE,
    name: str = "sur",
    networks: ScoringNetworks | None = None,
) -> SurResult:
    """All models beside the one called `base`, paired by prompt.

    keywords: the benchmark by keyword prompts (`keyword_benchmark`).  good: images that quality is
    measured by.  compare: pairs of models of which the first is also held against the second.
    """
    networks = networks or ScoringNetworks(scores)
    card = score_models(
        by_kind(benchmark_prompts),
        images,
        scores,
        folder,
        roles={model: "base" if model == base else "other" for model in images},
        seed=seed,
        compare=compare,
        name=name,
        networks=networks,
    )
    generated = {model.model: images[model.model] for model in card.models}
    asked = repeated(benchmark_prompts, scores.seeds)
    keywords_asked = repeated(keywords or (), scores.seeds)
    items: dict[str, dict[str, Any]] = {}
    if keywords is not None and networks.clip:
        items["keyword_clip"] = {
            model: clip_item(
                keywords_asked, model, images_of, networks.clip, folder, what=("keyword-clip",)
            )
            for model, images_of in generated.items()
        }
    if sur.quality is not None:
        encoder = features.load_features(
            sur.quality.features, setting="sur.scores.quality.features"
        )
        shown = good[: sur.quality.images]
        items["kernel"] = quality_items(asked, generated, shown, encoder, folder)
    item = folder.item(
        SCORES,
        f"{name}-result",
        recipe={
            "card": hashlib.sha256(card.model_dump_json().encode()).hexdigest(),
            **{what: {m: i.key for m, i in of.items()} for what, of in items.items()},
            "bootstrap": [seed, scores.resamples],
        },
    )
    path = item.path / FILE
    if not item.done:
        item.begin()
        how = {"seed": seed, "resamples": scores.resamples, "seeds": scores.seeds}
        texts = {prompt.id: prompt.text for prompt in keywords or ()}
        result: dict[str, Any] = {"card": card, "keywords": texts}
        if "keyword_clip" in items:
            means, changes = _paired(items["keyword_clip"], base, **how)
            result |= {"keyword_clip": means, "keyword_clip_differences": changes}
        if "kernel" in items:
            means, changes = _paired(items["kernel"], base, **how)
            result["distances"] = Distances(
                encoder=encoder.name,
                fingerprint=encoder.fingerprint,
                images=len(shown),
                kernel=means,
                kernel_differences=changes,
                frechet={model: read_distance(kernel) for model, kernel in items["kernel"].items()},
            )
        write_json(path, SurResult(**result).model_dump(mode="json"))
        item.finish([path], {"models": len(generated)})
    return SurResult.model_validate_json(path.read_text("utf-8"))


def _paired(
    items: Mapping[str, Any], base: str, *, seeds: int, **how: int
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Each model's mean, and its difference to the base."""
    values = {
        model: statistics.by_prompt(read_clip_file(item.path), seeds)
        for model, item in items.items()
    }
    means = {model: statistics.interval(rows, **how) for model, rows in values.items()}
    changes = {
        model: statistics.paired_difference(rows, values[base], **how)
        for model, rows in values.items()
        if model != base
    }
    return means, changes
