"""The one training loop: encoded pairs in, one adapter out, resumable at every checkpoint."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selma import processes
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.experts import AnyAdapterConfig, ExpertsConfig, TrainingConfig
from selma.config.networks import BaseConfig
from selma.errors import ConfigError, DataError, TrainingDiverged, WorkspaceError
from selma.experts.recipes import encoding_recipe, expert_recipe, picture_digests
from selma.records import Expert, Pair
from selma.workspace import (
    EXPERTS,
    Item,
    Workspace,
    append_line,
    promote,
    read_lines,
    write_bytes,
    write_json,
)

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor, nn
    from torch.optim.lr_scheduler import LRScheduler

    from selma.adapters.files import Lineage
    from selma.adapters.kinds import Kind
    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch, Batches
    from selma.experts.encoding import Encoded, Samples

LOG = "loss.jsonl"
ENERGY = "energy.json"
SELECTION = "selection.jsonl"
STEPS = "steps"
"""Folder of the adapters at the checkpoints before the last, where they are kept."""
BAD_IN_A_ROW = 3

Line = Mapping[str, Any]


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

    def losses(self, batch: Batch, alphas_bar: Tensor, *, step: int) -> Mapping[str, Tensor]:
        """Name → the loss of each sample, [b]; "loss" is trained on, the others are logged. What is
        random in it depends on the step alone."""
        ...

    def settle(self, parameters: Mapping[str, nn.Parameter]) -> None:
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
    """An expert: an adapter of some kind in the UNet, by the denoising loss; with a prior also by
    that of class pictures (prior preservation, arXiv:2208.12242, equation 2)."""

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

    def losses(self, batch: Batch, alphas_bar: Tensor, *, step: int) -> Mapping[str, Tensor]:
        own = _losses(self.model, self.encoded, batch, alphas_bar)
        if self.prior is None or batch.prior is None:
            return {"loss": own}
        kept = _losses(self.model, self.prior, batch.prior, alphas_bar)
        return {"loss": own + self.prior_weight * kept, "subject": own, "prior": kept}

    def settle(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._kind.settle(self.model.pipe.unet, parameters, self.adapter)

    def save(self, path: Path, parameters: Mapping[str, nn.Parameter], *, lineage: Lineage) -> None:
        self._kind.save(path, dict(parameters), self.adapter, lineage=lineage)

    def read(self, path: Path) -> Mapping[str, Tensor]:
        from safetensors.torch import load_file

        return {name.removeprefix("unet."): tensor for name, tensor in load_file(path).items()}

    @property
    def _kind(self) -> Kind:
        from selma.adapters.kinds import KINDS

        return KINDS[self.adapter.kind]


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
    recipe = expert_recipe(skill, pairs, picture_digests(pairs), config, base=base, seed=seed)
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
    _share_size(config)  # what is refused is refused before anything is begun
    path = item.begin()

    from selma.adapters.kinds import KINDS
    from selma.experts.encoding import encode_pairs
    from selma.experts.tracking import tracked

    started = time.monotonic()
    with processes.main_first():
        encoded = encode_pairs(
            pairs,
            folder,
            skill=skill,
            flip=config.flip,
            digests=picture_digests(pairs),
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
    kind = KINDS[config.adapter.kind]
    look = None
    if kind.energies is not None:
        look = partial(kind.energies, model().pipe.unet)
    with processes.main_first(judge) as judge:
        if not item.done:
            scores = _judged(path, judge) if config.select == "dev" and judge is not None else {}
            finish(item, config, pairs=len(pairs), scores=scores, file=kind.file, look=look)
    folder.journal(EXPERTS, skill=skill, seconds=round(time.monotonic() - started, 3))
    return expert


def fit(
    model: TextToImage,
    encoded: Encoded,
    config: TrainingConfig,
    path: Path,
    *,
    skill: str,
    seed: int,
    made_by: Mapping[str, Any],
    on_step: Callable[[Line], None] = lambda line: None,
    names: Sequence[str] = (),
    learner: Learner | None = None,
    prior: Encoded | None = None,
    keep_adapters: bool = False,
) -> None:
    """Trains up to `config.steps`; leaves `checkpoints/` and `loss.jsonl` in `path`.

    What is trained is the learner's affair; None is an expert, for which `config` is ExpertsConfig.
    With a prior, each batch comes with one of class pictures for the learner's second loss.
    `keep_adapters` leaves the adapter of every checkpoint there, as selecting among them does.

    Goes on from the newest complete checkpoint there, and ends bit for bit where a run that was
    never stopped does. `on_step` gets each line of the log; what it raises ends the training, which
    can then be resumed. `names` are the pairs' ids, to name a batch that cannot be trained on.

    Several processes train on a part of each batch, and the main one writes. Raises ConfigError if
    they cannot share a batch evenly.
    """
    import torch
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler

    from selma.experts import checkpoints
    from selma.progress import progress

    part_size = _part_size(config)
    accelerator = _accelerator(model, config, parts=_share_size(config) // part_size)
    # The base's own noise schedule, as a DDPM whatever sampler the base draws with.
    schedule = DDPMScheduler.from_config(model.pipe.scheduler.config)
    alphas_bar = schedule.alphas_cumprod.to(model.device)
    batches = _batches(encoded, config, skill=skill, seed=seed, train_timesteps=len(alphas_bar))
    if prior is not None:
        class_batches = replace(batches, skill=f"{skill}/prior", count=len(prior))
        batches = replace(batches, prior=class_batches)
    if learner is None:
        if not isinstance(config, ExpertsConfig):
            raise TypeError("An expert needs ExpertsConfig; hand in a learner for anything else.")
        learner = ExpertLearner(model, encoded, config, config.adapter, skill, seed)
    selecting = isinstance(config, ExpertsConfig) and config.select == "dev"
    with model.denoiser_alone(), learner.attached() as factors:
        # A list: an iterator would be spent by the optimizer, and nothing left to be clipped.
        parameters = list(factors.values())
        raw = torch.optim.AdamW(
            parameters,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )
        rates = get_scheduler(
            _schedule_name(config),
            raw,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=config.steps,
        )
        optimizer = accelerator.prepare(raw)

        root, first, bad = path / "checkpoints", 0, 0
        root.mkdir(exist_ok=True)
        found = checkpoints.newest(root)
        if found is not None:
            weights = learner.read(found.path / learner.file)
            checkpoints.restore(found, weights, factors=factors, optimizer=raw)
            rates.load_state_dict(found.state["rates"])
            for group, rate in zip(raw.param_groups, rates.get_last_lr(), strict=True):
                group["lr"] = rate  # a restored schedule does not hand its rate on by itself
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(found.state["scaler"])
            first, bad = found.step, found.state["bad"]
        _require_agreement(first, root)
        if processes.main():
            checkpoints.drop_after(root, first)
            _cut_log(path / LOG, first)

        with (
            open(path / LOG if processes.main() else os.devnull, "a", encoding="utf-8") as log,
            progress(f"training {skill}", total=config.steps, done=first) as advance,
        ):
            for step in range(first + 1, config.steps + 1):
                batch, means = batches.at(step - 1), {"loss": 0.0}
                for part in processes.share(list(batch.parts(part_size))):
                    with accelerator.accumulate(model.pipe.unet):
                        with accelerator.autocast():
                            losses = learner.losses(part, alphas_bar, step=step)
                        accelerator.backward(losses["loss"].mean())
                        for name, each in losses.items():
                            mean = float(each.detach().sum()) / config.batch_size
                            means[name] = means.get(name, 0.0) + mean
                means = _together(means)
                processes.average_gradients(parameters)
                loss = means["loss"]
                norm = _clip(accelerator, parameters, config.max_grad_norm)
                usable = math.isfinite(loss) and math.isfinite(norm)
                if usable or accelerator.scaler is not None:
                    optimizer.step()  # a loss scaler skips a bad step by itself, and learns from it
                    learner.settle(factors)
                optimizer.zero_grad()
                line = {
                    "step": step,
                    **{name: m if math.isfinite(m) else None for name, m in means.items()},
                    "gradient_norm": norm if math.isfinite(norm) else None,
                    "learning_rate": rates.get_last_lr()[0],
                }
                _next_rate(rates)
                log.write(json.dumps(line) + "\n")
                log.flush()
                bad = bad + 1 if _is_bad(accelerator, loss, norm) else 0
                if bad >= BAD_IN_A_ROW:
                    raise _diverged(skill, step, batch, names, root)
                due = step % config.checkpoint_every == 0 or step == config.steps
                if due and processes.main():
                    os.fsync(log.fileno())  # a checkpoint promises its log
                    checkpoints.write(
                        root,
                        step=step,
                        factors=factors,
                        optimizer=raw,
                        file=learner.file,
                        save=partial(
                            learner.save, parameters=factors, lineage=_lineage(model, made_by, step)
                        ),
                        extra={
                            "rates": rates.state_dict(),
                            "scaler": accelerator.scaler and accelerator.scaler.state_dict(),
                            "bad": bad,
                        },
                    )
                    checkpoints.tidy(root, keep_adapters=keep_adapters or selecting)
                advance(note=f"loss {loss:.4f}")
                on_step(line)


def _batches(
    encoded: Encoded, config: TrainingConfig, *, skill: str, seed: int, train_timesteps: int
) -> Batches:
    from selma.experts.batches import Batches

    return Batches(
        seed=seed,
        skill=skill,
        count=len(encoded),
        batch_size=config.batch_size,
        latent=tuple(encoded.mean.shape[1:]),  # type: ignore[arg-type]
        train_timesteps=train_timesteps,
        caption_dropout=config.caption_dropout,
        flip=config.flip,
    )


def _losses(model: TextToImage, encoded: Encoded, batch: Batch, alphas_bar: Tensor) -> Tensor:
    """The loss of each sample, [b]; no sample's loss depends on another's."""
    return denoising(model, encoded.samples(batch).to(model.device), batch, alphas_bar)


def denoising(model: TextToImage, samples: Samples, batch: Batch, alphas_bar: Tensor) -> Tensor:
    """The denoising loss of each sample, [b], with a gradient for the samples' text."""
    from selma.experts.objective import TARGETS, denoising_losses, diffuse

    x0 = samples.latents * model.pipe.vae.config.scaling_factor
    noise, timesteps = batch.noise.to(model.device), batch.timesteps.to(model.device)
    alpha_bar = alphas_bar[timesteps]
    prediction = model.pipe.unet(
        diffuse(x0, noise, alpha_bar).to(model.dtype),
        timesteps,
        encoder_hidden_states=samples.text.to(model.dtype),
        added_cond_kwargs=samples.conditions(model.dtype),
        return_dict=False,
    )[0]
    target = TARGETS[model.prediction_type](x0, noise, alpha_bar)
    return denoising_losses(prediction, target)


