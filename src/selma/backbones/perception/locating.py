"""Who finds landmarks in images: toybox's reader, MediaPipe's of faces, or another program."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from pydantic import ValidationError

from selma.backbones.hub import folder_digest
from selma.backbones.perception.faces import ARCHIVES, FaceLocator, has_networks
from selma.errors import DataError
from selma.plurals import counted
from selma.records.landmarks import Landmark
from selma.textfiles import json_rows
from selma.toybox import weights_of
from selma.workspace import file_sha256

Points = tuple[Landmark, ...]


class Locator(Protocol):
    """What scoring by landmarks needs."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def locate(
        self, images: Sequence[Image.Image], names: Sequence[tuple[str, str]]
    ) -> list[Points | None]:
        """What lies in each image, or None where nothing was found. `names` are (model, sample
        id) of each."""
        ...


class ToyboxLocator:
    """Toybox's own reader, each image alone."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or weights_of("reader")

    @property
    def name(self) -> str:
        return "toybox-reader"

    @property
    def fingerprint(self) -> str:
        return folder_digest(self._folder)[:16]

    @cached_property
    def _network(self) -> Any:
        from selma.toybox.landmarks import load_reader

        return load_reader(self._folder)

    def locate(
        self, images: Sequence[Image.Image], names: Sequence[tuple[str, str]]
    ) -> list[Points | None]:
        import torch

        from selma.backbones.judges.toybox import pixels
        from selma.toybox.landmarks import found_landmarks

        points_by_image: list[Points | None] = []
        with torch.inference_mode():
            for image in images:
                (points,) = found_landmarks(*self._network(pixels([image])))
                points_by_image.append(points or None)
        return points_by_image


class GivenPoints:
    """Points that another program found, one JSON line an image: {"model", "id", "points"}.

    points is a list of {name, x, y}, 0..1 of the image's sides, or null where it found nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def fingerprint(self) -> str:
        return file_sha256(self._path)[:16]

    @cached_property
    def _given(self) -> dict[tuple[str, str], Points | None]:
        points_by_name: dict[tuple[str, str], Points | None] = {}
        for number, row in enumerate(json_rows(self._path), 1):
            try:
                points = row["points"]
                points_by_name[row["model"], row["id"]] = (
                    None if points is None else tuple(Landmark.model_validate(p) for p in points)
                )
            except (KeyError, TypeError, ValidationError) as error:
                raise DataError(
                    f"{self._path}, line {number} must have model, id and points: {error!r}."
                ) from error
        return points_by_name

    def locate(
        self, images: Sequence[Image.Image], names: Sequence[tuple[str, str]]
    ) -> list[Points | None]:
        # An image that is not in the file was never looked at, which is no failure to find.
        if missing := [name for name in names if name not in self._given]:
            raise DataError(
                f"{self._path} must have a line for every image, but "
                f"{counted(len(missing), 'has', 'have')} none, {missing[0]} first."
            )
        return [self._given[name] for name in names]


def load_locator(reader: str, *, setting: str) -> Locator:
    """The one named "toybox", one in a folder, MediaPipe's networks in a wheel, a .task file or a
    folder, or a file of points. Raises ModelError or DataError where it is not there."""
    if reader == "toybox":
        return ToyboxLocator()
    path = Path(reader)
    if path.is_dir():
        return FaceLocator(path) if has_networks(path) else ToyboxLocator(path)
    if not path.is_file():
        raise DataError(
            f'{setting} must be "toybox", MediaPipe\'s wheel or .task file, or a file of points, '
            f"but {path} is not there."
        )
    if path.suffix.lower() in ARCHIVES:
        return FaceLocator(path)
    return GivenPoints(path)
