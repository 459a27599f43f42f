"""SynGen's loss: the definition's own numbers."""

from __future__ import annotations

import math

import torch

from selma.images.guides.binding import binding_loss, symmetric_kl


def distance(p: torch.Tensor, q: torch.Tensor) -> float:
    return float(((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2)


def test_the_distance_of_two_maps() -> None:
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    assert math.isclose(float((p * (p / q).log()).sum()), 0.143841, abs_tol=1e-6)
    assert math.isclose(float((q * (q / p).log()).sum()), 0.130812, abs_tol=1e-6)
    distances = symmetric_kl(torch.stack([p, q]))
    expected = torch.tensor([[0.0, 0.137327], [0.137327, 0.0]])
    torch.testing.assert_close(distances, expected, atol=1e-6, rtol=0)


def test_exact_zeros_are_far_and_finite() -> None:
    distances = symmetric_kl(torch.eye(2))
    assert 10 < distances[0, 1] < 20


def maps(tokens: int, *, seed: int = 0) -> torch.Tensor:
    """Attention [positions, tokens] of no particular sum."""
    return torch.rand(9, tokens, generator=torch.Generator().manual_seed(seed)) + 0.01


def test_the_loss_is_the_definitions_sum() -> None:
    # Tokens: 0 start, 1 "a", 2 "red", 3 and 4 "dog" in two pieces, 5 "and", 6 end.
    attention = maps(7)
    p = (attention / attention.sum(0)).T
    near = max(distance(p[2], p[3]), distance(p[2], p[4]))
    far = [
        -sum(max(distance(p[piece], p[u]) for piece in word) for u in (1, 5)) / 2
        for word in ([3, 4], [2])
    ]
    loss = binding_loss(attention, [[[2], [3, 4]]], [1, 2, 3, 4, 5])
    assert math.isclose(float(loss), near + sum(far) / 2, abs_tol=1e-5)


def test_a_noun_alone_counts_its_distance_whole_and_no_others_count_nothing() -> None:
    attention = maps(4)
    p = (attention / attention.sum(0)).T
    alone = binding_loss(attention, [[[2]]], [1, 2])
    assert math.isclose(float(alone), -distance(p[2], p[1]), abs_tol=1e-5)
    pair = binding_loss(attention, [[[1], [2]]], [1, 2])
    assert math.isclose(float(pair), distance(p[1], p[2]), abs_tol=1e-5)
    assert float(binding_loss(attention, [], [1, 2])) == 0
