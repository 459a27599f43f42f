"""Engines: where work is done. A new one is a module with an `EngineKind`, listed below."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from selma.config.engine import LocalEngine, RayEngine
from selma.config.section import Section
from selma.engines.engine import Engine, EngineKind
from selma.registry import Table

__all__ = ["ENGINES", "Engine", "EngineKind", "opened"]


def _local(settings: LocalEngine) -> AbstractContextManager[Engine | None]:
    if settings.workers == 1:
        return nullcontext()
    from selma.engines.on_processes import opened

    return opened(settings)


def _ray(settings: RayEngine) -> AbstractContextManager[Engine]:
    from selma.engines.on_ray import opened

    return opened(settings)


ENGINES = Table(
    "engine",
    "selma.engines",
    [EngineKind("local", LocalEngine, _local), EngineKind("ray", RayEngine, _ray)],
)


def opened(settings: Section) -> AbstractContextManager[Engine | None]:
    """The engine of these settings while the block runs; None is this process itself."""
    kind = str(getattr(settings, "kind", ""))
    return ENGINES.find(kind, setting="engine.kind").opened(settings)
