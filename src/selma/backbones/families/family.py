"""The columns in which families of base models differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from selma.config.timesteps import UNIFORM, TimestepsConfig
from selma.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from selma.backbones.families.conditioning import Conditioning, PromptFeatures
    from selma.backbones.families.paths import NoisePath

Config = Mapping[str, Any]
"""A network's or scheduler's config.json."""


class Crop(NamedTuple):
    """How a training image became a square: its size after scaling, where it was cut, its side."""

    height: int
    width: int
    top: int
    left: int
    image_px: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of base models. Its functions import model libraries; reading the row does not."""

    # Identity and files.
    name: str
    """As the Hub tags models of this family."""
    pipeline: str
    """"module:class" of the pipeline; the class is what model_index.json names."""
    component: str
    """The pipeline's part that denoises. Files of adapters put it before the names of layers."""
    classes: Mapping[str, str]
    """"module:class" of each network by its part of the pipeline: the denoiser, the autoencoder
    ("vae") and the text encoders in their order."""
    tokenizers: tuple[str, ...]
    loading: dict[str, Any]
    """What the loader is told: parts that are left out (None) and what is switched off (False),
    since it would change training images."""
    single_file: Mapping[str, tuple[str, ...]]
    """What a whole checkpoint in one file has → how the names of its tensors begin."""

    released: Mapping[str, Mapping[str, Config]] = field(default_factory=dict)
    """A released model's name → its parts' configs, of the denoiser and the text encoders alone.
    Where no base is named, an adapter must change layers of one of these models."""

    # What a model's configs say.
    latent_shape: Callable[[Config], tuple[int, int, int]]
    """The denoiser's config → [c, h, w] of one image's latents, before any packing, where nobody
    asks for another size."""
    image_factor: Callable[[Config], int]
    """The autoencoder's config → pixels of an image for each of its latents, along a side."""
    text_width: Callable[[Config], int]
    """The denoiser's config → width of the text features that it reads."""
    prediction: Callable[[Config], str]
    """The scheduler's config → what the denoiser predicts, as `paths` names it."""

    # Prompts and generation.
    encode_text: Callable[..., PromptFeatures]
    """(pipe, texts, device=..., guided=..., and what `text_limit` gives) → features; without
    `guided` none of the empty prompt."""
    feature_widths: Callable[[Any], tuple[tuple[int, ...], int | None]]
    """The pipeline → widths of the text features that lie side by side, one for each encoder, and
    of the pooled vector, None without one."""
    inputs: Callable[[Sequence[str] | PromptFeatures, Tensor], dict[str, Any]]
    """(texts or their features, noise [b, c, h, w]) → the pipeline's arguments; this packs. They
    come before those of `sampling`."""
    sampling: Callable[..., dict[str, Any]]
    """(steps=..., guidance=..., guidance_rescale=...) → the pipeline's arguments. Raises
    ConfigError for what the pipeline cannot do."""
    guided: Callable[[float], bool] = lambda guidance: guidance > 1
    """Whether this guidance needs the empty prompt as well."""
    wide_noise: bool = False
    """Whether the pipeline draws noise in float32 whatever the precision, and takes no other."""
    pack_line: str = "{0}"
    """Python by which the pipeline packs noise: of {0}, the noise, and {1}, {2}, {3}, its
    [c, h, w]."""
    from_pipeline: Callable[[Any, Tensor, tuple[int, int, int]], Tensor] = lambda vae, x, shape: x
    """(autoencoder, what the pipeline returns as latents, [c, h, w]) → latents as the denoiser
    knows them, [b, c, h, w]."""
    longest_text: tuple[str, int] | None = None
    """The tokenizer whose limit the pipeline does not ask for, and how many tokens it reads of a
    text unless told otherwise; None where it goes by its tokenizers."""

    # Training.
    noise_path: Callable[[Config], NoisePath]
    """The scheduler's config → how noise is mixed in, and what the denoiser is to predict."""
    moments: Callable[[Any, Tensor], tuple[Tensor, Tensor]]
    """(autoencoder, pixels [b, 3, h, w] in [-1, 1]) → mean and log-variance of latents,
    [b, c, h, w]."""
    normalised: Callable[[Tensor, Any], Tensor]
    """(latents as `moments` gives them, the autoencoder) → latents as the denoiser knows them."""
    decoded: Callable[[Any, Tensor], Tensor] = lambda vae, x: vae.decode(x, return_dict=False)[0]
    """(autoencoder, latents as `moments` gives them) → pixels [b, 3, h, w]."""
    denoise: Callable[[Any, Tensor, Tensor, Conditioning], Tensor]
    """(denoiser, noisy latents [b, c, h, w], timesteps [b], conditioning) → its prediction, of the
    latents' shape and the path's sign: here are time map, packing and a sign turned round."""
    timesteps: TimestepsConfig = UNIFORM
    """How likely a training draws each timestep unless told otherwise."""
    map_sides: Callable[[Config], tuple[int, ...]] | None = None
    """The denoiser's config → sides of the maps of its attention to the text, the finest first;
    None where image and text attend to each other in one."""
    plain_attention: Callable[[], Any] | None = None
    """An attention processor whose backward pass is fast on a CPU in bfloat16; None takes PyTorch's
    own plain attention there."""
    with_crops: Callable[[Conditioning, Sequence[Crop]], Conditioning] = lambda known, crops: known
    """Adds what the denoiser is told of how training images were cropped."""

    # Adapters.
    targets: Mapping[str, tuple[str, ...]]
    """A choice of layers ("attention", "attention+geglu") → endings of their names. Adapters go to
    "attention" unless told otherwise."""
    target_widths: Callable[[Config], set[int]]
    """The denoiser's config → input widths of the layers of "attention"."""

    # Memory and CPU.
    conditioning_shapes: Callable[..., Conditioning]
    """(the denoiser's config, the first text encoder's config, images, dtype) → tensors of the
    shapes that the denoiser takes, on the default device."""
    shared_pass: int = 32 * 32
    """Latents up to this area gain from sharing a forward pass on a CPU; larger ones do not. 0
    where texts are only as long as the longest of a pass: there a pass has one image."""

    @property
    def pipeline_class(self) -> str:
        """The pipeline's class as model_index.json names it."""
        return self.pipeline.partition(":")[2]

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The parts of the pipeline that encode text, in their order."""
        return tuple(part for part in self.classes if part not in (self.component, "vae"))

    @property
    def prefix(self) -> str:
        """What files of adapters put before the name of a layer."""
        return f"{self.component}."

    def shape(self, denoiser: Config, vae: Config, image_px: int | None) -> tuple[int, int, int]:
        """[c, h, w] of the latents of a square image of this side; None is the base's own."""
        c, h, w = self.latent_shape(denoiser)
        if image_px is None:
            return c, h, w
        factor = self.image_factor(vae)
        if image_px % (2 * factor):
            raise ConfigError(
                f"base.image_px must be a multiple of {2 * factor} for {self.name}, but is "
                f"{image_px}."
            )
        return c, image_px // factor, image_px // factor

    def text_limit(self, limits: Callable[[str], int | None]) -> dict[str, int]:
        """The pipeline's argument that keeps to a tokenizer's own limit; {} where it does so.
        limits: a part of the pipeline → its tokenizer's limit, None without one."""
        if self.longest_text is None:
            return {}
        part, most = self.longest_text
        own = limits(part)
        return {} if own is None or own >= most else {"max_sequence_length": own}

    def load_pipeline_class(self) -> Any:
        """The pipeline's class itself."""
        return _loaded(self.pipeline)

    def network_class(self, part: str) -> Any:
        """The class of this part of the pipeline."""
        return _loaded(self.classes[part])

    def network(self, part: str, config: Config) -> Any:
        """A network of random weights by its config, on the default device."""
        kind = self.network_class(part)
        if hasattr(kind, "from_config"):  # diffusers
            return kind.from_config(config)
        return kind(kind.config_class.from_dict(config))


def _loaded(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
