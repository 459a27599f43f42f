"""The six stages in order, as the paper's figure 2 has them, and each of them by itself.

A stage run by itself reads what the stages before it left, and makes none of that: where
something is missing, the error names the command that makes it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from selma import engines, processes
from selma.config import Run, RunConfig, require_settings
from selma.config.engine import LocalEngine
from selma.config.experts import JOINT
from selma.config.guides import GuideSettings
from selma.config.merged import MixtureConfig
from selma.config.networks import AnyBase, BaseConfig
from selma.config.places import absolute
from selma.config.preferences import PreferenceObjective
from selma.config.scores import ScoresConfig
from selma.config.section import Section
from selma.dev_score import DevScore
from selma.disk import failures
from selma.engines.engine import Worker
from selma.errors import ConfigError, LeftToOthers
from selma.finished import Finished, NotFinished
from selma.manifests import FILE as MANIFEST
from selma.paths import AnyPath, as_path
from selma.preflight import check
from selma.records.adapters import AppliedAdapter, applied
from selma.records.benchmarks import BenchmarkPrompt, repeated
from selma.records.experts import Expert
from selma.records.images import Pair, Preference, PreferenceCount, Survivors
from selma.records.merged import TRIAL, UNIFORM, Merged
from selma.records.prompts import Prompt
from selma.records.report import Findings
from selma.records.scores import Scorecard
from selma.runfile import installed_versions, portable, write_run_file
from selma.storage import stored
from selma.workspace import (
    EXPERTS,
    IMAGES,
    MERGED,
    PROMPTS,
    REPORT,
    SCORES,
    STAGES,
    Item,
    Workspace,
    kept_in_words,
    manifest,
)

if TYPE_CHECKING:
    from selma.backbones.drawing import AnyTextToImage
    from selma.backbones.text_to_image import TextToImage
    from selma.capacity import Work
    from selma.engines import Engine
    from selma.experts.rewards import Reward
    from selma.images.generating import Elsewhere
    from selma.scores.accepting import Accepting
    from selma.scores.networks import ScoringNetworks

ENGINE = "engine"
"""The journal's stage of what an engine counted."""
NEAR = 0.8
"""ROUGE-L F above which prompts are near, where the settings do not say."""


@dataclass(frozen=True)
class Outcome:
    """What the six stages left, as far as a command shows it."""

    page: Path
    """The report's."""
    pairs: dict[str, Sequence[Pair]]
    survivors: dict[str, Survivors]
    """Skill → what choosing by thresholds left of its prompts, where there are any."""
    images: dict[str, Path]
    """Model → folder with its images of the benchmark."""
    scorecard: Scorecard


def run(config: RunConfig) -> Path:
    """The report's path, after all six stages. What is already there is not made again.

    config: what `selma.load_config` returns.
    """
    return run_stages(config).page


def run_stages(config: RunConfig) -> Outcome:
    """All six stages. What is already there is not made again."""
    with opened(config, make=STAGES, several=True) as this:
        return flow(this)


def flow(this: Stages) -> Outcome:
    """The paper's figure: each stage takes what those before it left."""
    prompts = this.write_prompts()
    pairs = this.generate_pairs(prompts)  # the base model is its own teacher
    experts = this.train_experts(pairs)
    merged = this.merge_experts(experts)
    images = this.generate_by_models(experts, merged)
    further = this.score_further(experts, merged, images)
    scorecard = this.score_models(images, experts, further)
    page = this.write_report(prompts, pairs, experts, merged, images, scorecard)
    return Outcome(page, pairs, this.survivors(pairs), images, scorecard)


def prompts(config: RunConfig) -> dict[str, Sequence[Prompt]]:
    """Stage 1 by itself: skill → its prompts."""
    with opened(config, make=[PROMPTS], several=True) as this:
        written = this.write_prompts()
        this.write_questions(written)
        return written


def questions(
    config: RunConfig, prompts: Mapping[str, Sequence[Prompt]]
) -> dict[str, list[BenchmarkPrompt]]:
    """Skill → its prompts that have questions, by a finished stage 1; {} if none are asked for."""
    return Stages(config, Workspace(config.run_folder), make=[]).write_questions(prompts)


def images(config: RunConfig) -> dict[str, Sequence[Pair]]:
    """Stage 2 by itself: skill → prompts with their images."""
    with opened(config, make=[IMAGES], several=True) as this:
        pairs = this.generate_pairs(this.write_prompts())
        this.preferences(pairs)
        return pairs


def survivors(config: RunConfig, skills: Iterable[str]) -> dict[str, Survivors]:
    """What choosing by thresholds left of each skill's prompts, by a finished stage 2."""
    return Stages(config, Workspace(config.run_folder), make=[]).survivors(skills)


def experts(config: RunConfig) -> list[Expert]:
    """Stage 3 by itself: one adapter for each skill."""
    with opened(config, make=[EXPERTS], several=True) as this:
        return this.all_experts()


