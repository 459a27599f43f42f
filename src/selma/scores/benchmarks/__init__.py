"""Exams: prompts with questions about pictures of them, whatever file they come in.

A benchmark is one module with one row, `Benchmark`, and its place in the table below.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selma.errors import ConfigError, DataError
from selma.records.benchmarks import BenchmarkPrompt, evenly
from selma.scores.benchmarks.dsg import COLUMNS, DSG, Dependencies, read_dsg
from selma.scores.benchmarks.layouts import DSG_GROUPS, Benchmark, group_of
from selma.scores.benchmarks.texts import TEXTS
from selma.scores.benchmarks.tifa import TIFA

if TYPE_CHECKING:  # all sections of settings take a while, and given answers do without
    from selma.config.scores import ScoresConfig

__all__ = [
    "BENCHMARKS",
    "COLUMNS",
    "DSG_GROUPS",
    "TOYBOX",
    "Benchmark",
    "Dependencies",
    "all_texts",
    "group_of",
    "layout_of",
    "load_benchmark",
    "read_benchmark",
    "read_dsg",
]

TOYBOX = "toybox"
"""The one benchmark that is no file, and the only one with a dev split."""

# The most particular first: each is asked in this order whether a file is its own.
BENCHMARKS = {row.name: row for row in (DSG, TIFA, TEXTS)}


def load_benchmark(
    config: ScoresConfig, *, split: str | None = None, prompts: int | None = None
) -> list[BenchmarkPrompt]:
    """The prompts that models are examined on.

    `split` and `prompts` replace the config's. `prompts` takes that many evenly over the groups,
    always the same ones. Raises DataError for a file that cannot be used, and ConfigError for a
    group that it has not, or where the dev split of a file is asked for: it has none, and nothing
    may be chosen on its prompts.
    """
    wanted = split or config.split
    if config.benchmark == TOYBOX:
        from selma.toybox.benchmark import benchmark_prompts as toybox_benchmark

        benchmark_prompts = toybox_benchmark("dev" if wanted == "dev" else "test")
    elif wanted == "dev":
        raise ConfigError(
            f"Only toybox has a dev split, but {config.benchmark} came. Set experts.select to last "
            "and scores.split to test, for an ablation sur.ablation.split."
        )
    else:
        benchmark_prompts = read_benchmark(Path(config.benchmark))
    benchmark_prompts = _of_groups(benchmark_prompts, config.groups)
    count = prompts or config.prompts
    return evenly(benchmark_prompts, count) if count else list(benchmark_prompts)


def all_texts(config: ScoresConfig) -> list[str]:
    """Every prompt of the benchmark, however few are drawn and of whichever split: none may be
    trained on. Equal for both splits, so that what is chosen on dev is what sits the test."""
    splits = ("dev", "test") if config.benchmark == TOYBOX else ("test",)
    whole = config.model_copy(update={"prompts": None, "groups": ()})
    return [prompt.text for split in splits for prompt in load_benchmark(whole, split=split)]


def _of_groups(
    benchmark_prompts: list[BenchmarkPrompt], groups: Sequence[str]
) -> list[BenchmarkPrompt]:
    known = dict.fromkeys(prompt.group for prompt in benchmark_prompts)
    if strangers := [name for name in groups if name not in known]:
        raise ConfigError(
            f"scores.groups must name groups of the benchmark ({', '.join(known)}), but has "
            f"{strangers[0]!r}."
        )
    return (
        [prompt for prompt in benchmark_prompts if prompt.group in groups]
        if groups
        else benchmark_prompts
    )


def read_benchmark(path: Path) -> list[BenchmarkPrompt]:
    """All prompts of a benchmark's file or folder, in its order; the user's own have no questions.
    Raises DataError."""
    return layout_of(path).read(path)


def layout_of(path: Path) -> Benchmark:
    """The layout of a benchmark's file or folder. Raises DataError if it has none of ours."""
    if not path.exists():
        raise DataError(f"The benchmark {path} is missing. Name a file, or {TOYBOX}.")
    for benchmark in BENCHMARKS.values():
        if benchmark.recognises(path):
            return benchmark
    layouts = "; ".join(benchmark.layout for benchmark in BENCHMARKS.values())
    raise DataError(f"{path} must be one of: {layouts}. It has none of these layouts.")
