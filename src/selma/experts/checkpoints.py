"""A training's state on disk: no code inside, complete or ignored, bit for bit what it was."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from selma.adapters.files import given, write_safetensors
from selma.adapters.table import adapter_file
from selma.disk import make_folder
from selma.experts.optimizing import Optimization
from selma.progress import console
from selma.workspace import file_sha256, read_json, sync_folder, write_json

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
RAW = "raw"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: every file is there with the bytes that were written."""

    path: Path
    step: int
    state: Mapping[str, Any]


def checkpoint_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def write(
    root: Path,
    *,
    step: int,
    factors: Mapping[str, nn.Parameter],
    optimization: Optimization,
    file: str,
    save: Callable[[Path], None],
) -> None:
    """Write a checkpoint: the adapter (`save`, to `file`), moments, and last the state with every
    file's sha256, without which the folder is not taken for a checkpoint. Where weights are
    averaged, the adapter is the average, and the weights themselves are among the moments."""
    folder, optimizer = checkpoint_folder(root, step), optimization.adamw
    make_folder(folder)
    moments = {
        f"{kind}/{name}": optimizer.state[parameter][kind]
        for name, parameter in factors.items()
        if optimizer.state[parameter]  # empty as long as every step was skipped
        for kind in MOMENTS
    }
    with optimization.averaged() as raw:
        moments |= {f"{RAW}/{name}": t for name, t in zip(factors, raw, strict=False)}
        save(folder / file)
    # Digests are computed while the disk is waited for.
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as beside:
        saved = beside.submit(file_sha256, folder / file)
        write_safetensors(
            folder / OPTIMIZER_FILE,
            given(moments),
            metadata={"format": "pt"},
            each=lambda data: beside.submit(digest.update, data),
        )
    files = {file: saved.result(), OPTIMIZER_FILE: digest.hexdigest()}
    write_json(folder / STATE_FILE, {"step": step, "files": files, **optimization.state()})
    sync_folder(root)


def newest(root: Path) -> Checkpoint | None:
    """The newest complete checkpoint; a damaged one is passed over, with a line on the console."""
    for folder in sorted(root.glob("step-*"), reverse=True):
        if (checkpoint := _complete(folder)) is not None:
            return checkpoint
        if (folder / STATE_FILE).exists():
            console.print(f"{folder} is damaged; going back to the checkpoint before it.")
    return None


def restore(
    checkpoint: Checkpoint,
    weights: Mapping[str, Tensor],
    *,
    factors: Mapping[str, nn.Parameter],
    optimization: Optimization,
) -> None:
    """Put weights, their averages and moments back, bit for bit.

    weights: those in the checkpoint's adapter.
    """
    moments = safetensors.torch.load_file(checkpoint.path / OPTIMIZER_FILE)
    for name, parameter in factors.items():
        parameter.data.copy_(moments.get(f"{RAW}/{name}", weights[name]))
    for name, average in zip(factors, optimization.averages, strict=False):
        average.copy_(weights[name])
    state = {
        number: {kind: moments[f"{kind}/{name}"] for kind in MOMENTS}
        for number, name in enumerate(factors)
        if f"{MOMENTS[0]}/{name}" in moments
    }
    groups = optimization.adamw.state_dict()["param_groups"]
    optimization.adamw.load_state_dict({"state": state, "param_groups": groups})
    optimization.load(checkpoint.state)


def tidy(root: Path, *, keep_adapters: bool) -> None:
    """Remove checkpoints older than the last two, or only their moments.

    The last but one is there to go back to if the last should be damaged.
    """
    complete = [folder for folder in sorted(root.glob("step-*")) if (folder / STATE_FILE).exists()]
    for folder in complete[:-2]:
        # The state goes first: what is left is no checkpoint, whenever this is interrupted.
        (folder / STATE_FILE).unlink()
        if keep_adapters:
            (folder / OPTIMIZER_FILE).unlink(missing_ok=True)
        else:
            shutil.rmtree(folder)


def adapters(root: Path) -> Iterator[tuple[int, Path]]:
    """Step and folder of every adapter that was kept, in order."""
    for folder in sorted(root.glob("step-*")):
        if adapter_file(folder).is_file():
            yield int(folder.name.removeprefix("step-")), folder


def drop(root: Path, *, unless: Callable[[int], bool]) -> None:
    """Remove every checkpoint but those of the steps for which `unless` holds."""
    for folder in root.glob("step-*"):
        if not unless(int(folder.name.removeprefix("step-"))):
            (folder / STATE_FILE).unlink(missing_ok=True)  # first, as in `tidy`
            shutil.rmtree(folder)


def _complete(folder: Path) -> Checkpoint | None:
    if not re.fullmatch(r"step-\d{6,}", folder.name) or folder.is_symlink():
        return None
    try:
        state = read_json(folder / STATE_FILE) or {}
        files: Collection[tuple[str, str]] = state["files"].items()
        intact = all(file_sha256(folder / name) == digest for name, digest in files)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return Checkpoint(folder, int(state["step"]), state) if intact and files else None
