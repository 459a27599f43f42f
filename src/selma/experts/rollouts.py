"""One round: images by the expert as it is, their rewards, and what is kept of both."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from selma.adapters.files import given, write_safetensors
from selma.config.rewards import RewardedObjective
from selma.disk import make_folder
from selma.errors import ConfigError, DataError, ModelError
from selma.experts.advantages import has_spread
from selma.experts.batches import Batch, Batches
from selma.experts.finishing import REWARDS, ROUNDS
from selma.experts.learners import LearnerParts
from selma.experts.rewards import check_reward, rewards_of
from selma.experts.rounds import RoundFiles, Tell
from selma.image_files import png_bytes
from selma.randomness import generator, seed_for
from selma.row_files import write_rows
from selma.workspace import write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

    from selma.backbones.families.conditioning import Conditioning

CHECK = "check.json"
OLD = "old/"
"""Before the names of the weights that drew the round."""

Draw = Callable[[Tensor, Sequence[int], Tell], dict[str, Tensor]]
"""(rows of the encoded pairs, [n]; seeds; tell) → tensors of n rows: "latents", the finished images
as the denoiser knows them, and whatever else the objective learns from."""


@dataclass(frozen=True)
class Round:
    """What a round's steps learn from, on the CPU."""

    number: int
    rows: Tensor
    """[n] which encoded pair's prompt each image is of."""
    groups: Tensor
    """[n] from 0: images of one prompt."""
    rewards: Tensor
    """[n]."""
    drawn: Mapping[str, Tensor]
    """Of n rows each: what was generated."""
    old: Mapping[str, Tensor] = field(default_factory=dict)
    """The weights that generated it; none if only the first step, which has them, needs them."""
    images_per_prompt: int = 1

    @property
    def names(self) -> list[str]:
        """Of each image: the prompt's place in the round, and its own in the group."""
        each = self.images_per_prompt
        return [f"{n // each:03d}-{n % each}" for n in range(len(self.rows))]

    @cached_property
    def informative(self) -> Tensor:
        """The images of groups with spread, from which alone something can be learnt; all if there
        are none."""
        differ = has_spread(self.rewards, self.groups)
        return differ.nonzero().flatten() if differ.any() else torch.arange(len(differ))

    @property
    def mean_reward(self) -> float:
        return float(self.rewards.mean())


@dataclass(frozen=True)
class RoundBatches(Batches):
    """Batches whose indices are a round's samples, as `chosen` says of a step."""

    chosen: Callable[[int], Tensor] = lambda step: torch.empty(0, dtype=torch.int64)
    noised: bool = True

    def at(self, step: int) -> Batch:
        """The batch of step 0, 1, ...; its rows have no numbers where nothing is noised."""
        if self.noised:
            return super().at(step)
        indices = self._indices(step)
        none, never = torch.zeros(len(indices), 0), torch.zeros(len(indices), dtype=torch.bool)
        return Batch(indices, torch.zeros_like(indices), none, none, never, never)

    def _indices(self, step: int) -> Tensor:
        return self.chosen(step)


