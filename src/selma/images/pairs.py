"""Images with their texts on disk, in the layout that `datasets` calls an imagefolder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from selma.errors import DataError
from selma.finished_rows import finished_rows, pairs_key, plain_rows
from selma.imagefolders import METADATA, there
from selma.record_files import each_row
from selma.records.images import Pair, Survivors
from selma.records.prompts import Prompt
from selma.records.rows import MetadataRow
from selma.row_files import write_rows
from selma.texts import quoted
from selma.workspace import IMAGES, Item, Workspace, insider, manifest

ROWS_FILE = f"train/{METADATA}"
"""Below the item's folder."""


def write_metadata(path: Path, pairs: Sequence[Pair]) -> None:
    """One row for each pair, whole or nothing. No column is named `image`: that one is the
    loader's own."""
    pair_rows = (
        {
            "file_name": pair.image.relative_to(path.parent).as_posix(),
            "text": pair.prompt.text,
            "skill": pair.prompt.skill,
            "prompt_id": pair.prompt.id,
            "seed": pair.seed,
            "tokens_cut": pair.tokens_cut,
        }
        for pair in pairs
    )
    write_rows(path, pair_rows)


def finished_pairs(item: Item, prompts: Sequence[Prompt]) -> Sequence[Pair]:
    """The pairs of a finished skill, see `read_generated`; of very many, when they are used."""
    return finished_rows(item, ROWS_FILE, pair_facts, partial(read_generated, item.path, prompts))


def pair_facts(folder: Path, files: Mapping[str, Any]) -> dict[str, Any]:
    """How many pairs a folder has, what stands for them in a training's recipe, and how many
    prompts are `over_token_limit`. files: the manifest's."""
    rows, over = [], set()
    for row in plain_rows(folder / ROWS_FILE):
        rows.append([row["text"], files[f"train/{row['file_name']}"]["sha256"]])
        if row["tokens_cut"] > 0:
            over.add(row["prompt_id"])
    return {"count": len(rows), "digest": pairs_key(rows), "over_token_limit": len(over)}


def read_generated(folder: Path, prompts: Sequence[Prompt]) -> list[Pair]:
    """The pairs of a finished skill, with the prompts that they were generated from.

    Images are not decoded here (they are when they are trained on). Raises DataError where rows,
    files and prompts do not agree.
    """
    of = {prompt.id: prompt for prompt in prompts}
    train = folder / "train"
    pairs, path_of = [], insider(train)
    known, top = manifest(folder).get("files", {}), train.resolve()
    # What a finished item's manifest lists has been looked at. There may be a million.
    for row in each_row(train / METADATA, MetadataRow):
        name, prompt = row["file_name"], of.get(row["prompt_id"])
        listed = f"train/{name}" in known and ".." not in name
        image = Path(f"{top}/{name}") if listed else path_of(name)
        if prompt is None or prompt.text != row["text"]:
            raise DataError(
                f"{train / METADATA} must name this run's prompts, but has {quoted(row['text'])}. "
                f"Remove {folder} to have it generated again."
            )
        if not listed:
            there(image)
        pairs.append(
            Pair(prompt=prompt, image=image, seed=row["seed"], tokens_cut=row["tokens_cut"])
        )
    if not pairs:
        raise DataError(f"{train / METADATA} must have one row for each image, but is empty.")
    return pairs


def read_survivors(folder: Workspace, skills: Iterable[str]) -> dict[str, Survivors]:
    """Skill → what choosing by thresholds left of its prompts; none where there are none."""
    summaries = {s: manifest(folder.folder_of(IMAGES, s)).get("summary", {}) for s in skills}
    return {
        skill: Survivors.model_validate(summary["survivors"])
        for skill, summary in summaries.items()
        if "survivors" in summary
    }
