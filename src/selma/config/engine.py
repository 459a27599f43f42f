"""Where a run's work is done: in this process, in others that it or torchrun starts, or on a Ray
cluster.

No result depends on it: every item is the same to the byte, wherever it was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from selma.config.section import Section, kinds


class LocalEngine(Section):
    """This process, or all that `torchrun` or `accelerate launch` started."""

    kind: Literal["local"] = "local"
    workers: PositiveInt = Field(default=1, le=1000)
    """More than one: so many further processes of one thread each, which share the work of `selma
    run` and its six stages as Ray's workers do, and are faster on a CPU than as many threads. Each
    loads the models for itself. torchrun's processes and shards pass it over."""


class RayEngine(Section):
    """A cluster of Ray, whose workers load a model once and are handed images, answers and whole
    experts to make. The run's folder and all files that the settings name must be there under the
    same paths on every machine."""

    kind: Literal["ray"] = "ray"
    address: str | None = None
    """Of a cluster: "auto", host:port or ray://host:port. None is the one that the environment
    names (RAY_ADDRESS, as in a submitted job), else one that is started on this machine."""
    workers: PositiveInt | None = None
    """At most so many; None is as many as the cluster has room for."""
    cpus: PositiveFloat = 1
    """Cores of each worker, which are its threads, too."""
    gpus: NonNegativeFloat | None = None
    """Of each worker; None is one where the cluster has any."""
    losses: PositiveInt = Field(20, le=1000)
    """How many workers may be lost, one after another, at the same piece of work."""


if TYPE_CHECKING:
    AnyEngine = Section
else:
    AnyEngine = kinds(LocalEngine, RayEngine, group="selma.engines")
