"""The one training loop: a learner in, trained weights out, resumable at every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma import processes
from selma.config.experts import TrainingConfig
from selma.errors import ConfigError, TrainingDiverged, WorkspaceError
from selma.experts.learners import Learner

if TYPE_CHECKING:
    from torch import Tensor

    from selma.backbones.families.paths import NoisePath
    from selma.experts.batches import Batch
    from selma.experts.optimizing import Optimization

BAD_IN_A_ROW = 3

Line = Mapping[str, Any]


def fit(
    learner: Learner,
    config: TrainingConfig,
    path: Path,
    *,
    made_by: Mapping[str, Any],
    on_step: Callable[[Line], None] = lambda line: None,
    names: Sequence[str] = (),
    keep_adapters: bool = False,
) -> None:
    """Train up to `config.steps`; leave `checkpoints/` and `loss.jsonl` in `path`.

    Goes on from the newest complete checkpoint there, and ends bit for bit where a run that was
    never stopped does. SIGTERM, SIGINT and SIGHUP are heeded after the step in which they come,
    with a checkpoint. `on_step` gets each line of the log; what it raises ends the training, which
    can then be resumed. `names` are the samples' ids, to name a batch that cannot be trained on.
    `made_by` goes into each adapter's file; `keep_adapters` leaves those of all checkpoints.

    Several processes train on a part of each batch, and the main one writes. Raises ConfigError if
    they cannot share a batch evenly, and TrainingDiverged after `BAD_IN_A_ROW` bad steps.
    """
    from selma.experts.losses import require_weights
    from selma.experts.optimizing import Optimization, require_precision
    from selma.experts.rounds import Rounds
    from selma.experts.training_folder import TrainingFolder, write_line
    from selma.progress import progress
    from selma.stopping import stopping

    model, weights, batches = learner.model, learner.weights, learner.batches
    noise_path = model.noise_path()
    part_size = _part_size(config)
    require_precision(config, device=model.device)
    made_by = {**made_by, "timesteps": batches.timesteps.model_dump(mode="json")}
    require_weights(batches.timesteps, noise_path, prior=batches.prior is not None)
    folder = TrainingFolder(path, learner, config, made_by=made_by, keep_adapters=keep_adapters)
    with model.denoiser_alone(), weights.attached() as parameters:
        optimization = Optimization(list(parameters.values()), config, device=model.device)
        start = folder.resume(parameters, optimization)
        rounds = Rounds(learner, path, parameters, start=start)  # most learners have none
        with (
            folder.log() as log,
            progress(f"training {batches.skill}", total=config.steps, done=start) as advance,
            stopping() as asked,
        ):
            for step in range(start + 1, config.steps + 1):
                rounds.before(step, lambda note: advance(0, note=note))
                batch, learning_rate = batches.at(step - 1), optimization.learning_rate
                parts = processes.share(list(batch.parts(part_size)))
                with optimization.repeatable():
                    means = _backward(
                        learner, parts, noise_path, optimization, step=step, total=config.batch_size
                    )
                means, stop = _together(means, stop=bool(asked))
                processes.average_gradients(optimization.parameters)
                norm, taken = optimization.step(means["loss"])
                if taken:
                    weights.after_step(parameters)
                    optimization.follow()
                line = _line(step, means, norm=norm, learning_rate=learning_rate)
                write_line(log, line)
                if optimization.bad_in_a_row >= BAD_IN_A_ROW:
                    raise _diverged(
                        batches.skill, step, batch, rounds.names(names), folder.checkpoints
                    )
                if folder.due(step) or rounds.end_with(step) or stop:
                    folder.save(step, parameters, optimization, log)
                advance(note=f"loss {means['loss']:.4f}")
                on_step(line)
                if stop:
                    processes.wait()  # until it is written: the first to go ends the others
                    if not asked:
                        raise WorkspaceError("Another process was asked to stop, so this one does.")
                    break  # the signal itself ends what comes after the block


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


def _backward(
    learner: Learner,
    parts: Sequence[Batch],
    noise_path: NoisePath,
    optimization: Optimization,
    *,
    step: int,
    total: int,
) -> dict[str, float]:
    """Name → this process's share of each loss's mean over the `total` samples of the batch.

    The parameters have the gradients of the mean over its own parts.
    """
    from selma.experts.losses import timestep_weights

    settings = learner.batches.timesteps
    sums: dict[str, list[Tensor]] = {}
    for part in parts:
        with optimization.autocast():
            losses = learner.losses(part, noise_path, step=step)
        loss = losses["loss"]
        if settings.weighting != "none":
            loss = loss * timestep_weights(settings, noise_path, part.timesteps).to(loss.device)
        optimization.backward(loss.mean() / len(parts))
        for name, each in losses.items():
            sums.setdefault(name, []).append(each.detach().sum())
    # Read when all is under way: a number that is waited for holds up the parts after it.
    return {name: sum(float(each) / total for each in parts) for name, parts in sums.items()}


def _together(means: Mapping[str, float], *, stop: bool) -> tuple[dict[str, float], bool]:
    """Each loss, added up over the processes' parts of the batch, and whether any is to stop."""
    each = processes.gathered([dict(means), stop])
    added = {name: math.fsum(shares[name] for shares, _ in each) for name in means}
    return added, any(asked for _, asked in each)


def _line(step: int, means: Mapping[str, float], *, norm: float, learning_rate: float) -> Line:
    """One step's line of the log, with None for what is not finite."""
    return {
        "step": step,
        **{name: mean if math.isfinite(mean) else None for name, mean in means.items()},
        "gradient_norm": norm if math.isfinite(norm) else None,
        "learning_rate": learning_rate,
    }


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
