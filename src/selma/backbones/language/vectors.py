"""A language model's vectors for texts, each computed once and kept by its content.

A shard is named by its own sha256, so that a damaged one is found out; what is in it is named by
the text's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.backbones.hub import model_config
from selma.backbones.language.loading import deciding_versions, load_language_model, model_identity
from selma.backbones.language.model import LanguageModel
from selma.backbones.language.smollm2 import BLOCKS
from selma.config.networks import LlmVectors, LocalLLM
from selma.errors import DataError, ModelError
from selma.plurals import counted
from selma.progress import progress
from selma.texts import quoted
from selma.workspace import file_sha256, recipe_key

if TYPE_CHECKING:
    from torch import Tensor

_BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What configs call the number of blocks."""
PER_SHARD = 256  # texts; as many are computed again after a crash


def vectors_identity(config: LlmVectors) -> dict[str, Any]:
    """What tells these vectors from others, as JSON; loads no model and no torch."""
    if config.file is not None:
        try:
            return {"file": file_sha256(Path(config.file))}
        except OSError as error:
            raise DataError(f"sur.llm.file: {config.file} cannot be read: {error}.") from error
    model = {k: v for k, v in model_identity(config.backend).items() if k != "batch_size"}
    reading = config.model_dump(mode="json", include={"layer", "pooling", "final_norm"})
    return {"model": model, **reading}


def block_count(backend: LocalLLM) -> int | None:
    """How many blocks the model has; None of one on the Hub, which is not asked for it, and where
    its config.json does not tell."""
    if backend.model == "smollm2":
        return BLOCKS
    if not Path(backend.model).is_dir():
        return None
    try:
        config = model_config(backend.model, None, setting="sur.llm.backend.model")
    except ModelError:
        return None
    text = config.get("text_config")
    counts = ((text if isinstance(text, dict) else config).get(name) for name in _BLOCKS)
    return next((count for count in counts if isinstance(count, int)), None)


def vectors(
    texts: Sequence[str],
    config: LlmVectors,
    folder: Path,
    *,
    load: Callable[..., LanguageModel] = load_language_model,
) -> Tensor:
    """[n, width] in float32, in the order of the texts.

    What `folder` holds is not computed again; the model is loaded only if a text is missing. Raises
    ModelError, and DataError for a shard that is damaged.
    """
    import torch

    if config.file is not None:
        return _from_file(texts, Path(config.file))
    cache = folder / recipe_key(
        {**vectors_identity(config), "versions": deciding_versions(config.backend)}
    )
    known = dict(_stored(cache))
    wanted = dict.fromkeys(texts)
    missing = [text for text in wanted if _digest(text) not in known]
    if missing:
        known |= dict(_compute(missing, config, cache, load))
    rows = [known[_digest(text)] for text in texts]
    if len({tuple(vector.shape) for vector in rows}) > 1:
        raise DataError(f"{cache} holds vectors of several widths. Remove it.")
    return torch.stack(rows)


def _compute(
    texts: Sequence[str], config: LlmVectors, cache: Path, load: Callable[..., LanguageModel]
) -> Iterator[tuple[str, Tensor]]:
    from selma.backbones.language.local import LocalModel
    from selma.backbones.language.states import Reading

    model = load(config.backend)
    if not isinstance(model, LocalModel):
        raise ModelError("sur.llm.backend must be a local model: a server gives no inner states.")
    reading = Reading(config.layer, config.pooling, config.final_norm)
    cache.mkdir(parents=True, exist_ok=True)
    with progress("reading prompts by the LLM", total=len(texts)) as advance:
        for start in range(0, len(texts), PER_SHARD):
            part = texts[start : start + PER_SHARD]
            shard: dict[str, Tensor] = {}
            for first in range(0, len(part), model.parallel):
                few = part[first : first + model.parallel]
                shard |= dict(zip(map(_digest, few), model.states(few, reading), strict=True))
                advance(len(few))
            _store(shard, cache)
            yield from shard.items()


def _store(shard: dict[str, Tensor], cache: Path) -> None:
    from safetensors.torch import save

    from selma.workspace import write_bytes

    data = save({name: vector.contiguous() for name, vector in sorted(shard.items())})
    write_bytes(cache / f"{hashlib.sha256(data).hexdigest()}.safetensors", data)


def _stored(cache: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors.torch import load_file

    for path in sorted(cache.glob("*.safetensors")):
        if file_sha256(path) != path.stem:
            raise DataError(f"{path} is damaged: its content is not what its name says. Remove it.")
        yield from load_file(path).items()


def _from_file(texts: Sequence[str], path: Path) -> Tensor:
    """From a dictionary of text → vector, as the released code keeps them."""
    import torch

    from selma.backbones.preference.checkpoints import read_state

    known = read_state(path)
    if absent := [text for text in texts if text not in known]:
        raise DataError(
            f"{path} must have a vector for each caption, but "
            f"{counted(len(absent), 'has', 'have')} none, {quoted(absent[0])} first."
        )
    rows = [known[text].float() for text in texts]
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise DataError(
            f"{path} must have vectors of one length, but has the shapes {sorted(shapes)[:4]}."
        )
    return torch.stack(rows)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
