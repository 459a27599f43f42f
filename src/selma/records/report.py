"""Everything that stage 6 reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selma.records.benchmarks import Answer, BenchmarkPrompt
from selma.records.experts import Expert
from selma.records.images import Pair, PreferenceCount, Survivors
from selma.records.judges import Checked
from selma.records.merged import Merged
from selma.records.prompts import Prompt
from selma.records.scores import MeasureInfo, Scorecard


@dataclass(frozen=True)
class Findings:
    """A run's results, for its report."""

    settings: dict[str, Any]
    prompts: Mapping[str, Sequence[Prompt]]
    """Skill → the prompts kept."""
    dropped: dict[str, dict[str, int]]
    """Skill → reason → how many texts were dropped for it."""
    pairs: Mapping[str, Sequence[Pair]]
    experts: list[Expert]
    merged: Merged
    benchmark_prompts: list[BenchmarkPrompt]
    images: dict[str, Path]
    """Model → folder with one <prompt id>.png for each benchmark prompt, and where there are
    several seeds <prompt id>-1.png and so on."""
    answers: Mapping[str, Iterable[Answer]]
    """"base" and "merged" → the reporting judge's raw answers, which may be read each time."""
    scorecard: Scorecard
    measure: MeasureInfo
    """The measure of the scorecard's scores."""
    journal: Iterable[Mapping[str, Any]] = ()
    """Lines with "stage", "seconds" and costs, in order; times live here and nowhere else."""
    lineage: dict[str, str] = field(default_factory=dict)
    """Base fingerprint, versions, keys of the items that led here."""
    diagnostics: dict[str, Any] = field(default_factory=dict)
    """Of the merge (`merged.diagnostics`); empty if not computed."""
    trials: list[dict[str, Any]] = field(default_factory=list)
    """Every merge that was tried (`merged.searching`); empty if weights were given."""
    energies: dict[str, Any] = field(default_factory=dict)
    """Skill → hyperspherical energy of each layer before and after, for rotation experts
    (`adapters.rotations.oft.energies`)."""
    hps: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model → its result on HPS's benchmark (`scores.hps`), for the run's models."""
    replies: dict[str, dict[str, int]] = field(default_factory=dict)
    """Skill → what became of the model's replies → how many; their sum is that of all replies."""
    survivors: dict[str, Survivors] = field(default_factory=dict)
    """Skill → what choosing by thresholds left of its prompts; empty if there are none."""
    preferences: dict[str, PreferenceCount] = field(default_factory=dict)
    """Skill → what making pairs of winner and loser left; empty if experts learn from none."""
    benchmark_over_limit: int = 0
    """Benchmark prompts that the text encoder does not read to their end."""
    keys: dict[str, str] = field(default_factory=dict)
    """Part of the run → its key, by which a page (`records.pages`) is recognised as out of date."""
    checks: dict[str, Checked] = field(default_factory=dict)
    """Fingerprint of each judge that was checked itself → what was found of it."""
    further: dict[str, Findings] = field(default_factory=dict)
    """Further benchmark → the same run's findings on it."""
