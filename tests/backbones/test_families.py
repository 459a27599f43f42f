"""Families of base models: what their rows say, and one that another package adds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import other_family
import pytest
import tiny
import torch
from typer.testing import CliRunner

from selma.adapters.applying import applied, chosen
from selma.backbones.base_files import own_architecture, target_widths
from selma.backbones.families import FAMILIES, denoiser_components, family_of
from selma.backbones.families.conditioning import Conditioning
from selma.backbones.families.family import Crop
from selma.backbones.memory import generation_need, parts_of
from selma.backbones.text_to_image import TextToImage, load_text_to_image
from selma.cli import app
from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.config.images import ImagesConfig
from selma.config.networks import BaseConfig
from selma.errors import ConfigError, ModelError
from selma.experts.memory import training_need
from selma.experts.skills import train_experts
from selma.images.generating import generate_pairs
from selma.records.prompts import Prompt, prompt_id
from selma.registry import registered
from selma.workspace import Workspace

PROMPTS = [
    Prompt(id=prompt_id("cats", f"{n} cats"), skill="cats", text=f"{n} cats") for n in range(3)
]
EXPERTS = ExpertsConfig(adapter=LoraConfig(rank=2), steps=3, batch_size=2, precision="fp32")


def test_the_rows_name_classes_that_are_there() -> None:
    assert list(FAMILIES) == [
        "stable-diffusion", "stable-diffusion-xl", "stable-diffusion-3", "flux-2-klein", "z-image",
        "qwen-image", "flux", "sana", "lumina-2", "chroma",
    ]  # fmt: skip
    for family in FAMILIES.values():
        assert family.load_pipeline_class().__name__ == family.pipeline_class
        for part in family.classes:
            assert family.network_class(part)
        assert {family.component, "vae"} < set(family.classes)
        assert "attention" in family.targets


@pytest.mark.parametrize("shape", (*tiny.SHAPES, *tiny.FLOW_SHAPES))
def test_a_family_is_told_by_its_pipelines_class(shape: str) -> None:
    model = tiny.load(shape)
    assert model.family is family_of(type(model.pipe).__name__, model=shape)
    assert model.denoiser is model.pipe.components[model.family.component]
    assert own_architecture(tiny.base(shape)).family == model.family.name
    known = r"must be one of StableDiffusionPipeline, .*KandinskyPipeline"
    with pytest.raises(ModelError, match=known):
        family_of("KandinskyPipeline", model="some/folder")


@pytest.mark.parametrize("shape", (*tiny.SHAPES, *tiny.FLOW_SHAPES))
def test_training_asks_the_denoiser_as_drawing_does(shape: str) -> None:
    """The pipeline's own call and the family's, on the same latents, time and prompt."""
    model, seen = tiny.load(shape), []

    def note(_: object, args: tuple, given: dict, out: tuple) -> None:
        seen.append((args, torch.stack(out[0]) if isinstance(out[0], list) else out[0]))

    hook = model.denoiser.register_forward_hook(note, with_kwargs=True)
    alone = 0.0 if model.family.guided(1.0) else 1.0
    list(model.generate(["a cat"], seeds=[1], steps=2, guidance=alone, batch_size=1))
    (args, drawn), time = seen[0], model.pipe.scheduler.timesteps[0]
    rows, px = len(drawn), model.image_px
    if shape in tiny.SHAPES:
        latents = args[0]
    else:
        noise = torch.Generator().manual_seed(1)
        latents = torch.randn((1, *model.latent_shape), generator=noise).expand(rows, -1, -1, -1)
    with torch.no_grad():
        conditioning = model.family.with_crops(
            model.text_features(["a cat"] * rows, guided=False).positive,
            [Crop(px, px, 0, 0, px)] * rows,
        )
        model.family.denoise(model.denoiser, latents, time.expand(rows), conditioning)
    hook.remove()
    assert torch.equal(seen[-1][1], drawn)


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_features_are_named_and_not_counted(shape: str) -> None:
    model = tiny.load(shape)
    with torch.no_grad():
        guided = model.text_features(["a cat"], guided=True)
        alone = model.text_features(["a cat"], guided=False)
    assert guided.negative is not None and alone.negative is None
    assert torch.equal(guided.positive.text, alone.positive.text)
    assert (guided.positive.pooled is not None) == (shape == "sdxl")
    if shape == "sdxl":
        assert guided.negative.pooled.shape == guided.positive.pooled.shape == (1, 32)


def test_tensors_of_conditioning_keep_their_names() -> None:
    some = Conditioning(text=torch.ones(2, 3, 4), extra={"mask": torch.ones(2, 3).long()})
    assert some.tensors().keys() == {"text", "mask"}
    again = Conditioning.of(some.tensors())
    assert again.extra.keys() == {"mask"} and again.pooled is None
    half = some.to(torch.float16)
    assert half.text.dtype is torch.float16 and half.extra["mask"].dtype is torch.long
    empty = Conditioning(text=torch.zeros(1, 3, 4), extra={"mask": torch.zeros(1, 3).long()})
    mixed = some.where(torch.tensor([True, False]), empty)
    assert mixed.text[0].sum() == 0 and mixed.text[1].sum() == 12
    assert mixed.extra["mask"].sum(dim=1).tolist() == [0, 3]
    assert len(some.followed_by(empty).text) == 3


# A family that another package adds


@pytest.fixture
def base(tmp_path: Path) -> Iterator[BaseConfig]:
    folder = other_family.build(tmp_path / "base")
    with registered("selma.families", other_family.FAMILY):
        yield BaseConfig(model=str(folder), device="cpu")


@pytest.fixture
def model(base: BaseConfig) -> TextToImage:
    return load_text_to_image(base)


def test_a_family_that_nobody_added_is_refused(tmp_path: Path) -> None:
    folder = other_family.build(tmp_path / "base")
    with pytest.raises(ModelError, match="StraightPipeline"):
        load_text_to_image(BaseConfig(model=str(folder), device="cpu"))


def test_an_added_family_generates_and_is_trained(
    tmp_path: Path, base: BaseConfig, model: TextToImage
) -> None:
    folder = Workspace(tmp_path / "run")
    assert denoiser_components() == ("unet", other_family.COMPONENT)
    assert model.denoiser is getattr(model.pipe, other_family.COMPONENT)
    assert model.image_px == 16
    pairs = generate_pairs(
        {"cats": PROMPTS},
        ImagesConfig(steps=2, guidance=3.0, batch_size=2),
        folder,
        base=base,
        seed=0,
        model=lambda: model,
    )
    assert [pair.image.is_file() for pair in pairs["cats"]] == [True] * 3
    plain = generated(model)
    (expert,) = train_experts(pairs, EXPERTS, folder, base=base, seed=0, model=lambda: model)
    assert np.array_equal(generated(model), plain), "training leaves the base as it was"
    with applied(model, chosen([expert.folder])):
        assert not np.array_equal(generated(model), plain)


def generated(model: TextToImage) -> np.ndarray:
    (image,) = model.generate(["2 cats"], seeds=[1], steps=2, guidance=3.0, batch_size=1)
    return np.asarray(image)


def test_rewritten_features_reach_an_added_familys_pipeline(model: TextToImage) -> None:
    plain = generated(model)
    with model.rewritten(lambda features: features):
        assert np.array_equal(generated(model), plain)


def test_an_added_familys_path_leads_back(model: TextToImage) -> None:
    """One step with the true velocity, by the family's own sampler, gives the image."""
    path, x0, noise = model.noise_path(), torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    times = torch.full((2,), path.steps)
    torch.testing.assert_close(path.noisy(x0, noise, times), noise)
    scheduler = model.pipe.scheduler
    scheduler.set_timesteps(1)
    (found,) = scheduler.step(
        path.target(x0, noise, times), scheduler.timesteps[0], noise, return_dict=False
    )
    torch.testing.assert_close(found, x0)


