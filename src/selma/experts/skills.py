"""One expert for each skill: an adapter that is trained on the skill's pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma import processes
from selma.config.experts import ExpertsConfig
from selma.config.networks import BaseConfig
from selma.errors import ConfigError, DataError
from selma.experts.learners import AdapterWeights, Learner, LearnerParts
from selma.experts.recipes import encoding_recipe, expert_recipe, image_digests
from selma.experts.running import train_item
from selma.records.experts import Expert
from selma.records.images import Pair
from selma.workspace import EXPERTS, Item, Workspace

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.encoding import Encoded
    from selma.experts.rewards import Reward


def train_experts(
    pairs: Mapping[str, Sequence[Pair]],
    config: ExpertsConfig,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
    dev_score: Callable[[Path], float] | None = None,
    rewards: Callable[[str], Reward] | None = None,
) -> list[Expert]:
    """One expert for each skill, in the order of the skills.

    `rewards` maps a skill to the reward of its images; objectives that learn from rewards need it.
    `dev_score` maps an adapter's folder to a score, higher is better; it is needed if
    `config.select` is "dev". `model` is called only if an expert is missing. Raises
    TrainingDiverged, with the last checkpoint kept.
    """
    if config.select == "dev" and dev_score is None:
        raise ConfigError('experts.select is "dev", which needs a dev_score, but none was given.')

    def train(skill: str) -> Expert:
        return _train_skill(
            skill,
            pairs[skill],
            config,
            folder,
            base=base,
            seed=seed,
            model=model,
            dev_score=dev_score if config.select == "dev" else None,
            reward=rewards and rewards(skill),
        )

    if processes.count() == 1 or config.spread == "batch":
        return [train(skill) for skill in pairs]
    items = {
        skill: _item(
            skill,
            pairs[skill],
            config,
            folder,
            base=base,
            seed=seed,
            reward=rewards and rewards(skill),
        )
        for skill in pairs
    }
    missing = processes.share([skill for skill, item in items.items() if not item.done])
    processes.wait()  # until all have looked
    with processes.alone():
        for skill in missing:
            train(skill)
    processes.wait()
    with processes.alone():
        return [train(skill) for skill in pairs]


def expert_learner(
    model: TextToImage,
    encoded: Encoded,
    config: ExpertsConfig,
    *,
    skill: str,
    seed: int,
    **more: Any,
) -> Learner:
    """The learner of a skill's expert, by the settings' objective. more: what `LearnerParts` has
    beside."""
    from selma.experts.batches import training_batches
    from selma.experts.objectives import OBJECTIVES

    parts = LearnerParts(
        model=model,
        encoded=encoded,
        weights=AdapterWeights(model, config.adapter, config, skill=skill, seed=seed),
        batches=training_batches(
            encoded, config, skill=skill, seed=seed, train_timesteps=model.noise_path().steps
        ),
        **more,
    )
    objective = OBJECTIVES.find(config.objective.kind, setting="experts.objective.kind")
    return objective.learner(config.objective, parts)


def _item(
    skill: str,
    pairs: Sequence[Pair],
    config: ExpertsConfig,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    reward: Reward | None,
) -> Item:
    if not pairs:
        raise DataError(f"The expert {skill!r} needs at least one pair, but has none.")
    recipe = expert_recipe(
        skill,
        pairs,
        image_digests(pairs),
        config,
        base=base,
        seed=seed,
        reward=None if reward is None else reward.recipe,
    )
    return folder.item(EXPERTS, skill, recipe=recipe)


def _train_skill(
    skill: str,
    pairs: Sequence[Pair],
    config: ExpertsConfig,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
    dev_score: Callable[[Path], float] | None,
    reward: Reward | None,
) -> Expert:
    item = _item(skill, pairs, config, folder, base=base, seed=seed, reward=reward)

    def learner() -> Learner:
        from selma.experts.encoding import encode_pairs

        with processes.main_first():
            encoded = encode_pairs(
                pairs,
                folder,
                skill=skill,
                flip=config.flip,
                digests=image_digests(pairs),
                recipe=encoding_recipe(dict(item.recipe), flip=config.flip),
                model=model,
            )
        return expert_learner(
            model(),
            encoded,
            config,
            skill=skill,
            seed=seed,
            pairs=pairs,
            reward=reward,
            journal=partial(folder.journal, EXPERTS, skill=skill),
        )

    train_item(
        item,
        learner,
        config,
        folder,
        title=skill,
        names=[pair.prompt.id for pair in pairs],
        made_by={"skill": skill, "objective": config.objective.model_dump(mode="json")},
        journal={"skill": skill},
        dev_score=dev_score,
    )
    return Expert(skill=skill, folder=item.path, key=item.key)
