"""What the flow costs, counted and not timed: arithmetic, calls of networks, bytes on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict
from test_memory import SD1, SDXL
from torch.utils.flop_counter import FlopCounterMode

from selma.adapters import lora
from selma.adapters.files import Lineage
from selma.backbones.families import FAMILIES
from selma.backbones.families.conditioning import Conditioning
from selma.backbones.families.paths import VariancePreserving
from selma.backbones.text_to_image import TextToImage
from selma.config.adapters import LoraConfig
from selma.config.experts import ExpertsConfig
from selma.config.images import ImagesConfig
from selma.experts import checkpoints, skills
from selma.experts.batches import Batch
from selma.experts.encoding import AT_ONCE, Samples
from selma.experts.objectives.denoising import denoising_loss
from selma.experts.optimizing import Optimization
from selma.images.generating import generate_pairs
from selma.records.images import Pair
from selma.records.prompts import Prompt, prompt_id
from selma.workspace import Workspace

RANK_128 = LoraConfig()
TEXT_WIDTH = {"sd1": 768, "sdxl": 2048}
SIDE = {"sd1": 64, "sdxl": 128}
SIZES = {"sd1": SD1, "sdxl": SDXL}


def on_shapes(size: str) -> tuple[TextToImage, dict[str, torch.nn.Parameter]]:
    """A base of real size without weights, with the paper's adapter attached."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SIZES[size])
        factors = lora.add(unet, RANK_128)
    pipe: Any = SimpleNamespace(
        unet=unet,
        vae=SimpleNamespace(config=FrozenDict(scaling_factor=0.18215)),
        scheduler=SimpleNamespace(config=FrozenDict(prediction_type="epsilon")),
    )
    family = FAMILIES["stable-diffusion-xl" if size == "sdxl" else "stable-diffusion"]
    return TextToImage(pipe, torch.device("meta"), torch.float32, "none", family), factors


@pytest.mark.parametrize(
    ("size", "teraflops"),
    # Counted by hand from the published configs: a forward pass with the adapter, and a backward
    # pass that computes no gradient of a frozen weight.
    [("sd1", 1.819), ("sdxl", 15.05)],
)
def test_a_training_step_computes_no_more_than_it_must(size: str, teraflops: float) -> None:
    model, factors = on_shapes(size)
    side = SIDE[size]
    with torch.device("meta"):
        image = torch.empty(1, 4, side, side)
        samples = Samples(
            latents=image,
            conditioning=Conditioning(
                text=torch.empty(1, 77, TEXT_WIDTH[size]),
                pooled=torch.empty(1, 1280) if size == "sdxl" else None,
                time_ids=torch.empty(1, 6) if size == "sdxl" else None,
            ),
        )
        one = torch.empty(1, dtype=torch.long)
        none = torch.empty(1, dtype=torch.bool)
        batch = Batch(one, one, image, image, none, none)
        with FlopCounterMode(display=False) as counted:
            path = VariancePreserving(torch.empty(1000), "epsilon")
            losses = denoising_loss(model, samples, batch, path)
            losses.mean().backward()
    assert all(factor.grad is not None for factor in factors.values())
    assert counted.get_total_flops() == pytest.approx(teraflops * 1e12, rel=0.02)


def test_a_checkpoint_at_sd1s_size_has_three_numbers_for_each_weight(tmp_path: Path) -> None:
    """The adapter and AdamW's two moments, and of the frozen base nothing: 0.31 GB."""
    _, at_size = on_shapes("sd1")
    weights = sum(factor.numel() for factor in at_size.values())
    factors = lora.attach(
        tiny.load("sd1").denoiser, LoraConfig(rank=64), generator=torch.Generator()
    )
    config = ExpertsConfig(precision="fp32")
    optimization = Optimization(list(factors.values()), config, device=torch.device("cpu"))
    for factor in factors.values():
        factor.grad = torch.ones_like(factor)
    optimization.step(1.0)
    lineage = Lineage(tiny.load("sd1").fingerprint, {"step": 1})
    checkpoints.write(
        tmp_path,
        step=1,
        factors=factors,
        optimization=optimization,
        file="adapter.safetensors",
        save=lambda path: lora.save(path, factors, LoraConfig(rank=64), lineage=lineage),
    )
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    here = sum(factor.numel() for factor in factors.values())
    names = 800 * len(factors)  # of tensors, in the files' headers
    assert 3 * 4 * here < written < 3 * 4 * here + names
    assert 3 * 4 * weights + 800 * len(at_size) < 0.32e9


