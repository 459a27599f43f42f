"""Settings of stage 3: adapters and their training."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from selma.config.adapters import AdapterConfig, LoraConfig
from selma.config.preferences import DpoObjective, with_preset
from selma.config.rewards import (
    DdpoObjective,
    DpokObjective,
    NftObjective,
    PolicyObjective,
    RewardedObjective,
    with_whole_rounds,
)
from selma.config.section import Probability, Section, kinds
from selma.config.timesteps import TimestepsConfig

JOINT = "joint"
"""The expert that is trained on all skills, by its name."""
OBJECTIVE_GROUP = "selma.objectives"
"""Entry points of this group are objectives of other packages."""


class TrainingConfig(Section):
    """Settings of the one training loop, whatever it trains."""

    steps: PositiveInt = 5000
    batch_size: PositiveInt = 64
    """Samples of a step. Of an objective that learns from rewards, left out, as many as a round has
    for each of its steps."""
    micro_batch_size: PositiveInt | None = None
    """Samples per backward pass; None is the whole batch. Must divide batch_size."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: a third slower, with
    several times less memory. Changes no result beyond the last digits."""
    deterministic: bool = True
    """On a GPU, train by algorithms alone that leave equal bits whenever they run, or a resumed
    training is not quite one that was never stopped. Costs some time there; a CPU always does.
    Where a base needs another algorithm, training stops and says so."""
    learning_rate: PositiveFloat = 3e-4
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 1e-2
    epsilon: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat | None = 1.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the moving average of weights that a step leaves; the average is what is saved, and
    it follows faster in the first steps. None saves the last weights, as the papers do."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    latents: Literal["sample", "mode"] = "sample"
    """What stands for an image: a fresh sample of its posterior in each step, as released, or that
    posterior's mode. Stable Diffusion's are so narrow that both are the same; toybox's are wide."""
    min_timestep: NonNegativeInt = 0
    max_timestep: PositiveInt | None = None
    """Timesteps of the noise schedule that are trained on: min to max - 1, and None is all. The
    noisy end decides what an image shows, the other its detail."""
    timesteps: TimestepsConfig | None = None
    """How likely each of them is; None is the base's family's own: uniform for SD and SDXL,
    logit-normal for flows."""
    caption_dropout: Probability = 0.0
    """Share of captions replaced by the empty one; 0 as in the paper."""
    flip: bool = False
    """Mirror half of the images, except where the caption names a side or text."""
    checkpoint_every: PositiveInt = 1000
    tracker: Literal["none", "tensorboard", "wandb"] = "none"

    @model_validator(mode="after")
    def _timesteps(self) -> Self:
        if self.max_timestep is not None and self.min_timestep >= self.max_timestep:
            raise ValueError(
                f"min_timestep must be below max_timestep, but {self.min_timestep} and "
                f"{self.max_timestep} came"
            )
        return self

    @model_validator(mode="after")
    def _micro_batches(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size must divide batch_size, but {self.micro_batch_size} does not "
                f"divide {self.batch_size}"
            )
        return self

    def untrainable(self, device: str, where: str) -> str | None:
        """Why nothing can be trained in this precision on this kind of device ("auto" may be any);
        None if it can. where: what names the device."""
        if self.precision == "fp16" and device not in ("cuda", "auto"):
            return f"fp16 needs a CUDA device, but {where} {device}. Set it to bf16 or fp32."
        return None


class DenoisingObjective(Section):
    """The paper's: experts learn to denoise the skill's images."""

    kind: Literal["denoising"] = "denoising"


class ExpertsConfig(TrainingConfig):
    adapter: AdapterConfig = LoraConfig()
    objective: kinds(  # type: ignore[valid-type]
        DenoisingObjective,
        DpoObjective,
        NftObjective,
        DdpoObjective,
        DpokObjective,
        group=OBJECTIVE_GROUP,
    ) = DenoisingObjective()
    """By which loss experts are trained."""
    joint: Literal["total_steps", "steps_per_skill"] | None = None
    """Train one expert named "joint" on all skills' pairs together (table 2's joint training) in
    place of one for each: for `steps` in all, as many as one expert has, or for `steps` for each
    skill, as many as all experts have together. None is the paper's SELMA."""
    spread: Literal["experts", "batch"] = "experts"
    """What several processes share: each trains experts of its own, with the very weights that one
    process would train; or all train one after the other, each on its part of every batch."""
    select: Literal["last", "dev"] = "last"
    """Which checkpoint becomes the expert: the last, or the best on the dev prompts by the choosing
    judge (the paper chooses on the test benchmark)."""

    @model_validator(mode="after")
    def _own_images(self) -> Self:
        if isinstance(self.objective, RewardedObjective) and (self.caption_dropout or self.flip):
            raise ValueError(
                f"objective {self.objective.kind} learns from images that it generates for whole "
                "captions; leave caption_dropout at 0 and flip at false"
            )
        return self

    @model_validator(mode="after")
    def _sampled_timesteps(self) -> Self:
        bounded = self.min_timestep > 0 or self.max_timestep is not None
        if isinstance(self.objective, PolicyObjective) and (bounded or self.timesteps is not None):
            raise ValueError(
                f"objective {self.objective.kind} learns at the timesteps of its own sampler; "
                "leave timesteps, min_timestep and max_timestep out"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        return with_whole_rounds(with_preset(values))
