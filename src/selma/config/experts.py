"""Settings of stage 3: adapters and their training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from selma.config.section import Probability, Section
from selma.errors import ConfigError


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


class FullConfig(Section):
    """No adapter: all of the UNet's weights are trained themselves, as DreamBooth does."""

    kind: Literal["full"] = "full"


AdapterConfig = Annotated[LoraConfig | OftConfig | CoftConfig, Field(discriminator="kind")]
AnyAdapterConfig = Annotated[
    LoraConfig | OftConfig | CoftConfig | FullConfig, Field(discriminator="kind")
]
"""With full fine-tuning, which subjects can be compared by and experts cannot be merged by."""


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
    latents: Literal["sample", "mode"] = "sample"
    """What stands for a picture: a fresh draw from its posterior at each step, as released, or that
    posterior's mode. Stable Diffusion's are so narrow that it is all one; toybox's are wide."""
    min_timestep: NonNegativeInt = 0
    max_timestep: PositiveInt | None = None
    """Timesteps of the noise schedule that training draws: min to max - 1, and None is all. What a
    picture shows is settled at the noisy end, how finely it is drawn at the other."""
    caption_dropout: Probability = 0.0
    """Share of captions replaced by the empty one; 0 as in the paper."""
    flip: bool = False
    """Mirror half of the pictures, except where the caption names a side or text."""
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


class ExpertsConfig(TrainingConfig):
    adapter: AdapterConfig = LoraConfig()
    spread: Literal["experts", "batch"] = "experts"
    """What several processes share: each trains experts of its own, with the very weights that one
    process would train; or all train one after the other, each on its part of every batch."""
    select: Literal["last", "dev"] = "last"
    """Which checkpoint becomes the expert: the last, or the best on the dev split by the choosing
    judge (the paper chooses on the test benchmark)."""
