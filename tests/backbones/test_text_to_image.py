"""Drawing: what a picture depends on, and what it must not depend on."""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch

from selma.backbones.bases import guidance_of, rescale_of
from selma.backbones.text_to_image import base_fingerprint, load_text_to_image
from selma.config.networks import BaseConfig
from selma.errors import ConfigError, ModelError
from selma.images.generating import generation_recipe

TEXTS = [f"{n} cats at a mat" for n in range(11)]
SEEDS = list(range(100, 111))


def generate(model, which, *, batch_size=8, guidance=5.0, steps=3):
    images = model.generate(
        [TEXTS[i] for i in which],
        seeds=[SEEDS[i] for i in which],
        steps=steps,
        guidance=guidance,
        batch_size=batch_size,
    )
    return {i: np.asarray(image) for i, image in zip(which, images, strict=True)}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_batch_size_order_and_company_change_no_pixel(shape):
    model, every = tiny.load(shape), range(len(TEXTS))
    whole = generate(model, every, batch_size=8)
    assert_equal(whole, generate(model, every, batch_size=3))
    assert_equal(whole, generate(model, list(reversed(every)), batch_size=1))
    alone = generate(model, [9], batch_size=8)
    assert_equal(alone, {9: whole[9]})


def test_text_seed_guidance_and_steps_each_change_the_image():
    model = tiny.load("sd1")
    settings = {"steps": 3, "guidance": 5.0, "batch_size": 1}

    def one(text="a cat", seed=1, **changed):
        (image,) = model.generate([text], seeds=[seed], **settings | changed)
        return image.tobytes()

    images = [one(), one(text="a dog"), one(seed=2), one(guidance=1.0), one(steps=4)]
    assert len(set(images)) == len(images)
    assert one(guidance=1.0) == one(guidance=0.0)  # neither has an unconditional pass


def test_no_image_has_more_steps_than_the_schedule():
    model = tiny.load("sd1")
    steps = model.pipe.scheduler.config.num_train_timesteps + 1
    with pytest.raises(ConfigError, match=f"as many steps, but {steps} were asked for"):
        generate(model, [0], steps=steps)


def test_rescaled_guidance_takes_back_the_spread_that_guidance_adds():
    """arXiv:2305.08891, equations 15 and 16; without an empty prompt's pass there is none."""
    model = tiny.load("sd1")
    settings = {"steps": 3, "seeds": [1], "batch_size": 1}

    def one(rescale, guidance):
        model.guidance_rescale = rescale
        (image,) = model.generate(["a cat"], guidance=guidance, **settings)
        return np.asarray(image, dtype=float)

    plain, half, whole = (one(rescale, 20.0) for rescale in (0.0, 0.5, 1.0))
    assert plain.std() > half.std() > whole.std()
    np.testing.assert_array_equal(one(0.0, 1.0), one(1.0, 1.0))


def test_what_guidance_and_rescale_a_base_draws_with():
    toybox = BaseConfig(model="toybox")
    assert (guidance_of(toybox), guidance_of(BaseConfig(model="a/folder"))) == (3.0, 7.5)
    assert rescale_of(toybox) == load_text_to_image(toybox).guidance_rescale == 0.0
    rescaled = BaseConfig(model="toybox", guidance_rescale=0.7)
    assert rescale_of(rescaled) == load_text_to_image(rescaled).guidance_rescale == 0.7
    assert rescale_of(BaseConfig(model="sd-2.1")) == rescale_of(BaseConfig(model="a/folder")) == 0.0
    bases = (toybox, rescaled)
    recipes = [generation_recipe(base, steps=2, guidance=3.0, seed=0) for base in bases]
    assert recipes[0] != recipes[1]


def test_noise_of_random_samplers_belongs_to_the_image():
    from diffusers import EulerAncestralDiscreteScheduler

    model = tiny.load("sd1")
    model.pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(model.pipe.scheduler.config)
    whole = generate(model, range(10))
    assert_equal(generate(model, [9, 0]), {9: whole[9], 0: whole[0]})


def test_an_image_has_the_size_of_the_base():
    model = tiny.load("sdxl")
    (image,) = model.generate(["x"], seeds=[0], steps=1, guidance=1, batch_size=4)
    assert image.size == (model.image_px, model.image_px) == (16, 16)
    assert image.mode == "RGB"


def test_tokens_beyond_the_limit_are_counted():
    model = tiny.load("sdxl")
    room = tiny.TOKENS - 2  # start and end take one each
    assert model.tokens_cut("x " * room) == 0
    assert model.tokens_cut("x " * (room + 5)) == 5


def test_pixels_that_are_not_finite_are_an_error():
    model = tiny.load("sd1")
    model.pipe.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        generate(model, [0])


def test_the_prediction_type_is_the_models_own():
    models = [tiny.load(shape) for shape in tiny.SHAPES]
    assert [model.family.prediction(model.pipe.scheduler.config) for model in models] == [
        "epsilon",
        "v_prediction",
        "epsilon",
    ]


def test_the_fingerprint_changes_with_any_byte(tmp_path):
    first = shutil.copytree(tiny.folder("sd1"), tmp_path / "first")
    second = shutil.copytree(first, tmp_path / "second")
    moved = base_fingerprint(BaseConfig(model=str(second)))
    assert moved == base_fingerprint(BaseConfig(model=str(first)))
    third = shutil.copytree(first, tmp_path / "third")
    weights = third / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert base_fingerprint(BaseConfig(model=str(third))) != moved


def test_pickles_and_foreign_code_are_refused(tmp_path):
    pickled = shutil.copytree(tiny.folder("sd1"), tmp_path / "pickled")
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({}, weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(ModelError, match="safetensors"):
        load_text_to_image(BaseConfig(model=str(pickled), device="cpu"))

    hostile = shutil.copytree(tiny.folder("sd1"), tmp_path / "hostile")
    ran = tmp_path / "ran"
    (hostile / "unet" / "trap.py").write_text(f"open({str(ran)!r}, 'w')\nclass Trap: pass\n")
    index = json.loads((hostile / "model_index.json").read_text())
    index["unet"] = ["trap", "Trap"]
    (hostile / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="never run"):
        load_text_to_image(BaseConfig(model=str(hostile), device="cpu"))
    assert not ran.exists()


@pytest.mark.parametrize("model", ["nowhere", "../up/and/away", "./a/b"])
def test_what_is_no_model_is_named(model):
    with pytest.raises(ModelError, match=r"base\.model"):
        load_text_to_image(BaseConfig(model=model))


def test_other_pipelines_are_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ModelError, match="FluxPipeline"):
        load_text_to_image(BaseConfig(model=str(tmp_path)))
