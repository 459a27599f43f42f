"""Scorers that say how much people would like an image for its prompt, behind `Scorer`.

A number of theirs means nothing without version, scale and preprocessing, which differ between the
programs that carry one name; so each of them states all three, and all three are in its
fingerprint. Torch is imported when the first image is scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from pydantic import ValidationError

from selma.backbones.hub import find_device
from selma.backbones.judges.computing import counted
from selma.backbones.judges.judge import Scorer
from selma.backbones.judges.loading import load_scorer
from selma.backbones.packages import CheckedKind
from selma.backbones.preference import clip, imagereward
from selma.backbones.preference.checkpoints import Checkpoint
from selma.backbones.preference.clip import Forward
from selma.backbones.weights import Weights
from selma.config.scores import PreferenceConfig, ScorerSettings
from selma.config.section import require_kind
from selma.errors import ConfigError
from selma.registry import Table
from selma.texts import mistake_at, quoted

ROWS_ON_A_GPU = 16
DIGITS = 4
"""Decimals of a score: more differ between machines."""


class PreferenceScorer(Scorer, Protocol):
    """A scorer that says what its numbers are."""

    @property
    def scale(self) -> str: ...

    @property
    def preprocessing(self) -> str: ...

    @property
    def weights(self) -> str:
        """Hub id or name of a folder; never a path."""
        ...


@dataclass(frozen=True)
class Family:
    """What one kind of network is."""

    name: str
    """With its version."""
    scale: str
    preprocessing: str
    tokenizer: str | None
    """Whose tokenizer its authors use, where the model's own files have none."""
    load: Callable[..., Forward]
    """(weights, tokenizer, device) → the network."""
    known: str = ""
    """A sentence on published numbers that others do not reach, if any are known."""
    convert: Callable[[Checkpoint, Path], None] | None = None
    """Writes what `load` reads of a released checkpoint into an empty folder; None where there is
    nothing to convert."""


@dataclass(frozen=True)
class ScorerKind(CheckedKind):
    """A row of `SCORERS`. A new one is a file with such a row."""

    name: str
    """Its `kind` in the settings."""
    load: Callable[[Any], PreferenceScorer]
    """Settings → the scorer. Loads no weights yet; raises ModelError or ConfigError."""
    settings: type[ScorerSettings] = PreferenceConfig
    family: Family | None = None
    """Of a network; its `convert` is what `selma score convert` calls."""
    operations: int | None = None
    """Floating-point operations of an image with its text; None where they differ by the model."""


_HPS_KNOWN = (
    "Others get 28.7 where over 30 is published for v2.1 (HPSv2, issues 27, 33 and 43); bicubic "
    "with antialias or without it is part of that."
)


def _hps(version: str, *, antialias: bool = True) -> Family:
    how = "with" if antialias else "without"
    return Family(
        f"HPS v{version}",
        "100 x cosine",
        f"to tensor, longest side to 224 by bicubic {how} antialias, black padding, CLIP's mean "
        "and deviation; text by ftfy, 77 tokens; float32",
        _LAION,
        partial(clip.load_hps, antialias=antialias),
        _HPS_KNOWN,
        clip.convert_hps,
    )


_LAION = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_PICKSCORE = Family(
    "PickScore v1",
    "exp(logit scale) x cosine, about 100 x cosine",
    "shortest side to 224 by Pillow's bicubic, middle crop, CLIP's mean and deviation; "
    "text 77 tokens; float32",
    _LAION,
    clip.load_pickscore,
    convert=clip.convert_clip,
)
_IMAGEREWARD = Family(
    "ImageReward v1.0",
    f"(r - {imagereward.MEAN:.4f}) / {imagereward.STD:.4f}, unbounded, 0 is its authors' mean",
    "shortest side to 224 by Pillow's bicubic, middle crop, CLIP's mean and deviation; "
    f"text {imagereward.TOKENS} tokens; float32",
    "google-bert/bert-base-uncased",
    imagereward.load_imagereward,
    convert=imagereward.convert_imagereward,
)
_CLIP = Family(
    "CLIP score",
    "100 x cosine, not clipped at 0",
    "shortest side to the model's by Pillow's bicubic, middle crop, the model's mean and "
    "deviation; text as long as the model reads; float32",
    None,
    clip.load_clip_score,
    "CLIP scores differ by the model, the prompt's prefix and Pillow's version (DSG, issue 6).",
    clip.convert_clip,
)


def _network_mistakes(config: PreferenceConfig, key: str) -> Iterator[str]:
    folder = Path(config.model)
    if folder.is_dir() and not any(folder.rglob("*.safetensors")):
        yield (
            f"{key}: {folder} must hold safetensors, but has none. "
            "Make them of a pickle with `selma score convert`."
        )


def _network(
    kind: str, family: Family, *, antialias: Callable[..., Family] | None = None, **row: Any
) -> ScorerKind:
    """The row of a network. antialias: makes the family of a choice of antialiasing."""

    def load(config: PreferenceConfig) -> NetworkScorer:
        return NetworkScorer(
            antialias(antialias=config.antialias) if antialias else family,
            Weights(config.model, config.revision),
            tokenizer=Weights(config.tokenizer) if config.tokenizer else None,
            device=config.device,
        )

    return ScorerKind(kind, load, look=_network_mistakes, family=family, **row)


