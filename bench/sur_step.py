"""One training step of the SUR-adapter, encoded before, beside one that encodes in the loop.

    .venv/bin/python bench/sur_step.py
    .venv/bin/python bench/sur_step.py --base FOLDER --batch 4
    .venv/bin/python bench/sur_step.py --losses ours
    .venv/bin/python bench/sur_step.py --count

Both have the paper's losses, as the released script has, or ours, whose teacher and attention
outputs ask more of the UNet. The second does what that script does in every step: the autoencoder,
and the text encoders on both prompts (vectors of the language model are files there, too). Both
train equal weights on the same samples with the same noise; their gradients must agree. They take
turns, and the median counts. With --count nothing is timed: the products of both steps are counted
on Stable Diffusion 1's shapes, 512 px, without weights or a device for them.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL, UNet2DConditionModel
from rich.console import Console
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from selma.applications.sur.collecting import collect_samples
from selma.applications.sur.encoding import (
    EncodedSamples,
    as_pairs,
    encode_samples,
    token_mask,
)
from selma.applications.sur.learner import SurLearner
from selma.applications.sur.records import SurSample
from selma.applications.sur.settings import SurData, SurSettings, ToyboxSamples
from selma.backbones.families.conditioning import Conditioning
from selma.backbones.text_to_image import TextToImage, load_text_to_image
from selma.config.networks import BaseConfig, LlmVectors
from selma.experts.batches import Batch, Batches
from selma.experts.recipes import image_digests
from selma.image_files import open_image
from selma.workspace import Workspace

SAME = 1e-5
"""How far gradients may differ, as a share of the largest one of their tensor."""


class Losses(StrEnum):
    PAPER = "paper"
    OURS = "ours"


def main(
    base: Annotated[str, typer.Option(help="toybox or a folder.")] = "toybox",
    batch: Annotated[int, typer.Option(min=1)] = 4,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    losses: Annotated[Losses, typer.Option(help="Whose losses.")] = Losses.PAPER,
    count: Annotated[bool, typer.Option("--count", help="Count products, time nothing.")] = False,
) -> None:
    """Print seconds of both, their ratio, and how far gradients differ."""
    if count:
        show_counted(counted(batch))
        return
    torch.set_num_threads(1)
    model = load_text_to_image(BaseConfig.model_validate({"model": base, "device": device}))
    with tempfile.TemporaryDirectory() as folder:
        samples, data = encoded(model, Workspace(Path(folder)), count=4 * batch)
        step = steps(data, model, batch)
        before = SurLearner(model, data, SurSettings.model_validate({"preset": losses.value}), 0)
        stir(before)
        measured_once = ("weights", "_content", "_layers")

        def loop(number: int) -> dict[str, torch.Tensor]:
            given = step.at(number)
            fresh = replace(before, data=in_the_loop(model, samples, data, given))
            vars(fresh).update(
                {name: vars(before)[name] for name in measured_once if name in vars(before)}
            )
            return gradients(fresh, given, number)

        def kept(number: int) -> dict[str, torch.Tensor]:
            return gradients(before, step.at(number), number)

        differs = difference(kept(0), loop(0))
        seconds: dict[str, list[float]] = {"encoded before": [], "in the loop": []}
        for number in range(1, rounds + 1):
            seconds["encoded before"].append(timed(partial(kept, number), device))
            seconds["in the loop"].append(timed(partial(loop, number), device))
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    ratio = middle["in the loop"] / middle["encoded before"]
    console = Console()
    for name, each in seconds.items():
        spread = (max(each) - min(each)) / middle[name]
        console.print(f"{name}: {middle[name]:.4f} s a step, spread {spread:.0%}, n {rounds}")
    console.print(f"{ratio:.2f} times faster; gradients differ by at most {differs:.1e}.")
    if differs > SAME:
        raise typer.Exit(1)


def encoded(
    model: TextToImage, folder: Workspace, *, count: int
) -> tuple[list[SurSample], EncodedSamples]:
    """Toybox's samples and what training reads of them, with random vectors for an LLM's."""
    samples = collect_samples(SurData(source=ToyboxSamples(count=count)), folder, seed=0)
    path = folder.root / "vectors.safetensors"
    save_file({sample.text: torch.randn(64) for sample in samples}, path)
    data = encode_samples(
        samples,
        folder,
        llm=LlmVectors(file=str(path)),
        flip=False,
        digests=image_digests(as_pairs(samples)),
        recipe={"base": model.fingerprint},
        model=lambda: model,
    )
    return samples, data


def steps(data: EncodedSamples, model: TextToImage, size: int) -> Batches:
    _, channels, height, width = data.captions.mean.shape
    return Batches(
        seed=0,
        skill="_sur",
        count=len(data.vectors),
        batch_size=size,
        latent=(channels, height, width),
        train_timesteps=model.pipe.scheduler.config.num_train_timesteps,
        caption_dropout=0.0,
        flip=False,
    )


@torch.no_grad()
def in_the_loop(
    model: TextToImage, samples: Sequence[SurSample], data: EncodedSamples, batch: Batch
) -> EncodedSamples:
    """Encode the batch's rows anew, as a step without a cache has to."""
    rows = batch.indices
    some = [samples[i] for i in rows.tolist()]
    images = [open_image(t.image, max_pixels=4 * model.image_px**2) for t in some]
    sized = [p.resize((model.image_px, model.image_px)) for p in images]
    x = model.pipe.image_processor.preprocess(sized).to(model.device, model.dtype)
    posterior = model.pipe.vae.encode(x).latent_dist
    read = model.text_features([t.text for t in some], guided=False).positive.tensors()
    keywords = model.text_features([t.prompt for t in some], guided=False).positive

    def put(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return old.index_copy(0, rows, new.float().cpu())

    old, pooled = data.captions, data.keyword_pooled
    if pooled is not None and keywords.pooled is not None:
        pooled = put(pooled, keywords.pooled)
    captions = replace(
        old,
        mean=put(old.mean, posterior.mean),
        logvar=put(old.logvar, posterior.logvar),
        conditioning=Conditioning.of(
            {
                name: put(part, read[name]) if name in read else part
                for name, part in old.conditioning.tensors().items()
            }
        ),
    )
    mask = token_mask(model, [t.text for t in some])
    return replace(
        data,
        captions=captions,
        keywords=put(data.keywords, keywords.text),
        keyword_pooled=pooled,
        mask=put(data.mask, mask),
    )


def counted(batch: int) -> dict[str, float]:
    """Part of a step → its FLOPs, forward and, if gradients pass through it, backward."""
    with torch.device("meta"):
        shape = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        autoencoder = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        reader = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
        )
        pixels = torch.zeros(batch, 3, 512, 512)
        latents, times = torch.zeros(batch, 4, 64, 64), torch.zeros(batch, dtype=torch.long)
        words = torch.zeros(batch, 77, dtype=torch.long)
        text = torch.zeros(batch, 77, 768, requires_grad=True)  # the adapter's own are few
    for network in (shape, autoencoder, reader):
        network.requires_grad_(False)
    found = {}
    with FlopCounterMode(display=False) as step:
        shape(latents, times, encoder_hidden_states=text).sample.sum().backward()
    found["UNet, both ways"] = float(step.get_total_flops())
    with torch.no_grad(), FlopCounterMode(display=False) as images:
        autoencoder.encode(pixels)
    found["autoencoder"] = float(images.get_total_flops())
    with torch.no_grad(), FlopCounterMode(display=False) as reading:
        reader(words)
    found["text encoder, two prompts"] = 2.0 * reading.get_total_flops()
    return found


