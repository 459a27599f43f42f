"""The commands `selma merge`, whose options are those of all merge methods, and `resize`."""

from __future__ import annotations

from dataclasses import asdict
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from selma.cli.loading import load
from selma.console import AllLayers, Base, Folder, Keep, show_diagnostics, show_verified
from selma.outputs import word, written
from selma.screen import say


class MergeCommand(TyperCommand):
    """A command with an option for each setting that any merge method has, beside its own.

    The table is asked when this command's line is read, so that rows of other packages count, and
    that the list of all commands loads no settings. What is given lies in the context's `obj`.
    """

    def get_params(self, context: Any) -> list[Any]:
        return [*super().get_params(context), *_options()]

    def invoke(self, context: Any) -> Any:
        given = {option.name: context.params.pop(option.name) for option in _options()}
        context.obj = {name: value for name, value in given.items() if value is not None}
        return super().invoke(context)


def _options() -> list[Any]:
    """One for each setting of any method; what it must be is checked with all others."""
    from selma.merged.methods import METHODS

    rows: dict[str, list[Any]] = {}
    for row in METHODS.values():
        for name in row.settings.model_fields:
            rows.setdefault(name, []).append(row)

    def settings(**given: Any) -> None:
        """Never called: typer makes options of its signature."""

    parameters = [_parameter(name, having) for name, having in rows.items()]
    settings.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    settings.__annotations__ = {}
    app = typer.Typer(add_completion=False)
    app.command()(settings)
    return list(get_command(app).params)


def _parameter(name: str, rows: list[Any]) -> Parameter:
    field = rows[0].settings.model_fields[name]
    about = " ".join((field.description or "a setting.").split())
    words, flag = name.replace("_", "-"), field.annotation is bool
    option = typer.Option(
        f"--{words}/--no-{words}" if flag else f"--{words}",
        help=f"FILES: {about} ({', '.join(row.name for row in rows)})",
        metavar=None if flag else "VALUE",
    )
    kind: Any = bool | None if flag else str | None
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def merge(
    context: typer.Context,
    what: Annotated[
        list[Path], typer.Argument(metavar="CONFIG | FILES...", help="A .yaml, or adapters.")
    ],
    folder: Folder = None,
    keep: Keep = False,
    out: Annotated[
        Path | None, typer.Option(callback=written, help="FILES: where the result goes.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(callback=word, help="FILES: as in convert; selma or peft for rotations."),
    ] = None,
    method: Annotated[
        str, typer.Option(callback=word, help="FILES: see docs/paper.md.")
    ] = "mean_of_deltas",
    weights: Annotated[
        str | None, typer.Option(help="FILES: one number for each, as in 0.5,0.3,0.2.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", "--lambda", help="FILES: of the whole result.")
    ] = None,
    base: Base = None,
    all_layers: AllLayers = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="FILES: hold each layer against float64; refuse one without effect."
        ),
    ] = False,
    json: Annotated[
        Path | None, typer.Option(callback=written, help="Write the diagnostics to this file.")
    ] = None,
) -> None:
    """Stage 4: merge the experts into one adapter. Or merge adapter files of any origin."""
    if len(what) == 1 and what[0].suffix in (".yaml", ".yml"):
        _merge_stage(what[0], folder, all_layers=all_layers)
        return
    given = {**context.obj, "method": method} | ({} if scale is None else {"scale": scale})
    _merge_files(
        what,
        out,
        given,
        weights=weights,
        to=to,
        base=base,
        verify=verify,
        json=json,
        all_layers=all_layers,
    )


def resize(
    adapter: Annotated[Path, typer.Argument(metavar="IN", help="A LoRA's file or PEFT folder.")],
    out: Annotated[Path, typer.Option(callback=written, help="Where it goes.")],
    rank: Annotated[int | None, typer.Option(help="No layer has more.")] = None,
    error: Annotated[
        float | None, typer.Option(help="Each layer stays within this relative error.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(callback=word, help="As in convert; the file's own layout if left out."),
    ] = None,
    base: Base = None,
    all_layers: AllLayers = False,
    json: Annotated[
        Path | None, typer.Option(callback=written, help="Write ranks and errors to this file.")
    ] = None,
) -> None:
    """Cut a LoRA's ranks, by each layer's singular values, and say what that costs."""
    from selma.merged import resizing
    from selma.report.models import print_resized
    from selma.rich_screen import Screen
    from selma.workspace import write_json

    written, resized = resizing.resize(adapter, out, rank=rank, max_error=error, to=to, base=base)
    if json:
        write_json(json, resized)
    print_resized(resized, Screen(), all_layers=all_layers)
    for path in written:
        say(path)


def _merge_stage(config: Path, folder: Path | None, *, all_layers: bool) -> None:
    from selma import pipeline
    from selma.merged.merging import read_diagnostics
    from selma.merged.searching import read_trials
    from selma.report.models import print_trials
    from selma.rich_screen import Screen

    merged = pipeline.merge(load(config, folder))
    show_diagnostics(read_diagnostics(merged), all_layers=all_layers)
    if trials := read_trials(merged.folder):
        print_trials([asdict(trial) for trial in trials], Screen())
    say(f"Merged adapter: {merged.folder}")


def _merge_files(
    files: list[Path],
    out: Path | None,
    given: dict[str, Any],
    *,
    weights: str | None,
    to: str | None,
    base: str | None,
    verify: bool,
    json: Path | None,
    all_layers: bool,
) -> None:
    from selma.config.merged import numbers
    from selma.errors import ConfigError
    from selma.merged.merging import merge_files
    from selma.merged.planning import merged_config
    from selma.workspace import write_json

    if out is None:
        raise ConfigError("Merging files needs --out; a stage needs one CONFIG that ends in .yaml.")
    config = merged_config(given)
    each = None if weights is None else numbers(weights)
    written, diagnostics = merge_files(
        files, config, out, weights=each, to=to, base=base, verify=verify
    )
    if json:
        write_json(json, diagnostics)
    show_diagnostics(diagnostics, all_layers=all_layers)
    if verify:
        show_verified(diagnostics["verified"])
    say(f"Merged adapter: {', '.join(map(str, written))}")
