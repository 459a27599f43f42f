"""A small real network that answers questions about colours by looking at pixels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from selma.backbones.judges.toybox import pixels
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.scores.benchmarks import COLUMNS

COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}


class ColourNetwork(torch.nn.Module):
    """Share of pixels near each colour; a share above `threshold` is a yes."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.colours = torch.nn.Parameter(torch.tensor(list(COLOURS.values())))
        self.threshold = threshold

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        apart = (images[:, None] - self.colours[None, :, :, None, None]).square().sum(dim=2)
        return (apart < 1).float().mean(dim=(2, 3))

    def answer(self, features: torch.Tensor, questions: list[str]) -> torch.Tensor:
        names = list(COLOURS)
        asked = torch.tensor([names.index(q.rstrip("?").split()[-1]) for q in questions])
        share = features.gather(1, asked[:, None])[:, 0]
        return torch.sigmoid(40 * (share - self.threshold))


class ColourJudge:
    """Implements the protocols Judge and Scorer; counts the images that it was shown."""

    def __init__(self, name: str, *, threshold: float = 0.2) -> None:
        self.name = name
        self.fingerprint = f"colours-{threshold}"
        self.network = ColourNetwork(threshold)
        self.seen = 0
        self.stop_after: int | None = None

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        self._look(len(images))
        with torch.inference_mode():
            features = self.network.encode(pixels(images))
            return [
                [self._say(c) for c in self.network.answer(f.expand(len(q), -1), list(q)).tolist()]
                for f, q in zip(features, questions, strict=True)
            ]

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        self._look(len(images))
        with torch.inference_mode():
            shares = self.network.encode(pixels(images))
        wanted = torch.tensor([[float(c in text) for c in COLOURS] for text in texts])
        return [round(s, 4) for s in (100 * (shares * wanted).sum(dim=1)).tolist()]

    def _look(self, count: int) -> None:
        if self.stop_after is not None and self.seen >= self.stop_after:
            raise KeyboardInterrupt
        self.seen += count

    @staticmethod
    def _say(chance: float) -> tuple[str, float]:
        return ("yes" if chance >= 0.5 else "no"), round(chance, 4)


def benchmark_prompts(count: int) -> list[BenchmarkPrompt]:
    """Prompts that name two colours, with a question on each; the second hangs on the first."""
    names = list(COLOURS)
    prompts = []
    for i in range(count):
        first, second = names[i % 3], names[(i + 1) % 3]
        questions = (
            Question(id="1", text=f"Is there {first}?", category="colour"),
            Question(id="2", text=f"Is there {second}?", category="second", parents=("1",)),
        )
        group = "early" if i < count // 2 else "late"
        text = f"{first} beside {second}, take {i}"
        prompts.append(BenchmarkPrompt(id=f"p{i:03}", text=text, group=group, questions=questions))
    return prompts


def write_benchmark(path: Path, prompts: list[BenchmarkPrompt]) -> Path:
    """The prompts as a CSV in DSG-1k's layout."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for p in prompts:
            for q in p.questions:
                parents = ",".join(q.parents) or "0"
                rows.writerow([p.id, p.text, q.id, parents, q.category, q.detail or "-", q.text])
    return path


def image(*colours: str) -> Image.Image:
    """Vertical bands of these colours; black if there are none."""
    generated = Image.new("RGB", (64, 64))
    for i, colour in enumerate(colours):
        rgb = tuple(round(127.5 * (value + 1)) for value in COLOURS[colour])
        generated.paste(rgb, (64 * i // len(colours), 0, 64 * (i + 1) // len(colours), 64))
    return generated