def show_counted(found: dict[str, float]) -> None:
    for name, products in found.items():
        typer.echo(f"{name}: {products / 1e12:.2f} T")
    kept, *loop = found.values()
    typer.echo(f"{(kept + sum(loop)) / kept:.2f} times as many with everything in the loop.")


def gradients(learner: SurLearner, batch: Batch, step: int) -> dict[str, torch.Tensor]:
    noise_path = learner.model.noise_path()
    with learner.weights.attached() as parameters:
        loss = learner.losses(batch, noise_path, step=step)["loss"].mean()
        each = torch.autograd.grad(loss, list(parameters.values()))
        return dict(zip(parameters, each, strict=True))


def stir(learner: SurLearner) -> None:
    """Move the weights away from the start, where most gradients are zero."""
    with torch.no_grad():
        for weight in learner.weights.adapter.parameters():
            weight.add_(0.01 * torch.randn_like(weight))


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[n] - other[n]).abs().max() / one[n].abs().max()) for n in one)


def timed(run: Callable[[], object], device: str) -> float:
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    # Time of this process alone, where it is the machine that is shared.
    clock = time.perf_counter if device == "cuda" else time.process_time
    gc.disable()
    wait()
    started = clock()
    run()
    wait()
    spent = clock() - started
    gc.enable()
    return spent


if __name__ == "__main__":
    typer.run(main)
