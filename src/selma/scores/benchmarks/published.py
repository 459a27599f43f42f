"""Which published benchmark some prompts are of: only then may their scores stand beside published
ones. A part of a benchmark is known as well, whatever its file is called."""

from __future__ import annotations

from collections.abc import Sequence

from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.benchmarks import BENCHMARKS


def published(benchmark_prompts: Sequence[BenchmarkPrompt]) -> str | None:
    """Name of the benchmark that all these prompts are of, with its own questions; None where any
    is not."""
    for row in BENCHMARKS.values():
        if row.published and benchmark_prompts and all(map(row.published, benchmark_prompts)):
            return row.name
    return None
