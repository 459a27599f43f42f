"""DreamBooth's 30 subjects, arXiv:2208.12242; `subjects.images` reads them."""

from __future__ import annotations

from selma.records.data_sets import DataSet

DATA_SETS = (
    DataSet(
        "dreambooth",
        "30 subjects of 15 classes, 4 to 6 photographs each, with 25 prompts (OFT, DreamBooth)",
        source="https://github.com/google/dreambooth",
        licence="each photograph's own: dataset/references_and_licenses.txt",
        after="clone the repository",
        layout="dataset/SUBJECT/NAME.jpg, dataset/prompts_and_classes.txt",
        setting="subjects.data.folder: dreambooth/dataset",
    ),
)
