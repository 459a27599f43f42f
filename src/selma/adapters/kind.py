"""The columns of the table of kinds of adapters.

A kind is one file that ends with its row. Another package adds one by an entry point of the group
"selma.adapters"; nothing else has to be told of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selma.config.adapters import AdapterSettings, MergeSpace
from selma.config.section import Section
from selma.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selma.adapters.files import Lineage


class Adapter(Protocol):
    """An adapter on disk, as the `read` of its kind returns it: what all of them have."""

    @property
    def kind(self) -> str:
        """Name of its row."""
        ...

    @property
    def path(self) -> Path: ...

    @property
    def format(self) -> str:
        """Whose layout the file has: "diffusers", "kohya", "peft", "selma", ..."""
        ...

    @property
    def layers(self) -> Collection[str]:
        """Layers that it changes, by our names (`names`); none where it changes no weight."""
        ...

    @property
    def lineage(self) -> Lineage: ...

    @property
    def merge_space(self) -> MergeSpace | None:
        """Where adapters of this kind can be averaged; None where they cannot be merged."""
        ...


WeightChange = Callable[["Tensor"], "Tensor"]
"""A layer's weight → the weight with the adapter; float32 or wider in and out."""


def _untrained(denoiser: Any, settings: Any, **_: Any) -> dict[str, Any]:
    raise ConfigError(
        "Adapters of this kind are not trained in the denoiser; choose another experts.adapter."
    )


def _nothing(*_: Any) -> None:
    """For kinds that need nothing done here."""


def _always_on(denoiser: Any) -> AbstractContextManager[None]:
    raise ConfigError(
        "This objective needs the base's own predictions, but adapters of this kind cannot be "
        "switched off while they are trained; choose lora, oft or coft as experts.adapter."
    )


def _read_tensors(path: Path, prefix: str) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    return {name.removeprefix(prefix): tensor for name, tensor in load_file(path).items()}


def autocast_kind(x: Tensor) -> str:
    """Its device's kind, as autocast knows it; shapes alone (meta) count as a CPU's."""
    return "cpu" if x.device.type == "meta" else x.device.type


def spread(values: Iterable[float]) -> str:
    """One number, or the smallest and the largest."""
    ordered = sorted(set(values))
    return f"{ordered[0]:g}" + (f" to {ordered[-1]:g}" if len(ordered) > 1 else "")


@dataclass(frozen=True)
class AdapterKind:
    """A row. `denoiser` is the base's module, whatever its class."""

    name: str
    settings: type[AdapterSettings]
    """Of its training, with the row's name as `kind`; also says in which space it is merged."""
    file: str
    """Name of the adapter's file in its folder. A file of this name is of this kind."""

    read: Callable[..., Any]
    """(path of a file or folder, base=...) → `Adapter`, its header checked. base: the layers of the
    model that it is for (`layers.Layers`), None if that is not at hand. One that is merged is a
    `reading.AdapterFile` (deltas) or a `rotations.files.RotationFile`. Raises AdapterError."""
    recognizes: Callable[[Path], bool] | None = None
    """Whether a file or folder of another name is of this kind."""

    attach: Callable[..., dict[str, nn.Parameter]] = _untrained
    """(denoiser, settings, generator=..., targets=...) → the trainable tensors by name, sorted; all
    else is frozen. At first they change nothing.  targets: a choice of layers → endings of their
    names, of the base's family."""
    detach: Callable[[Any], None] = _nothing
    """(denoiser): it is what it was before `attach`."""
    switched_off: Callable[[Any], AbstractContextManager[None]] = _always_on
    """(denoiser): while the block runs, it predicts what it did before `attach`, bit for bit."""
    after_step: Callable[[nn.Module, Mapping[str, nn.Parameter], Any], None] = _nothing
    """(denoiser, tensors, settings): what is done to the tensors after each step."""
    save: Callable[..., None] = _nothing
    """(path, tensors, settings, lineage=..., component=...): the adapter's file, whose layers are
    below the pipeline's component."""
    trained: Callable[[Path, str], Mapping[str, Tensor]] = _read_tensors
    """(path, the denoiser's prefix, as "unet.") → what `save` wrote, by the names of `attach`."""
    energies: Callable[[nn.Module, Path], dict[str, Any]] | None = None
    """(denoiser, path) → its hyperspherical energies without and with the adapter, where that says
    something."""

    weight_changes: Callable[..., Mapping[str, WeightChange]] | None = None
    """(adapter, strength=...) → layer, by our names, and what the adapter makes of its weight.
    Adapters that have it can be applied one after the other, and fused into their base."""
    require_fit: Callable[..., None] = _nothing
    """(adapter, base, who): AdapterError unless the base (`layers.Layers`) has its layers, in their
    shapes. Asked wherever an adapter meets a base."""
    apply: Callable[..., AbstractContextManager[None]] | None = None
    """(model, adapter, strength=..., options=...): while the block runs, the model works with the
    adapter; then it is what it was, bit for bit. None: by `weight_changes`."""
    options: type[Section] | None = None
    """Settings of `apply`, if there are any."""
    alone: bool = False
    """Whether no other adapter can change weights beside it."""

    convert: Callable[..., list[Path]] | None = None
    """(source, place, to=..., base=..., and options by name) → the files written: the adapter in
    another format."""
    convert_options: frozenset[str] = frozenset()
    """What `convert` can also be told of a file that does not say it itself."""
    describe: Callable[[Any], list[str]] = lambda adapter: []
    """(adapter) → lines about it, for `selma inspect`."""
    in_diffusers: Callable[[Any, float], list[str] | None] = lambda adapter, strength: None
    """(adapter, strength) → lines of Python by which plain diffusers applies it to `pipe`; None
    where it cannot."""

    def __post_init__(self) -> None:
        if not issubclass(self.settings, AdapterSettings):
            raise ConfigError(
                f"Settings of a kind of adapter must inherit from AdapterSettings, but those of "
                f"{self.name!r}, {self.settings.__name__}, do not."
            )

    @property
    def merge_space(self) -> MergeSpace | None:
        """Where adapters of this kind can be averaged; None where they cannot be merged."""
        return self.settings.merge_space

    @property
    def unmergeable(self) -> str:
        """Why adapters of this kind cannot be merged."""
        return self.settings.unmergeable
