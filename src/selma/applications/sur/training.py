"""The SUR-adapter's training, in the one loop of `experts.training`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from selma.applications.sur.encoding import SKILL, as_pairs, encode_samples
from selma.applications.sur.learner import SurLearner
from selma.applications.sur.records import SurSample, TrainedSur
from selma.applications.sur.settings import SurSettings
from selma.backbones.language.vectors import vectors_identity
from selma.config.networks import BaseConfig
from selma.errors import DataError
from selma.experts.recipes import (
    encoding_recipe,
    image_digests,
    training_recipe,
    training_settings,
)
from selma.experts.running import train_item
from selma.workspace import EXPERTS, Workspace, recipe_key

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage

VARIANTS = f"{SKILL}-variants"


def train_sur(
    samples: Sequence[SurSample],
    config: SurSettings,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
    variants: bool = False,
) -> TrainedSur:
    """The trained adapter in `3-experts/_sur`; resumable as experts are. `model` is called only if
    it is missing.

    With `variants` it lies in `3-experts/_sur-variants` by its recipe's key, unless it is the one
    in `_sur`: those with other settings stay. Raises TrainingDiverged, with the last checkpoint
    kept.
    """
    if not samples:
        raise DataError("The SUR-adapter needs at least one sample, but there is none.")
    digests = image_digests(as_pairs(samples))
    recipe = sur_recipe(samples, digests, config, base=base, seed=seed)
    names: tuple[str, ...] = (SKILL,)
    item = folder.item(EXPERTS, *names, recipe=recipe)
    if variants and not item.done:
        names = (VARIANTS, recipe_key(recipe))
        item = folder.item(EXPERTS, *names, recipe=recipe)

    def learner() -> SurLearner:
        data = encode_samples(
            samples,
            folder,
            llm=config.llm,
            flip=config.training.flip,
            digests=digests,
            recipe=encoding_recipe(recipe, flip=config.training.flip),
            model=model,
        )
        return SurLearner(model(), data, config, seed)

    train_item(
        item,
        learner,
        config.training,
        folder,
        title=SKILL,
        names=lambda: [sample.id for sample in samples],
        made_by={"skill": SKILL},
        journal={"skill": "/".join(names)},
    )
    return TrainedSur(folder=item.path, key=item.key)


def sur_recipe(
    samples: Sequence[SurSample],
    digests: Sequence[str],
    config: SurSettings,
    *,
    base: BaseConfig,
    seed: int,
) -> dict[str, Any]:
    """All that the adapter's weights depend on."""
    rows = [[t.text, t.prompt, digest] for t, digest in zip(samples, digests, strict=True)]
    without = {"tracker", "checkpoint_every"}
    return {
        **training_recipe(rows, base=base, seed=seed),
        "adapter": config.adapter.model_dump(mode="json"),
        "losses": config.losses.model_dump(mode="json"),
        "training": training_settings(config.training, without=without),
        "vectors": vectors_identity(config.llm),
        "projection": config.llm.projection,
    }
