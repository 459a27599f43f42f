"""Where other programs' means of the same name are other means: docs/paper.md has the formulas."""

from __future__ import annotations

from collections.abc import Sequence

import peft
import pytest
import torch
from torch import Tensor, nn

from selma.merged.delta_methods import Part, ties, weighted_deltas, weighted_factors
from selma.merged.lowrank import dense

WIDTHS, RANK = (6, 5), 2
UNIFORM = [(1.0,), (0.5, 0.5), (1 / 3, 1 / 3, 1 / 3)]
OTHERS = [(0.7, 0.3), (0.5, 0.3, 0.2), (1.0, 1.0), (1.0, 0.25)]


def experts(count: int) -> list[tuple[Tensor, Tensor]]:
    """A [rank, in] and B [out, rank] of each."""
    stream = torch.Generator().manual_seed(count)
    return [
        (torch.randn(RANK, WIDTHS[0], generator=stream),
         torch.randn(WIDTHS[1], RANK, generator=stream))
        for _ in range(count)
    ]  # fmt: skip


def peft_linear(factors: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]) -> Tensor:
    """The weight delta of PEFT's own add_weighted_adapter."""
    settings = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0"])
    base = nn.Sequential(nn.Linear(*WIDTHS, bias=False))
    names = [f"e{number}" for number in range(len(factors))]
    model = peft.get_peft_model(base, settings, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, settings)
    layer = model.base_model.model[0]
    for name, (a, b) in zip(names, factors, strict=True):
        layer.lora_A[name].weight.data.copy_(a)
        layer.lora_B[name].weight.data.copy_(b)
    model.add_weighted_adapter(names, list(weights), "merged", combination_type="linear")
    delta: Tensor = layer.get_delta_weight("merged").detach()
    return delta


def parts(
    factors: Sequence[tuple[Tensor, Tensor]],
    weights: Sequence[float],
    scales: Sequence[float] | None = None,
) -> list[Part]:
    scales = scales or [1.0] * len(weights)
    return [
        Part(a, b, scale=scale, weight=weight)
        for (a, b), weight, scale in zip(factors, weights, scales, strict=True)
    ]


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm() / second.norm())


@pytest.mark.parametrize("weights", UNIFORM + OTHERS)
def test_pefts_linear_is_the_mean_of_deltas_with_cross_terms(weights: tuple[float, ...]) -> None:
    """(Σ √w_t B_t)(Σ √w_t A_t): each expert with its weight w_t, and √(w_t w_u) B_t A_u beside."""
    factors = experts(len(weights))
    theirs = peft_linear(factors, weights)
    cross = sum(
        (weights[t] * weights[u]) ** 0.5 * factors[t][1] @ factors[u][0]
        for t in range(len(weights))
        for u in range(len(weights))
        if t != u
    )
    mean = dense(weighted_deltas(parts(factors, weights)))
    torch.testing.assert_close(theirs, mean + cross, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", UNIFORM)
def test_pefts_linear_is_as_many_times_the_mean_of_factors_as_experts(
    weights: tuple[float, ...],
) -> None:
    factors = experts(len(weights))
    of_factors = dense(weighted_factors(parts(factors, weights)))
    theirs = peft_linear(factors, weights)
    torch.testing.assert_close(theirs, len(weights) * of_factors, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", [w for w in UNIFORM + OTHERS if len(w) > 1])
def test_pefts_linear_is_neither_of_the_means(weights: tuple[float, ...]) -> None:
    if weights == (1.0, 1.0):
        pytest.skip("weights of 1 are their own roots")
    given = parts(experts(len(weights)), weights)
    theirs = peft_linear(experts(len(weights)), weights)
    for method in (weighted_deltas, weighted_factors):
        assert distance(theirs, dense(method(given))) > 0.2, method.__name__


def sd_scripts(
    factors: Sequence[tuple[Tensor, Tensor]], ratios: Sequence[float], alphas: Sequence[float]
) -> Tensor:
    """What sd-scripts' networks/merge_lora.py writes: each factor times ratio √(α_t / α_1), with
    the first file's alpha."""
    sides = [
        ratio * (alpha / alphas[0]) ** 0.5 for ratio, alpha in zip(ratios, alphas, strict=True)
    ]
    a = sum(side * a for side, (a, _) in zip(sides, factors, strict=True))
    b = sum(side * b for side, (_, b) in zip(sides, factors, strict=True))
    return torch.as_tensor(alphas[0] / RANK * (b @ a))


@pytest.mark.parametrize("alphas", [(2.0, 2.0), (8.0, 8.0), (2.0, 8.0)])
def test_sd_scripts_linear_is_the_mean_of_factors_where_alphas_are_equal(
    alphas: tuple[float, float],
) -> None:
    factors, ratios = experts(2), (0.7, 0.3)
    given = parts(factors, ratios, [alpha / RANK for alpha in alphas])
    theirs = sd_scripts(factors, ratios, alphas)
    of_factors, of_deltas = dense(weighted_factors(given)), dense(weighted_deltas(given))
    assert (distance(theirs, of_factors) < 1e-6) == (alphas[0] == alphas[1])
    assert distance(theirs, of_deltas) > 0.2


@pytest.mark.parametrize(
    ("weights", "ours", "mergekits"),
    [
        ((1.0, 1.0), 3.0, 3.0),  # (2 + 4) / 2
        ((0.7, 0.3), 2.6, 2.6),
        ((1.0, -0.5), 2.0, 2.0),  # 2 and -2 disagree: the first alone
        ((-1.0, -0.5), -8 / 3, 8 / 3),  # -2 and -2: by |w| the sign stays, by w it turns
    ],
)
def test_ties_divides_by_the_sum_of_magnitudes_of_weights(
    weights: tuple[float, float], ours: float, mergekits: float
) -> None:
    """mergekit divides by Σ w of those that agree, selma by Σ |w|: they differ where a weight is
    negative and its entry counts."""
    deltas = [torch.tensor([2.0]), torch.tensor([4.0])]
    weighted = torch.cat([w * d for w, d in zip(weights, deltas, strict=True)])
    agrees = weighted.sign() == (1.0 if weighted.sum() >= 0 else -1.0)
    theirs = (weighted * agrees).sum() / (torch.tensor(weights) * agrees).sum()
    assert theirs.item() == pytest.approx(mergekits)
    assert ties(deltas, weights).item() == pytest.approx(ours)


def test_ties_with_a_negative_weight_that_agrees() -> None:
    """1 of weight 1 and -2 of weight -0.5 both ask for +1: 2 / 1.5 here, 2 / 0.5 in mergekit."""
    merged = ties([torch.tensor([1.0]), torch.tensor([-2.0])], (1.0, -0.5))
    assert merged.item() == pytest.approx(4 / 3)
