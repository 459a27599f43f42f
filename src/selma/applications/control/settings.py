"""Settings of `selma control`: generating from a condition (OFT, arXiv:2306.07280, section 4)."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from selma.config import RunConfig
from selma.config.adapters import AdapterConfig, CoftConfig, LoraConfig, OftConfig
from selma.config.colours import Colour
from selma.config.experts import TrainingConfig
from selma.config.networks import Captioner
from selma.config.places import FileOrFolder, FilePath, FolderPath, Model
from selma.config.section import Resamples, Section

Condition = Literal["canny", "segmentation", "landmarks", "depth", "densepose", "sketch"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)


class ToyboxImages(Section):
    """Scenes of toybox's world with their conditions."""

    kind: Literal["toybox"] = "toybox"
    train: PositiveInt = 1000
    val: PositiveInt = 100


class ReleasedFolder(Section):
    """ADE20K, COCO, DeepFashion, LAION or CelebA in the released code's layout."""

    kind: Literal["released"] = "released"
    folder: FolderPath


class PublishedFolder(Section):
    """A data set as its owners publish it: `selma data list` names them. Most have no prompts, and
    need a captioner."""

    kind: Literal["published"] = "published"
    folder: FolderPath
    val: PositiveInt = 2000
    """How many images are held out, of a data set that has no validation images of its own."""


class ConditionedFolder(Section):
    """Any imagefolder whose rows also name a conditioning image."""

    kind: Literal["imagefolder"] = "imagefolder"
    folder: FolderPath
    """With train/ and val/ (or validation/), or with images directly inside, of which `val` are
    held out."""
    conditioning: str = "conditioning_image"
    """Column of conditioning images; rows without one get Canny's edges."""
    text: str = "text"
    """Column of prompts; rows without one need a captioner."""
    val: PositiveInt = 100


class ControlData(Section):
    """The condition, and where images and prompts come from."""

    condition: Condition = "canny"
    source: Annotated[
        ToyboxImages | ReleasedFolder | PublishedFolder | ConditionedFolder,
        Field(discriminator="kind"),
    ] = ToyboxImages()
    captioner: Captioner | None = None
    """Writes the prompts, replacing the source's. None keeps the source's."""
    most_train: PositiveInt | None = None
    """At most this many training images, the first ones."""
    most_val: PositiveInt | None = None
    """At most this many images to generate and score; the paper has 2,000 and 5,000."""
    background: Colour = "white"
    """What transparent parts of images and conditioning images lie over."""
    depth_range: tuple[float, float] | None = None
    """Values of depth of more than 8 bits that become black and white. None: each depth map's own
    smallest and largest, as ControlNet's depth maps are made."""
    canny_low: NonNegativeInt = 100
    canny_high: NonNegativeInt = 200
    """Thresholds of Canny's hysteresis on pixels 0-255; the released code's."""


class BranchNetwork(Section):
    """OFT's released network: a small encoder of the condition, and an adapter in the denoiser."""

    kind: Literal["branch"] = "branch"
    adapter: AdapterConfig | None = OftConfig(blocks=4, targets="attention+geglu")
    """None trains the encoder alone."""


class ControlNetNetwork(Section):
    """ControlNet (arXiv:2302.05543) by diffusers: a trained copy of the UNet's encoder; the UNet
    itself is frozen."""

    kind: Literal["controlnet"] = "controlnet"


NetworkConfig = Annotated[BranchNetwork | ControlNetNetwork, Field(discriminator="kind")]


class ControlTraining(TrainingConfig):
    """Defaults are the released script's; 27,800 steps are the paper's 20 epochs of ADE20K."""

    steps: PositiveInt = 27_800
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-5
    max_grad_norm: PositiveFloat | None = None
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _no_flip(self) -> ControlTraining:
        if self.flip:
            raise ValueError("flip must be false: a mirrored image would not fit its condition")
        return self


