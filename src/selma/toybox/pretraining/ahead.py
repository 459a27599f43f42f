"""Drawing and captions on the CPU's cores, ahead of the device that trains on them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


def made_ahead(
    make: Callable[[int], T], numbers: Sequence[int], device: torch.device
) -> Iterator[T]:
    """`make(number)` of these numbers in their order. Where a GPU waits for them, processes of
    their own make them, as many as there are cores; a CPU that trains has none to spare."""
    forked = device.type == "cuda" and "fork" in multiprocessing.get_all_start_methods()
    return iter(
        DataLoader(
            _Made(make, numbers),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=(os.cpu_count() or 1) if forked else 0,
            # Others would copy what `make` rests on, the latents of all scenes, to each process.
            multiprocessing_context="fork" if forked else None,
        )
    )


def in_order(make: Callable[[int], T], stop: int, device: torch.device) -> Callable[[int], T]:
    """The same, for one who asks for the numbers up to `stop` one after the other, from any."""
    coming: Iterator[T] | None = None

    def next_one(number: int) -> T:
        nonlocal coming
        if coming is None:
            coming = made_ahead(make, range(number, stop), device)
        return next(coming)

    return next_one


class _Made(Dataset[T], Generic[T]):
    def __init__(self, make: Callable[[int], T], numbers: Sequence[int]) -> None:
        self.make, self.numbers = make, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> T:
        return self.make(self.numbers[index])


def _as_it_is(made: T) -> T:
    return made
