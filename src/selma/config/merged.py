"""Settings of stage 4: the method with its own settings, weights, and the search for weights."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from selma.config.adapters import Gate
from selma.config.experts import ExpertsConfig, TrainingConfig
from selma.config.rewards import RewardedObjective
from selma.config.section import Section, Seed
from selma.errors import ConfigError


class WeightSearch(Section):
    """Weights and scale by score: on the dev split, by `scores.choosing_judge`."""

    trials: Annotated[int, Field(ge=2)] = 32
    """How many merges are tried in all; the first has uniform weights. More can be added later, and
    those that are done are kept."""
    spread: PositiveFloat = 0.5
    """Step of the first trials, in the logarithm of the weights and of the scale. Where the scale
    alone is searched, its bounds are tried first, and then what lies between."""
    scale: tuple[PositiveFloat, PositiveFloat] | None = (0.5, 2.0)
    """Bounds of the global scale, 1 among them; None leaves it at 1."""
    weights: bool = True
    """Whether experts' weights are searched; false searches the scale alone."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _anything(self) -> WeightSearch:
        if not self.weights and self.scale is None:
            raise ValueError("search needs weights or a scale to look for; one must be on")
        return self

    @model_validator(mode="after")
    def _around_one(self) -> WeightSearch:
        if self.scale is not None and not self.scale[0] < 1 < self.scale[1]:
            raise ValueError(f"scale must be bounds with 1 between them, but is {self.scale}")
        return self


class MixtureConfig(Section):
    """A mixture of the experts in place of a merge (MoE-LoRA of the paper's table 4): all stay
    active and frozen, and a linear gate in each layer, trained on all skills' pairs together, gives
    each its share. What is None here is as in `experts`; but steps and batches of experts that
    learn from rewards are of rounds, which gates have none of, and are not taken over."""

    gate: Gate = "token"
    """Whether a gate chooses for each token, or once for all tokens of a sample, by their mean. The
    paper does not say."""
    steps: PositiveInt | None = None
    learning_rate: PositiveFloat = 1e-5
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    batch_size: PositiveInt | None = None
    micro_batch_size: PositiveInt | None = None
    gradient_checkpointing: bool | None = None
    checkpoint_every: PositiveInt | None = None
    select: Literal["last", "dev"] | None = None

    def training(self, experts: ExpertsConfig) -> TrainingConfig:
        """Settings of the loop. Raises ValueError if they do not go together."""
        own = self.model_dump(exclude={"gate", "select"}, exclude_none=True)
        of_rounds = {"steps", "batch_size", "micro_batch_size"}
        rewarded = isinstance(experts.objective, RewardedObjective)
        without = of_rounds if rewarded else set()
        shared = experts.model_dump(include=set(TrainingConfig.model_fields) - without)
        return TrainingConfig.model_validate(shared | own)

    def selects(self, experts: ExpertsConfig) -> bool:
        """Whether the checkpoint is chosen on the dev prompts."""
        return (self.select or experts.select) == "dev"


class MergedConfig(Section):
    """One method, with its own settings beside it: `{method: ties, density: 0.2}`.

    Which settings it has is said by its row of `selma.merged.methods.METHODS` alone, and checked
    before anything is loaded.
    """

    model_config = ConfigDict(extra="allow")

    method: str = "mean_of_deltas"
    """A row of `selma.merged.methods.METHODS`, which must accept the experts' kind."""
    weights: dict[str, float] | None = None
    """Skill → weight; None is 1/T for each of T experts, or 1 for methods that add the experts up
    or divide by the weights themselves."""
    scale: float = 1.0
    """Of the whole result. mergekit (and TIES' paper) call it lambda, which is taken as well."""
    search: WeightSearch | None = None
    """Find weights and scale by score instead of giving them; None is off. Of LoRAs that learnt
    from rewards, unless search, scale, weights or mixture say otherwise, the merge is their sum
    (or the method that is named), its scale searched on toybox's dev prompts."""
    mixture: MixtureConfig | None = None
    """Train a mixture of the experts instead of merging them; None is off."""

    @property
    def method_settings(self) -> dict[str, Any]:
        """The method's own settings as they are given: unchecked, without its defaults."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _mergekits_lambda(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "lambda" not in values:
            return values
        if "scale" in values:
            raise ValueError("scale and lambda are two names of one setting; give one of them")
        return {"scale" if name == "lambda" else name: v for name, v in values.items()}

    @model_validator(mode="after")
    def _searched_or_given(self) -> MergedConfig:
        if self.search is not None and (self.weights is not None or self.scale != 1):
            raise ValueError("search finds weights and scale; leave both out")
        return self

    @model_validator(mode="after")
    def _mixed_or_merged(self) -> MergedConfig:
        plain = MergedConfig.model_construct(mixture=self.mixture)
        if self.mixture is not None and (self.model_extra or self != plain):
            raise ValueError(
                "mixture takes the place of a merge; leave method, its settings, weights, scale "
                "and search out"
            )
        return self


def numbers(text: str) -> list[float]:
    """The finite numbers of "0.5,0.3,0.2". Raises ConfigError."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise ConfigError(f"Weights must be numbers with commas between them, but {text!r} came.")
    return values
