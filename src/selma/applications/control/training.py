"""Train on conditioning images, in the loop of `experts.training`: a control network and, with
OFT's branch, the adapter in the denoiser; then, if set, the magnitudes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from diffusers import ControlNetModel
from pydantic import TypeAdapter
from torch import Tensor, nn

from selma.adapters.files import Lineage
from selma.adapters.rotations import oft
from selma.adapters.rotations.files import MAGNITUDES, SKEW_ENTRIES
from selma.adapters.table import ADAPTERS
from selma.applications.control import network_files
from selma.applications.control.networks import (
    Conditioning,
    halvings_of,
    new_network,
    read_conditioning_images,
)
from selma.applications.control.records import ControlSample, TrainedControl
from selma.applications.control.settings import (
    BranchNetwork,
    ControlSettings,
    ControlTraining,
    NetworkConfig,
    label_of,
)
from selma.config.adapters import AdapterConfig, RotationConfig
from selma.config.networks import BaseConfig
from selma.errors import DataError
from selma.experts.batches import training_batches
from selma.experts.encoding import Encoded, encode_pairs
from selma.experts.learners import TrainedWeights, plain_attention
from selma.experts.objectives.denoising import denoising_loss
from selma.experts.recipes import (
    encoding_recipe,
    image_digests,
    training_recipe,
    training_settings,
)
from selma.experts.running import train_item
from selma.randomness import generator, seed_for
from selma.records.images import Pair
from selma.records.prompts import Prompt
from selma.workspace import EXPERTS, Workspace

if TYPE_CHECKING:
    from selma.backbones.families.paths import NoisePath
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch, Batches

NAME = "_control"


def train_control(
    samples: Sequence[ControlSample],
    config: ControlSettings,
    folder: Workspace,
    *,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
) -> TrainedControl:
    """Train the network in `3-experts/_control/<condition>/<label>`; with `config.magnitudes`, then
    the second stage in `<label>-magnitudes`. Both resume from their checkpoints.

    `model` is called only if something is missing. Raises TrainingDiverged; the last checkpoint is
    kept.
    """
    stages = _Stages(samples, config, folder, base=base, seed=seed, model=model)
    first = stages.trained(
        label_of(config.network),
        config.training,
        recipe={"network": config.network.model_dump(mode="json")},
        weights=lambda: ControlWeights(model(), config, seed),
    )
    fitting = config.magnitudes
    if fitting is None:
        return first
    return stages.trained(
        f"{first.label}-magnitudes",
        fitting,
        recipe={"fitted": first.key},
        weights=lambda: MagnitudeWeights(model(), network_files.load(first.folder), fitting),
    )


@dataclass(frozen=True)
class ConditioningImages:
    """Conditioning images, read batch by batch, since all of them may not fit in memory."""

    paths: Sequence[Path]
    px: int

    def at(self, indices: Sequence[int]) -> Tensor:
        """Read [b, 3, px, px] in [0, 1]. Raises DataError."""
        return read_conditioning_images([self.paths[i] for i in indices], px=self.px)


class ConditioningWeights(TrainedWeights, Protocol):
    """Trained weights with a network for the conditioning images."""

    @property
    def conditioning(self) -> Conditioning:
        """The network that is shown the conditioning images."""
        ...


@dataclass(frozen=True)
class ControlLearner:
    """The denoising loss of each sample, with its conditioning image shown to the network."""

    model: TextToImage
    encoded: Encoded
    conditioning_images: ConditioningImages
    weights: ConditioningWeights
    batches: Batches

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        samples = self.encoded.samples(batch).to(self.model.device)
        self.weights.conditioning.show(self.conditioning_images.at(batch.indices.tolist()))
        return {"loss": denoising_loss(self.model, samples, batch, noise_path)}


@dataclass(frozen=True)
class ControlWeights:
    """The network and, with OFT's branch, the denoiser's adapter."""

    model: TextToImage
    config: ControlSettings
    seed: int
    file: str = network_files.FILE

    @cached_property
    def conditioning(self) -> Conditioning:
        network = new_network(
            self.config.network.kind,
            self.model.denoiser,
            halvings=halvings_of(self.model.pipe),
            seed=seed_for(self.seed, "experts", NAME, "init"),
        )
        if self.config.training.gradient_checkpointing and isinstance(network, ControlNetModel):
            network.enable_gradient_checkpointing()
        return Conditioning(network.to(self.model.device).train())

    @contextmanager
    def attached(self) -> Iterator[dict[str, nn.Parameter]]:
        # Before the adapter is attached: a ControlNet copies the plain denoiser.
        conditioning = self.conditioning
        prefix = network_files.NETWORK
        named = {prefix + name: p for name, p in conditioning.network.named_parameters()}
        with (
            plain_attention(self.model, self.config.training),
            _adapter(self.model, self.config.network, self.seed) as factors,
            conditioning.within(self.model.denoiser),
        ):
            yield dict(sorted({**named, **factors}.items()))

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        adapter = _adapter_of(self.config.network)
        if adapter is not None:
            after_step = ADAPTERS[adapter.kind].after_step
            after_step(self.model.denoiser, _adapter_part(parameters), adapter)

    def save(self, path: Path, parameters: Mapping[str, nn.Parameter], *, lineage: Lineage) -> None:
        adapter = _adapter_of(self.config.network)
        network_files.save(
            path,
            self.conditioning.network.state_dict(),
            _adapter_part(parameters),
            about={
                "kind": self.config.network.kind,
                "condition": self.config.data.condition,
                "halvings": halvings_of(self.model.pipe),
                "adapter": None if adapter is None else adapter.model_dump(mode="json"),
            },
            lineage=lineage,
        )

    def read(self, path: Path) -> Mapping[str, Tensor]:
        return _read(path)

    def energies(self, path: Path) -> None:
        """None: a network trained with the adapter has no energies."""


@dataclass(frozen=True)
class MagnitudeWeights:
    """One scale for each neuron, with rotations and branch frozen: the second stage."""

    model: TextToImage
    first: network_files.ControlFile
    config: ControlTraining
    file: str = network_files.FILE

    @cached_property
    def conditioning(self) -> Conditioning:
        network = network_files.restored(self.model, self.first)
        return Conditioning(network.to(self.model.device))

    @contextmanager
    def attached(self) -> Iterator[dict[str, nn.Parameter]]:
        denoiser, adapter = self.model.denoiser, self._adapter
        with plain_attention(self.model, self.config), self.conditioning.within(denoiser):
            try:
                unused = torch.Generator("cpu")  # rotations start at the identity
                factors = oft.attach(
                    denoiser, adapter, generator=unused, targets=self.model.family.targets
                )
                for name, parameter in factors.items():
                    if name in self.first.adapter:
                        parameter.data.copy_(self.first.adapter[name])
                    if name.endswith(f".{SKEW_ENTRIES}"):
                        parameter.requires_grad_(False)
                yield {n: p for n, p in factors.items() if n.endswith(f".{MAGNITUDES}")}
            finally:
                oft.detach(denoiser)

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Do nothing: magnitudes are trained as logarithms, and stay positive."""

    def save(self, path: Path, parameters: Mapping[str, nn.Parameter], *, lineage: Lineage) -> None:
        network_files.save(
            path,
            self.first.network,
            {**self.first.adapter, **{name: p.detach() for name, p in parameters.items()}},
            about={**self.first.about, "adapter": self._adapter.model_dump(mode="json")},
            lineage=lineage,
        )

    def read(self, path: Path) -> Mapping[str, Tensor]:
        return _read(path)

    def energies(self, path: Path) -> None:
        """None: a network trained with the adapter has no energies."""

    @property
    def _adapter(self) -> RotationConfig:
        """The first stage's adapter settings, with magnitudes."""
        adapter = TypeAdapter(AdapterConfig).validate_python(self.first.about["adapter"])
        assert isinstance(adapter, RotationConfig)
        return adapter.model_copy(update={"magnitudes": True})


