"""The command `selma merge`, whose options are those of all merge methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from selma.cli.loading import load
from selma.console import AllLayers, Base, Folder, show_diagnostics
from selma.merged.methods import METHODS


class WithMethodSettings:
    """A command that takes, beside its own options, each setting that any merge method has.

    The rows are asked whenever the command line is read, so that those of other packages count.
    """

    def __init__(self, command: Callable[..., None]) -> None:
        self.command = command
        self.__name__ = command.__name__
        self.__doc__ = command.__doc__
        self.__annotations__: dict[str, Any] = {}  # typer takes those of the signature

    @property
    def __signature__(self) -> Signature:
        own = self._own()
        return Signature(
            [*own, *(option for option in _options() if option.name not in _names(own))]
        )

    def __call__(self, **given: Any) -> None:
        own = {name: given.pop(name) for name in _names(self._own())}
        self.command(**own, settings={k: v for k, v in given.items() if v is not None})

    def _own(self) -> list[Parameter]:
        hints = get_type_hints(self.command, include_extras=True)
        return [
            parameter.replace(annotation=hints[parameter.name], kind=Parameter.KEYWORD_ONLY)
            for parameter in signature(self.command).parameters.values()
            if parameter.name != "settings"
        ]


def _names(parameters: list[Parameter]) -> set[str]:
    return {parameter.name for parameter in parameters}


def _options() -> list[Parameter]:
    """One for each setting of any method; what it must be is checked with all others."""
    having: dict[str, list[str]] = {}
    for row in METHODS.values():
        for name in row.settings.model_fields:
            having.setdefault(name, []).append(row.name)
    return [_option(name, methods) for name, methods in having.items()]


def _option(name: str, methods: list[str]) -> Parameter:
    field = METHODS[methods[0]].settings.model_fields[name]
    about = " ".join((field.description or "").split())
    words, flag = name.replace("_", "-"), field.annotation is bool
    option = typer.Option(
        f"--{words}/--no-{words}" if flag else f"--{words}",
        help=f"FILES: {about or 'a setting.'} ({', '.join(methods)})",
        metavar=None if flag else "VALUE",
    )
    kind: Any = bool | None if flag else str | None
    annotation = Annotated[kind, option]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


@WithMethodSettings
def merge(
    what: Annotated[
        list[Path], typer.Argument(metavar="CONFIG | FILES...", help="A .yaml, or adapters.")
    ],
    settings: dict[str, Any],
    folder: Folder = None,
    out: Annotated[Path | None, typer.Option(help="FILES: where the result goes.")] = None,
    to: Annotated[
        str | None,
        typer.Option(help="FILES: diffusers, kohya or peft; selma or peft for rotations."),
    ] = None,
    method: Annotated[str, typer.Option(help="FILES: see docs/paper.md.")] = "mean_of_deltas",
    weights: Annotated[
        str | None, typer.Option(help="FILES: one number for each, as in 0.5,0.3,0.2.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", "--lambda", help="FILES: of the whole result.")
    ] = None,
    base: Base = None,
    all_layers: AllLayers = False,
    json: Annotated[Path | None, typer.Option(help="Write the diagnostics to this file.")] = None,
) -> None:
    """Stage 4: merge the experts into one adapter. Or merge adapter files of any origin."""
    if len(what) == 1 and what[0].suffix in (".yaml", ".yml"):
        _merge_stage(what[0], folder, all_layers=all_layers)
        return
    given = {**settings, "method": method} | ({} if scale is None else {"scale": scale})
    _merge_files(
        what, out, given, weights=weights, to=to, base=base, json=json, all_layers=all_layers
    )


def _merge_stage(config: Path, folder: Path | None, *, all_layers: bool) -> None:
    from rich.console import Console

    from selma import pipeline
    from selma.merged.merging import read_diagnostics
    from selma.merged.searching import read_trials
    from selma.report.models import print_trials

    merged = pipeline.merge(load(config, folder))
    show_diagnostics(read_diagnostics(merged), all_layers=all_layers)
    if trials := read_trials(merged.folder):
        print_trials([asdict(trial) for trial in trials], Console())
    typer.echo(f"Merged adapter: {merged.folder}")


def _merge_files(
    files: list[Path],
    out: Path | None,
    given: dict[str, Any],
    *,
    weights: str | None,
    to: str | None,
    base: str | None,
    json: Path | None,
    all_layers: bool,
) -> None:
    from selma.config.merged import numbers
    from selma.errors import ConfigError
    from selma.merged.merging import merge_files
    from selma.merged.methods import merged_config
    from selma.workspace import write_json

    if out is None:
        raise ConfigError("Merging files needs --out; a stage needs one CONFIG that ends in .yaml.")
    config = merged_config(given)
    each = None if weights is None else numbers(weights)
    written, diagnostics = merge_files(files, config, out, weights=each, to=to, base=base)
    if json:
        write_json(json, diagnostics)
    show_diagnostics(diagnostics, all_layers=all_layers)
    typer.echo(f"Merged adapter: {', '.join(map(str, written))}")
