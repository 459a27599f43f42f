"""The estimate of memory: what is counted, that it grows as it must, and what it advises."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from selma import capacity
from selma.applications.control import pipeline as control
from selma.applications.control.settings import ControlRun
from selma.applications.hps import styles
from selma.applications.subjects import pipeline as subjects
from selma.applications.subjects.settings import SubjectsRun
from selma.applications.sur import pipeline as sur
from selma.applications.sur.settings import SurRun
from selma.backbones import shape_modes, text_to_image
from selma.backbones.memory import (
    CONTEXT,
    GIB,
    Need,
    denoised,
    encoding_need,
    generation_need,
    held,
    image_operations,
    operations,
    parts_of,
    peak,
    straight,
)
from selma.backbones.shape_modes import Live, Shapes
from selma.capacity import memory
from selma.config import RunConfig
from selma.config.adapters import LoraConfig, OftConfig
from selma.config.experts import ExpertsConfig
from selma.config.guides import SynGenConfig
from selma.config.merged import MergedConfig, MixtureConfig
from selma.config.networks import BaseConfig
from selma.config.rewards import DdpoObjective, DpokObjective, NftObjective, PolicyObjective
from selma.errors import ModelError
from selma.experts.memory import (
    advice,
    mixture_need,
    rollout_need,
    sample_operations,
    training_need,
)
from selma.images.guides.attention_maps import cross_attentions
from selma.images.guides.syngen import move_need
from selma.pipeline import Stages
from selma.workspace import Workspace

CONFIG = ExpertsConfig(adapter=LoraConfig(rank=4), batch_size=8, precision="fp32")

# Widths of the published configs: the shapes decide, no weight is read.
SD1 = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 768,
    "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
SDXL = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2, "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
VAE = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip


def real_size(folder: Path, shape: str, unet: dict[str, object]) -> BaseConfig:
    """A folder with the tiny model's text encoders and the published networks' configs, without
    any weight."""
    place = folder / shape
    shutil.copytree(tiny.folder(shape), place, ignore=shutil.ignore_patterns("*.safetensors"))
    for part, config in (("unet", unet), ("vae", VAE)):
        (place / part / "config.json").write_text(json.dumps(config))
    return BaseConfig(model=str(place), precision="bf16")


def test_what_is_alive_is_counted_once_and_forgotten_when_gone() -> None:
    with Live() as live:
        one = torch.zeros(1000, device="meta")
        view = one[::2].reshape(-1)
        assert live.now == live.peak == 4000, "a view holds nothing of its own"
        two = torch.zeros(500, device="meta", dtype=torch.float16)
        assert live.now == 5000
        del one
        assert live.now == 5000, "its view still needs it"
        del view
        assert live.now == 1000 and live.peak == 5000
        del two
    assert live.now == 0


def test_the_peak_is_that_of_forward_and_backward() -> None:
    with torch.device("meta"):
        layer = nn.Linear(10, 10, bias=False)
        x = torch.empty(50, 10)
    forward = peak(lambda: layer(x))
    assert forward == 50 * 10 * 4

    def step() -> None:
        layer(layer(x)).sum().backward()
        layer.weight.grad = None

    assert peak(step) > forward


def test_attention_keeps_what_goes_in_what_comes_out_and_a_number_for_each_row() -> None:
    with torch.device("meta"):
        x = torch.empty(2, 4, 100, 8, requires_grad=True)
    with Shapes(), Live() as live:
        kept = F.scaled_dot_product_attention(x * 1, key=x * 1, value=x * 1)
    assert kept.shape == x.shape
    assert live.now == live.peak == 4 * x.nbytes + x[..., 0].nbytes


def test_types_are_those_of_mixed_precision() -> None:
    with torch.device("meta"):
        x, weight = torch.empty(2, 4, 8, 8), torch.empty(4, 4, 1, 1)
    half = x.bfloat16()
    with Shapes(torch.bfloat16):
        products = [F.conv2d(x, weight), F.linear(x, weight=torch.empty_like(x[0, 0]))]
        norms = [F.group_norm(half, 2), F.layer_norm(half, (8,)), F.softmax(half, dim=-1)]
        assert (x + x).dtype is torch.float32 and (half + half).dtype is torch.bfloat16
    assert {one.dtype for one in products} == {torch.bfloat16}
    assert {one.dtype for one in norms} == {torch.float32}
    with Shapes():
        assert F.conv2d(x, weight).dtype is torch.float32
        assert F.softmax(half, dim=-1).dtype is torch.bfloat16


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_weights_are_those_on_disk(shape: str) -> None:
    parts = parts_of(tiny.base(shape))
    model = tiny.load(shape)
    networks = [n for n in model.pipe.components.values() if isinstance(n, nn.Module)]
    each = [sum(p.nbytes for p in network.parameters()) for network in networks]
    assert parts.weights == sum(each)
    half = parts_of(tiny.base(shape).model_copy(update={"precision": "bf16"}))
    assert 2 * half.weights == parts.weights
    alone = parts_of(tiny.base(shape).model_copy(update={"offload": True}))
    assert alone.weights == max(each) < parts.weights


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_every_shape_is_estimated_and_left_as_it_was(shape: str) -> None:
    parts = parts_of(tiny.base(shape))
    before = [(n, tuple(p.shape), p.dtype) for n, p in parts.denoiser.named_parameters()]
    needs = [
        generation_need(parts, 4, guided=True),
        encoding_need(parts, 8),
        training_need(parts, CONFIG),
    ]
    assert [need.what for need in needs] == ["generating", "encoding", "training"]
    assert all(need.each > 0 and need.total > CONTEXT for need in needs)
    assert [(n, tuple(p.shape), p.dtype) for n, p in parts.denoiser.named_parameters()] == before
    assert (
        generation_need(parts, 4, guided=True).total
        >= generation_need(parts, 4, guided=False).total
    )


def test_the_optimizer_holds_two_moments_of_each_trained_weight() -> None:
    parts = parts_of(tiny.base("sd1"))
    need = training_need(parts, CONFIG)
    from selma.adapters import lora

    with torch.device("meta"):
        factors = lora.add(parts.denoiser, CONFIG.adapter)
    assert need.trained == 3 * sum(f.nbytes for f in factors.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_spares_activations(precision: str) -> None:
    config = CONFIG.model_copy(update={"precision": precision})
    parts = parts_of(tiny.base("sdxl"))
    spared = training_need(parts, config.model_copy(update={"gradient_checkpointing": True}))
    assert 0 < spared.each < training_need(parts, config).each


@pytest.mark.parametrize(
    ("shape", "unet", "weights", "each"),
    # Counted elsewhere: 859.5 M and 2567 M weights; activations that one picture saves in bfloat16
    # with fused attention 0.84 and 5.75 GB, before autocast's wider copies around norms.
    [("sd1", SD1, 859.5e6, 0.84e9), ("sdxl", SDXL, 2567e6, 5.75e9)],
)
def test_real_sizes_agree_with_what_was_counted(
    tmp_path: Path, shape: str, unet: dict[str, object], weights: float, each: float
) -> None:
    parts = parts_of(real_size(tmp_path, shape, unet))
    counted = sum(p.numel() for p in parts.denoiser.parameters())
    assert counted == pytest.approx(weights, rel=1e-3)
    # Rank 128 as in the paper; without autocast the types are those of the count.
    config = ExpertsConfig(precision="fp32", gradient_checkpointing=False)
    need = training_need(parts, config)
    # PEFT widens what enters a layer's factors to float32, which that count left out.
    assert each < need.each < each * 1.5


def test_guidance_doubles_what_the_unet_holds(tmp_path: Path) -> None:
    base = real_size(tmp_path, "sd1", SD1)
    decoding = generation_need(parts_of(base), 4, guided=True)
    own = tiny.folder("sd1") / "vae" / "config.json"
    shutil.copy(own, Path(base.model) / "vae" / "config.json")  # a decoder that needs next to none
    parts = parts_of(base)
    guided, plain = (generation_need(parts, 4, guided=guided) for guided in (True, False))
    assert guided.each == pytest.approx(2 * plain.each, rel=0.05)
    assert decoding.each > 2 * guided.each, "the published decoder needs more than the UNet"


def test_half_precision_is_widened_where_it_is_in_use() -> None:
    whole, half, short = (
        parts_of(tiny.base("sdxl").model_copy(update={"precision": precision}))
        for precision in ("fp32", "fp16", "bf16")
    )
    assert (half.vae_dtype, short.vae_dtype) == (torch.float32, torch.bfloat16)
    each = [encoding_need(parts, 1).each for parts in (whole, half, short)]
    assert each[0] == each[1] == pytest.approx(2 * each[2], rel=0.2)
    assert half.vae.dtype == torch.float16, "as it was before"


def test_what_waits_in_the_cpus_memory_is_not_counted() -> None:
    parts = parts_of(tiny.base("sd1").model_copy(update={"offload": True}))
    need = training_need(parts, CONFIG.model_copy(update={"micro_batch_size": 2}))
    assert need.weights == held(parts.denoiser) and need.images == 2
    assert generation_need(parts, 3, guided=True).weights == parts.weights


def test_the_line_through_one_and_two_images() -> None:
    assert straight(10, 14) == (6, 4)
    assert straight(5, 12) == (0, 7), "nothing is less than nothing"


def test_other_kinds_of_adapters_are_estimated_too() -> None:
    parts = parts_of(tiny.base("sd1"))
    rotations = CONFIG.model_copy(update={"adapter": OftConfig(blocks=4)})
    need = training_need(parts, rotations)
    assert need.trained > 0 and need.each > 0
    assert training_need(parts, CONFIG) == training_need(parts_of(tiny.base("sd1")), CONFIG)


def test_a_mixture_trains_its_gates_alone() -> None:
    """Its experts lie beside the base, frozen; only gates have gradients and moments."""
    parts, training = parts_of(tiny.base("sd1")), MixtureConfig().training(CONFIG)
    wide = CONFIG.model_copy(
        update={"adapter": CONFIG.adapter.model_copy(update={"rank": 5 * CONFIG.adapter.rank})}
    )
    need, whole = mixture_need(parts, CONFIG, training, experts=5), training_need(parts, wide)
    assert need.weights - whole.weights == whole.trained // 3
    assert 0 < need.trained < whole.trained / CONFIG.adapter.rank and need.total < whole.total


def test_own_images_are_generated_beside_what_is_trained() -> None:
    parts, nft = parts_of(tiny.base("sd1")), NftObjective(reward="toybox", images_at_once=3)
    config = CONFIG.model_copy(update={"objective": nft})
    need, plain = rollout_need(parts, config, nft), generation_need(parts, 3, guided=False)
    assert need.trained == training_need(parts, config).trained > 0
    assert (need.weights, need.each, need.images) == (plain.weights, plain.each, 3)
    guided = nft.model_copy(update={"guidance": 3.0})
    assert rollout_need(parts, config, guided).each >= need.each


@pytest.mark.parametrize("kind", [DdpoObjective, DpokObjective])
def test_a_policys_guidance_takes_a_second_pass_with_a_gradient(
    kind: type[PolicyObjective],
) -> None:
    parts = parts_of(tiny.base("sd1"))

    def each(guidance: float) -> int:
        objective = kind(reward="toybox", guidance=guidance)
        return training_need(parts, CONFIG.model_copy(update={"objective": objective})).each

    assert each(1.0) == training_need(parts, CONFIG).each
    assert each(5.0) == pytest.approx(2 * each(1.0), rel=0.1)


def test_syngens_moves_keep_what_a_gradient_for_latents_needs() -> None:
    parts = parts_of(tiny.base("sd1"))
    need = move_need(parts, SynGenConfig())
    assert need.trained == 0 and need.weights == parts.weights
    assert need.each > generation_need(parts, 1, guided=False).each
    assert not any(hasattr(layer.processor, "maps") for layer in cross_attentions(parts.denoiser))


def test_rows_are_told_apart_by_guide_and_mixture() -> None:
    plain = RunConfig(name="a", base=tiny.base("sd1"), experts=CONFIG)
    mixed = plain.model_copy(update={"merged": MergedConfig(mixture=MixtureConfig())})
    configs = {"plain": plain, "same": plain, "mixed": mixed, "guided": plain}
    every = capacity.memory_of_each(configs, guides={"guided": SynGenConfig()})
    assert list(every) == [("plain", "same"), ("mixed",), ("guided",)]
    work = {names[-1]: [need.what for need in needs] for names, (needs, _) in every.items()}
    assert work["mixed"] == [*work["same"], "training the mixture", "generating, mixed"]
    assert work["guided"] == [*work["same"], "syngen's moves"]


@pytest.mark.parametrize(
    ("name", "px", "millions"),
    [
        ("sd-1.4", 512, [859.5, 83.7, 123.1]),
        ("sd-2", 768, [865.9, 83.7, 340.4]),
        ("sdxl", 1024, [2567.5, 83.7, 123.1, 694.7]),
    ],
)
def test_shapes_of_the_papers_bases_need_no_hub(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    px: int,
    millions: list[float],
) -> None:
    """Numbers of weights as their papers and model cards have them."""
    asked: list[object] = []

    def unreachable(*names: object, **_: object) -> None:
        asked.append(names)  # of the Hub's client, which tries again for half a minute
        raise OSError("no net")

    monkeypatch.setattr("huggingface_hub.model_info", unreachable)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    parts = parts_of(BaseConfig(model=name, device="cpu"))
    assert not asked
    networks = [parts.denoiser, parts.vae, *parts.text]
    counts = [sum(w.numel() for w in network.parameters()) / 1e6 for network in networks]
    assert counts == pytest.approx(millions, abs=0.1)
    assert parts.image_px == px
    assert f"{name} is taken to have the shapes that were published" in capsys.readouterr().err
    with pytest.raises(ModelError):
        parts_of(BaseConfig(model="some/other", device="cpu"))


def test_need_is_solved_for_images() -> None:
    need = Need("generating", weights=2 * GIB, trained=0, fixed=0, each=GIB, images=8)
    assert need.total == int(1.1 * 10 * GIB) + CONTEXT
    most = need.fits(need.total)
    assert most == 8 and need.fits(need.total - 1) in (7, 8) and need.fits(GIB) == 0


def test_advice_fits() -> None:
    parts = parts_of(tiny.base("sdxl"))
    need = training_need(parts, CONFIG)
    assert need.images == 8
    limit = need.total - 2 * need.each
    assert "experts.micro_batch_size: 4" in advice(parts, CONFIG, need, limit)
    tight = need.total - int(1.1 * 7.5 * need.each)
    (only,) = advice(parts, CONFIG, need, tight)
    assert only.startswith("experts.gradient_checkpointing: true")


def test_a_run_is_told_what_to_change() -> None:
    config = RunConfig(name="little", base=tiny.base("sd1"), experts=CONFIG)
    needs, changes = memory(config)
    assert changes == [] and [need.images for need in needs] == [8, 8, 8]
    needs, changes = memory(config, CONTEXT)
    assert "base.precision: bf16" in changes and "base.offload: true" in changes
    some = max(need.total for need in needs) - 1
    assert memory(config, some)[1] != []
    assert memory(config, 1 << 50)[1] == []
    assert "images.batch_size: 7" in memory(config, needs[0].total - needs[0].each)[1]


def test_drawing_counts_both_sides_of_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def need(parts: object, images: int, *, guided: bool) -> Need:
        asked.append(guided)
        return Need("generating", 0, 0, 0, 1, images)

    monkeypatch.setattr(capacity, "generation_need", need)
    for training, scored in ((1.0, None), (1.0, 1.0), (3.0, None), (1.0, 3.0)):
        config = RunConfig(
            name="little",
            base=tiny.base("sd1"),
            experts=CONFIG,
            images={"guidance": training},
            scores={"guidance": scored},
        )
        memory(config)
    assert asked == [False, False, True, True]


def test_what_does_not_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig(name="little", folder=tmp_path, base=tiny.base("sd1"), experts=CONFIG)
    monkeypatch.setattr(capacity, "_device_memory", lambda base, setting="base": CONTEXT)
    monkeypatch.setattr(text_to_image, "load_text_to_image", lambda base: pytest.fail("loaded"))
    stages = Stages(config, Workspace(tmp_path), make=[])
    with pytest.raises(
        ModelError, match=r"has 1\.0 GiB, but generating about .*base\.precision: bf16"
    ):
        stages.model()
    monkeypatch.setattr(capacity, "_device_memory", lambda base, setting="base": 1 << 50)
    monkeypatch.setattr(text_to_image, "load_text_to_image", lambda base: base)
    assert stages.model() == config.base


APPLICATIONS: dict[str, tuple[type[RunConfig], Any, str]] = {
    "control": (ControlRun, control._work, "control.generation.batch_size"),
    "subjects": (SubjectsRun, subjects._work, "subjects.generation.batch_size"),
    "sur": (SurRun, sur._work, "images.batch_size"),
    "hps": (RunConfig, styles._work, "images.batch_size"),
}
"""Name → its settings, what it does with the base, and the setting of its batches."""


@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_application_needs_what_it_does_itself(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, work, setting = APPLICATIONS[name]
    much = CONFIG.model_copy(update={"batch_size": 4096})

    def run(images: int) -> RunConfig:
        part, _, rest = setting.rpartition(".")[0].partition(".")
        batches = {"batch_size": images}
        return settings.model_validate(
            {"name": "little", "base": tiny.base("sd1"), "experts": much}
            | {part: {rest: batches} if rest else batches}
        )

    limit = memory(run(1))[0][-1].total - 1
    monkeypatch.setattr(capacity, "_device_memory", lambda base, setting="base": limit)
    monkeypatch.setattr(text_to_image, "load_text_to_image", lambda base: base)
    with pytest.raises(ModelError, match="but training about"):
        Stages(run(1), Workspace(tmp_path), make=[]).model()
    stages = Stages(run(1), Workspace(tmp_path), make=[], work=work)
    assert stages.model() == stages.config.base
    large = Stages(run(1 << 20), Workspace(tmp_path), make=[], work=work)
    with pytest.raises(ModelError, match=rf"but generating about .* {re.escape(setting)}: \d+"):
        large.model()


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "checkpointing"), [("fp32", False), ("bf16", True)])
def test_a_gpu_holds_about_what_was_estimated(
    tmp_path: Path, precision: str, checkpointing: bool
) -> None:
    """One training step of SD 1's size with random weights."""
    from diffusers import UNet2DConditionModel

    from selma.adapters import lora

    parts = parts_of(real_size(tmp_path, "sd1", SD1))
    config = ExpertsConfig(
        precision=precision, gradient_checkpointing=checkpointing, micro_batch_size=4
    )
    need = training_need(parts, config)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.device("cuda"):
        unet = UNet2DConditionModel.from_config(SD1).to(torch.bfloat16)
        given = (
            torch.randn(4, 4, 64, 64, dtype=torch.bfloat16),
            torch.zeros(4, dtype=torch.long),
            torch.randn(4, 77, 768, dtype=torch.bfloat16),
        )
    factors = lora.attach(unet, config.adapter, generator=torch.Generator().manual_seed(0))
    if checkpointing:
        unet.enable_gradient_checkpointing()
    with torch.autocast("cuda", torch.bfloat16, enabled=precision != "fp32"):
        out = unet(*given).sample
    out.float().square().mean().backward()
    assert len(factors) == 256
    held = torch.cuda.max_memory_allocated() - before
    moments = 2 * sum(factor.nbytes for factor in factors.values())
    estimated = need.fixed + 4 * need.each + sum(p.nbytes for p in parts.denoiser.parameters())
    estimated += need.trained - moments
    assert 0.75 * held < estimated < 1.35 * held


