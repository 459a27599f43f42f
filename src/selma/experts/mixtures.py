"""A mixture of the experts (`adapters.mixtures`): its gates are trained on all skills' pairs.

3-experts/_mixture/     mixture.safetensors, loss.jsonl; made by stage 4, resumable as experts are
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma import processes
from selma.config.experts import ExpertsConfig, TrainingConfig
from selma.config.merged import MixtureConfig
from selma.config.networks import BaseConfig
from selma.errors import AdapterError
from selma.experts.fitting import OWN, Fitting
from selma.experts.learners import Learner, plain_attention
from selma.experts.recipes import (
    encoding_recipe,
    image_digests,
    image_recipe,
    training_recipe,
    training_settings,
)
from selma.experts.running import train_item
from selma.records.experts import Expert
from selma.records.images import Pair
from selma.records.merged import MIXTURE
from selma.workspace import EXPERTS, Item, Workspace

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selma.adapters.files import Lineage
    from selma.adapters.mixtures.files import MixtureFile
    from selma.adapters.mixtures.mixing import Mixture
    from selma.adapters.reading import AdapterFile
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.encoding import Encoded

Shares = Mapping[str, Mapping[str, "Tensor"]]
"""Skill → layer → the mean share of each expert on the skill's pairs, [k]."""


@dataclass(frozen=True)
class MixtureTraining:
    """All that a mixture is trained by, beside its settings."""

    pairs: Mapping[str, Sequence[Pair]]
    """By skill, sorted."""
    config: TrainingConfig
    folder: Workspace
    base: BaseConfig
    seed: int
    model: Callable[[], TextToImage]
    fitting: Fitting = OWN

    @property
    def rows(self) -> dict[str, list[list[str]]]:
        """Skill → text and image's sha256 of each pair."""
        return {
            skill: [
                [pair.prompt.text, digest]
                for pair, digest in zip(pairs, image_digests(pairs), strict=True)
            ]
            for skill, pairs in self.pairs.items()
        }

    def recipe(self, rows: Sequence[list[str]]) -> dict[str, Any]:
        """What training on these rows depends on."""
        return {
            **training_recipe(rows, base=self.base, seed=self.seed),
            **image_recipe(self.base, self.fitting),
        }

    def encoded(self) -> dict[str, Encoded]:
        """Skill → its pairs as training reads them: those that its expert was trained on."""
        from selma.experts.encoding import encode_pairs

        with processes.main_first():
            return {
                skill: encode_pairs(
                    self.pairs[skill],
                    self.folder,
                    skill=skill,
                    flip=self.config.flip,
                    digests=[digest for _, digest in rows],
                    recipe=encoding_recipe(
                        self.recipe(rows),
                        flip=self.config.flip,
                    ),
                    model=self.model,
                    fitting=self.fitting,
                )
                for skill, rows in self.rows.items()
            }


def train_mixture(
    experts: Sequence[Expert],
    pairs: Mapping[str, Sequence[Pair]],
    settings: MixtureConfig,
    config: ExpertsConfig,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
    dev_score: Callable[[Path], float] | None = None,
    fitting: Fitting = OWN,
) -> tuple[Item, MixtureTraining]:
    """The trained mixture's item, and what it was trained by, for `measured_shares`.

    config: of the experts, for what the settings do not say.  dev_score: an adapter's folder → its
    score, by which a checkpoint is chosen; the last without it. The order of experts and skills
    changes no bit. Raises AdapterError if the experts cannot be mixed, and TrainingDiverged.
    """
    training = MixtureTraining(
        {skill: pairs[skill] for skill in sorted(pairs)},
        settings.training(config),
        folder,
        base=base,
        seed=seed,
        model=model,
        fitting=fitting,
    )
    by_name = {expert.skill: expert for expert in sorted(experts, key=lambda expert: expert.skill)}
    recipe = mixture_recipe(by_name, settings, training, selects=dev_score is not None)
    item = folder.item(EXPERTS, MIXTURE, recipe=recipe)

    def learner() -> Learner:
        from selma.adapters.mixtures.files import of_experts

        files = {name: _expert_file(expert) for name, expert in by_name.items()}
        mixture = of_experts(files, settings.gate)
        return mixture_learner(model(), joined(training.encoded()), mixture, training)

    train_item(
        item,
        learner,
        training.config,
        folder,
        title=MIXTURE,
        names=lambda: [pair.prompt.id for each in training.pairs.values() for pair in each],
        made_by={"experts": item.recipe["experts"], "mixture": settings.gate},
        journal={"skill": MIXTURE},
        dev_score=dev_score,
    )
    return item, training


