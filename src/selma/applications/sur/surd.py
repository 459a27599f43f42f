"""SURD, the data set of arXiv:2305.05189; `sur.samples` reads it."""

from __future__ import annotations

from selma.records.data_sets import DataSet

DATA_SETS = (
    DataSet(
        "surd",
        "26,121 images with a plain and a keyword prompt each (SUR-adapter)",
        source="https://huggingface.co/datasets/zhongshsh/SURD",
        licence="those of Lexica, Civitai and Stable Diffusion Online: ask them before any "
        "commercial use. Its authors give it out on request, or not at all",
        after="unpack SURD.zip; or collect such samples yourself by `selma sur collect`",
        layout="metadata.jsonl with file_name, text (plain) and prompt (keywords), and the images",
        setting="sur.data.source {kind: imagefolder, folder: F}",
    ),
)
