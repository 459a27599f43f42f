"""Mistakes in the settings of `selma control` that are found before a model library is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selma.applications.control.settings import BranchNetwork, ControlRun, label_of
from selma.preflight import absent, block_mistakes


def mistakes(config: ControlRun, make: Sequence[str]) -> Iterator[str]:
    """Mistakes that would stop the stages in `make`."""
    control = config.control
    yield from absent(control, "control")
    if isinstance(control.network, BranchNetwork):
        for mistake in block_mistakes(control.network.adapter, config.base):
            yield f"control.network, {label_of(control.network)}: {mistake}"
