"""Load a run's models and serve them: what `selma serve` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from selma.applications.loading import read_run_file
from selma.capacity import work_of_generation
from selma.config import RunConfig
from selma.errors import ConfigError
from selma.paths import AnyPath, as_path
from selma.pipeline import Stages
from selma.records.adapters import AppliedAdapter
from selma.versions import versions
from selma.workspace import Workspace, recipe_key

_DRAW_WITH = ("torch", "diffusers", "transformers")


def serve_models(
    run: AnyPath,
    *,
    host: str = "127.0.0.1",
    port: int = 8643,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a finished run's base, experts and merged model until a signal comes.

    Raises ConfigError or WorkspaceError if stages 1 to 4 are not finished, or the port is taken.
    """
    run = as_path(run)
    try:
        from selma.applications.serving.drawing import Drawing
        from selma.applications.serving.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The models are served by {error.name}, which is not installed: "
            "pip install 'selma[serve]'."
        ) from error
    config = read_run_file(run)
    stages = Stages(config, Workspace(run), make=[], work=lambda c: [work_of_generation(c)])
    experts = stages.all_experts()
    models = stages.adapters_by_model(experts, stages.merge_experts(experts))
    prints = fingerprints(config, stages.base_key(), models)
    drawing = Drawing(
        stages.model(),
        models,
        fingerprints=prints,
        steps=config.benchmark_steps,
        guidance=config.benchmark_guidance,
    )
    with drawing:
        serve(drawing, host=host, port=port, say=say)


def fingerprints(
    config: RunConfig, base: str, models: Mapping[str, Sequence[AppliedAdapter]]
) -> dict[str, str]:
    """Model → what tells its images from those of another by this name: weights, precision and the
    versions that draw them. base: the base's key."""
    own = {"base": base, "precision": config.local_base.precision, "with": versions(_DRAW_WITH)}
    return {
        name: recipe_key(own | {"adapters": [adapter.recipe for adapter in adapters]})
        for name, adapters in models.items()
    }
