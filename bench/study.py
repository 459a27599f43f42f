"""A whole small study, beside the released programs run one after the other (B14).

    .venv/bin/python bench/study.py
    .venv/bin/python bench/study.py --skills 2 --prompts 6 --steps 2 \\
        --training 4 --benchmark-prompts 10

A stub of a language model that answers at once, a tiny Stable Diffusion and a tiny BLIP stand for
the real ones, so that what is timed is what a program adds to them. The released programs are
restated in our own words: ROUGE-L with a pool for each caption; images one by one; training with
autoencoder and text encoder in every step; experts stacked at run time; one question at a time.

They are patched where they cannot run (an undefined name, folders that are not made, an old client,
clipping of a spent list), and so that outcomes can be compared: both generate the same prompts from
the same noise into PNGs, weights of the merge are one over the number of experts, and both generate
the base's benchmark images too. Their prompt stage is timed on captions of its own. selma also asks
a second judge, makes intervals and writes a report; that is in its time.

A further run of selma counts the seconds inside its networks' passes and AdamW's steps, which are a
bound of the ratio: that of a selma that does nothing else.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from multiprocessing import Pool
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import diffusers
import numpy as np
import torch
import transformers
import typer
from judging import one_at_a_time
from lora_step import loop
from novelty import THRESHOLD, WORKERS, rouge_l
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers.models.blip import modeling_blip
from turns import cpu_seconds

from selma import pipeline
from selma.adapters import lora
from selma.adapters.files import Lineage
from selma.backbones.judges.vqa import VqaJudge
from selma.config import RunConfig
from selma.config.scores import LocalJudge
from selma.experts.batches import Batches
from selma.images.pairs import read_generated
from selma.prompts.novelty import rouge_words
from selma.randomness import seed_for
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.images import Pair
from selma.records.prompts import Prompt
from selma.scores.benchmarks import load_benchmark
from selma.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny
import tiny_judges
from pipeline.server import serving

SKILLS = ("localized_narratives", "midjourney", "diffusiondb", "whoops", "coco")
SEED = 5
PASSES = (
    (diffusers.UNet2DConditionModel, "forward"),
    (diffusers.AutoencoderKL, "encode"),
    (diffusers.AutoencoderKL, "decode"),
    (transformers.CLIPTextModel, "forward"),
    (modeling_blip.BlipVisionModel, "forward"),
    (modeling_blip.BlipTextModel, "forward"),
    (modeling_blip.BlipTextLMHeadModel, "forward"),
    (torch.Tensor, "backward"),
    (torch.optim.AdamW, "step"),
)
"""All that a program which does nothing else than compute would do."""


def main(
    skills: Annotated[int, typer.Option(min=2, max=5)] = 5,
    prompts: Annotated[int, typer.Option(min=3, help="Of each skill.")] = 50,
    steps: Annotated[int, typer.Option(min=1, help="For each image.")] = 20,
    training: Annotated[int, typer.Option(min=1, help="Steps of each expert.")] = 50,
    benchmark_prompts: Annotated[int, typer.Option(min=1, help="Prompts that are scored.")] = 100,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Print CPU seconds of both, theirs by stage, and how their outcomes differ."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, serving() as address:
        folder = Path(name)
        tiny.build("sd1", folder / "base")
        for seed in (0, 1):
            tiny_judges.build("blip", folder / f"judge-{seed}", seed=seed)
            inclined(folder / f"judge-{seed}")
        config = settings(
            folder, address, SKILLS[:skills], prompts, steps, training, benchmark_prompts
        )
        ours: list[float] = []
        theirs: list[Released] = []
        bounds: list[float] = []
        pipeline.run(config.model_copy(update={"folder": folder / "warm"}))
        for number in range(rounds):
            one = config.model_copy(update={"folder": folder / f"ours-{number}"})
            began = cpu_seconds()
            pipeline.run(one)
            ours.append(cpu_seconds() - began)
            theirs.append(Released(one, folder / f"theirs-{number}", address))
            theirs[-1].run()
            with in_passes() as spent:
                pipeline.run(config.model_copy(update={"folder": folder / f"passes-{number}"}))
            bounds.append(sum(spent))
        show(ours, theirs, bounds, title=f"{skills} skills x {prompts} prompts x {steps} steps")
        same = compared(config.model_copy(update={"folder": folder / "ours-0"}), theirs[0])
    raise typer.Exit(0 if same else 1)


@contextmanager
def in_passes() -> Iterator[list[float]]:
    """While the block runs, CPU seconds of each pass and step; one inside another is its part."""
    spent: list[float] = []
    inside = False

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)  # transformers looks at what a model takes
        def run(*args: Any, **more: Any) -> Any:
            nonlocal inside
            if inside:
                return call(*args, **more)
            inside, began = True, time.process_time()
            try:
                return call(*args, **more)
            finally:
                spent.append(time.process_time() - began)
                inside = False

        return run

    with ExitStack() as stack:
        for owner, name in PASSES:
            stack.enter_context(patch.object(owner, name, timed(getattr(owner, name))))
        yield spent


def inclined(folder: Path) -> None:
    """Make a judge of random weights say yes or no to many questions, so that scores are not 0."""
    model = transformers.BlipForQuestionAnswering.from_pretrained(folder)
    for word, more in (("yes", 8), ("no", 4)):
        model.text_decoder.cls.predictions.bias.data[tiny_judges._id(word)] += more
    model.save_pretrained(folder)


def settings(
    folder: Path, address: str, skills: Sequence[str], prompts: int, steps: int, training: int,
    benchmark_prompts: int,
) -> RunConfig:  # fmt: skip
    judges = [
        {"kind": "transformers", "model": str(folder / f"judge-{seed}"), "max_new_tokens": 1,
         "device": "cpu"}
        for seed in (0, 1)
    ]  # fmt: skip
    return RunConfig.model_validate(
        {
            "name": "study",
            "seed": SEED,
            "base": {"model": str(folder / "base"), "device": "cpu"},
            "prompts": {
                "skills": list(skills),
                "per_skill": prompts,
                "asked_per_reply": 6,
                "backend": {"kind": "openai", "model": "captions", "base_url": address,
                            "key_variable": "PATH"},  # no secret, and always there
            },
            "images": {"steps": steps, "guidance": 7.5},
            "experts": {"adapter": {"kind": "lora", "rank": 4}, "steps": training,
                        "batch_size": 4, "precision": "fp32", "checkpoint_every": training},
            "scores": {"judge": judges[0], "choosing_judge": judges[1],
                "prompts": benchmark_prompts,
                       "clip": None, "experts": False, "resamples": 1000},
        }
    )  # fmt: skip


class Released:
    """The released programs' five stages, on the prompts that ours wrote."""

    def __init__(self, ours: RunConfig, folder: Path, address: str) -> None:
        self.ours, self.folder, self.address = ours, folder, address
        self.seconds: dict[str, float] = {}
        self.losses: dict[str, list[float]] = {}
        self.answers: dict[str, list[str]] = {}
        self.score: dict[str, float] = {}
        this = pipeline.Stages(ours, Workspace(ours.run_folder), make=[])
        self.prompts: Mapping[str, Sequence[Prompt]] = this.write_prompts()
        self.benchmark_prompts: Sequence[BenchmarkPrompt] = load_benchmark(ours.scores)
        self.images = folder / "images"

    def run(self) -> None:
        stages: dict[str, Callable[[], None]] = {
            "prompts": self.write,
            "images": self.generate,
            "experts": self.train,
            "merged benchmark": self.generate_benchmark,
            "scores": self.judge,
        }
        for name, stage in stages.items():
            began = cpu_seconds()
            stage()
            self.seconds[name] = cpu_seconds() - began

    def write(self) -> None:
        for skill, some in self.prompts.items():
            kept: list[list[str]] = []
            for request in range(100):
                if len(kept) >= len(some):
                    break
                for caption in said(self.address, f"{skill} {request}"):
                    words = rouge_words(caption)
                    with Pool(WORKERS) as pool:
                        scores = pool.map(partial(rouge_l, words), kept)
                        pool.close()
                        pool.join()  # or its time would not be counted
                    if max(scores, default=0.0) <= THRESHOLD:
                        kept.append(words)

    def generate(self) -> None:
        pipe = self.loaded()
        for skill, some in self.prompts.items():
            for prompt in some:
                seed = seed_for(SEED, "image", prompt.id, 0)
                self.one(pipe, prompt.text, seed, self.images / skill / f"{prompt.id}.png")

    def train(self) -> None:
        config = self.ours.experts
        for skill, some in self.prompts.items():
            pipe = self.loaded()
            pairs = [
                Pair(prompt=p, image=self.images / skill / f"{p.id}.png", seed=0) for p in some
            ]
            unet = pipe.unet.config
            steps = Batches(
                seed=SEED, skill=skill, count=len(pairs), batch_size=config.batch_size,
                latent=(unet.in_channels, unet.sample_size, unet.sample_size),
                train_timesteps=1000, caption_dropout=0.0, flip=False,
            )  # fmt: skip
            place = self.folder / "experts" / f"{skill}.safetensors"
            place.parent.mkdir(parents=True, exist_ok=True)
            save = partial(_save, place, config)
            self.losses[skill] = list(loop(pipe, pairs, steps, config, save=save))

    def generate_benchmark(self) -> None:
        pipe = self.loaded()
        for model in ("base", "merged"):
            if model == "merged":
                for skill in self.prompts:
                    pipe.load_lora_weights(
                        self.folder / "experts", weight_name=f"{skill}.safetensors",
                        adapter_name=skill,
                    )  # fmt: skip
                count = len(self.prompts)
                pipe.set_adapters(list(self.prompts), [1 / count] * count)
            for prompt in self.benchmark_prompts:
                seed = seed_for(SEED, "exam", prompt.id)
                self.one(pipe, prompt.text, seed, self.folder / model / f"{prompt.id}.png")

    def judge(self) -> None:
        settings = self.ours.scores.judge
        assert isinstance(settings, LocalJudge)
        judge = VqaJudge(settings)
        asked = one_at_a_time(judge, settings.model)
        for model in ("base", "merged"):
            shown = [
                Image.open(self.folder / model / f"{p.id}.png") for p in self.benchmark_prompts
            ]
            replies = asked(shown, [[q.text for q in p.questions] for p in self.benchmark_prompts])
            self.answers[model] = [text for some in replies for text in some]
            self.score[model] = 100 * float(np.mean(list(points(self.benchmark_prompts, replies))))

    def loaded(self) -> Any:
        from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(self.ours.base.model, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False)
        return pipe

    def one(self, pipe: Any, text: str, seed: int, path: Path) -> None:
        images = self.ours.images
        generated = pipe(
            text,
            num_inference_steps=images.steps,
            guidance_scale=images.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        generated.images[0].save(path)


def _save(place: Path, config: Any, factors: dict[str, torch.nn.Parameter]) -> None:
    lora.save(place, factors, config.adapter, lineage=Lineage())


def said(address: str, words: str) -> Iterator[str]:
    """The captions of one reply of the language model."""
    asked = {"model": "captions", "messages": [{"role": "user", "content": words}]}
    request = urllib.request.Request(
        f"{address}/chat/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        text = json.load(reply)["choices"][0]["message"]["content"]
    yield from re.findall(r"^\d+\. (.+)$", text, flags=re.MULTILINE)


def points(
    benchmark_prompts: Sequence[BenchmarkPrompt], replies: Sequence[Sequence[str]]
) -> Iterator[float]:
    """Each prompt's share of questions answered yes, whose parents are answered yes, too."""
    for prompt, texts in zip(benchmark_prompts, replies, strict=True):
        yes = {
            q.id: text.strip(" .").lower() == "yes"
            for q, text in zip(prompt.questions, texts, strict=True)
        }
        for question in prompt.questions:  # toybox has each after those that it depends on
            yes[question.id] &= all(yes.get(parent, True) for parent in question.parents)
        yield sum(yes.values()) / len(yes)


def show(ours: list[float], theirs: list[Released], bounds: list[float], *, title: str) -> None:
    table = Table("round", "selma", "released", "ratio", *theirs[0].seconds, title=title)
    wholes = [sum(other.seconds.values()) for other in theirs]
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True), 1):
        whole = wholes[number - 1]
        stages = [f"{spent:.1f}" for spent in other.seconds.values()]
        table.add_row(str(number), f"{mine:.1f}", f"{whole:.1f}", f"{whole / mine:.1f}", *stages)
    console = Console()
    console.print(table)
    console.print(
        f"selma's passes and steps alone take {median(bounds):.1f} s; with nothing else the ratio "
        f"would be {median(w / b for w, b in zip(wholes, bounds, strict=True)):.1f}."
    )