_VIT_H = 2 * 12 * (32 * 1280**2 * 257 + 24 * 1024**2 * 77)
"""Of CLIP ViT-H/14: 12 squares of its width in each layer, at each patch and token."""
_BLIP_L = 2 * 12 * (24 * 1024**2 * 197 + 12 * 768**2 * imagereward.TOKENS)
"""Of ImageReward's BLIP, whose text looks at the patches in each layer, too."""
_BLIP_L += 2 * 12 * 2 * 768 * 1024 * 197
_HPS_ROW: dict[str, Any] = {
    "package": "ftfy",
    "install": "selma[scores]",
    "operations": _VIT_H,
}
SCORERS = Table(
    "preference scorer",
    "selma.scorers",
    [
        _network("pickscore", _PICKSCORE, operations=_VIT_H),
        _network("hps_v2", _hps("2.0"), antialias=partial(_hps, "2.0"), **_HPS_ROW),
        _network("hps_v2.1", _hps("2.1"), antialias=partial(_hps, "2.1"), **_HPS_ROW),
        _network("imagereward", _IMAGEREWARD, operations=_BLIP_L),
        _network("clip", _CLIP),
    ],
)


def settings_of(**values: Any) -> PreferenceConfig:
    """One scorer's settings from a command's options. Raises ConfigError."""
    try:
        return PreferenceConfig.model_validate(values)
    except ValidationError as error:
        what = error.errors()[0]
        raise ConfigError(
            f"{mistake_at(what['loc'], what['msg'])} (came: {quoted(what['input'])})"
        ) from error


def load_preference(config: ScorerSettings) -> PreferenceScorer:
    """The scorer that the settings name; its network is loaded when the first image comes.
    Raises ModelError."""
    require_kind(config, ScorerSettings, maker="settings_of(kind='pickscore') makes them.")
    return SCORERS.find(config.kind, setting="scores.preferences.kind").load(config)


def load_image_scorer(setting: str | ScorerSettings) -> Scorer:
    """What scores an image against its text: toybox's CLIP by name, or a preference scorer. Raises
    ModelError or ConfigError."""
    return load_scorer(setting) if isinstance(setting, str) else load_preference(setting)


def scorer_operations(setting: str | ScorerSettings) -> int | None:
    """Floating-point operations of an image with its text; None where they are not known. Raises
    ModelError or ConfigError."""
    if isinstance(setting, ScorerSettings):
        return SCORERS.find(setting.kind, setting="scores.preferences.kind").operations
    scorer, image = load_scorer(setting), Image.new("RGB", (64, 64))
    return counted(lambda: scorer.score([image], ["a red circle"]))


class NetworkScorer:
    """A network of one family with its weights; implements `PreferenceScorer`.

    batch_size: rows of one pass; None is 1 on a CPU, where sums over more rows round otherwise and
    a score would depend on them, and 16 elsewhere. The last pass is filled up with copies, so that
    every pass has the same shape.
    """

    def __init__(
        self,
        family: Family,
        weights: Weights,
        *,
        tokenizer: Weights | None = None,
        device: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        self.family = family
        self.device = device
        self.batch_size = batch_size
        self._files = weights
        self._tokenizer = tokenizer

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def scale(self) -> str:
        return self.family.scale

    @property
    def preprocessing(self) -> str:
        return self.family.preprocessing

    @property
    def known(self) -> str:
        """What is known of its published numbers; "" for nothing."""
        return self.family.known

    @property
    def weights(self) -> str:
        return self._files.label

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over weights, tokenizer and all that the family says of itself."""
        parts: list[Any] = [self.name, self.scale, self.preprocessing, self._files.fingerprint]
        if chosen := self._own_tokenizer:
            parts.append(chosen.fingerprint)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """Rounded to four decimals; each depends on its own image and text alone."""
        import torch

        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images cannot have {len(texts)} texts")
        forward, rows = self._network, self._rows
        scores: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(images), rows):
                seen, read = list(images[start : start + rows]), list(texts[start : start + rows])
                missing = rows - len(seen)
                values = forward(seen + seen[-1:] * missing, read + read[-1:] * missing)
                scores += values.float().cpu().tolist()[: len(seen)]
        return [round(score, DIGITS) + 0.0 for score in scores]

    @cached_property
    def _own_tokenizer(self) -> Weights | None:
        """What was asked for, or the authors' one; None where the model's files have one."""
        own = any(self._files.file(name) for name in ("tokenizer.json", "vocab.json", "vocab.txt"))
        if self._tokenizer or own or self.family.tokenizer is None:
            return self._tokenizer
        return Weights(self.family.tokenizer)

    @cached_property
    def _network(self) -> Forward:
        device = find_device(self.device, setting="scores.preferences.device")
        return self.family.load(self._files, self._own_tokenizer or self._files, device)

    @property
    def _rows(self) -> int:
        on_a_cpu = find_device(self.device, setting="scores.preferences.device").type == "cpu"
        return self.batch_size or (1 if on_a_cpu else ROWS_ON_A_GPU)
