"""Pictures drawn through a SUR-adapter: what it touches, and what it never does."""

import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline

from selma.adapters.applying import applied, chosen
from selma.adapters.files import Lineage
from selma.adapters.lora import attach, detach, save
from selma.adapters.sur import files as sur_files
from selma.adapters.sur import network as sur
from selma.adapters.sur.rewriting import rewriting_by
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.adapters import LoraConfig, SurConfig, SurGeneration
from selma.errors import AdapterError
from selma.images.on_demand import generate

TEXTS = ["a cat", "two red cats at a mat", "mat"]
SETTINGS = {"steps": 2, "guidance": 3.0, "batch_size": 2}
SOUND = SurConfig(weight=1.0)
BATCH = SurConfig(form="released", mix="shared", attention="batch", heads=4, hidden=16, weight=0.5)


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def model(request):
    return tiny.load(request.param)


def adapter_file(folder, model, config=SOUND, *, zero=False):
    tokens = model.pipe.tokenizer.model_max_length
    made = sur.make(config, sur.widths_of(model), tokens=tokens, seed=0)
    if not zero:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(1)
            for weight in made.parameters():
                weight.add_(0.2 * torch.randn(weight.shape))
    folder.mkdir(parents=True, exist_ok=True)
    sur_files.save(
        folder / sur_files.FILE, made.state_dict(), config, made.widths, lineage=Lineage(),
        settings={},
    )  # fmt: skip
    return folder


def generated(model, folder=None, texts=TEXTS, config=SurGeneration(), seeds=None, **changed):  # noqa: B008
    rewriting = folder and rewriting_by(sur_files.load(folder), model, config)
    seeds = seeds or list(range(len(texts)))
    with model.rewritten(rewriting):
        images = list(model.generate(texts, seeds=seeds, **SETTINGS | changed))
    return [np.asarray(image) for image in images]


def same(one, other):
    return [bool((a == b).all()) for a, b in zip(one, other, strict=True)]


def test_identity_and_strength_zero_draw_the_bases_own_images(tmp_path, model):
    base = generated(model)
    fresh = adapter_file(tmp_path / "fresh", model, zero=True)
    assert all(same(base, generated(model, fresh)))
    assert all(same(base, generated(model, fresh, config=SurGeneration(negative="adapted"))))
    folder = adapter_file(tmp_path / "trained", model)
    assert not any(same(base, generated(model, folder)))
    assert all(same(base, generated(model, folder, config=SurGeneration(strength=0.0))))
    assert all(same(base, generated(model)))  # and afterwards the model is what it was


def test_one_prompt_never_touches_another(tmp_path, model):
    folder = adapter_file(tmp_path, model)
    for negative in ("alone", "adapted"):
        config = SurGeneration(negative=negative)
        whole = generated(model, folder, config=config)
        for n, text in enumerate(TEXTS):
            assert all(same(generated(model, folder, [text], config, [n]), whole[n : n + 1]))
        assert all(same(generated(model, folder, config=config, batch_size=1), whole))


def test_as_released_prompts_do_touch_one_another(tmp_path, model):
    folder = adapter_file(tmp_path, model, BATCH)
    config = SurGeneration(negative="released")
    whole = generated(model, folder, config=config)
    alone = generated(model, folder, TEXTS[:1], config, [0])
    assert not any(same(alone, whole[:1]))
    # Our own form under the same name of the negative branch stays sound.
    sound = adapter_file(tmp_path / "sound", model)
    whole = generated(model, sound, config=config)
    assert all(same(generated(model, sound, TEXTS[:1], config, [0]), whole[:1]))


def test_drawing_twice_gives_the_same_and_as_released_does_not(tmp_path, model):
    config = BATCH.model_copy(update={"attention": "tokens", "dropout": 0.5})
    folder = adapter_file(tmp_path, model, config)
    assert all(same(generated(model, folder), generated(model, folder)))
    shaky = SurGeneration(dropout=True)
    assert not all(
        same(generated(model, folder, config=shaky), generated(model, folder, config=shaky))
    )


def features(model, rewriting):
    with torch.no_grad():
        plain = model.text_features(TEXTS, guided=True)
        return plain, rewriting(plain)


