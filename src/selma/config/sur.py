"""Settings of `selma sur`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from selma.config.experts import TrainingConfig
from selma.config.networks import LocalLLM, ServedLLM
from selma.config.scores import PreferenceConfig
from selma.config.section import Probability, Section, mistake
from selma.errors import ConfigError


def sur_drawing(**given: Any) -> SurDrawing:
    """How a SUR-adapter reads, from a command's options. Raises ConfigError."""
    try:
        return SurDrawing.model_validate(given)
    except ValidationError as error:
        lines = [mistake(dict(found)) for found in error.errors()]
        raise ConfigError("The SUR-adapter cannot draw:\n" + "\n".join(lines)) from error


class SurConfig(Section):
    """The adapter on text features (SUR, arXiv:2305.05189)."""

    form: Literal["paper", "released"] = "paper"
    """Three maps, attention and an output network; "released" has an encoder of its own before."""
    mix: Literal["added", "shared"] = "added"
    """"added" is x + w g, which at the start is x. "shared" is the released w g + (1 - w) x."""
    weight: PositiveFloat = 0.1
    """w, as the released training script sets it."""
    attention: Literal["tokens", "batch"] = "tokens"
    """What the released form's encoder looks across. As released, it is the batch: prompts that
    are drawn together change one another."""
    depth: PositiveInt = 2
    heads: PositiveInt = 8
    hidden: PositiveInt = 2048
    dropout: Probability = 0.1
    """The last four are of the released form's encoder; the paper's form has none."""


class LlmVectors(Section):
    """What a language model's inner states say of each narrative prompt."""

    backend: LocalLLM = LocalLLM()
    file: str | None = None
    """Vectors that are already there, instead of a model: a dictionary of text → vector in
    safetensors or a released .pt."""
    layer: NonNegativeInt | None = None
    """Block whose output is taken, from 0; None is the last (the release takes 39 of LLaMA 13B)."""
    pooling: Literal["last", "mean", "first"] = "last"
    """Which token stands for the text. The release does not say."""
    final_norm: bool = False
    """Pass it through the model's last norm, too."""
    projection: Literal["learned", "pca", "random", "released"] = "random"
    """How it gets the adapter's width: by a map that is trained as well, principal components, or
    a random map that is kept in the adapter's file. "released" is random, other in each process,
    and kept nowhere."""


class Distance(Section):
    """A Kullback-Leibler divergence between softmaxes over features."""

    weight: NonNegativeFloat = 0.1
    direction: Literal["teacher_student", "student_teacher"] = "teacher_student"
    """KL(teacher || student), or the released KL(student || teacher)."""
    temperature: PositiveFloat = 1.0
    padding: Literal["masked", "kept"] = "masked"
    """Whether padding tokens count."""
    reduce: Literal["mean", "sum"] = "mean"
    """Over a prompt's tokens."""
    tokens: Literal["each", "pooled"] = "each"
    """Compare token by token, or the means over tokens: words of a narrative and of a keyword
    prompt do not stand at the same places."""


class Denoising(Section):
    weight: NonNegativeFloat = 1.0
    gradient: bool = True
    """Whether it trains the adapter. As released, it does not: a copy is made on the way."""


class SurLosses(Section):
    distillation: Distance = Distance()
    """From the language model's vectors to the queries."""
    alignment: Distance = Distance()
    """From the keyword prompt's features to the adapted ones of the narrative prompt."""
    denoising: Denoising = Denoising()


class SurTraining(TrainingConfig):
    """Defaults are the released script's (1 x 4 accumulated)."""

    batch_size: PositiveInt = 4
    learning_rate: PositiveFloat = 1e-5
    checkpoint_every: PositiveInt = 500


class ToyboxTriples(Section):
    """Scenes of toybox's world: a plain narrative, all tags, and the scene as vector art."""

    kind: Literal["toybox"] = "toybox"
    count: PositiveInt = 1000


class CivitaiDump(Section):
    """Pages of metadata as Civitai's interface gives them, and pictures that you have."""

    kind: Literal["civitai"] = "civitai"
    dump: str
    """A JSON file, or a folder of them."""
    pictures: str
    """A folder; files are named by the address's UUID or last part, or by the picture's id."""
    licence: str | None = None
    """Of all rows; None takes what the dump says of each."""


class PictureFolder(Section):
    """Pictures that hold their own prompts, as A1111's and ComfyUI's do."""

    kind: Literal["pictures"] = "pictures"
    folder: str
    licence: str = "unknown"


class TripleFolder(Section):
    """SURD, or any imagefolder with `text` and `prompt`."""

    kind: Literal["imagefolder"] = "imagefolder"
    folder: str
    licence: str = "unknown"


class Captioner(Section):
    """Narratives are captions of the pictures, by any captioning model of transformers."""

    kind: Literal["captioner"] = "captioner"
    model: str = "Salesforce/blip-image-captioning-base"
    revision: str | None = None
    beams: PositiveInt = 3
    max_new_tokens: PositiveInt = 30
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class Narrator(Section):
    """Narratives are written from the keyword prompts by a language model."""

    kind: Literal["llm"] = "llm"
    backend: Annotated[LocalLLM | ServedLLM, Field(discriminator="kind")] = LocalLLM()
    temperature: NonNegativeFloat = 0.0
    max_new_tokens: PositiveInt = 60


