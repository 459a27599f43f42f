"""Commands on adapters and bases: merge, inspect, convert, generate, bases."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from selma.cli.loading import load
from selma.console import Base, Folder

AllLayers = Annotated[
    bool, typer.Option("--all-layers", help="Show each layer, not the five farthest from the mean.")
]


def merge(
    what: Annotated[
        list[Path], typer.Argument(metavar="CONFIG | FILES...", help="A .yaml, or adapters.")
    ],
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
    scale: Annotated[float | None, typer.Option("--scale", "--lambda")] = None,
    rank: Annotated[int | None, typer.Option(help="Cut to this rank.")] = None,
    max_error: Annotated[float | None, typer.Option(help="Or to this relative error.")] = None,
    density: Annotated[float | None, typer.Option(help="Share of entries kept.")] = None,
    normalize: Annotated[bool | None, typer.Option("--normalize/--no-normalize")] = None,
    consensus: Annotated[str | None, typer.Option(help="Of knots: ties or mean.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of dare.")] = None,
    rescale: Annotated[
        bool | None,
        typer.Option("--rescale/--no-rescale", help="Rotations: as far as experts on average."),
    ] = None,
    base: Base = None,
    all_layers: AllLayers = False,
    json: Annotated[Path | None, typer.Option(help="Write the judgement to this file.")] = None,
) -> None:
    """Stage 4: merge the experts into one adapter. Or merge adapter files of any origin."""
    named = {
        "method": method,
        "scale": scale,
        "rank": rank,
        "max_error": max_error,
        "density": density,
        "normalize": normalize,
        "consensus": consensus,
        "seed": seed,
        "rescale": rescale,
    }
    if len(what) == 1 and what[0].suffix in (".yaml", ".yml"):
        _merge_stage(what[0], folder, all_layers=all_layers)
    else:
        given = {name: value for name, value in named.items() if value is not None}
        _merge_files(
            what, out, given, weights=weights, to=to, base=base, json=json, all_layers=all_layers
        )


def _merge_stage(config: Path, folder: Path | None, *, all_layers: bool) -> None:
    from selma import pipeline
    from selma.merged.merging import read_diagnostics
    from selma.merged.searching import read_trials

    merged = pipeline.merge(load(config, folder))
    _show_diagnostics(read_diagnostics(merged), all_layers=all_layers)
    _show_trials([asdict(trial) for trial in read_trials(merged.folder)])
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
    from selma.config.merged import merged_config, numbers
    from selma.errors import ConfigError
    from selma.merged.merging import merge_files
    from selma.workspace import write_json

    if out is None:
        raise ConfigError("Merging files needs --out; a stage needs one CONFIG that ends in .yaml.")
    config = merged_config(given)
    each = None if weights is None else numbers(weights)
    written, diagnostics = merge_files(files, config, out, weights=each, to=to, base=base)
    if json:
        write_json(json, diagnostics)
    _show_diagnostics(diagnostics, all_layers=all_layers)
    typer.echo(f"Merged adapter: {', '.join(map(str, written))}")


def _show_diagnostics(diagnostics: dict[str, Any], *, all_layers: bool) -> None:
    from rich.console import Console

    from selma.report.models import print_diagnostics

    if diagnostics:
        print_diagnostics(diagnostics, Console(), all_layers=all_layers)


def _show_trials(found: list[dict[str, Any]]) -> None:
    from rich.console import Console

    from selma.report.models import print_trials

    if found:
        print_trials(found, Console())


def inspect(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="A file or a folder.")],
    all_layers: AllLayers = False,
    json: Annotated[Path | None, typer.Option(help="Write the judgement to this file.")] = None,
) -> None:
    """Show what an adapter's file is, and how its merge was judged if it is one."""
    from rich.console import Console

    from selma.adapters.applying import read_any
    from selma.merged.diagnostics import diagnostics_of
    from selma.report.models import print_adapter
    from selma.workspace import write_json

    file = read_any(adapter)
    print_adapter(file, Console())
    diagnostics = diagnostics_of(file) or {}
    if json:
        write_json(json, diagnostics)
    _show_diagnostics(diagnostics, all_layers=all_layers)


def convert(
    adapter: Annotated[Path, typer.Argument(metavar="IN", help="A file or a PEFT folder.")],
    to: Annotated[
        str,
        typer.Option(
            help="diffusers, kohya, peft; of rotations selma or peft; or fused (a pipeline folder)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where it goes.")],
    base: Base = None,
    coft_eps: Annotated[
        float | None,
        typer.Option(
            help="What a checkpoint of the released control code was trained with --coft."
        ),
    ] = None,
) -> None:
    """Write an adapter in another format, bit for bit; or fuse it into its base."""
    from selma.adapters import formats, fusing

    if to == "fused":
        typer.echo(fusing.fuse(adapter, out, base=base))
    else:
        for path in formats.convert(adapter, out, to=to, base=base, coft_eps=coft_eps):
            typer.echo(path)


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    adapter: Annotated[
        list[Path] | None,
        typer.Option(help="File or folder of an adapter; several are applied in their order."),
    ] = None,
    strength: Annotated[
        list[float] | None, typer.Option(help="One for each adapter; 1 if left out.")
    ] = None,
    sur: Annotated[
        Path | None, typer.Option(help="File or folder of a SUR-adapter, for plain prompts.")
    ] = None,
    sur_strength: Annotated[
        float, typer.Option(min=0, help="Of --sur; 0 is the base model.")
    ] = 1.0,
    sur_negative: Annotated[
        str, typer.Option(help="What --sur does to the empty prompt: alone, adapted, released.")
    ] = "alone",
    base: Annotated[str, typer.Option(help='"toybox", a diffusers folder or a Hub id.')] = "toybox",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 50,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, help="Classifier-free guidance; the base's own if not given."),
    ] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many pictures.")] = 1,
    out: Annotated[Path, typer.Option(help="PNG; numbered where there are several.")] = Path(
        "picture.png"
    ),
) -> None:
    """Draw one prompt, with or without adapters."""
    from selma.config.adapters import sur_generation
    from selma.config.networks import BaseConfig
    from selma.images import on_demand

    images = on_demand.generate(
        prompt,
        base=BaseConfig(model=base),
        adapter=adapter,
        strengths=strength or (),
        sur=sur,
        reading=sur_generation(strength=sur_strength, negative=sur_negative),
        seed=seed,
        steps=steps,
        guidance=guidance,
        count=count,
    )
    for path in on_demand.save_images(images, out, count=count):
        typer.echo(path)


def bases(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A folder, a Hub id or a short name.")
    ] = None,
) -> None:
    """List the base models by short name, or show what a model's own configs say that it is."""
    from rich.console import Console

    from selma.backbones.bases import BASES
    from selma.report.models import print_architecture, print_bases

    if model is None:
        return print_bases(BASES.values(), Console())
    from selma.backbones.base_files import own_architecture
    from selma.config.networks import BaseConfig

    return print_architecture(own_architecture(BaseConfig(model=model)), BASES, Console())
