"""Which of several choices is nearest to an answer in meaning, by sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from selma.backbones.hub import folder_digest
from selma.backbones.quiet import quiet
from selma.errors import ModelError
from selma.paths import require_path

EMBEDDED = "wordllama"
"""Static word embeddings whose weights come in a wheel: no download, other nearest choices."""


def load_matcher(name: str) -> Any:
    """Answers and the choices of each → places of the nearest choices; first among equals.

    name: "wordllama", or a folder or Hub id of a transformers encoder whose sentence vector is the
    mean over its tokens, as all-mpnet-base-v2's is. Raises ModelError.
    """
    require_path(name)
    embed = _wordllama() if name == EMBEDDED else _mean_pooling(name)

    def match(answers: Sequence[str], choices: Sequence[Sequence[str]]) -> list[int]:
        texts = list(dict.fromkeys([*answers, *(c for of_one in choices for c in of_one)]))
        vector = dict(zip(texts, embed(texts), strict=True))
        return [
            max(range(len(of_one)), key=lambda i: (float(vector[answer] @ vector[of_one[i]]), -i))
            for answer, of_one in zip(answers, choices, strict=True)
        ]

    return match


def matcher_identity(name: str) -> list[str]:
    """What tells this matcher's choices from another's; loads nothing."""
    if name == EMBEDDED:
        try:
            return [name, version("wordllama")]
        except PackageNotFoundError:
            return [name, "not installed"]
    return [Path(name).name, folder_digest(Path(name))[:16]] if Path(name).is_dir() else [name]


def _wordllama() -> Any:
    try:
        import wordllama
    except ImportError as error:
        raise ModelError(
            "The matcher wordllama needs the package of that name: pip install 'selma[scores]'."
        ) from error
    # The wheel's files lie as in a cache, in its own folder; nowhere else are they looked for.
    own = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=own, disable_download=True)
    return lambda texts: model.embed(texts, norm=True)


def _mean_pooling(name: str) -> Any:
    import torch
    from transformers import AutoModel, AutoTokenizer

    quiet("transformers")
    local = Path(name).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
        model = AutoModel.from_pretrained(name, local_files_only=local, use_safetensors=True).eval()
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"The matcher {name} must be a transformers encoder, but cannot be loaded: {error}. "
            f"Where there is no network, {EMBEDDED} is one that comes along."
        ) from error

    def embed(texts: Sequence[str]) -> Any:
        rows = []
        with torch.inference_mode():
            # One text at a time is slow, but padding would move the last bits of its neighbours.
            for text in texts:
                inputs = tokenizer(text, truncation=True, return_tensors="pt")
                mean = model(**inputs).last_hidden_state.mean(dim=1)[0]
                rows.append(torch.nn.functional.normalize(mean, dim=0).numpy())
        return rows

    return embed
