"""`selma subjects`: subject-driven generation (DreamBooth, OFT)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selma.console import Commands, Config, Folder, Json, Keep
from selma.outputs import written
from selma.screen import say

if TYPE_CHECKING:
    from selma.applications.subjects.settings import SubjectsRun

subjects = typer.Typer(
    cls=Commands,
    help="Subjects from a handful of images: DreamBooth with LoRA, OFT, COFT or all weights.",
    no_args_is_help=True,
)


@subjects.command("train")
def train_subjects(config: Config, folder: Folder = None, keep: Keep = False) -> None:
    """Generate class images, then train each subject once by each method."""
    from selma.applications.subjects import pipeline

    for adapter in pipeline.train(_settings(config, folder)):
        say(f"{adapter.method} {adapter.subject}: {adapter.folder}")


@subjects.command("generate")
def generate_subjects(config: Config, folder: Folder = None, keep: Keep = False) -> None:
    """Generate every subject's prompts with the base and with each method's adapter."""
    from selma.applications.subjects import pipeline

    for (method, name, step), images in pipeline.generate(_settings(config, folder)).items():
        say(f"{method} {name} step {step}: {images}")


@subjects.command("score")
def score_subjects(
    config: Config, folder: Folder = None, keep: Keep = False, json: Json = None
) -> None:
    """Compare all methods in one table and on one page: DINO, CLIP-I, CLIP-T, LPIPS."""
    from selma.applications.subjects import pipeline
    from selma.applications.subjects.page import print_subject_card
    from selma.rich_screen import Screen
    from selma.workspace import write_json

    card, page = pipeline.score(_settings(config, folder))
    if json:
        write_json(json, card.model_dump(mode="json"))
    print_subject_card(card, Screen())
    say(f"Page: {page}")


@subjects.command("lpips")
def convert_lpips(
    backbone: Annotated[Path, typer.Argument(help="torchvision's weights of AlexNet or VGG-16.")],
    heads: Annotated[Path, typer.Argument(help="alex.pth or vgg.pth of the lpips package.")],
    out: Annotated[
        Path, typer.Argument(callback=written, help="New folder for subjects.scores.lpips.")
    ],
) -> None:
    """Convert LPIPS's weights into one safetensors file; no code in the sources is run."""
    from selma.backbones.perception import lpips

    say(lpips.convert_lpips(backbone, heads, out))


def _settings(config: Path, folder: Path | None) -> SubjectsRun:
    from selma.applications.loading import load_config
    from selma.applications.subjects.settings import SubjectsRun

    return load_config(config, SubjectsRun, folder=folder)


def register(app: typer.Typer) -> None:
    """Add `selma subjects`."""
    app.add_typer(subjects, name="subjects")
