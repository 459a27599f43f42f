"""What a machine lacks is said before prompts are written that nothing could be made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from pipeline.killing import home, settings
from selma import pipeline
from selma.config import RunConfig
from selma.errors import ConfigError, ModelError, WorkspaceError
from selma.preflight import check

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")


def test_half_precision_on_a_cpu_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    base = {"model": str(tiny.folder("sd1")), "device": "cpu"}
    raw = {"name": "half", "folder": str(tmp_path), "base": base}
    config = RunConfig.model_validate(raw)
    with pytest.raises(ConfigError, match=r"experts\.precision: fp16 needs a CUDA device"):
        check(config)
    check(config, ["1-prompts", "2-images"])


@without_gpu
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("device", "precision", "error", "told"),
    [
        ("auto", "fp16", ConfigError, "fp16 needs a CUDA device, but the model is on cpu"),
        ("cuda", "fp32", ModelError, "base.device is cuda, but PyTorch finds none"),
    ],
)
def test_a_run_that_cannot_train_writes_no_prompts(
    tmp_path: Path, device: str, precision: str, error: type[Exception], told: str, workers: int
) -> None:
    with home(tmp_path) as address:
        raw: dict[str, Any] = settings(tmp_path, address, run="run")
        raw["base"]["device"] = device
        raw["experts"]["precision"] = precision
        raw["engine"] = {"kind": "local", "workers": workers}
        config = RunConfig.model_validate(raw)
        with pytest.raises(error, match=told):
            pipeline.run(config)
        assert not (tmp_path / "run" / "1-prompts").exists()
        pipeline.prompts(config)  # elsewhere may have what is lacking here
        assert (tmp_path / "run" / "1-prompts" / "coco" / "manifest.json").exists()


@without_gpu
def test_a_finished_run_is_shown_on_any_machine(tmp_path: Path) -> None:
    with home(tmp_path) as address:
        raw: dict[str, Any] = settings(tmp_path, address, run="run")
        pipeline.run(RunConfig.model_validate(raw))
        raw["base"]["device"] = "cuda"  # of the machine that made it
        assert pipeline.run(RunConfig.model_validate(raw)).is_file()
        raw["prompts"]["skills"].append("countbench")
        with pytest.raises(ModelError, match=r"base\.device is cuda"):
            pipeline.run(RunConfig.model_validate(raw))
        assert not (tmp_path / "run" / "1-prompts" / "countbench").exists()


def test_a_run_is_known_before_workers_write_for_it(tmp_path: Path) -> None:
    """Its settings are there; those of another run stay where replies that may have cost money
    would be lost."""
    with home(tmp_path) as address:
        raw: dict[str, Any] = settings(tmp_path, address, run="run")
        raw["engine"] = {"kind": "local", "workers": 2}
        config = RunConfig.model_validate(raw)
        with pipeline.opened(config, make=["1-prompts"], several=True) as this:
            this.write_prompts()
            known = (tmp_path / "run" / "run.json").read_bytes()
        replies = tmp_path / "run" / "1-prompts" / "coco" / "replies.jsonl"
        replies.write_bytes(replies.read_bytes()[:-2])
        raw["name"] = "other"
        with pytest.raises(WorkspaceError, match="may have cost money"):
            pipeline.prompts(RunConfig.model_validate(raw))
        assert (tmp_path / "run" / "run.json").read_bytes() == known
