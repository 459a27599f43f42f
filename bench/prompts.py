"""A batch of the demo's requests to its language model, beside transformers' own loop.

.venv/bin/python bench/prompts.py

Both sides make the same replies by the same seeds; `generate` reads each request from its beginning
and computes all rows until the last has ended.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import torch
import typer
from turns import Turns, in_turn

from selma.applications.loading import load_config
from selma.backbones.language import local
from selma.backbones.language.decoding import can_decode
from selma.backbones.language.local import LocalModel
from selma.backbones.language.model import Reply
from selma.config.networks import LocalLLM
from selma.prompts.pool import PromptPool
from selma.prompts.skills import load_skills
from selma.prompts.writing import _ask

DEMO = Path(__file__).parent.parent / "configs" / "toybox.yaml"


def main(
    rounds: Annotated[int, typer.Option(help="Timed rounds of each skill.")] = 2,
    config: Annotated[Path, typer.Option(help="Settings of the run.")] = DEMO,
) -> None:
    """Print seconds of each skill's first batch, and stop if a reply differs."""
    torch.set_num_threads(1)
    settings = load_config(config).prompts
    backend = settings.backend
    assert isinstance(backend, LocalLLM)
    model = LocalModel(backend)
    in_all = Turns()
    for skill in load_skills(settings.skills):
        pool = PromptPool(skill, settings, seed=0, benchmark_texts=[])
        replies: dict[str, list[Reply]] = {}
        sides = {
            "selma": partial(_replies, replies, "selma", pool, model),
            "generate": partial(_replies, replies, "generate", pool, model),
        }
        in_all.add(in_turn(sides, rounds=rounds, warm=False))
        assert replies["selma"] == replies["generate"], skill.name
    in_all.show(f"{backend.batch_size} requests at once", note="the same replies")


def _replies(
    replies: dict[str, list[Reply]], side: str, pool: PromptPool, model: LocalModel
) -> None:
    with patch.object(local, "can_decode", can_decode if side == "selma" else lambda _: False):
        replies[side] = _ask(pool, model, pool.next_batch())


if __name__ == "__main__":
    typer.run(main)
