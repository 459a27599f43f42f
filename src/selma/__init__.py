"""selma makes a text-to-image model follow its prompts better, without a single human label.

The flow, each stage a folder of the run (SELMA, arXiv:2403.06952):

    1-prompts   a language model writes prompts for each skill
    2-images    the base model generates an image for each: it is its own teacher
    3-experts   one adapter is trained for each skill
    4-merged    the experts become one adapter
    5-scores    base, experts and merged model on one benchmark, judged by questions
    6-report    what was found, as one page

`selma.run(selma.load_config(path))` does all of it; `selma.pipeline` has each stage by itself.
"""

TYPE_CHECKING = False  # typing's own is an import, and here is none: see `selma.__main__`
if TYPE_CHECKING:
    from typing import Any

    from selma.adapters.converting import convert
    from selma.applications.loading import check_config, load_config
    from selma.config import RunConfig
    from selma.images.on_demand import generate
    from selma.merged.merging import merge_files
    from selma.merged.planning import merged_config
    from selma.merged.resizing import resize
    from selma.pipeline import run

__all__ = [
    "RunConfig",
    "check_config",
    "convert",
    "generate",
    "load_config",
    "merge_files",
    "merged_config",
    "resize",
    "run",
]

_HOME = {
    "RunConfig": "config",
    "check_config": "applications.loading",
    "convert": "adapters.converting",
    "generate": "images.on_demand",
    "load_config": "applications.loading",
    "merge_files": "merged.merging",
    "merged_config": "merged.planning",
    "resize": "merged.resizing",
    "run": "pipeline",
}


def __getattr__(name: str) -> "Any":
    # Imported on first use, so that `selma --help` needs no model library, nor even pydantic.
    if name not in _HOME:
        raise AttributeError(f"module 'selma' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"selma.{_HOME[name]}"), name)
