"""Samples → what the SUR-adapter is trained on: everything that is frozen, computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor

from selma.adapters.files import given, write_safetensors
from selma.applications.sur.records import SurSample
from selma.backbones.language.vectors import vectors
from selma.config.networks import LlmVectors
from selma.errors import DataError
from selma.experts.encoding import AT_ONCE, Encoded, encode_pairs
from selma.progress import progress
from selma.records.images import Pair
from selma.records.prompts import Prompt
from selma.workspace import EXPERTS, Workspace

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage

SKILL = "_sur"
KEYWORDS = "_sur-keywords"
FILE = "encoded.safetensors"


@dataclass(frozen=True)
class EncodedSamples:
    """All samples in memory, float32."""

    captions: Encoded
    """Images and captions."""
    keywords: Tensor
    """[n, tokens, width], features of the keyword prompts."""
    keyword_pooled: Tensor | None
    """[n, width], SDXL only."""
    mask: Tensor
    """[n, tokens], 1 where the caption has a token and no padding."""
    keyword_mask: Tensor
    vectors: Tensor
    """[n, llm], the language model's of the captions."""


def as_pairs(samples: Sequence[SurSample]) -> list[Pair]:
    """Images with their captions, as experts are trained on."""
    return [
        Pair(prompt=Prompt(id=t.id, skill=SKILL, text=t.text), image=t.image, seed=0)
        for t in samples
    ]


def encode_samples(
    samples: Sequence[SurSample],
    folder: Workspace,
    *,
    llm: LlmVectors,
    flip: bool,
    digests: Sequence[str],
    recipe: Mapping[str, Any],
    model: Callable[[], TextToImage],
) -> EncodedSamples:
    """The samples, from `3-experts/_encoded` as far as they are there.

    digests: the images' sha256.  recipe: all that features of texts and images depend on.
    """
    captions = encode_pairs(
        as_pairs(samples),
        folder,
        skill=f"{SKILL}-mirrored" if flip else SKILL,  # a variant's cache leaves another's alone
        flip=flip,
        digests=digests,
        recipe=recipe,
        model=model,
    )
    item = folder.item(EXPERTS, "_encoded", KEYWORDS, recipe={**recipe, "flip": False})
    if not item.done:
        path = item.begin() / FILE
        tensors = _keywords(model(), samples)
        write_safetensors(path, given(tensors), metadata={"format": "pt"})
        item.finish([path], {"samples": len(samples)})
    tensors = safetensors.torch.load_file(item.path / FILE)
    read = vectors([t.text for t in samples], llm, folder.root / EXPERTS / "_vectors")
    if len(read) != len(samples) or read.ndim != 2:
        raise DataError(f"{len(samples)} samples need a vector each, but {read.shape} came.")
    return EncodedSamples(
        captions=captions,
        keywords=tensors["keywords"],
        keyword_pooled=tensors.get("keyword_pooled"),
        mask=tensors["mask"],
        keyword_mask=tensors["keyword_mask"],
        vectors=read,
    )


@torch.no_grad()
def _keywords(model: TextToImage, samples: Sequence[SurSample]) -> dict[str, Tensor]:
    model.require_unadapted()
    encoded: dict[str, list[Tensor]] = {}
    with progress("encoding keyword prompts", total=len(samples)) as advance:
        for start in range(0, len(samples), AT_ONCE):
            batch = samples[start : start + AT_ONCE]
            keywords = model.text_features([t.prompt for t in batch], guided=False).positive
            parts = {
                "keywords": keywords.text,
                "keyword_pooled": keywords.pooled,
                "mask": token_mask(model, [t.text for t in batch]),
                "keyword_mask": token_mask(model, [t.prompt for t in batch]),
            }
            for name, part in parts.items():
                if part is not None:
                    encoded.setdefault(name, []).append(part.float().cpu())
            advance(len(batch))
    return {name: torch.cat(parts) for name, parts in encoded.items()}


def token_mask(model: TextToImage, texts: Sequence[str]) -> Tensor:
    """[b, tokens], 1 from the beginning to the ending token; SDXL's encoders agree in it, though
    they pad with other tokens."""
    words = model.tokenizers[0]
    return torch.as_tensor(
        words(
            list(texts),
            padding="max_length",
            max_length=words.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).attention_mask
    )
