"""The table of judges, and the judge or scorer that a config names. Torch is imported when one is
first asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.backbones.hub import file_digest
from selma.backbones.judges.computing import Answering, of_local, of_small
from selma.backbones.judges.judge import Judge, Scorer
from selma.backbones.judges.toybox import ClipScorer, ToyboxJudge
from selma.backbones.packages import CheckedKind
from selma.config.scores import AnyJudge, DetectorJudge, LocalJudge, ServedJudge
from selma.config.section import Section
from selma.errors import ConfigError, ModelError
from selma.registry import Table
from selma.toybox import weights_of


@dataclass(frozen=True)
class JudgeKind(CheckedKind):
    """A row of `JUDGES`. A new one is a file with such a row."""

    name: str
    """Its `kind` in the settings; of a judge without settings, the setting itself."""
    load: Callable[..., Judge]
    """(settings, setting=where they stand) → the judge. Loads no weights yet, but checks what can
    be seen without them; raises ModelError or ConfigError."""
    settings: type[Section] | None = None
    """None is a judge that is chosen by its name alone."""
    folder: Callable[[Any], Path | None] = lambda judge: None
    """settings → where its weights lie, if they are on this machine; see `same_weights`."""
    chooses: bool = True
    """Whether it can be asked multiple-choice questions: see `judge.Chooser`."""
    known: Callable[[Any], str] = lambda judge: ""
    """settings → a sentence on published numbers by this judge that others do not reach, if any is
    known."""
    spells: bool = False
    """Whether it tells how likely an answer's spellings are: see `judge.Speller`."""
    computing: Callable[[Any, int], Answering | None] = lambda judge, image_px: None
    """(settings, side of the images) → what it computes; None where that is not known."""


def _toybox(name: str) -> JudgeKind:
    part = f"judge-{name[-1]}"
    return JudgeKind(
        name,
        lambda judge, setting: ToyboxJudge(name, weights_of(part)),
        folder=lambda judge: weights_of(part),
        chooses=False,
        spells=True,
        look=lambda judge, key: missing_weights(part, key),
        computing=lambda judge, image_px: of_small(ToyboxJudge(name, weights_of(part))),
    )


def _load_regions(judge: str, *, setting: str) -> Judge:
    from selma.backbones.judges.regions import RegionJudge

    return RegionJudge()


def _folder(settings: LocalJudge | DetectorJudge) -> Path | None:
    folder = Path(settings.model)
    return folder if folder.is_dir() else None


def _load_local(settings: LocalJudge, *, setting: str) -> Judge:
    from selma.backbones.judges.vqa import VqaJudge

    return VqaJudge(settings, setting=setting)


def _look_local(settings: LocalJudge, key: str) -> Iterator[str]:
    """Of a model on the Hub only its name is looked at; of a folder, its config.json."""
    from selma.backbones.judges.vqa import MPLUG
    from selma.backbones.judges.wordings import wording

    folder = Path(settings.model)
    if "mplug" in settings.model.lower():
        yield f"{key}.model: {MPLUG}"
    elif folder.is_dir():
        _load_local(settings, setting=key)
        if not any(folder.glob("*.safetensors")):
            yield f"{key}.model: {folder} must hold safetensors weights, but has none."
    else:
        wording(settings.prompt or "bare", key=f"{key}.prompt")


def _load_served(settings: ServedJudge, *, setting: str) -> Judge:
    from selma.backbones.judges.served import ServedVqaJudge

    return ServedVqaJudge(settings, setting=setting)


def _look_served(settings: ServedJudge, key: str) -> Iterator[str]:
    _load_served(settings, setting=key)
    return iter(())


def _load_detector(settings: DetectorJudge, *, setting: str) -> Judge:
    from selma.backbones.judges.detector import DetectorJudge as Judged

    return Judged(settings, setting=setting)


def _look_detector(settings: DetectorJudge, key: str) -> Iterator[str]:
    """Of a model on the Hub nothing is looked at; of a folder, its config.json and weights."""
    folder = Path(settings.model)
    for name, what in (("config.json", "a config.json"), ("*.safetensors", "safetensors weights")):
        if folder.is_dir() and not any(folder.glob(name)):
            yield f"{key}.model: {folder} must hold {what}, but has none."


