"""A run's settings → the work of its six stages, counted on shapes, and what that takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import Any

from selma.backbones.bases import guidance_of
from selma.backbones.judges.loading import judge_kind
from selma.backbones.language.loading import LANGUAGE_MODELS
from selma.backbones.memory import Parts, encoding_operations, image_operations, parts_of
from selma.backbones.preference.scorers import scorer_operations
from selma.capacity import memory
from selma.config import RunConfig, require_settings
from selma.config.adapters import LoraConfig
from selma.config.networks import BaseConfig, Endpoint, LocalLLM, ServedBase, ServedLLM
from selma.config.preferences import PreferenceObjective
from selma.config.questions import WrittenQuestions
from selma.config.scores import AnyJudge, ScorerSettings, ServedJudge, judge_name
from selma.devices import Device
from selma.errors import ConfigError
from selma.experts.memory import adapter_size, sample_operations, together
from selma.pipeline import Further
from selma.planning.work import Asked, Plan, StagePlan, Work, staged
from selma.prompts.instructions import continuation, instructions
from selma.prompts.skills import load_skills
from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.benchmarks import load_benchmark
from selma.workspace import EXPERTS, IMAGES, MERGED, PROMPTS, SCORES, STAGES

KEPT = 0.85
"""Of texts that a language model writes, those that are novel and within the skill's limits."""
CHARACTERS = 4
"""Of English, in a token."""
TOKENS = 4 / 3
"""Of a word."""
COMMON = 0.6
"""Of the tokens of a skill's requests, those that all begin with: a local model reads them once in
a batch. Of the demo's skills 0.52 to 0.73."""
QUESTIONS = 8
"""About a training prompt, before they are written; DSG's prompts have 7.7."""
STEPS_OF_QUESTIONS, READ_OF_QUESTIONS, WRITTEN_OF_QUESTIONS = 3, 1500, 120
"""Requests for a prompt's questions (facts, questions, dependencies), and tokens of each."""
TOKENS_OF_IMAGE = 1000
"""As a server counts an image that it is asked about."""
BYTES_OF_PIXEL = 1.6
"""Of a PNG."""
PASSES_OF_MERGE = 4
"""Products of factors that a merge makes of each layer, its diagnostics among them."""
CHECKPOINTS = 2
"""That are there at once, each with two moments beside the weights."""
FLOAT = 4


def plan(
    config: RunConfig,
    device: Device,
    gpus: int = 1,
    *,
    shapes: Callable[[BaseConfig], Parts] = parts_of,
) -> Plan:
    """What a run takes on so many devices of a kind, from nothing. Loads no weights but toybox's
    own judges. Raises ConfigError, DataError for a benchmark that cannot be read, and ModelError.

    shapes: a base's networks.
    """
    require_settings(config, RunConfig)
    if gpus < 1:
        raise ConfigError(f"A plan is for at least one device, but {gpus} came.")
    count = _Count(config, shapes)
    count.all()
    stages = [staged(count.work, each, device, gpus, count.disk.get(each, 0)) for each in STAGES]
    limit = None if device.memory_gib is None else device.memory_gib << 30
    changes = () if limit is None else memory(config, limit, shapes=shapes)[1]
    most = sum(stage.disk for stage in stages) + min(gpus, count.experts) * count.checkpoints
    used = sorted({piece.kind for piece in count.work})
    assumed = [
        f"{kind} at {device.share(kind).value:.0%} of the peak: {device.share(kind).source}"
        for kind in used
    ]
    asks = [] if not count.asked else ["servers answer in no time"]
    return Plan(
        device,
        gpus,
        stages,
        tuple(count.work),
        tuple(count.asked),
        most,
        (*assumed, *count.assumed, *asks, *_idle(count, stages, gpus)),
        tuple(dict.fromkeys(count.left_out)),
        tuple(changes),
    )


def _idle(count: _Count, stages: Sequence[StagePlan], gpus: int) -> list[str]:
    training = next(stage for stage in stages if stage.stage == EXPERTS)
    if training.gpus == gpus or count.config.experts.spread == "batch":
        return []
    return [
        f"{gpus - training.gpus} of {gpus} devices wait while {count.experts} experts are "
        "trained; experts.spread: batch lets all share each of them"
    ]


