"""The judge or scorer that a config names. Torch is imported when one is first asked."""

from __future__ import annotations

from pathlib import Path

from selma.backbones.judges.judge import Judge, Scorer
from selma.backbones.judges.toybox import ClipScorer, ToyboxJudge
from selma.config.scores import LocalJudge, ServedJudge
from selma.errors import ModelError


def load_judge(judge: str | LocalJudge | ServedJudge, *, setting: str = "scores.judge") -> Judge:
    """The judge of these settings. What can be seen without its weights is checked for now; they
    are loaded when first asked, so that a run with nothing left to judge loads nothing.

    `setting` is where the settings stand, for messages. Raises ModelError or ConfigError.
    """
    if isinstance(judge, LocalJudge):
        from selma.backbones.judges.vqa import VqaJudge

        return VqaJudge(judge, setting=setting)
    if isinstance(judge, ServedJudge):
        from selma.backbones.judges.served import ServedVqaJudge

        return ServedVqaJudge(judge, setting=setting)
    if judge not in ("toybox-a", "toybox-b"):
        raise ModelError(f"A judge must be toybox-a or toybox-b, but {judge!r} came.")
    return ToyboxJudge(judge, _weights("judge-" + judge[-1], judge))


def load_scorer(name: str) -> Scorer:
    """The CLIP scorer "toybox"; loaded as `load_judge` loads. Raises ModelError."""
    if name != "toybox":
        raise ModelError(f"A scorer must be toybox, but {name!r} came.")
    return ClipScorer("toybox-clip", _weights("clip", name))


def _weights(folder: str, name: str) -> Path:
    from selma.toybox import weights_folder

    path = weights_folder() / folder
    if not any(path.glob("*.safetensors")):
        raise ModelError(
            f"{name} needs weights in {path}, but there are none. Reinstall selma, or make them "
            "again with python -m selma.toybox.pretraining."
        )
    return path
