"""Settings of `selma sur`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from selma.config import RunConfig
from selma.config.adapters import SurConfig, SurGeneration
from selma.config.colours import Colour
from selma.config.experts import TrainingConfig
from selma.config.networks import Captioner, LanguageModelConfig, LlmVectors, LocalLLM, Safety
from selma.config.places import FileOrFolderPath, FilePath, FolderPath, LaidOver
from selma.config.scores import AnyScorer, PreferenceConfig
from selma.config.section import Pixels, Section, laid_over


class Distance(Section):
    """A Kullback-Leibler divergence between softmaxes over features."""

    weight: NonNegativeFloat = 0.1
    direction: Literal["teacher_student", "student_teacher"] = "teacher_student"
    """KL(teacher || student)."""
    temperature: PositiveFloat = 1.0
    padding: Literal["masked", "kept"] = "masked"
    reduce: Literal["mean", "sum"] = "mean"
    """Over a prompt's own tokens."""
    tokens: Literal["each", "pooled"] = "each"
    """Compare token by token, or the means over tokens: words of a caption and of a keyword
    prompt do not stand at the same places."""


class Distillation(Distance):
    match: Literal["similarities", "queries"] = "similarities"
    """What is taught: how near prompts are to one another by the language model's vectors, or each
    prompt's vector for all of its queries, which pushes them to one (the paper's). Direction,
    temperature, padding and reduce are of the latter."""


class Alignment(Distance):
    at: Literal["attention", "text"] = "attention"
    """Where adapted features are to resemble the keyword prompt's: in what the denoiser's
    cross-attention makes of them, which knows no order of words, or in themselves, at the same
    positions (the paper's). All settings of a distance but the weight are of the latter."""


class Denoising(Section):
    weight: NonNegativeFloat = 0.0
    """The paper's is 1; the teacher has the same minimum without the noise's own part."""
    gradient: bool = True
    """Whether it trains the adapter."""


class Teacher(Section):
    """Squared difference of what the denoiser predicts by the adapted caption and by the keyword
    prompt."""

    weight: NonNegativeFloat = 1.0
    timesteps: Literal["content", "even"] = "content"
    """Weigh timesteps by how much a prompt decides there: the squared difference of what is
    predicted by keyword prompts and by the empty one, on the samples; or all alike."""


class SurLosses(Section):
    distillation: Distillation = Distillation()
    """From the language model's vectors to the queries."""
    alignment: Alignment = Alignment()
    """From the keyword prompt's features to the adapted ones of the caption."""
    denoising: Denoising = Denoising()
    teacher: Teacher = Teacher()


class SurTraining(TrainingConfig):
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-4
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 100
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.999
    checkpoint_every: PositiveInt = 500


class ToyboxSamples(Section):
    """Scenes of toybox's world: a plain caption, all tags, and the scene as vector art."""

    kind: Literal["toybox"] = "toybox"
    count: PositiveInt = 1000


class CivitaiDump(Section):
    """Pages of metadata as Civitai's interface gives them, and images that you have."""

    kind: Literal["civitai"] = "civitai"
    dump: FileOrFolderPath
    """A JSON file, or a folder of them."""
    images: FolderPath
    """A folder; files are named by the address's UUID or last part, or by the image's id."""
    licence: str | None = None
    """Of all rows; None takes what the dump says of each."""


class ImageFolder(Section):
    """Images that hold their own prompts, as A1111's and ComfyUI's do."""

    kind: Literal["images"] = "images"
    folder: FolderPath
    licence: str = "unknown"


class SampleFolder(Section):
    """SURD, or any imagefolder with `text` and `prompt`."""

    kind: Literal["imagefolder"] = "imagefolder"
    folder: FolderPath
    licence: str = "unknown"


class LlmCaptioner(Section):
    """Captions are written from the keyword prompts by a language model."""

    kind: Literal["llm"] = "llm"
    backend: LanguageModelConfig = LocalLLM()
    temperature: NonNegativeFloat = 0.0
    max_new_tokens: PositiveInt = 60


class Agreement(Section):
    """How well caption and image agree, by CLIP score."""

    scorer: Literal["toybox"] | AnyScorer = "toybox"
    at_least: float
    """On the scorer's scale, 100 x cosine for CLIP."""


class Cleaning(Section):
    marks: Literal["stripped", "kept"] = "stripped"
    """Prompt weights such as (word:1.2) and <lora:...> tags; kept as released."""
    duplicates: bool = False
    """Keep images and prompts that were there before."""
    marked: bool = False
    """Keep what its source itself marks as unsafe."""
    safety: Safety | None = None
    agreement: Agreement | None = None


class SurData(Section):
    source: Annotated[
        ToyboxSamples | CivitaiDump | ImageFolder | SampleFolder, Field(discriminator="kind")
    ] = ToyboxSamples()
    captioner: Annotated[Captioner | LlmCaptioner, Field(discriminator="kind")] | None = None
    """None: the source has captions (toybox, imagefolder)."""
    cleaning: Cleaning = Cleaning()
    images: Literal["own", "source"] = "own"
    """What is trained on: images that the base generates from the keyword prompts, as `images`
    says, so that nothing is seen that the base would not make; or the source's, as in the paper.
    The source's stand for good images either way."""
    image_px: Pixels = 512
    """Shortest side to which larger images are made smaller."""
    background: Colour = "white"
    """What transparent parts of images lie over."""

    @model_validator(mode="after")
    def _captions(self) -> SurData:
        if self.captioner is None and self.source.kind in ("civitai", "images"):
            raise ValueError(f"source {self.source.kind} has no captions; set captioner")
        return self


