"""One expert for each skill: an adapter that is trained on the skill's pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from selma import processes
from selma.config.experts import JOINT, ExpertsConfig
from selma.config.networks import BaseConfig
from selma.config.preferences import PreferenceObjective
from selma.config.rewards import RewardedObjective
from selma.errors import ConfigError, DataError
from selma.experts.fitting import OWN, Fitting
from selma.experts.learners import AdapterWeights, Learner, LearnerParts
from selma.experts.preferred import Preferred, places, preferred_images
from selma.experts.recipes import encoding_recipe, expert_recipe, image_digests, pairs_digest
from selma.experts.running import train_item
from selma.records.experts import Expert
from selma.records.images import Pair, Preference
from selma.workspace import EXPERTS, Item, Workspace, recipe_key

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.encoding import Encoded
    from selma.experts.rewards import Reward

Sample = TypeVar("Sample")


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
    preferences: Mapping[str, Sequence[Preference]] | None = None,
    fitting: Fitting = OWN,
) -> list[Expert]:
    """One expert for each skill, in the order of the skills, or with `config.joint` one for all.
    With an objective that learns from preferences it is trained on the skill's `preferences` in
    place of its pairs.

    `rewards` maps a skill to the reward of its images; objectives that learn from rewards need it.
    `dev_score` maps an adapter's folder to a score, higher is better; it is needed if
    `config.select` is "dev". `model` is called only if an expert is missing. Raises ConfigError for
    rewards or preferences from which the objective does not learn, and TrainingDiverged, with the
    last checkpoint kept.
    """
    _require_learnt(config, rewards=rewards, preferences=preferences)
    if config.select == "dev" and dev_score is None:
        raise ConfigError('experts.select is "dev", which needs a dev_score, but none was given.')
    if config.joint is not None:
        skills = len(pairs) if config.joint == "steps_per_skill" else 1
        config = config.model_copy(update={"steps": skills * config.steps})
        pairs = _together(pairs)
        preferences = None if preferences is None else _together(preferences)

    if absent := sorted(pairs.keys() - (pairs if preferences is None else preferences).keys()):
        raise DataError(f"Each skill needs preferences, but {absent[0]!r} has none.")
    data = {
        skill: SkillData(pairs[skill], None)
        if preferences is None
        else SkillData.preferring(skill, preferences[skill])
        for skill in pairs
    }

    training = _Training(
        config,
        folder,
        base=base,
        seed=seed,
        model=model,
        dev_score=dev_score if config.select == "dev" else None,
        rewards=rewards,
        fitting=fitting,
    )

    def train(skill: str) -> Expert:
        return training.expert(skill, data[skill])

    if processes.count() == 1 or config.spread == "batch":
        return [train(skill) for skill in pairs]
    items = {skill: training.item(skill, data[skill]) for skill in pairs}
    missing = processes.share([skill for skill, item in items.items() if not item.done])
    processes.wait()  # until all have looked
    with processes.alone():
        for skill in missing:
            train(skill)
    processes.wait()
    with processes.alone():
        return [train(skill) for skill in pairs]


def _require_learnt(config: ExpertsConfig, *, rewards: object, preferences: object) -> None:
    """Raise ConfigError for what was handed over, but would be passed over."""
    handed = {"preferences": preferences, "rewards": rewards}
    kinds = {"preferences": PreferenceObjective, "rewards": RewardedObjective}
    for what, kind in kinds.items():
        if handed[what] is not None and not isinstance(config.objective, kind):
            names = {"preferences": "dpo", "rewards": "nft, ddpo or dpok"}
            raise ConfigError(
                f"Experts by experts.objective {config.objective.kind} learn from no {what}, but "
                f"{what} were handed over. Set experts.objective to {names[what]}, or leave the "
                f"{what} out."
            )


@dataclass(frozen=True)
class SkillData:
    """What an expert is trained on."""

    pairs: Sequence[Pair]
    """All images, each with its prompt."""
    preferred: Sequence[tuple[int, int]] | None
    """Of each preference the places of winner and loser in `pairs`; None: the images themselves are
    trained on."""

    @staticmethod
    def preferring(skill: str, preferences: Sequence[Preference]) -> SkillData:
        """The images that preferences are about. Raises DataError if there are none."""
        if not preferences:
            raise DataError(
                f"The expert {skill!r} needs at least one pair of winner and loser, but all were "
                "dropped. Generate more images.choose.candidates, or lower "
                "experts.objective.pairs.least_difference."
            )
        return SkillData(preferred_images(preferences), places(preferences))

    @property
    def names(self) -> list[str]:
        """The samples' ids, to name those that cannot be trained on."""
        which = range(len(self.pairs)) if self.preferred is None else [w for w, _ in self.preferred]
        return [self.pairs[number].prompt.id for number in which]


