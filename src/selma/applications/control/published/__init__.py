"""Data sets as their owners publish them; a new one is a file and a row."""

from __future__ import annotations

from pathlib import Path

from selma.applications.control.published.ade20k import ADE20K
from selma.applications.control.published.celeba import CELEBA
from selma.applications.control.published.coco import COCO
from selma.applications.control.published.deepfashion import DEEPFASHION
from selma.applications.control.published.layout import Published
from selma.errors import DataError
from selma.records.data_sets import DataSet

PREPARED = DataSet(
    "oft-control",
    "ADE20K, COCO, DeepFashion and CelebA as OFT's authors prepared them, with BLIP's prompts",
    source="https://github.com/Zeju1997/oft (its scripts folder fetches them)",
    licence="that of each data set below: non-commercial research",
    after="run its script of the data set; of CelebA's folder the name is free",
    layout="{train,val}/color, {train,val}/{segm,depth,densepose,sketch}, prompt_{train,val}_blip"
    ".json; of CelebA celeba-hq-img, celeba-hq-landmark2d, celeba-hq-landmark2d_cond_512",
    setting="control.data.source {kind: released, folder: F}",
)
PUBLISHED: tuple[Published, ...] = (ADE20K, COCO, DEEPFASHION, CELEBA)
DATA_SETS = (PREPARED, *(row.data_set for row in PUBLISHED))


def published_at(root: Path) -> Published:
    """The row of the data set in this folder. Raises DataError where it is none's, or several's."""
    rows = [row for row in PUBLISHED if row.recognises(root)]
    if len(rows) != 1:
        known = "; ".join(f"{row.data_set.name}: {', '.join(row.signs)}" for row in PUBLISHED)
        names = " and ".join(row.data_set.name for row in rows)
        raise DataError(
            f"{root} must be the folder of one published data set, but "
            f"{f'has the files of {names}' if rows else 'has the files of none'}. What tells them: "
            f"{known}."
        )
    return rows[0]