class Quality(Section):
    """How far generated images are from good ones: the samples' own."""

    features: Literal["toybox"] | PreferenceConfig = "toybox"
    """The image encoder whose vectors are compared: toybox's scorer's, or any CLIP model's (kind
    clip). Distances by different encoders are not to be compared, nor with Inception's."""
    images: PositiveInt = 1000
    """How many of the samples' images stand for good ones, from the first on."""

    @field_validator("features")
    @classmethod
    def _is_clip(cls, features: str | PreferenceConfig) -> str | PreferenceConfig:
        if not isinstance(features, str) and features.kind != "clip":
            raise ValueError(f"must be toybox or of the kind clip, but is {features.kind}")
        return features


class SurScores(Section):
    """`selma sur score`; the benchmark, judges and preference scorers are those of `scores`."""

    keywords: FilePath | None = None
    """A CSV with item_id and prompt: the keyword prompt of each benchmark prompt, which the base
    generates for comparison. Toybox knows its own; without any, nothing is generated by keyword
    prompts."""
    quality: Quality | None = Quality()


Changes = Annotated[dict[str, Any], LaidOver(lambda: SurSettings)]
VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]


class SurAblation(Section):
    """`selma sur ablate`: what is left out or done otherwise, one variant at a time."""

    variants: tuple[str, ...] = ()
    """Names of those that are made; none is all."""
    weights: tuple[PositiveFloat, ...] = (0.01, 0.1, 0.3, 1.0)
    """Mixing weights."""
    layers: tuple[NonNegativeInt, ...] = ()
    """Blocks of the language model."""
    language_models: tuple[LocalLLM, ...] = ()
    """Others that vectors are taken from, at their last block."""
    own: dict[VariantName, Changes] = Field(default_factory=dict)
    """Name → settings of `sur` that are laid over the others."""
    split: Literal["dev", "test"] = "dev"
    """Of toybox. On dev the choosing judge scores; only there may settings be chosen."""
    steps: PositiveInt | None = None
    """Training steps of every variant, "as_set" too; None: as each one's settings say."""
    prompts: PositiveInt | None = None
    """None: scores.dev_prompts of dev, scores.prompts of test."""


RELEASED_DEFECTS: dict[str, Any] = {
    # w g + (1 - w) x is no identity at the start; prompts of one batch alter one another.
    "adapter": {"mix": "shared", "attention": "batch"},
    "llm": {"projection": "released"},  # other in each process, and kept nowhere
    "losses": {
        name: {"direction": "student_teacher", "padding": "kept", "reduce": "sum"}
        for name in ("distillation", "alignment")
    }
    | {"denoising": {"gradient": False}},  # a copy is made on the way, so that it trains nothing
    "generation": {"negative": "released", "dropout": True},
}
"""What errs in the released code. A run has it by `preset: released` alone."""


PAPER_SUR: dict[str, Any] = {
    "data": {"images": "source"},
    "adapter": {"weight": 0.1, "centred": False},
    "losses": {
        "distillation": {"match": "queries"},
        "alignment": {"at": "text"},
        "denoising": {"weight": 1.0},
        "teacher": {"weight": 0.0},
    },
    # The released script's, 1 x 4 accumulated.
    "training": {
        "batch_size": 4,
        "learning_rate": 1e-5,
        "schedule": "constant",
        "warmup_steps": 0,
        "ema_decay": None,
    },
}
"""The paper's losses and training, as far as they are known."""

RELEASED_SUR: dict[str, Any] = laid_over(
    laid_over(PAPER_SUR, RELEASED_DEFECTS),
    {
        "adapter": {"form": "released"},
        "losses": {"distillation": {"weight": 1e-5}, "alignment": {"weight": 1e-5}},
        "training": {"flip": True},
    },
)
"""All that the released code does otherwise."""

PRESETS = {"paper": PAPER_SUR, "released": RELEASED_SUR}


class SurSettings(Section):
    """The SUR-adapter: an LLM's understanding for plain prompts."""

    preset: Literal["ours", "paper", "released"] = "ours"
    """What is not set below: our losses; the paper's; or those of the released code with all its
    defects, each of which can be mended below."""
    data: SurData = SurData()
    adapter: SurConfig = SurConfig()
    llm: LlmVectors = LlmVectors()
    losses: SurLosses = SurLosses()
    training: SurTraining = SurTraining()
    generation: SurGeneration = SurGeneration()
    scores: SurScores = SurScores()
    ablation: SurAblation = SurAblation()

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, dict) else None
        return _filled(values, PRESETS[preset]) if preset in PRESETS else values


def _filled(given: Any, defaults: Any) -> Any:
    """The given mapping with what it lacks, at every depth."""
    if not isinstance(given, dict) or not isinstance(defaults, dict):
        return given
    missing = {name: value for name, value in defaults.items() if name not in given}
    return missing | {name: _filled(value, defaults.get(name)) for name, value in given.items()}


class SurRun(RunConfig):
    """A run's settings with those of `selma sur`."""

    sur: SurSettings = SurSettings()

    @model_validator(mode="after")
    def _no_defect_alone(self) -> SurRun:
        if self.sur.preset != "released":
            for key, value in _leaves(RELEASED_DEFECTS):
                if attrgetter(key)(self.sur) == value:
                    raise ValueError(
                        f"sur.{key}: {value} is a defect of the released code; take "
                        "sur.preset: released, which has them all, and mend the others"
                    )
        return self


def _leaves(settings: Mapping[str, Any], *parents: str) -> Iterator[tuple[str, Any]]:
    """Dotted key → value of nested settings."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, *parents, name)
        else:
            yield ".".join((*parents, name)), value
