"""Less memory for the same weights: gradient checkpointing and offload."""

import pytest
import tiny
import torch
from experts.test_encode_pairs import encoded, pairs
from experts.test_train_experts import CONFIG, changed, last, trained, weights

from selma.backbones.text_to_image import load_text_to_image
from selma.errors import ConfigError
from selma.experts.optimizing import Optimization
from selma.experts.recipes import expert_recipe, pairs_digest

OFF = changed(deterministic=False)
SPARED = changed(deterministic=False, gradient_checkpointing=True, spread="batch")


def checkpointed_calls(model):
    """Counts how often a block is computed in the forward and again in the backward pass."""
    calls = []
    block = next(m for n, m in model.denoiser.named_modules() if n == "mid_block.resnets.1")
    return calls, block.register_forward_pre_hook(lambda *_: calls.append(1))


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_checkpointing_trains_the_same_weights(tmp_path, shape):
    model = tiny.load(shape)
    data = encoded(tmp_path, pairs(tmp_path), model=lambda: model)
    one, other = CONFIG.model_copy(update={"steps": 2}), SPARED.model_copy(update={"steps": 2})
    calls, hook = checkpointed_calls(model)
    plain = weights(trained(tmp_path / "plain", model, data, one))
    forward = len(calls)
    spared = weights(trained(tmp_path / "spared", model, data, other))
    hook.remove()
    assert len(calls) - forward == 2 * forward, "each block must be computed a second time"
    assert plain.keys() == spared.keys()
    for key, tensor in plain.items():
        torch.testing.assert_close(spared[key], tensor, rtol=1e-5, atol=1e-7)
    assert not model.denoiser.is_gradient_checkpointing, "drawing needs no second pass"


def test_what_spares_memory_makes_no_new_expert(tmp_path):
    some = pairs_digest(pairs(tmp_path))
    shared = {"base": tiny.base("sd1"), "seed": 0}
    assert expert_recipe("cats", some, CONFIG, **shared) == expert_recipe(
        "cats", some, SPARED, **shared
    )
    offloaded = shared | {"base": tiny.base("sd1").model_copy(update={"offload": True})}
    assert expert_recipe("cats", some, CONFIG, **shared) == expert_recipe(
        "cats", some, CONFIG, **offloaded
    )


def test_on_a_cpu_there_is_nothing_to_offload():
    model = load_text_to_image(tiny.base("sd1").model_copy(update={"offload": True}))
    assert not model.offload
    with model.denoiser_alone():
        assert model.pipe.vae.device.type == "cpu"


def test_deterministic_algorithms_are_for_the_block_alone_and_an_absent_one_is_told():
    """The block itself needs no GPU: a CPU has an operation, too, that differs from run to run."""
    some = [torch.nn.Parameter(torch.zeros(1))]
    optimization = Optimization(some, CONFIG, device=torch.device("cuda"))
    optimization_off = Optimization(some, OFF, device=torch.device("cuda"))
    filled = torch.zeros(4)
    for spared in (optimization_off, Optimization(some, CONFIG, device=torch.device("cpu"))):
        with spared.repeatable():
            filled.put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    with optimization.repeatable():
        assert torch.are_deterministic_algorithms_enabled()
    with (
        pytest.raises(ConfigError, match=r"put_.*Set experts\.deterministic to false"),
        optimization.repeatable(),
    ):
        filled.put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_a_gpu_trains_the_same_each_time_and_resumed(tmp_path, shape):
    base = tiny.base(shape).model_copy(update={"device": "cuda"})
    model = load_text_to_image(base)
    data = encoded(tmp_path, pairs(tmp_path), model=lambda: model)
    whole = last(trained(tmp_path / "once", model, data))
    trained(tmp_path / "again", model, data, stop_at=3)
    assert last(trained(tmp_path / "again", model, data)) == whole


@pytest.mark.gpu
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_offload_draws_and_trains_the_same(tmp_path, shape):
    found = []
    for offload in (False, True):
        base = tiny.base(shape).model_copy(update={"device": "cuda", "offload": offload})
        model = load_text_to_image(base)
        folder = tmp_path / str(offload)
        folder.mkdir()
        data = encoded(folder, pairs(folder), model=lambda model=model: model)
        before = generated(model)
        expert = weights(trained(folder / "expert", model, data))
        assert generated(model) == before, "training leaves the model as it was"
        found.append((before, expert))
        if offload:
            waiting = {part.device.type for part in (model.pipe.vae, model.pipe.text_encoder)}
            assert "cpu" in waiting
    assert found[0][0] == found[1][0]
    for key, tensor in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], tensor, rtol=1e-4, atol=1e-5)


def generated(model):
    images = model.generate(["a cat"], seeds=[1], steps=2, guidance=2.0, batch_size=1)
    return [image.tobytes() for image in images]
