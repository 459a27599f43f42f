"""From a language model's vectors to the width of text features, as y = W v + b."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["learned", "pca", "random", "released"]


def projection(kind: Kind, vectors: Tensor, width: int, *, seed: int) -> nn.Linear:
    """The map of this kind, in float32.

    vectors: [n, llm], those that are trained on.  width: of all blocks together. "learned" takes
    gradients; "released" is drawn from the process's own chance and differs each time.
    """
    size = vectors.shape[1]
    if kind == "pca":
        linear = nn.Linear(size, width)
        weight, bias = principal(vectors, width)
        linear.weight.data, linear.bias.data = weight, bias
        return linear.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        if kind == "released":
            torch.seed()
        else:
            torch.manual_seed(seed)
        linear = nn.Linear(size, width)
    return linear.requires_grad_(kind == "learned")


def principal(vectors: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """W [width, llm] and b [width] of the vectors' principal components, largest first.

    All are divided by one number, so that the first has variance 1 and the others keep their share.
    Where there are fewer directions than `width`, the rest are zero: a softmax over them is even.
    """
    wide = vectors.double()
    mean = wide.mean(dim=0)
    _, sizes, directions = torch.linalg.svd(wide - mean, full_matrices=False)
    # A direction's sign is the algorithm's chance; its largest entry is made positive.
    largest = directions.abs().argmax(dim=1, keepdim=True)
    directions = directions * directions.gather(1, largest).sign()
    scale = sizes[0] / max(len(wide) - 1, 1) ** 0.5
    weight = wide.new_zeros(width, wide.shape[1])
    if scale > 0:
        real = directions[sizes > 1e-9 * sizes[0]][:width]
        weight[: len(real)] = real / scale
    return weight.float(), (-weight @ mean).float()


def as_tensors(linear: nn.Linear) -> Mapping[str, Tensor]:
    return {"weight": linear.weight, "bias": linear.bias}
