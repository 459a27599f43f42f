"""Toybox's own benchmark: prompts about its drawn world, with a dev split to choose on."""

from __future__ import annotations

from selma.records.benchmarks import BenchmarkPrompt
from selma.scores.benchmarks.layouts import Benchmark, Split
from selma.scores.measures import DSG


def _prompts(split: Split) -> list[BenchmarkPrompt]:
    from selma.toybox.benchmark import benchmark_prompts

    return benchmark_prompts(split)


TOYBOX = Benchmark(
    name="toybox",
    layout="toybox, which needs no file",
    measure=DSG,
    prompts=_prompts,
    splits=("dev", "test"),
)
