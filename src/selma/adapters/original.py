"""Layers of diffusers' UNet by their paths in the original one, whose blocks are counted through.

Where a block's layers lie there follows from which layers there are: each residual block with its
attention is one input or output block, a downsampler is one of its own, and an upsampler closes the
last output block of its level, behind the attention if that has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_MIDDLE = {
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_BLOCK = re.compile(
    r"(down|up)_blocks\.(\d{1,3})\.(resnets|attentions|downsamplers|upsamplers)\.(\d{1,3})\b"
)


def original_paths(modules: Iterable[str]) -> dict[str, str]:
    """Module of diffusers' UNet → its path in the original UNet, for those that have one there."""
    given = list(modules)
    bodies = {**_MIDDLE, **_bodies(_levels(given))}
    paths = {}
    for module in given:
        body = next((prefix for prefix in _prefixes(module) if prefix in bodies), None)
        if module in _TOP:
            paths[module] = _TOP[module]
        elif body is not None:
            inner = _inside(body, module[len(body) + 1 :])
            if inner is not None:
                paths[module] = f"{bodies[body]}.{inner}"
    return paths


@dataclass
class _Level:
    """One of the blocks of diffusers: how many residual blocks it has, and what beside them."""

    resnets: int = 0
    kinds: set[str] = field(default_factory=set)


def _levels(modules: Iterable[str]) -> dict[str, dict[int, _Level]]:
    levels: dict[str, dict[int, _Level]] = {"down": {}, "up": {}}
    for module in modules:
        if match := _BLOCK.match(module):
            side, block, kind, number = match[1], int(match[2]), match[3], int(match[4])
            level = levels[side].setdefault(block, _Level())
            level.kinds.add(kind)
            if kind == "resnets":
                level.resnets = max(level.resnets, number + 1)
    return levels


def _bodies(levels: Mapping[str, Mapping[int, _Level]]) -> dict[str, str]:
    """What the layers lie in, as "down_blocks.1.attentions.0" → "input_blocks.4.1"."""
    bodies: dict[str, str] = {}
    # Input block 0 is conv_in.
    for side, theirs, index in (("down", "input_blocks", 1), ("up", "output_blocks", 0)):
        for block, level in sorted(levels[side].items()):
            ours = f"{side}_blocks.{block}"
            for number in range(level.resnets):
                bodies[f"{ours}.resnets.{number}"] = f"{theirs}.{index + number}.0"
                bodies[f"{ours}.attentions.{number}"] = f"{theirs}.{index + number}.1"
            index += level.resnets
            if "downsamplers" in level.kinds:
                bodies[f"{ours}.downsamplers.0"] = f"{theirs}.{index}.0"
                index += 1
            if "upsamplers" in level.kinds:
                inner = 2 if "attentions" in level.kinds else 1
                bodies[f"{ours}.upsamplers.0"] = f"{theirs}.{index - 1}.{inner}"
    return bodies


def _prefixes(module: str) -> Iterator[str]:
    parts = module.split(".")
    for count in (3, 4):
        yield ".".join(parts[:count])


def _inside(body: str, rest: str) -> str | None:
    """The path of a layer within what it lies in; None where the original has no such layer."""
    if ".resnets." in body:
        return _RESNET.get(rest)
    if body.endswith(".downsamplers.0"):
        return "op" if rest == "conv" else None
    return rest
