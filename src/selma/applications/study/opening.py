"""Plan a run's study and serve its page: what `selma study serve` does."""

from __future__ import annotations

from collections.abc import Callable

from selma.applications.loading import read_run_file
from selma.applications.study.database import study_file
from selma.applications.study.plan import PAPER_PROMPTS, plan_study
from selma.errors import ConfigError
from selma.paths import AnyPath, as_path
from selma.scores.benchmarks import load_benchmark


def serve_study(
    run: AnyPath,
    *,
    models: tuple[str, str] = ("base", "merged"),
    prompts: int = PAPER_PROMPTS,
    seed: int = 0,
    name: str = "votes",
    host: str = "127.0.0.1",
    port: int = 8642,
    say: Callable[[str], None] = print,
) -> None:
    """Serve two models' images of a run's benchmark prompts until a signal comes.

    models: the reference, then the model whose wins are counted. Votes are stored in the run's
    `study/<name>.sqlite`; the same arguments resume the study. Raises WorkspaceError if a model's
    images are not finished, or the file holds a study of other arguments.
    """
    run = as_path(run)
    try:
        from selma.applications.study.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The page is served by {error.name}, which is not installed: "
            "pip install 'selma[study]'."
        ) from error
    config = read_run_file(run)
    study = plan_study(
        run, load_benchmark(config.scores), models=models, prompts=prompts, seed=seed
    )
    serve(study_file(run, name), study, run, host=host, port=port, say=say)
