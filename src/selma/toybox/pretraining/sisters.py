"""Sisters of the base: the same networks at an earlier step of the same training.

A weak one is what weak-to-strong training learns from: it knows less, and errs in the same way.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPTextModel

from selma.errors import ModelError
from selma.toybox.pretraining.denoiser import new_denoiser, save_base
from selma.toybox.pretraining.language import new_tokenizer

WEAK = "weak"


def snapshots(work: Path) -> dict[int, Path]:
    """Step → the file of the base's averaged weights at that step, earliest first."""
    files = (work / "checkpoints").glob("base-*.safetensors")
    steps = {file.stem.removeprefix("base-"): file for file in files}
    return {int(step): steps[step] for step in sorted(steps, key=int)}


def save_weak(work: Path, *, step: int | None = None) -> dict[str, float]:
    """Saves the base as it was after `step` steps (None: the first snapshot) as `work/weak`, a
    folder that diffusers loads. Raises ModelError if training has left no such snapshot."""
    files = snapshots(work)
    if step is None:
        step = next(iter(files), 0)
    if step not in files:
        raise ModelError(
            f"{work / 'checkpoints'} must hold a snapshot of the base at step {step}, but holds "
            f"{', '.join(map(str, files)) or 'none'}. Train the base first (--only base), or "
            "choose a step that is there."
        )
    save_snapshot(work, files[step], work / WEAK)
    return {"steps": step}


def save_snapshot(work: Path, snapshot: Path, folder: Path) -> None:
    """A folder that diffusers loads: a snapshot's denoiser, with `work`'s autoencoder and text
    encoder."""
    denoiser = new_denoiser()
    denoiser.load_state_dict({name: v.float() for name, v in load_file(snapshot).items()})
    reader = CLIPTextModel.from_pretrained(work / "text-encoder")
    vae = AutoencoderKL.from_pretrained(work / "vae")
    save_base(denoiser, reader, vae, new_tokenizer(), folder)
