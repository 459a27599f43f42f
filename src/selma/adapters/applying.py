"""Adapters of any kind on a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.adapters.kind import Adapter, AdapterKind, WeightChange
from selma.adapters.layers import Layers, network_shapes
from selma.adapters.layouts import layout_of
from selma.adapters.reading import AdapterFile, announce_left_out
from selma.adapters.replacing import replaced
from selma.adapters.sending import sent
from selma.adapters.table import kind_of
from selma.backbones.drawing import AnyTextToImage
from selma.backbones.served_base import ServedTextToImage
from selma.backbones.text_to_image import TextToImage
from selma.errors import AdapterError, ConfigError
from selma.paths import AnyPath, as_paths
from selma.plurals import counted
from selma.records.adapters import AppliedAdapter
from selma.texts import quoted


@contextmanager
def applied(model: AnyTextToImage, adapters: Sequence[AppliedAdapter]) -> Iterator[None]:
    """While the block runs, the model works with the adapters, in their order; then it is what it
    was, bit for bit.

    Those that change weights layer by layer (LoRA, OFT) are applied as one, those of text encoders
    included; a base on a server is sent its adapter. Raises AdapterError if one does not fit, or if
    one that must be alone is not.
    """
    if isinstance(model, ServedTextToImage):
        with sent(model, adapters):
            yield
        return
    base = layers_of_pipeline(model)
    each = [_read(base, adapter) for adapter in adapters]
    layerwise = [read for read in each if read.kind.weight_changes is not None]
    _require_alone(each)
    with ExitStack() as stack:
        if len(layerwise) > 1:
            stack.enter_context(replaced(model, [(read.path, read.changes) for read in layerwise]))
        for read in each:
            if read not in layerwise or len(layerwise) == 1:
                stack.enter_context(read.alone(model))
        yield


def chosen(
    paths: AnyPath | Sequence[AnyPath],
    strengths: Sequence[float] = (),
    options: Mapping[str, Any] | None = None,
) -> list[AppliedAdapter]:
    """Files or folders of adapters with a strength each, 1 if none is given.

    options: kind → how adapters of that kind are applied. Raises ConfigError unless each has its
    strength.
    """
    paths = as_paths(paths)
    if not isinstance(strengths, Sequence) or isinstance(strengths, str):
        raise ConfigError(f"Strengths must be a list of numbers, but {quoted(strengths)} came.")
    if strengths and len(strengths) != len(paths):
        raise ConfigError(
            f"Each adapter needs one strength, but {counted(len(paths), 'adapter')} and "
            f"{counted(len(strengths), 'strength')} came."
        )
    return [
        AppliedAdapter(
            path=path, strength=strength, options=(options or {}).get(kind_of(path).name)
        )
        for path, strength in zip(paths, strengths or [1.0] * len(paths), strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Read:
    """An adapter that is to be applied, its header read."""

    kind: AdapterKind
    adapter: Adapter
    wanted: AppliedAdapter

    @property
    def path(self) -> Path:
        return self.wanted.path

    @property
    def changes(self) -> Mapping[str, WeightChange]:
        assert self.kind.weight_changes is not None
        return self.kind.weight_changes(self.adapter, strength=self.wanted.strength)

    def alone(self, model: TextToImage) -> AbstractContextManager[None]:
        if self.kind.apply is None:
            return replaced(model, [(self.path, self.changes)])
        return self.kind.apply(
            model, self.adapter, strength=self.wanted.strength, options=self.wanted.options
        )


def _read(base: Layers, wanted: AppliedAdapter) -> _Read:
    kind = kind_of(wanted.path)
    adapter = kind.read(wanted.path, base=base)
    kind.require_fit(adapter, base, wanted.path)
    if isinstance(adapter, AdapterFile):
        announce_left_out(adapter)
    options = wanted.options
    if options is not None and (kind.options is None or not isinstance(options, kind.options)):
        raise ConfigError(
            f"{wanted.path} is of the kind {kind.name}, which takes no {type(options).__name__}."
        )
    return _Read(kind, adapter, wanted)


def _require_alone(each: Sequence[_Read]) -> None:
    changing = [read for read in each if read.kind.alone or read.adapter.layers]
    for read in changing:
        if read.kind.alone and len(changing) > 1:
            raise AdapterError(
                f"{read.path} cannot be applied with others: {read.kind.unmergeable}."
            )


def layers_of_pipeline(model: TextToImage) -> Layers:
    """The layers that adapters can change: the denoiser's and the text encoders'."""
    networks = {
        part: getattr(model.pipe, part, None)
        for part in (model.family.component, *model.family.text_encoders)
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for part, network in networks.items():
        shapes |= network_shapes(part, network) if network is not None else {}
    layout = layout_of(model.family.classes[model.family.component])
    return Layers("this model", shapes, layout=layout)
