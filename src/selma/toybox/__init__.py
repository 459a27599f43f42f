"""The embedded default: a drawn little world, and small real models pre-trained on it."""

from pathlib import Path

from selma.errors import ModelError


def weights_folder() -> Path:
    """Where the pre-trained models lie: `base`, judges, `clip`, readers of conditions."""
    return Path(__file__).parent / "weights"


def weights_of(part: str) -> Path:
    """The folder of one of the networks: "judge-a", "clip", "reader", ... Raises ModelError if its
    weights are not there."""
    folder = weights_folder() / part
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"toybox's {part} must have its weights in {folder}, but there are none. Reinstall "
            f"selma, or make them with python -m selma.toybox.pretraining --only {part}."
        )
    return folder
