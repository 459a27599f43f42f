"""The embedded default: a drawn little world, and small real models pre-trained on it."""

from pathlib import Path


def weights_folder() -> Path:
    """Where the pre-trained models lie: `base`, judges, `clip`, readers of conditions."""
    return Path(__file__).parent / "weights"