def mixture_recipe(
    experts: Mapping[str, Expert],
    settings: MixtureConfig,
    training: MixtureTraining,
    *,
    selects: bool,
) -> dict[str, Any]:
    """All that the gates depend on."""
    without = {"tracker", "gradient_checkpointing"} | (set() if selects else {"checkpoint_every"})
    rows = [row for each in training.rows.values() for row in each]
    return {
        **training.recipe(rows),
        "experts": {name: expert.key for name, expert in experts.items()},
        "gate": settings.gate,
        "training": training_settings(training.config, without=without),
        "selects": selects or None,
    }


def mixture_learner(
    model: TextToImage, encoded: Encoded, mixture: Mixture, training: MixtureTraining
) -> Learner:
    """A learner of the gates by the paper's loss."""
    from selma.experts.batches import training_batches
    from selma.experts.objectives.denoising import DenoisingLearner

    batches = training_batches(
        encoded,
        training.config,
        skill=MIXTURE,
        seed=training.seed,
        model=model,
    )
    weights = GateWeights(model, mixture, training.config)
    return DenoisingLearner(model, encoded, weights, batches)


@dataclass(frozen=True)
class GateWeights:
    """A mixture's gates (`learners.TrainedWeights`); its file holds the experts, too."""

    model: TextToImage
    mixture: Mixture
    config: TrainingConfig

    @property
    def file(self) -> str:
        from selma.adapters.mixtures.files import FILE

        return FILE

    @contextmanager
    def attached(self) -> Iterator[dict[str, nn.Parameter]]:
        from selma.adapters.mixtures.mixing import mixed

        with (
            plain_attention(self.model, self.config),
            mixed(self.model.pipe, self.mixture) as gates,
        ):
            yield gates

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Nothing: gates may be anything."""

    def save(self, path: Path, parameters: Mapping[str, nn.Parameter], *, lineage: Lineage) -> None:
        from selma.adapters.mixtures.files import save

        save(path, self.mixture, parameters, lineage=lineage)

    def read(self, path: Path) -> Mapping[str, Tensor]:
        from selma.adapters.mixtures.files import read
        from selma.adapters.mixtures.mixing import GATE

        file = read(path)
        return {f"{key}.{GATE}": file.give(key).gate for key in file.layers}

    def energies(self, path: Path) -> None:
        """None: nothing is turned."""


def joined(encoded: Mapping[str, Encoded]) -> Encoded:
    """The pairs of all skills, one skill after the other."""
    import torch

    each = list(encoded.values())
    conditioning = each[0].conditioning
    for other in each[1:]:
        conditioning = conditioning.followed_by(other.conditioning)
    parts: dict[str, Any] = {}
    for name in (f.name for f in fields(each[0]) if f.name not in ("conditioning", "empty")):
        tensors = [getattr(part, name) for part in each]
        parts[name] = None if tensors[0] is None else torch.cat(tensors)
    return replace(each[0], **parts, conditioning=conditioning)


def measured_shares(file: MixtureFile, training: MixtureTraining) -> Shares:
    """What the gates choose on each skill's pairs, each at a timestep of its own: on one epoch of
    the skill's own batches, the last of them filled up from the next."""
    import torch

    from selma.adapters.mixtures.mixing import mixed
    from selma.experts.batches import training_batches
    from selma.experts.objectives.denoising import denoising_loss
    from selma.progress import progress

    model, shares = training.model(), {}
    noise_path, size = model.noise_path(), training.config.micro_batch_size
    with torch.no_grad(), progress("measuring gates", total=len(training.pairs)) as advance:
        for skill, encoded in training.encoded().items():
            means = ShareMeans()
            config = training.config.model_copy(
                update={"batch_size": min(size or training.config.batch_size, len(encoded))}
            )
            batches = training_batches(
                encoded, config, skill=skill, seed=training.seed, model=model
            )
            with model.denoiser_alone(), mixed(model.pipe, file.mixture, watch=means.add):
                for step in range(-(-len(encoded) // config.batch_size)):
                    batch = batches.at(step)
                    samples = encoded.samples(batch).to(model.device)
                    denoising_loss(model, samples, batch, noise_path)
            shares[skill] = means.result()
            advance()
    return shares


class ShareMeans:
    """Adds up what gates choose, layer by layer."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, layer: str, shares: Tensor) -> None:
        """Add one pass's shares, [..., k]."""
        flat = shares.flatten(0, -2).double()
        self.sums[layer] = self.sums.get(layer, 0) + flat.sum(dim=0).cpu()
        self.counts[layer] = self.counts.get(layer, 0) + len(flat)

    def result(self) -> dict[str, Tensor]:
        """Layer → mean share of each expert, [k]."""
        return {layer: total / self.counts[layer] for layer, total in self.sums.items()}


def _expert_file(expert: Expert) -> AdapterFile:
    from selma.adapters.reading import AdapterFile
    from selma.adapters.table import read_any

    file = read_any(expert.folder)
    if not isinstance(file, AdapterFile):
        raise AdapterError(
            f"A mixture is made of low-rank experts, but {expert.skill!r} is of the kind "
            f"{file.kind}. Set experts.adapter to lora."
        )
    return file
