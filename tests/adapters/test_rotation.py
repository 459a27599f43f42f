"""Rotations: properties that must hold, and agreement with PEFT's and the released conventions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selma.adapters.rotations.cayley import (
    ORTHOGONAL,
    ball,
    cayley,
    drift,
    log,
    nearest_rotation,
    orthogonality_error,
    power,
    projected,
    require_rotation,
    series,
    side,
    skew,
    skew_of,
    skew_of_exp,
    triangle,
    turned,
)
from selma.adapters.rotations.energy import hyperspherical_energy
from selma.errors import AdapterError


def random_vector(blocks=3, size=5, *, scale=0.5, seed=0, dtype=torch.float32):
    made = torch.Generator().manual_seed(seed)
    entries = size * (size - 1) // 2
    return (scale * torch.randn(blocks, entries, generator=made)).to(dtype)


def random_skew(*args, **more):
    return skew(random_vector(*args, **more))


def same(size, blocks=3):
    return torch.eye(size).expand(blocks, size, size)


sizes = st.integers(2, 12)
scales = st.floats(1e-4, 20)


@given(size=sizes, scale=scales, seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_cayley_yields_rotations(size, scale, seed):
    rotation = cayley(random_skew(size=size, scale=scale, seed=seed))
    assert orthogonality_error(rotation) < ORTHOGONAL
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(3), atol=1e-4, rtol=0)


@given(size=sizes, scale=st.floats(1e-4, 5), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_the_ways_from_skews_to_rotations_and_back_agree(size, scale, seed):
    s = random_skew(size=size, scale=scale, seed=seed, dtype=torch.float64)
    rotation = cayley(s)
    torch.testing.assert_close(drift(s), rotation - torch.eye(size, dtype=s.dtype))
    torch.testing.assert_close(skew_of(rotation), s, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(torch.linalg.matrix_exp(log(s)), rotation, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(skew_of_exp(log(s)), s, atol=1e-7, rtol=1e-5)
    half = cayley(power(s, 0.5))
    torch.testing.assert_close(half @ half, rotation, atol=1e-9, rtol=1e-9)


def test_zero_is_the_identity_and_small_is_twice_the_skew():
    assert torch.equal(cayley(torch.zeros(2, 4, 4)), same(4, 2))
    s = 1e-4 * random_skew(scale=1.0)
    torch.testing.assert_close(drift(s), 2 * s, rtol=1e-3, atol=1e-6)


def test_a_triangle_and_its_skew_are_one_thing():
    vector = random_vector()
    s = skew(vector)
    assert torch.equal(s, -s.mT)
    assert torch.equal(triangle(s), vector)
    assert s[0, 0, 1] == vector[0, 0] and s[0, 0, 2] == vector[0, 1]
    assert [side(n * (n - 1) // 2) for n in (2, 3, 80, 1280)] == [2, 3, 80, 1280]
    for wrong in (0, 2, 4):
        with pytest.raises(AdapterError, match="b \\(b - 1\\)"):
            side(wrong)


@given(scale=scales, seed=st.integers(0, 99), shared=st.booleans())
@settings(max_examples=30, deadline=None)
def test_norms_angles_and_energy_of_neurons_stay(scale, seed, shared):
    weight = torch.randn(9, 12, generator=torch.Generator().manual_seed(seed)).double()
    s = random_skew(blocks=1 if shared else 3, size=4, scale=scale, seed=seed).double()
    after = turned(weight, cayley(s))
    torch.testing.assert_close(after @ after.mT, weight @ weight.mT)
    before = hyperspherical_energy(weight)
    assert hyperspherical_energy(after) == pytest.approx(before, rel=1e-9)
    whole = torch.block_diag(*cayley(s).expand(3, -1, -1))
    torch.testing.assert_close(after, weight @ whole.mT)
    x = torch.randn(5, 12).double()
    torch.testing.assert_close(x @ after.mT, (x @ whole) @ weight.mT)


def test_energy_by_its_definition(monkeypatch):
    from selma.adapters.rotations import energy

    weight = torch.randn(7, 5)
    unit = torch.nn.functional.normalize(weight.double(), dim=1)
    wanted = sum(
        1 / float((unit[i] - unit[j]).norm()) for i in range(7) for j in range(7) if i != j
    )
    assert hyperspherical_energy(weight) == pytest.approx(wanted, rel=1e-9)
    assert hyperspherical_energy(3 * weight) == pytest.approx(wanted, rel=1e-6)
    monkeypatch.setattr(energy, "ROWS_AT_ONCE", 3)
    assert hyperspherical_energy(weight) == pytest.approx(wanted, rel=1e-9)
    assert hyperspherical_energy(torch.cat([weight, torch.zeros(1, 5)])) == pytest.approx(wanted)
    # A change that is no rotation does change it.
    assert hyperspherical_energy(weight @ torch.diag(torch.arange(1.0, 6))) != pytest.approx(wanted)


@pytest.mark.parametrize("meaning", ["paper", "released", "peft"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_radius_holds_after_projection(meaning, shared):
    radius = ball(1e-2, meaning, size=5, blocks=3, shared=shared)
    vector = random_vector(blocks=1 if shared else 3)
    vector[0] *= 1e-6  # inside already
    kept = projected(vector, radius)
    norms = torch.linalg.matrix_norm(skew(kept))
    assert (norms <= radius * (1 + 1e-6)).all()
    assert torch.equal(kept[0], vector[0])
    if not shared:
        torch.testing.assert_close(norms[1:], torch.full((2,), radius))
        cosine = torch.nn.functional.cosine_similarity(kept, vector)
        torch.testing.assert_close(cosine, torch.ones(3))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("eps", [0.05, 1.0, 4.0])
def test_the_papers_radius_bounds_the_whole_layers_rotation(eps, shared):
    radius = ball(eps, "paper", size=5, blocks=3, shared=shared)
    kept = projected(random_vector(blocks=1 if shared else 3, scale=100), radius)
    whole = torch.block_diag(*cayley(skew(kept)).expand(3, -1, -1))
    distance = float((whole - torch.eye(15)).norm())
    assert distance <= eps * (1 + 1e-5)
    if eps < 0.1:  # small rotations come to the bound itself
        assert distance == pytest.approx(eps, rel=1e-3)


@pytest.mark.parametrize(
    ("width", "low", "high"), [(320, 0.192, 3.2), (640, 0.768, 12.8), (1280, 3.07, 51.2)]
)
def test_the_released_radius_is_the_tables(width, low, high):
    size = width // 4
    assert ball(6e-5, "released", size=size, blocks=4) == pytest.approx(low, rel=2e-3)
    assert ball(1e-3, "released", size=size, blocks=4) == pytest.approx(high, rel=2e-3)
    whole = ball(1e-3, "released", size=size, blocks=4, shared=True)
    assert whole == pytest.approx(2 * high, rel=2e-3)


def released_project_batch(r, eps):
    """The released projection, written anew from its description: the norm of raw R around 0."""
    radius = eps / math.sqrt(len(r))
    return torch.stack([one if one.norm() <= radius else radius * one / one.norm() for one in r])


def released_cayley(r, *, batch):
    s = (r - r.mT) / 2
    eye = torch.eye(r.shape[-1])
    if batch:
        return (eye - s) @ torch.linalg.inv(eye + s)
    return (eye + s) @ torch.linalg.inv(eye - s)


def test_the_released_conventions_are_ours_up_to_their_sign():
    """Both signs of Cayley, the projection's radius, and W as blockdiag(Q) Wᵀ transposed back."""
    s = random_skew(blocks=3, size=4, scale=1.0)
    raw = s  # with Adam from zero the stored R stays skew
    eps = 1e-2
    theirs = released_project_batch(raw, eps * 4 * 4)
    ours = projected(triangle(raw), ball(eps, "released", size=4, blocks=3))
    torch.testing.assert_close(skew(ours), theirs)
    torch.testing.assert_close(released_cayley(theirs, batch=True), cayley(-skew(ours)))
    torch.testing.assert_close(released_cayley(theirs, batch=False), cayley(skew(ours)))
    weight = torch.randn(6, 12)
    q = released_cayley(theirs, batch=True)
    filt = (torch.block_diag(*q) @ weight.mT).mT
    torch.testing.assert_close(filt, turned(weight, cayley(-skew(ours))))