def merge(config: RunConfig) -> Merged:
    """Stage 4 by itself: the experts as one adapter."""
    with opened(config, make=[MERGED], several=True) as this:
        return this.merge_experts(this.all_experts())


def score(config: RunConfig) -> Scorecard:
    """Stage 5 by itself: every model generates the benchmark and is scored."""
    with opened(config, make=[SCORES], several=True) as this:
        return _scorecard(this)


def report(config: RunConfig) -> Path:
    """Stage 6 by itself: the page of a run whose other stages are finished."""
    with opened(config, make=[REPORT], several=True) as this:
        return flow(this).page


def shard(config: RunConfig, stage: str, number: int, count: int) -> list[str]:
    """One shard's part of stage 1, 2, 3 or 5: skills of the first and third, images and answers of
    the others. Returns what is left to other shards, in words.

    number: from 0.  A stage that is finished is left as it is; what is missing when all shards are
    done, the stage by itself makes. Raises ConfigError for an engine, or several processes.
    """
    if not isinstance(config.engine, LocalEngine) or processes.launched()[1] > 1:
        raise ConfigError(
            "A shard works in one process of its own, but an engine is set, or several processes "
            "were launched. Leave engine out, and start each shard by itself."
        )
    if config.storage is not None:
        raise ConfigError(
            "Shards need a folder that all of them see, but storage is set. Leave storage out."
        )
    left: list[str] = []
    with processes.sharded(number, count), opened(config, make=[stage], several=True) as this:
        for what, part in _parts_of(this, stage):
            try:
                part()
            except LeftToOthers as error:
                left.append(f"{what}: {error}")
            except NotFinished as error:
                if not error.item.name.startswith(f"{stage}/"):
                    raise
                left.append(f"{what}: it takes what other shards have to finish.")
    return left


