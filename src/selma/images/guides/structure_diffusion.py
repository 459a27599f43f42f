"""StructureDiffusion (arXiv:2212.05032): noun phrases are also encoded by themselves, and
cross-attention reads values of them all.

W_0 is the prompt's embedding E_0; W_j is E_0 with the rows of phrase j replaced by those of its own
embedding. Values are linear in what they are of, and their projection has no bias, so that the mean
of attention over V(W_j) is attention over V(W̄), W̄ = mean_j W_j: one more projection for a prompt,
however many phrases it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selma.backbones.families.family import Config, Family
from selma.config.guides import StructureDiffusionConfig
from selma.images.guides.guide import GuideKind, require_text_maps
from selma.images.guides.noun_phrases import noun_phrases
from selma.images.guides.token_spans import token_offsets, tokens_of
from selma.records.parses import Parse, Sets

if TYPE_CHECKING:
    from torch import Tensor

    from selma.backbones.text_to_image import Guide, Pass, TextToImage


def sets_of(text: str, parse: Parse, config: StructureDiffusionConfig) -> Sets:
    """Each phrase of the prompt as a set of one."""
    phrases = noun_phrases(parse, text, subtrees=config.phrases == "subtrees")
    return tuple((phrase,) for phrase in phrases)


def require_fit(family: Family, denoiser: Config, config: StructureDiffusionConfig) -> None:
    """Raise ConfigError unless the denoiser attends to text alone."""
    require_text_maps(family, "structure_diffusion")


@dataclass(frozen=True)
class Embeddings:
    """What attention reads of one prompt, each [tokens, width]."""

    keys: list[Tensor]
    """W_0, and in the conjunction form also each W_j: one attention over each."""
    values: Tensor
    """W̄, or in the conjunction form E_0 with every phrase's rows replaced."""


def replaced_rows(prompt: Tensor, phrases: Sequence[tuple[Tensor, Sequence[int]]]) -> list[Tensor]:
    """W_1, ..., W_k: the prompt's embedding, in each one phrase's rows replaced.

    prompt: E_0, [tokens, width].  phrases: E_j and the positions of the phrase in the prompt. E_j's
    first row is the start token's.
    """
    each = []
    for embedding, positions in phrases:
        changed = prompt.clone()
        changed[list(positions)] = embedding[1 : 1 + len(positions)]
        each.append(changed)
    return each


def all_replaced(prompt: Tensor, phrases: Sequence[tuple[Tensor, Sequence[int]]]) -> Tensor:
    """E_0 with the rows of every phrase replaced, in their order."""
    for embedding, positions in phrases:
        (prompt,) = replaced_rows(prompt, [(embedding, positions)])
    return prompt


def embeddings(
    prompt: Tensor,
    phrases: Sequence[tuple[Tensor, Sequence[int]]],
    config: StructureDiffusionConfig,
) -> Embeddings:
    """What attention reads of a prompt with these phrases; without any the prompt's own alone."""
    import torch

    if not phrases:
        return Embeddings([prompt], prompt)
    each = [prompt, *replaced_rows(prompt, phrases)]
    if config.form == "values":
        return Embeddings([prompt], torch.stack(each).mean(0))
    values = all_replaced(prompt, phrases)
    if config.full_prompt_key == "replaced":
        each[0] = values
    return Embeddings(each, values)


class StructureDiffusion:
    """The guide of one model."""

    def __init__(
        self, model: TextToImage, sets: Mapping[str, Sets], config: StructureDiffusionConfig
    ) -> None:
        self.model, self.sets, self.config = model, sets, config

    @contextmanager
    def __call__(self, images: Pass) -> Iterator[None]:
        """While the block runs, attention to these images' prompts is the method's."""
        import torch

        from selma.images.guides.attention_maps import processors_within

        if not any(self.sets.get(text) for text in images.texts):
            yield
            return
        with torch.no_grad():
            each = self._embeddings(images.texts)
        filled = [_filled(read.keys, each) for read in each]
        keys = [torch.stack(rows) for rows in zip(*filled, strict=True)]
        weights = torch.zeros(len(keys), len(each), 1, 1, device=keys[0].device)
        for row, read in enumerate(each):
            weights[: len(read.keys), row] = 1 / len(read.keys)
        reading = Reading(keys, torch.stack([e.values for e in each]), weights.to(keys[0].dtype))
        with processors_within(self.model.denoiser, lambda base: _Structured(base, reading)):
            yield

    def _embeddings(self, texts: Sequence[str]) -> list[Embeddings]:
        prompts = self.model.features(texts, guided=False).positive.text
        by_text: dict[str, list[tuple[Tensor, list[int]]]] = {}
        for text in dict.fromkeys(texts):
            by_text[text] = self._phrases(text)
        return [
            embeddings(prompt, by_text[text], self.config)
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    def _phrases(self, text: str) -> list[tuple[Tensor, list[int]]]:
        """Each phrase's own embedding and its tokens in the prompt, as far as they are read."""
        offsets = token_offsets(self.model.tokenizers[0], text)
        phrases = []
        for (span,) in self.sets.get(text, ()):
            positions = tokens_of(span, offsets)
            if positions:
                alone = self.model.features([text[slice(*span)]], guided=False)
                phrases.append((alone.positive.text[0], positions))
        return phrases


def _filled(keys: list[Tensor], each: Sequence[Embeddings]) -> list[Tensor]:
    """As many as the prompt with the most has; what is added counts nothing."""
    most = max(len(other.keys) for other in each)
    return keys + [keys[0]] * (most - len(keys))


@dataclass(frozen=True)
class Reading:
    """What attention reads of a pass's prompts."""

    keys: list[Tensor]
    """Each [b, tokens, width]; the outputs of one attention over each are added up."""
    values: Tensor
    """[b, tokens, width]."""
    weights: Tensor
    """Of each of the keys' outputs, [keys, b, 1, 1]."""


class _Structured:
    """An attention processor that has another read these keys and values in its pass's last rows,
    which are the prompts'; rows before them are the empty prompt's, and stay."""

    def __init__(self, processor: Any, reading: Reading) -> None:
        self.processor, self.reading = processor, reading

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        keys, values, weights = self.reading.keys, self.reading.values, self.reading.weights
        first = len(encoder_hidden_states) - len(values)

        def among(rows: Tensor) -> Tensor:
            import torch

            return torch.cat([encoder_hidden_states[:first], rows.to(encoder_hidden_states.dtype)])

        hook = attn.to_v.register_forward_pre_hook(lambda module, inputs: (among(values),))
        try:
            outputs = [
                self.processor(attn, hidden_states, among(key), attention_mask, **more)
                for key in keys
            ]
        finally:
            hook.remove()
        if len(outputs) == 1:
            return outputs[0]
        sums = outputs[0].clone()
        sums[first:] = sum(w * output[first:] for w, output in zip(weights, outputs, strict=True))
        return sums


def load(model: TextToImage, sets: Mapping[str, Sets], settings: Any) -> Guide:
    """What guides the model."""
    return StructureDiffusion(model, sets, settings)


STRUCTURE = GuideKind(
    name="structure_diffusion",
    settings=StructureDiffusionConfig,
    sets=sets_of,
    parsed_by=frozenset({"phrases"}),
    require_fit=require_fit,
    load=load,
)
