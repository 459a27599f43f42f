"""One expert for each skill: its pairs are encoded, trained on, and what came out is chosen."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from selma import processes
from selma.config.experts import ExpertsConfig
from selma.config.networks import BaseConfig
from selma.errors import ConfigError, DataError
from selma.experts.finishing import diagnostics, finish
from selma.experts.recipes import encoding_recipe, expert_recipe, image_digests
from selma.experts.training import fit, share_size
from selma.records.experts import Expert
from selma.records.images import Pair
from selma.workspace import EXPERTS, Item, Workspace

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage


def train_experts(
    pairs: Mapping[str, Sequence[Pair]],
    config: ExpertsConfig,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
    judge: Callable[[Path], float] | None = None,
) -> list[Expert]:
    """One expert for each skill, in the order of the skills.

    `judge` maps an adapter's folder to a score, higher is better; it is needed if `config.select`
    is "dev". `model` is called only if an expert is missing. Raises TrainingDiverged, with the last
    checkpoint kept.
    """
    if config.select == "dev" and judge is None:
        raise ConfigError('experts.select is "dev", which needs a judge, but none was given.')

    def train(skill: str) -> Expert:
        return _train_skill(
            skill, pairs[skill], config, folder, base=base, seed=seed, model=model, judge=judge
        )

    if processes.count() == 1 or config.spread == "batch":
        return [train(skill) for skill in pairs]
    items = {
        skill: _item(skill, pairs[skill], config, folder, base=base, seed=seed) for skill in pairs
    }
    missing = processes.share([skill for skill, item in items.items() if not item.done])
    processes.wait()  # until all have looked
    with processes.alone():
        for skill in missing:
            train(skill)
    processes.wait()
    with processes.alone():
        return [train(skill) for skill in pairs]


def _item(
    skill: str,
    pairs: Sequence[Pair],
    config: ExpertsConfig,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
) -> Item:
    if not pairs:
        raise DataError(f"The expert {skill!r} needs at least one pair, but has none.")
    recipe = expert_recipe(skill, pairs, image_digests(pairs), config, base=base, seed=seed)
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
    judge: Callable[[Path], float] | None,
) -> Expert:
    item = _item(skill, pairs, config, folder, base=base, seed=seed)
    expert = Expert(skill=skill, folder=item.path, key=item.key)
    if item.done:
        shutil.rmtree(item.path / "checkpoints", ignore_errors=True)  # if killed just before
        return expert
    share_size(config)  # what is refused is refused before anything is begun
    path = item.begin()

    from selma.adapters.table import ADAPTERS
    from selma.experts.encoding import encode_pairs
    from selma.experts.tracking import tracked

    started = time.monotonic()
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
    with tracked(config, folder.root / "tracking", skill=skill) as on_step:
        fit(
            model(),
            encoded,
            config,
            path,
            skill=skill,
            seed=seed,
            made_by={"skill": skill, "key": item.key},
            on_step=on_step,
            names=[pair.prompt.id for pair in pairs],
        )
    kind = ADAPTERS[config.adapter.kind]
    look = None
    if kind.energies is not None:
        look = partial(kind.energies, model().denoiser)
    with processes.main_first(judge) as judge:
        if not item.done:
            scores = (
                diagnostics(path, judge) if config.select == "dev" and judge is not None else {}
            )
            finish(item, config, pairs=len(pairs), scores=scores, file=kind.file, look=look)
    folder.journal(EXPERTS, skill=skill, seconds=round(time.monotonic() - started, 3))
    return expert
