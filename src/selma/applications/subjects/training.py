"""Train one adapter for each subject and method, in the loop of `experts.training`.

    3-experts/_subjects/<method>/<subject>/               the adapter and its log
    3-experts/_subjects/<method>/<subject>/steps/<step>/  the adapter at earlier checkpoints

The released script repeats each training for each of its 25 validation prompts, with no effect on
the weights (docs/subjects.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.applications.subjects.records import SubjectAdapter
from selma.applications.subjects.settings import (
    SubjectMethod,
    SubjectSettings,
    SubjectTraining,
)
from selma.config.adapters import AnyAdapterConfig
from selma.config.networks import BaseConfig
from selma.experts.finishing import step_folder
from selma.experts.learners import AdapterWeights, TrainedWeights
from selma.experts.recipes import (
    encoding_recipe,
    image_digests,
    training_recipe,
    training_settings,
)
from selma.experts.running import train_item
from selma.records.images import Pair
from selma.workspace import EXPERTS, Workspace, recipe_key

if TYPE_CHECKING:
    from torch import Tensor

    from selma.backbones.families.paths import NoisePath
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch, Batches
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
    """Train one adapter for each method and subject, methods in their order.

    pairs: subject → its images with the instance prompt.  class_pairs: subject → its class's
    images; empty without prior preservation. All methods of a subject see the same batches and
    noise. `model` is called only if something is missing. Raises TrainingDiverged; the last
    checkpoint is kept.
    """
    return [
        _train(
            subject,
            own,
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
        for subject, own in pairs.items()
    ]


def adapter_at(trained: SubjectAdapter, step: int) -> Path:
    """The folder with the adapter after this step, which is one of `trained.steps`."""
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
        # Checkpoints are part of the result, so their number is part of the recipe.
        "training": training_settings(training, without={"tracker", "gradient_checkpointing"}),
        "subject": subject,
        "prior": [config.prior.weight, recipe_key({"pairs": prior.rows})] if class_pairs else None,
    }
    item = folder.item(EXPERTS, NAME, name, subject, recipe=recipe)

    def learner() -> SubjectLearner:
        return subject_learner(
            model(),
            _encoded(own, folder=folder, training=training, base=base, model=model),
            method.adapter,
            training,
            subject=subject,
            seed=seed,
            prior=_encoded(prior, folder=folder, training=training, base=base, model=model)
            if class_pairs
            else None,
            prior_weight=config.prior.weight,
        )

    train_item(
        item,
        learner,
        training,
        folder,
        title=f"{name}-{subject}",
        names=lambda: [pair.image.name for pair in pairs],
        made_by={"subject": subject, "method": name},
        journal={"what": "subject", "method": name, "subject": subject},
        keep_adapters=True,
    )
    return SubjectAdapter(
        subject=subject,
        method=name,
        folder=item.path,
        key=item.key,
        steps=kept_steps(training),
    )


@dataclass(frozen=True)
class SubjectLearner:
    """The denoising loss on the subject's images; with a prior, also on class images (prior
    preservation, arXiv:2208.12242, equation 2)."""

    model: TextToImage
    encoded: Encoded
    weights: TrainedWeights
    batches: Batches
    prior: Encoded | None = None
    prior_weight: float = 1.0

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        own = self._denoising(self.encoded, batch, noise_path)
        if self.prior is None or batch.prior is None:
            return {"loss": own}
        prior = self._denoising(self.prior, batch.prior, noise_path)
        return {"loss": own + self.prior_weight * prior, "subject": own, "prior": prior}

    def _denoising(self, encoded: Encoded, batch: Batch, noise_path: NoisePath) -> Tensor:
        from selma.experts.objectives.denoising import denoising_loss

        samples = encoded.samples(batch).to(self.model.device)
        return denoising_loss(self.model, samples, batch, noise_path)


def subject_learner(
    model: TextToImage,
    encoded: Encoded,
    adapter: AnyAdapterConfig,
    training: SubjectTraining,
    *,
    subject: str,
    seed: int,
    prior: Encoded | None,
    prior_weight: float,
) -> SubjectLearner:
    """Build a subject's learner; all methods see the same batches and noise."""
    from selma.experts.batches import training_batches

    skill = f"subject/{subject}"
    batches = training_batches(
        encoded,
        training,
        skill=skill,
        seed=seed,
        model=model,
        prior=prior,
    )
    weights = AdapterWeights(model, adapter, training, skill=skill, seed=seed)
    return SubjectLearner(model, encoded, weights, batches, prior, prior_weight)


class _Data:
    """Images with their texts and digests."""

    def __init__(self, name: str, pairs: Sequence[Pair]) -> None:
        self.name = name
        self.pairs = pairs
        self.digests = image_digests(pairs)

    @property
    def rows(self) -> list[list[str]]:
        """[text, digest of the image] for each pair, as recipes list them."""
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
    """Encode the images for training, once for all methods."""
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
