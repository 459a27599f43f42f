"""Toybox's landmark reader: an image in, the middles of its objects by kind out.

As in CenterNet (arXiv:1904.07850): for each cell of 4 px and each kind, the log-odds that the
middle of such an object lies there, and where within the cell.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selma.errors import ModelError
from selma.records.landmarks import Landmark
from selma.toybox.drawing import IMAGE_PX, KINDS

CELLS = 16
CELL_PX = IMAGE_PX // CELLS
SURE = 0.5
"""Probability from which on a middle counts."""


class ReaderConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 96
    blocks: int = 4


class LandmarkReader(nn.Module):
    """[b, 3, 64, 64] in [-1, 1] → log-odds [b, kinds, 16, 16] and places [b, 2, 16, 16] (right
    and down, 0..1 of a cell)."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.GroupNorm(8, 32),
            nn.SiLU(),
            nn.Conv2d(32, width, 3, stride=2, padding=1),
        )
        # Growing dilations: 32 px, the largest object, must be seen whole.
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1 + n % 3, dilation=1 + n % 3),
            )
            for n in range(config.blocks)
        )
        self.head = nn.Conv2d(width, len(KINDS) + 2, 1)
        # Hardly any cell has a middle: begun there, the first steps are not spent on learning it.
        with torch.no_grad():
            self.head.get_parameter("bias")[: len(KINDS)] = -4.0

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the kinds, and positions in each cell."""
        x = self.stem(pixels)
        for block in self.blocks:
            x = x + block(x)
        logits, places = self.head(F.silu(x)).split((len(KINDS), 2), dim=1)
        return logits, places.sigmoid()

    def save(self, folder: Path) -> None:
        """Writes config.json and model.safetensors (half precision)."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: v.half().contiguous() for name, v in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text(self.config.model_dump_json(indent=1) + "\n")


def load_reader(folder: Path) -> LandmarkReader:
    """A reader in evaluation mode, float32. Raises ModelError if the folder holds none."""
    try:
        config = ReaderConfig.model_validate(json.loads((folder / "config.json").read_text()))
        state = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} must hold a landmark reader (config.json, model.safetensors), but: {error}. "
            "Make it with python -m selma.toybox.pretraining --only reader."
        ) from error
    model = LandmarkReader(config)
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return model.eval().requires_grad_(False)


def found_landmarks(logits: Tensor, places: Tensor) -> list[tuple[Landmark, ...]]:
    """What lies in each image: cells that are sure of a kind and surer than their neighbours."""
    chance = logits.sigmoid()
    peaks = (chance >= SURE) & (chance == F.max_pool2d(chance, 3, stride=1, padding=1))
    return [
        tuple(
            Landmark(
                name=KINDS[kind],
                x=float((column + places[n, 0, row, column]) / CELLS),
                y=float((row + places[n, 1, row, column]) / CELLS),
            )
            for kind, row, column in torch.nonzero(peaks[n]).tolist()
        )
        for n in range(len(chance))
    ]
