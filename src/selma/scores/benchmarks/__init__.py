"""Benchmarks: prompts with questions about their images, in files of several layouts.

A benchmark is a module with a `Benchmark`, listed in the table below; other packages add rows by
entry points of the group `selma.benchmarks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selma.errors import ConfigError, DataError
from selma.paths import AnyPath, as_path
from selma.plurals import counted as counted_of
from selma.records.benchmarks import BenchmarkPrompt, evenly, repeated
from selma.registry import Table
from selma.scores.benchmarks.compbench import COMPBENCH
from selma.scores.benchmarks.dpg import DPG
from selma.scores.benchmarks.dsg import COLUMNS, DSG, Dependencies, read_dsg
from selma.scores.benchmarks.genai import GENAI
from selma.scores.benchmarks.geneval2 import GENEVAL2
from selma.scores.benchmarks.layouts import (
    DSG_GROUPS,
    Benchmark,
    Rules,
    Split,
    clashing_ids,
    group_of,
    unsafe_id,
)
from selma.scores.benchmarks.oneig import ONEIG
from selma.scores.benchmarks.texts import TEXTS
from selma.scores.benchmarks.tifa import TIFA
from selma.scores.benchmarks.tiif import TIIF
from selma.scores.benchmarks.toybox import TOYBOX
from selma.scores.measures import Measure

if TYPE_CHECKING:  # importing all settings takes a while, and scoring answers in a file needs none
    from selma.config.scores import BenchmarkSettings, ScoresConfig

__all__ = [
    "BENCHMARKS",
    "COLUMNS",
    "DSG_GROUPS",
    "TOYBOX",
    "Benchmark",
    "Dependencies",
    "all_texts",
    "benchmark_of",
    "counted",
    "dev_benchmark_of",
    "group_of",
    "layout_of",
    "load_benchmark",
    "measure_labelled",
    "read_benchmark",
    "read_dsg",
    "require_scorable",
]

BENCHMARKS = Table(
    "benchmark",
    "selma.benchmarks",
    [TOYBOX, DPG, DSG, TIFA, GENEVAL2, GENAI, TIIF, ONEIG, COMPBENCH, TEXTS],
)


def require_scorable(config: ScoresConfig, benchmark_prompts: Sequence[BenchmarkPrompt]) -> None:
    """Raise what the prompts' scoring would raise after all images were made and judged: ids of
    several images that are not apart, and rules that cannot be applied."""
    repeated(benchmark_prompts, config.seeds)
    counted(
        benchmark_prompts,
        benchmark_of(config.benchmark).rules(config.rules),
        named=config.benchmark,
    )


def load_benchmark(
    config: ScoresConfig, *, split: Split | None = None, prompts: int | None = None
) -> list[BenchmarkPrompt]:
    """The prompts that models are scored on.

    `split` and `prompts` replace the config's; `prompts` is a number, taken evenly over the groups
    and always the same. Raises DataError for a file that cannot be used, and ConfigError for an
    unknown group, more prompts in the config than there are, or a dev split that the benchmark
    lacks: nothing may be chosen on test prompts. `split` dev takes the config's `dev_benchmark`,
    where it has one.
    """
    if split == "dev" and config.dev_benchmark is not None:
        chosen_on = _dev_prompts(config, config.dev_benchmark)
        return evenly(chosen_on, prompts) if prompts else chosen_on
    benchmark = benchmark_of(config.benchmark)
    split = split or config.split
    if split not in benchmark.splits:
        with_dev = [row.name for row in BENCHMARKS.values() if "dev" in row.splits]
        raise ConfigError(
            f"Only {', '.join(with_dev)} has a dev split, but {config.benchmark} came. Set "
            "scores.dev_benchmark to a file of other prompts, or experts.select to last and each "
            "split that is chosen to test."
        )
    benchmark_prompts = _of_groups(_prompts(config.benchmark, benchmark, split), config.groups)
    if config.prompts is not None and config.prompts > len(benchmark_prompts):
        raise ConfigError(
            f"scores.prompts must be at most {len(benchmark_prompts)}, as many as there are"
            f"{' in scores.groups' if config.groups else ''}, but is {config.prompts}. Leave it "
            "out to take all."
        )
    count = prompts or config.prompts
    return evenly(benchmark_prompts, count) if count else list(benchmark_prompts)


def dev_benchmark_of(config: ScoresConfig) -> Benchmark | None:
    """The benchmark whose prompts checkpoints and merge weights are chosen on; None without any.
    Raises DataError for a file of unknown layout."""
    if config.dev_benchmark is not None:
        return benchmark_of(config.dev_benchmark)
    benchmark = benchmark_of(config.benchmark)
    return benchmark if "dev" in benchmark.splits else None


def _dev_prompts(config: ScoresConfig, named: str) -> list[BenchmarkPrompt]:
    """The prompts of a dev benchmark. Raises ConfigError for one without questions, or whose text
    the benchmark has, too."""
    benchmark = benchmark_of(named)
    prompts = list(_prompts(named, benchmark, "dev" if "dev" in benchmark.splits else "test"))
    if silent := [prompt.id for prompt in prompts if not prompt.questions]:
        raise ConfigError(
            f"scores.dev_benchmark: {counted_of(len(silent), 'prompt has', 'prompts have')} no "
            f"questions ({silent[0]} first). Let a language model write them: "
            f"selma questions {named} --out FILE.csv."
        )
    parts = (config, *config.further.values())
    reported = set().union(*map(_texts, parts))
    if shared := [prompt.id for prompt in prompts if _words(prompt.text) in reported]:
        raise ConfigError(
            "scores.dev_benchmark must have other prompts than those that are scored, since what "
            "is chosen on a prompt scores better on it, but "
            f"{counted_of(len(shared), 'is', 'are')} the same, {shared[0]} first."
        )
    return prompts


def chosen_on(config: ScoresConfig, reported: BenchmarkSettings) -> list[str]:
    """Ids of the prompts on which would be chosen and that a benchmark reports on, too."""
    dev = load_benchmark(config, split="dev", prompts=config.dev_prompts)
    texts = _texts(reported)
    return [prompt.id for prompt in dev if _words(prompt.text) in texts]


def _texts(part: BenchmarkSettings) -> set[str]:
    """Texts of all prompts of a benchmark's split, however few are scored."""
    prompts = _prompts(part.benchmark, benchmark_of(part.benchmark), part.split)
    return {_words(prompt.text) for prompt in prompts}