def test_an_added_familys_memory_is_estimated(base: BaseConfig, model: TextToImage) -> None:
    parts = parts_of(base)
    networks = [n for n in model.pipe.components.values() if isinstance(n, torch.nn.Module)]
    assert parts.weights == sum(p.nbytes for n in networks for p in n.parameters())
    assert generation_need(parts, 2, guided=True).each > 0
    assert training_need(parts, EXPERTS).trained > 0
    assert target_widths(base) == {32}


def test_commands_know_an_added_family(base: BaseConfig, tmp_path: Path) -> None:
    runner = CliRunner()
    described = runner.invoke(app, ["bases", base.model])
    assert described.exit_code == 0, described.output
    assert "family: straight" in described.output and "prediction: flow" in described.output
    out = tmp_path / "cat.png"
    drawn = runner.invoke(
        app, ["generate", "a cat", "--base", base.model, "--steps", "2", "--out", str(out)]
    )
    assert drawn.exit_code == 0, drawn.output
    assert out.is_file()


def test_no_rescaled_guidance_is_dropped_unsaid() -> None:
    base = tiny.base("sd3").model_copy(update={"guidance_rescale": 0.5})
    model = load_text_to_image(base)
    with pytest.raises(ConfigError, match=r"base\.guidance_rescale must be 0"):
        list(model.generate(["a cat"], seeds=[1], steps=1, guidance=3.0, batch_size=1))
