"""What stages hand to each other: small frozen records with ids, written as JSON lines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Published = Literal["dsg-1k", "tifa-v1.0"]
"""A benchmark that published scores are about."""


class Record(BaseModel):
    """Frozen; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def prompt_id(skill: str, text: str) -> str:
    """16 hex digits from skill and text: safe as a file name, equal for equal prompts."""
    return hashlib.sha256(f"{skill}\n{text}".encode()).hexdigest()[:16]


class Prompt(Record):
    """One text that an LLM wrote for a skill. `parents` are the ids or texts of its in-context
    examples; `tokens` is what the reply that held it cost, divided by the prompts in it."""

    id: str
    skill: str
    text: str
    parents: tuple[str, ...] = ()
    model: str = ""
    tokens: float = 0.0


class Pair(Record):
    """A prompt and the picture that the base model drew for it (`image` is an absolute path)."""

    prompt: Prompt
    image: Path
    seed: int
    tokens_cut: int = 0
    """How many text tokens beyond the encoder's limit were not seen; 0 for nearly all."""


class Triple(Record):
    """A plain narrative, the keyword prompt that it stands for, and their picture (SURD)."""

    id: str
    text: str
    """The narrative."""
    prompt: str
    """The keyword prompt."""
    image: Path
    source: str = ""
    """Where it comes from: an address, a file's name, or the world that it was drawn in."""
    licence: str = "unknown"


class Understanding(Record):
    """A trained SUR-adapter; `folder` holds `sur_adapter.safetensors`."""

    folder: Path
    key: str


class Landmark(Record):
    """A point of a picture: `x` to the right and `y` down, both 0..1 of its sides."""

    name: str
    """Which point of a face it is, or what kind of object lies there; need not be unique."""
    x: float
    y: float


class ControlSample(Record):
    """A picture with its prompt and its signal, squares of one size (paths are absolute)."""

    id: str
    text: str
    image: Path
    hint: Path
    source: str = ""
    """Where it comes from; no path of this machine."""
    landmarks: tuple[Landmark, ...] | None = None
    """Where its landmarks lie; None where nobody says."""


class Controlled(Record):
    """A trained control network; `folder` holds `control.safetensors`."""

    label: str
    folder: Path
    key: str


class Subject(Record):
    """One thing that is to be drawn again, with the pictures of it that there are."""

    name: str
    """Its folder's name; subjects are told apart by it, letter by letter."""
    kind: str
    """Its class word, as in "stuffed animal"."""
    pictures: tuple[Path, ...]
    prompts: tuple[str, ...]
    """Templates with {token} and {class}."""


class SubjectAdapter(Record):
    """What one method learnt of one subject."""

    subject: str
    method: str
    folder: Path
    key: str
    steps: tuple[int, ...]
    """At which its weights were kept, in order; the last are the result."""


class Expert(Record):
    """One trained adapter: `folder` holds `pytorch_lora_weights.safetensors`, or of OFT
    `rotations.safetensors`."""

    skill: str
    folder: Path
    key: str
    """The recipe's key of the workspace item that made it: equal keys, equal weights."""


class Merged(Record):
    """All experts as one adapter; `folder` holds a file as an expert's does."""

    folder: Path
    key: str
    method: str
    weights: dict[str, float]
    """Skill → weight."""
    scale: float = 1.0
    """Of the whole, where it was searched together with the weights."""
    uniform: Merged | None = None
    """The same merge with uniform weights, where others were found to be better on dev prompts."""


class Question(Record):
    """One question about a picture: yes or no, with yes expected (DSG, arXiv:2310.18235), or
    multiple choice (TIFA, arXiv:2303.11897)."""

    id: str
    text: str
    category: str
    """Broad category: entity, colour, count, spatial, global, size, or the benchmark's own."""
    detail: str = ""
    """The benchmark's finer category, if it has one."""
    parents: tuple[str, ...] = ()
    """Ids of questions of the same prompt that must be answered yes for this one to make sense."""
    choices: tuple[str, ...] = ()
    """What can be answered; empty for a question of yes or no."""
    answer: str = "yes"
    """What a faithful picture makes one answer."""