def _share_size(config: TrainingConfig) -> int:
    """Samples of each batch that are this process's."""
    if config.batch_size % processes.count():
        raise ConfigError(
            f"{processes.count()} processes can share each batch if batch_size is a multiple of "
            f"that, but it is {config.batch_size}. Start fewer, or set experts.spread to experts."
        )
    return config.batch_size // processes.count()


def _part_size(config: TrainingConfig) -> int:
    """Samples per backward pass: all parts of a batch are of one size, in every process."""
    mine = _share_size(config)
    return math.gcd(config.micro_batch_size or mine, mine)


def _together(means: Mapping[str, float]) -> dict[str, float]:
    """Each loss, added up over the processes' parts of the batch."""
    each = processes.gathered(dict(means))
    return {name: math.fsum(some[name] for some in each) for name in means}


def _require_agreement(step: int, root: Path) -> None:
    """Nothing, if every process found the same checkpoint."""
    steps = processes.gathered(step)
    if len(set(steps)) > 1:
        raise WorkspaceError(
            f"Each process must see the same checkpoints in {root}, but they found steps {steps}. "
            "Wait until their disks agree, then run the same command again."
        )


def _accelerator(model: TextToImage, config: TrainingConfig, *, parts: int) -> Accelerator:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    on_cpu = model.device.type == "cpu"
    if config.precision == "fp16" and model.device.type != "cuda":
        raise ConfigError(
            f"experts.precision fp16 needs a CUDA device, but the model is on {model.device}. Set "
            "it to bf16 or fp32."
        )
    # Its state is one for the process, and would refuse another precision than the first one's.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=on_cpu,
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        gradient_accumulation_steps=parts,
    )


