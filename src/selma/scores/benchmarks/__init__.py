"""Benchmarks: prompts with questions about images of them, whatever file they come in.

A benchmark is one module with one row, `Benchmark`, and its place in the table below; other
packages add rows by entry points of the group `selma.benchmarks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selma.errors import ConfigError, DataError
from selma.records.benchmarks import BenchmarkPrompt, evenly
from selma.registry import Table
from selma.scores.benchmarks.dsg import COLUMNS, DSG, Dependencies, read_dsg
from selma.scores.benchmarks.layouts import DSG_GROUPS, Benchmark, Split, group_of
from selma.scores.benchmarks.texts import TEXTS
from selma.scores.benchmarks.tifa import TIFA
from selma.scores.benchmarks.toybox import TOYBOX
from selma.scores.measures import Measure

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
    "benchmark_of",
    "group_of",
    "layout_of",
    "load_benchmark",
    "measure_labelled",
    "read_benchmark",
    "read_dsg",
]

BENCHMARKS = Table("benchmark", "selma.benchmarks", [TOYBOX, DSG, TIFA, TEXTS])


def load_benchmark(
    config: ScoresConfig, *, split: Split | None = None, prompts: int | None = None
) -> list[BenchmarkPrompt]:
    """The prompts that models are scored on.

    `split` and `prompts` replace the config's. `prompts` takes that many evenly over the groups,
    always the same ones. Raises DataError for a file that cannot be used, and ConfigError for a
    group that it has not, or where the dev split of a file is asked for: it has none, and nothing
    may be chosen on its prompts.
    """
    benchmark = benchmark_of(config.benchmark)
    wanted = split or config.split
    if wanted not in benchmark.splits:
        with_dev = [row.name for row in BENCHMARKS.values() if "dev" in row.splits]
        raise ConfigError(
            f"Only {', '.join(with_dev)} has a dev split, but {config.benchmark} came. Set "
            "experts.select to last, and each split that is chosen to test."
        )
    benchmark_prompts = _of_groups(_prompts(config.benchmark, benchmark, wanted), config.groups)
    count = prompts or config.prompts
    return evenly(benchmark_prompts, count) if count else list(benchmark_prompts)


def all_texts(config: ScoresConfig) -> list[str]:
    """Every prompt of the benchmark, however few are scored and of whichever split: none may be
    trained on. Equal for both splits, so that what is chosen on dev is what is scored on test."""
    unlimited = config.model_copy(update={"prompts": None, "groups": ()})
    return [
        prompt.text
        for split in benchmark_of(config.benchmark).splits
        for prompt in load_benchmark(unlimited, split=split)
    ]


def _prompts(named: str, benchmark: Benchmark, split: Split) -> Sequence[BenchmarkPrompt]:
    if benchmark.prompts is not None:
        return benchmark.prompts(split)
    return read_benchmark(Path(named))


def _of_groups(
    benchmark_prompts: Sequence[BenchmarkPrompt], groups: Sequence[str]
) -> Sequence[BenchmarkPrompt]:
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
    read = layout_of(path).read
    assert read is not None, "a row that recognises files reads them"
    return read(path)


def benchmark_of(named: str) -> Benchmark:
    """The benchmark of a setting: a row's name, where it needs no file, or a file or folder. Raises
    DataError for a file of no known layout."""
    row = BENCHMARKS.get(named)
    return row if row is not None and row.prompts is not None else layout_of(Path(named))


def layout_of(path: Path) -> Benchmark:
    """The layout of a benchmark's file or folder. Raises DataError if it has none of ours."""
    if not path.exists():
        raise DataError(f"The benchmark {path} is missing. Name a file, or {', '.join(_named())}.")
    # One's own prompts come last: their columns may stand in any other layout, too.
    for benchmark in sorted(BENCHMARKS.values(), key=lambda row: row is TEXTS):
        if benchmark.recognises(path):
            return benchmark
    layouts = "; ".join(row.layout for row in BENCHMARKS.values() if row.read is not None)
    raise DataError(f"{path} must be one of: {layouts}. It has none of these layouts.")


def measure_labelled(label: str) -> Measure:
    """The measure that a scorecard names. Raises ConfigError if no benchmark has it."""
    for row in BENCHMARKS.values():
        if row.measure.label == label:
            return row.measure
    raise ConfigError(
        f"The scores are {label}, but no benchmark has this measure. Install the package that adds "
        "the benchmark that was scored."
    )


def _named() -> list[str]:
    """The benchmarks that need no file."""
    return [row.name for row in BENCHMARKS.values() if row.prompts is not None]
