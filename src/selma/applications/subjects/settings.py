"""Settings of `selma subjects`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from selma.config import RunConfig
from selma.config.adapters import (
    AnyAdapterConfig,
    CoftConfig,
    FullConfig,
    LoraConfig,
    OftConfig,
)
from selma.config.experts import TrainingConfig
from selma.config.networks import FeatureNetwork
from selma.config.places import Folder
from selma.config.section import Section

Template = Annotated[str, Field(min_length=1)]


class SubjectData(Section):
    """Which subjects there are, and how they are called."""

    folder: Annotated[str, Folder(words=("toybox",))] = "toybox"
    """"toybox", which generates its own, or a folder with one folder of images for each subject, as
    DreamBooth's dataset has it; a folder that holds images itself is one subject."""
    subjects: tuple[str, ...] | None = None
    """Names of folders; None takes all."""
    classes: dict[str, str] = Field(default_factory=dict)
    """Subject → class word, where the folder has no prompts_and_classes.txt or it errs."""
    living: tuple[str, ...] = ("bird", "cat", "dog", "fish")
    """Classes whose subjects are generated with the prompts for living ones."""
    token: Template = "qwe"
    """The rare token that stands for each subject."""
    instance_prompt: Template = "a photo of {token} {class}"
    class_prompt: Template = "a photo of {class}"
    prompts: tuple[Template, ...] | None = None
    """Templates with {token} and {class} for all subjects; None takes those of the folder's text
    file, else selma's 25 for objects and 25 for living subjects."""
    image_px: PositiveInt | None = None
    """Shortest side to which larger images are made smaller; None is the base's own size."""

    @model_validator(mode="after")
    def _templates(self) -> SubjectData:
        for template in (self.instance_prompt, *(self.prompts or ())):
            if "{token}" not in template or "{class}" not in template:
                raise ValueError(f"a prompt needs {{token}} and {{class}}, but is {template!r}")
        if "{class}" not in self.class_prompt or "{token}" in self.class_prompt:
            raise ValueError("class_prompt needs {class} and no {token}")
        return self


class Prior(Section):
    """Prior preservation: the class stays what it was, by images that the base generated of it."""

    weight: NonNegativeFloat = 1.0
    """Of the second loss; 0 trains on the subject alone and generates no class images."""
    images: PositiveInt = 200
    """For each class, shared by its subjects; each has a seed of its own."""
    steps: PositiveInt = 50
    guidance: NonNegativeFloat = 7.5


class SubjectTraining(TrainingConfig):
    """The same for all methods but for the learning rate; steps are the paper's."""

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 1
    """Of the subject; as many class images come with it."""
    learning_rate: PositiveFloat = 6e-5
    """Where a method gives none."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    checkpoint_every: PositiveInt = 200
    """Each of these steps is kept, so that convergence can be plotted."""


class SubjectMethod(Section):
    """One way to train, compared with the others at equal steps."""

    adapter: AnyAdapterConfig
    learning_rate: PositiveFloat | None = None
    """None is that of `training`."""


class SubjectGeneration(Section):
    images: PositiveInt = 4
    """For each prompt, as the released evaluation takes of eight."""
    steps: PositiveInt = 25
    guidance: NonNegativeFloat = 7.5
    batch_size: PositiveInt = 8
    curve_prompts: PositiveInt = 5
    """How many of the prompts, evenly spaced, each checkpoint before the last generates, once
    each."""


class SubjectScores(Section):
    dino: FeatureNetwork = FeatureNetwork()
    """The release takes facebook/dino-vits16. "toybox" are the image encoders of toybox's judges,
    which are no DINO and are not called so."""
    clip: FeatureNetwork = FeatureNetwork()
    """For CLIP-I and CLIP-T; the release takes openai/clip-vit-large-patch14."""
    lpips: FeatureNetwork | None = FeatureNetwork()
    """A folder that `selma subjects lpips` made; None leaves both distances out."""
    clip_t_with_token: bool = False
    """Whether CLIP-T's text has the rare token, which means nothing to CLIP. The release does not
    tell."""
    resamples: PositiveInt = 10_000


METHODS = {
    "lora": SubjectMethod(adapter=LoraConfig(rank=64), learning_rate=1e-4),
    "full": SubjectMethod(adapter=FullConfig(), learning_rate=5e-6),
    "oft": SubjectMethod(adapter=OftConfig(), learning_rate=6e-5),
    "coft": SubjectMethod(adapter=CoftConfig(), learning_rate=6e-5),
}
"""With the released scripts' learning rates; their steps differ (2,000 of LoRA, 800 of full
fine-tuning). On Stable Diffusion 1.5 rank 64 has about as many parameters as OFT's four blocks:
12.8 and 11.6 million."""

MethodName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]
RESERVED = ("base", "real")
"""Rows of the table that no method may be called."""


class SubjectSettings(Section):
    """Subject-driven generation: DreamBooth (arXiv:2208.12242) with OFT (arXiv:2306.07280)."""

    data: SubjectData = SubjectData()
    prior: Prior = Prior()
    training: SubjectTraining = SubjectTraining()
    methods: dict[MethodName, SubjectMethod] = Field(
        default_factory=lambda: dict(METHODS), min_length=1
    )
    """Name → what is trained; the first is what the others are compared with."""
    generation: SubjectGeneration = SubjectGeneration()
    scores: SubjectScores = SubjectScores()

    @model_validator(mode="after")
    def _names(self) -> SubjectSettings:
        for name in RESERVED:
            if name in self.methods:
                raise ValueError(f"no method may be called {name!r}, as a row of the table is")
        return self


class SubjectsRun(RunConfig):
    """A run's settings with those of `selma subjects`."""

    subjects: SubjectSettings = SubjectSettings()