@pytest.mark.parametrize("shape", (*tiny.SHAPES, *tiny.FLOW_SHAPES))
def test_operations_are_torchs_own_count(shape: str) -> None:
    """Of the networks themselves, whose attention is not fused."""
    parts, model = parts_of(tiny.base(shape)), tiny.load(shape)
    rows = parts.conditioning(1).map(lambda part: torch.ones(part.shape, dtype=part.dtype))
    latents, time = torch.randn(1, *model.latent_shape), torch.tensor([500])
    with torch.no_grad():
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.family.denoise(model.denoiser, latents, time, rows)
        assert operations(lambda: denoised(parts, 1)) == counter.get_total_flops()
    step, image = image_operations(parts, steps=3, guided=True)
    assert step > 0 and image > 3 * step
    sample = sample_operations(parts, ExpertsConfig(adapter=LoraConfig(rank=1)))
    # Of frozen layers only inputs have a gradient: as much again as forward, and the attention.
    assert 1.5 < sample / (step / 2) < 3.2


def test_fewer_bits_are_fewer_bytes() -> None:
    """Of linear layers, those of the denoiser and of text encoders: a half, or a quarter, of 16."""
    base = tiny.base("sd3").model_copy(update={"precision": "bf16"})
    bits = {kind: parts_of(base.model_copy(update={"quantization": kind})).weights
            for kind in (None, "int8", "nf4")}  # fmt: skip
    linear = 2 * (bits[None] - bits["int8"])  # bytes of them at 16 bits
    assert 0 < linear < bits[None]
    assert bits["nf4"] == bits[None] - linear * 3 // 4


