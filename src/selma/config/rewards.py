"""Settings of objectives that learn from rewards of an expert's own images, round by round."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic import model_validator as checked

from selma.config.images import QuestionSource
from selma.config.scores import AnyScorer
from selma.config.section import Section


class AddedScore(Section):
    """A scorer's score that is added to a reward."""

    scorer: Literal["toybox"] | AnyScorer
    weight: Annotated[float, Field(gt=0, le=1e6)]
    """Of the scorer's own scale: 0.02 of toybox's CLIP, whose scores are 0-100, is 0 to 2 beside a
    share of questions of 0 to 1."""


class RewardedObjective(Section):
    """In each round the expert as it is generates images of some prompts, which are rewarded; then
    it takes a few steps by them. A step's batch is `experts.batch_size` of the round's samples;
    left out, the round's steps learn from each sample once."""

    kind: str
    """The name of a row of `experts.objectives.OBJECTIVES`."""
    reward: Literal["questions", "vqascore", "toybox"] | AnyScorer = "questions"
    """"questions": the share of a prompt's questions that scores.choosing_judge answers as
    expected, dependencies counted as scores.zeroing says. "vqascore": its P(yes) when it is asked
    whether an image shows the whole prompt, in the wording of scores.vqascore. Or toybox's CLIP, or
    a network as in scores.preferences. The judge that reports is never a reward."""
    also: tuple[AddedScore, ...] = ()
    """Added to the reward. What a reward never asks for is learnt to be done wrong: questions do
    not ask whether there is more than a prompt names."""
    questions: QuestionSource | None = None
    """Where the questions come from, as in images.choose.questions; prompts without questions are
    not trained on."""
    prompts_per_round: PositiveInt = 48
    images_per_prompt: Annotated[int, Field(ge=2)] = 24
    """Images of a prompt are compared with each other: their group."""
    updates_per_round: PositiveInt = 1
    """Steps by one round's images."""
    sampling_steps: PositiveInt = 10
    """Denoising steps of these images."""
    guidance: NonNegativeFloat = 1.0
    """Of these images; 1 is none."""
    images_at_once: PositiveInt = 8
    """Images of one pass while they are generated."""
    images_kept: NonNegativeInt = 6
    """How many images of each round are kept, to be looked at: one of each prompt, then seconds.
    All rewards are."""

    @property
    def images_per_round(self) -> int:
        return self.prompts_per_round * self.images_per_prompt

    @property
    def samples_per_image(self) -> int:
        """What a batch can take of each image: itself."""
        return 1

    @property
    def asks_judge(self) -> bool:
        """Whether the choosing judge gives the reward."""
        return self.reward in ("questions", "vqascore")

    @checked(mode="after")
    def _asked(self) -> Self:
        if (self.reward == "questions") != (self.questions is not None):
            raise ValueError(
                'reward "questions" needs questions, and no other reward has any, but reward is '
                f"{self.reward!r} and questions are {self.questions!r}"
            )
        return self


class NftObjective(RewardedObjective):
    """DiffusionNFT (arXiv:2509.16117): towards images that are better than their group, and as far
    from what is worse; from finished images alone, by whatever sampler."""

    kind: Literal["nft"] = "nft"
    beta: PositiveFloat = 1.0
    """How far the two implied models are from the one that generated."""
    clip: PositiveFloat = 5.0
    """Advantages are clipped to plus and minus this, and mapped to [0, 1]."""
    deviation: Literal["round", "prompt"] = "round"
    """What a reward's distance from its group's mean is divided by: the deviation of the whole
    round, or of the group."""
    kl: NonNegativeFloat = 1e-4
    """Weight of the squared distance from the base's prediction."""


class PolicyObjective(RewardedObjective):
    """Of objectives that make a sampler's steps likelier: it is DDIM's with noise."""

    sampling_steps: PositiveInt = 50
    guidance: NonNegativeFloat = 5.0
    """While images are generated and while their steps are weighed."""
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of DDPM's noise that a step adds."""
    ratio_clip: PositiveFloat = 1e-4
    """How far the ratio of probabilities may leave 1; made for densities that are means over an
    image's elements."""

    @property
    def samples_per_image(self) -> int:
        """The sampler's steps."""
        return self.sampling_steps


