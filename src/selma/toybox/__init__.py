"""The embedded default: a drawn little world, and small real models pre-trained on it."""

from pathlib import Path

from selma.errors import ModelError

WORLD = 2
"""The world's version; raised when scenes, captions, questions or their frequencies change. What is
drawn from the world and kept is told apart by it."""
BASES = {"toybox": "base", "toybox-weak": "weak", "toybox-dit": "dit"}
"""Name of each base → its folder among the weights; toybox-dit is there once it was pre-trained. A
stronger one is a row here and a row of `selma.backbones.bases`."""

ON_WISH = ("dit",)
"""Parts that do not come along; `selma.toybox.pretraining` makes them when asked for by name."""


def weights_folder() -> Path:
    """Where the pre-trained models lie: bases, judges, `clip`, readers of conditions."""
    return Path(__file__).parent / "weights"


def base_folder(name: str) -> Path | None:
    """The diffusers folder of one of toybox's bases; None if the name is none of theirs. Raises
    ModelError if its weights are not there."""
    return weights_of(BASES[name]) if name in BASES else None


def weights_of(part: str) -> Path:
    """The folder of one of the networks: "judge-a", "clip", "reader", ... Raises ModelError if its
    weights are not there."""
    folder = weights_folder() / part
    if not any(folder.rglob("*.safetensors")):
        made = f"python -m selma.toybox.pretraining --only {part} --work FOLDER"
        what = "It does not come along: make" if part in ON_WISH else "Reinstall selma, or make"
        raise ModelError(
            f"toybox's {part} must have its weights in {folder}, but there are none. {what} them "
            f"with {made}."
        )
    return folder
