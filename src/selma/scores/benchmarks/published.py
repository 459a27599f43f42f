"""Which published benchmark prompts belong to: only such scores compare with published ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.benchmarks import BENCHMARKS
from selma.scores.benchmarks.fetching import is_file_of
from selma.scores.benchmarks.layouts import Benchmark


def published(benchmark_prompts: Sequence[BenchmarkPrompt]) -> str | None:
    """Name of the benchmark that all prompts with their questions belong to, be it all of it or a
    part, whatever the file is called; None if there is none."""
    for row in BENCHMARKS.values():
        if row.published and benchmark_prompts and all(map(row.published, benchmark_prompts)):
            return row.name
    return None


def is_of(benchmark: Benchmark, named: str, prompts: Sequence[BenchmarkPrompt]) -> bool:
    """Whether prompts read from what settings name are the published ones: by their words where
    the benchmark knows those, else by its files' checksums, where it has files."""
    if benchmark.published is not None:
        return bool(prompts) and all(map(benchmark.published, prompts))
    return not benchmark.files or is_file_of(benchmark, Path(named))
