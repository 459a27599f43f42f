"""The processes that make one run together, as `torchrun` or `accelerate launch` starts them.

Each runs the same code on the same folder. The first, the main process, holds the folder's lock and
finishes items; all generate, answer and train. A process is on its own until `together`, and
where only one was started nothing here does anything, nor imports torch.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from selma.errors import WorkspaceError

if TYPE_CHECKING:
    from torch import Tensor, nn

Job = TypeVar("Job")

LONG = timedelta(days=30)  # one may wait for whatever another is at: a model's replies, say
REACH_LAUNCHER, REACH_MAIN = timedelta(minutes=1), timedelta(minutes=30)
"""How long a process looks for the place where all meet: torchrun's own, which is there before any
of them, unless torchrun was killed; else the main process, which may be started later."""
_HOSTED = "TORCHELASTIC_USE_AGENT_STORE"
_SET_BY_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

_joined = False
_shard = 0, 1


def launched() -> tuple[int, int]:
    """This process's number, 0 for the main one, and how many were started."""
    if not all(os.environ.get(name) for name in _SET_BY_LAUNCHERS):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def local_number() -> int:
    """This process's number on its machine, which is that of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if launched()[1] > 1 else 0


def number() -> int:
    """This process's number among those that work together now; 0 on its own."""
    return launched()[0] if _joined else 0


def count() -> int:
    """How many work together now; 1 on its own."""
    return launched()[1] if _joined else 1


def main() -> bool:
    """Whether this process is the one that begins and finishes items."""
    return number() == 0


@contextmanager
def together() -> Iterator[None]:
    """While the block runs, all processes work as one; each must come by here."""
    with _set(True):
        yield


@contextmanager
def alone() -> Iterator[None]:
    """While the block runs, this process waits for no other, and is its own main process."""
    with _set(False):
        yield


def share(jobs: Sequence[Job]) -> Sequence[Job]:
    """This process's part of the jobs; every job is one process's. All must give the same jobs."""
    return jobs[number() :: count()]


@contextmanager
def sharded(number: int, count: int) -> Iterator[None]:
    """While the block runs, this process is one of `count` shards of a stage, the first of number
    0, which know nothing of each other."""
    global _shard
    before, _shard = _shard, (number, count)
    try:
        yield
    finally:
        _shard = before


def shard() -> tuple[int, int] | None:
    """(number from 0, count) of this shard; None of a process that does all of a stage."""
    return _shard if _shard[1] > 1 else None


def shard_of(jobs: Sequence[Job]) -> Sequence[Job]:
    """This shard's part of the jobs; of a process that is none, all. Jobs are told by their place:
    every shard must give the same."""
    return jobs[_shard[0] :: _shard[1]]


def wait() -> None:
    """Return when all processes have come here."""
    gathered(None)


def gathered(value: Any) -> list[Any]:
    """Each process's value, in the order of their numbers; JSON values only."""
    if count() == 1:
        return [value]
    import torch

    # As bytes of JSON: torch's own way of sending objects is pickle.
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    with _in_group() as group:
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(count())]
        group.all_gather(sizes, torch.tensor([len(data)]))
        rows = [torch.zeros(int(max(sizes)), dtype=torch.uint8) for _ in sizes]
        padded = torch.zeros_like(rows[0])
        padded[: len(data)] = data
        group.all_gather(rows, padded)
    return [
        json.loads(bytes(row[: int(size)].tolist())) for row, size in zip(rows, sizes, strict=True)
    ]


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, the same bits in each."""
    if count() == 1:
        return
    import torch

    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    # One message for all: adapters have hundreds of small tensors.
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    with _in_group() as group:
        group.all_reduce(flat)
    flat /= count()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


@contextmanager
def main_first(
    score: Callable[[Path], float] | None = None,
) -> Iterator[Callable[[Path], float] | None]:
    """Run the block in the main process alone, and then in the others, which find everything made.

    Yields `score`; when the main process calls it, all processes run it together. Raises
    WorkspaceError in the others if the block fails in the main process.
    """
    if count() == 1:
        yield score
        return
    if not main():
        while "score" in (message := gathered(None)[0]):
            assert score is not None
            score(Path(message["score"]))
        if not message["done"]:
            raise WorkspaceError("The main process stopped, so this one does.")
        with alone():
            yield score
        return

    scoring = done = False

    def shared_score(adapter: Path) -> float:
        nonlocal scoring
        assert score is not None
        with together():
            gathered({"score": str(adapter)})
            scoring = True
            value = score(adapter)
            scoring = False
        return value

    try:
        with alone():
            yield shared_score if score else None
        done = True
    finally:
        if done:
            gathered({"done": True})
        elif not scoring:  # there, the others wait for something else, and see this one end
            with suppress(WorkspaceError):  # whatever went wrong in the block matters more
                gathered({"done": False})


@contextmanager
def _set(joined: bool) -> Iterator[None]:
    global _joined
    before, _joined = _joined, joined
    try:
        yield
    finally:
        _joined = before


@contextmanager
def _in_group() -> Iterator[Any]:
    """torch.distributed, joined. That another process is gone becomes a WorkspaceError."""
    import torch.distributed as group

    try:
        if not group.is_initialized():
            _join(group)
        yield group
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkspaceError(
            f"Another process of this run has stopped, so this one does ({reason:.200}). Run the "
            "same command again; nothing finished is lost."
        ) from error


def _join(group: Any) -> None:
    import torch
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_number() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    reach = REACH_LAUNCHER if os.environ.get(_HOSTED) == "True" else REACH_MAIN
    store, rank, size = next(rendezvous("env://", timeout=reach))
    store.set_timeout(LONG)
    group.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONG)
    atexit.register(group.destroy_process_group)
