"""Adapters for a base on a server: written where it can read them, in the format that it takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selma.adapters.contents import keyed
from selma.adapters.converting import convert
from selma.adapters.peft_settings import PEFT_FILE
from selma.adapters.table import kind_of
from selma.backbones.image_servers.dialect import Dialect, SentAdapter
from selma.backbones.served_base import OURS, ServedTextToImage
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.disk import make_folder
from selma.errors import AdapterError, ConfigError
from selma.records.adapters import AppliedAdapter


@contextmanager
def sent(model: ServedTextToImage, adapters: Sequence[AppliedAdapter]) -> Iterator[None]:
    """While the block runs, the server draws with the adapter, if there is one. Raises ConfigError
    or AdapterError where it cannot be sent."""
    if not adapters:
        yield
        return
    (adapter,) = _only(model, adapters)
    folder = _written(adapter.path, _folder(model), model.dialect)
    path = folder if model.dialect.adapter_format == "peft" else folder / ADAPTER_FILE
    with model.adapted(SentAdapter(folder.name, str(path), adapter.strength)):
        yield


def _only(model: ServedTextToImage, adapters: Sequence[AppliedAdapter]) -> Sequence[AppliedAdapter]:
    if model.dialect.adapters is None:
        raise ConfigError(
            f"{model.base.setting}.dialect: {model.dialect.name} takes no adapter while it runs. "
            "Start the server with it and leave the adapter out, or put it into the model's own "
            "weights (selma convert --to fused) and serve those."
        )
    if len(adapters) > 1:
        raise AdapterError(
            f"{model.where} can be sent one adapter, but {len(adapters)} came. Merge them first "
            "(selma merge)."
        )
    return adapters


def _folder(model: ServedTextToImage) -> Path:
    if model.base.adapter_folder is None:
        raise ConfigError(
            f"{model.base.setting}.adapter_folder must name a folder that the server sees by the "
            "same path, since it reads adapters itself; set it."
        )
    return Path(model.base.adapter_folder).absolute()


def _written(source: Path, folder: Path, dialect: Dialect) -> Path:
    """The adapter's own folder, whose name tells its weights: servers keep by path what they have
    read."""
    kind = kind_of(source)
    if kind.merge_space != "deltas":
        raise AdapterError(
            f"A server takes LoRAs alone, but {source} is of the kind {kind.name}. Put it into the "
            "model's own weights (selma convert --to fused) and serve those."
        )
    target = folder / f"{OURS}{keyed(source).key}-{dialect.adapter_format}"
    if target.is_dir():
        return target
    aside = folder / f".{target.name}.{os.getpid()}"
    try:
        if dialect.adapter_format == "peft":
            convert(source, aside, to="peft")
            if not (aside / PEFT_FILE).is_file():
                raise AdapterError(
                    f"{source} changes text encoders beside the denoiser, of which a server takes "
                    "the denoiser alone."
                )
        else:
            make_folder(aside)
            convert(source, aside / ADAPTER_FILE, to="diffusers")
        if not target.is_dir():
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target
