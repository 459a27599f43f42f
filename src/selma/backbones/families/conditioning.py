"""What a denoiser is told of each sample beside its noisy latents and their time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


MASK = "mask"
"""Among what no other field holds, [b, tokens]: which tokens are text, and which fill up."""


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """One row for each sample in every tensor. A family fills the fields that its denoiser takes,
    by name."""

    text: Tensor
    """[b, tokens, width]."""
    pooled: Tensor | None = None
    """[b, width], of one vector for each prompt."""
    time_ids: Tensor | None = None
    """[b, 6]: original height and width, top and left of the crop, target height and width."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What no other field holds, under the names that the family gives it."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name; those of `extra` among them."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        return {name: part for name, part in (named | dict(self.extra)).items() if part is not None}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Conditioning:
        """What `tensors` gave, as it was."""
        own = {f.name for f in fields(Conditioning)} - {"extra"}
        return Conditioning(
            **{name: part for name, part in tensors.items() if name in own},
            extra={name: part for name, part in tensors.items() if name not in own},
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """The same of changed tensors."""
        return Conditioning.of({name: change(part) for name, part in self.tensors().items()})

    def to(self, target: torch.device | torch.dtype) -> Conditioning:
        """On this device, or its floating-point tensors of this type."""
        import torch

        if isinstance(target, torch.device):
            return self.map(lambda part: part.to(target))
        return self.map(lambda part: part.to(target) if part.is_floating_point() else part)

    def followed_by(self, other: Conditioning) -> Conditioning:
        """The rows of both, of the tensors that both have."""
        import torch

        own, others = (known.tensors() for known in self._aligned(other))
        return Conditioning.of(
            {n: torch.cat([part, others[n]]) for n, part in own.items() if n in others}
        )

    def filled_up(self, tokens: int) -> Conditioning:
        """The same with texts of so many tokens, if these are more; masked where they are new."""
        from torch.nn.functional import pad

        short = tokens - self.text.shape[1]
        if short <= 0 or MASK not in self.extra:
            return self
        mask = pad(self.extra[MASK], (0, short))
        text = pad(self.text, (0, 0, 0, short))
        return replace(self, text=text, extra={**self.extra, MASK: mask})

    def _aligned(self, other: Conditioning) -> tuple[Conditioning, Conditioning]:
        """Both with texts of as many tokens."""
        tokens = max(self.text.shape[1], other.text.shape[1])
        return self.filled_up(tokens), other.filled_up(tokens)

    def where(self, rows: Tensor, other: Conditioning) -> Conditioning:
        """With the tensors of `other` in these rows, [b] of booleans; what `other` lacks stays."""
        import torch

        own, other = self._aligned(other)
        others = other.tensors()

        def chosen(name: str, part: Tensor) -> Tensor:
            if name not in others:
                return part
            return torch.where(rows.view(-1, *[1] * (part.dim() - 1)), others[name], part)

        return Conditioning.of({name: chosen(name, part) for name, part in own.tensors().items()})


@dataclass(frozen=True, kw_only=True)
class PromptFeatures:
    """What the text encoders make of the prompts of one pass, and of the empty prompt."""

    positive: Conditioning
    negative: Conditioning | None
    """The empty prompt's, a row for each of the positive ones; None without guidance."""
