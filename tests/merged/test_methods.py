"""The algebra of merging, method by method; references are named."""

import inspect
from pkgutil import resolve_name

import pytest
import torch

from selma.config.merged import MergedConfig
from selma.merged.delta_methods import (
    Part,
    aligned,
    elected_sign,
    knots,
    ties,
    ties_of_factors,
    weighted_deltas,
    weighted_factors,
)
from selma.merged.deltas import merged_factors
from selma.merged.lowrank import dense, factored, singular, smallest_rank, stacked, truncated
from selma.merged.methods import METHODS
from selma.merged.planning import planned
from selma.merged.settings import Cut, Rescaled, Trimmed
from selma.merged.trimming import kept_by_chance, seed_of, threshold, trimmed


def factors(*ranks, wide=7, narrow=5):
    torch.manual_seed(sum(ranks))
    return [(torch.randn(r, narrow), torch.randn(wide, r)) for r in ranks]


def weighed(experts, weights):
    return [Part(a, b, scale=1.0, weight=w) for (a, b), w in zip(experts, weights, strict=True)]


def merged(each, **settings):
    return merged_factors(each, planned(MergedConfig(**settings), {}))


def svd_of_mean(experts, weights, **settings):
    return merged(weighed(experts, weights), method="svd", **settings)


def parts(*ranks, weight=1.0, scale=1.0, **size):
    return [Part(a, b, scale=scale, weight=weight) for a, b in factors(*ranks, **size)]


def test_mean_of_deltas_is_the_weighted_sum_of_changes():
    experts, weights = factors(2, 3, 1), [0.5, 0.3, -0.2]
    a, b = weighted_deltas(weighed(experts, weights))
    assert a.shape == (6, 5)
    expected = sum(w * (b @ a) for (a, b), w in zip(experts, weights, strict=True))
    torch.testing.assert_close(b @ a, expected)


def test_mean_of_factors_has_the_cross_terms():
    experts, weights = factors(2, 2, 2), [0.2, 0.3, 0.5]
    a, b = weighted_factors(weighed(experts, weights))
    expected = sum(
        ws * wt * (bs @ at)
        for (_, bs), ws in zip(experts, weights, strict=True)
        for (at, _), wt in zip(experts, weights, strict=True)
    )
    assert a.shape == (2, 5)
    torch.testing.assert_close(b @ a, expected)
    exact_a, exact_b = weighted_deltas(weighed(experts, weights))
    assert not torch.allclose(b @ a, exact_b @ exact_a, atol=0.1)  # they are different merges


def test_mean_of_deltas_does_not_depend_on_the_split_into_factors():
    (a, b), other = factors(3, 3)
    mix = torch.randn(3, 3) + 3 * torch.eye(3)
    split = (mix @ a, b @ torch.linalg.inv(mix))
    one_a, one_b = weighted_deltas(weighed([(a, b), other], [0.5, 0.5]))
    two_a, two_b = weighted_deltas(weighed([split, other], [0.5, 0.5]))
    torch.testing.assert_close(one_b @ one_a, two_b @ two_a, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["mean_of_deltas", "mean_of_factors", "sum_of_deltas"])
def test_one_expert_is_itself_bit_for_bit(name):
    (one,) = parts(4)
    a, b = merged([one], method=name)
    assert torch.equal(a, one.a)
    assert torch.equal(b, one.b)


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
def test_each_row_names_a_function_that_takes_its_settings(row):
    function = resolve_name(row.function)
    parts_, *named = inspect.signature(function).parameters.values()
    assert parts_.name == "parts" and function.__doc__
    driven = {*Cut.model_fields, *Rescaled.model_fields}
    driven |= {*Trimmed.model_fields} if issubclass(row.settings, Trimmed) else set()
    assert {one.name for one in named} == row.settings.model_fields.keys() - driven