class DdpoObjective(PolicyObjective):
    """DDPO (arXiv:2305.13301), numbers as its released code has them."""

    kind: Literal["ddpo"] = "ddpo"
    prompts_per_round: PositiveInt = 32
    images_per_prompt: Annotated[int, Field(ge=2)] = 8
    clip: PositiveFloat = 5.0
    """Advantages are clipped to plus and minus this."""
    buffer: PositiveInt = 32
    """How many of a prompt's last rewards its images are compared with."""
    min_count: PositiveInt = 16
    """A prompt of which fewer are known is compared with the whole round."""


class DpokObjective(PolicyObjective):
    """DPOK (arXiv:2305.16381), numbers as its released code has them for many prompts."""

    kind: Literal["dpok"] = "dpok"
    prompts_per_round: PositiveInt = 1
    images_per_prompt: Annotated[int, Field(ge=2)] = 6
    updates_per_round: PositiveInt = 5
    guidance: NonNegativeFloat = 7.5
    reward_weight: PositiveFloat = 1000.0
    """Of the policy's loss."""
    kl: NonNegativeFloat = 0.1
    """Weight of the squared distance from the base's prediction."""
    value_learning_rate: PositiveFloat = 1e-4
    value_batches: PositiveInt = 5
    """Minibatches of the value network's one step in a round."""
    value_batch: PositiveInt = 256
    """Transitions in each."""


def with_whole_rounds(values: Any) -> Any:
    """The settings of `experts` as they were given, and where they learn from rewards and say no
    batch_size, with the one by which a round's steps learn from each of its samples once, in passes
    of no more than AT_ONCE."""
    if not isinstance(values, dict) or values.get("batch_size") is not None:
        return values
    objective = values.get("objective")
    named = objective.get("kind") if isinstance(objective, dict) else None
    for kind in REWARDED:
        if named == kind.model_fields["kind"].default:
            try:
                objective = kind.model_validate(objective)
            except ValueError:  # told where the objective itself is read
                return values
    if not isinstance(objective, RewardedObjective):
        return values
    samples = objective.images_per_round * objective.samples_per_image
    size = max(samples // objective.updates_per_round, 1)
    if isinstance(part := values.get("micro_batch_size"), int) and part > 0:
        return values | {"batch_size": max(size // part, 1) * part}
    part = next(n for n in range(min(size, AT_ONCE), 0, -1) if size % n == 0)
    return values | {"batch_size": size} | ({} if part == size else {"micro_batch_size": part})


def with_sum_searched(values: Any) -> Any:
    """A run's settings as they were given, and where experts learn from rewards, with their sum as
    the merge and a search for its scale on the dev prompts, if the benchmark has any."""
    if not isinstance(values, dict):
        return values
    experts, scores, merged = (values.get(name, {}) for name in ("experts", "scores", "merged"))
    if not all(isinstance(section, dict) for section in (experts, scores, merged)):
        return values  # made in Python, as they are meant to be
    # A list, since what came may be of any type, and a set would ask for its hash.
    rewarded = [kind.model_fields["kind"].default for kind in REWARDED]
    lora = _kind(experts.get("adapter"), "lora") == "lora"
    decided = {"search", "scale", "lambda", "weights", "mixture"} & merged.keys()
    toybox = scores.get("benchmark", "toybox") == "toybox"
    if _kind(experts.get("objective"), "") not in rewarded or decided or not (lora and toybox):
        return values
    searched = {"search": {"trials": SCALES, "weights": False, "scale": BOUNDS}}
    return values | {"merged": {"method": "sum_of_deltas"} | merged | searched}


def _kind(section: Any, default: str) -> Any:
    if section is None:
        return default
    return section.get("kind") if isinstance(section, dict) else getattr(section, "kind", None)


REWARDED = (NftObjective, DdpoObjective, DpokObjective)
AT_ONCE = 64
"""Samples of one backward pass where neither batch_size nor micro_batch_size is given."""
SCALES = 6
"""How many merges a search for the scale alone tries unless told otherwise."""
BOUNDS = (0.2, 2.0)
"""Of that scale; a fifth of the sum is the mean of five."""
