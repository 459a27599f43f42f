"""Settings of stage 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeFloat, PositiveInt, Tag, model_validator

from selma.config.given import GIVEN_GROUP, Imagefolder, ToyboxPairs
from selma.config.networks import KIND_OF_BASE, BaseConfig, ServedBase
from selma.config.places import File, FileOrFolderPath
from selma.config.questions import WrittenQuestions
from selma.config.scores import AnyScorer
from selma.config.section import Section, kinds


def _source_kind(value: Any) -> str:
    return "named" if isinstance(value, str) else "written"


BY_TOYBOX = ("toybox", "toybox_exact")
"""Sources of questions that read captions back."""
QuestionSource = Annotated[
    Annotated[str, File(words=BY_TOYBOX), Tag("named")]
    | Annotated[WrittenQuestions, Tag("written")],
    Discriminator(_source_kind),
]


class Choice(Section):
    """Of several images of a prompt, those are kept that a scorer finds nearest to it, with
    `questions` only those that a judge accepts, and with `score_threshold` only those that score so
    high. The paper trains on every image; choosing before training is DreamSync's
    (arXiv:2311.17946)."""

    candidates: Annotated[int, Field(ge=2)] = 4
    """Images generated for each prompt; DreamSync has 8."""
    scorer: Literal["toybox"] | AnyScorer = "toybox"
    """Toybox's CLIP, or a network as in scores.preferences. Its gain is no evidence afterwards;
    where it is among the scores, the report says so."""
    questions: QuestionSource | None = None
    """Where the questions about a prompt come from that scores.choosing_judge answers: "toybox"
    (its captions are read back), "toybox_exact" (and of each thing that is named in the singular,
    that there are not several), a file in a benchmark's layout, in which prompts are found by
    their text, or the settings of a language model that writes them. Prompts without questions, or
    without an accepted image, are dropped and counted. None asks nothing."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a prompt's questions that must be answered as expected, dependencies counted as
    scores.zeroing says."""
    score_threshold: float | None = None
    """The least score of an image that is kept, in the scorer's own scale (docs/scores.md); prompts
    without such an image are dropped and counted. DreamSync has 0.6 by VILA. None: the scorer only
    ranks."""
    fewest_pairs: PositiveInt = 8
    """With questions or score_threshold: a skill for which fewer pairs are left is an error."""

    @property
    def drops(self) -> bool:
        """Whether prompts may be left without an image."""
        return self.questions is not None or self.score_threshold is not None

    @model_validator(mode="after")
    def _asked(self) -> Self:
        fields = type(self).model_fields
        given = [n for n in ("threshold", "fewest_pairs") if getattr(self, n) != fields[n].default]
        if "threshold" in given and self.questions is None:
            raise ValueError(
                "threshold is of questions, but there are none; set questions, too, or "
                "score_threshold, which is the scorer's"
            )
        if "fewest_pairs" in given and not self.drops:
            raise ValueError(
                "fewest_pairs is of questions or score_threshold, but there is neither; set one"
            )
        return self


class OwnImages(Section):
    """The paper's: the base generates them, or another one (`images.base`)."""

    kind: Literal["own"] = "own"


class _Drawing(Section):
    """How another base generates, and what is told of its images."""

    steps: PositiveInt | None = None
    """None: as its short name has it (`selma bases`), 50 for any other base."""
    guidance: NonNegativeFloat | None = None
    """None: as its short name has it, 7.5 for any other base."""
    original_size: Literal["drawn", "trained"] = "drawn"
    """Which size a base that is told images' original size (SDXL) is told: that at which they were
    drawn, or its own, as if nothing had been resized. The paper does not say."""


class DrawingBase(BaseConfig, _Drawing):
    """Another base, whose images a run's base is trained on: a weaker one in the paper's table 3.
    Images keep its size on disk, and are brought to the trained base's by Lanczos's filter."""


class ServedDrawingBase(ServedBase, _Drawing):
    """The same on a server."""

    setting = "images.base"


AnyDrawingBase = DrawingBase | ServedDrawingBase
if TYPE_CHECKING:
    DrawingSettings = AnyDrawingBase
else:
    DrawingSettings = Annotated[
        Annotated[DrawingBase, Tag("local")] | Annotated[ServedDrawingBase, Tag("served")],
        KIND_OF_BASE,
    ]


class ImagesConfig(Section):
    source: kinds(OwnImages, Imagefolder, ToyboxPairs, group=GIVEN_GROUP) = (  # type: ignore[valid-type]
        OwnImages()
    )
    """Where images come from: a base generates them, or they are given with their captions, which
    prompts.source must then give, too. Prompts without a given image are left out."""
    base: DrawingSettings | None = None
    """A base that generates in place of the run's, on this machine or on a server. None is the
    run's own."""
    per_prompt: PositiveInt = 1
    """Images kept for each prompt; with choose.questions or choose.score_threshold, and of given
    images, at most."""
    steps: PositiveInt = 50
    """The run's base's denoising steps."""
    guidance: NonNegativeFloat = 7.5
    """The run's base's."""
    batch_size: PositiveInt = 8
    adapter: FileOrFolderPath | None = None
    """An adapter that the generating base has, as an earlier run's 4-merged; experts are trained
    from the base without it. None is the base alone."""
    choose: Choice | None = None
    """None keeps every image."""

    @property
    def given(self) -> bool:
        """Whether images are given, instead of being generated."""
        return not isinstance(self.source, OwnImages)

    @property
    def candidates_per_prompt(self) -> int:
        return self.choose.candidates if self.choose else self.per_prompt

    @property
    def questions(self) -> str | WrittenQuestions | None:
        """Where the questions come from by which images are chosen; None if they are not."""
        return self.choose.questions if self.choose else None

    @model_validator(mode="after")
    def _generated(self) -> Self:
        parts = {"base": self.base, "adapter": self.adapter, "choose": self.choose}
        if self.given and (names := [name for name, part in parts.items() if part is not None]):
            raise ValueError(
                f"{' and '.join(names)} belong to images that are generated, but source is "
                f"{self.source.kind}; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.choose and self.choose.candidates <= self.per_prompt:
            raise ValueError(
                f"choose.candidates must be more than per_prompt, but {self.choose.candidates} and "
                f"{self.per_prompt} came"
            )
        return self
