"""The algebra of merging."""

import pytest
import torch

from selma.merged.methods import METHODS, mean_of_deltas, mean_of_factors


def factors(*ranks, wide=7, narrow=5):
    torch.manual_seed(sum(ranks))
    return [(torch.randn(r, narrow), torch.randn(wide, r)) for r in ranks]


def test_mean_of_deltas_is_the_weighted_sum_of_changes():
    experts, weights = factors(2, 3, 1), [0.5, 0.3, -0.2]
    a, b = mean_of_deltas(experts, weights)
    assert a.shape == (6, 5)
    expected = sum(w * (b @ a) for (a, b), w in zip(experts, weights, strict=True))
    torch.testing.assert_close(b @ a, expected)


def test_mean_of_factors_has_the_cross_terms():
    experts, weights = factors(2, 2, 2), [0.2, 0.3, 0.5]
    a, b = mean_of_factors(experts, weights)
    expected = sum(
        ws * wt * (bs @ at)
        for (_, bs), ws in zip(experts, weights, strict=True)
        for (at, _), wt in zip(experts, weights, strict=True)
    )
    assert a.shape == (2, 5)
    torch.testing.assert_close(b @ a, expected)
    exact_a, exact_b = mean_of_deltas(experts, weights)
    assert not torch.allclose(b @ a, exact_b @ exact_a, atol=0.1)  # they are different merges


def test_mean_of_deltas_does_not_depend_on_the_split_into_factors():
    (a, b), other = factors(3, 3)
    mix = torch.randn(3, 3) + 3 * torch.eye(3)
    split = (mix @ a, b @ torch.linalg.inv(mix))
    one_a, one_b = mean_of_deltas([(a, b), other], [0.5, 0.5])
    two_a, two_b = mean_of_deltas([split, other], [0.5, 0.5])
    torch.testing.assert_close(one_b @ one_a, two_b @ two_a, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_one_expert_is_itself_bit_for_bit(method):
    (one,) = factors(4)
    a, b = method.function([one], [1.0])
    assert torch.equal(a, one[0])
    assert torch.equal(b, one[1])


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_the_rank_is_as_announced(method):
    experts = factors(2, 2, 2)
    a, b = method.function(experts, [1 / 3] * 3)
    assert a.shape[0] == b.shape[1] == method.rank([2, 2, 2])
