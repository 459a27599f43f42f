"""datasets reads a run's images and captions as an imagefolder, as others would train on them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from images.test_generating import CONFIG, prompts
from PIL import Image

from selma.images.generating import generate_pairs
from selma.workspace import Workspace


def test_a_skills_folder_is_an_imagefolder(tmp_path, measured):
    datasets = pytest.importorskip("datasets", reason="needs the optional package datasets")
    generate_pairs({"cats": prompts()}, CONFIG, Workspace(tmp_path), base=tiny.base("sd1"), seed=0,
                   model=lambda: tiny.load("sd1"))  # fmt: skip
    folder = tmp_path / "2-images" / "cats"
    datasets.disable_progress_bars()
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(rows["text"]) == sorted(prompt.text for prompt in prompts())
    assert set(rows.column_names) == {
        "image", "text", "skill", "prompt_id", "seed", "tokens_cut",
    }  # fmt: skip
    theirs = {row["prompt_id"]: np.asarray(row["image"]).astype(int) for row in rows}
    for prompt in prompts():
        with Image.open(next((folder / "train").glob(f"*{prompt.id}*.png"))) as image:
            apart = np.abs(np.asarray(image) - theirs[prompt.id]).max()
        measured("datasets", datasets.__version__, "a skill's folder as imagefolder: levels",
                 apart, 0)  # fmt: skip
