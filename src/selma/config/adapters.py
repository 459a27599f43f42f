"""Settings of adapters: what is trained, and how it is applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from selma.config.section import Probability, Section, kinds, mistake
from selma.errors import ConfigError

MergeSpace = Literal["deltas", "rotations"]
"""Where adapters are averaged: as changes that are added to weights, or as rotations of them."""


class AdapterSettings(Section):
    """What settings of each kind of adapter say beside their values."""

    merge_space: ClassVar[MergeSpace | None] = None
    """None: adapters of this kind cannot be merged."""
    unmergeable: ClassVar[str] = "its kind has no space to be merged in"
    """Why, where they cannot."""


class LoraConfig(AdapterSettings):
    merge_space = "deltas"

    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(gt=0, le=16_384)] = 128
    alpha: PositiveFloat | None = None
    """None is the rank, so that the scale is 1."""
    targets: tuple[str, ...] | Literal["attention", "attention+geglu", "attention+ff"] = (
        "to_q", "to_k", "to_v", "to_out.0",
    )  # fmt: skip
    """Endings of layers' names, or a choice that the base's family knows; where text and image
    attend to each other, attention has layers of its own for the text, which the default leaves."""
    init: Literal["gaussian", "kaiming"] = "gaussian"


class RotationConfig(AdapterSettings):
    """What both kinds of OFT (arXiv:2306.07280) have: neurons are turned, not added to."""

    merge_space = "rotations"

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
    its code, where a block's skew matrix may have the norm eps b² / √r, so that eps of 1e-3 hardly
    bounds wide layers. "peft": eps / √r."""


class FullConfig(AdapterSettings):
    """No adapter: all of the denoiser's weights are trained themselves, as DreamBooth does."""

    unmergeable = (
        "it holds a whole denoiser and is no adapter, so that it is applied alone, and neither "
        "merged, converted nor put behind others"
    )

    kind: Literal["full"] = "full"


Gate = Literal["token", "pooled"]
"""Whether a mixture's gate chooses for each token, or once for all tokens of a sample."""


class MixtureSettings(AdapterSettings):
    """Experts that are all active, with gates that weigh them: trained by `merged.mixture`."""

    unmergeable = (
        "its gates choose anew for each input, so that it is no change of weights; "
        "`selma convert --to diffusers` writes the LoRA that it is at its gates' means"
    )

    kind: Literal["mixture"] = "mixture"
    gate: Gate = "token"


GROUP = "selma.adapters"

if TYPE_CHECKING:
    AdapterConfig = LoraConfig | OftConfig | CoftConfig
    AnyAdapterConfig = AdapterConfig | FullConfig
else:
    AdapterConfig = kinds(LoraConfig, OftConfig, CoftConfig, group=GROUP)
    # With full fine-tuning, which subjects can be compared by and experts cannot be merged by.
    AnyAdapterConfig = kinds(LoraConfig, OftConfig, CoftConfig, FullConfig, group=GROUP)


def sur_generation(**given: Any) -> SurGeneration:
    """How a SUR-adapter reads, from a command's options. Raises ConfigError."""
    try:
        return SurGeneration.model_validate(given)
    except ValidationError as error:
        lines = [mistake(problem, SurGeneration) for problem in error.errors()]
        raise ConfigError("The SUR-adapter cannot be applied:\n" + "\n".join(lines)) from error


class SurConfig(AdapterSettings):
    """The adapter on text features (SUR, arXiv:2305.05189)."""

    unmergeable = "it rewrites text features and changes no weight"

    form: Literal["paper", "released"] = "paper"
    """Three maps, attention and an output network; "released" has an encoder of its own before."""
    mix: Literal["added", "shared"] = "added"
    """"added" is x + w g, which at the start is x."""
    weight: PositiveFloat = 1.0
    """w; the released training script sets 0.1."""
    centred: bool = True
    """Take from each change its mean over captions that are trained on, at every position: what is
    common to all prompts would be multiplied by guidance and says nothing of any of them."""
    attention: Literal["tokens", "batch"] = "tokens"
    """What the released form's encoder looks across."""
    depth: PositiveInt = 2
    heads: PositiveInt = 8
    hidden: PositiveInt = 2048
    dropout: Probability = 0.1
    """The last four are of the released form's encoder; the paper's form has none."""


class SurGeneration(Section):
    strength: NonNegativeFloat = 1.0
    """Multiplies the adapter's weight; 0 is the base model."""
    negative: Literal["alone", "adapted", "released"] = "alone"
    """What becomes of the empty prompt of guidance: left as it is, adapted by itself, or with the
    others in one batch, as released."""
    dropout: bool = False
    """Apply dropout when generating, as the released demonstration does; no image comes twice."""
