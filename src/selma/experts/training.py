"""The one training loop: encoded pairs in, one adapter out, resumable at every checkpoint."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma import processes
from selma.config.experts import ExpertsConfig, TrainingConfig
from selma.errors import ConfigError, DataError, TrainingDiverged, WorkspaceError
from selma.experts.learners import ExpertLearner, Learner
from selma.workspace import write_bytes

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch.optim.lr_scheduler import LRScheduler

    from selma.backbones.text_to_image import TextToImage
    from selma.experts.batches import Batch, Batches
    from selma.experts.encoding import Encoded

LOG = "loss.jsonl"
BAD_IN_A_ROW = 3

Line = Mapping[str, Any]


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
    never stopped does. SIGTERM and SIGINT are heeded after the step that they find, with a
    checkpoint. `on_step` gets each line of the log; what it raises ends the training, which can
    then be resumed. `names` are the pairs' ids, to name a batch that cannot be trained on.

    Several processes train on a part of each batch, and the main one writes. Raises ConfigError if
    they cannot share a batch evenly.
    """
    import torch
    from diffusers.optimization import get_scheduler

    from selma.experts import checkpoints
    from selma.progress import progress
    from selma.stopping import stopping

    part_size = _part_size(config)
    accelerator = _accelerator(model, config, parts=share_size(config) // part_size)
    noise_path = model.noise_path()
    batches = _batches(encoded, config, skill=skill, seed=seed, train_timesteps=noise_path.steps)
    if prior is not None:
        class_batches = replace(batches, skill=f"{skill}/prior", count=len(prior))
        batches = replace(batches, prior=class_batches)
    if learner is None:
        if not isinstance(config, ExpertsConfig):
            raise TypeError("An expert needs ExpertsConfig; hand in a learner for anything else.")
        learner = ExpertLearner(model, encoded, config, config.adapter, skill, seed)
    selecting = isinstance(config, ExpertsConfig) and config.select == "dev"

    def due(step: int) -> bool:
        return step % config.checkpoint_every == 0 or step == config.steps

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
            checkpoints.drop(root, unless=lambda n: n == first or (n < first and due(n)))
            _cut_log(path / LOG, first)

        with (
            open(path / LOG if processes.main() else os.devnull, "a", encoding="utf-8") as log,
            progress(f"training {skill}", total=config.steps, done=first) as advance,
            stopping() as asked,
        ):
            for step in range(first + 1, config.steps + 1):
                batch, means = batches.at(step - 1), {"loss": 0.0}
                for part in processes.share(list(batch.parts(part_size))):
                    with accelerator.accumulate(model.denoiser):
                        with accelerator.autocast():
                            losses = learner.losses(part, noise_path, step=step)
                        accelerator.backward(losses["loss"].mean())
                        for name, each in losses.items():
                            mean = float(each.detach().sum()) / config.batch_size
                            means[name] = means.get(name, 0.0) + mean
                means, stop = _together(means, stop=bool(asked))
                processes.average_gradients(parameters)
                loss = means["loss"]
                norm = _clip(accelerator, parameters, config.max_grad_norm)
                usable = math.isfinite(loss) and math.isfinite(norm)
                if usable or accelerator.scaler is not None:
                    optimizer.step()  # a loss scaler skips a bad step by itself, and learns from it
                    learner.after_step(factors)
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
                if (due(step) or stop) and processes.main():
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
                    if due(step):  # one that a signal asked for goes when the next is there
                        checkpoints.drop(root, unless=due)
                    checkpoints.tidy(root, keep_adapters=keep_adapters or selecting)
                advance(note=f"loss {loss:.4f}")
                on_step(line)
                if stop:
                    processes.wait()  # until it is written: the first to go ends the others
                    if not asked:
                        raise WorkspaceError("Another process was asked to stop, so this one does.")
                    break  # the signal itself ends what comes after the block


def _batches(
    encoded: Encoded, config: TrainingConfig, *, skill: str, seed: int, train_timesteps: int
) -> Batches:
    from selma.experts.batches import Batches

    end = train_timesteps if config.max_timestep is None else config.max_timestep
    if not config.min_timestep < end <= train_timesteps:
        raise ConfigError(
            f"min_timestep and max_timestep must lie in the base's noise schedule, 0 to "
            f"{train_timesteps}, but are {config.min_timestep} and {end}."
        )
    return Batches(
        seed=seed,
        skill=skill,
        count=len(encoded),
        batch_size=config.batch_size,
        latent=tuple(encoded.mean.shape[1:]),  # type: ignore[arg-type]
        min_timestep=config.min_timestep,
        train_timesteps=end,
        caption_dropout=config.caption_dropout,
        flip=config.flip,
        sampled=config.latents == "sample",
    )


def share_size(config: TrainingConfig) -> int:
    """Samples of each batch that are this process's."""
    if config.batch_size % processes.count():
        raise ConfigError(
            f"{processes.count()} processes can share each batch if batch_size is a multiple of "
            f"that, but it is {config.batch_size}. Start fewer, or set experts.spread to experts."
        )
    return config.batch_size // processes.count()


def _part_size(config: TrainingConfig) -> int:
    """Samples per backward pass: all parts of a batch are of one size, in every process."""
    mine = share_size(config)
    return math.gcd(config.micro_batch_size or mine, mine)


def _together(means: Mapping[str, float], *, stop: bool) -> tuple[dict[str, float], bool]:
    """Each loss, added up over the processes' parts of the batch, and whether any is to stop."""
    each = processes.gathered([dict(means), stop])
    added = {name: math.fsum(some[name] for some, _ in each) for name in means}
    return added, any(asked for _, asked in each)


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
