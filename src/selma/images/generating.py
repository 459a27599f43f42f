"""Prompts → images, one seed for each, so that batch size, order and resume change nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma import processes
from selma.backbones.base_files import base_fingerprint
from selma.backbones.bases import rescale_of
from selma.backbones.hub import installed
from selma.backbones.preference.scorers import load_image_scorer
from selma.config import ImagesConfig
from selma.config.networks import BaseConfig
from selma.errors import DataError
from selma.image_files import png_bytes
from selma.images.choosing import best, scored
from selma.images.pairs import METADATA, read_generated, write_metadata
from selma.progress import progress
from selma.randomness import seed_for
from selma.records.adapters import AppliedAdapter
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.images import Pair
from selma.records.prompts import Prompt
from selma.row_files import write_rows
from selma.workspace import IMAGES, SCORES, Workspace, inside, write_bytes

if TYPE_CHECKING:
    from selma.backbones.judges.judge import Scorer
    from selma.backbones.text_to_image import TextToImage

CANDIDATES = "candidates"
SCORES_OF_CANDIDATES = "candidates.jsonl"


def generate_pairs(
    prompts: Mapping[str, Sequence[Prompt]],
    config: ImagesConfig,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
) -> dict[str, list[Pair]]:
    """Skill → each prompt with its image(s), in the order of the prompts.

    Every skill is one imagefolder, `2-images/<skill>/train/`. Where images are chosen, all scores
    are in `2-images/<skill>/candidates.jsonl`. `model` is called only if an image is missing.
    """
    return {
        skill: _generate_skill(
            skill, skill_prompts, config, folder, base=base, seed=seed, model=model
        )
        for skill, skill_prompts in prompts.items()
    }


def generate_benchmark(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    *,
    name: str,
    adapters: Sequence[AppliedAdapter] = (),
    steps: int,
    guidance: float,
    batch_size: int,
    folder: Workspace,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
) -> Path:
    """The folder `5-scores/images/<name>` with one `<prompt id>.png` for each benchmark prompt, or
    several where `records.repeated` has ids for them.

    A prompt's seed is the same for every model, so that models are compared on equal noise.
    """
    recipe = {
        **generation_recipe(base, steps=steps, guidance=guidance, seed=seed),
        **adapted_recipe(adapters, base),
        "benchmark": _digest([prompt.id, prompt.text] for prompt in benchmark_prompts),
    }
    item = folder.item(SCORES, "images", name, recipe=recipe)
    if item.done:
        return item.path
    path = item.begin()
    jobs = [
        Job(image_file(path, prompt.id), prompt.text, benchmark_seed(seed, prompt.id))
        for prompt in benchmark_prompts
    ]
    refuse_twins(jobs)
    generate_missing(
        jobs,
        f"generating: {name}",
        model=model,
        adapters=adapters,
        steps=steps,
        guidance=guidance,
        batch_size=batch_size,
    )
    cut = _tokens_cut(jobs, model)
    item.finish(
        [job.path for job in jobs],
        {"images": len(jobs), "over_token_limit": sum(n > 0 for n in cut)},
    )
    return item.path


@dataclass(frozen=True)
class Job:
    """One image to generate."""

    path: Path
    text: str
    seed: int


Before = Callable[[Sequence[int]], None]
"""Called before each pass with the positions of its jobs."""
Conditioned = Callable[["TextToImage", Sequence[Job]], AbstractContextManager[Before | None]]
"""Changes the model for these jobs, while the block runs."""


def _generate_skill(
    skill: str,
    prompts: Sequence[Prompt],
    config: ImagesConfig,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
) -> list[Pair]:
    scorer = config.choose and load_image_scorer(config.choose.scorer)
    recipe = {
        **generation_recipe(base, steps=config.steps, guidance=config.guidance, seed=seed),
        "per_prompt": config.per_prompt,
        "prompts": _digest([prompt.id, prompt.text] for prompt in prompts),
        "choose": scorer and [config.candidates_per_prompt, scorer.fingerprint],
    }
    item = folder.item(IMAGES, skill, recipe=recipe)
    if item.done:
        _remove_candidates(item.path)
        return read_generated(item.path, prompts)
    train = item.begin() / "train"
    target = item.path / CANDIDATES if scorer else train
    target.mkdir(exist_ok=True)
    jobs = [
        Job(
            inside(target, f"{prompt.id}-{k}.png" if k else f"{prompt.id}.png"),
            prompt.text,
            seed_for(seed, "image", prompt.id, k),
        )
        for prompt in prompts
        for k in range(config.candidates_per_prompt)
    ]
    refuse_twins(jobs)
    generated = generate_missing(
        jobs,
        f"generating {skill}",
        model=model,
        steps=config.steps,
        guidance=config.guidance,
        batch_size=config.batch_size,
    )
    folder.journal(IMAGES, skill=skill, **generated)
    files = []
    if scorer:
        train.mkdir(exist_ok=True)
        files = [item.path / SCORES_OF_CANDIDATES]
        max_pixels = 4 * model().image_px ** 2
        processes.wait()  # until all candidates are there
        if processes.main():
            jobs = _choose(jobs, scorer, config, train, files[0], max_pixels=max_pixels)
        chosen = processes.gathered([[str(job.path), job.text, job.seed] for job in jobs])[0]
        jobs = [Job(Path(path), text, seed) for path, text, seed in chosen]
    cut = _tokens_cut(jobs, model)
    of = [prompt for prompt in prompts for _ in range(config.per_prompt)]
    pairs = [
        Pair(prompt=prompt, image=job.path, seed=job.seed, tokens_cut=n)
        for prompt, job, n in zip(of, jobs, cut, strict=True)
    ]
    if processes.main():
        write_metadata(train / METADATA, pairs)
    item.finish(
        [*(job.path for job in jobs), train / METADATA, *files],
        {"images": len(jobs), "over_token_limit": sum(n > 0 for n in cut)},
    )
    _remove_candidates(item.path)
    return pairs


def _choose(
    jobs: Sequence[Job],
    scorer: Scorer,
    config: ImagesConfig,
    train: Path,
    scores_file: Path,
    *,
    max_pixels: int,
) -> list[Job]:
    """The best candidates of each prompt, copied to `train`; all scores go to `scores_file`."""
    scores = scored([(job.path, job.text) for job in jobs], scorer, max_pixels=max_pixels)
    chosen, rows = [], []
    for start in range(0, len(jobs), config.candidates_per_prompt):
        candidates = slice(start, start + config.candidates_per_prompt)
        places = best(scores[candidates], keep=config.per_prompt)
        first = jobs[start].path.stem
        for number, position in enumerate(places):
            job = jobs[candidates][position]
            path = inside(train, f"{first}-{number}.png" if number else f"{first}.png")
            write_bytes(path, job.path.read_bytes())
            chosen.append(Job(path, job.text, job.seed))
        rows += [
            {"text": job.text, "seed": job.seed, "score": score, "kept": position in places}
            for position, (job, score) in enumerate(
                zip(jobs[candidates], scores[candidates], strict=True)
            )
        ]
    write_rows(scores_file, rows)
    return chosen


def _remove_candidates(folder: Path) -> None:
    """Remove what was not chosen; it can be generated again from its seed."""
    if processes.main() and (folder / CANDIDATES).exists():
        shutil.rmtree(folder / CANDIDATES)


def generate_missing(
    jobs: Sequence[Job],
    what: str,
    *,
    model: Callable[[], TextToImage],
    adapters: Sequence[AppliedAdapter] = (),
    steps: int,
    guidance: float,
    batch_size: int,
    conditioned: Conditioned | None = None,
) -> dict[str, Any]:
    """Generate what has no file yet, every process a part; how many images, in how many seconds."""
    started = time.monotonic()
    missing = [job for job in jobs if not job.path.exists()]
    processes.wait()  # until all have looked; images made from now on still count as missing
    mine = processes.share(missing)
    if mine:
        from selma.adapters.applying import applied

        finished = len(jobs) - len(missing)
        with (
            applied(model(), adapters),
            (conditioned or _freely)(model(), mine) as before,
            progress(what, total=finished + len(mine), done=finished) as advance,
        ):
            images = model().generate(
                [job.text for job in mine],
                seeds=[job.seed for job in mine],
                steps=steps,
                guidance=guidance,
                batch_size=batch_size,
                before=before,
            )
            for job, image in zip(mine, images, strict=True):
                write_bytes(job.path, png_bytes(image))
                advance()
    return {"images": len(missing), "seconds": round(time.monotonic() - started, 3)}


@contextmanager
def _freely(model: TextToImage, jobs: Sequence[Job]) -> Iterator[None]:
    """Leave the model as it is."""
    yield


def adapted_recipe(adapters: Sequence[AppliedAdapter], base: BaseConfig) -> dict[str, Any]:
    """What images depend on of adapters; of a single one its own recipe, so that a plain one's is
    its key. In half precision, also in what weights are summed before they are rounded."""
    recipes = [adapter.recipe for adapter in adapters]
    adapter = recipes if len(recipes) > 1 else next(iter(recipes), None)
    rounded = bool(adapters) and base.precision != "fp32"
    return {"adapter": adapter} | ({"summed": "fp32"} if rounded else {})


def generation_recipe(
    base: BaseConfig, *, steps: int, guidance: float, seed: int
) -> dict[str, Any]:
    """All that an image depends on beside text and adapter. The batch size is not among it."""
    return {
        "base": base_fingerprint(base),
        "precision": base.precision,
        "steps": steps,
        "guidance": guidance,
        "guidance_rescale": rescale_of(base),
        "seed": seed,
        "versions": {name: installed(name) for name in ("torch", "diffusers", "transformers")},
    }


def _digest(rows: Iterable[list[str]]) -> str:
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()


def benchmark_seed(seed: int, prompt_id: str) -> int:
    """The seed of a benchmark prompt's image: the same for every model of the run."""
    return seed_for(seed, "exam", prompt_id)


def image_file(folder: Path, prompt_id: str) -> Path:
    if "/" in prompt_id or "\\" in prompt_id:
        raise DataError(f"A prompt's id names its image, so it may hold no slash: {prompt_id!r}.")
    return inside(folder, f"{prompt_id}.png")


def refuse_twins(jobs: Sequence[Job]) -> None:
    """Some file systems take A.png and a.png for one file, and one image would be lost."""
    seen: dict[str, str] = {}
    for job in jobs:
        name = job.path.stem
        if name.lower() in seen:
            raise DataError(
                f"Each prompt needs an id of its own, differing by more than case, but "
                f"{seen[name.lower()]!r} and {name!r} came."
            )
        seen[name.lower()] = name


def _tokens_cut(jobs: Sequence[Job], model: Callable[[], TextToImage]) -> list[int]:
    return [model().tokens_cut(job.text) for job in jobs]
