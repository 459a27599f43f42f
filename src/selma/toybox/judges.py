"""Toybox's visual question answering networks: image and question text in, P(yes) out.

Two architectures, so that one may choose and the other report: `attention` lets the question's
words attend to the image's cells, `modulation` lets the question scale and shift the feature
maps (FiLM, arXiv:1709.07871).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selma.errors import ModelError
from selma.toybox.questions import MAX_WORDS, words_of

_PAD, _UNKNOWN = 0, 1


class VqaConfig(BaseModel):
    """What a judge is made of; `vocabulary` lists the words it knows, in the order of their ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Literal["attention", "modulation"]
    vocabulary: tuple[str, ...]
    width: int = 128
    layers: int = 3
    max_words: int = MAX_WORDS


class VqaModel(nn.Module):
    """Encodes an image once, then answers any number of questions about it."""

    def __init__(self, config: VqaConfig) -> None:
        super().__init__()
        self.config = config
        self._ids = {word: index for index, word in enumerate(config.vocabulary, _UNKNOWN + 1)}
        words = len(config.vocabulary) + _UNKNOWN + 1
        self.words = nn.Embedding(words, config.width, padding_idx=_PAD)
        if config.architecture == "attention":
            self.picture: nn.Module = _Cells(config.width)
            self.reader: nn.Module = _Attention(config)
        else:
            self.picture = _Maps(config.width)
            self.reader = _Modulation(config)

    def encode(self, pixels: Tensor) -> Tensor:
        """Images [b, 3, 64, 64] in [-1, 1] -> features [b, ...]."""
        return self.picture(pixels)

    def logits(self, features: Tensor, word_ids: Tensor) -> Tensor:
        """Features [p, ...] and word ids [n, words] -> log-odds of yes [n].

        n is a multiple of p: the first n / p questions are about the first image, and so on.
        """
        return self.reader(features, self.words(word_ids), word_ids != _PAD)

    def answer(self, features: Tensor, questions: Sequence[str]) -> Tensor:
        """P(yes) [n] of question i about the image behind features row i."""
        return self.logits(features, self.word_ids(questions).to(features.device)).sigmoid()

    def word_ids(self, questions: Sequence[str]) -> Tensor:
        """Ids [n, max_words] of the questions' words; longer questions are cut."""
        rows = torch.full((len(questions), self.config.max_words), _PAD)
        for row, question in zip(rows, questions, strict=True):
            words = words_of(question)[: self.config.max_words]
            ids = [self._ids.get(word, _UNKNOWN) for word in words] or [_UNKNOWN]
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        return rows

    def save(self, folder: Path) -> None:
        """Writes config.json and model.safetensors (half precision)."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.half().contiguous() for k, v in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text(self.config.model_dump_json(indent=1) + "\n")


def load_vqa(folder: Path) -> VqaModel:
    """A judge in evaluation mode, float32. Raises ModelError if the folder holds none."""
    try:
        config = VqaConfig.model_validate(json.loads((folder / "config.json").read_text()))
        state = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} must hold a judge (config.json, model.safetensors), but: {error}. "
            "Make toybox's weights with python -m selma.toybox.pretraining."
        ) from error
    model = VqaModel(config)
    model.load_state_dict({key: value.float() for key, value in state.items()})
    return model.eval().requires_grad_(False)


def _convolution(channels_in: int, channels_out: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1),
        nn.GroupNorm(8, channels_out),
        nn.SiLU(),
    )


class _Cells(nn.Module):
    """[b, 3, 64, 64] -> [b, 64, width]: one vector for each 8x8 px cell, with its place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            _convolution(3, 32, stride=2),
            _convolution(32, 64, stride=2),
            _convolution(64, 64, stride=1),
            _convolution(64, width, stride=2),
            _convolution(width, width, stride=1),
            _convolution(width, width, stride=1),
        )
        # Begun as a ramp along both axes: from places that mean nothing yet, "left of" is not
        # learnt in any number of steps that we tried.
        ramp = rearrange(_grid(), "side y x -> (y x) side") @ torch.randn(2, width)
        self.place = nn.Parameter(0.5 * ramp)

    def forward(self, pixels: Tensor) -> Tensor:
        return rearrange(self.net(pixels), "b c h w -> b (h w) c") + self.place


