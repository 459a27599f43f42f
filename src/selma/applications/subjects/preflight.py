"""Mistakes in the settings of `selma subjects` that are found before a model library is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selma.applications.subjects.settings import SubjectsRun
from selma.config.adapters import FullConfig
from selma.preflight import absent, block_mistakes, weightless


def mistakes(config: SubjectsRun, make: Sequence[str]) -> Iterator[str]:
    """Mistakes that would stop the stages in `make`."""
    yield from weightless(config)
    yield from absent(config.subjects, "subjects")
    precision = getattr(config.base, "precision", None)
    for name, method in config.subjects.methods.items():
        if isinstance(method.adapter, FullConfig) and precision not in (None, "fp32"):
            yield f"subjects.methods.{name}: full fine-tuning needs base.precision fp32."
        for mistake in block_mistakes(method.adapter, config.base):
            yield f"subjects.methods.{name}: {mistake}"
