"""Settings of `selma questions`, and which language model the command names."""

from __future__ import annotations

from os import fspath
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from selma.applications.loading import load_config
from selma.config import RunConfig, parse_config
from selma.config.networks import LocalLLM, ServedLLM
from selma.config.questions import WrittenQuestions
from selma.config.yaml_files import read_yaml
from selma.errors import ConfigError
from selma.paths import require_path
from selma.texts import mistake_at, quoted


class QuestionsConfig(WrittenQuestions):
    """Settings of `selma questions`; not part of a run."""

    style: Literal["dsg", "tifa"] = "dsg"
    """DSG's yes/no questions with dependencies, or TIFA's multiple choice."""


def backend_of(
    backend: str | None,
    *,
    model: str | None = None,
    base_url: str | None = None,
) -> LocalLLM | ServedLLM:
    """The settings of the language model that the command names. Raises ConfigError.

    backend: a YAML file (a run's config, for its `prompts.backend`, or that section alone), or a
    local model as in `prompts.backend.model`. model, base_url: a model on a server instead.
    """
    if (backend is None) == (model is None):
        raise ConfigError(
            "One language model must be named: --backend (a YAML file, or a local model), or "
            "--model (one on a server, with --base-url)."
        )
    if model is not None:
        return ServedLLM(model=model, base_url=base_url)
    assert backend is not None
    backend = fspath(require_path(backend))
    if base_url is not None:
        raise ConfigError("--base-url belongs to --model; a file of settings has its own.")
    if not backend.endswith((".yaml", ".yml")):
        return LocalLLM(model=backend)
    path = Path(backend)
    section = _section(path)
    if section is None:
        return load_config(path).prompts.backend
    settings = {"name": "questions", "prompts": {"backend": section}}
    return parse_config(settings, RunConfig, origin=path, folder=path.parent).prompts.backend


def questions_config(**options: Any) -> QuestionsConfig:
    """The settings from the command's options. Raises ConfigError."""
    try:
        return QuestionsConfig.model_validate(options)
    except ValidationError as error:
        mistake = error.errors()[0]
        raise ConfigError(
            f"{mistake_at(mistake['loc'], mistake['msg'])}, but {quoted(mistake['input'])} came."
        ) from error


def _section(path: Path) -> dict[str, Any] | None:
    """The file's mapping, if it is a language model's section alone."""
    try:
        section = read_yaml(path)
    except (OSError, ValueError):
        return None  # the reader of configs reports what is wrong
    return section if isinstance(section, dict) and "kind" in section else None
