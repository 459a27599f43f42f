"""What the one loop trains, and by which loss: the interface, and an expert of one skill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from selma.config.adapters import AnyAdapterConfig
from selma.config.experts import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selma.adapters.files import Lineage
    from selma.adapters.kind import AdapterKind
    from selma.backbones.families.paths import NoisePath
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch
    from selma.experts.encoding import Encoded, Samples


class Learner(Protocol):
    """What the loop trains and by which loss; it knows no more of it."""

    @property
    def file(self) -> str:
        """The adapter's name in its folder."""
        ...

    def attached(self) -> AbstractContextManager[dict[str, nn.Parameter]]:
        """The trainable parameters by name, sorted, while the block runs; then the base is what it
        was."""
        ...

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        """Name → the loss of each sample, [b]; "loss" is trained on, the others are logged. What is
        random in it depends on the step alone."""
        ...

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Puts right, after each step, what the step may not do."""
        ...

    def save(
        self, path: Path, parameters: Mapping[str, nn.Parameter], *, lineage: Lineage
    ) -> None: ...

    def read(self, path: Path) -> Mapping[str, Tensor]:
        """What `save` wrote, under the parameters' names."""
        ...


@dataclass(frozen=True)
class ExpertLearner:
    """An expert: an adapter of some kind in the denoiser, by the denoising loss; with a prior also
    by that of class images (prior preservation, arXiv:2208.12242, equation 2)."""

    model: TextToImage
    encoded: Encoded
    config: TrainingConfig
    adapter: AnyAdapterConfig
    skill: str
    seed: int
    prior: Encoded | None = None
    prior_weight: float = 1.0

    @property
    def file(self) -> str:
        return self._kind.file

    def attached(self) -> AbstractContextManager[dict[str, nn.Parameter]]:
        return _attached(self.model, self.config, self.adapter, skill=self.skill, seed=self.seed)

    def losses(self, batch: Batch, noise_path: NoisePath, *, step: int) -> Mapping[str, Tensor]:
        own = _losses(self.model, self.encoded, batch, noise_path)
        if self.prior is None or batch.prior is None:
            return {"loss": own}
        kept = _losses(self.model, self.prior, batch.prior, noise_path)
        return {"loss": own + self.prior_weight * kept, "subject": own, "prior": kept}

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

    @property
    def _kind(self) -> AdapterKind:
        from selma.adapters.table import ADAPTERS

        return ADAPTERS[self.adapter.kind]


def _losses(model: TextToImage, encoded: Encoded, batch: Batch, noise_path: NoisePath) -> Tensor:
    """The loss of each sample, [b]; no sample's loss depends on another's."""
    return denoising(model, encoded.samples(batch).to(model.device), batch, noise_path)


def denoising(model: TextToImage, samples: Samples, batch: Batch, noise_path: NoisePath) -> Tensor:
    """The denoising loss of each sample, [b], with a gradient for the samples' text."""
    from selma.experts.losses import denoising_losses

    x0 = model.family.normalised(samples.latents, model.pipe.vae.config)
    noise, timesteps = batch.noise.to(model.device), batch.timesteps.to(model.device)
    prediction = model.family.denoise(
        model.denoiser,
        noise_path.noisy(x0, noise, timesteps).to(model.dtype),
        timesteps,
        samples.conditioning.to(model.dtype),
    )
    return denoising_losses(prediction, noise_path.target(x0, noise, timesteps))


@contextmanager
def _attached(
    model: TextToImage,
    config: TrainingConfig,
    adapter: AnyAdapterConfig,
    *,
    skill: str,
    seed: int,
) -> Iterator[dict[str, nn.Parameter]]:
    """The trainable factors, while the block runs; then the denoiser is what it was."""
    from selma.adapters.table import ADAPTERS
    from selma.randomness import generator

    denoiser, kind = model.denoiser, ADAPTERS[adapter.kind]
    with plain_attention(model, config):
        try:
            generated = generator(seed, "experts", skill, "init")
            targets = model.family.targets
            yield kind.attach(denoiser, adapter, generator=generated, targets=targets)
        finally:
            kind.detach(denoiser)


@contextmanager
def plain_attention(model: TextToImage, config: TrainingConfig) -> Iterator[None]:
    """The denoiser with an attention whose backward pass is as fast as its precision allows,
    keeping as much or as little for that pass as the settings say."""
    denoiser, plain = model.denoiser, model.family.plain_attention
    processors = denoiser.attn_processors
    try:
        if config.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        if plain is not None and config.precision == "bf16" and model.device.type == "cpu":
            # On a CPU the backward pass of the fused attention is many times slower in bfloat16.
            denoiser.set_attn_processor(plain())
        yield
    finally:
        denoiser.disable_gradient_checkpointing()
        denoiser.set_attn_processor(processors)
