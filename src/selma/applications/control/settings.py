"""Settings of `selma control`: images by a condition (OFT, arXiv:2306.07280, section 4)."""

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
from selma.config.experts import TrainingConfig
from selma.config.networks import Captioner
from selma.config.places import FileOrFolder, FilePath, FolderPath, Model
from selma.config.section import Section

Condition = Literal["canny", "segmentation", "landmarks", "depth", "densepose", "sketch"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)


class ToyboxImages(Section):
    """Scenes of toybox's world, with what their conditions say of them."""

    kind: Literal["toybox"] = "toybox"
    train: PositiveInt = 1000
    val: PositiveInt = 100


class ReleasedFolder(Section):
    """ADE20K, COCO, DeepFashion, LAION or CelebA, in the layout of the released code."""

    kind: Literal["released"] = "released"
    folder: FolderPath


class ConditionedFolder(Section):
    """Any imagefolder whose rows name the image of a condition, too."""

    kind: Literal["imagefolder"] = "imagefolder"
    folder: FolderPath
    """With train/ and val/ (or validation/), or with images alone, of which `val` are held
    out."""
    conditioning: str = "conditioning_image"
    """Column that names the condition's image; canny is made where no row has it."""
    text: str = "text"
    """Column of prompts; rows without one need a captioner."""
    val: PositiveInt = 100


class ControlData(Section):
    condition: Condition = "canny"
    source: Annotated[
        ToyboxImages | ReleasedFolder | ConditionedFolder, Field(discriminator="kind")
    ] = ToyboxImages()
    captioner: Captioner | None = None
    """Writes the prompts, in place of those that are given. None takes what is given."""
    most_train: PositiveInt | None = None
    """Take only the first of the training images."""
    most_val: PositiveInt | None = None
    """Likewise of those that are generated and scored; the paper has 2,000 and 5,000."""
    canny_low: NonNegativeInt = 100
    canny_high: NonNegativeInt = 200
    """Of Canny's hysteresis, on pixels 0-255; as released."""


class BranchNetwork(Section):
    """As OFT's released code: a small encoder of the condition, and an adapter in the denoiser."""

    kind: Literal["branch"] = "branch"
    adapter: AdapterConfig | None = OftConfig(blocks=4, targets="attention+geglu")
    """None trains the encoder alone."""


class ControlNetNetwork(Section):
    """ControlNet (arXiv:2302.05543) by diffusers: a copy of the UNet's encoder; the UNet itself
    stays."""

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
    """The second stage: one scale for each neuron, all else as it is. The paper has one epoch, its
    code five."""

    steps: PositiveInt = 1390


class ControlGeneration(Section):
    """As the released test script generates."""

    sampler: Literal["ddim", "base"] = "ddim"
    """DDIM without noise of its own, or the base's own scheduler."""
    steps: PositiveInt = 50
    guidance: NonNegativeFloat = 9.0
    """The unconditional pass sees the condition, too."""
    batch_size: PositiveInt = 8


class ControlScoring(Section):
    segmenter: Annotated[str, Model(words=("toybox",))] = "toybox"
    """"toybox", or a folder or Hub id of any model of transformers for semantic segmentation."""
    revision: str | None = None
    palette: FilePath | None = None
    """A JSON file with the list of [red, green, blue] of each of the segmenter's classes in the
    maps. None is toybox's own; of other data the segmenter's reading of the source image."""
    reader: Annotated[str, FileOrFolder(words=("toybox",))] = "toybox"
    """Finds landmarks: "toybox", or a file of points that another program found (docs/control.md).
    """
    features: Annotated[str, Model(words=("toybox", "inception"))] | None = "toybox"
    """What FID compares: "toybox" and any CLIP model's folder or Hub id are distances of CLIP
    features, "inception" is the usual FID (it needs torch-fidelity); None is off."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    resamples: PositiveInt = 10_000


Table = Literal["methods", "blocks", "magnitudes"]
TABLES: tuple[Table, ...] = get_args(Table)
Method = Literal["lora", "coft", "oft", "controlnet"]


class ControlTables(Section):
    """What `selma control compare` trains beside `network`, as in the paper's tables 2 to 4."""

    conditions: tuple[Condition, ...] = ("canny", "segmentation", "landmarks")
    """Of table 2; the other two are made on `other_condition`."""
    other_condition: Condition = "segmentation"
    lora: LoraConfig = LoraConfig()
    coft: CoftConfig = CoftConfig(blocks=4, targets="attention+geglu", eps=1e-3)
    blocks: tuple[PositiveInt, ...] = (2, 4, 8, 16)
    learning_rates: dict[Method, PositiveFloat] = Field(default_factory=dict)
    """Where a kind needs another than `training` has."""


class ControlSettings(Section):
    """Images generated by a condition."""

    data: ControlData = ControlData()
    network: NetworkConfig = BranchNetwork()
    training: ControlTraining = ControlTraining()
    magnitudes: MagnitudeFitting | None = None
    """The second stage; None is none."""
    generation: ControlGeneration = ControlGeneration()
    scores: ControlScoring = ControlScoring()
    tables: ControlTables = ControlTables()

    @model_validator(mode="after")
    def _rotations(self) -> ControlSettings:
        if self.magnitudes is not None and not turns(self.network):
            raise ValueError("magnitudes are fitted to OFT and COFT alone; leave them out")
        return self


class ControlRun(RunConfig):
    """A run's settings with those of `selma control`."""

    control: ControlSettings = ControlSettings()


def turns(network: BranchNetwork | ControlNetNetwork) -> bool:
    """Whether the network has rotations, to which magnitudes can be fitted."""
    return isinstance(network, BranchNetwork) and isinstance(
        network.adapter, OftConfig | CoftConfig
    )


def label_of(network: BranchNetwork | ControlNetNetwork) -> str:
    """What a network is called in folders and tables, as in oft-r4."""
    if isinstance(network, ControlNetNetwork):
        return "controlnet"
    adapter = network.adapter
    if adapter is None:
        return "branch"
    if isinstance(adapter, LoraConfig):
        return f"lora-{adapter.rank}"
    shape = f"b{adapter.block_size}" if adapter.block_size else f"r{adapter.blocks or 4}"
    return f"{adapter.kind}-{shape}"
