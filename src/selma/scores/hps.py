"""HPS's benchmark (arXiv:2306.09341): images in four styles, 800 prompts each, one mean over all.

    DIR/{anime,concept-art,paintings,photo}/{index:05d}.jpg     the image of prompt `index`
    PROMPTS/{anime,concept-art,paintings,photo}.json            a list of texts

and for a run's model

    5-scores/hps/<model>/scores.jsonl                           one line for each image
    5-scores/hps/<model>/hps.json                               the result

The published program takes another prompt's image in place of a missing one; here missing images
are left out and counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from selma import row_files
from selma.backbones.preference.scorers import PreferenceScorer
from selma.errors import ConfigError, DataError
from selma.ids import listed
from selma.image_files import OPENER, open_image
from selma.image_names import Listing, list_images, say_left_out
from selma.paths import AnyPath, as_path
from selma.progress import progress
from selma.record_files import read_record, read_rows
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.rows import HpsScores, PromptScore
from selma.row_files import Row, fill_rows, in_rounds
from selma.scores import statistics
from selma.textfiles import read_text
from selma.workspace import (
    SCORES,
    Item,
    Workspace,
    file_sha256,
    manifest,
    recipe_key,
    write_json,
)

STYLES = ("anime", "concept-art", "paintings", "photo")
PROMPTS_EACH = 800

Prompts = Mapping[str, Sequence[str]]
"""Style → its prompts; their order numbers the images."""
Generated = Literal["run", "given"]


def version_kind(version: str) -> str:
    """The scorer's kind for HPS "2.0" or "2.1", also written "v2.1". Raises ConfigError."""
    kinds = {"2": "hps_v2", "2.0": "hps_v2", "2.1": "hps_v2.1"}
    kind = kinds.get(str(version).removeprefix("v"))
    if kind is None:
        raise ConfigError(f"HPS's version must be 2.0 or 2.1, but {version!r} came.")
    return kind


def read_hps_prompts(folder: AnyPath) -> dict[str, list[str]]:
    """Style → its prompts; their order numbers the images. Raises DataError."""
    folder = as_path(folder)
    prompts = {}
    for style in STYLES:
        path = folder / f"{style}.json"
        try:
            texts = json.loads(read_text(path))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} must be a JSON list of prompts: {error}.") from error
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise DataError(f"{path} must be a list of texts and not empty.")
        prompts[style] = texts
    return prompts


def hps_benchmark(prompts: Prompts) -> list[BenchmarkPrompt]:
    """The prompts, without questions, in the order of scores."""
    return [
        BenchmarkPrompt(id=f"{style}-{number:05d}", text=text, group=style, questions=())
        for style, texts in prompts.items()
        for number, text in enumerate(texts)
    ]


def given_images(folder: Path, prompts: Prompts) -> dict[str, Path]:
    """Prompt id → its image in the folder, if it has one. Raises DataError without any image, for
    two images of one prompt, or an image of no prompt."""
    files = {
        f"{style}-{number:05d}": path
        for style, texts in prompts.items()
        for number, path in _images(folder / style, len(texts))
    }
    if not files:
        raise DataError(
            f"{folder} must hold images as {STYLES[0]}/00000.jpg, in folders named "
            f"{', '.join(STYLES)}, but has none."
        )
    return files