@dataclass
class _Count:
    """Goes through the stages, and notes what there is to do."""

    config: RunConfig
    shapes: Callable[[BaseConfig], Parts]
    work: list[Work] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    disk: dict[str, float] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    checkpoints: float = 0
    """Bytes beside one expert that is being trained."""

    @property
    def prompts(self) -> int:
        return len(self.config.prompts.skills) * self.config.prompts.per_skill

    @property
    def pairs(self) -> int:
        return self.prompts * self.config.images.per_prompt

    @property
    def experts(self) -> int:
        return 1 if self.config.experts.joint is not None else len(self.config.prompts.skills)

    @cached_property
    def parts(self) -> Parts:
        return self.shapes(self.config.local_base)

    @property
    def px(self) -> int:
        return self.parts.image_px

    def all(self) -> None:
        self._prompts()
        self._questions()
        self._images()
        self._experts()
        self._merged()
        self._scores()
        self.left_out.append(
            "text encoders of the base (below 1% of its work), reading and writing of files, "
            "statistics and the page, beside the seconds that each stage takes to start"
        )
        if others := type(self.config).model_fields.keys() - RunConfig.model_fields.keys():
            self.left_out.append(f"all that {' and '.join(sorted(others))} adds to the six stages")

    def _add(
        self, stage: str, what: str, kind: Any, operations: float, precision: str, at_once: int
    ) -> None:
        if operations:
            self.work.append(Work(stage, what, kind, operations, precision, max(at_once, 1)))

    def _prompts(self) -> None:
        config = self.config.prompts
        self.disk[PROMPTS] = 500 * self.prompts
        if config.given:
            self.assumed.append(f"{config.per_skill} prompts of each skill are given")
            return
        requests = read = written = 0.0
        for skill in load_skills(config.skills):
            asks = config.per_skill / KEPT / config.asked_per_reply
            seeds = skill.seeds[: config.examples]
            told = instructions(skill, seeds, asked=config.asked_per_reply)
            # With a lexicon, or by a model that only continues, a list is continued.
            if isinstance(config.backend, LocalLLM):
                told = continuation(skill, seeds)
            # A skill's texts are as long as its seeds.
            words = sum(len(seed.split()) for seed in skill.seeds) / len(skill.seeds)
            reply = min(config.asked_per_reply * words * TOKENS, config.max_new_tokens)
            requests += ceil(asks)
            beginnings = others = ceil(asks)
            if isinstance(config.backend, LocalLLM):
                beginnings = ceil(asks / config.backend.batch_size)
            each = len(told) / CHARACTERS
            read += each * (COMMON * beginnings + (1 - COMMON) * others)
            written += ceil(asks) * reply
        self.assumed.append(f"{KEPT:.0%} of the texts that are written are kept")
        skills = len(config.skills)
        self._written("prompts", config.backend, requests, read, written, at_once=skills)

    def _questions(self) -> None:
        source = self.config.questions
        if not isinstance(source, WrittenQuestions):
            return
        requests = STEPS_OF_QUESTIONS * self.prompts
        sizes = requests * READ_OF_QUESTIONS, requests * WRITTEN_OF_QUESTIONS
        self._written("questions", source.backend, requests, *sizes, at_once=1)

    def _written(
        self, what: str, backend: Any, requests: float, read: float, written: float, at_once: int
    ) -> None:
        """Requests to a language model, wherever it is."""
        if isinstance(backend, Endpoint):
            cost = None
            if isinstance(backend, ServedLLM):
                cost = backend.price(read, written) or None
            self.asked.append(Asked(what, round(requests), round(read), round(written), cost))
            return
        weights = LANGUAGE_MODELS[backend.kind].weights(backend)
        if weights is None:
            self.left_out.append(f"{what} by {backend.model}: its size is not known here")
            return
        operations = 2 * weights * (read + written)
        self._add(PROMPTS, what, "writing", operations, "fp32", at_once)

    def _images(self) -> None:
        config = self.config.images
        self.disk[IMAGES] = BYTES_OF_PIXEL * self.px**2 * self.pairs
        if config.given:
            return
        candidates = self.prompts * config.candidates_per_prompt
        base, px = config.base, self.px
        if base is None:
            self._generated(IMAGES, "training images", candidates, config.steps, config.guidance)
        elif isinstance(base, ServedBase):
            cost = candidates * base.price_per_image or None
            self.asked.append(Asked("training images", candidates, 0, 0, cost))
            px = base.image_px
        else:
            parts = self.shapes(base)
            px = parts.image_px
            steps = base.steps or config.steps
            guidance = guidance_of(base) if base.guidance is None else base.guidance
            self._generated(IMAGES, "training images", candidates, steps, guidance, parts)
        self.disk[IMAGES] = BYTES_OF_PIXEL * px**2 * candidates
        learns = isinstance(self.config.experts.objective, PreferenceObjective)
        if config.choose is None:
            return
        self._scored(IMAGES, config.choose.scorer, candidates)
        if config.questions or (learns and self.config.experts.objective.pairs.by == "answers"):
            self._answered(
                IMAGES, self.config.scores.choosing_judge, candidates, QUESTIONS * candidates
            )
            self.assumed.append(f"{QUESTIONS} questions about a training prompt")

    def _generated(
        self,
        stage: str,
        what: str,
        images: int,
        steps: int,
        guidance: float,
        parts: Parts | None = None,
        *,
        at_once: int | None = None,
    ) -> None:
        parts = parts or self.parts
        guided = parts.family.guided(guidance)
        each = image_operations(parts, steps=steps, guided=guided)[1]
        batches = ceil(images / self.config.images.batch_size)
        precision = parts.base.precision
        self._add(stage, what, "generating", images * each, precision, at_once or batches)

    def _answered(
        self,
        stage: str,
        judge: AnyJudge,
        images: int,
        questions: int,
        *,
        at_once: int | None = None,
    ) -> None:
        """A judge's answers to so many questions about so many images."""
        name = judge_name(judge)
        what = f"answers of {name}"
        if isinstance(judge, ServedJudge):
            read = questions * (TOKENS_OF_IMAGE + 40)
            written = questions * 5
            cost = judge.price(read, written) or None
            self.asked.append(Asked(what, questions, read, written, cost))
            return
        computing = judge_kind(judge).computing(judge, self.px)
        if computing is None:
            self.left_out.append(
                f"{what} ({questions:,} of them): its architecture is not known here"
            )
            return
        operations = images * computing.image + questions * computing.question
        precision = getattr(judge, "precision", "fp32")
        self._add(stage, what, "answering", operations, precision, at_once or images)

    def _scored(
        self, stage: str, scorer: str | ScorerSettings, images: int, *, at_once: int | None = None
    ) -> None:
        """A scorer's scores of so many images with their prompts."""
        name = scorer if isinstance(scorer, str) else scorer.key
        each = scorer_operations(scorer)
        if each is None:
            self.left_out.append(f"scores by {name}: its architecture is not known here")
        else:
            self._add(
                stage, f"scores by {name}", "answering", images * each, "fp32", at_once or images
            )

    def _experts(self) -> None:
        config, rewarded = self.config.experts, self.config.rewarded
        steps = config.steps
        if config.joint == "steps_per_skill":
            steps *= len(self.config.prompts.skills)
        sharing = self.experts if config.spread == "experts" else self.experts * config.batch_size
        weights, _ = adapter_size(self.parts, config)
        samples = self.experts * steps * config.batch_size
        if rewarded is None:
            encoded = encoding_operations(self.parts) * (1 + config.flip)
            precision = self.config.local_base.precision
            self._add(
                EXPERTS, "encoding", "generating", self.pairs * encoded, precision, self.experts
            )
        each = sample_operations(self.parts, config)
        self._add(EXPERTS, "training", "training", samples * each, config.precision, sharing)
        if config.objective.kind != "denoising":
            self.left_out.append(
                f"objective {config.objective.kind}: passes of the base and of the weights before, "
                "without gradients (a third to two thirds of a plain step more)"
            )
        if rewarded is not None:
            rounds = ceil(steps / rewarded.updates_per_round) * self.experts
            images = rounds * rewarded.images_per_round
            self._generated(
                EXPERTS, "own images", images, rewarded.sampling_steps, rewarded.guidance,
                at_once=self.experts,
            )  # fmt: skip
            if rewarded.asks_judge:
                asks = QUESTIONS if rewarded.reward == "questions" else 1
                self._answered(
                    EXPERTS, self.config.scores.choosing_judge, images, asks * images,
                    at_once=self.experts,
                )  # fmt: skip
            else:
                self._scored(EXPERTS, rewarded.reward, images, at_once=self.experts)
            for added in rewarded.also:
                self._scored(EXPERTS, added.scorer, images, at_once=self.experts)
        if config.select == "dev":
            checkpoints = steps // config.checkpoint_every * self.experts
            self._chosen(EXPERTS, "checkpoints", checkpoints, at_once=self.experts)
        latents = 2 * FLOAT * self.parts.latent[0] * self.parts.latent[1] * self.parts.latent[2]
        texts = sum(t.numel() for t in self.parts.conditioning(1).tensors().values()) * FLOAT
        encoded_bytes = (
            0 if rewarded is not None else self.pairs * (latents * (1 + config.flip) + texts)
        )
        self.disk[EXPERTS] = self.experts * weights * FLOAT + encoded_bytes
        self.checkpoints = CHECKPOINTS * 3 * weights * FLOAT

    def _chosen(self, stage: str, what: str, adapters: int, *, at_once: int) -> None:
        """Adapters' scores on the dev prompts."""
        scores = self.config.scores
        dev = load_benchmark(scores, split="dev", prompts=scores.dev_prompts)
        images = adapters * len(dev)
        steps, guidance = self.config.benchmark_steps, self.config.benchmark_guidance
        self._generated(stage, f"{what}' dev images", images, steps, guidance, at_once=at_once)
        self._answered(
            stage, scores.choosing_judge, images, adapters * _questions(dev), at_once=at_once
        )

    def _merged(self) -> None:
        config, experts = self.config.merged, self.config.experts
        weights, deltas = adapter_size(self.parts, experts)
        self.disk[MERGED] = self.experts * weights * FLOAT
        if (mixture := config.mixture) is not None:
            assert isinstance(experts.adapter, LoraConfig)
            training = mixture.training(experts)
            wide = together(experts, self.experts)
            each = sample_operations(self.parts, wide)
            samples = training.steps * training.batch_size
            self._add(MERGED, "gates", "training", samples * each, training.precision, 1)
            if mixture.selects(experts):
                self._chosen(
                    MERGED, "checkpoints", training.steps // training.checkpoint_every, at_once=1
                )
            return
        if config.search is not None:
            self._chosen(MERGED, "trials", config.search.trials, at_once=1)
        # Deltas are made, added, and held against the exact mean.
        operations = PASSES_OF_MERGE * 2 * self.experts * deltas
        self._add(MERGED, "merging", "merging", operations, "fp32", 1)

    @property
    def models(self) -> int:
        """Base, merged, uniform beside searched weights, and each expert."""
        search = self.config.merged.search is not None
        return 2 + search + (self.experts if self.config.scores.experts else 0)

    def _scores(self) -> None:
        scores = self.config.scores
        self._benchmark("benchmark", load_benchmark(scores), scores.seeds, drawn=True)
        self._judged(scores.judge, load_benchmark(scores), scores)
        for name in scores.further:
            part = Further(name, scores)
            own = part.scores
            self._benchmark(name, part.prompts, own.seeds, drawn=part.images_of == name)
            self._judged(own.judge, part.prompts, own)

    def _benchmark(
        self, name: str, prompts: Sequence[BenchmarkPrompt], seeds: int, *, drawn: bool
    ) -> None:
        if not drawn:
            return
        images = self.models * len(prompts) * seeds
        steps, guidance = self.config.benchmark_steps, self.config.benchmark_guidance
        self._generated(SCORES, f"images of {name}", images, steps, guidance)
        bytes_of_images = BYTES_OF_PIXEL * self.px**2 * images
        self.disk[SCORES] = self.disk.get(SCORES, 0) + bytes_of_images

    def _judged(self, judge: AnyJudge, prompts: Sequence[BenchmarkPrompt], scores: Any) -> None:
        images = self.models * len(prompts) * scores.seeds
        questions = self.models * scores.seeds * _questions(prompts)
        self._answered(SCORES, judge, images, questions)
        # By the second judge's answers it is told how far judges agree.
        self._answered(SCORES, scores.choosing_judge, images, questions)
        if scores.vqascore is not None:
            self._answered(SCORES, judge, images, images)
        if scores.clip is not None:
            self._scored(SCORES, scores.clip, images)
        for scorer in scores.preferences:
            self._scored(SCORES, scorer, images)
        if scores.matcher is not None:
            self.left_out.append(f"scores.matcher {scores.matcher}")


def _questions(prompts: Sequence[BenchmarkPrompt]) -> int:
    return sum(len(prompt.questions) for prompt in prompts)
