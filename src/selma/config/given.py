"""Settings of prompts and images that are given, instead of being made by a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selma.config.places import FileOrFolderPath, FolderPath
from selma.config.section import Section

GIVEN_GROUP = "selma.given"
"""Entry points of this group are such sources of other packages."""


class PromptFile(Section):
    """Prompts in a file."""

    kind: Literal["file"] = "file"
    path: FileOrFolderPath
    """A file (.txt: one prompt in each line; .jsonl or .json: objects; .csv), or a folder with one
    such file for each skill, named as the skill is."""
    text: str = "text"
    """The column that holds the prompt; of no meaning for lines of text."""
    skill: str = "skill"
    """The column that names a row's skill. Without it, the file belongs to the run's only skill."""


class Imagefolder(Section):
    """Pairs of image and caption: an imagefolder of `datasets` (metadata.jsonl or metadata.csv), or
    the layout of kohya's scripts, a file with the caption beside each image."""

    kind: Literal["imagefolder"] = "imagefolder"
    folder: FolderPath
    """One with a folder for each skill, of its name (kohya's "10_name", too; the number is not
    looked at), or with a column that tells skills apart. A run's only skill needs neither."""
    text: str = "text"
    """The metadata's column that holds the caption."""
    skill: str = "skill"
    """The metadata's column that names a row's skill, where there is one."""
    captions: Annotated[str, Field(pattern=r"^\.[A-Za-z0-9]+$")] | None = None
    """End of the names of caption files, where there is no metadata; None takes .txt, and .caption
    where an image has no .txt."""


class ToyboxPairs(Section):
    """Toybox's own captions in the style of each skill (skills are named toybox_coco, ...) and
    crisp renders of what captions say, with chance in what they leave open. No caption is one of
    toybox's benchmark."""

    kind: Literal["toybox"] = "toybox"