def _words(text: str) -> str:
    return " ".join(text.split()).casefold()


def all_texts(config: ScoresConfig) -> list[str]:
    """Texts of all prompts of all splits of all benchmarks that are kept from training, however few
    are scored."""
    further = [part.benchmark for part in config.further.values() if part.kept_from_training]
    names = dict.fromkeys([config.benchmark, config.dev_benchmark or config.benchmark, *further])
    rows = {named: benchmark_of(named) for named in names}
    return [
        prompt.text
        for named, row in rows.items()
        for split in row.splits
        for prompt in _prompts(named, row, split)
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


def counted(asked: Sequence[BenchmarkPrompt], rules: Rules, *, named: str) -> list[BenchmarkPrompt]:
    """Of prompts of the benchmark that a setting names, those that the rules count, with the
    questions that they count. Raises DataError for a file that the rules cannot be applied to."""
    if rules.counted is None and rules.read is None:
        return list(asked)
    every = read_benchmark(named) if rules.read is None else rules.read(as_path(named))
    counting = {prompt.id: prompt for prompt in (rules.counted or list)(every)}
    left = [counting[p.id] for p in asked if p.id in counting and counting[p.id].questions]
    if not left:
        raise DataError(
            f"scores.rules: released rules count none of the "
            f"{counted_of(len(asked), 'prompt')} that are taken of {Path(named).name}. "
            f"{rules.about} Take sound rules, or another file."
        )
    return left


def read_benchmark(path: AnyPath) -> list[BenchmarkPrompt]:
    """Read all prompts of a benchmark's file or folder, in its order; a user's own prompts have no
    questions. Raises DataError, also for ids that cannot name a file each, whatever the layout."""
    path = as_path(path)
    read = layout_of(path).read
    assert read is not None, "a row that recognises files reads them"
    benchmark_prompts = read(path)
    if not benchmark_prompts:
        raise DataError(f"{path} must hold prompts, but has none.")
    ids = [prompt.id for prompt in benchmark_prompts]
    if unsafe := next(filter(None, map(unsafe_id, ids)), None):
        raise DataError(f"{path}: a prompt's id {unsafe}.")
    if clash := clashing_ids(ids):
        raise DataError(f"{path}: ids {clash[0]!r} and {clash[1]!r} differ only in case.")
    if twice := [id for id, count in Counter(ids).items() if count > 1]:
        raise DataError(f"{path}: two prompts have the id {twice[0]!r}. Each needs its own.")
    return benchmark_prompts


def benchmark_of(named: str) -> Benchmark:
    """The benchmark that a setting names: by a row's name, if it needs no file, or by its file or
    folder. Raises DataError for a file of unknown layout."""
    row = BENCHMARKS.get(named)
    return row if row is not None and row.prompts is not None else layout_of(Path(named))


def layout_of(path: Path) -> Benchmark:
    """The row whose layout a file or folder has. Raises DataError if it has none of them."""
    if not path.exists():
        raise DataError(
            f"The benchmark {path} is missing.{fetched_by(path)} Name another file, or "
            f"{', '.join(_without_file())}."
        )
    # A user's own prompts come last: other layouts may have their columns, too.
    for benchmark in sorted(BENCHMARKS.values(), key=lambda row: row is TEXTS):
        if benchmark.recognises(path):
            return benchmark
    layouts = "; ".join(row.layout for row in BENCHMARKS.values() if row.read is not None)
    raise DataError(f"{path} must be one of: {layouts}. It has none of these layouts.")


def fetched_by(path: Path) -> str:
    """A sentence with the command that brings a missing file or folder, after a space; "" if none
    does."""
    rows = [row for row in BENCHMARKS.values() if row.files]
    names = {file.name: row.name for row in rows for file in row.files} | {
        r.name: r.name for r in rows
    }
    name = names.get(path.name)
    return "" if name is None else f" Run `selma data fetch {name}`."


def measure_labelled(label: str) -> Measure:
    """The measure with the label in a scorecard. Raises ConfigError if no benchmark has it."""
    for row in BENCHMARKS.values():
        rules = [row.rules("sound"), *([row.released] if row.released else [])]
        for measure in (m for each in rules for m in (each.measure, *each.beside)):
            if measure.label == label:
                return measure
    raise ConfigError(
        f"The scores are {label}, but no benchmark has this measure. Install the package that adds "
        "the benchmark that was scored."
    )


def _without_file() -> list[str]:
    """Names of the benchmarks that need no file."""
    return [row.name for row in BENCHMARKS.values() if row.prompts is not None]