@contextmanager
def _attached(
    model: TextToImage,
    config: TrainingConfig,
    adapter: AnyAdapterConfig,
    *,
    skill: str,
    seed: int,
) -> Iterator[dict[str, nn.Parameter]]:
    """The trainable factors, while the block runs; then the UNet is what it was."""
    from selma.adapters.kinds import KINDS
    from selma.randomness import generator

    unet, kind = model.pipe.unet, KINDS[adapter.kind]
    with plain_attention(model, config):
        try:
            drawn = generator(seed, "experts", skill, "init")
            yield kind.attach(unet, adapter, generator=drawn)
        finally:
            kind.detach(unet)


@contextmanager
def plain_attention(model: TextToImage, config: TrainingConfig) -> Iterator[None]:
    """The UNet with an attention whose backward pass is as fast as its precision allows, keeping
    as much or as little for that pass as the settings say."""
    from diffusers.models.attention_processor import AttnProcessor

    unet = model.pipe.unet
    processors = unet.attn_processors
    try:
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if config.precision == "bf16" and model.device.type == "cpu":
            # On a CPU the backward pass of the fused attention is many times slower in bfloat16.
            unet.set_attn_processor(AttnProcessor())
        yield
    finally:
        unet.disable_gradient_checkpointing()
        unet.set_attn_processor(processors)


