"""Subjects' trainings: one for each subject and method, in the one loop of `experts.training`.

    3-experts/_subjects/<method>/<subject>/               the adapter, its log
    3-experts/_subjects/<method>/<subject>/steps/<step>/  the same at checkpoints before the last

The released script repeats each training for every one of its 25 validation prompts, which changes
nothing in it (docs/subjects.md).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.applications.subjects.records import SubjectAdapter
from selma.applications.subjects.settings import (
    SubjectMethod,
    SubjectSettings,
    SubjectTraining,
)
from selma.config.networks import BaseConfig
from selma.experts.finishing import finish, step_folder
from selma.experts.learners import ExpertLearner
from selma.experts.recipes import encoding_recipe, image_digests, training_recipe
from selma.experts.training import fit
from selma.records.images import Pair
from selma.workspace import EXPERTS, Workspace, recipe_key

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.encoding import Encoded

NAME = "_subjects"


def train_subjects(
    pairs: Mapping[str, Sequence[Pair]],
    class_pairs: Mapping[str, Sequence[Pair]],
    config: SubjectSettings,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
) -> list[SubjectAdapter]:
    """One adapter for each method and subject, methods in their order.

    pairs: subject → its pictures with the instance prompt.  class_pairs: subject → its class's
    pictures; empty without prior preservation. All methods of a subject see the same batches and
    noise. `model` is called only if something is missing. Raises TrainingDiverged, with the last
    checkpoint kept.
    """
    return [
        _train(
            subject,
            some,
            class_pairs.get(subject, ()),
            name,
            method,
            config,
            folder,
            base=base,
            seed=seed,
            model=model,
        )
        for name, method in config.methods.items()
        for subject, some in pairs.items()
    ]


def adapter_at(trained: SubjectAdapter, step: int) -> Path:
    """The folder with a training's adapter as it was after this step, one of `trained.steps`."""
    return trained.folder if step == trained.steps[-1] else step_folder(trained.folder, step)


def kept_steps(training: SubjectTraining) -> tuple[int, ...]:
    """The steps whose weights are kept; the last is always among them."""
    every = range(training.checkpoint_every, training.steps, training.checkpoint_every)
    return (*every, training.steps)


def _train(
    subject: str,
    pairs: Sequence[Pair],
    class_pairs: Sequence[Pair],
    name: str,
    method: SubjectMethod,
    config: SubjectSettings,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
) -> SubjectAdapter:
    rate = method.learning_rate or config.training.learning_rate
    training = config.training.model_copy(update={"learning_rate": rate})
    own, prior = _Data(f"{NAME}/{subject}", pairs), _Data("", class_pairs)
    if class_pairs:
        prior.name = class_pairs[0].prompt.skill  # shared by all subjects of the class
    recipe = {
        **training_recipe(own.rows, base=base, seed=seed),
        "adapter": method.adapter.model_dump(mode="json"),
        # Checkpoints are among what is left, so that how many there are counts.
        "training": training.model_dump(mode="json", exclude={"tracker", "gradient_checkpointing"}),
        "subject": subject,
        "prior": [config.prior.weight, recipe_key({"pairs": prior.rows})] if class_pairs else None,
    }
    item = folder.item(EXPERTS, NAME, name, subject, recipe=recipe)
    trained = SubjectAdapter(
        subject=subject,
        method=name,
        folder=item.path,
        key=item.key,
        steps=kept_steps(training),
    )
    if item.done:
        shutil.rmtree(item.path / "checkpoints", ignore_errors=True)  # if killed just before
        return trained
    path, started = item.begin(), time.monotonic()

    from selma.adapters.table import ADAPTERS
    from selma.experts.tracking import tracked

    encode = partial(_encoded, folder=folder, training=training, base=base, model=model)
    learner = ExpertLearner(
        model(),
        encode(own),
        training,
        method.adapter,
        f"subject/{subject}",
        seed,
        prior=encode(prior) if class_pairs else None,
        prior_weight=config.prior.weight,
    )
    with tracked(training, folder.root / "tracking", skill=f"{name}-{subject}") as on_step:
        fit(
            model(),
            learner.encoded,
            training,
            path,
            skill=learner.skill,
            seed=seed,
            made_by={"subject": subject, "method": name, "key": item.key},
            on_step=on_step,
            names=[pair.image.name for pair in pairs],
            learner=learner,
            prior=learner.prior,
            keep_adapters=True,
        )
    kind = ADAPTERS[method.adapter.kind]
    finish(
        item,
        training,
        pairs=len(pairs),
        scores={},
        file=kind.file,
        look=None if kind.energies is None else partial(kind.energies, model().denoiser),
        keep_adapters=True,
    )
    seconds = round(time.monotonic() - started, 3)
    folder.journal(EXPERTS, what="subject", method=name, subject=subject, seconds=seconds)
    return trained


class _Data:
    """Pictures with their texts, and what tells them from others."""

    def __init__(self, name: str, pairs: Sequence[Pair]) -> None:
        self.name = name
        self.pairs = pairs
        self.digests = image_digests(pairs)

    @property
    def rows(self) -> list[list[str]]:
        texts = (pair.prompt.text for pair in self.pairs)
        return [[text, digest] for text, digest in zip(texts, self.digests, strict=True)]


def _encoded(
    data: _Data,
    *,
    folder: Workspace,
    training: SubjectTraining,
    base: BaseConfig,
    model: Callable[[], TextToImage],
) -> Encoded:
    """Kept once for all methods."""
    from selma.experts.encoding import encode_pairs

    recipe: dict[str, Any] = training_recipe(data.rows, base=base, seed=0)
    return encode_pairs(
        data.pairs,
        folder,
        skill=data.name,
        flip=training.flip,
        digests=data.digests,
        recipe=encoding_recipe(recipe, flip=training.flip),
        model=model,
    )
