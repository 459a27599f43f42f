"""From pictures to a merged model, on the shapes of SD 1, SD 2 (velocity) and SDXL."""

import json

import numpy as np
import pytest
import tiny
import torch

from selma.adapters.applying import applied, chosen
from selma.adapters.files import Lineage, given, write_adapter
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.config.images import ImagesConfig
from selma.config.merged import MergedConfig
from selma.errors import AdapterError
from selma.experts.skills import train_experts
from selma.images.generating import generate_pairs
from selma.merged.merging import merge_experts
from selma.records.prompts import Prompt, prompt_id
from selma.workspace import Workspace

SKILLS = {"cats": ["a cat at a mat", "two cats"], "dogs": ["a dog", "the dog runs"]}
LARGE = ExpertsConfig(
    adapter=LoraConfig(rank=2, alpha=8),
    steps=3,
    batch_size=2,
    learning_rate=0.05,  # far too large for use: the change must be seen in a tiny picture
    precision="fp32",
    flip=True,
    caption_dropout=0.2,
)


def made(root, shape):
    """The run's model, experts and merged adapter."""
    folder, base, model = Workspace(root), tiny.base(shape), tiny.load(shape)
    prompts = {
        skill: [Prompt(id=prompt_id(skill, text), skill=skill, text=text) for text in texts]
        for skill, texts in SKILLS.items()
    }
    shared = {"base": base, "seed": 0, "model": lambda: model}
    pairs = generate_pairs(prompts, ImagesConfig(steps=2, guidance=3.0), folder, **shared)
    experts = train_experts(pairs, LARGE, folder, **shared)
    return model, experts, merge_experts(experts, MergedConfig(), folder)


def image(model):
    return next(model.generate(["a cat"], seeds=[3], steps=3, guidance=3.0, batch_size=1))


def latents(pipe):
    """Latents instead of a picture: rounding to bytes would hide differences."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return pipe(
        prompt="a cat",
        latents=noise,
        num_inference_steps=3,
        guidance_scale=3.0,
        output_type="latent",
    ).images


# PEFT warns about every second adapter in one model; here that is what is compared with.
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_the_whole_flow(tmp_path, shape):
    model, experts, merged = made(tmp_path, shape)
    plain = latents(model.pipe)

    # One file, read by plain diffusers, draws what the experts side by side draw.
    stacked = tiny.load(shape).pipe
    for expert in experts:
        stacked.load_lora_weights(expert.folder, adapter_name=expert.skill)
    stacked.set_adapters([expert.skill for expert in experts], [0.5, 0.5])
    alone = tiny.load(shape).pipe
    alone.load_lora_weights(merged.folder)
    assert (latents(stacked) - plain).abs().max() > 0.05  # there is something to compare
    torch.testing.assert_close(latents(alone), latents(stacked), atol=1e-4, rtol=1e-4)

    before = {key: value.clone() for key, value in model.denoiser.state_dict().items()}
    unchanged = image(model)
    with applied(model, chosen([merged.folder])):
        torch.testing.assert_close(latents(model.pipe), latents(alone), atol=1e-4, rtol=1e-4)
        assert not np.array_equal(image(model), unchanged)
        with (
            pytest.raises(AdapterError, match="one adapter"),
            applied(model, chosen([merged.folder])),
        ):
            pass
    with applied(model, chosen([merged.folder], [0.0])):
        assert np.array_equal(image(model), unchanged)
    with applied(model, []):
        assert np.array_equal(image(model), unchanged)
    after = model.denoiser.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)  # not one bit is left

    manifest = json.loads((merged.folder / "manifest.json").read_text())
    assert manifest["summary"] == {
        "experts": 2,
        "layers": manifest["summary"]["layers"],
        "rank": 4,
    }


def test_an_adapter_of_another_model_changes_nothing(tmp_path):
    _, _, merged = made(tmp_path, "sdxl")
    other = tiny.load("sd1")
    before = {key: value.clone() for key, value in other.denoiser.state_dict().items()}
    with pytest.raises(AdapterError), applied(other, chosen([merged.folder])):
        pass
    after = other.denoiser.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")
def test_an_adapter_is_applied_whole_or_not_at_all(tmp_path):
    """The loader itself would only warn about a layer that it does not find."""
    there = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {
        f"{layer}.lora_{factor}.weight": torch.randn(shape)
        for layer in (there, there.replace("to_q", "to_nowhere"))
        for factor, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    write_adapter(
        tmp_path / ADAPTER_FILE,
        given(tensors),
        rank=2,
        alpha=2,
        targets=("to_q", "to_nowhere"),
        lineage=Lineage(),
    )
    with pytest.raises(AdapterError, match="2 layers, of which this model has 1"):
        applied(tiny.load("sd1"), chosen([tmp_path])).__enter__()


@pytest.mark.parametrize("data", [b"", b"\x08\0\0\0\0\0\0\0{}", b"no adapter at all"])
def test_a_file_that_is_no_adapter_is_refused(tmp_path, data):
    (tmp_path / ADAPTER_FILE).write_bytes(data)
    with pytest.raises(AdapterError), applied(tiny.load("sd1"), chosen([tmp_path])):
        pass


def test_a_missing_adapter_is_refused(tmp_path):
    with (
        pytest.raises(AdapterError, match=ADAPTER_FILE),
        applied(tiny.load("sd1"), chosen([tmp_path])),
    ):
        pass
