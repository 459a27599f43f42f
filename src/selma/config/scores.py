"""Settings of stage 5: the benchmark, judges and preference scorers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from selma.config.networks import Server
from selma.config.places import FileOrFolder, Model, ModelPath
from selma.config.section import Probability, Resamples, Section, is_folder, kinds, or_added
from selma.records.scores import Zeroing


class LocalJudge(Section):
    """A model that answers questions about images, run by transformers."""

    kind: Literal["transformers"] = "transformers"
    model: ModelPath
    """A folder or Hub id: BLIP-VQA, BLIP-2, InstructBLIP, PaliGemma, or any vision-language model
    with a chat template (Qwen2-VL and its like)."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest."""
    prompt: str | None = None
    """How a question is put: a name of backbones/judges/wordings.py, or words with {question}; None
    is what the architecture was trained with."""
    beams: PositiveInt = 1
    max_new_tokens: PositiveInt = 30
    length_penalty: float = 1.0
    """Only of beam search; above 1 prefers longer answers."""
    repetition_penalty: PositiveFloat = 1.0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """In half precision the batch size may move the last digit of a probability."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    batch_size: PositiveInt = 32
    """Images that are encoded, and questions that are answered, at once."""


class ServedJudge(Server):
    """A vision-language model on a server."""

    kind: Literal["openai"] = "openai"
    prompt: str | None = None
    """The same as of a local judge; None asks for yes or no."""
    temperature: NonNegativeFloat = 0.0
    max_new_tokens: PositiveInt = 30
    logprobs: bool = True
    """Ask for the first tokens' probabilities; a server that refuses them is asked without."""
    parallel: PositiveInt = 8
    """How many requests are under way at once."""


class DetectorJudge(Section):
    """A detector of objects, which answers plain questions about objects, numbers, colours and
    sides by GenEval's rules."""

    kind: Literal["detector"] = "detector"
    model: ModelPath
    """A folder or Hub id of a model for object detection: DETR, RT-DETR, D-FINE, YOLOS, ..."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest."""
    threshold: Probability = 0.3
    """Score above which a thing is there."""
    counting_threshold: Probability = 0.9
    """Score above which it is counted."""
    most: PositiveInt = 16
    """Things of one class in an image that are looked at and counted; a question about more of them
    is left unread."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$")]
JUDGES_WITHOUT_SETTINGS = ("toybox-a", "toybox-b", "toybox-regions")
SHORT_JUDGES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        # As GenEval 2 (arXiv:2512.16853) and OneIG have them.
        "qwen3-vl-8b": {"model": "Qwen/Qwen3-VL-8B-Instruct", "precision": "bf16"},
        "qwen2.5-vl-7b": {"model": "Qwen/Qwen2.5-VL-7B-Instruct", "precision": "bf16"},
        # The paper's for TIFA, and what is nearest to its mPLUG for DSG.
        "blip2-flan-t5-xl": {"model": "Salesforce/blip2-flan-t5-xl"},
        "blip-vqa": {"model": "Salesforce/blip-vqa-capfilt-large"},
    }
)
"""Name → a local judge's settings that it stands for."""
if TYPE_CHECKING:
    AnyJudge = str | Section
else:
    AnyJudge = kinds(
        LocalJudge,
        ServedJudge,
        DetectorJudge,
        group="selma.judges",
        names=JUDGES_WITHOUT_SETTINGS,
        short={name: {"kind": "transformers", **judge} for name, judge in SHORT_JUDGES.items()},
    )


def judge_name(judge: AnyJudge) -> str:
    """What a judge is called in results: its name where it has no settings, else its model's,
    without a path; its kind where it has no model."""
    if isinstance(judge, str):
        return judge
    model = str(getattr(judge, "model", getattr(judge, "kind", "")))
    path = Path(model)
    return path.name if path.is_absolute() or is_folder(path) else model


class ScorerSettings(Section):
    """What every preference scorer's settings have."""

    kind: str
    label: Label | None = None
    """Its name in tables and folders; None is the kind."""

    @property
    def key(self) -> str:
        return self.label or self.kind

    @property
    def weights(self) -> tuple[str | None, ...]:
        """What makes it another scorer: not its label, device or preprocessing."""
        return (self.kind,)


