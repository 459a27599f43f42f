"""How a reader of the model card generates with the merged adapter: lines that run as they stand.

Nothing in them is a path of this machine. What a reader has elsewhere (the base's folder, the
adapter's repository) is a name in capitals.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from selma.adapters.table import adapter_file, kind_of
from selma.backbones.bases import BASES, located, place_of
from selma.backbones.hub import HUB_ID
from selma.config import RunConfig
from selma.config.networks import BaseConfig
from selma.errors import ModelError
from selma.images.plain_diffusers import Origin, in_diffusers, layers_of
from selma.records.merged import Merged
from selma.toybox import BASES as EMBEDDED

FOLDER, FILE = "FOLDER_OF_THE_BASE", "FILE_OF_THE_BASE.safetensors"
CONFIGS, VAE = "FOLDER_OF_ITS_CONFIGS", "FOLDER_OF_THE_VAE"
FUSED = "fused"


@dataclass(frozen=True)
class Usage:
    """Lines for one image."""

    python: str
    """By plain diffusers; `image` is the image."""
    commands: tuple[str, ...] = ()
    """What makes the folder that the lines of Python load; none where they load the adapter."""
    generate: str = ""
    """The same image by selma."""
    kohya: str = ""
    """What converts a LoRA for programs that know other names of layers."""


def usage(config: RunConfig, merged: Merged, *, example: str, seed: int, repository: str) -> Usage:
    """Lines that generate the example's image as the run does.

    A LoRA that diffusers reads is loaded from the repository; anything else is fused first.
    """
    base, file = config.local_base, adapter_file(merged.folder)
    steps, guidance = config.benchmark_steps, config.benchmark_guidance
    lines = partial(in_diffusers, example, base=base, seed=seed, steps=steps, guidance=guidance)
    options = ["--seed", str(seed), "--steps", str(steps), "--guidance", f"{guidance:g}"]
    words = [" ".join(example.split()), *_base_words(base), "--adapter", file.name, *options]
    generate = shlex.join(["selma", "generate", *words])
    loading = _loading(file, base, repository)
    if loading is not None:
        # The layers of a base that nobody knows do not tell which names kohya has for them.
        base_words = [] if base.model in BASES else ["--base", FOLDER]
        words = [file.name, "--to", "kohya", *base_words, "--out", "kohya.safetensors"]
        kohya = shlex.join(["selma", "convert", *words])
        python = lines(origin=_origin(base), applying=loading)
        return Usage(python, generate=generate, kohya=kohya)
    folder = base.model if base.model in EMBEDDED else FOLDER
    fuse = ["selma", "convert", file.name, "--to", "fused", "--base", folder, "--out", FUSED]
    if base.precision == "fp32":
        fuse += ["--precision", "fp32"]  # a base may be stored in less
    fused = Origin(repr(FUSED), vae=_origin(base).vae)
    return Usage(lines(origin=fused, applying=[]), (shlex.join(fuse),), generate)


def _loading(file: Path, base: BaseConfig, repository: str) -> list[str] | None:
    """Lines by which diffusers loads the adapter from the repository; None if it cannot."""
    kind = kind_of(file)
    try:
        layers = layers_of(base)
    except ModelError:  # the base is not at hand, which the card can do without
        layers = None
    lines = kind.in_diffusers(kind.read(file, base=layers), 1.0)
    return lines and [line.replace(repr(str(file.parent)), repr(repository)) for line in lines]


def _origin(base: BaseConfig) -> Origin:
    parts = [base.model, base.config]
    return Origin(
        model=_expression(base.model, FOLDER if base.config is None else FILE),
        config=None if base.config is None else _expression(base.config, CONFIGS),
        vae=None if base.vae is None else _expression(base.vae, VAE),
        revision=located(base).revision,
        imports=("from selma.toybox import base_folder",) if {*parts} & {*EMBEDDED} else (),
    )


def _expression(model: str, elsewhere: str) -> str:
    """Python for a place that everybody has, or the name that stands for one."""
    if model in EMBEDDED:
        return f'base_folder("{model}")'
    return repr(on_hub(model) or elsewhere)


def on_hub(model: str) -> str | None:
    """The repository on the Hub that a setting names; None for toybox, a folder or a file."""
    repository = place_of(model)
    return repository if HUB_ID.fullmatch(repository) and not Path(model).exists() else None


def _base_words(base: BaseConfig) -> list[str]:
    """The base as options of `selma generate`."""
    if base.model in EMBEDDED:
        return ["--base", base.model]
    if base.config is None:
        return ["--base", on_hub(base.model) or FOLDER]
    embedded = base.config if base.config in EMBEDDED else None
    configs = embedded or on_hub(base.config) or CONFIGS
    return ["--base", FILE, "--base-config", configs]
