"""A reward that needs no network, and experts that learn from it on a tiny base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from experts.test_encode_pairs import pairs

from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.experts.skills import expert_learner
from selma.experts.training import fit


class Redness:
    """How much redder than green an image is; knows all prompts but those that are told."""

    recipe: ClassVar[dict[str, int]] = {"redness": 1}
    from_zero = False

    def __init__(self, without: tuple[str, ...] = ()) -> None:
        self.without = without

    def knows(self, prompt: Any) -> bool:
        return prompt.id not in self.without

    def rows(self, images: Any, prompts: Any) -> list[dict[str, Any]]:
        means = [np.asarray(image, dtype=float).mean((0, 1)) for image in images]
        return [{"reward": round(float(red - green), 4)} for red, green, _ in means]


def settings(objective: Any, **changed: Any) -> ExpertsConfig:
    given = {
        "adapter": LoraConfig(rank=2),
        "objective": objective,
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "checkpoint_every": 100,
    }
    return ExpertsConfig.model_validate(given | changed)


def learner_of(model: Any, data: Any, config: ExpertsConfig, folder: Path, **more: Any) -> Any:
    given = {"pairs": pairs(folder), "reward": Redness(), "journal": lambda **facts: None} | more
    return expert_learner(model, data, config, skill="cats", seed=0, **given)


def fitted(
    path: Path, model: Any, data: Any, config: ExpertsConfig, data_folder: Path, **more: Any
) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    on_step = more.pop("on_step", lambda line: None)
    fit(
        learner_of(model, data, config, data_folder, **more),
        config,
        path,
        made_by={},
        on_step=on_step,
    )
    return path
