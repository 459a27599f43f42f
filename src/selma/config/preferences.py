"""Settings of objectives that learn from preferences between two images of one prompt."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from selma.config.section import Section

PAPER_BETA = 5000.0
"""Diffusion-DPO's for SD 1.5 and SDXL."""
NO_CANDIDATES = (
    "learns from pairs of candidates, but images.choose is not set. Set it, with candidates: 2 as "
    "SELMA has it, or more."
)
NO_ANSWERS = (
    "pairs.by answers needs answers about each candidate, but images.choose.questions is not set."
)


class PreferencePairs(Section):
    """Which of a prompt's candidates (`images.choose`) become pairs of winner and loser."""

    of: Literal["best_worst", "first_two", "all"] = "best_worst"
    """One pair for each prompt: its best candidate against its worst, or its first two, whatever
    their scores, as SELMA has it (with images.choose.candidates 2 both are the same). "all": each
    candidate against each that is worse."""
    by: Literal["score", "answers"] = "score"
    """What makes a candidate the better one: images.choose.scorer, or the share of the prompt's
    questions that the choosing judge answers as expected, which needs images.choose.questions."""
    least_difference: NonNegativeFloat | None = None
    """Pairs that differ by no more are dropped and counted. None measures the judge's own noise:
    the root mean square of what a score changes by when the image is moved by one pixel, which
    costs a second round of scoring. 0 drops equal ones alone."""


class PreferenceObjective(Section):
    """What settings of objectives that learn from preferences have. Experts by such an objective
    are trained on pairs of candidates in place of the images that were chosen."""

    kind: str
    """The name of a row of `experts.objectives.OBJECTIVES`."""
    pairs: PreferencePairs = PreferencePairs()


class DpoObjective(PreferenceObjective):
    """Diffusion-DPO (arXiv:2311.12908): an image that a scorer prefers becomes more likely than
    another one of the same prompt, as measured against the base."""

    kind: Literal["dpo"] = "dpo"
    preset: Literal["selma", "diffusers", "diffusers_sdxl", "paper", "paper_sdxl"] = "selma"
    """What training is where `experts` does not say otherwise: SELMA's (rate 3e-4, 5000 steps; it
    says neither beta nor batch, so that beta is the paper's 5000 and the batch that of all experts
    here), the LoRA scripts of diffusers, or the paper's code, whose optimizers and whole
    denoisers are not part of it."""
    beta: PositiveFloat | None = None
    """The paper's β, which its code halves; 5000 unless half_beta is given."""
    half_beta: PositiveFloat | None = None
    """Instead of beta: the number that multiplies the difference of errors, β' = β / 2. It is what
    diffusers' script calls beta_dpo, and writes as 2500."""
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """-log σ(β' d), the paper's; max(0, 1 - β' d); or (d - 1 / (2 β'))² (arXiv:2310.12036), where d
    is by how much more the error falls for the winner than for the loser."""

    @property
    def scale(self) -> float:
        """β' = β / 2."""
        return self.half_beta or (self.beta or PAPER_BETA) / 2

    @model_validator(mode="before")
    @classmethod
    def _told(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        missing = {"beta", "half_beta"}.isdisjoint(k for k, v in values.items() if v is not None)
        return values | {"beta": PAPER_BETA} if missing else values

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.beta is not None and self.half_beta is not None:
            raise ValueError("beta and half_beta (= beta / 2) say one thing; give one")
        return self


_LORA = {"adapter": {"kind": "lora", "rank": 8}, "learning_rate": 1e-5, "caption_dropout": 0.0}
_PAPER = {
    "learning_rate": 2048e-8,  # 1e-8 times the batch
    "batch_size": 2048,
    "steps": 2000,
    "caption_dropout": 0.2,
}
DPO_PRESETS: dict[str, dict[str, Any]] = {
    "selma": {"learning_rate": 3e-4, "steps": 5000},
    "diffusers": _LORA | {"batch_size": 32, "steps": 10_000},
    "diffusers_sdxl": _LORA | {"batch_size": 16, "steps": 2000, "flip": True},
    "paper": _PAPER | {"warmup_steps": 500},
    "paper_sdxl": _PAPER | {"warmup_steps": 200, "max_grad_norm": None},
}
"""Preset → settings of `experts` that are not given."""


def with_preset(values: Any) -> Any:
    """The settings of `experts` as they were given, with those of their objective's preset."""
    objective = values.get("objective") if isinstance(values, dict) else None
    if isinstance(objective, DpoObjective):
        return DPO_PRESETS[objective.preset] | values
    if not isinstance(objective, dict) or objective.get("kind") != "dpo":
        return values
    preset = objective.get("preset", "selma")  # of any type
    return (DPO_PRESETS.get(preset, {}) if isinstance(preset, str) else {}) | values
