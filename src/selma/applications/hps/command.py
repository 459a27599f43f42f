"""`selma score hps`: HPS's benchmark, for a run's model or a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selma.console import Json, group


def hps(
    prompts: Annotated[Path, typer.Option(help="Folder with anime.json and the like.")],
    model: Annotated[str, typer.Option(help="HPS's weights: a folder or a Hub id.")],
    images: Annotated[
        Path | None,
        typer.Argument(help="Folder with anime, concept-art, paintings and photo; may be left out "
                       "with --run, which then generates them."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="A run's folder: the result is kept there for its report, and an "
                     "interrupted command continues."),
    ] = None,
    generated_by: Annotated[
        str, typer.Option(help="With --run: whose images; base, merged or a skill.")
    ] = "merged",
    version: Annotated[str, typer.Option(help="2.0 or 2.1; they are not comparable.")] = "2.1",
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id, where the weights have none.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    antialias: Annotated[
        bool, typer.Option(help="Shrink images as torchvision has done since 0.17.")
    ] = True,
    json: Json = None,
) -> None:  # fmt: skip
    """Score HPS's benchmark: images in four styles, one mean over all."""
    from selma.applications.hps.table import print_hps
    from selma.backbones.preference.scorers import load_preference, settings_of
    from selma.errors import ConfigError
    from selma.rich_screen import Screen
    from selma.scores.hps import read_hps_prompts, score_hps, version_kind
    from selma.workspace import write_json

    settings = settings_of(
        kind=version_kind(version),
        model=model,
        tokenizer=tokenizer,
        device=device,
        antialias=antialias,
    )
    if run is not None:
        from selma.applications.hps.styles import score_styles
        from selma.applications.loading import read_run_file

        result = score_styles(
            read_run_file(run), settings, prompts=prompts, model=generated_by, images=images
        )
    elif images is not None:
        result = score_hps(images, read_hps_prompts(prompts), load_preference(settings))
    else:
        raise ConfigError("Name a folder of images, or a run that generates them with --run.")
    if json:
        write_json(json, result)
    print_hps(result, Screen())


def register(app: typer.Typer) -> None:
    group(app, "score").command()(hps)
