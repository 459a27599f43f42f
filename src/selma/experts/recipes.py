"""What makes an expert what it is. Imports no model library, so that `status` is quick."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.backbones.base_files import base_fingerprint
from selma.config.experts import ExpertsConfig, TrainingConfig
from selma.config.networks import BaseConfig
from selma.experts.fitting import OWN, Fitting
from selma.finished_rows import pairs_key
from selma.manifests import DEEPEST
from selma.records.finished import FinishedRows
from selma.records.images import Pair
from selma.workspace import file_sha256, manifest


def expert_recipe(
    skill: str,
    pairs: str,
    config: ExpertsConfig,
    *,
    base: BaseConfig,
    seed: int,
    reward: Mapping[str, Any] | None = None,
    fitting: Fitting = OWN,
) -> dict[str, Any]:
    """All that the expert's weights depend on. `pairs` is their `pairs_digest`; `reward` is what
    rewards depend on, if the objective learns from any."""
    # None changes a weight; of a joint expert name, pairs and steps say all.
    without = {"tracker", "gradient_checkpointing", "spread", "joint"}
    if config.select == "last":
        without.add("checkpoint_every")  # changes only how much a crash can cost
    settings = training_settings(config, without=without)
    settings["objective"].pop("also", None)  # which the reward's own recipe tells
    return {
        **training_recipe(pairs, base=base, seed=seed),
        "experts": settings,
        "skill": skill,
        "reward": reward,
        **image_recipe(base, fitting),
    }


def image_recipe(base: BaseConfig, fitting: Fitting) -> dict[str, Any]:
    """Which base generated the images and how they are fitted; nothing of the base's own."""
    if fitting.drawn_by is None:
        return {}
    drawn_by = base_fingerprint(fitting.drawn_by)
    if drawn_by == base_fingerprint(base):
        return {}
    return {"drawn_by": drawn_by, "fitting": fitting.recipe}


def training_settings(config: TrainingConfig, *, without: set[str]) -> dict[str, Any]:
    """The settings that weights depend on, beyond their last digits. Averages that are off and
    timesteps as the family draws them are not told, so that what was trained before there were any
    is still what it was."""
    settings = config.model_dump(mode="json", exclude=without | {"deterministic"})
    for name in ("ema_decay", "timesteps"):
        if settings[name] is None:
            del settings[name]
    return settings


def training_recipe(
    pairs: str | Sequence[list[str]], *, base: BaseConfig, seed: int
) -> dict[str, Any]:
    """What any training depends on. `pairs` are a sample's texts and its image's sha256 each, or
    their digest."""
    return {
        "base": base_fingerprint(base),
        "base_precision": base.precision,
        "pairs": pairs if isinstance(pairs, str) else pairs_key(pairs),
        "seed": seed,
    }


def encoding_recipe(expert: dict[str, Any], *, flip: bool) -> dict[str, Any]:
    """What the encoded pairs depend on: an expert's recipe without its training."""
    shared = ("base", "base_precision", "pairs")
    return {**{key: expert[key] for key in shared}, "flip": flip, "fitting": expert.get("fitting")}


def pairs_digest(pairs: Sequence[Pair]) -> str:
    """`pairs_key` of the pairs, in their order."""
    if isinstance(pairs, FinishedRows):
        return str(pairs.facts["digest"])
    texts = (pair.prompt.text for pair in pairs)
    return pairs_key([[t, digest] for t, digest in zip(texts, image_digests(pairs), strict=True)])


def image_digests(pairs: Sequence[Pair]) -> list[str]:
    """sha256 of each image: as its folder's manifest has it, else of the file."""
    manifests: dict[Path, dict[str, str]] = {}
    roots: dict[str, Path] = {}
    digests = []
    for pair in pairs:
        above = str(pair.image).rpartition(os.sep)[0]
        if (root := roots.get(above)) is None:
            root = roots[above] = item_folder(pair.image)
        if root not in manifests:
            manifests[root] = _manifest(root)
        # A path below the root, cut off as text: there may be a million.
        name = str(pair.image)[len(str(root)) + 1 :].replace(os.sep, "/")
        digests.append(manifests[root].get(name) or file_sha256(pair.image))
    return digests


def item_folder(image: Path) -> Path:
    """The folder of the item that an image is of: the nearest above it that has a manifest, else
    the one above its own."""
    for folder in image.parents[:DEEPEST]:
        if (folder / "manifest.json").is_file():
            return folder
    return image.parent.parent


def _manifest(root: Path) -> dict[str, str]:
    try:
        files = manifest(root)["files"]
        return {name: entry["sha256"] for name, entry in files.items()}
    except (KeyError, TypeError, AttributeError):
        return {}