class _Stages:
    """What both stages of a network's training share."""

    def __init__(
        self,
        samples: Sequence[ControlSample],
        config: ControlSettings,
        folder: Workspace,
        *,
        base: BaseConfig,
        seed: int,
        model: Callable[[], TextToImage],
    ) -> None:
        if not samples:
            raise DataError("A control network needs at least one image, but there is none.")
        self.samples, self.config, self.folder = samples, config, folder
        self.base, self.seed, self.model = base, seed, model
        self.condition = config.data.condition
        self.skill = f"control-{self.condition}"

    def trained(
        self,
        label: str,
        training: ControlTraining,
        *,
        recipe: Mapping[str, Any],
        weights: Callable[[], ConditioningWeights],
    ) -> TrainedControl:
        """Train one stage, or read it if it is finished.

        recipe: what it depends on beyond images, base and training.
        """
        without = {"tracker", "checkpoint_every", "gradient_checkpointing"}
        recipe = {
            **training_recipe(self._rows, base=self.base, seed=self.seed),
            "condition": self.condition,
            "training": training_settings(training, without=without),
            **recipe,
        }
        item = self.folder.item(EXPERTS, NAME, self.condition, label, recipe=recipe)

        def learner() -> ControlLearner:
            encoded, base_model = self._encoded, self.model()
            batches = training_batches(
                encoded,
                training,
                skill=self.skill,  # the same for all networks: equal batches, equal noise
                seed=self.seed,
                model=base_model,
            )
            conditioning_images = ConditioningImages(
                [sample.conditioning_image for sample in self.samples], base_model.image_px
            )
            return ControlLearner(base_model, encoded, conditioning_images, weights(), batches)

        train_item(
            item,
            learner,
            training,
            self.folder,
            title=f"{self.skill}-{label}",
            names=lambda: [sample.id for sample in self.samples],
            made_by={"control": label, "condition": self.condition},
            journal={"skill": f"{self.skill}/{label}"},
        )
        return TrainedControl(label=label, folder=item.path, key=item.key)

    @cached_property
    def _pairs(self) -> list[Pair]:
        return [
            Pair(
                prompt=Prompt(id=sample.id, skill=self.skill, text=sample.text),
                image=sample.image,
                seed=0,
            )
            for sample in self.samples
        ]

    @cached_property
    def _digests(self) -> list[str]:
        return image_digests(self._pairs)

    @cached_property
    def _rows(self) -> list[list[str]]:
        conditioning_images = [pair.model_copy(update={"image": sample.conditioning_image})
                 for pair, sample in zip(self._pairs, self.samples, strict=True)]  # fmt: skip
        return [
            [sample.text, digest, conditioning_image]
            for sample, digest, conditioning_image in zip(
                self.samples, self._digests, image_digests(conditioning_images), strict=True
            )
        ]

    @cached_property
    def _encoded(self) -> Encoded:
        rows = [[row[0], row[1]] for row in self._rows]
        recipe = training_recipe(rows, base=self.base, seed=self.seed)
        return encode_pairs(
            self._pairs,
            self.folder,
            skill=self.skill,
            flip=False,
            digests=self._digests,
            recipe=encoding_recipe(recipe, flip=False),
            model=self.model,
        )


def _adapter_of(network: NetworkConfig) -> AdapterConfig | None:
    return network.adapter if isinstance(network, BranchNetwork) else None


def _adapter(
    model: TextToImage, network: NetworkConfig, seed: int
) -> AbstractContextManager[dict[str, nn.Parameter]]:
    """The adapter's trainable tensors while the block runs; {} for a network without one."""
    adapter = _adapter_of(network)
    return nullcontext({}) if adapter is None else _attached(model, adapter, seed)


@contextmanager
def _attached(
    model: TextToImage, adapter: AdapterConfig, seed: int
) -> Iterator[dict[str, nn.Parameter]]:
    denoiser, kind = model.denoiser, ADAPTERS[adapter.kind]
    try:
        stream = generator(seed, "experts", NAME, "adapter")
        yield kind.attach(denoiser, adapter, generator=stream, targets=model.family.targets)
    finally:
        kind.detach(denoiser)


def _adapter_part(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    return {n: p for n, p in parameters.items() if not n.startswith(network_files.NETWORK)}


def _read(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by parameter name."""
    file = network_files.load(path)
    network = {network_files.NETWORK + name: tensor for name, tensor in file.network.items()}
    return {**network, **file.adapter}