class PreferenceConfig(ScorerSettings):
    """A network that says how much people would like an image for its prompt."""

    kind: Literal["pickscore", "hps_v2", "hps_v2.1", "imagereward", "clip"]
    model: ModelPath
    """A folder of safetensors (`selma score convert` makes one of a pickle), or a Hub id."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest."""
    tokenizer: ModelPath | None = None
    """A folder or Hub id; None is the model's own, or where it has none, its authors' choice."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    antialias: bool = True
    """How hps_v2 and hps_v2.1 make images smaller: as torchvision since 0.17 does, or (false) as
    before it. Other kinds take no notice of it."""

    @property
    def weights(self) -> tuple[str | None, ...]:
        return self.kind, self.model, self.revision


if TYPE_CHECKING:
    AnyScorer = ScorerSettings
else:
    AnyScorer = or_added(PreferenceConfig, group="selma.scorers")


class BenchmarkSettings(Section):
    """Which prompts models are scored on, and how answers count."""

    benchmark: Annotated[str, FileOrFolder(words=("toybox",), group="selma.benchmarks")] = "toybox"
    """"toybox" or another benchmark that needs no file, or a path: a CSV in DSG-1k's layout, TIFA's
    question file or the folder of its two files. Prompts of your own need questions first:
    `selma questions`."""
    rules: Literal["sound", "released"] = "sound"
    """How answers become the score: soundly, or as the program does that was released with the
    benchmark, to be compared with published numbers."""
    split: Literal["dev", "test"] = "test"
    groups: tuple[str, ...] = ()
    """Take only prompts of these groups (toybox's styles, DSG's sources); none takes all."""
    prompts: PositiveInt | None = None
    """Take only this many prompts, evenly over the groups; None takes all."""
    seeds: Annotated[int, Field(gt=0, le=1000)] = 1
    """Images of each prompt, each from a seed of its own, the same seeds for every model; all are
    judged, and what the draw of a seed brings is part of every interval."""


class FurtherBenchmark(BenchmarkSettings):
    """A benchmark that the same models are scored on, too, or the first again by another judge.
    What it does not say is as in `scores`, where prompts and seeds are not."""

    judge: AnyJudge | None = None
    """Reports here; None is `scores.judge`."""
    zeroing: Zeroing | None = None
    vqascore: str | None = None
    kept_from_training: bool = True
    """Prompts like its own are not trained on, as with the first benchmark's. False, for a
    benchmark that is added to a run whose prompts are written, counts them instead."""


class ScoresConfig(BenchmarkSettings):
    steps: PositiveInt | None = None
    guidance: NonNegativeFloat | None = None
    """None: as the training images were generated."""
    judge: AnyJudge = "toybox-a"
    """Reports: a name (toybox-a, toybox-b, toybox-regions, or one of SHORT_JUDGES: qwen3-vl-8b for
    bases of today, blip2-flan-t5-xl as in the paper), or a judge's settings."""
    choosing_judge: AnyJudge = "toybox-b"
    """Selects checkpoints and merge weights; must not be the one that reports."""
    dev_benchmark: (
        Annotated[str, FileOrFolder(words=("toybox",), group="selma.benchmarks")] | None
    ) = None
    """What checkpoints and merge weights are selected on where `benchmark` has no dev prompts: a
    file or folder of other prompts with questions, as `selma questions` makes of your own. None is
    the benchmark's own dev prompts."""
    dev_prompts: PositiveInt = 64
    """How many dev prompts checkpoints and merge weights are selected on."""
    clip: Literal["toybox"] | None = "toybox"
    preferences: tuple[AnyScorer, ...] = ()
    """Scorers whose means, differences and win rates are reported beside the benchmark's score."""
    chosen_by: tuple[str, ...] = ()
    """Labels out of `preferences`, or "clip": scorers that training images, checkpoints or the
    base were already chosen or tuned by. The run warns, and the report marks their numbers."""
    experts: bool = True
    """Also score each expert alone."""
    zeroing: Zeroing = "cascading"
    """What a "no" does to the questions that depend on it."""
    choices_prompt: str = "selma"
    """How judges are shown multiple-choice questions: scores under two wordings are not to be
    compared."""
    matcher: Annotated[str, Model(words=("wordllama",))] | None = None
    """For multiple choice: says which choice a free answer is nearest to. "wordllama", or a
    transformers encoder (TIFA has sentence-transformers/all-mpnet-base-v2); None counts an answer
    that is no choice as unreadable."""
    vqascore: str | None = None
    """Also ask the judge whether an image shows its whole prompt: a name of
    backbones/judges/wordings.py, or words with {text}; None is off."""
    resamples: Resamples = 10_000
    further: dict[Label, FurtherBenchmark] = Field(default_factory=dict)
    """Name → a benchmark beside the first, in the same scorecard and report."""

    @property
    def judges(self) -> Mapping[str, AnyJudge]:
        """Setting → the judge that reports by it."""
        of_further = {f"further.{name}.judge": own.judge for name, own in self.further.items()}
        named = {key: judge for key, judge in of_further.items() if judge is not None}
        return {"judge": self.judge, **named}

    def of(self, name: str) -> ScoresConfig:
        """The settings by which a further benchmark is scored, as if it were the only one."""
        own = self.further[name]
        taken = {
            field: getattr(own, field)
            for field in type(own).model_fields
            if field in type(self).model_fields
        }
        as_here = {field for field in ("judge", "zeroing", "vqascore") if taken[field] is None}
        update = {field: value for field, value in taken.items() if field not in as_here}
        scores = self.model_copy(update=update | {"further": {}})
        # What it takes over it has not named: released rules of its own go before that.
        scores.model_fields_set.difference_update(as_here)
        return scores

    @model_validator(mode="after")
    def _two_judges(self) -> ScoresConfig:
        # Another wording or precision makes no other judge: the weights would be the same. The Hub
        # takes its ids in any case.
        chooses = judge_name(self.choosing_judge)
        for key, judge in self.judges.items():
            if judge_name(judge).casefold() == chooses.casefold():
                raise ValueError(f"{key} and choosing_judge must differ, but both are {chooses!r}")
        return self

    @model_validator(mode="after")
    def _further_names(self) -> ScoresConfig:
        names = Counter(name.lower() for name in self.further)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"further: two benchmarks are named {twice[0]!r} but for their case")
        return self

    @model_validator(mode="after")
    def _labels(self) -> ScoresConfig:
        labels = [scorer.key for scorer in self.preferences]
        if len(set(labels)) != len(labels):
            raise ValueError(f"preferences need a label each where kinds repeat, but are {labels}")
        reported = {*labels, *(("clip",) if self.clip else ())}
        if strangers := sorted(set(self.chosen_by) - reported):
            raise ValueError(
                f"chosen_by must name scorers that are reported, but {strangers[0]!r} is not one "
                f"of {', '.join(sorted(reported)) or 'none'}"
            )
        return self