KNOWN = {
    "Salesforce/blip2-flan-t5-xl": "TIFA's and SELMA's numbers were made by LAVIS's program of "
    "these weights; transformers' own way with images and queries changed over versions.",
    "Salesforce/blip-vqa-capfilt-large": "SELMA's and DSG's numbers are mPLUG-large's, which no "
    "other judge reaches: compare gains.",
    "Qwen/Qwen2.5-VL-7B-Instruct": "TIIF's published numbers are by its 72B or GPT-4o.",
}
"""Model → what is known of published numbers that were made by it, or by what it stands for."""
JUDGES = Table(
    "judge",
    "selma.judges",
    [
        _toybox("toybox-a"),
        _toybox("toybox-b"),
        JudgeKind(
            "toybox-regions",
            _load_regions,
            folder=lambda judge: weights_of("segmenter"),
            chooses=False,
            look=lambda judge, key: missing_weights("segmenter", key),
            computing=lambda judge, image_px: of_small(_load_regions(judge, setting="")),
        ),
        JudgeKind(
            "transformers",
            _load_local,
            LocalJudge,
            folder=_folder,
            spells=True,
            look=_look_local,
            known=lambda judge: KNOWN.get(judge.model, ""),
            computing=of_local,
        ),
        JudgeKind(
            "openai",
            _load_served,
            ServedJudge,
            spells=True,
            look=_look_served,
            known=lambda judge: "What a server calls by one name may change behind it.",
        ),
        JudgeKind(
            "detector",
            _load_detector,
            DetectorJudge,
            folder=_folder,
            chooses=False,
            look=_look_detector,
            known=lambda judge: (
                "GenEval's own detector, Mask2Former in mmdet, is not run here, and misjudges "
                "models of today by up to 17.7 points (arXiv:2512.16853)."
            ),
        ),
    ],
)


def judge_kind(judge: AnyJudge, *, setting: str = "scores.judge") -> JudgeKind:
    """The row of these settings. Raises ConfigError."""
    name = judge if isinstance(judge, str) else str(getattr(judge, "kind", ""))
    return JUDGES.find(name, setting=setting)


def same_weights(one: AnyJudge, other: AnyJudge) -> bool:
    """Whether two judges are one network under two names: by the bytes of their safetensors, where
    both lie on this machine. Wording, decoding and files' names do not count; a file is read only
    if the other judge has files of the same sizes."""
    files = [_weight_files(judge) for judge in (one, other)]
    if not all(files):
        return False
    sizes = [sorted(file.stat().st_size for file in of_judge) for of_judge in files]
    if sizes[0] != sizes[1]:
        return False
    first, second = (sorted(map(file_digest, of_judge)) for of_judge in files)
    return first == second


def _weight_files(judge: AnyJudge) -> list[Path]:
    """Its safetensors on this machine, if there are any."""
    try:
        folder = judge_kind(judge).folder(judge)
    except (ModelError, ConfigError):  # told where the judge is looked at
        return []
    return [] if folder is None else sorted(folder.rglob("*.safetensors"))


def load_judge(judge: AnyJudge, *, setting: str = "scores.judge") -> Judge:
    """The judge of these settings. What can be seen without its weights is checked for now; they
    are loaded when first asked, so that a run with nothing left to judge loads nothing.

    `setting` is where the settings stand, for messages. Raises ModelError or ConfigError.
    """
    return judge_kind(judge, setting=setting).load(judge, setting=setting)


def load_scorer(name: str) -> Scorer:
    """The CLIP scorer "toybox"; loaded as `load_judge` loads. Raises ModelError."""
    if name != "toybox":
        raise ModelError(f"A scorer must be toybox, but {name!r} came.")
    return ClipScorer("toybox-clip", weights_of("clip"))


def missing_weights(part: str, key: str) -> Iterator[str]:
    """A sentence about the setting at `key`, if toybox's weights of this part are not there."""
    try:
        weights_of(part)
    except ModelError as error:
        yield f"{key}: {error}"