class Safety(Section):
    """A classifier of pictures, run by transformers, and the labels that are kept."""

    model: str
    revision: str | None = None
    keep: tuple[str, ...] = ("neutral", "drawings")
    """As SURD's public part was chosen."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class Agreement(Section):
    """How well narrative and picture agree, by CLIP score."""

    scorer: Literal["toybox"] | PreferenceConfig = "toybox"
    at_least: float
    """On the scorer's scale, 100 x cosine for CLIP."""


class Cleaning(Section):
    marks: Literal["stripped", "kept"] = "stripped"
    """Prompt weights such as (word:1.2) and <lora:...> tags; kept as released."""
    duplicates: bool = False
    """Keep pictures and prompts that were there before."""
    marked: bool = False
    """Keep what its source itself marks as unsafe."""
    safety: Safety | None = None
    agreement: Agreement | None = None


class SurData(Section):
    source: Annotated[
        ToyboxTriples | CivitaiDump | PictureFolder | TripleFolder, Field(discriminator="kind")
    ] = ToyboxTriples()
    narrator: Annotated[Captioner | Narrator, Field(discriminator="kind")] | None = None
    """None: the source has narratives (toybox, imagefolder)."""
    cleaning: Cleaning = Cleaning()
    picture_px: PositiveInt = 512
    """Shortest side to which larger pictures are made smaller."""

    @model_validator(mode="after")
    def _narratives(self) -> SurData:
        if self.narrator is None and self.source.kind in ("civitai", "pictures"):
            raise ValueError(f"source {self.source.kind} has no narratives; set narrator")
        return self


class SurDrawing(Section):
    strength: NonNegativeFloat = 1.0
    """Multiplies the adapter's weight; 0 is the base model."""
    negative: Literal["alone", "adapted", "released"] = "alone"
    """What becomes of the empty prompt of guidance: left as it is, adapted by itself, or with the
    others in one batch, as released."""
    dropout: bool = False
    """Draw with dropout, as the released demonstration does; each drawing is then another."""


class Quality(Section):
    """How far drawn pictures are from good ones: the triples' own."""

    features: Literal["toybox"] | PreferenceConfig = "toybox"
    """The image encoder whose vectors are compared: toybox's scorer's, or any CLIP model's (kind
    clip). Distances by different encoders are not to be compared, nor with Inception's."""
    pictures: PositiveInt = 1000
    """How many of the triples' pictures stand for good ones, from the first on."""

    @field_validator("features")
    @classmethod
    def _is_clip(cls, features: str | PreferenceConfig) -> str | PreferenceConfig:
        if not isinstance(features, str) and features.kind != "clip":
            raise ValueError(f"must be toybox or of the kind clip, but is {features.kind}")
        return features


class SurScores(Section):
    """`selma sur score`; the exam, judges and preference scorers are those of `scores`."""

    keywords: str | None = None
    """A CSV with item_id and prompt: the keyword prompt of each exam prompt, which the base draws
    for comparison. Toybox knows its own; without any, nothing rich is drawn."""
    quality: Quality | None = Quality()


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
    own: dict[VariantName, dict[str, Any]] = Field(default_factory=dict)
    """Name → settings of `sur` that are laid over the others."""
    split: Literal["dev", "test"] = "dev"
    """Of toybox. On dev the choosing judge scores; only there may settings be chosen."""
    prompts: PositiveInt | None = None
    """None: scores.dev_prompts of dev, scores.prompts of test."""


RELEASED_SUR: dict[str, Any] = {
    "adapter": {"form": "released", "mix": "shared", "attention": "batch"},
    "llm": {"projection": "released"},
    "losses": {
        name: {"weight": 1e-5, "direction": "student_teacher", "padding": "kept", "reduce": "sum"}
        for name in ("distillation", "alignment")
    }
    | {"denoising": {"gradient": False}},
    "training": {"flip": True},
    "drawing": {"negative": "released", "dropout": True},
}
"""All that the released code does otherwise; defects among it."""


class SurSettings(Section):
    """The SUR-adapter: an LLM's understanding for plain prompts."""

    preset: Literal["ours", "released"] = "ours"
    """What is not set below: sound choices, or those of the released code."""
    data: SurData = SurData()
    adapter: SurConfig = SurConfig()
    llm: LlmVectors = LlmVectors()
    losses: SurLosses = SurLosses()
    training: SurTraining = SurTraining()
    drawing: SurDrawing = SurDrawing()
    scores: SurScores = SurScores()
    ablation: SurAblation = SurAblation()

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, values: Any) -> Any:
        released = isinstance(values, dict) and values.get("preset") == "released"
        return _filled(values, RELEASED_SUR) if released else values


def _filled(given: Any, defaults: Any) -> Any:
    """The given mapping with what it lacks, at every depth."""
    if not isinstance(given, dict) or not isinstance(defaults, dict):
        return given
    missing = {name: value for name, value in defaults.items() if name not in given}
    return missing | {name: _filled(value, defaults.get(name)) for name, value in given.items()}
