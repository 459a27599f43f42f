"""The SUR-adapter (arXiv:2305.05189): features of plain prompts become those of keyword prompts.

It stands between the frozen text encoders and the denoiser, one block for each encoder (SDXL has
two) and one for SDXL's pooled vector. x are an encoder's features, [b, tokens, width].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from selma.config.adapters import SurConfig
from selma.errors import AdapterError
from selma.plurals import counted

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage


COMMON = "common_"
"""Before the number of a block, the name of what is taken from its changes."""


@dataclass(frozen=True)
class Widths:
    """The features that an adapter is made for."""

    text: tuple[int, ...]
    """Of each encoder; their features lie side by side."""
    pooled: int | None = None
    """Of SDXL's pooled vector."""

    @property
    def all(self) -> tuple[int, ...]:
        """One for each block."""
        return self.text if self.pooled is None else (*self.text, self.pooled)


@dataclass(frozen=True)
class Adapted:
    """Adapted features of a batch of prompts."""

    text: Tensor
    """[b, tokens, sum of widths]."""
    pooled: Tensor | None
    queries: tuple[Tensor, ...]
    """[b, tokens, width] of each block (one token of the pooled vector): what is distilled into."""


@dataclass(frozen=True)
class Changes:
    """What the blocks make of a batch of prompts, before it is mixed with the features."""

    features: tuple[Tensor, ...]
    """[b, tokens, width] of each block, in float32 (one token of the pooled vector)."""
    changes: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]

    @property
    def common(self) -> tuple[Tensor, ...]:
        """[tokens, width] of each block: the mean over the prompts."""
        return tuple(change.mean(dim=0) for change in self.changes)

    def without(self, common: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The changes less what is common to all, if anything is given as such."""
        if not common:
            return self.changes
        return tuple(change - c for change, c in zip(self.changes, common, strict=True))


class PaperBlock(nn.Module):
    """Three maps, attention that calibrates, and an output network, as the paper describes them.

    q = h3(x), k = h2(x), a = softmax(q kᵀ / √d) x + x, and g(a + h1(a)), whose last layer is zero.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.h1 = nn.Linear(width, width)
        self.h2 = nn.Linear(width, width)
        self.h3 = nn.Linear(width, width)
        # "g: fully connected network"; with one layer, h1 and g would be a single linear map.
        last = nn.Linear(width, width)
        self.g = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The change of x, and the queries; `context` is what x attends to, mostly itself."""
        queries = self.h3(x)
        a = calibrated(queries, self.h2(context), context) + x
        return self.g(a + self.h1(a)), queries


class ReleasedBlock(nn.Module):
    """The released network, under its own names: an encoder in front, whose output is distilled
    into, and one linear map at the end. Two of its parts were never used, and are not here."""

    def __init__(self, width: int, config: SurConfig) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width,
            config.heads,
            config.hidden,
            config.dropout,
            batch_first=config.attention == "tokens",
        )
        self.transformer_encoder = nn.TransformerEncoder(
            layer, config.depth, enable_nested_tensor=False
        )
        self.attention = nn.ModuleDict(
            {
                "query_layer": nn.Linear(width, width),
                "key_layer": nn.Linear(width, width),
                "output_layer": nn.Sequential(
                    nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
                ),
            }
        )
        self.fc = nn.Linear(width, width)
        nn.init.zeros_(self.fc.weight)
        if config.mix == "added":  # as released, the bias is random: no identity at the start
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The change of x, and what is distilled into; `context` is what x attends to."""
        encoded = self.transformer_encoder(x)
        parts = self.attention
        a = calibrated(parts["query_layer"](encoded), parts["key_layer"](context), context) + x
        return self.fc(parts["output_layer"](a) + a), encoded


def calibrated(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v, over the tokens of each prompt. All are [b, tokens, d]."""
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    return scores.softmax(dim=-1) @ values


def mixed(x: Tensor, change: Tensor, *, weight: float, mix: str) -> Tensor:
    """x + w g ("added"), or the released w g + (1 - w) x ("shared"). x itself where w is 0."""
    if weight == 0:
        return x
    return x + weight * change if mix == "added" else weight * change + (1 - weight) * x


class SurAdapter(nn.Module):
    """All blocks of one base, in float32.

    tokens: of a text's features. A centred adapter is for texts of that many tokens alone.
    """

    def __init__(self, config: SurConfig, widths: Widths, *, tokens: int) -> None:
        super().__init__()
        self.config = config
        self.widths = widths
        self.blocks = nn.ModuleList(
            PaperBlock(width) if config.form == "paper" else ReleasedBlock(width, config)
            for width in widths.all
        )
        for number, width in enumerate(widths.all if config.centred else ()):
            rows = tokens if number < len(widths.text) else 1
            self.register_buffer(f"{COMMON}{number}", torch.zeros(rows, width))

    @property
    def common(self) -> tuple[Tensor, ...]:
        """[tokens, width] for each block: what is taken from its changes; empty if not centred."""
        return tuple(tensor for _, tensor in sorted(self.named_buffers(recurse=False)))

    def centre(self, references: Changes) -> None:
        """From now on take from all changes the mean of these, those of some prompts."""
        for mine, mean in zip(self.common, references.common, strict=True):
            mine.copy_(mean)

    def changes(self, text: Tensor, pooled: Tensor | None) -> Changes:
        """What the blocks make of features as `forward` takes them."""
        # Half a token's features are smaller than half precision tells apart from the others.
        with torch.autocast(text.device.type, enabled=False):
            parts = list(text.float().split(self.widths.text, dim=-1))
            if pooled is not None and self.widths.pooled is not None:
                parts.append(pooled.float().unsqueeze(1))
            seen = self._contexts(parts)
            changes, queries = zip(
                *(block(*given) for block, *given in zip(self.blocks, parts, seen, strict=True)),
                strict=True,
            )
        return Changes(tuple(parts), changes, queries)

    def forward(
        self,
        text: Tensor,
        pooled: Tensor | None,
        *,
        strength: float = 1.0,
        references: Changes | None = None,
    ) -> Adapted:
        """text: [b, tokens, sum of widths], pooled: [b, width] or None, of any float type.

        The result has the type of what came. `strength` multiplies the mixing weight. A centred
        adapter takes the references' mean from all changes, as `centre` would. Raises AdapterError
        if it was centred on texts of another length.
        """
        made = self.changes(text, pooled)
        common = self.common if references is None or not self.common else references.common
        if common and common[0].shape[0] != text.shape[1]:
            raise AdapterError(
                f"The SUR-adapter was trained on texts of {common[0].shape[0]} tokens, but this "
                f"one has {text.shape[1]}. Set sur.adapter.centred to false to train one for any."
            )
        weight = strength * self.config.weight
        with torch.autocast(text.device.type, enabled=False):
            results = [
                mixed(x, change, weight=weight, mix=self.config.mix)
                for x, change in zip(made.features, made.without(common), strict=True)
            ]
        count = len(self.widths.text)
        return Adapted(
            text=torch.cat(results[:count], dim=-1).to(text.dtype),
            pooled=results[count].squeeze(1).to(text.dtype) if len(results) > count else pooled,
            queries=made.queries,
        )

    def _contexts(self, parts: list[Tensor]) -> list[Tensor]:
        """What each part attends to: itself; the pooled vector also to the tokens that it was
        pooled from, as its queries would otherwise have nothing to choose from."""
        *tokens, last = parts
        pooled = len(parts) > len(self.widths.text)
        if not pooled or last.shape[-1] != tokens[-1].shape[-1]:
            return parts
        return [*tokens, torch.cat([last, tokens[-1]], dim=1)]


def make(config: SurConfig, widths: Widths, *, tokens: int, seed: int) -> SurAdapter:
    """A new adapter for texts of this many tokens; equal seeds give equal weights. Raises
    AdapterError."""
    if config.form == "released" and (odd := [w for w in widths.all if w % config.heads]):
        raise AdapterError(
            f"sur.adapter.heads must divide the features' width, but {config.heads} does not "
            f"divide {odd[0]}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SurAdapter(config, widths, tokens=tokens)


def widths_of(model: TextToImage) -> Widths:
    """The features that this base's text encoders give."""
    return Widths(*model.family.feature_widths(model.pipe))


def require_fit(adapter: SurAdapter, model: TextToImage) -> None:
    """Raise AdapterError unless the adapter was made for features like this base's."""
    mine, theirs = adapter.widths, widths_of(model)
    if mine != theirs:
        raise AdapterError(
            f"The SUR-adapter is made for text features of {list(mine.all)}, but this base gives "
            f"{list(theirs.all)}. Train one for this base."
        )


def restored(config: SurConfig, widths: Widths, tensors: Mapping[str, Tensor]) -> SurAdapter:
    """The adapter with these weights, frozen. Raises AdapterError unless every tensor has its
    place and every place its tensor."""
    first = tensors.get(f"{COMMON}0")
    tokens = 1 if first is None or not first.ndim else len(first)
    with torch.device("meta"):
        adapter = make(config, widths, tokens=tokens, seed=0)
    wanted = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := sorted(
        name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)
    ):
        name = wrong[0]
        raise AdapterError(
            f"A SUR-adapter of this form has {name} of {list(wanted.get(name, ())) or 'no shape'}, "
            f"but the file has {list(shapes.get(name, ())) or 'none'}; "
            f"{counted(len(wrong), 'tensor differs', 'tensors differ')}."
        )
    adapter.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    return adapter.eval().requires_grad_(False)


def as_settings(config: SurConfig, widths: Widths) -> dict[str, Any]:
    """The settings in an adapter's file."""
    return {
        "adapter": config.model_dump(mode="json"),
        "widths": {"text": list(widths.text), "pooled": widths.pooled},
    }