@contextmanager
def calls(model: TextToImage) -> Iterator[dict[str, list[int]]]:
    """Network → the rows of each of its calls, while the block runs."""
    pipe, found = model.pipe, {}
    with ExitStack() as hooks:

        def count(name: str, network: Any) -> None:
            rows: list[int] = found.setdefault(name, [])

            def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                rows.append(len(next(x for x in (*args, *kwargs.values()) if torch.is_tensor(x))))

            hook = network.register_forward_pre_hook(note, with_kwargs=True)
            hooks.callback(hook.remove)

        count("unet", pipe.unet)
        count("encoder", pipe.vae.encoder)
        count("decoder", pipe.vae.decoder)
        for name in ("text_encoder", "text_encoder_2"):
            if getattr(pipe, name, None) is not None:
                count(name, getattr(pipe, name))
        yield found


PROMPTS = [
    Prompt(id=prompt_id("cats", f"{n} cats"), skill="cats", text=f"{n} cats") for n in range(11)
]


def generated(folder: Path, model: TextToImage, shape: str, guidance: float) -> list[Pair]:
    config = ImagesConfig(steps=3, guidance=guidance, batch_size=8)
    base = tiny.base(shape)
    found = generate_pairs(
        {"cats": PROMPTS}, config, Workspace(folder), base=base, seed=0, model=lambda: model
    )
    return found["cats"]


@pytest.mark.parametrize(
    ("shape", "guidance", "steps"),
    [("sd1", 5.0, 4), ("sd2", 5.0, 3), ("sdxl", 5.0, 3), ("sd2", 1.0, 3)],  # SD 1's PNDM adds one
)
def test_drawing_calls_each_network_as_often_as_it_must(
    tmp_path: Path, shape: str, guidance: float, steps: int
) -> None:
    model, passes = tiny.load(shape), 2  # of eight pictures each; the second is filled up
    with calls(model) as found:
        pairs = generated(tmp_path, model, shape, guidance)
        pairs[3].image.unlink()
        (tmp_path / "2-images" / "cats" / "manifest.json").unlink()
        before = {name: len(rows) for name, rows in found.items()}
        generated(tmp_path, model, shape, guidance)
        again = {name: len(rows) - before[name] for name, rows in found.items()}
        generated(tmp_path, model, shape, guidance)
    sides = 2 if guidance > 1 else 1
    assert found["unet"][: before["unet"]] == [8 * sides] * (passes * steps)
    assert before["decoder"] == passes and before["encoder"] == 0
    texts = [name for name in found if name.startswith("text")]
    # SDXL's empty prompt is zeros, which no encoder need compute.
    encoded = passes * (1 if shape == "sdxl" else sides)
    assert all(before[name] == encoded for name in texts)
    assert again == {name: n // passes for name, n in before.items()}, "one picture was missing"
    assert sum(map(len, found.values())) == sum(before.values()) + sum(again.values())


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_training_encodes_each_pair_once_and_never_in_a_step(tmp_path: Path, shape: str) -> None:
    model = tiny.load(shape)
    pairs = generated(tmp_path, model, shape, 1.0)
    config = ExpertsConfig(
        adapter=LoraConfig(rank=2), steps=5, batch_size=4, micro_batch_size=2, precision="fp32"
    )

    def train(**changed: object) -> dict[str, list[int]]:
        with calls(model) as found:
            skills.train_experts(
                {"cats": pairs},
                config.model_copy(update=changed),
                Workspace(tmp_path),
                base=tiny.base(shape),
                seed=0,
                model=lambda: model,
            )
        return found

    first, second = train(), train(learning_rate=1e-3)
    parts = -(-len(pairs) // AT_ONCE)
    assert len(first["encoder"]) == parts and sum(first["encoder"]) == len(pairs)
    texts = [name for name in first if name.startswith("text")]
    # The empty prompt is encoded as both sides of a guided pass; SDXL's other side is zeros.
    empty = 1 if shape == "sdxl" else 2
    assert all(sum(first[name]) == len(pairs) + empty for name in texts)
    assert first["unet"] == second["unet"] == [2] * (5 * 2)
    cached = {name: rows for name, rows in second.items() if name != "unet"}
    assert not any(cached.values()), "another expert on the same pairs encodes nothing"
    assert not any(first["decoder"])
