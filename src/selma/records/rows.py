"""What readers need of the rows and objects in selma's own JSON files; more may be there.

Whatever has another shape is refused where it is read (`record_files`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict  # which Pydantic needs before Python 3.12

from selma.records.benchmarks import Question
from selma.records.record import Chance, Record

Number = Annotated[float, Field(allow_inf_nan=False)]


@with_config(ConfigDict(extra="forbid"))
class ReplyRow(TypedDict):
    """A language model's reply, as `Reply.record` gives it."""

    text: str
    prompt_tokens: int
    reply_tokens: int
    truncated: bool
    cost: NotRequired[Number]
    silence: NotRequired[Literal["null", "thought", "refusal", "filtered", "tool_call", ""]]
    left_out: NotRequired[list[str]]


class BatchOfReplies(TypedDict):
    replies: list[ReplyRow]
    no_captions: NotRequired[list[str]]


class KeyedReplies(TypedDict):
    replies: dict[str, ReplyRow]


class QuestionRow(Record):
    """A prompt with its questions, or why it has none."""

    id: str
    text: str
    questions: tuple[Question, ...] | None = None
    dropped: str | None = None


def _is_first_token(row: list[str | float]) -> list[str | float]:
    if not (isinstance(row[0], str) and not isinstance(row[1], str)):
        raise ValueError("a token and its probability are wanted")
    return row


FirstTokenRow = Annotated[
    list[str | Chance], Field(min_length=2, max_length=2), AfterValidator(_is_first_token)
]
"""The first token of a spelling, and its probability."""


class AnswerRow(TypedDict):
    question: str
    text: str
    yes: Chance | None
    first: NotRequired[list[FirstTokenRow]]


class PromptAnswers(TypedDict):
    prompt: str
    answers: list[AnswerRow]


class Scored(TypedDict):
    score: Number


class PromptScore(Scored):
    prompt: str


class VerdictRow(TypedDict):
    model: str
    prompt: str
    verdicts: dict[str, Literal["yes", "no", "unreadable", "zeroed"]]
    matched: NotRequired[dict[str, str]]


class CandidateRow(Scored):
    """One of the images that a prompt's are chosen from."""

    candidate: str
    prompt_id: str
    text: str
    answered: NotRequired[Number]


class PreferenceRow(TypedDict):
    prompt_id: str
    text: str
    winner: str
    loser: str
    winner_score: Number
    loser_score: Number


class ParsedText(TypedDict):
    text: str
    sets: list[list[list[int]]]


class Caption(TypedDict):
    id: str
    text: str


class Identified(TypedDict):
    id: str


class Loss(TypedDict):
    loss: Number | None


class StepScore(Scored):
    step: int


class Rewarded(TypedDict):
    prompt: str
    reward: Number


@with_config(ConfigDict(extra="forbid"))
class TrialRow(TypedDict):
    trial: int
    weights: dict[str, Number]
    scale: Number
    score: Number


class DiagnosticsFile(TypedDict):
    layers: dict[str, dict[str, Any]]


class HpsScores(TypedDict):
    per_image: dict[str, dict[str, Number]]


class Distance(TypedDict):
    frechet: Number


class CachedAnswer(AnswerRow):
    image: str


class CachedPixels(TypedDict):
    file: str
    pixels: str
    opener: NotRequired[int]


class MetadataRow(TypedDict):
    """A pair of prompt and image, in an imagefolder of our own."""

    file_name: str
    text: str
    prompt_id: str
    seed: int | None
    tokens_cut: int
