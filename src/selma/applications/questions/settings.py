"""Settings of `selma questions`, and which language model the command names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

from selma.config import RunConfig, load_config, parse_config
from selma.config.networks import LanguageModelConfig, LocalLLM, ServedLLM
from selma.config.section import Section
from selma.errors import ConfigError


class QuestionsConfig(Section):
    style: Literal["dsg", "tifa"] = "dsg"
    """DSG's yes/no questions with dependencies, or TIFA's multiple choice."""
    backend: LanguageModelConfig = LocalLLM()
    attempts: PositiveInt = 3
    """How often one step is asked for before its prompt is put aside."""
    temperature: NonNegativeFloat = 0.0
    """Of first attempts; further ones take at least 0.7, since the same reply would come again."""
    max_new_tokens: PositiveInt = 2048
    patience: PositiveInt = 20
    """Stop with a report after this many prompts in a row that gave nothing."""
    seed: NonNegativeInt = 0


def backend_of(
    backend: str | None,
    *,
    model: str | None = None,
    base_url: str | None = None,
    others: Collection[str] = (),
) -> LocalLLM | ServedLLM:
    """The language model that is meant. Raises ConfigError.

    backend: a YAML file (a run's config, whose `prompts.backend` it is, or that section alone), or
    a local model as `prompts.backend.model` takes it. model, base_url: one on a server instead.
    others: sections of a run's config that are no settings of a run.
    """
    if (backend is None) == (model is None):
        raise ConfigError(
            "One language model must be named: --backend (a YAML file, or a local model), or "
            "--model (one on a server, with --base-url)."
        )
    if model is not None:
        return ServedLLM(model=model, base_url=base_url)
    assert backend is not None
    if base_url is not None:
        raise ConfigError("--base-url belongs to --model; a file of settings has its own.")
    if not backend.endswith((".yaml", ".yml")):
        return LocalLLM(model=backend)
    path = Path(backend)
    section = _section(path)
    if section is None:
        return load_config(path, RunConfig, others).prompts.backend
    settings = {"name": "questions", "prompts": {"backend": section}}
    return parse_config(settings, RunConfig, origin=path, folder=path.parent).prompts.backend


def questions_config(**given: Any) -> QuestionsConfig:
    """The settings. Raises ConfigError."""
    try:
        return QuestionsConfig.model_validate(given)
    except ValidationError as error:
        what = error.errors()[0]
        raise ConfigError(
            f"{what['loc'][0]}: {what['msg']}, but {what['input']!r:.80} came."
        ) from error


def _section(path: Path) -> dict[str, Any] | None:
    """The file's mapping, if it is a language model's section alone."""
    try:
        section = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None  # to be told by the reader of configs
    return section if isinstance(section, dict) and "kind" in section else None