def _parts_of(this: Stages, stage: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What of a stage can be done by itself, in words, and how; of stages 1 and 3 this shard's."""
    config = this.config
    if stage in (PROMPTS, EXPERTS):
        for own in processes.shard_of(skills_alone(config)):
            with processes.sharded(0, 1):  # all of its skill
                yield ", ".join(own.prompts.skills), partial(_make, this.of(own), stage)
        return
    if stage == IMAGES:
        for own in skills_alone(config):
            yield ", ".join(own.prompts.skills), partial(_pairs, this.of(own))
        return
    experts = this.all_experts()
    models = this.adapters_by_model(experts, this.merge_experts(experts))
    drawn: dict[str | None, dict[str, Path]] = {None: {}}
    yield from _parts_of_scores(
        this, models, config.scores, this.benchmark_prompts, this.folder, drawn[None]
    )
    for name in config.scores.further:
        further = this.further(name)
        its = models if further.images_of == name else {}
        folder = further.within(this.folder)
        if not its:
            drawn[name] = drawn[further.images_of]
        parts = _parts_of_scores(
            this, its, further.scores, further.prompts, folder, drawn.setdefault(name, {})
        )
        yield from ((f"{name}, {what}", part) for what, part in parts)


def _parts_of_scores(
    this: Stages,
    models: Mapping[str, Sequence[AppliedAdapter]],
    scores: ScoresConfig,
    prompts: Sequence[BenchmarkPrompt],
    folder: Workspace,
    images: dict[str, Path],
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """models: those that generate; images: model → its images, where it has all."""
    from selma.scores.scoring import Asking

    asked = repeated(prompts, scores.seeds)

    def generate(model: str) -> None:
        images[model] = this.generate(model, models[model], asked, folder=folder)

    for model in models:
        yield f"{model}, images", partial(generate, model)
    networks = this.networks.judged_by(scores.judge)
    yield from Asking(prompts, images, scores, folder, networks).parts()


def _pairs(stages: Stages) -> None:
    stages.preferences(stages.generate_pairs(stages.write_prompts()))


def scorecard(config: RunConfig) -> Scorecard:
    """What a finished stage 5 left."""
    require_settings(config, RunConfig)
    return _scorecard(Stages(config, Workspace(config.run_folder), make=[]))


def _scorecard(this: Stages) -> Scorecard:
    experts = this.all_experts()
    merged = this.merge_experts(experts)
    images = this.generate_by_models(experts, merged)
    return this.score_models(images, experts, this.score_further(experts, merged, images))


def part_keys(images: Mapping[str, Path], scorecard: Scorecard) -> dict[str, str]:
    """Part of the run that a page may be about → its key: a model's images, and the judge."""
    keys = {f"images/{model}": str(manifest(path).get("key")) for model, path in images.items()}
    return keys | {"scores/judge": scorecard.judge}


def benchmark_over_limit(images: AnyPath, *, seeds: int) -> int:
    """How many of the benchmark's prompts the text encoder does not read to their end, by a model's
    finished images of them."""
    return int(manifest(as_path(images)).get("summary", {}).get("over_token_limit", 0)) // seeds


def preference_counts(config: RunConfig, skills: Iterable[str]) -> dict[str, PreferenceCount]:
    """Skill → what making pairs of winner and loser left; {} if experts do not learn from any."""
    return Stages(config, Workspace(config.run_folder), make=[]).preference_counts(skills)


@contextmanager
def opened(
    config: Run,
    *,
    make: Sequence[str],
    checked: Sequence[str] | None = None,
    mistakes: Iterable[str] = (),
    commands: Mapping[str, str] | None = None,
    work: Callable[[Run], Sequence[Work]] | None = None,
    several: bool = False,
) -> Iterator[Stages[Run]]:
    """Open a run's stages, its folder locked.

    make: the only stages that may make anything.  checked: those whose settings must be sound,
    where not all of a stage is asked for.  mistakes, commands: an application's own, see
    `preflight.check` and `Finished`.  work: see `Stages`.  several: whether all processes that
    were launched come by here and do it together; else there may be only one.
    """
    require_settings(config, RunConfig)
    here = isinstance(config.engine, LocalEngine)
    _require_processes(config, several=several)
    asked = make if checked is None else checked
    check(config, asked, mistakes)
    folder = Workspace(config.run_folder)
    with (
        failures(folder.root, task="used", advised=True),
        processes.together(),
        folder.locked(),
        stored(config.storage, folder.root),
        ExitStack() as stack,
    ):

        @cache
        def look_at_device() -> None:
            if here and not {IMAGES, EXPERTS}.isdisjoint(asked):
                from selma.capacity import require_device

                # Before prompts and images are made that no expert could be trained on.
                trained = any((folder.root / EXPERTS).glob(f"*/{MANIFEST}"))
                require_device(config, trains=EXPERTS in asked and not trained)

        def beginning(item: str) -> None:
            # Prompts and images are there when experts are merged, scored or shown.
            if not item.startswith((MERGED, SCORES, REPORT)):
                look_at_device()  # once is enough
            write_run_file(config, folder)

        # Not before something is made: a command that is refused leaves another run's settings.
        folder.beginning = beginning

        @cache
        def engine() -> Engine:
            """Opened when first needed: a run that is finished needs none."""
            this = stack.enter_context(engines.opened(config.engine))
            assert this is not None, "the local one is not asked"
            stack.callback(lambda: folder.journal(ENGINE, event="engine", **this.counts))
            return this

        handing = engine if several and _hands_out(config.engine) else None
        yield Stages(config, folder, make=make, commands=commands, work=work, engine=handing)
        if processes.main():
            write_run_file(config, folder)


def _require_processes(config: RunConfig, *, several: bool) -> None:
    """Raises ConfigError where several processes were launched, or an engine is set, for what is
    done by one, or both."""
    here = isinstance(config.engine, LocalEngine)
    if not several and (count := processes.launched()[1]) > 1:
        raise ConfigError(
            f"This command works in one process, but {count} were launched. Start this command by "
            "itself; several processes share `selma run` and its six stages."
        )
    if not several and not here:
        raise ConfigError(
            "This command works in one process; engine is for `selma run` and its six stages. "
            "Leave engine out."
        )
    if not here and (count := processes.launched()[1]) > 1:
        raise ConfigError(
            f"engine hands out the work of one process, but {count} were launched. Start the "
            "command by itself, or leave engine out."
        )
    if config.storage is not None and not (here and processes.launched()[1] == 1):
        raise ConfigError(
            "storage is for one process, but an engine is set, or several processes were launched. "
            "Leave storage out, and put the run's folder where all of them see it."
        )


def _hands_out(settings: Section) -> bool:
    """Whether these settings of an engine have other processes do the work."""
    if not isinstance(settings, LocalEngine):
        return True
    return settings.workers > 1 and processes.launched()[1] == 1 and not processes.shard()


def skill_alone(config: RunConfig, entry: str) -> RunConfig:
    """The run's settings with one skill."""
    prompts = config.prompts.model_copy(update={"skills": (entry,)})
    return config.model_copy(update={"prompts": prompts})


def skills_alone(config: RunConfig) -> list[RunConfig]:
    """The run's settings with one skill each; with a joint expert, they are one."""
    if config.experts.joint is not None:
        return [config]
    return [skill_alone(config, entry) for entry in config.prompts.skills]


def _make(this: Stages, stage: str) -> None:
    """Stage 1 or 3."""
    prompts = this.write_prompts()
    if stage == EXPERTS:
        this.train_experts(this.generate_pairs(prompts))
    else:
        this.write_questions(prompts)


def _missing(config: RunConfig, stage: str) -> Item | None:
    """What a stage has to make first; None if it is made."""
    try:
        _make(Stages(config, Workspace(config.run_folder), make=[]), stage)
    except NotFinished as error:
        return error.item
    return None


def stage_worker(stage: str) -> Callable[[str], None]:
    """Does a stage for the settings that it is handed as JSON, in a folder that another process
    holds. What was loaded for one skill serves the next."""
    first: list[Stages] = []

    def do(settings: str) -> None:
        config = RunConfig.model_validate_json(settings)
        here = config.model_copy(update={"engine": LocalEngine()})
        if not first or first[0].config.base != here.base:
            first[:] = [Stages(here, Workspace(here.run_folder), make=[stage])]
        _make(first[0].of(here), stage)

    return do


def _same_images(one: ScoresConfig, other: ScoresConfig) -> bool:
    parts = ("benchmark", "split", "groups", "prompts", "seeds")
    return all(getattr(one, part) == getattr(other, part) for part in parts)


class Further:
    """A further benchmark of a run, whose items lie in `5-scores/benchmarks/<name>/`."""

    def __init__(self, name: str, scores: ScoresConfig) -> None:
        self.name = name
        self.scores = scores.of(name)
        self.kept_from_training = scores.further[name].kept_from_training
        drawn = [
            further for further in scores.further if _same_images(scores.of(further), self.scores)
        ]
        self.images_of = None if _same_images(scores, self.scores) else drawn[0]
        """The further benchmark whose images it takes, perhaps itself: the first that asks for
        these; None is the run's first benchmark."""

    @cached_property
    def prompts(self) -> list[BenchmarkPrompt]:
        from selma.scores.benchmarks import load_benchmark

        return load_benchmark(self.scores)

    def within(self, folder: Workspace) -> Workspace:
        return folder.within(SCORES, "benchmarks", self.name)


class Stages(Generic[Run]):
    """The stages with one run's settings and folder; the base model is loaded when first needed."""

    def __init__(
        self,
        config: Run,
        folder: Workspace,
        *,
        make: Sequence[str],
        commands: Mapping[str, str] | None = None,
        work: Callable[[Run], Sequence[Work]] | None = None,
        engine: Callable[[], Engine] | None = None,
    ) -> None:
        self.config = config
        self.engine = engine
        """Opens what does the work in other processes; None where it is done here."""
        self.folder = folder
        self.make = make
        self.loaded: Stages[Run] = self
        """Whose base and networks are used."""
        self.finished = Finished(folder.root, commands)
        """The same folder, in which nothing can be made."""
        self.work = work
        """What an application does with the base; None for what the six stages do."""
        self.dev_score = DevScore(config, folder, self.generate, lambda: self.networks)

    def of(self, config: Run) -> Stages[Run]:
        """The stages by settings that differ in the skills alone; what is loaded, they share."""
        skills = Stages(config, self.folder, make=self.make, work=self.work, engine=self.engine)
        skills.loaded = self.loaded
        return skills

    def write_prompts(self) -> dict[str, Sequence[Prompt]]:
        from selma.prompts.writing import write_prompts

        if not self.config.prompts.given:
            self._spread(PROMPTS)
        with self.at(PROMPTS) as folder, processes.main_first():
            return write_prompts(
                self.config.prompts,
                folder,
                seed=self.config.seed,
                benchmark_texts=self._benchmark_texts,
            )

    def write_questions(
        self, prompts: Mapping[str, Sequence[Prompt]]
    ) -> dict[str, list[BenchmarkPrompt]]:
        """Skill → its prompts that have questions; {} if neither choosing images nor rewarding them
        asks any."""
        source = self.config.questions
        if source is None:
            return {}
        from selma.prompts.questions.sources import write_questions
        from selma.scores.benchmarks import read_benchmark

        with self.at(PROMPTS, "questions") as folder, processes.main_first():
            return write_questions(prompts, source, folder, read_file=read_benchmark)

    def generate_pairs(self, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, Sequence[Pair]]:
        """Skill → its pairs: images by the base, by another one, or given."""
        config = self.config
        asked = self.write_questions(prompts) if config.images.questions else {}
        with self.at(IMAGES) as folder:
            if config.images.given:
                from selma.images.given import take_pairs

                return take_pairs(
                    prompts,
                    config.images,
                    folder,
                    base=config.local_base,
                    seed=config.seed,
                    model=self.model,
                )
            from selma.images.generating import drawing_settings, generate_pairs

            return generate_pairs(
                prompts,
                drawing_settings(config.images),
                folder,
                base=config.images.base or config.base,
                seed=config.seed,
                model=self._drawing,
                adapters=self._image_adapters,
                accepting=self._accepting(asked, folder) if asked else None,
            )

    def generate_candidates(self, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, Path]:
        """Skill → the folder with all images that the pairs are chosen from."""
        from selma.images.generating import drawing_settings, generate_candidates

        config, asked = self.config, self.write_questions(prompts)
        ids = {prompt.id for of_skill in asked.values() for prompt in of_skill}
        with self.at(IMAGES) as folder:
            return generate_candidates(
                {
                    skill: [p for p in of_skill if p.id in ids or not asked]
                    for skill, of_skill in prompts.items()
                },
                drawing_settings(config.images),
                folder,
                base=config.images.base or config.base,
                seed=config.seed,
                model=self._drawing,
                adapters=self._image_adapters,
            )

    def _accepting(
        self, asked: Mapping[str, Sequence[BenchmarkPrompt]], folder: Workspace
    ) -> Accepting:
        from selma.scores.accepting import Accepting

        count = self.config.images.candidates_per_prompt
        return Accepting(asked, self.config.scores, self.networks, folder, count)

    def survivors(self, skills: Iterable[str]) -> dict[str, Survivors]:
        """Skill → what choosing by thresholds left of its prompts, where there are any."""
        from selma.images.pairs import read_survivors

        return read_survivors(self.folder, skills)

    def preference_counts(self, skills: Iterable[str]) -> dict[str, PreferenceCount]:
        """What `preferences` left; {} if experts do not learn from any."""
        from selma.images.preferences import read_counts

        if not isinstance(self.config.experts.objective, PreferenceObjective):
            return {}
        return read_counts(self.folder, skills)

    def preferences(self, skills: Iterable[str]) -> dict[str, list[Preference]] | None:
        """Skill → pairs of winner and loser; None if experts do not learn from any."""
        objective = self.config.experts.objective
        if not isinstance(objective, PreferenceObjective):
            return None
        from selma.images.preferences import make_preferences

        names, asked = list(skills), {}
        if objective.pairs.by == "answers":
            written = self.write_prompts()
            asked = self.write_questions({name: written[name] for name in names})
        with self.at(IMAGES, "preferences") as folder:
            return make_preferences(
                names,
                self.config.images,
                objective.pairs,
                folder,
                accepting=self._accepting(asked, folder) if asked else None,
            )

    def train_experts(self, pairs: Mapping[str, Sequence[Pair]]) -> list[Expert]:
        from selma.experts.fitting import fitting_of
        from selma.experts.skills import train_experts

        config, preferences = self.config, self.preferences(pairs)
        self._spread(EXPERTS)
        with self.at(EXPERTS) as folder:
            return train_experts(
                pairs,
                config.experts,
                folder,
                base=config.local_base,
                seed=config.seed,
                model=self.model,
                dev_score=self.dev_score if config.experts.select == "dev" else None,
                rewards=self._rewards(),
                preferences=preferences,
                fitting=fitting_of(config.images),
            )

    def _rewards(self) -> Callable[[str], Reward] | None:
        """Skill → the reward that its expert learns from, if the objective learns from any."""
        if (objective := self.config.rewarded) is None:
            return None
        from selma.scores.rewarding import rewards

        asked = self.write_questions(self.write_prompts()) if objective.questions else {}
        if self.config.experts.joint is not None:
            asked = {JOINT: [prompt for of_skill in asked.values() for prompt in of_skill]}
        return rewards(objective, self.config.scores, self.networks, asked)

    def all_experts(self) -> list[Expert]:
        _ = self.config.local_base  # without it no stage before could help
        return self.train_experts(self.generate_pairs(self.write_prompts()))

    def merge_experts(self, experts: Sequence[Expert]) -> Merged:
        from selma.merged.merging import merge_experts

        if self.config.merged.mixture is not None:
            return self._mix_experts(experts, self.config.merged.mixture)
        with self.at(MERGED) as folder:
            if self.config.merged.search is None:
                with processes.main_first():
                    return merge_experts(experts, self.config.merged, folder)
            from selma.merged.searching import merge_searched

            with processes.main_first(partial(self.dev_score, kind=TRIAL)) as score:
                assert score is not None
                merged = merge_searched(
                    experts,
                    self.config.merged,
                    folder,
                    dev_score=score,
                    scored_by=self.dev_score.recipe,
                )
            if MERGED in self.make and processes.main():
                self._drop_trial_images()
            return merged

    def _mix_experts(self, experts: Sequence[Expert], settings: MixtureConfig) -> Merged:
        from selma.experts.fitting import fitting_of
        from selma.experts.mixtures import measured_shares, train_mixture
        from selma.merged.mixing import keep_mixture

        config = self.config
        pairs = self.generate_pairs(self.write_prompts())
        with self.at(MERGED) as folder:
            trained, training = train_mixture(
                experts,
                pairs,
                settings,
                config.experts,
                folder,
                base=config.local_base,
                seed=config.seed,
                model=self.model,
                dev_score=self.dev_score if settings.selects(config.experts) else None,
                fitting=fitting_of(config.images),
            )
            with processes.main_first():
                return keep_mixture(
                    trained,
                    folder,
                    samples={skill: len(each) for skill, each in pairs.items()},
                    measure=lambda file: measured_shares(file, training),
                )

    def generate(
        self,
        name: str,
        adapters: Sequence[AppliedAdapter] = (),
        prompts: Sequence[BenchmarkPrompt] | None = None,
        *,
        folder: Workspace | None = None,
        guidance: float | None = None,
        guide: GuideSettings | None = None,
    ) -> Path:
        """Generate a benchmark's images with adapters applied; images that exist are kept.

        prompts: one image each; if left out the run's benchmark, from every seed.  folder: where
        they may be made; if left out, only where stage 5 may make anything.  guidance: if left out
        the benchmark's of the settings.  guide: a method that changes how images are generated;
        what its parser says of the prompts is kept beside them.  Returns the folder
        `5-scores/images/<name>`.
        """
        from selma.images.generating import generate_benchmark
        from selma.images.guides.applying import parsed

        base = self.config.base
        if prompts is None:
            prompts = repeated(self.benchmark_prompts, self.config.scores.seeds)
        texts = [prompt.text for prompt in prompts]
        with (
            self.at(SCORES, f"generating: {name}") if folder is None else nullcontext(folder) as at
        ):
            return generate_benchmark(
                prompts,
                name=name,
                adapters=adapters,
                guide=None if guide is None else parsed(texts, guide, at, base=base),
                steps=self.config.benchmark_steps,
                guidance=self.config.benchmark_guidance if guidance is None else guidance,
                batch_size=self.config.images.batch_size,
                folder=at,
                base=base,
                seed=self.config.seed,
                model=self._drawing_benchmark,
            )

    def generate_by_models(self, experts: Sequence[Expert], merged: Merged) -> dict[str, Path]:
        """Model → folder with its images of the benchmark; the base first, merged last."""
        models = self.adapters_by_model(experts, merged)
        return {name: self.generate(name, adapters) for name, adapters in models.items()}

    def adapters_by_model(
        self, experts: Sequence[Expert], merged: Merged
    ) -> dict[str, list[AppliedAdapter]]:
        """Model that is scored → what is applied to the base; the base first, merged last."""
        models: dict[str, list[AppliedAdapter]] = {"base": []}
        if self.config.scores.experts:
            models |= {expert.skill: [applied(expert)] for expert in experts}
        if merged.uniform is not None:
            models[UNIFORM] = [applied(merged.uniform)]
        models["merged"] = [applied(merged)]
        return models

    def further(self, name: str) -> Further:
        """A further benchmark of the run."""
        return Further(name, self.config.scores)

    def score_further(
        self, experts: Sequence[Expert], merged: Merged, images: Mapping[str, Path]
    ) -> dict[str, Path]:
        """Further benchmark → the folder of its scorecard; images: those of the run's first."""
        models = self.adapters_by_model(experts, merged)
        cards = {}
        drawn: dict[str | None, Mapping[str, Path]] = {None: images}
        for name in self.config.scores.further:
            part = self.further(name)
            if part.images_of == name:
                drawn[name] = {m: self.generate_further(part, m, its) for m, its in models.items()}
            cards[name] = self.score_models_further(part, drawn[part.images_of], experts)
        return cards

    def generate_further(
        self, part: Further, model: str, adapters: Sequence[AppliedAdapter] = ()
    ) -> Path:
        """A model's images of a further benchmark."""
        with self.at(SCORES, f"generating: {part.name}, {model}") as folder:
            prompts = repeated(part.prompts, part.scores.seeds)
            return self.generate(model, adapters, prompts, folder=part.within(folder))

    def score_models_further(
        self, part: Further, images: Mapping[str, Path], experts: Sequence[Expert]
    ) -> Path:
        with self.at(SCORES) as folder:
            inner = part.within(folder)
            self._score(
                images,
                experts,
                part.scores,
                part.prompts,
                inner,
                networks=self.networks.judged_by(part.scores.judge),
                near_training=None if part.kept_from_training else self._near(part),
            )
            return inner.folder_of(SCORES, "scorecard")

    def score_models(
        self,
        images: Mapping[str, Path],
        experts: Sequence[Expert],
        further: Mapping[str, Path] | None = None,
    ) -> Scorecard:
        """The run's scorecard. further: what `score_further` returns."""
        with self.at(SCORES) as folder:
            return self._score(
                images,
                experts,
                self.config.scores,
                self.benchmark_prompts,
                folder,
                networks=self.networks,
                further=further,
            )

    def _score(
        self,
        images: Mapping[str, Path],
        experts: Sequence[Expert],
        scores: ScoresConfig,
        prompts: Sequence[BenchmarkPrompt],
        folder: Workspace,
        *,
        networks: ScoringNetworks,
        further: Mapping[str, Path] | None = None,
        near_training: int | None = None,
    ) -> Scorecard:
        from selma.scores.scoring import score_models

        roles = {"base": "base", UNIFORM: "other", "merged": "merged"}
        roles |= {expert.skill: "expert" for expert in experts}
        return score_models(
            prompts,
            images,
            scores.model_copy(update={"chosen_by": self.config.chosen_by}),
            folder,
            roles={name: roles[name] for name in images},
            seed=self.config.seed,
            compare=[("merged", UNIFORM)] if UNIFORM in images else [],
            networks=networks,
            guidance=self.config.benchmark_guidance,
            further=further,
            near_training=near_training,
        )

    def _near(self, part: Further) -> int:
        """How many of the run's prompts are near one that is scored."""
        from selma.prompts.contamination import BenchmarkTexts

        threshold = self.config.prompts.contamination_threshold
        texts = [prompt.text for prompt in part.prompts]
        index = BenchmarkTexts(texts, threshold=NEAR if threshold is None else threshold)
        written = self.write_prompts().values()
        return sum(index.contains(prompt.text) for each in written for prompt in each)

    def write_report(
        self,
        prompts: dict[str, Sequence[Prompt]],
        pairs: dict[str, Sequence[Pair]],
        experts: list[Expert],
        merged: Merged,
        images: dict[str, Path],
        scorecard: Scorecard,
    ) -> Path:
        from selma.experts.finishing import read_energies
        from selma.merged.merging import read_diagnostics
        from selma.merged.searching import read_trials
        from selma.report.page import write_report
        from selma.scores.benchmarks import measure_labelled
        from selma.scores.describing import judge_checks
        from selma.scores.hps import run_results
        from selma.scores.scoring import AnswersOf

        if not processes.main():
            return self.folder.root / REPORT / "index.html"
        keys = self.model_keys(experts, merged)
        findings = Findings(
            settings=portable(self.config, self.folder.root),
            prompts=prompts,
            dropped=self._of_replies("dropped"),
            replies=self._of_replies("replies"),
            pairs=pairs,
            survivors=self.survivors(pairs),
            preferences=self.preference_counts(pairs),
            experts=experts,
            merged=merged,
            benchmark_prompts=self.benchmark_prompts,
            benchmark_over_limit=benchmark_over_limit(
                images["base"], seeds=self.config.scores.seeds
            ),
            images=images,
            answers={model: AnswersOf(self.folder, model) for model in ("base", "merged")},
            scorecard=scorecard,
            measure=measure_labelled(scorecard.measure).about,
            journal=self.folder.read_journal(),
            lineage=self._lineage(experts, merged),
            diagnostics=read_diagnostics(merged),
            trials=[asdict(trial) for trial in read_trials(merged.folder)],
            energies=read_energies(experts),
            hps=run_results(self.folder, keys),
            keys=keys | part_keys(images, scorecard),
            checks=judge_checks(self.folder),
        )
        findings = replace(findings, further=self._further_findings(findings))
        with self.at(REPORT) as folder, processes.alone():
            return write_report(findings, self.config.report, folder)

    def _further_findings(self, findings: Findings) -> dict[str, Findings]:
        from selma.scores.benchmarks import measure_labelled
        from selma.scores.scoring import AnswersOf

        found = {}
        drawn: dict[str | None, dict[str, Path]] = {None: findings.images}
        for name in self.config.scores.further:
            card = findings.scorecard.further[name]
            part = self.further(name)
            folder = part.within(self.folder)
            drawn[name] = {m: folder.folder_of(SCORES, "images", m) for m in findings.images}
            found[name] = replace(
                findings,
                benchmark_prompts=part.prompts,
                images=drawn[part.images_of],
                answers={m: AnswersOf(folder, m) for m in findings.answers},
                scorecard=card,
                measure=measure_labelled(card.measure).about,
            )
        return found

    def model_keys(self, experts: Sequence[Expert], merged: Merged) -> dict[str, str]:
        """Model → what tells it from another of its name: it changes with the weights."""
        keys = {"base": self.base_key()}
        keys |= {expert.skill: expert.key for expert in experts}
        if merged.uniform is not None:
            keys[UNIFORM] = merged.uniform.key
        return keys | {"merged": merged.key}

    def base_key(self) -> str:
        """What tells the base from another, as in `model_keys`."""
        from selma.backbones.base_files import base_fingerprint

        return base_fingerprint(self.config.base)

    def model(self) -> TextToImage:
        """The base model; loaded once, at the first call. Raises ConfigError if it is on a
        server."""
        return self.loaded._model

    def drawing(self) -> AnyTextToImage:
        """The base as far as it generates, on this machine or on a server."""
        return self.model() if isinstance(self.config.base, BaseConfig) else self.loaded._served

    @cached_property
    def _served(self) -> AnyTextToImage:
        return self._any(self.config.base)

    def _any(self, base: AnyBase) -> AnyTextToImage:
        from selma.backbones.drawing import load_any_text_to_image

        # Requests for benchmarks' images are journalled with those of stage 2: it is one account.
        note = partial(self.folder.journal, IMAGES)
        return load_any_text_to_image(base, note=note, spent=self.folder.spent(IMAGES))

    @cached_property
    def _model(self) -> TextToImage:
        from selma.backbones.text_to_image import load_text_to_image
        from selma.capacity import require_memory, work_of_stages

        work = work_of_stages if self.work is None else self.work
        base = self.config.local_base
        require_memory(base, work(self.config))
        return load_text_to_image(base)

    def _drawing(self) -> AnyTextToImage | Elsewhere:
        """What generates training images."""
        other = self.config.images.base
        if other is None:
            return self._drawing_benchmark()
        return self._elsewhere(other) or self.loaded._drawing_model

    def _drawing_benchmark(self) -> AnyTextToImage | Elsewhere:
        """What generates benchmarks' images: the run's base."""
        return self._elsewhere(self.config.base) or self.drawing()

    def _elsewhere(self, base: AnyBase) -> Elsewhere | None:
        """The base in an engine's workers, if there is an engine; a server is elsewhere already."""
        if self.engine is None or not isinstance(base, BaseConfig):
            return None
        from selma.engines.elsewhere import DrawnElsewhere

        return DrawnElsewhere(base, self.engine)

    @cached_property
    def _drawing_model(self) -> AnyTextToImage:
        """The other base that generates training images."""
        from selma.capacity import require_memory, work_of_drawing

        base = self.config.images.base
        assert base is not None
        if isinstance(base, BaseConfig):
            require_memory(base, [work_of_drawing(self.config)], setting="images.base")
        return self._any(base)

    @cached_property
    def _image_adapters(self) -> list[AppliedAdapter]:
        from selma.adapters.contents import keyed

        adapter = self.config.images.adapter
        return [] if adapter is None else [keyed(Path(adapter))]

    @cached_property
    def networks(self) -> ScoringNetworks:
        """The networks of stage 5, each loaded when first needed."""
        if self.loaded is not self:
            return self.loaded.networks
        from selma.scores.networks import ScoringNetworks

        if self.engine is None:
            return ScoringNetworks(self.config.scores)
        from selma.engines.elsewhere import loaders

        return ScoringNetworks(self.config.scores, loaders(self.engine))

    def _spread(self, stage: str) -> None:
        """Let an engine's workers make what is missing of a stage, one skill each."""
        if self.engine is None or stage not in self.make:
            return
        alone = [(_missing(each, stage), each) for each in skills_alone(self.config)]
        if missing := [(item, each) for item, each in alone if item is not None]:
            for item, _ in missing:
                item.require_free()
            if self.folder.beginning:  # which no worker calls
                self.folder.beginning(missing[0][0].name)
            work = Worker(stage_worker, (stage,), alone=True)
            settings = (absolute(each).model_dump_json() for _, each in missing)
            for _ in self.engine().map(work, settings):
                pass

    @cached_property
    def benchmark_prompts(self) -> list[BenchmarkPrompt]:
        from selma.scores.benchmarks import load_benchmark

        return load_benchmark(self.config.scores)

    @cached_property
    def _benchmark_texts(self) -> list[str]:
        from selma.scores.benchmarks import all_texts

        return all_texts(self.config.scores)

    @contextmanager
    def at(self, stage: str, what: str = "rest") -> Iterator[Workspace]:
        """The folder to hand to a stage.

        A stage journals what it spends on each skill; the rest (loading, looking) is added here, so
        that a stage's lines sum up to its time.
        """
        if stage not in self.make:
            yield self.finished
            return
        if not processes.main():
            yield self.folder
            return
        before, started = self.folder.journal_end(), time.monotonic()
        yield self.folder
        spent = time.monotonic() - started
        journalled = sum(
            line.get("seconds", 0)
            for line in self.folder.read_journal(start=before)
            if "event" not in line  # a request's time is part of its skill's
        )
        if spent - journalled > 0.1:  # less is looking at what is finished
            self.folder.journal(stage, what=what, seconds=round(spent - journalled, 3))

    def _drop_trial_images(self) -> None:
        """A finished search has its scores on record; a folder for each merge that was tried would
        be most of a run's size."""
        for images in (self.folder.root / SCORES / "images").glob(f"{TRIAL}-*"):
            shutil.rmtree(images)

    def _of_replies(self, what: str) -> dict[str, dict[str, int]]:
        from selma.prompts.writing import counts

        return counts(
            what,
            self.config.prompts,
            self.folder,
            seed=self.config.seed,
            benchmark_texts=self._benchmark_texts,
        )

    def _lineage(self, experts: Sequence[Expert], merged: Merged) -> dict[str, str]:
        from selma.backbones.base_files import base_fingerprint

        keys = {f"expert {expert.skill}": expert.key for expert in experts}
        drawn_by = {}
        if (drawing := self.config.images.base) is not None:
            drawn_by = {"images by": base_fingerprint(drawing)}
        lineage = {"base": self.base_key()} | drawn_by | keys | {"merged": merged.key}
        lineage |= installed_versions()
        if taken := kept_in_words(self.folder.root):
            lineage["kept, of other versions"] = taken
        return lineage
