"""While it is trained, an adapter can be switched off: the base's own predictions, bit for bit."""

import pytest
import tiny
import torch

from selma.adapters.table import ADAPTERS
from selma.config.adapters import CoftConfig, FullConfig, LoraConfig, OftConfig
from selma.config.experts import ExpertsConfig
from selma.errors import ConfigError
from selma.experts.learners import AdapterWeights


@pytest.fixture(scope="module")
def model():
    return tiny.load("sd1")


def predicted(model):
    shape = (2, *model.latent_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    text = torch.randn((2, tiny.TOKENS, 32), generator=torch.Generator().manual_seed(1))
    return model.denoiser(noise, torch.tensor([3, 700]), encoder_hidden_states=text).sample


@pytest.mark.parametrize("adapter", [LoraConfig(rank=2), OftConfig(), CoftConfig()])
def test_the_base_predicts_while_the_adapter_is_off(model, adapter):
    with torch.no_grad():
        base = predicted(model)
    weights = AdapterWeights(model, adapter, ExpertsConfig(), skill="cats", seed=0)
    with weights.attached() as parameters:
        with torch.no_grad():
            for parameter in parameters.values():
                parameter += 0.1
            changed = predicted(model)
            with weights.switched_off():
                assert predicted(model).equal(base)
            assert not changed.equal(base)
        assert predicted(model).detach().equal(changed)
        predicted(model).sum().backward()
        assert all(parameter.grad is not None for parameter in parameters.values())
    assert predicted(model).detach().equal(base)


def test_a_denoiser_that_is_trained_whole_has_no_base(model):
    with pytest.raises(ConfigError, match="cannot be switched off"):
        ADAPTERS[FullConfig().kind].switched_off(model.denoiser)
