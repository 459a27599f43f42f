"""Mistakes in the settings of `selma control` that are found before a model library is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from selma.applications.control.settings import (
    BranchNetwork,
    ControlRun,
    NetworkConfig,
    label_of,
)
from selma.preflight import absent, block_mistakes, weightless


def mistakes(
    config: ControlRun, make: Sequence[str], networks: Iterable[NetworkConfig] = ()
) -> Iterator[str]:
    """Mistakes that would stop the stages in `make`; `networks` are trained beside the run's."""
    control = config.control
    yield from weightless(config)
    yield from absent(control, "control")
    own = control.network
    for network in (own, *(network for network in networks if network != own)):
        if isinstance(network, BranchNetwork):
            for mistake in block_mistakes(network.adapter, config.base):
                yield f"control.network, {label_of(network)}: {mistake}"