def _clip(
    accelerator: Accelerator, parameters: Sequence[torch.Tensor], max_norm: float | None
) -> float:
    """The gradient's norm before clipping."""
    return float(accelerator.clip_grad_norm_(parameters, max_norm or math.inf))


def _next_rate(rates: LRScheduler) -> None:
    with warnings.catch_warnings():
        # PyTorch warns if the first step was a skipped one; that is what we mean.
        warnings.filterwarnings("ignore", message="Detected call of")
        rates.step()


def _is_bad(accelerator: Accelerator, loss: float, norm: float) -> bool:
    """Whether a step counts against the run. Overflowing gradients are a loss scaler's daily
    business, as long as it can still go down."""
    searching = accelerator.scaler is not None and accelerator.scaler.get_scale() > 1
    return not math.isfinite(loss) or (not math.isfinite(norm) and not searching)


def _diverged(
    skill: str, step: int, batch: Batch, names: Sequence[str], root: Path
) -> TrainingDiverged:
    ids = [names[i] for i in batch.indices.tolist()] if names else batch.indices.tolist()
    shown = ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")
    return TrainingDiverged(
        f"The expert {skill!r} had {BAD_IN_A_ROW} steps in a row with a loss or gradient that is "
        f"not finite, the last at step {step} on the pairs {shown}. The last checkpoint is kept in "
        f"{root}. Lower experts.learning_rate, or set experts.precision to fp32 or bf16."
    )


def _schedule_name(config: TrainingConfig) -> str:
    warm = config.schedule == "constant" and config.warmup_steps
    return "constant_with_warmup" if warm else config.schedule


def _lineage(model: TextToImage, made_by: Mapping[str, Any], step: int) -> Any:
    from selma.adapters.files import Lineage

    return Lineage(base=model.fingerprint, made_by={**made_by, "step": step})


def _cut_log(path: Path, steps: int) -> None:
    """The log as it was at the checkpoint: what came after is trained, and logged, again."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if len(lines) < steps:
        raise DataError(
            f"{path} must have a line for each of {steps} steps, but has {len(lines)}. Remove "
            f"{path.parent} to train this expert anew."
        )
    write_bytes(path, b"".join(lines[:steps]))


def _judged(path: Path, judge: Callable[[Path], float]) -> dict[int, float]:
    """Step → score of each checkpoint; a score that is on record is not asked for again."""
    from selma.experts.checkpoints import adapters

    record = path / SELECTION
    scores = {row["step"]: row["score"] for row in read_lines(record, repair=True)}
    for step, folder in adapters(path / "checkpoints"):
        if step not in scores:
            score = float(judge(folder))
            if not math.isfinite(score):
                raise DataError(f"A score must be a number, but the judge gave {score} at {step}.")
            append_line(record, {"step": step, "score": score})
            scores[step] = score
    return scores


def finish(
    item: Item,
    config: TrainingConfig,
    *,
    pairs: int,
    scores: Mapping[int, float],
    file: str = ADAPTER_FILE,
    look: Callable[[Path], Mapping[str, Any]] | None = None,
    keep_adapters: bool = False,
) -> None:
    """The chosen checkpoint's adapter becomes the item's; then the checkpoints go. What `look` says
    of the adapter is kept beside it, and with `keep_adapters` those of the other checkpoints, each
    in its `step_folder`."""
    from selma.experts.checkpoints import adapters, checkpoint_folder

    # Of equal scores the earlier: it changed the base less.
    best = max(sorted(scores), key=lambda step: scores[step]) if scores else config.steps
    chosen = checkpoint_folder(item.path / "checkpoints", best) / file
    aside = item.path / f".{file}.partial"
    shutil.copyfile(chosen, aside)
    promote(aside, item.path / file)
    losses = [row["loss"] for row in read_lines(item.path / LOG)]
    files = [item.path / file, item.path / LOG]
    for step, folder in adapters(item.path / "checkpoints") if keep_adapters else ():
        if step != best:
            kept = step_folder(item.path, step) / file
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, kept)
            files.append(kept)
    if look is not None:
        write_json(item.path / ENERGY, look(chosen))
        files.append(item.path / ENERGY)
    item.finish(
        files + ([item.path / SELECTION] if scores else []),
        {
            "pairs": pairs,
            "steps": config.steps,
            "chosen_step": best,
            "scores": {str(step): score for step, score in scores.items()},
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "skipped_steps": sum(loss is None for loss in losses),
        },
    )
    shutil.rmtree(item.path / "checkpoints")


def step_folder(folder: Path, step: int) -> Path:
    """Where the adapter of a checkpoint before the last lies, in a trained item's folder."""
    return folder / STEPS / f"{step:06d}"
