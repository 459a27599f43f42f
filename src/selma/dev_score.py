"""What chooses checkpoints and merge weights: an adapter's score on the dev prompts.

The choosing judge gives it, which never reports, on prompts that no score is reported of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selma.config import RunConfig
from selma.records.adapters import AppliedAdapter
from selma.records.benchmarks import BenchmarkPrompt
from selma.workspace import Workspace, file_sha256

if TYPE_CHECKING:
    from selma.backbones.judges.judge import Judge
    from selma.scores.networks import ScoringNetworks


class Generate(Protocol):
    """Generates a benchmark's images; `pipeline.Stages.generate`."""

    def __call__(
        self,
        name: str,
        adapters: list[AppliedAdapter],
        prompts: list[BenchmarkPrompt],
        *,
        folder: Workspace,
    ) -> Path: ...


class DevScore:
    """Call it with an adapter's folder; the score is 0-100, and higher is better."""

    def __init__(
        self,
        config: RunConfig,
        folder: Workspace,
        generate: Generate,
        networks: Callable[[], ScoringNetworks],
    ) -> None:
        self.config = config
        self.folder = folder
        self.generate = generate
        self.networks = networks

    def __call__(self, adapter: Path, *, kind: str = "dev") -> float:
        """The adapter's score. Its images are `5-scores/images/<kind>-<key>`."""
        from selma.adapters.table import adapter_file
        from selma.scores.benchmarks import dev_benchmark_of
        from selma.scores.scoring import benchmark_score

        key = file_sha256(adapter_file(adapter))[:16]
        applied = AppliedAdapter(path=adapter, key=key)
        benchmark = dev_benchmark_of(self.config.scores)
        assert benchmark is not None, "its prompts were loaded"
        images = self.generate(f"{kind}-{key}", [applied], self.prompts, folder=self.folder)
        return benchmark_score(
            self.prompts,
            images,
            judge=self.judge,
            zeroing=self.config.scores.zeroing,
            measure=benchmark.measure,
        )

    @property
    def recipe(self) -> dict[str, Any]:
        """All that a score depends on beside the adapter."""
        from selma.backbones.base_files import base_fingerprint
        from selma.backbones.bases import rescale_of
        from selma.scores.answering import benchmark_hash

        base = self.config.local_base
        return {
            "judge": self.judge.fingerprint,
            "benchmark": benchmark_hash(self.prompts),
            "zeroing": self.config.scores.zeroing,
            "base": base_fingerprint(base),
            "precision": base.precision,
            "steps": self.config.benchmark_steps,
            "guidance": self.config.benchmark_guidance,
            "guidance_rescale": rescale_of(base),
            "seed": self.config.seed,
        }

    @property
    def judge(self) -> Judge:
        """The choosing judge. Raises ConfigError if it is the reporting one."""
        return self.networks().choosing_judge

    @cached_property
    def prompts(self) -> list[BenchmarkPrompt]:
        from selma.scores.benchmarks import load_benchmark

        scores = self.config.scores
        return load_benchmark(scores, split="dev", prompts=scores.dev_prompts)