def compared(ours: RunConfig, theirs: Released) -> bool:
    """Print whether images, losses and scores of both are the same except for the last digits."""
    run, worst = ours.run_folder, 0
    for skill, some in theirs.prompts.items():
        for pair in read_generated(run / "2-images" / skill, some):
            worst = max(worst, apart(pair.image, theirs.images / skill / pair.image.name))
    loss = 0.0
    for skill, losses in theirs.losses.items():
        rows = (run / "3-experts" / skill / "loss.jsonl").read_text().splitlines()
        mine = [json.loads(row)["loss"] for row in rows]
        loss = max(loss, *(abs(a - b) / b for a, b in zip(mine, losses, strict=True)))
    card = pipeline.scorecard(ours)
    scores = {model.model: model.score.mean for model in card.models}
    console = Console()
    console.print(f"Training images differ by at most {worst} of 255; losses by {loss:.1e}.")
    other = 0.0
    for model, score in theirs.score.items():
        pairs = list(zip(answers_of(run, model), theirs.answers[model], strict=True))
        differ = sum(a != b for a, b in pairs) / len(pairs)
        console.print(
            f"{model}: scores {scores[model]:.3f} and {score:.3f}; of {len(pairs)} answers of "
            f"{len({a for a, _ in pairs})} kinds {differ:.1%} differ."
        )
        other = max(other, differ)
    return worst <= 2 and loss < 1e-2 and other < 0.02


def answers_of(run: Path, model: str) -> list[str]:
    """The reporting judge's answers, in the benchmark's order."""
    place = run / "5-scores" / "answers" / model / "answers.jsonl"
    rows = [json.loads(row) for row in place.read_text().splitlines()]
    return [answer["text"] for row in rows for answer in row["answers"]]


def apart(one: Path, other: Path) -> int:
    a, b = (np.asarray(Image.open(path), dtype=int) for path in (one, other))
    return int(np.abs(a - b).max())


if __name__ == "__main__":
    typer.run(main)
