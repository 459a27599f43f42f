"""SynGen's loss (arXiv:2306.08877): modifiers are near their noun and far from other words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def symmetric_kl(maps: Tensor) -> Tensor:
    """D_ij = ½ [KL(p_i‖p_j) + KL(p_j‖p_i)], natural logarithm.

    maps: [n, positions], float32 or wider, rows that sum to 1.  Returns [n, n].
    """
    # Exact zeros would be infinitely far; the released code has the same bound.
    log = maps.clamp_min(torch.finfo(torch.float32).eps).log()
    cross = maps @ log.mT  # Σ p_i log p_j
    own = cross.diagonal()
    return (own[:, None] - cross + own[None, :] - cross.mT) / 2


def binding_loss(
    attention: Tensor, sets: Sequence[Sequence[Sequence[int]]], prompt: Sequence[int]
) -> Tensor:
    """L = Σ over sets, Σ over modifiers m of D(m, n) + ½ (neg_n + neg_m), n the set's last word.

    attention: [positions, tokens], not negative.  sets: set → word → its tokens.  prompt: all
    tokens of the prompt without start and end. neg is minus the mean distance to those of them that
    are in no word of the set. A noun alone counts neg_n, unhalved. 0 without sets.
    """
    maps = attention.mT
    distances = symmetric_kl(maps / maps.sum(-1, keepdim=True))
    loss = distances.new_zeros(())
    for words in sets:
        members = {token for word in words for token in word}
        others = [token for token in prompt if token not in members]
        *modifiers, noun = words
        if not modifiers:
            loss = loss + _negative(distances, noun, others)
        for modifier in modifiers:
            near = distances[modifier][:, noun].max()
            far = _negative(distances, noun, others) + _negative(distances, modifier, others)
            loss = loss + near + far / 2
    return loss


def _negative(distances: Tensor, word: Sequence[int], others: Sequence[int]) -> Tensor:
    """Minus the mean, over the other tokens, of the distance to the word's farthest piece."""
    if not others:
        return distances.new_zeros(())
    return -distances[word][:, others].amax(0).mean()
