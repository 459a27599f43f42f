"""Images with the way that they took through the sampler, and how likely weights make each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from selma.backbones.families.paths import VariancePreserving
from selma.config.rewards import PolicyObjective
from selma.errors import ConfigError, TrainingDiverged
from selma.experts.learners import LearnerParts
from selma.experts.rollouts import Rollouts
from selma.experts.rounds import Tell
from selma.experts.stochastic import Step, ddim_step, ddim_times

if TYPE_CHECKING:
    from selma.backbones.families.conditioning import Conditioning

PATH = "path"
"""Of a round's tensors: [n, steps + 1, c, h, w], from noise to the image."""


class Trajectories:
    """A round's transitions; transition s is step s % steps of image s // steps."""

    def __init__(self, settings: PolicyObjective, parts: LearnerParts) -> None:
        self.settings, self.parts = settings, parts
        self.steps = settings.sampling_steps
        noise_path = parts.model.noise_path()
        if not isinstance(noise_path, VariancePreserving):
            raise ConfigError(
                f"objective {settings.kind} needs a base that DDIM samples, but the path of "
                f"{parts.model.family.name} is another. Choose nft, which takes any sampler."
            )
        if self.steps >= noise_path.steps:
            raise ConfigError(
                f"experts.objective.sampling_steps must be below the {noise_path.steps} timesteps "
                f"of the base's noise schedule, but is {self.steps}."
            )
        self.noise_path, self.times = noise_path, ddim_times(self.steps, noise_path.steps)
        self.rollouts = Rollouts(
            settings,
            parts,
            draw=self._draw,
            samples_per_image=self.steps,
            keep_old=True,
            spread_only=False,
            noised=False,
        )

    def states(self, transitions: Tensor) -> Tensor:
        """[b, c, h, w]: the latents that these transitions start from."""
        path = self.rollouts.round.drawn[PATH]
        return path[transitions // self.steps, transitions % self.steps]

    def predicted(self, transitions: Tensor, *, with_gradient: bool = True) -> Tensor:
        """[b, c, h, w]: what the denoiser predicts there, with guidance."""
        conditioning = self.rollouts.conditioning(transitions // self.steps)
        times = self.times[transitions % self.steps]
        with torch.set_grad_enabled(with_gradient):
            return self._predict(self.states(transitions), times, conditioning)

    def log_densities(self, transitions: Tensor, predicted: Tensor) -> Tensor:
        """[b]: of the latents that were drawn, under what the prediction means."""
        image, k = transitions // self.steps, transitions % self.steps
        drawn = self.rollouts.round.drawn[PATH][image, k + 1].to(predicted.device)
        step = self._step(self.states(transitions).to(predicted.device), predicted, k)
        return step.log_density(drawn)

    def ratios(
        self, transitions: Tensor, parameters: Mapping[str, nn.Parameter], *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """[b], how much likelier the transitions are now than by the weights that drew them, and
        what is predicted now, [b, c, h, w].

        Raises TrainingDiverged unless all are exactly 1 where `first` says that nothing changed.
        """
        # With a graph as well, so that both are the same computation to the last bit; before the
        # other's, so that only one is held.
        with self.rollouts.old_weights(parameters):
            old = self.log_densities(transitions, self.predicted(transitions)).detach()
        predicted = self.predicted(transitions)
        ratios = (self.log_densities(transitions, predicted) - old).exp()
        if first and not ratios.detach().eq(1).all():
            raise TrainingDiverged(
                f"At a round's first step each ratio must be 1, but {float(ratios.detach().min())} "
                f"to {float(ratios.detach().max())} came: the same weights predicted otherwise "
                "than before. Set experts.precision to fp32 and a deterministic attention."
            )
        return ratios, predicted

    def _step(self, latents: Tensor, predicted: Tensor, k: Tensor) -> Step:
        """The step from time k, by what was predicted there."""
        times = self.times[k].to(latents.device)
        after = self.times[k + 1].to(latents.device)
        x0 = self.noise_path.clean(latents, predicted, times)
        alphas = self.noise_path.alphas_bar
        return ddim_step(latents, x0, alphas[times], alphas[after], eta=self.settings.eta)

    def _predict(self, latents: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        model, guidance = self.parts.model, self.settings.guidance
        noisy = latents.to(model.device, model.dtype)
        times = times.to(model.device)
        prompts = conditioning.to(model.device).to(model.dtype)

        def denoised(known: Conditioning) -> Tensor:
            return model.family.denoise(model.denoiser, noisy, times, known).float()

        if not model.family.guided(guidance):
            return denoised(prompts)
        everywhere = torch.ones(len(latents), dtype=torch.bool, device=model.device)
        empty = self.parts.encoded.empty.to(model.device).to(model.dtype)
        blank = denoised(prompts.where(everywhere, empty))
        return blank + guidance * (denoised(prompts) - blank)

    def _draw(self, rows: Tensor, seeds: Sequence[int], tell: Tell) -> dict[str, Tensor]:
        paths: list[Tensor] = []
        model = self.parts.model
        for count, filled in model.passes(len(seeds), self.settings.images_at_once):
            which = rows[filled]
            conditioning = self.parts.encoded.conditioning.map(lambda part, i=which: part[i])  # type: ignore[misc]
            with torch.no_grad():
                paths += self._path(conditioning, [seeds[i] for i in filled])[:count]
            tell(f"{len(paths)} of {len(seeds)} images")
        path = torch.stack(paths)
        return {"latents": path[:, -1], PATH: path}

    def _path(self, conditioning: Conditioning, seeds: Sequence[int]) -> list[Tensor]:
        """Of each image [steps + 1, c, h, w], with noise of its own seed."""
        shape = (self.steps + 1, *self.parts.model.latent_shape)
        streams = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(shape, generator=stream) for stream in streams])
        latents, path = noise[:, 0], [noise[:, 0]]
        for k in range(self.steps):
            times = self.times[k].expand(len(latents))
            predicted = self._predict(latents, times, conditioning)
            places = torch.full((len(latents),), k)
            step = self._step(latents.to(predicted.device), predicted, places)
            latents = step.at(noise[:, k + 1].to(predicted.device)).cpu()
            path.append(latents)
        return list(torch.stack(path, dim=1))