class ExamPrompt(Record):
    """One prompt of a benchmark with its questions; a user's own prompts have none at first."""

    id: str
    text: str
    group: str
    """The source or style that results are grouped by."""
    questions: tuple[Question, ...]


def evenly(exam: Sequence[ExamPrompt], count: int) -> list[ExamPrompt]:
    """`count` prompts of an exam (or all, if it has fewer) in its order: as equally as possible
    over the groups and evenly spaced within each, so that no result can steer the choice."""
    groups: dict[str, list[int]] = {}
    for position, prompt in enumerate(exam):
        groups.setdefault(prompt.group, []).append(position)
    taken = dict.fromkeys(groups, 0)
    while sum(taken.values()) < min(count, len(exam)):
        open_groups = [name for name in groups if taken[name] < len(groups[name])]
        taken[min(open_groups, key=taken.__getitem__)] += 1
    return [
        exam[position]
        for position in sorted(
            members[(2 * i + 1) * len(members) // (2 * taken[name])]
            for name, members in groups.items()
            for i in range(taken[name])
        )
    ]


def repeated(exam: Sequence[ExamPrompt], seeds: int) -> list[ExamPrompt]:
    """Each prompt of an exam `seeds` times in a row, once for each picture that is drawn of it: the
    first by its own id, the others by <id>-1, <id>-2 and so on."""
    return [
        prompt.model_copy(update={"id": f"{prompt.id}-{k}"}) if k else prompt
        for prompt in exam
        for k in range(seeds)
    ]


class Answer(Record):
    """What a judge said to one question about one picture; never thrown away."""

    prompt_id: str
    question_id: str
    text: str
    """The raw answer, as the judge gave it."""
    yes: float | None = None
    """Probability of yes in [0, 1]; None if the judge gives none."""
    verdict: Literal["yes", "no", "unreadable", "zeroed"] | None = None
    """How the answer counted: "yes" is the expected one, "zeroed" a yes whose dependency was
    answered no. Only "yes" earns a point. None while no scorecard was made."""
    choice: str | None = None
    """Which of a question's choices the text counts as, where a matcher had to say."""


class Interval(Record):
    """A mean with its 95% bootstrap interval over n prompts."""

    mean: float
    low: float
    high: float
    n: int
    standard_error: float | None = None
    """None for a single prompt, whose spread nobody knows."""


class ScorerInfo(Record):
    """What a preference score is; without it the number means nothing."""

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
    chose: bool = False
    """Something of this run was chosen or tuned by it: its gain is no independent evidence."""


class ModelScore(Record):
    """The scores of one model (base, an expert, or merged) on one exam."""

    model: str
    role: Literal["base", "expert", "merged", "other"]
    dsg: Interval
    """0-100, mean over prompts after dependency zeroing."""
    difference: Interval | None = None
    """dsg minus the base's, paired by prompt; None for the base itself."""
    dsg_by_question: float
    """0-100, mean over all questions after dependency zeroing."""
    categories: dict[str, Interval]
    """Per question category, 0-100."""
    groups: dict[str, Interval]
    """Per prompt group, 0-100."""
    by_question: Interval | None = None
    """`dsg_by_question` with its interval, and below it per detailed category (0-100): of a
    published benchmark alone, whose own tables have them."""
    details: dict[str, Interval] = Field(default_factory=dict)
    category_differences: dict[str, Interval] = Field(default_factory=dict)
    """Per question category minus the base's, paired by prompt; empty for the base itself."""
    group_differences: dict[str, Interval] = Field(default_factory=dict)
    """Per prompt group minus the base's, paired by prompt; empty for the base itself."""
    by_question_difference: Interval | None = None
    detail_differences: dict[str, Interval] = Field(default_factory=dict)
    per_prompt: dict[str, float]
    """Prompt id → 0..1, over all pictures of the prompt."""
    clip: Interval | None = None
    """100 x cosine of picture and prompt; None where no scorer is set."""
    clip_difference: Interval | None = None
    soft: Interval | None = None
    """0-100, mean probability of the expected answer; None where the judge gives none."""
    soft_difference: Interval | None = None
    vqascore: Interval | None = None
    """0-100, mean P(yes) to whether the picture shows its whole prompt; None if not asked."""
    vqascore_difference: Interval | None = None
    preferences: dict[str, Interval] = Field(default_factory=dict)
    """Label → mean over prompts, on the scale that the scorecard's `preferences` state."""
    preference_differences: dict[str, Interval] = Field(default_factory=dict)
    """Label → mean minus the base's, paired by prompt; empty for the base itself."""
    win_rates: dict[str, Interval] = Field(default_factory=dict)
    """Label → percent of pictures that score above the base's of the same prompt and seed, ties
    half."""
    unreadable: int = 0
    """Answers that are neither yes nor no; counted, scored as no."""


class Comparison(Record):
    """One model's DSG score minus another's on the exam, paired by prompt."""

    model: str
    against: str
    difference: Interval


class Scorecard(Record):
    """What stage 5 leaves: every model on one exam, first the base, last the merged one."""

    benchmark: str
    split: str
    judge: str
    prompts: int
    questions: int
    seeds: int = 1
    """Pictures that each model drew of each prompt."""
    models: tuple[ModelScore, ...]
    agreement: float | None = None
    """Share of questions on drawn pictures where a second judge says the same; 0..1."""
    second_judge: str | None = None
    zeroing: Literal["cascading", "one_level", "row_order", "none"] = "cascading"
    """What a "no" did to the questions that depend on it."""
    measure: Literal["DSG", "TIFA"] = "DSG"
    """What the scores are called: TIFA where questions have choices, else DSG."""
    matcher: str | None = None
    """What matched free answers to choices by their meaning."""
    published: Published | None = None
    """The published benchmark that all prompts are of, with its own questions."""
    dependency_faults: dict[str, int] = Field(default_factory=dict)
    """What is wrong with the benchmark's dependencies → how often; such references are ignored."""
    preferences: tuple[ScorerInfo, ...] = ()
    clip_chose: bool = False
    """As `ScorerInfo.chose`, for the CLIP score."""
    comparisons: tuple[Comparison, ...] = ()
    """Between models that are not the base, such as searched weights against uniform ones."""


class ControlScore(Record):
    """How one model's pictures keep to their signal."""

    model: str
    role: Literal["source", "base", "control"]
    """The source pictures themselves (what can be reached), the base without a signal, or a
    trained network."""
    parameters: int | None = None
    """How many numbers were trained."""
    measures: dict[str, Interval]
    differences: dict[str, Interval] = Field(default_factory=dict)
    """Minus the reference, paired by picture; empty for the reference itself."""
    failures: int = 0
    """Pictures in which the reader did not find what must be there."""
    left_out: int = 0
    """Pictures of which nothing can be said, such as those without edges on both sides."""
    fid: float | None = None
    """Distance of all drawn pictures from all source pictures; no mean over pictures, and so
    without an interval."""


class ControlCard(Record):
    """Every model on the same pictures of one signal."""

    signal: str
    pictures: int
    reference: str | None
    """The model that differences are taken from."""
    reader: str
    """What read the signal out of the pictures."""
    features: str | None
    """Of what the FID is."""
    models: tuple[ControlScore, ...]


class Distances(Record):
    """How far each model's pictures are from good ones, by an image encoder's vectors."""

    encoder: str
    fingerprint: str
    pictures: int
    """How many good pictures there are."""
    kernel: dict[str, Interval]
    """Model → kernel distance (KID) times 1000; 0 is no distance, and it may be below by chance."""
    kernel_differences: dict[str, Interval]
    """Model → minus the base's, paired by prompt; below 0 is nearer to the good pictures."""
    frechet: dict[str, float]
    """Model → Fréchet distance (FID); biased upwards by few pictures, for all models alike."""


class Understood(Record):
    """What a SUR-adapter does to plain prompts; the base first."""

    card: Scorecard
    """Categories are kinds: counting, colour, action, and the benchmark's others. CLIP scores are
    against the plain prompts."""
    keywords: dict[str, str] = Field(default_factory=dict)
    """Prompt id → keyword prompt; empty where there are none."""
    keyword_clip: dict[str, Interval] = Field(default_factory=dict)
    """Model → 100 x cosine of picture and keyword prompt."""
    keyword_clip_differences: dict[str, Interval] = Field(default_factory=dict)
    """Model → minus the base's, paired by prompt."""
    distances: Distances | None = None


class SubjectMeasure(Record):
    """One column of the subjects' table."""

    key: str
    label: str
    better: Literal["higher", "lower"]
    meaning: str
    network: str
    """What looked at the pictures."""


class SubjectRow(Record):
    """What one method reached; "base" drew the same prompts untrained, "real" are the pictures of
    the subjects themselves, against one another."""

    model: str
    values: dict[str, Interval]
    """Measure → mean over subjects and prompts; of "real" over subjects."""
    released: dict[str, float] = Field(default_factory=dict)
    """Measure → mean over all pairs of pictures, as the released evaluation has it: a subject with
    more pictures counts more."""
    subjects: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Subject → measure → mean over its prompts."""
    parameters: int | None = None
    """How many numbers were trained, for each subject."""


class SubjectComparison(Record):
    """One method minus another, paired by subject and prompt."""

    model: str
    against: str
    measure: str
    difference: Interval
    over_subjects: Interval
    """The same, with whole subjects drawn again instead of prompts: what another choice of subjects
    might have given."""


class CurvePoint(Record):
    step: int
    values: dict[str, float]
    """Measure → mean over the subjects' curve prompts, a picture each."""


class SubjectCard(Record):
    """All methods of a subject run in one table."""

    subjects: dict[str, str]
    """Name → class word."""
    token: str
    prompts: int
    pictures: int
    """For each prompt."""
    steps: int
    measures: tuple[SubjectMeasure, ...]
    rows: tuple[SubjectRow, ...]
    comparisons: tuple[SubjectComparison, ...]
    curves: dict[str, tuple[CurvePoint, ...]]
    curve_prompts: int


@dataclass(frozen=True)
class Findings:
    """All that a run found, for its report."""

    settings: dict[str, Any]
    prompts: dict[str, list[Prompt]]
    """Skill → the prompts kept."""
    dropped: dict[str, dict[str, int]]
    """Skill → reason → how many replies were dropped for it."""
    pairs: dict[str, list[Pair]]
    experts: list[Expert]
    merged: Merged
    exam: list[ExamPrompt]
    pictures: dict[str, Path]
    """Model → folder with one <prompt id>.png for each exam prompt, and where there are several
    seeds <prompt id>-1.png and so on."""
    answers: dict[str, list[Answer]]
    """Model → the reporting judge's raw answers."""
    scorecard: Scorecard
    journal: list[dict[str, Any]] = field(default_factory=list)
    """Lines with "stage", "seconds" and costs, in order; times live here and nowhere else."""
    lineage: dict[str, str] = field(default_factory=dict)
    """Base fingerprint, versions, keys of the items that led here."""
    judged: dict[str, Any] = field(default_factory=dict)
    """What the merge did to the experts' changes (`merged.judging`); empty if nobody looked."""
    trials: list[dict[str, Any]] = field(default_factory=list)
    """Every merge that was tried (`merged.searching`); empty where weights were given."""
    energies: dict[str, Any] = field(default_factory=dict)
    """Skill → hyperspherical energy of each layer before and after (`adapters.oft.energies`), of
    experts that are rotations."""
    hps: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model → its result on HPS's benchmark (`scores.hps`), of models that are still the run's."""
    studies: dict[str, Any] = field(default_factory=dict)
    """Name → what people voted (`study.results.Studied`)."""
    understood: Understood | None = None
    """What a SUR-adapter does to the same exam, where that was scored."""
