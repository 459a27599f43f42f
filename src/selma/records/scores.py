"""Stage 5 leaves scores, each with its interval."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from selma.records.record import Record

Zeroing = Literal["cascading", "one_level", "row_order", "none"]
"""What a "no" does to the questions that depend on it."""


class Interval(Record):
    """A mean with its 95% bootstrap interval over n prompts."""

    mean: float
    low: float
    high: float
    n: int
    standard_error: float | None = None
    """None for a single prompt, which has no spread."""


class MeasureInfo(Record):
    """A benchmark's measure, in words for tables and pages."""

    label: str
    """Its name: "DSG"."""
    meaning: str
    """Completes "The score is ..."; see `scores.measures`."""
    earns: str
    """Completes "Only ... earns a point.", as "a plain yes" does."""


class ScorerInfo(Record):
    """A preference scorer; its scores mean nothing without this description."""

    label: str
    """Its key in every `ModelScore.preferences`."""
    name: str
    """The scorer with its version, as in "HPS v2.1"."""
    scale: str
    preprocessing: str
    weights: str
    """Hub id or name of a folder; never a path."""
    fingerprint: str
    """Changes with weights, tokenizer, scale and preprocessing."""
    known: str = ""
    """What is known of its published numbers that others do not reach."""
    chose: bool = False
    """Something in this run was chosen or tuned by it: its gain is no independent evidence."""


class JudgeInfo(Record):
    """The judge of a score, which means little without it; empty is what it does not tell."""

    name: str
    fingerprint: str
    """Changes with weights, wording, decoding and precision."""
    weights: str = ""
    """Hex digits of the weights' bytes; of the Hub, its id and commit."""
    wording: str = ""
    """How questions are put."""
    precision: str = ""


class ModelScore(Record):
    """The scores of one model (base, an expert, or merged) on one benchmark."""

    model: str
    role: Literal["base", "expert", "merged", "other"]
    score: Interval
    """0-100, by the benchmark's measure: DSG's and TIFA's are means over prompts."""
    difference: Interval | None = None
    """`score` minus the base's, paired by prompt; None for the base itself."""
    score_by_question: float
    """0-100, mean over all questions after dependency zeroing."""
    categories: dict[str, Interval]
    """Per question category, 0-100."""
    groups: dict[str, Interval]
    """Per prompt group, 0-100."""
    by_question: Interval | None = None
    """`score_by_question` with its interval; for published benchmarks, whose tables have it."""
    details: dict[str, Interval] = Field(default_factory=dict)
    """Per detailed category, 0-100; only for a published benchmark."""
    category_differences: dict[str, Interval] = Field(default_factory=dict)
    """Per question category minus the base's, paired by prompt; empty for the base itself."""
    group_differences: dict[str, Interval] = Field(default_factory=dict)
    """Per prompt group minus the base's, paired by prompt; empty for the base itself."""
    by_question_difference: Interval | None = None
    detail_differences: dict[str, Interval] = Field(default_factory=dict)
    per_prompt: dict[str, float]
    """Prompt id → 0..1, over all images of the prompt."""
    clip: Interval | None = None
    """100 x cosine of image and prompt; None if no scorer is set."""
    clip_difference: Interval | None = None
    soft: Interval | None = None
    """0-100, mean probability of the expected answer; None if the judge gives none."""
    soft_difference: Interval | None = None
    vqascore: Interval | None = None
    """0-100, mean P(yes) to one question about the whole prompt; None if not asked."""
    vqascore_difference: Interval | None = None
    preferences: dict[str, Interval] = Field(default_factory=dict)
    """Label → mean over prompts, on the scale that the scorecard's `preferences` state."""
    preference_differences: dict[str, Interval] = Field(default_factory=dict)
    """Label → mean minus the base's, paired by prompt; empty for the base itself."""
    win_rates: dict[str, Interval] = Field(default_factory=dict)
    """Label → percent of images that score above the base's of the same prompt and seed, ties
    half."""
    beside: dict[str, Interval] = Field(default_factory=dict)
    """Label of each further measure of the same answers → its score, 0-100."""
    beside_differences: dict[str, Interval] = Field(default_factory=dict)
    """Each minus the base's, paired by prompt; empty for the base itself."""
    unreadable: int = 0
    """Answers that are neither yes nor no; counted, scored as no."""


class Comparison(Record):
    """One model's score minus another's on the benchmark, paired by prompt."""

    model: str
    against: str
    difference: Interval


class Scorecard(Record):
    """What stage 5 leaves: every model on one benchmark, first the base, last the merged one."""

    benchmark: str
    split: str
    judge: str
    judge_info: JudgeInfo | None = None
    """None in a scorecard of an older version."""
    known: tuple[str, ...] = ()
    """What is known of this benchmark's and this judge's numbers that others do not reach, a
    sentence each."""
    prompts: int
    questions: int
    seeds: int = 1
    """Images that each model generated of each prompt."""
    models: tuple[ModelScore, ...]
    guidance: float | None = None
    """By which all models generated; None where it is not known."""
    agreement: float | None = None
    """Share of questions that a second judge answers alike; 0..1."""
    second_judge: str | None = None
    rules: Literal["sound", "released"] = "sound"
    """How answers became scores."""
    rules_about: str = ""
    """In what released rules differ from sound ones."""
    zeroing: Zeroing = "cascading"
    """The rule by which a "no" zeroes the questions that depend on it."""
    measure: str = "DSG"
    """`MeasureInfo.label` of the benchmark's measure."""
    matcher: str | None = None
    """Name of the matcher of free answers and choices, if one was used."""
    published: str | None = None
    """Name of the published benchmark that all prompts and questions belong to."""
    dependency_faults: dict[str, int] = Field(default_factory=dict)
    """Fault of the benchmark's dependencies → how often; such references are ignored."""
    preferences: tuple[ScorerInfo, ...] = ()
    clip_chose: bool = False
    """`ScorerInfo.chose`, for the CLIP score."""
    comparisons: tuple[Comparison, ...] = ()
    """Comparisons of models other than the base, such as searched and uniform weights."""
    near_training: int | None = None
    """Prompts that experts were trained on and that are near one of these; None where such were
    left out of training."""
    further: dict[str, Scorecard] = Field(default_factory=dict)
    """Name → the same models on a further benchmark, or by another judge."""
