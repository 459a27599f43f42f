"""What the one loop trains, and by which loss: the interface, and an adapter in the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selma.config.adapters import AnyAdapterConfig
from selma.config.experts import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selma.adapters.files import Lineage
    from selma.adapters.kind import AdapterKind
    from selma.backbones.families.paths import NoisePath
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch, Batches
    from selma.experts.encoding import Encoded
    from selma.experts.preferred import Preferred
    from selma.experts.rewards import Reward
    from selma.records.images import Pair


class TrainedWeights(Protocol):
    """What is trained, and the file that it is kept in."""

    @property
    def file(self) -> str:
        """The file's name in its folder."""
        ...

    def attached(self) -> AbstractContextManager[dict[str, nn.Parameter]]:
        """The trainable parameters by name, sorted, while the block runs; then the base is what it
        was."""
        ...

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Undo what an optimizer's step may not do."""
        ...

    def save(
        self, path: Path, parameters: Mapping[str, nn.Parameter], *, lineage: Lineage
    ) -> None: ...

    def read(self, path: Path) -> Mapping[str, Tensor]:
        """What `save` wrote, under the parameters' names."""
        ...

    def energies(self, path: Path) -> Mapping[str, Any] | None:
        """Hyperspherical energies without and with the file's weights, where they say something."""
        ...


class Learner(Protocol):
    """Weights, the batches that they are trained on, and the loss; the loop knows no more of it."""

    @property
    def model(self) -> TextToImage: ...

    @property
    def weights(self) -> TrainedWeights: ...

    @property
    def batches(self) -> Batches: ...

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        """Name → the loss of each sample, [b]; "loss" is trained on, the others are logged. What is
        random in it depends on the step alone."""
        ...


@dataclass(frozen=True)
class LearnerParts:
    """All that an objective makes an expert's learner of."""

    model: TextToImage
    encoded: Encoded
    """The skill's pairs, which the batches' indices mean."""
    weights: AdapterWeights
    batches: Batches
    pairs: Sequence[Pair] = ()
    """What was encoded, in its order."""
    reward: Reward | None = None
    """Of images that the expert generates itself, where the pipeline handed one over."""
    journal: Callable[..., None] = lambda **facts: None
    """Adds a line to the run's journal."""
    preferred: Preferred | None = None
    """With an objective that learns from preferences: these, which the batches' indices mean
    then."""


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter of some kind in the denoiser."""

    model: TextToImage
    adapter: AnyAdapterConfig
    config: TrainingConfig
    skill: str
    """With the seed it names the stream of the adapter's first values."""
    seed: int

    @property
    def file(self) -> str:
        return self._kind.file

    @contextmanager
    def attached(self) -> Iterator[dict[str, nn.Parameter]]:
        from selma.randomness import generator

        denoiser = self.model.denoiser
        with plain_attention(self.model, self.config):
            try:
                stream = generator(self.seed, "experts", self.skill, "init")
                yield self._kind.attach(
                    denoiser, self.adapter, generator=stream, targets=self.model.family.targets
                )
            finally:
                self._kind.detach(denoiser)

    def switched_off(self) -> AbstractContextManager[None]:
        """While the block runs, the attached denoiser predicts what the base alone does."""
        return self._kind.switched_off(self.model.denoiser)

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._kind.after_step(self.model.denoiser, parameters, self.adapter)

    def save(self, path: Path, parameters: Mapping[str, nn.Parameter], *, lineage: Lineage) -> None:
        self._kind.save(
            path,
            dict(parameters),
            self.adapter,
            lineage=lineage,
            component=self.model.family.component,
        )

    def read(self, path: Path) -> Mapping[str, Tensor]:
        return self._kind.trained(path, self.model.family.prefix)

    def energies(self, path: Path) -> Mapping[str, Any] | None:
        energies = self._kind.energies
        return None if energies is None else energies(self.model.denoiser, path)

    @property
    def _kind(self) -> AdapterKind:
        from selma.adapters.table import ADAPTERS

        return ADAPTERS[self.adapter.kind]


@contextmanager
def plain_attention(model: TextToImage, config: TrainingConfig) -> Iterator[None]:
    """The denoiser with an attention whose backward pass is as fast as its precision allows,
    keeping as much or as little for that pass as the settings say."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    denoiser, plain = model.denoiser, model.family.plain_attention
    # On a CPU the backward pass of the fused attention is many times slower in bfloat16.
    slow = config.precision == "bf16" and model.device.type == "cpu"
    processors = denoiser.attn_processors if slow and plain is not None else None
    try:
        if config.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        if processors is not None and plain is not None:
            denoiser.set_attn_processor(plain())
        with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
            yield
    finally:
        denoiser.disable_gradient_checkpointing()
        if processors is not None:
            denoiser.set_attn_processor(processors)
