"""Which published benchmark prompts belong to: only such scores compare with published ones."""

from __future__ import annotations

from collections.abc import Sequence

from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.benchmarks import BENCHMARKS


def published(benchmark_prompts: Sequence[BenchmarkPrompt]) -> str | None:
    """Name of the benchmark that all prompts with their questions belong to, be it all of it or a
    part, whatever the file is called; None if there is none."""
    for row in BENCHMARKS.values():
        if row.published and benchmark_prompts and all(map(row.published, benchmark_prompts)):
            return row.name
    return None
