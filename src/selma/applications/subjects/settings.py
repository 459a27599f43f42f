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
from selma.config.colours import Colour
from selma.config.experts import TrainingConfig
from selma.config.networks import FeatureNetwork
from selma.config.places import Folder
from selma.config.section import Pixels, Resamples, Section

Template = Annotated[str, Field(min_length=1)]


class SubjectData(Section):
    """The subjects, their class words and their prompts."""

    folder: Annotated[str, Folder(words=("toybox",))] = "toybox"
    """"toybox" for its own subjects, or a folder with one folder of images for each subject, the
    layout of DreamBooth's dataset; a folder that holds images itself is one subject."""
    subjects: tuple[str, ...] | None = None
    """Names of folders; None takes all."""
    classes: dict[str, str] = Field(default_factory=dict)
    """Subject → class word; takes precedence over the folder's prompts_and_classes.txt."""
    living: tuple[str, ...] = ("bird", "cat", "dog", "fish")
    """Classes whose subjects get the prompts for living subjects."""
    token: Template = "qwe"
    """The rare token that stands for each subject."""
    instance_prompt: Template = "a photo of {token} {class}"
    class_prompt: Template = "a photo of {class}"
    prompts: tuple[Template, ...] | None = None
    """Templates with {token} and {class} for all subjects; None takes those of the folder's text
    file, else selma's 25 for objects and 25 for living subjects."""
    image_px: Pixels | None = None
    """Larger images are scaled down to this shortest side; None is the base's image size."""
    background: Colour = "white"
    """What transparent parts of images lie over."""

    @model_validator(mode="after")
    def _templates(self) -> SubjectData:
        for template in (self.instance_prompt, *(self.prompts or ())):
            if "{token}" not in template or "{class}" not in template:
                raise ValueError(f"a prompt needs {{token}} and {{class}}, but is {template!r}")
        if "{class}" not in self.class_prompt or "{token}" in self.class_prompt:
            raise ValueError("class_prompt needs {class} and no {token}")
        return self


class Prior(Section):
    """Prior preservation: images of the class that the base generated keep the class as it was."""

    weight: NonNegativeFloat = 1.0
    """Weight of the prior's loss; 0 trains on the subject alone and generates no class images."""
    images: PositiveInt = 200
    """Class images for each class, shared by its subjects; each has a seed of its own."""
    steps: PositiveInt = 50
    guidance: NonNegativeFloat = 7.5


class SubjectTraining(TrainingConfig):
    """The same for all methods, except the learning rate; the number of steps is the paper's."""

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 1
    """Subject images in a batch; with a prior, as many class images are added."""
    learning_rate: PositiveFloat = 6e-5
    """The learning rate of methods that set none."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    checkpoint_every: PositiveInt = 200
    """Checkpoints at multiples of this are kept for the convergence curves."""


class SubjectMethod(Section):
    """One method of training; all are compared after equally many steps."""

    adapter: AnyAdapterConfig
    learning_rate: PositiveFloat | None = None
    """None takes the learning rate of `training`."""


class SubjectGeneration(Section):
    """How the subjects' prompts are generated."""

    images: PositiveInt = 4
    """Images for each prompt; the released evaluation takes 4 of 8."""
    steps: PositiveInt = 25
    guidance: NonNegativeFloat = 7.5
    batch_size: PositiveInt = 8
    curve_prompts: PositiveInt = 5
    """Checkpoints before the last generate this many evenly spaced prompts, one image each."""


class SubjectScores(Section):
    """The networks that score the images, and the bootstrap."""

    dino: FeatureNetwork = FeatureNetwork()
    """The release takes facebook/dino-vits16. "toybox" takes the image encoders of toybox's judges
    instead; tables then say Encoders, not DINO."""
    clip: FeatureNetwork = FeatureNetwork()
    """For CLIP-I and CLIP-T; the release takes openai/clip-vit-large-patch14."""
    lpips: FeatureNetwork | None = FeatureNetwork()
    """A folder written by `selma subjects lpips`; None leaves both distances out."""
    clip_t_with_token: bool = False
    """Whether CLIP-T's text includes the rare token, which means nothing to CLIP. The release does
    not say."""
    resamples: Resamples = 10_000


METHODS = {
    "lora": SubjectMethod(adapter=LoraConfig(rank=64), learning_rate=1e-4),
    "full": SubjectMethod(adapter=FullConfig(), learning_rate=5e-6),
    "oft": SubjectMethod(adapter=OftConfig(), learning_rate=6e-5),
    "coft": SubjectMethod(adapter=CoftConfig(), learning_rate=6e-5),
}
"""The released scripts' learning rates; their steps differ (2,000 for LoRA, 800 for full
fine-tuning). On Stable Diffusion 1.5, rank 64 has about as many parameters as OFT's four blocks:
12.8 and 11.6 million."""

MethodName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,39}$")]
RESERVED = ("base", "real")
"""Names of other rows of the table, which no method may have."""


class SubjectSettings(Section):
    """Subject-driven generation: DreamBooth (arXiv:2208.12242) with OFT (arXiv:2306.07280)."""

    data: SubjectData = SubjectData()
    prior: Prior = Prior()
    training: SubjectTraining = SubjectTraining()
    methods: dict[MethodName, SubjectMethod] = Field(
        default_factory=lambda: dict(METHODS), min_length=1
    )
    """Name → method; the others are compared with the first."""
    generation: SubjectGeneration = SubjectGeneration()
    scores: SubjectScores = SubjectScores()

    @model_validator(mode="after")
    def _names(self) -> SubjectSettings:
        for name in RESERVED:
            if name in self.methods:
                raise ValueError(f"no method may be called {name!r}: a row of the table is")
        return self


class SubjectsRun(RunConfig):
    """A run's settings with those of `selma subjects`."""

    subjects: SubjectSettings = SubjectSettings()