def score_hps(
    images: AnyPath,
    prompts: Prompts,
    scorer: PreferenceScorer,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Score a folder of images. The result is ready for JSON.

    `score` is the mean over all images, each style has its own, and `missing` counts the prompts
    without an image. Raises DataError for a broken image, or without any.
    """
    images = as_path(images)
    files = given_images(images, prompts)
    scores: list[float] = []
    benchmark_prompts = [prompt for prompt in hps_benchmark(prompts) if prompt.id in files]
    with progress(scorer.name, total=len(benchmark_prompts)) as advance:
        for rows in in_rounds(benchmark_prompts, lambda part: _scored(part, files, scorer)):
            scores += [row["score"] for row in rows]
            advance(len(rows))
    by_id = dict(zip((prompt.id for prompt in benchmark_prompts), scores, strict=True))
    return _result(by_id, prompts, scorer, seed=seed, resamples=resamples)


def hps_item(
    files: Mapping[str, Path],
    prompts: Prompts,
    scorer: PreferenceScorer,
    folder: Workspace,
    *,
    model: str,
    key: str,
    generated: Generated,
) -> Item:
    """Score the images of a run's model; an interrupted item is continued, a finished one kept.

    files: prompt id → image. key: the model's own, so that another model of the same name gets
    another result. generated: by the run, or given as a folder. Raises DataError.
    """
    benchmark_prompts = [prompt for prompt in hps_benchmark(prompts) if prompt.id in files]
    item = folder.item(
        SCORES,
        "hps",
        model,
        recipe={
            "model": key,
            "generated": generated,
            "prompts": recipe_key(
                {"prompts": {name: list(texts) for name, texts in prompts.items()}}
            ),
            "images": recipe_key(
                {prompt.id: file_sha256(files[prompt.id]) for prompt in benchmark_prompts}
            ),
            "network": scorer.fingerprint,
            "chunk": row_files.CHUNK,
            "opened": OPENER if generated == "given" else None,
        },
    )
    if item.done:
        return item
    started = time.monotonic()
    path = item.begin() / "scores.jsonl"
    jobs = {prompt.id: prompt for prompt in benchmark_prompts}
    title = f"{scorer.name}: {model}"
    fill_rows(path, jobs, lambda part: _scored(part, files, scorer), key="prompt", title=title)
    scores = {row["prompt"]: row["score"] for row in read_rows(path, PromptScore)}
    result = _result(scores, prompts, scorer) | {"model": model, "generated": generated}
    write_json(item.path / "hps.json", result)
    item.finish([path, item.path / "hps.json"], {"images": len(scores)})
    folder.journal(SCORES, what=title, seconds=round(time.monotonic() - started, 3))
    return item


def read_hps(item: Item) -> dict[str, Any]:
    """The result of a finished item."""
    return dict(read_record(item.path / "hps.json", HpsScores))


def run_results(folder: Workspace, keys: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Model → its result, for models whose key is still the run's (keys: model → its key).

    If the base has a result on the same prompts by the same scorer, `minus_base` holds the
    differences of each style and of "all", paired by prompt.
    """
    results, scored_as = {}, {}
    for model, key in keys.items():
        recipe = manifest(folder.root / SCORES / "hps" / model).get("recipe", {})
        item = folder.item(SCORES, "hps", model, recipe=recipe)
        if recipe.get("model") == key and item.manifest is not None:
            results[model] = read_hps(item)
            scored_as[model] = (recipe["prompts"], recipe["network"])
    base = results.get("base")
    for model, result in results.items():
        if base is not None and model != "base" and scored_as[model] == scored_as["base"]:
            result["minus_base"] = _differences(result["per_image"], base["per_image"])
    return results


ScoresByStyle = Mapping[str, Mapping[str, float]]


def _differences(after: ScoresByStyle, before: ScoresByStyle) -> dict[str, Any]:
    change = {
        style: [score - before[style][i] for i, score in values.items() if i in before[style]]
        for style, values in after.items()
    }
    change["all"] = [value for values in change.values() for value in values]
    return {
        name: statistics.interval(values, seed=0).model_dump() if values else None
        for name, values in change.items()
    }


def _scored(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    files: Mapping[str, Path],
    scorer: PreferenceScorer,
) -> list[Row]:
    opened = [open_image(files[prompt.id]) for prompt in benchmark_prompts]
    scores = scorer.score(opened, [prompt.text for prompt in benchmark_prompts])
    return [{"score": score} for score in scores]


def _result(
    scores: Mapping[str, float],
    prompts: Prompts,
    scorer: PreferenceScorer,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> dict[str, Any]:
    by_style: dict[str, dict[str, float]] = {style: {} for style in prompts}
    for id, score in scores.items():
        style, _, number = id.rpartition("-")
        by_style[style][number] = score
    return {
        **_ends(scores, seed=seed, resamples=resamples),
        "images": len(scores),
        "missing": sum(map(len, prompts.values())) - len(scores),
        "styles": {
            style: {
                **_ends(of_style, seed=seed, resamples=resamples),
                "images": len(of_style),
                "missing": len(prompts[style]) - len(of_style),
            }
            for style, of_style in by_style.items()
        },
        "complete": all(len(s) == PROMPTS_EACH == len(prompts[n]) for n, s in by_style.items()),
        "scorer": {
            "name": scorer.name,
            "scale": scorer.scale,
            "preprocessing": scorer.preprocessing,
            "weights": scorer.weights,
            "fingerprint": scorer.fingerprint,
            "known": getattr(scorer, "known", ""),
        },
        "per_image": by_style,
    }


def _images(folder: Path, count: int) -> Iterator[tuple[int, Path]]:
    """(index, file) of each image. Raises DataError for two images of one prompt, or an image of no
    prompt."""
    numbers = {f"{i:05d}": i for i in range(count)}
    seen: dict[int, Path] = {}
    listing = list_images(folder) if folder.is_dir() else Listing()
    say_left_out(str(folder), len(listing.images), listing.left_out)
    for path in listing.images:
        number = numbers.get(path.stem.strip())
        if number is None:
            raise DataError(
                f"{path} belongs to no prompt: images are 00000 to {count - 1:05d}, but here is "
                f"{listed([path.stem], numbers)}. Rename or remove it."
            )
        if number in seen:
            raise DataError(f"{path} and {seen[number].name} are of one prompt. Remove one.")
        seen[number] = path
        yield number, path


def _ends(scores: Mapping[str, float], **bootstrap: int) -> dict[str, Any]:
    if not scores:
        return {"score": None, "interval": None, "standard_error": None}
    interval = statistics.interval(list(scores.values()), **bootstrap)
    ends = [interval.low, interval.high]
    return {"score": interval.mean, "interval": ends, "standard_error": interval.standard_error}
