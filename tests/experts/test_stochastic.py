"""Samplers with noise: the known answers of their formulas."""

import math

import pytest
import torch

from selma.experts.stochastic import ddim_step, ddim_times

ONE = torch.ones(1, 1, 2, 2, dtype=torch.float64)
A, B = torch.tensor([0.5]).double(), torch.tensor([0.6]).double()


def test_ddim_has_its_known_answer():
    step = ddim_step(math.sqrt(0.5) * ONE, 0 * ONE, A, B)  # ε = 1 and x0 = 0
    assert float(step.deviation) ** 2 == pytest.approx(0.133333, abs=1e-6)
    assert float(step.deviation) == pytest.approx(0.365148, abs=1e-6)
    torch.testing.assert_close(step.mean, 0.516398 * ONE, atol=1e-6, rtol=0)
    assert float(step.log_density(step.at(ONE))) == pytest.approx(-0.411487, abs=1e-6)
    assert float(step.log_density(step.at(-ONE))) == pytest.approx(-0.411487, abs=1e-6)


def test_without_eta_nothing_is_drawn():
    step = ddim_step(ONE, ONE, A, B, eta=0.0)
    assert float(step.deviation) == 0 and step.at(5 * ONE).equal(step.mean)


def test_an_image_of_pure_noise_is_a_beginning():
    """A schedule that ends at a signal of exactly zero."""
    step = ddim_step(ONE, 0 * ONE, torch.zeros(1).double(), B)
    assert torch.isfinite(step.log_density(step.at(ONE))).all()


def test_times_fall_evenly_and_end_at_zero_whatever_their_number():
    for steps in range(1, 1000):
        times = ddim_times(steps, 1000)
        assert len(times) == steps + 1 and times[0] == 999 and times[-1] == 0
        lengths = -times.diff()
        assert lengths.min() >= 1, steps
        assert lengths.max() <= 2 * lengths[:-1].min() if steps > 1 else lengths == 999, steps


@pytest.mark.parametrize("steps", [0, 1000, 1001])
def test_times_are_not_given_twice(steps):
    with pytest.raises(ValueError, match="steps must be 1 to 999"):
        ddim_times(steps, 1000)


@pytest.mark.parametrize("steps", [1, 3, 8, 10, 20, 25, 30, 50, 100, 250, 500])
def test_times_of_usual_numbers_are_as_released(steps):
    """t - 1000 / steps, clamped at 0."""
    expected = [999 - 1000 // steps * k for k in range(steps)] + [0]
    assert ddim_times(steps, 1000).tolist() == expected