@pytest.mark.parametrize("shared", [False, True])
def test_pefts_exact_branch_is_ours_with_the_other_sign(shared):
    import peft

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 7))
    config = peft.OFTConfig(
        r=3,
        oft_block_size=0,
        target_modules=["0"],
        use_cayley_neumann=False,
        init_weights=False,
        block_share=shared,
    )
    x, weight = torch.randn(4, 12), model[0].weight.detach().clone()
    wrapped = peft.get_peft_model(model, config)
    vector = wrapped.base_model.model[0].oft_R["default"].weight.detach()
    with torch.no_grad():
        theirs = wrapped(x) - model[0].base_layer.bias
    torch.testing.assert_close(theirs, x @ turned(weight, cayley(skew(-vector))).mT)
    assert (theirs - x @ weight.mT).abs().max() > 0.01


def test_pefts_projection_is_ours_by_its_name():
    import peft

    layer = peft.tuners.oft.layer.OFTRotationModule(3, 10, 5, 15, coft=True, eps=0.05)
    vector = random_vector()
    theirs = layer._project_batch(vector, eps=0.05)
    torch.testing.assert_close(projected(vector, ball(0.05, "peft", size=5, blocks=3)), theirs)


@pytest.mark.parametrize("terms", [3, 4, 5, 6])
def test_the_series_is_pefts(terms):
    import peft

    layer = peft.tuners.oft.layer.OFTRotationModule(3, 10, 5, 15)
    vector = random_vector(scale=0.2)
    theirs = layer._cayley_batch(vector, 5, True, terms)
    torch.testing.assert_close(series(skew(vector), terms), theirs)
    # It is near the rotation, and is none.
    assert (theirs - cayley(skew(vector))).abs().max() > 1e-4
    with pytest.raises(AdapterError, match="identity"):
        require_rotation(theirs)


def test_the_nearest_rotation():
    rotation = cayley(random_skew())
    torch.testing.assert_close(nearest_rotation(2.5 * rotation), rotation)
    mirrored = rotation.clone()
    mirrored[:, 0] *= -1
    found = nearest_rotation(mirrored + 0.1 * torch.randn(3, 5, 5))
    assert orthogonality_error(found) < ORTHOGONAL
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(3))
    with pytest.raises(AdapterError, match="singular"):
        nearest_rotation(torch.zeros(1, 3, 3))


def test_half_turns_have_no_skew():
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))[None]
    with pytest.raises(AdapterError, match="180"):
        skew_of(half)
    quarter = torch.zeros(1, 2, 2)
    quarter[0, 0, 1], quarter[0, 1, 0] = math.pi / 2, -math.pi / 2
    assert orthogonality_error(cayley(skew_of_exp(quarter))) < ORTHOGONAL
    with pytest.raises(AdapterError, match="180"):
        skew_of_exp(2 * quarter)


def test_half_precision_is_refused():
    for function in (cayley, drift, log, lambda s: projected(s, 1.0)):
        with pytest.raises(TypeError, match="float32"):
            function(random_skew().to(torch.bfloat16))
