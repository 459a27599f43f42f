"""The language model that a config names, and what tells it from another.

Importing this loads no model library; `load_language_model` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selma.backbones.hub import file_digest, weights_digest
from selma.backbones.language.model import LanguageModel, Note
from selma.config.networks import LocalLLM, ServedLLM
from selma.config.places import bare_address


def load_language_model(
    backend: LocalLLM | ServedLLM, *, note: Note | None = None, spent: float = 0.0
) -> LanguageModel:
    """The model that a config names. `note` receives one record for each request to a server;
    `spent` is what earlier requests have cost, for the limit on cost."""
    if isinstance(backend, ServedLLM):
        from selma.backbones.language.served import ServedModel

        return ServedModel(backend, note=note, spent=spent)
    from selma.backbones.language.local import LocalModel

    return LocalModel(backend)


def model_identity(backend: LocalLLM | ServedLLM) -> dict[str, Any]:
    """What tells this model's replies from another's, as JSON; free of keys and of torch."""
    if isinstance(backend, ServedLLM):
        return {"kind": "openai", "model": backend.model, "server": bare_address(backend.base_url)}
    identity = {"kind": "local", "model": backend.model, "batch_size": backend.batch_size}
    if backend.model == "smollm2":
        from selma.backbones.language.smollm2 import gguf_file

        return identity | {"weights": file_digest(gguf_file())}
    weights = weights_digest(backend.model, backend.revision, setting="prompts.backend.model")
    return identity | {"model": Path(backend.model).name, "weights": weights}