class Rollouts:
    """The rounds of one expert."""

    def __init__(
        self,
        settings: RewardedObjective,
        parts: LearnerParts,
        *,
        draw: Draw,
        samples_per_image: int = 1,
        keep_old: bool,
        spread_only: bool = True,
        noised: bool = True,
    ) -> None:
        """samples_per_image: how many samples a batch can take of each; sample s is of image
        s // samples_per_image.  keep_old: whether later steps ask for the weights that drew.
        spread_only: leave out groups whose images are all equally good.  noised: whether steps
        learn from images that are noised anew, so that batches need noise and timesteps."""
        if parts.reward is None:
            raise ConfigError(
                f"objective {settings.kind} learns from rewards, but none was handed over."
            )
        if parts.model.offload:
            raise ConfigError(
                "base.offload moves the autoencoder away while experts are trained, but this "
                "objective generates images between its steps. Set base.offload to false."
            )
        self.settings, self.parts, self.reward = settings, parts, parts.reward
        self.draw, self.samples_per_image, self.keep_old = draw, samples_per_image, keep_old
        self.spread_only = spread_only
        self.current: Round | None = None
        self.batches = RoundBatches(
            **{f.name: getattr(parts.batches, f.name) for f in fields(Batches)},
            chosen=self._samples,
            noised=noised,
        )

    @property
    def round(self) -> Round:
        """The one that has begun."""
        if self.current is None:
            raise ValueError("begin a round first")
        return self.current

    def begin(self, files: RoundFiles, parameters: Mapping[str, nn.Parameter], tell: Tell) -> Round:
        """Read the round, or make and keep it."""
        check = files.expert / ROUNDS / CHECK
        if not check.exists():
            make_folder(check.parent)
            pairs = [self.parts.pairs[row] for row in self._rewardable.tolist()]
            check_reward(self.reward, pairs, check, seed=self._seed)
        state = files.state()
        if not state.exists():
            self._make(files, parameters, tell)
        tensors = safetensors.torch.load_file(state)
        old = {n.removeprefix(OLD): t for n, t in tensors.items() if n.startswith(OLD)}
        rows, groups = (tensors.pop(name).long() for name in ("rows", "groups"))
        self.current = Round(
            files.number,
            rows,
            groups,
            tensors.pop("rewards"),
            drawn={name: t for name, t in tensors.items() if not name.startswith(OLD)},
            old=old,
            images_per_prompt=self.settings.images_per_prompt,
        )
        files.state(back=1).unlink(missing_ok=True)  # the checkpoint after it is there
        return self.current

    def conditioning(self, images: Tensor) -> Conditioning:
        """What the denoiser is told of the prompts of these images of the round."""
        rows = self.round.rows[images]
        return self.parts.encoded.conditioning.map(lambda part: part[rows])

    @contextmanager
    def old_weights(self, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """While the block runs, the weights are those that drew the round."""
        now = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        _put(parameters, self.round.old)
        try:
            yield
        finally:
            _put(parameters, now)

    def _make(self, files: RoundFiles, parameters: Mapping[str, nn.Parameter], tell: Tell) -> None:
        """Generate, decode and reward; the state is written last."""
        began = time.monotonic()
        shutil.rmtree(files.folder, ignore_errors=True)
        make_folder(files.folder)
        each = self.settings.images_per_prompt
        rows = self._prompts(files.number).repeat_interleave(each)
        groups = torch.arange(len(rows)) // each
        seeds = [
            seed_for(self._seed, "experts", self._skill, "rollout", files.number, n)
            for n in range(len(rows))
        ]
        prefix = f"round {files.number}: "
        drawn = self.draw(rows, seeds, lambda what: tell(prefix + what))
        if not torch.isfinite(drawn["latents"]).all():
            raise ModelError(
                f"Round {files.number} of the expert {self._skill!r} has images that are not "
                "finite. Lower experts.learning_rate, or set base.precision to bf16 or fp32."
            )
        unrewarded = Round(
            files.number, rows, groups, torch.zeros(0), drawn, images_per_prompt=each
        )
        given_rows = self._rewarded(
            unrewarded, seeds, files.folder, lambda what: tell(prefix + what)
        )
        values = rewards_of(given_rows, what=f"images of round {files.number}")
        write_rows(files.folder / REWARDS, given_rows)
        rewards = torch.tensor(values, dtype=torch.float32)
        weights = parameters if self.keep_old else {}
        old = {f"{OLD}{name}": p.detach().cpu() for name, p in weights.items()}
        tensors = {"rows": rows, "groups": groups, "rewards": rewards, **drawn, **old}
        write_safetensors(files.state(), given(tensors), metadata={"format": "pt"})
        self.parts.journal(
            event="round",
            round=files.number,
            generated=len(rows),
            judged=len(rows),
            reward=round(float(rewards.mean()), 4),
            seconds=round(time.monotonic() - began, 3),
        )

    def _rewarded(
        self, unrewarded: Round, seeds: Sequence[int], folder: Path, tell: Tell
    ) -> list[dict[str, Any]]:
        """A row for each image, with its reward; some images are kept."""
        at_once, model = self.settings.images_at_once, self.parts.model
        names = unrewarded.names
        prompts = [self.parts.pairs[row].prompt for row in unrewarded.rows.tolist()]
        kept = set(
            kept_images(
                len(names), each=unrewarded.images_per_prompt, count=self.settings.images_kept
            )
        )
        images: list[Image] = []
        # As they would be read from a file: 8 bits a channel.
        for image in model.decode(list(unrewarded.drawn["latents"]), batch_size=at_once):
            if len(images) in kept:
                write_bytes(folder / f"{names[len(images)]}.png", png_bytes(image))
            images.append(image)
        tell(f"rewarding {len(images)} images")
        rewarded = self.reward.rows(images, prompts)
        return [
            {"image": name, "prompt": prompt.id, "seed": seed, **row}
            for name, prompt, seed, row in zip(
                unrewarded.names, prompts, seeds, rewarded, strict=True
            )
        ]

    def _prompts(self, number: int) -> Tensor:
        """[prompts]: rows of the encoded pairs, shuffled epochs one after the other."""
        rows = self._rewardable
        count = min(self.settings.prompts_per_round, len(rows))
        places = range((number - 1) * count, number * count)
        return self._shuffled("prompts", rows, places)

    @cached_property
    def _rewardable(self) -> Tensor:
        """The first pair of each prompt that has a reward."""
        first: dict[str, int] = {}
        for row, pair in enumerate(self.parts.pairs):
            if self.reward.knows(pair.prompt):
                first.setdefault(pair.prompt.id, row)
        if not first:
            raise DataError(
                f"The expert {self._skill!r} needs prompts that can be rewarded, but none of its "
                f"{len(self.parts.pairs)} has questions. See 1-prompts/_questions/{self._skill}, "
                "and name another experts.objective.questions."
            )
        return torch.tensor(list(first.values()))

    def _samples(self, step: int) -> Tensor:
        """The samples of step 0, 1, ...: those of informative images in shuffled epochs."""
        size, current = self.batches.batch_size, self.round
        each = self.samples_per_image
        images = current.informative if self.spread_only else torch.arange(len(current.rows))
        samples = (images[:, None] * each + torch.arange(each)).flatten()
        first = step % self.settings.updates_per_round * size
        return self._shuffled(f"round {current.number}", samples, range(first, first + size))

    def _shuffled(self, what: str, values: Tensor, places: range) -> Tensor:
        """The values at these places of shuffled epochs, one after the other."""
        count = len(values)
        epochs = range(places.start // count, (places.stop - 1) // count + 1)
        streams = [generator(self._seed, "experts", self._skill, what, epoch) for epoch in epochs]
        order = torch.cat([torch.randperm(count, generator=stream) for stream in streams])
        return values[order[places.start - epochs.start * count :][: len(places)]]

    @property
    def _seed(self) -> int:
        return self.parts.batches.seed

    @property
    def _skill(self) -> str:
        return self.parts.batches.skill


def kept_images(images: int, *, each: int, count: int) -> list[int]:
    """Places of the images of a round that are kept: one of each prompt, in order, then seconds,
    and so on.  each: images of one prompt, in a row."""
    return sorted(range(images), key=lambda n: (n % each, n))[:count]


class RolloutLearner:
    """What learners by rewards have in common (`rounds.RoundLearner`)."""

    def __init__(
        self, settings: RewardedObjective, parts: LearnerParts, rollouts: Rollouts
    ) -> None:
        self.parts, self.rollouts = parts, rollouts
        self.model, self.weights, self.batches = parts.model, parts.weights, rollouts.batches
        self.updates_per_round = settings.updates_per_round
        self.parameters: Mapping[str, nn.Parameter] = {}

    def image_names(self) -> Sequence[str]:
        """Of each sample."""
        names, each = self.rollouts.round.names, self.rollouts.samples_per_image
        return [f"{name} at {k}" if each > 1 else name for name in names for k in range(each)]

    def begin_round(
        self, files: RoundFiles, parameters: Mapping[str, nn.Parameter], tell: Tell
    ) -> None:
        """Make or read the round, of which these are the trained weights."""
        self.parameters = parameters
        self.rollouts.begin(files, parameters, tell)

    def begins(self, step: int) -> bool:
        """Whether a round's first step is step 1, 2, ..., whose weights are those that drew."""
        return (step - 1) % self.updates_per_round == 0


def _put(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[name])
    torch.clear_autocast_cache()  # which would know the weights of before