def expert_learner(
    model: TextToImage,
    encoded: Encoded,
    config: ExpertsConfig,
    *,
    skill: str,
    seed: int,
    preferred: Sequence[tuple[int, int]] | None = None,
    **more: Any,
) -> Learner:
    """The learner of a skill's expert, by the settings' objective.

    preferred: places of winners and losers in `encoded`, where it learns from preferences.  more:
    what `LearnerParts` has beside.
    """
    from selma.experts.batches import training_batches
    from selma.experts.objectives import OBJECTIVES

    batches = training_batches(encoded, config, skill=skill, seed=seed, model=model)
    parts = LearnerParts(
        model=model,
        encoded=encoded,
        weights=AdapterWeights(model, config.adapter, config, skill=skill, seed=seed),
        batches=batches if preferred is None else replace(batches, count=len(preferred)),
        preferred=None if preferred is None else Preferred.of(encoded, preferred),
        **more,
    )
    objective = OBJECTIVES.find(config.objective.kind, setting="experts.objective.kind")
    return objective.learner(config.objective, parts)


def _together(by_skill: Mapping[str, Sequence[Sample]]) -> dict[str, list[Sample]]:
    """All skills' samples as one expert's, in order."""
    return {JOINT: [sample for of_skill in by_skill.values() for sample in of_skill]}


@dataclass(frozen=True)
class _Training:
    """All that experts are trained by, beside their data."""

    config: ExpertsConfig
    folder: Workspace
    base: BaseConfig
    seed: int
    model: Callable[[], TextToImage]
    dev_score: Callable[[Path], float] | None
    rewards: Callable[[str], Reward] | None
    fitting: Fitting

    def item(self, skill: str, data: SkillData) -> Item:
        """The expert's item. Raises DataError unless it has any pairs."""
        if not data.pairs:
            raise DataError(f"The expert {skill!r} needs at least one pair, but has none.")
        recipe = expert_recipe(
            skill,
            pairs_digest(data.pairs),
            self.config,
            base=self.base,
            seed=self.seed,
            reward=None if self.rewards is None else self.rewards(skill).recipe,
            fitting=self.fitting,
        )
        if data.preferred is not None:
            recipe["preferred"] = recipe_key({"places": data.preferred})
        return self.folder.item(EXPERTS, skill, recipe=recipe)

    def expert(self, skill: str, data: SkillData) -> Expert:
        """The expert, trained unless it is there."""
        item, config = self.item(skill, data), self.config
        train_item(
            item,
            lambda: self._learner(skill, data, item),
            config,
            self.folder,
            title=skill,
            names=lambda: data.names,
            made_by={
                "skill": skill,
                "objective": config.objective.model_dump(mode="json"),
                **{name: item.recipe[name] for name in ("drawn_by",) if name in item.recipe},
            },
            journal={"skill": skill},
            dev_score=self.dev_score,
        )
        return Expert(skill=skill, folder=item.path, key=item.key)

    def _learner(self, skill: str, data: SkillData, item: Item) -> Learner:
        from selma.experts.encoding import encode_pairs

        flip = self.config.flip
        with processes.main_first():
            encoded = encode_pairs(
                data.pairs,
                self.folder,
                skill=skill,
                flip=flip,
                digests=image_digests(data.pairs),
                recipe=encoding_recipe(dict(item.recipe), flip=flip),
                model=self.model,
                fitting=self.fitting,
            )
        return expert_learner(
            self.model(),
            encoded,
            self.config,
            skill=skill,
            seed=self.seed,
            pairs=data.pairs,
            preferred=data.preferred,
            reward=self.rewards and self.rewards(skill),
            journal=partial(self.folder.journal, EXPERTS, skill=skill),
        )