@pytest.mark.parametrize(("wide", "narrow"), [(7, 5), (5, 7), (3, 3), (20, 20)])
def test_svd_agrees_with_the_dense_one(wide, narrow):
    experts, weights = factors(2, 3, 1, wide=wide, narrow=narrow), [0.5, 0.3, -0.2]
    whole = dense(stacked(experts, weights))
    u, s, vt = torch.linalg.svd(whole, full_matrices=False)
    for rank in (1, 2, 3):
        best = (u[:, :rank] * s[:rank]) @ vt[:rank]
        found = dense(svd_of_mean(experts, weights, rank=rank))
        torch.testing.assert_close(found, best, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("max_error", [0.01, 0.2, 0.5, 0.9])
def test_the_error_budget_holds_and_no_smaller_rank_would_do(max_error):
    experts = factors(3, 4, 5, wide=20, narrow=16)
    whole = dense(stacked(experts, [1 / 3] * 3))
    a, b = svd_of_mean(experts, [1 / 3] * 3, max_error=max_error)
    rank = a.shape[0]
    assert (b @ a - whole).norm() <= max_error * whole.norm() * (1 + 1e-5)
    if rank > 1:
        less = dense(truncated(singular(stacked(experts, [1 / 3] * 3)), rank=rank - 1))
        assert (less - whole).norm() > max_error * whole.norm()


def test_the_rank_of_nothing_is_one():
    assert smallest_rank(torch.zeros(4), 0.1) == 1
    a, b = factored(torch.zeros(4, 3), rank=None, max_error=0.1)
    assert a.shape == (1, 3)
    assert torch.equal(b @ a, torch.zeros(4, 3))


@pytest.mark.parametrize("density", [0.001, 0.1, 0.2, 0.5, 0.999, 1.0])
def test_the_threshold_is_the_kth_largest_of_the_whole_vector(density):
    torch.manual_seed(1)
    pieces = [torch.randn(n, 3) * scale for n, scale in ((40, 1.0), (50, 1e-6), (7, 1e20))]
    pieces += [torch.zeros(4, 4), -torch.ones(3, 2)]
    flat = torch.cat([piece.reshape(-1) for piece in pieces]).abs()
    found = threshold(lambda: iter(pieces), density)
    wanted = int(density * len(flat))
    if density == 1:
        assert found == 0
    elif wanted == 0:
        assert found == torch.inf
    else:
        assert found == flat.sort(descending=True).values[wanted - 1]


def test_ties_is_the_papers_by_hand():
    """arXiv:2306.01708: agreeing entries are averaged, the others and zeros take no part."""
    deltas = [torch.tensor([[3.0, -1.0, 0.0, 2.0]]), torch.tensor([[1.0, 4.0, 0.0, -2.0]])]
    deltas.append(torch.tensor([[-2.0, 1.0, 5.0, 0.0]]))
    assert elected_sign(deltas).tolist() == [[1, 1, 1, 1]]
    assert ties(deltas, [1, 1, 1]).tolist() == [[2.0, 2.5, 5.0, 2.0]]
    assert ties(deltas, [1, 1, 1], normalize=False).tolist() == [[4.0, 5.0, 5.0, 2.0]]
    assert ties(deltas, [1, 0.5, 1])[0, 0] == pytest.approx((3 + 0.5) / 1.5)
    assert trimmed(deltas[0], 2.0).tolist() == [[3.0, 0.0, 0.0, 2.0]]


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.filterwarnings("ignore:The density")
def test_ties_of_factors_is_pefts(density):
    import peft
    from torch import nn

    experts = factors(3, 3, 3, wide=8, narrow=6)
    weights, alphas = [1.0, 0.5, -0.7], [3, 6, 1]
    model = None
    for place, ((a, b), alpha) in enumerate(zip(experts, alphas, strict=True)):
        config = peft.LoraConfig(r=3, lora_alpha=alpha, target_modules=["layer"])
        if model is None:
            inside = nn.Sequential()
            inside.add_module("layer", nn.Linear(6, 8, bias=False))
            model = peft.get_peft_model(inside, config, adapter_name="0")
        else:
            model.add_adapter(str(place), config)
        layer = model.base_model.model.layer
        layer.lora_A[str(place)].weight.data.copy_(a)
        layer.lora_B[str(place)].weight.data.copy_(b)
    model.add_weighted_adapter(
        ["0", "1", "2"], weights, "merged", combination_type="ties", density=density
    )
    each = [
        Part(a, b, scale=alpha / 3, weight=w)
        for (a, b), alpha, w in zip(experts, alphas, weights, strict=True)
    ]
    a, b = ties_of_factors(each, density=density)
    torch.testing.assert_close(a, layer.lora_A["merged"].weight, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(b, layer.lora_B["merged"].weight, atol=1e-6, rtol=1e-6)


def test_dare_keeps_the_expectation_and_the_share():
    values = torch.randn(200, 200)
    kept = [kept_by_chance(values, 0.25, seed) for seed in range(40)]
    shares = [float((one != 0).float().mean()) for one in kept]
    assert all(abs(share - 0.25) < 0.02 for share in shares)
    there = kept[0] != 0
    torch.testing.assert_close(kept[0][there], values[there] * 4)
    # The mean of 40 draws has a deviation of |value| sqrt(3 / 40).
    assert (sum(kept) / 40 - values).norm() / values.norm() == pytest.approx(0.274, abs=0.02)


def test_dares_seed_is_of_what_an_expert_holds():
    (a, b), (c, d) = factors(2, 2)
    assert seed_of(0, "x", a, b) == seed_of(0, "x", a.clone(), b.clone())
    others = [seed_of(1, "x", a, b), seed_of(0, "y", a, b), seed_of(0, "x", c, d)]
    assert len({seed_of(0, "x", a, b), *others}) == 4


def test_knots_takes_deltas_into_one_basis_and_back():
    each = parts(2, 3, 4, wide=20, narrow=6, scale=2.0)
    basis, shares = aligned(each)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)
    for share, part in zip(shares, each, strict=True):
        torch.testing.assert_close(basis @ share, part.delta, atol=1e-4, rtol=1e-4)


def test_knots_agrees_with_the_dense_decomposition():
    """arXiv:2410.19735: TIES on Σ Vᵀ of the deltas side by side; signs of the basis cancel."""
    each = parts(2, 2, 2, wide=12, narrow=6)
    u, s, vt = torch.linalg.svd(torch.cat([one.delta for one in each], dim=1))
    k = 6
    shares = list((s[:k, None] * vt[:k]).split(6, dim=1))
    expected = u[:, :k] @ ties(shares, [1, 1, 1])
    found = dense(knots(each))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_dense_result_keeps_to_its_rank():
    each = parts(1, 1, wide=9, narrow=8)
    a, _ = merged(each, method="ties", density=1.0)
    assert a.shape[0] == 2  # the experts' ranks together, though a pruned delta may have more
    a, _ = merged(each, method="ties", density=1.0, rank=5)
    assert a.shape[0] == 5