class MagnitudeFitting(ControlTraining):
    """The second stage, which trains one scale for each neuron and nothing else. The paper trains
    one epoch, its code five."""

    steps: PositiveInt = 1390


class ControlGeneration(Section):
    """Defaults are the released test script's."""

    sampler: Literal["ddim", "base"] = "ddim"
    """Deterministic DDIM, or the base's own scheduler."""
    steps: PositiveInt = 50
    guidance: NonNegativeFloat = 9.0
    """The unconditional pass is given the condition, too."""
    batch_size: PositiveInt = 8


class ControlScoring(Section):
    """The networks that read conditions back from images, and FID."""

    segmenter: Annotated[str, Model(words=("toybox",))] = "toybox"
    """"toybox", or a folder or Hub id of any transformers model for semantic segmentation."""
    revision: str | None = None
    palette: FilePath | None = None
    """A JSON file that lists the maps' [red, green, blue] for each of the segmenter's classes. None
    takes that of toybox or ADE20K for their images; for others, the segmenter reads the source
    image."""
    reader: Annotated[str, FileOrFolder(words=("toybox",))] = "toybox"
    """Finds landmarks: "toybox"; of faces MediaPipe's wheel or .task file; or a file of another
    program's points (docs/control.md)."""
    features: Annotated[str, Model(words=("toybox", "inception"))] | None = "toybox"
    """Features that FID compares: "toybox" or any CLIP model's folder or Hub id for CLIP features,
    "inception" for the usual FID (needs torch-fidelity); None is off."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    resamples: Resamples = 10_000


Table = Literal["methods", "blocks", "magnitudes"]
TABLES: tuple[Table, ...] = get_args(Table)
Method = Literal["lora", "coft", "oft", "controlnet"]


class ControlTables(Section):
    """What `selma control compare` trains besides `network`, for the paper's tables 2 to 4."""

    conditions: tuple[Condition, ...] = ("canny", "segmentation", "landmarks")
    """Conditions of table 2; tables 3 and 4 are on `other_condition`."""
    other_condition: Condition = "segmentation"
    lora: LoraConfig = LoraConfig()
    coft: CoftConfig = CoftConfig(blocks=4, targets="attention+geglu", eps=1e-3)
    blocks: tuple[PositiveInt, ...] = (2, 4, 8, 16)
    learning_rates: dict[Method, PositiveFloat] = Field(default_factory=dict)
    """Method → learning rate, where it differs from that of `training`."""


class ControlSettings(Section):
    """Generating images from a condition."""

    data: ControlData = ControlData()
    network: NetworkConfig = BranchNetwork()
    training: ControlTraining = ControlTraining()
    magnitudes: MagnitudeFitting | None = None
    """The second stage; None is off."""
    generation: ControlGeneration = ControlGeneration()
    scores: ControlScoring = ControlScoring()
    tables: ControlTables = ControlTables()

    @model_validator(mode="after")
    def _rotations(self) -> ControlSettings:
        if self.magnitudes is not None and not has_rotations(self.network):
            raise ValueError("magnitudes are fitted to OFT and COFT alone; leave them out")
        return self


class ControlRun(RunConfig):
    """A run's settings with those of `selma control`."""

    control: ControlSettings = ControlSettings()


def has_rotations(network: BranchNetwork | ControlNetNetwork) -> bool:
    """Whether magnitudes can be fitted to the network."""
    return isinstance(network, BranchNetwork) and isinstance(
        network.adapter, OftConfig | CoftConfig
    )


def label_of(network: BranchNetwork | ControlNetNetwork) -> str:
    """A network's name in folders and tables, such as oft-r4."""
    if isinstance(network, ControlNetNetwork):
        return "controlnet"
    adapter = network.adapter
    if adapter is None:
        return "branch"
    if isinstance(adapter, LoraConfig):
        return f"lora-{adapter.rank}"
    shape = f"b{adapter.block_size}" if adapter.block_size else f"r{adapter.blocks or 4}"
    return f"{adapter.kind}-{shape}"
