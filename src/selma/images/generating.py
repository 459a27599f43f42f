"""Prompts → images, one seed for each, so that batch size, order and resume change nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from selma import processes
from selma.backbones.base_files import base_fingerprint
from selma.backbones.bases import guidance_of, rescale_of, steps_of
from selma.backbones.preference.scorers import load_image_scorer
from selma.config.images import ImagesConfig
from selma.config.networks import AnyBase, BaseConfig, ServedBase
from selma.disk import make_folder
from selma.errors import DataError, LeftToOthers
from selma.finished_rows import prompts_digest, texts_digest
from selma.image_files import is_whole_png, png_bytes
from selma.image_places import make_folders, places, possible_places
from selma.imagefolders import METADATA
from selma.images.choosing import CANDIDATES, Accepting, best, require_pairs, scored
from selma.images.pairs import ROWS_FILE, finished_pairs, pair_facts, write_metadata
from selma.progress import progress
from selma.randomness import seed_for
from selma.records.adapters import AppliedAdapter
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.guides import AppliedGuide
from selma.records.images import Pair, Survivors
from selma.records.prompts import Prompt
from selma.row_files import write_rows
from selma.workspace import IMAGES, SCORES, Item, Workspace, write_bytes

if TYPE_CHECKING:
    from selma.backbones.drawing import AnyTextToImage
    from selma.backbones.judges.judge import Scorer
    from selma.backbones.text_to_image import TextToImage

CHOSEN = "candidates.jsonl"


@runtime_checkable
class Elsewhere(Protocol):
    """A base that is not in this process."""

    @property
    def image_px(self) -> int:
        """Side of its images."""
        ...

    def cut(self, texts: Sequence[str]) -> list[int]:
        """`TextToImage.tokens_cut` of each text."""
        ...

    def drawn(
        self,
        texts: Sequence[str],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        batch_size: int,
        adapters: Sequence[AppliedAdapter],
        guide: AppliedGuide | None,
    ) -> Generator[bytes]:
        """PNG files in the order of the texts, as `TextToImage.generate` makes them."""
        ...


def generate_pairs(
    prompts: Mapping[str, Sequence[Prompt]],
    config: ImagesConfig,
    folder: Workspace,
    *,
    base: AnyBase,
    seed: int,
    model: Callable[[], AnyTextToImage | Elsewhere],
    adapters: Sequence[AppliedAdapter] = (),
    accepting: Accepting | None = None,
) -> dict[str, Sequence[Pair]]:
    """Skill → each prompt with its image(s), in the order of the prompts.

    Every skill is one imagefolder, `2-images/<skill>/train/`. Where images are chosen, what became
    of each candidate is in `2-images/<skill>/candidates.jsonl`, and prompts of which none reaches
    the thresholds (those of questions count with `accepting` alone) have no pair. `model` is called
    only if an image is missing. Raises TooFewPairs.
    """
    generation = Generation(config, base=base, seed=seed, model=model, adapters=adapters)
    return {
        skill: _generate_skill(skill, skill_prompts, generation, folder, accepting=accepting)
        for skill, skill_prompts in prompts.items()
    }


def generate_candidates(
    prompts: Mapping[str, Sequence[Prompt]],
    config: ImagesConfig,
    folder: Workspace,
    *,
    base: AnyBase,
    seed: int,
    model: Callable[[], AnyTextToImage | Elsewhere],
    adapters: Sequence[AppliedAdapter] = (),
) -> dict[str, Path]:
    """Skill → the folder with all the images of each prompt that are chosen from.

    prompts: those that may have any, with questions if images are chosen by questions.
    """
    generation = Generation(config, base=base, seed=seed, model=model, adapters=adapters)
    return {
        skill: _candidates(skill, skill_prompts, generation, folder)[0].path
        for skill, skill_prompts in prompts.items()
    }


def generate_benchmark(
    benchmark_prompts: Sequence[BenchmarkPrompt],
    *,
    name: str,
    adapters: Sequence[AppliedAdapter] = (),
    guide: AppliedGuide | None = None,
    steps: int,
    guidance: float,
    batch_size: int,
    folder: Workspace,
    base: AnyBase,
    seed: int,
    model: Callable[[], AnyTextToImage | Elsewhere],
) -> Path:
    """The folder `5-scores/images/<name>` with one `<prompt id>.png` for each benchmark prompt, or
    several where `records.repeated` has ids for them.

    A prompt's seed is the same for every model, so that models are compared on equal noise.
    """
    recipe = {
        **generation_recipe(base, steps=steps, guidance=guidance, seed=seed),
        **adapted_recipe(adapters, base),
        "guide": guide and guide.recipe,
        "benchmark": texts_digest([prompt.id, prompt.text] for prompt in benchmark_prompts),
    }
    paid = _paid(base, (f"{prompt.id}.png" for prompt in benchmark_prompts))
    item = folder.item(SCORES, "images", name, recipe=recipe, paid=paid)
    if item.done:
        return item.path
    path = item.begin()
    jobs = [
        Job(file, prompt.text, benchmark_seed(seed, prompt.id))
        for prompt, file in zip(
            benchmark_prompts, image_files(path, benchmark_prompts), strict=True
        )
    ]
    refuse_twins(jobs)
    generate_missing(
        jobs,
        f"generating: {name}",
        model=model,
        adapters=adapters,
        guide=guide,
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


def drawing_settings(config: ImagesConfig) -> ImagesConfig:
    """The settings with the steps and guidance of the base that generates: another one's are those
    of `config.base`, or its own."""
    other = config.base
    if other is None:
        return config
    steps = steps_of(other) if other.steps is None else other.steps
    guidance = guidance_of(other) if other.guidance is None else other.guidance
    return config.model_copy(update={"steps": steps, "guidance": guidance})


@dataclass(frozen=True)
class Job:
    """One image to generate."""

    path: Path
    text: str
    seed: int


Before = Callable[[Sequence[int]], None]
"""Called before each pass with the positions of its jobs."""
Conditioned = Callable[["TextToImage", Sequence[Job]], AbstractContextManager[Before | None]]
"""Changes the model, which is loaded here, for these jobs, while the block runs."""


@dataclass(frozen=True)
class Generation:
    """How training images are generated."""

    config: ImagesConfig
    base: AnyBase = field(kw_only=True)
    seed: int = field(kw_only=True)
    model: Callable[[], AnyTextToImage | Elsewhere] = field(kw_only=True)
    adapters: Sequence[AppliedAdapter] = field(kw_only=True)

    def recipe(self, prompts: Sequence[Prompt], *, per_prompt: int) -> dict[str, Any]:
        """All that the images of these prompts depend on."""
        config = self.config
        return {
            **generation_recipe(
                self.base, steps=config.steps, guidance=config.guidance, seed=self.seed
            ),
            **adapted_recipe(self.adapters, self.base),
            "per_prompt": per_prompt,
            "prompts": prompts_digest(prompts),
        }

    def names(self, prompts: Iterable[Prompt]) -> Iterator[str]:
        """Of the images, those of a prompt in a row; no prompt is read before a name is wanted."""
        for prompt in prompts:
            for k in range(self.config.candidates_per_prompt):
                yield _image_name(prompt, k)

    def jobs(self, folder: Path, prompts: Sequence[Prompt]) -> list[Job]:
        """One for each image, those of a prompt in a row."""
        of = [(prompt, k) for prompt in prompts for k in range(self.config.candidates_per_prompt)]
        jobs = [
            Job(
                path,
                prompt.text,
                seed_for(self.seed, "image", prompt.id, k),
            )
            for (prompt, k), path in zip(of, places(folder, self.names(prompts)), strict=True)
        ]
        refuse_twins(jobs)
        return jobs

    def generate(self, jobs: Sequence[Job], skill: str, folder: Workspace) -> None:
        """Generate what is missing."""
        generated = generate_missing(
            jobs,
            f"generating {skill}",
            model=self.model,
            adapters=self.adapters,
            steps=self.config.steps,
            guidance=self.config.guidance,
            batch_size=self.config.batch_size,
        )
        folder.journal(IMAGES, skill=skill, **generated)


def _generate_skill(
    skill: str,
    prompts: Sequence[Prompt],
    generation: Generation,
    folder: Workspace,
    *,
    accepting: Accepting | None,
) -> Sequence[Pair]:
    config, choose = generation.config, generation.config.choose
    scorer = choose and load_image_scorer(choose.scorer)
    recipe = {
        **generation.recipe(prompts, per_prompt=config.per_prompt),
        "choose": scorer and [config.candidates_per_prompt, scorer.fingerprint],
    }
    if choose and accepting:
        recipe["accepting"] = accepting.recipe(skill) | {"threshold": choose.threshold}
    if choose and choose.score_threshold is not None:
        recipe["score_threshold"] = choose.score_threshold
    own = [] if choose else prompts
    paid = [f"train/{name}" for name in _paid(generation.base, generation.names(own))]
    item = folder.item(IMAGES, skill, recipe=recipe, paid=paid)
    if choose:  # asked for here, so that the folder knows where they lie even if all is done
        _item_of_candidates(skill, _asked(skill, prompts, accepting), generation, folder)
    if item.done:
        finished = finished_pairs(item, prompts)
        if choose and (left := item.manifest and item.manifest["summary"].get("survivors")):
            # fewest_pairs may have been raised since
            survivors = Survivors.model_validate(left)
            require_pairs(skill, len(finished), survivors, fewest=choose.fewest_pairs)
        return finished
    train = item.begin() / "train"
    make_folder(train)
    files: list[Path] = []
    summary: dict[str, Any] = {}
    if choose and scorer:
        chosen, survivors = _choose(
            skill, prompts, generation, scorer, item, folder, accepting=accepting
        )
        files = [item.path / CHOSEN]
        if accepting or choose.score_threshold is not None:
            require_pairs(skill, len(chosen), survivors, fewest=choose.fewest_pairs)
            summary = {"survivors": survivors.model_dump(), "kept_share": round(survivors.share, 4)}
    else:
        jobs = generation.jobs(train, prompts)
        generation.generate(jobs, skill, folder)
        of = [prompt for prompt in prompts for _ in range(config.per_prompt)]
        chosen = list(zip(of, jobs, strict=True))
    cut = _tokens_cut([job for _, job in chosen], generation.model)
    pairs = [
        Pair(prompt=prompt, image=job.path, seed=job.seed, tokens_cut=n)
        for (prompt, job), n in zip(chosen, cut, strict=True)
    ]
    if processes.main():
        write_metadata(train / METADATA, pairs)
    item.finish(
        [*(pair.image for pair in pairs), train / METADATA, *files],
        {"images": len(pairs), "over_token_limit": sum(n > 0 for n in cut), **summary},
        rows={ROWS_FILE: pair_facts},
    )
    return pairs


def _candidates(
    skill: str, prompts: Sequence[Prompt], generation: Generation, folder: Workspace
) -> tuple[Item, list[Job]]:
    """All images of the prompts, those of a prompt in a row."""
    item = _item_of_candidates(skill, prompts, generation, folder)
    jobs = generation.jobs(item.path, prompts)
    if not item.done:
        item.begin()
        generation.generate(jobs, skill, folder)
        item.finish([job.path for job in jobs], {"images": len(jobs)})
    return item, jobs


def _item_of_candidates(
    skill: str, prompts: Sequence[Prompt], generation: Generation, folder: Workspace
) -> Item:
    recipe = generation.recipe(prompts, per_prompt=generation.config.candidates_per_prompt)
    paid = _paid(generation.base, generation.names(prompts))
    return folder.item(IMAGES, CANDIDATES, skill, recipe=recipe, paid=paid)


def _asked(skill: str, prompts: Sequence[Prompt], accepting: Accepting | None) -> Sequence[Prompt]:
    """Those that have questions, where any are asked."""
    if not accepting:
        return prompts
    asked = {prompt.id for prompt in accepting.asked[skill]}
    return [prompt for prompt in prompts if prompt.id in asked]


def _choose(
    skill: str,
    prompts: Sequence[Prompt],
    generation: Generation,
    scorer: Scorer,
    item: Item,
    folder: Workspace,
    *,
    accepting: Accepting | None,
) -> tuple[list[tuple[Prompt, Job]], Survivors]:
    """The prompts with their best candidates, copied into the item, and what is left of the
    prompts; CHOSEN has what became of all candidates. Raises TooFewPairs.

    Prompts have fewer, or none, where a judge does not accept them or they score too low.
    """
    config, choose = generation.config, generation.config.choose
    assert choose is not None
    every, prompts = len(prompts), _asked(skill, prompts, accepting)
    unasked = every - len(prompts)
    if accepting or choose.score_threshold is not None:
        possible = Survivors(prompts=every, without_questions=unasked, rejected=0)
        most = len(prompts) * config.per_prompt
        require_pairs(skill, most, possible, fewest=choose.fewest_pairs)
    candidates, jobs = _candidates(skill, prompts, generation, folder)
    texts = {job.path: job.text for job in jobs}
    max_pixels = 4 * generation.model().image_px ** 2
    scores = scored(candidates, skill, texts, scorer, folder, max_pixels=max_pixels)
    shares = accepting.shares(skill, candidates.path) if accepting else None
    chosen, rows = [], []
    names = [_image_name(prompt, n) for prompt in prompts for n in range(config.per_prompt)]
    files = dict(zip(names, places(item.path / "train", names), strict=True))
    if processes.main():
        make_folders(files.values())
    rejected = below_score = 0
    for prompt, start in zip(prompts, range(0, len(jobs), choose.candidates), strict=True):
        of_prompt = range(start, start + choose.candidates)
        accepted = [
            k for k in of_prompt if not shares or shares[jobs[k].path.stem] >= choose.threshold
        ]
        high_enough = [
            k
            for k in accepted
            if choose.score_threshold is None or scores[k] >= choose.score_threshold
        ]
        rejected += not accepted
        below_score += bool(accepted) and not high_enough
        positions = best(scores, keep=config.per_prompt, among=high_enough)
        for number, place in enumerate(positions):
            path = files[_image_name(prompt, number)]
            if processes.main():
                write_bytes(path, jobs[place].path.read_bytes())
            chosen.append((prompt, Job(path, prompt.text, jobs[place].seed)))
        for k in of_prompt:
            name = jobs[k].path.stem
            row = {"candidate": name, "prompt_id": prompt.id, "text": prompt.text}
            outcome = {"seed": jobs[k].seed, "score": scores[k], "kept": k in positions}
            rows.append({**row, **outcome, **({"answered": shares[name]} if shares else {})})
    if processes.main():
        write_rows(item.path / CHOSEN, rows)
    survivors = Survivors(
        prompts=every, without_questions=unasked, rejected=rejected, below_score=below_score
    )
    return chosen, survivors


def _paid(base: AnyBase, names: Iterable[str]) -> list[str]:
    """The names of images that cost money; see `workspace.Item`."""
    costs = isinstance(base, ServedBase) and base.price_per_image
    return possible_places(names) if costs else []


def _image_name(prompt: Prompt, number: int) -> str:
    return f"{prompt.id}-{number}.png" if number else f"{prompt.id}.png"


def generate_missing(
    jobs: Sequence[Job],
    what: str,
    *,
    model: Callable[[], AnyTextToImage | Elsewhere],
    adapters: Sequence[AppliedAdapter] = (),
    guide: AppliedGuide | None = None,
    steps: int,
    guidance: float,
    batch_size: int,
    conditioned: Conditioned | None = None,
) -> dict[str, Any]:
    """Generate what has no whole file yet, every process a part; how many images, in how many
    seconds."""
    started = time.monotonic()
    missing = [job for job in processes.shard_of(jobs) if not is_whole_png(job.path)]
    make_folders(job.path for job in missing)
    processes.wait()  # until all have looked; images made from now on still count as missing
    mine = processes.share(missing)
    if mine:
        finished = len(processes.shard_of(jobs)) - len(missing)
        with progress(what, total=finished + len(mine), done=finished) as advance:
            if isinstance(there := model(), Elsewhere):
                assert conditioned is None, "conditioned on what is here"
                texts, seeds = [job.text for job in mine], [job.seed for job in mine]
                images = there.drawn(
                    texts,
                    seeds=seeds,
                    steps=steps,
                    guidance=guidance,
                    batch_size=batch_size,
                    adapters=adapters,
                    guide=guide,
                )
            else:
                drawing = {"steps": steps, "guidance": guidance, "batch_size": batch_size}
                images = _drawn_here(there, mine, adapters, guide, conditioned, drawing)
            with closing(images):  # so that adapters are taken off whatever happens
                for job, png in zip(mine, images, strict=True):
                    write_bytes(job.path, png)
                    advance()
    if processes.shard() and not all(is_whole_png(job.path) for job in jobs):
        raise LeftToOthers("other shards have images to generate.")
    return {"images": len(missing), "seconds": round(time.monotonic() - started, 3)}


def _drawn_here(
    model: AnyTextToImage,
    jobs: Sequence[Job],
    adapters: Sequence[AppliedAdapter],
    guide: AppliedGuide | None,
    conditioned: Conditioned | None,
    drawing: Mapping[str, Any],
) -> Generator[bytes]:
    from selma.adapters.applying import applied
    from selma.images.guides.applying import guided

    with (
        applied(model, adapters),
        guided(model, guide),
        _conditioned(conditioned, model, jobs) as before,
    ):
        texts, seeds = [job.text for job in jobs], [job.seed for job in jobs]
        yield from map(png_bytes, model.generate(texts, seeds=seeds, before=before, **drawing))


@contextmanager
def _conditioned(
    conditioned: Conditioned | None, model: AnyTextToImage, jobs: Sequence[Job]
) -> Iterator[Before | None]:
    if conditioned is None:
        yield None
        return
    from selma.backbones.drawing import require_local

    with conditioned(require_local(model, "conditions"), jobs) as before:
        yield before


def adapted_recipe(adapters: Sequence[AppliedAdapter], base: AnyBase) -> dict[str, Any]:
    """What images depend on of adapters; of a single one its own recipe, so that a plain one's is
    its key. In half precision, also in what weights are summed before they are rounded."""
    recipes = [adapter.recipe for adapter in adapters]
    adapter = recipes if len(recipes) > 1 else next(iter(recipes), None)
    rounded = bool(adapters) and isinstance(base, BaseConfig) and base.precision != "fp32"
    return {"adapter": adapter} | ({"summed": "fp32"} if rounded else {})


def generation_recipe(base: AnyBase, *, steps: int, guidance: float, seed: int) -> dict[str, Any]:
    """All that an image depends on beside text and adapter. The batch size is not among it."""
    recipe = {
        "base": base_fingerprint(base),
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
    }
    if isinstance(base, BaseConfig):  # else the server's own affair
        recipe |= {"precision": base.precision, "guidance_rescale": rescale_of(base)}
    return recipe


def benchmark_seed(seed: int, prompt_id: str) -> int:
    """The seed of a benchmark prompt's image: the same for every model of the run."""
    return seed_for(seed, "exam", prompt_id)


def image_files(folder: Path, benchmark_prompts: Sequence[BenchmarkPrompt]) -> list[Path]:
    """Each prompt's image. Raises DataError for an id that names no file."""
    for prompt in benchmark_prompts:
        if "/" in prompt.id or "\\" in prompt.id:
            raise DataError(
                f"A prompt's id names its image, so it may hold no slash: {prompt.id!r}."
            )
    return places(folder, (f"{prompt.id}.png" for prompt in benchmark_prompts))


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


def _tokens_cut(jobs: Sequence[Job], model: Callable[[], AnyTextToImage | Elsewhere]) -> list[int]:
    there = model()
    if isinstance(there, Elsewhere):
        return there.cut([job.text for job in jobs])
    return [there.tokens_cut(job.text) for job in jobs]
