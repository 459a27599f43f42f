"""What a published data set's file says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from selma.applications.control.candidates import Candidate, Split
from selma.applications.control.conditions import Colour
from selma.applications.control.settings import Condition, ControlData
from selma.errors import ConfigError, DataError
from selma.image_names import list_images
from selma.records.data_sets import DataSet


@dataclass(frozen=True)
class Published:
    """One row: how a folder is recognised and read."""

    data_set: DataSet
    signs: tuple[str, ...]
    """What is in its folder, and in no other row's."""
    conditions: tuple[Condition, ...]
    candidates: Callable[[Path, ControlData, Split, int], Iterator[Candidate]]
    """The images of one split; the number is the seed of what is held out."""
    palette: tuple[Colour, ...] | None = None
    """Colours of the classes of the usual segmenter in its maps, where there is one."""

    def recognises(self, root: Path) -> bool:
        return all((root / sign).exists() for sign in self.signs)

    def read(self, root: Path, data: ControlData, split: Split, seed: int) -> Iterator[Candidate]:
        """The images of one split. Raises ConfigError for a condition that it does not have, and
        DataError for a file that is missing."""
        if data.condition not in self.conditions:
            raise ConfigError(
                f"{self.data_set.name} has {', '.join(self.conditions)}, but "
                f"control.data.condition is {data.condition!r}."
            )
        yield from self.candidates(root, data, split, seed)


def images_in(folder: Path) -> list[Path]:
    """The folder's images by name. Raises DataError for a folder that is missing."""
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder of images, but is none.")
    return list(list_images(folder).images)


def required(path: Path) -> Path:
    """The file. Raises DataError where it is missing."""
    if not path.is_file():
        raise DataError(f"{path} must be there beside its image, but is missing.")
    return path
