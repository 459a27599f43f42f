"""Commands on adapters and bases: inspect, convert, generate, bases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selma.console import AllLayers, Base, show_diagnostics
from selma.outputs import word, written
from selma.randomness import SEEDS
from selma.screen import say

if TYPE_CHECKING:
    from selma.config.networks import AnyBase

BaseConfigOption = Annotated[
    str | None,
    typer.Option(
        "--base-config",
        help="With a single file: the folder, short name or Hub id whose configs it has.",
    ),
]


def inspect(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="A file or a folder.")],
    all_layers: AllLayers = False,
    json: Annotated[
        Path | None, typer.Option(callback=written, help="Write the diagnostics to this file.")
    ] = None,
    base: Base = None,
    program: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="List the keys that it would not load: diffusers, comfyui, kohya or a1111.",
        ),
    ] = None,
) -> None:
    """Show what an adapter's file is, and the diagnostics of its merge if it is one."""
    from selma.adapters.models import read_model
    from selma.adapters.table import kind_of
    from selma.merged.diagnostics import diagnostics_of
    from selma.report.models import print_adapter
    from selma.rich_screen import Screen
    from selma.workspace import write_json

    kind = kind_of(adapter)
    layers = None if base is None else read_model(base).layers
    if program is not None:
        from selma.adapters.programs import not_loaded

        missed = not_loaded(adapter, program, base=layers)
        for name in missed:
            say(name)
        about = f"{len(missed)} keys that {program} would not load" if missed else "all keys load"
        say(f"{adapter}, for {program}: {about}", err=True)
        return
    file = kind.read(adapter, base=layers)
    if layers is not None:
        kind.require_fit(file, layers, adapter)
    print_adapter(file, kind.describe(file), Screen())
    diagnostics = diagnostics_of(file) or {}
    if json:
        write_json(json, diagnostics)
    show_diagnostics(diagnostics, all_layers=all_layers)


def convert(
    adapter: Annotated[Path, typer.Argument(metavar="IN", help="A file or a PEFT folder.")],
    to: Annotated[
        str,
        typer.Option(
            callback=word,
            help="diffusers, kohya, peft, comfyui, onetrainer, simpletuner; of rotations selma or "
            "peft; or fused (a pipeline folder).",
        ),
    ],
    out: Annotated[Path, typer.Option(callback=written, help="Where it goes.")],
    base: Base = None,
    precision: Annotated[
        str | None,
        typer.Option(
            callback=word,
            help="Of the fused weights: fp32, fp16 or bf16; the base's own if left out.",
        ),
    ] = None,
    coft_eps: Annotated[
        float | None,
        typer.Option(
            help="What a checkpoint of the released control code was trained with --coft."
        ),
    ] = None,
) -> None:
    """Write an adapter in another format, bit for bit; or fuse it into its base."""
    from selma.adapters import converting
    from selma.adapters.formats import PROGRAMS

    written = converting.convert(
        adapter, out, to=to, base=base, precision=precision, coft_eps=coft_eps
    )
    for path in written:
        say(path)
    if to in PROGRAMS:
        say(PROGRAMS[to], err=True)


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the image shows.")],
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
    guide: Annotated[
        str | None,
        typer.Option(help="A method without training: syngen or structure_diffusion."),
    ] = None,
    guide_setting: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A setting of --guide; may come several times."),
    ] = None,
    base: Annotated[
        str,
        typer.Option(
            help="A short name (selma bases), a diffusers folder, a Hub id or a .safetensors file."
        ),
    ] = "toybox",
    base_config: BaseConfigOption = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A server that generates, by --base as it calls the model."
        ),
    ] = None,
    server_setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A setting of --server: dialect and image_px are needed (docs/serving.md).",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=SEEDS - 1, help="Seed of the first image; the next ones follow."),
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps; the base's own if not given.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, help="Classifier-free guidance; the base's own if not given."),
    ] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 1,
    out: Annotated[
        Path, typer.Option(callback=written, help="PNG; numbered where there are several.")
    ] = Path("image.png"),
) -> None:
    """Generate images of one prompt, with or without adapters.

    Below the image's file stands how plain diffusers generates the same image, or why it cannot. In
    short: a seed is torch.Generator("cpu").manual_seed(SEED), and with a LoRA
    pipe.load_lora_weights(FOLDER) and pipe.fuse_lora() come before pipe(PROMPT, generator=...,
    num_inference_steps=STEPS, guidance_scale=GUIDANCE).
    """
    from selma.adapters.applying import chosen
    from selma.adapters.sur.files import FILE as SUR_FILE
    from selma.adapters.table import kind_of
    from selma.config.adapters import sur_generation
    from selma.config.guides import guide_of
    from selma.config.networks import ServedBase
    from selma.errors import AdapterError
    from selma.images import on_demand
    from selma.images.plain_diffusers import in_diffusers, without_loader

    on_demand.image_paths(out, count=count)  # a mistake there is found before an image is made
    options = {"sur": sur_generation(strength=sur_strength, negative=sur_negative)}
    adapters = chosen(adapter or [], strength or (), options)
    adapters += chosen([sur] if sur else [], options=options)
    if sur and (kind := kind_of(sur)).name != "sur":
        try:
            kind.read(sur)
        except AdapterError as error:  # what its reader looked for is not what is meant
            if not sur.is_dir():
                raise
            raise AdapterError(
                f"--sur must be {SUR_FILE} or the folder that has it (3-experts/_sur of a run), "
                f"but {sur} is neither."
            ) from error
        raise AdapterError(
            f"--sur must be a SUR-adapter, but {sur} is {kind.name}: give it as --adapter."
        )
    guiding = guide_of(guide, guide_setting or [])
    model = _base(base, base_config, server, server_setting or [])
    images = on_demand.generate(
        prompt,
        base=model,
        adapter=adapters,
        seed=seed,
        steps=steps,
        guidance=guidance,
        count=count,
        guide=guiding,
    )
    for path in on_demand.save_images(images, out, count=count):
        say(path)
    if isinstance(model, ServedBase):
        return
    reasons = [f"it has no {guide}."] if guiding else without_loader(adapters, model)
    if reasons:
        say("\nPlain diffusers cannot generate the same image:\n")
        for reason in reasons:
            say(f"    {reason}")
        return
    say(f"\nThe same in plain diffusers{' (the first image)' if count > 1 else ''}:\n")
    code = in_diffusers(
        prompt, base=model, adapters=adapters, seed=seed, steps=steps, guidance=guidance
    )
    say("\n".join(f"    {line}" for line in code.splitlines()))


def _base(base: str, config: str | None, url: str | None, given: Sequence[str]) -> AnyBase:
    from selma.config.networks import base_of, served_of
    from selma.errors import ConfigError

    if url is None:
        if given:
            raise ConfigError("--server-setting belongs to --server, which is missing.")
        return base_of(base, config=config)
    if config is not None:
        raise ConfigError("--base-config belongs to a single file of weights; leave it out.")
    return served_of(base, url, given)


def bases(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A folder, a Hub id, a short name or a .safetensors file."
        ),
    ] = None,
    base_config: BaseConfigOption = None,
) -> None:
    """List the base models by short name, or show what a model's own configs say that it is."""
    from selma.backbones.bases import BASES
    from selma.report.models import print_architecture, print_bases
    from selma.rich_screen import Screen

    if model is None:
        return print_bases(BASES.values(), Screen())
    from selma.backbones.base_files import own_architecture
    from selma.config.networks import base_of

    base = base_of(model, config=base_config)
    return print_architecture(own_architecture(base), BASES, Screen())