@pytest.mark.parametrize("shape", ("sd1", *tiny.FLOW_SHAPES))
def test_what_is_remembered_is_what_pytorchs_kernels_give(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needs and operations are the same with every outcome asked, and with none asked twice."""

    def counted() -> list[object]:
        parts = parts_of(tiny.base(shape))
        settings = ExpertsConfig(adapter=LoraConfig(rank=2), precision="bf16")
        return [
            generation_need(parts, 2, guided=True),
            training_need(parts, settings),
            image_operations(parts, steps=2, guided=False),
            sample_operations(parts, settings),
        ]

    monkeypatch.setattr(shape_modes, "_known", {})
    monkeypatch.setattr(shape_modes, "_MOST_KNOWN", 0)
    asked = counted()
    assert not shape_modes._known
    monkeypatch.setattr(shape_modes, "_MOST_KNOWN", 1 << 16)
    assert counted() == asked
    assert any(shape_modes._known.values())
    assert counted() == asked


def test_what_is_remembered_of_operations_is_what_they_count() -> None:
    """By PyTorch's own counter, twice: the second time from memory."""
    import gc

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from selma.backbones.memory import operations

    with torch.device("meta"):
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(2))
        network.append(torch.nn.Linear(36, 5))
        image = torch.empty(2, 3, 8, 8)
    with FlopCounterMode(display=False) as counter:
        network(image).sum().backward()
    own = [operations(lambda: network(image).sum().backward()) for _ in range(2)]
    assert own == [counter.get_total_flops()] * 2
    assert gc.isenabled()
