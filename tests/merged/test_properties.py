"""What must hold for every method, whatever the experts are."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selma.config.merged import MergedConfig
from selma.merged.delta_methods import Part, weighted_deltas
from selma.merged.deltas import merged_factors
from selma.merged.diagnostics import Diagnostics
from selma.merged.lowrank import dense
from selma.merged.methods import METHODS
from selma.merged.planning import planned

FACTORWISE = {"mean_of_factors", "ties_of_factors"}
SETTINGS = {r.name: r.settings.model_fields for r in METHODS.values() if not r.rotates}
CUT = [name for name, has in SETTINGS.items() if "rank" in has]
EACH = [*SETTINGS, "knots with mean"]


UP_TO_FOUR = st.integers(1, 4)


@st.composite
def layers(draw, *, experts=UP_TO_FOUR, one_rank=False):
    """Parts of one layer with random factors, scales and weights."""
    count, seed = draw(experts), draw(st.integers(0, 10_000))
    wide, narrow = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    ranks = [draw(st.integers(1, 4))] * count if one_rank else None
    ranks = ranks or [draw(st.integers(1, 4)) for _ in range(count)]
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    return [
        Part(
            drawn(rank, narrow),
            drawn(wide, rank),
            scale=draw(st.sampled_from([0.5, 1.0, 2.0])),
            weight=draw(st.sampled_from([0.25, 0.5, 1.0])),
        )
        for rank in ranks
    ]


def config(method, **more):
    """The method, keeping all entries unless told otherwise."""
    name, _, mean = method.partition(" with ")
    if "density" in SETTINGS[name] and not mean:
        more = {"density": 1.0, **more}
    return MergedConfig(method=name, **more, **({"consensus": mean} if mean else {}))


def change(parts, settings):
    named = [replace(part, layer="a layer") for part in parts]
    return dense(merged_factors(named, planned(settings, {})))


def weighted(part, weight):
    return Part(part.a, part.b, scale=part.scale, weight=weight)


def near(one, other, **tolerance):
    torch.testing.assert_close(one, other, **({"atol": 2e-4, "rtol": 2e-4} | tolerance))


fast = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("method", EACH)
@fast
@given(parts=layers(experts=st.just(1)))
def test_one_expert_at_weight_one_is_itself(method, parts):
    near(change([weighted(parts[0], 1.0)], config(method)), parts[0].delta)


@pytest.mark.parametrize("method", EACH)
@fast
@given(parts=layers(one_rank=True))
def test_the_order_of_experts_does_not_matter(method, parts):
    # Half of the entries, so that pruning and chance have their part in it.
    more = {} if "mean" in method or "density" not in SETTINGS[method] else {"density": 0.5}
    settings = config(method, **more)
    if "rank" in SETTINGS[settings.method]:
        settings = settings.model_copy(update={"rank": 9})
    near(change(parts, settings), change(parts[::-1], settings))


@pytest.mark.parametrize("method", EACH)
@fast
@given(parts=layers(one_rank=True), scale=st.sampled_from([-1.0, 0.0, 0.5, 3.0]))
def test_the_global_scale_is_linear(method, parts, scale):
    near(change(parts, config(method, scale=scale)), scale * change(parts, config(method)))


@pytest.mark.parametrize("method", ["mean_of_deltas", "sum_of_deltas", "dare"])
@fast
@given(parts=layers(), factor=st.sampled_from([-2.0, 0.5, 3.0]))
def test_weights_are_linear_where_methods_only_add(method, parts, factor):
    doubled = [weighted(part, factor * part.weight) for part in parts]
    expected = factor * sum(part.weight * part.delta for part in parts)
    near(change(doubled, config(method)), expected)


@pytest.mark.parametrize("method", [name for name in EACH if name not in FACTORWISE])
@fast
@given(parts=layers())
def test_the_split_into_factors_does_not_matter(method, parts):
    again = [
        Part(2 * p.a.flip(0), p.b.flip(1) / 4, scale=2 * p.scale, weight=p.weight) for p in parts
    ]
    near(change(parts, config(method)), change(again, config(method)))


@pytest.mark.parametrize("method", CUT)
@fast
@given(parts=layers(), max_error=st.sampled_from([0.05, 0.3, 0.8]))
def test_the_error_budget_holds(method, parts, max_error):
    whole = change(parts, config(method, rank=9))  # nine is the full rank of the largest layer
    found = change(parts, config(method, max_error=max_error))
    assert (found - whole).norm() <= max_error * whole.norm() + 1e-4


@pytest.mark.parametrize("method", CUT)
@fast
@given(parts=layers(), rank=st.integers(1, 3))
def test_the_rank_holds(method, parts, rank):
    settings = config(method, rank=rank)
    a, b = merged_factors(parts, planned(settings, {}))
    assert a.shape[0] == b.shape[1] <= rank


@fast
@given(parts=layers())
def test_all_that_claims_to_be_a_mean_is_the_mean(parts):
    even = [weighted(part, 1 / len(parts)) for part in parts]
    expected = sum(part.delta for part in parts) / len(parts)
    for method in ("mean_of_deltas", "dare", "magnitude_prune", "knots with mean"):
        near(change(even, config(method, **({} if "mean" in method else {"rank": 9}))), expected)


@fast
@given(parts=layers(experts=st.integers(2, 4)))
def test_the_diagnostics_are_those_of_dense_algebra(parts):
    named = dict(zip("abcd", parts, strict=False))
    diagnostics = Diagnostics({name: part.weight for name, part in named.items()})
    merged = weighted_deltas(parts[:1])
    diagnostics.add_layer("layer", {name: part.factors for name, part in named.items()}, merged)
    found = diagnostics.summary
    total = sum(part.weight for part in parts)
    mean = sum(part.weight / total * part.delta for part in parts)
    result = dense(merged)
    error = (result - mean).norm() / mean.norm()
    cosine = (result * mean).sum() / (result.norm() * mean.norm())
    assert found["all"]["relative_error"] == pytest.approx(float(error), rel=1e-3, abs=1e-4)
    assert found["all"]["cosine"] == pytest.approx(float(cosine), abs=1e-4)
    assert found["all"]["norm_ratio"] == pytest.approx(float(result.norm() / mean.norm()), 1e-3)
    for name, part in named.items():
        assert found["experts"][name]["norm"] == pytest.approx(float(part.delta.norm()), rel=1e-4)
        against = part.delta.sign() * mean.sign() < 0
        share = part.delta[against].abs().sum() / part.delta.abs().sum()
        assert found["experts"][name]["conflict_mass"] == pytest.approx(float(share), abs=1e-3)
        for other, second in named.items():
            both = (part.delta * second.delta).sum() / (part.delta.norm() * second.delta.norm())
            assert found["cosines"][name][other] == pytest.approx(float(both), abs=1e-3)


def test_an_exact_mean_has_no_error_and_twins_no_conflict():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 8, generator=generator), torch.randn(9, 3, generator=generator)
    diagnostics = Diagnostics({"one": 0.5, "two": 0.5})
    parts = [Part(a, b, scale=1.0, weight=0.5)] * 2
    merged = weighted_deltas(parts)
    diagnostics.add_layer("layer", {"one": (a, b), "two": (a, b)}, merged)
    whole = diagnostics.summary["all"]
    assert (whole["relative_error"], whole["cosine"]) == (0.0, 1.0)
    assert (whole["conflict_entries"], whole["conflict_mass"]) == (0.0, 0.0)