def test_the_negative_branch_by_name(tmp_path, model):
    file = sur_files.load(adapter_file(tmp_path, model))
    made = {
        name: features(model, rewriting_by(file, model, SurGeneration(negative=name)))
        for name in ("alone", "adapted", "released")
    }
    plain, alone = made["alone"]
    assert alone.negative.text is plain.negative.text
    assert alone.negative.pooled is plain.negative.pooled
    adapted, released = made["adapted"][1], made["released"][1]
    assert not torch.equal(adapted.negative.text, plain.negative.text)
    torch.testing.assert_close(adapted.positive.text, alone.positive.text)
    torch.testing.assert_close(released.positive.text, adapted.positive.text)
    torch.testing.assert_close(released.negative.text, adapted.negative.text)
    if plain.positive.pooled is not None:
        assert not torch.equal(adapted.negative.pooled, plain.negative.pooled)
        torch.testing.assert_close(released.negative.pooled, adapted.negative.pooled)
        torch.testing.assert_close(released.positive.pooled, adapted.positive.pooled)


def test_without_guidance_there_is_no_negative_branch(tmp_path, model):
    folder = adapter_file(tmp_path, model)
    images = [
        generated(model, folder, config=SurGeneration(negative=name), guidance=1.0)
        for name in ("alone", "adapted", "released")
    ]
    assert all(same(images[0], images[1])) and all(same(images[0], images[2]))


def lora(folder, model):
    unet = model.denoiser
    factors = attach(unet, LoraConfig(rank=2), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for factor in factors.values():
            factor.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    folder.mkdir()
    save(folder / ADAPTER_FILE, factors, LoraConfig(rank=2), lineage=Lineage())
    detach(unet)
    return folder


def test_it_goes_together_with_merged_experts(tmp_path, model):
    folder, experts = adapter_file(tmp_path / "sur", model), lora(tmp_path / "lora", model)
    alone = generated(model, folder)
    with applied(model, chosen([experts])):
        merged, both = generated(model), generated(model, folder)
    assert not any(same(both, alone)) and not any(same(both, merged))
    assert all(same(generated(model, folder), alone))


def test_two_at_once_and_foreign_widths_are_refused(tmp_path, model):
    rewriting = rewriting_by(sur_files.load(adapter_file(tmp_path, model)), model, SurGeneration())
    with (
        model.rewritten(rewriting),
        pytest.raises(AdapterError, match="once"),
        model.rewritten(rewriting),
    ):
        pass
    one = isinstance(model.pipe, StableDiffusionPipeline)
    other = tiny.load("sdxl" if one else "sd1")
    with pytest.raises(AdapterError, match="features"):
        rewriting_by(sur_files.load(tmp_path), other, SurGeneration())


def test_the_features_are_what_the_pipeline_gets(tmp_path, model):
    """Against diffusers, handed the adapter's own features by hand."""
    folder = adapter_file(tmp_path, model)
    (mine,) = generated(model, folder, TEXTS[:1], batch_size=1)
    given = features(model, rewriting_by(sur_files.load(folder), model, SurGeneration()))[1]
    more = (
        {}
        if given.positive.pooled is None
        else {
            "pooled_prompt_embeds": given.positive.pooled[:1],
            "negative_pooled_prompt_embeds": given.negative.pooled[:1],
        }
    )
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    theirs = model.pipe(
        prompt_embeds=given.positive.text[:1],
        negative_prompt_embeds=given.negative.text[:1],
        latents=latents,
        num_inference_steps=2,
        guidance_scale=3.0,
        **more,
    ).images[0]
    off = np.abs(mine.astype(int) - np.asarray(theirs).astype(int))
    assert off.max() <= 1  # another batch size rounds otherwise


def test_generate_takes_an_adapter(tmp_path):
    model = tiny.load("sd1")
    folder = adapter_file(tmp_path, model)
    how = {"base": tiny.base("sd1"), "steps": 2, "guidance": 3.0}
    (plain,) = generate("a cat", **how)
    (read,) = generate("a cat", adapter=chosen([folder]), **how)
    off = chosen([folder], options={"sur": SurGeneration(strength=0.0)})
    (none,) = generate("a cat", adapter=off, **how)
    (zero,) = generate("a cat", adapter=chosen([folder], [0.0]), **how)
    assert np.array_equal(plain, zero)
    assert np.array_equal(plain, none) and not np.array_equal(plain, read)