class _Attention(nn.Module):
    """Words attend to one another and to the image's cells; their mean is read."""

    def __init__(self, config: VqaConfig) -> None:
        super().__init__()
        # As large as the words themselves: with 0.02, as is common, "the dog left of the cat" and
        # "the cat left of the dog" stayed one question through all of the training.
        self.place = nn.Parameter(torch.randn(config.max_words, config.width))
        self.layers = nn.ModuleList(_Layer(config.width) for _ in range(config.layers))
        self.head = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, 1))

    def forward(self, cells: Tensor, words: Tensor, known: Tensor) -> Tensor:
        x = words + self.place
        for layer in self.layers:
            x = layer(x, cells, known)
        mask = known.unsqueeze(-1)
        mean = (x * mask).sum(1) / mask.sum(1)
        return self.head(mean).squeeze(-1)


class _Layer(nn.Module):
    """A transformer decoder's layer in which the questions of one image share its cells."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.among_words = nn.MultiheadAttention(width, 4, batch_first=True)
        self.to_cells = nn.MultiheadAttention(width, 4, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, cells: Tensor, known: Tensor) -> Tensor:
        y = self.norms[0](x)
        x = x + self.among_words(y, y, y, key_padding_mask=~known, need_weights=False)[0]
        y = rearrange(self.norms[1](x), "(p q) w c -> p (q w) c", p=len(cells))
        seen = self.to_cells(y, cells, cells, need_weights=False)[0]
        x = x + rearrange(seen, "p (q w) c -> (p q) w c", w=x.shape[1])
        return x + self.feed_forward(self.norms[2](x))


class _Maps(nn.Module):
    """[b, 3, 64, 64] -> [b, width, 8, 8] feature maps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 48, 4, stride=4),
            nn.SiLU(),
            _convolution(48, 96, stride=1),
            _convolution(96, width, stride=2),
            _convolution(width, width, stride=1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels)


class _Modulation(nn.Module):
    """The question, read by a recurrent network, scales and shifts the maps, block after block.

    What the head reads of each map: its maximum, its mean, and where its mass lies.
    """

    def __init__(self, config: VqaConfig) -> None:
        super().__init__()
        width = config.width
        self.recurrent = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.modulate = nn.ModuleList(nn.Linear(2 * width, 2 * width) for _ in range(config.layers))
        # Two more channels tell each cell where it lies.
        self.mix = nn.ModuleList(nn.Conv2d(width + 2, width, 1) for _ in range(config.layers))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width))
            for _ in range(config.layers)
        )
        self.head = nn.Sequential(
            nn.Linear(6 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 1)
        )
        self.grid: Tensor
        self.register_buffer("grid", _grid(), persistent=False)

    def forward(self, maps: Tensor, words: Tensor, known: Tensor) -> Tensor:
        states, _ = self.recurrent(words)
        # The forward half at the last word, the backward half at the first.
        last = known.sum(1) - 1
        width = maps.shape[1]
        rows = torch.arange(len(words), device=words.device)
        question = torch.cat([states[rows, last, :width], states[:, 0, width:]], dim=1)
        questions_each = len(words) // len(maps)
        for modulate, mix, block in zip(self.modulate, self.mix, self.blocks, strict=True):
            grid = self.grid.to(maps.dtype).expand(len(maps), -1, -1, -1)
            x = F.silu(mix(torch.cat([maps, grid], dim=1)))
            y = block(x)
            if len(y) != len(question):  # up to here all questions of an image share the work
                x, y = (part.repeat_interleave(questions_each, dim=0) for part in (x, y))
            scale, shift = rearrange(modulate(question), "n (k c) -> k n c 1 1", k=2)
            maps = x + F.silu(y * (1 + scale) + shift)
        mass = maps.flatten(2).softmax(dim=2)
        middle = torch.einsum("n c s, a s -> n a c", mass, self.grid.to(mass.dtype).flatten(1))
        pooled = [maps.amax((2, 3)), maps.mean((2, 3)), middle[:, 0], middle[:, 1]]
        return self.head(torch.cat([*pooled, question], dim=1)).squeeze(-1)


def _grid() -> Tensor:
    """Where the 8x8 cells lie, [2, 8, 8]: from -1 to 1 downwards, and to the right."""
    axis = torch.linspace(-1, 1, 8)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
