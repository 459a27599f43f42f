"""A run's pairs as tar files in the layout of WebDataset, which `webdataset` and `datasets` read.

    OUT/<skill>-000000.tar    <key>.png   an image, as the run has it
                              <key>.txt   its prompt
                              <key>.json  its row: text, skill, prompt_id, seed, tokens_cut

Equal runs give equal bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count, islice
from pathlib import Path, PurePosixPath
from typing import Any

from selma.disk import folder_written, read_regular, written
from selma.errors import ConfigError, DataError, WorkspaceError
from selma.image_places import image_place
from selma.imagefolders import METADATA
from selma.manifests import read_manifest, verified
from selma.paths import AnyPath, as_path
from selma.record_files import each_row
from selma.records.rows import MetadataRow
from selma.workspace import IMAGES

PER_SHARD = 1000
"""Images in a shard; of 1 MB each that is a gigabyte, as WebDataset's authors advise."""


def export_shards(
    run: AnyPath, out: AnyPath, *, skills: Sequence[str] = (), per_shard: int = PER_SHARD
) -> list[Path]:
    """Write the pairs of these skills, or of all, as shards of a new folder; their paths in order.

    One image is in memory at a time, and the folder appears when it is whole. Raises WorkspaceError
    for images that are not finished, DataError for damaged ones, and ConfigError for a skill that
    the run has not or an `out` that is there.
    """
    run, out = as_path(run), as_path(out)
    folders = _folders(run / IMAGES, skills)
    if out.resolve().is_relative_to(run.resolve()):
        raise ConfigError(f"{out} must lie outside the run, {run}, whose folders are its own.")
    if out.exists():
        raise ConfigError(f"{out} must be a new folder, but is there. Name another, or move it.")
    names = []
    with folder_written(out) as aside:
        for skill, folder in folders.items():
            rows = each_row(folder / "train" / METADATA, MetadataRow)
            for number in count():
                if not (part := list(islice(rows, per_shard))):
                    break
                names.append(f"{skill}-{number:06d}.tar")
                _write(aside / names[-1], part, folder / "train")
    return [out / name for name in names]


def _folders(images: Path, skills: Sequence[str]) -> dict[str, Path]:
    """Skill → the finished item of its pairs."""
    by_skill = {
        path.name: path
        for path in sorted(images.iterdir() if images.is_dir() else ())
        if path.is_dir() and not path.name.startswith(("_", "."))
    }
    unknown = [skill for skill in skills if skill not in by_skill]
    if unknown or not by_skill:
        raise ConfigError(
            f"{images} must have a folder of each skill's images, but has "
            f"{', '.join(by_skill) or 'none'}"
            + (f" and not {', '.join(unknown)}." if unknown else ". Run `selma images` first.")
        )
    folders = {skill: by_skill[skill] for skill in skills or by_skill}
    for skill, folder in folders.items():
        if read_manifest(folder) is None:
            raise WorkspaceError(
                f"The images of {skill!r} must be finished, but {folder} is not. Run "
                "`selma images` first."
            )
    return folders


def _write(path: Path, rows: Sequence[Mapping[str, Any]], train: Path) -> None:
    with (
        written(path) as file,
        closing(tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)) as tar,
    ):
        for name, data in _members(rows, train):
            member = tarfile.TarInfo(name)  # no time, no owner: equal pairs give equal bytes
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _members(rows: Sequence[Mapping[str, Any]], train: Path) -> Iterator[tuple[str, bytes]]:
    for row in rows:
        name = PurePosixPath(row["file_name"])
        # What stands before the first dot is the key, by which members belong together.
        if "." in name.stem:
            raise DataError(f"{train / name} must have one dot in its name. Rename it.")
        image = image_place(train, row["file_name"])
        about = {key: value for key, value in row.items() if key != "file_name"}
        yield name.name, read_regular(verified(image))
        yield f"{name.stem}.txt", row["text"].encode()
        yield f"{name.stem}.json", json.dumps(about, sort_keys=True, ensure_ascii=False).encode()
