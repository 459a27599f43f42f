"""`selma sur collect`: candidates are cleaned, told in plain words and kept as one imagefolder.

Cheap checks come first. Every row that is not kept is counted with its reason.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from selma.applications.sur.captioning import Row, captioner_identity, captions
from selma.applications.sur.marks import stripped
from selma.applications.sur.records import SurSample
from selma.applications.sur.samples import SKILL, read_samples, write_samples
from selma.applications.sur.settings import Agreement, LlmCaptioner, SurData
from selma.applications.sur.sources import Candidate, candidates, left_out, source_digest
from selma.backbones.language.loading import paid_files
from selma.backbones.perception.captioning import Classifier
from selma.backbones.preference.scorers import load_image_scorer
from selma.disk import make_folder
from selma.errors import DataError, NoProgress
from selma.image_files import OPENER, open_image, png_bytes, read_image
from selma.image_modes import Reading
from selma.image_names import QUIET, say_left_out
from selma.imagefolders import METADATA
from selma.progress import progress
from selma.records.prompts import prompt_id
from selma.row_files import write_rows
from selma.workspace import IMAGES, Item, Workspace, write_bytes

NAME = "_sur"
CAPTIONS, REJECTED = "captions.jsonl", "rejected.jsonl"
BESIDE = "lies beside the images"
"""Of texts and hidden files: on record, but not counted among what was rejected."""

_KEPT_AS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


@dataclass(frozen=True)
class _Row:
    """A candidate on its way through the checks."""

    id: str
    source: str
    licence: str
    prompt: str
    text: str | None
    image: Path


@dataclass
class _Desk:
    """What was decided so far."""

    rejected: list[dict[str, str]]
    facts: dict[str, dict[str, Any]]

    def reject(self, source: str, reason: str, detail: str = "") -> None:
        self.rejected.append({"source": source, "reason": reason, "detail": detail})

    @property
    def counts(self) -> dict[str, int]:
        reasons = Counter(row["reason"] for row in self.rejected)
        return {reason: reasons[reason] for reason in sorted(reasons) if reason != BESIDE}


def collect_samples(config: SurData, folder: Workspace, *, seed: int) -> list[SurSample]:
    """The samples in `2-images/_sur`, made if they are not there.

    Raises DataError where the source cannot be read, NoProgress where nothing of it is kept.
    """
    item = _item(config, folder, seed=seed)
    if item.done:
        return read_samples(item.path, base_px=None, own=True).samples
    path, started = item.begin(), time.monotonic()
    train = path / "train"
    make_folder(train)
    desk = _Desk([], {})
    others = left_out(config)
    for name, reason in others.items():
        desk.reject(name, BESIDE if reason in QUIET else "not used", reason)
    rows = list(_checked(config, train, desk, seed=seed))
    rows = _safe(rows, config, desk)
    rows = _captioned(rows, config, path / CAPTIONS, desk, folder, seed=seed)
    rows = _agreeing(rows, config.cleaning.agreement, desk)
    samples = [
        SurSample(id=r.id, text=r.text or "", prompt=r.prompt, image=r.image, source=r.source,
               licence=r.licence)
        for r in rows
    ]  # fmt: skip
    _write_rejected(path / REJECTED, desk)
    if not samples:
        raise NoProgress(
            f"No row of the source is left after cleaning; {desk.counts} were rejected, see "
            f"{path / REJECTED}. Change sur.data.cleaning or the source."
        )
    for file in set(train.iterdir()) - {sample.image for sample in samples}:
        file.unlink()  # images that a later check rejected
    write_samples(train / METADATA, samples, [desk.facts.get(t.id, {}) for t in samples])
    say_left_out("sur.data.source", len(samples), others)
    replies = [path / CAPTIONS] if (path / CAPTIONS).exists() else []
    item.finish(
        [t.image for t in samples] + [train / METADATA, path / REJECTED, *replies],
        {"samples": len(samples), "rejected": desk.counts},
    )
    folder.journal(
        IMAGES, what="samples", seconds=round(time.monotonic() - started, 3), **desk.counts
    )
    return read_samples(item.path, base_px=None, own=True).samples


def _item(config: SurData, folder: Workspace, *, seed: int) -> Item:
    captioner = config.captioner
    paid = paid_files(captioner.backend, CAPTIONS) if isinstance(captioner, LlmCaptioner) else ()
    return folder.item(IMAGES, NAME, recipe=collecting_recipe(config, seed=seed), paid=paid)


def rejected(folder: Workspace, config: SurData, *, seed: int) -> dict[str, int]:
    """Reason → how many rows of a finished collection were rejected for it."""
    item = _item(config, folder, seed=seed)
    return dict(item.summary["rejected"])


def collecting_recipe(config: SurData, *, seed: int) -> dict[str, Any]:
    """All that a collection depends on; no path of this machine."""
    cleaning = config.cleaning
    agreement = cleaning.agreement
    scorer = agreement and load_image_scorer(agreement.scorer)
    source = config.source.model_dump(mode="json", exclude={"dump", "images", "folder"})
    return {
        "source": source,
        "files": source_digest(config),
        "cleaning": cleaning.model_dump(mode="json", exclude={"safety", "agreement"}),
        "image_px": config.image_px,
        "seed": seed,
        "opened": None if config.source.kind == "toybox" else [OPENER, config.background],
        "captioner": config.captioner and captioner_identity(config.captioner),
        "safety": cleaning.safety and Classifier(cleaning.safety).identity,
        "agreement": scorer and agreement and [scorer.fingerprint, agreement.at_least],
    }


def _checked(config: SurData, train: Path, desk: _Desk, *, seed: int) -> Iterator[_Row]:
    """The rows with a prompt and a sound image, which is written to `train`."""
    seen: set[str] = set()
    for candidate in candidates(config, seed=seed):
        prompt = _prompt(candidate, config, desk)
        if prompt is None:
            continue
        try:
            data, end, pixels = _fitted(candidate.image(), config)
        except DataError as error:
            desk.reject(candidate.source, "no readable image", str(error))
            continue
        name = prompt_id(SKILL, f"{candidate.source}\n{prompt}\n{pixels}")
        marks = {"row": name, "prompt": " ".join(prompt.casefold().split()), "image": pixels}
        twice = [kind for kind, mark in marks.items() if f"{kind} {mark}" in seen]
        if twice and not (config.cleaning.duplicates and "row" not in twice):
            desk.reject(candidate.source, f"duplicate {twice[0]}")
            continue
        seen |= {f"{kind} {mark}" for kind, mark in marks.items()}
        image = train / f"{name}{end}"
        if not image.exists():  # it may be there since a run that was stopped
            write_bytes(image, data)
        yield _Row(name, candidate.source, candidate.licence, prompt, candidate.text, image)


def _prompt(candidate: Candidate, config: SurData, desk: _Desk) -> str | None:
    """The keyword prompt as it is kept; None where the row is rejected."""
    as_it_is = config.cleaning.marks == "kept"
    prompt = candidate.prompt.strip() if as_it_is else stripped(candidate.prompt)
    if candidate.marked and not config.cleaning.marked:
        desk.reject(candidate.source, "marked as unsafe by its source")
    elif not candidate.prompt.strip():
        desk.reject(candidate.source, "no prompt", candidate.reason)
    elif not prompt:
        desk.reject(candidate.source, "nothing but marks", candidate.prompt[:200])
    else:
        return prompt
    return None


def _fitted(data: bytes, config: SurData) -> tuple[bytes, str, str]:
    """The image's bytes, made smaller where it is larger than needed; its name's end; and a
    digest of its pixels, which what else is in the file does not change.

    Bytes are kept where every program reads the same pixels from them.
    """
    opened = read_image(data, reading=Reading(background=config.background))
    image, px = opened.image, config.image_px
    end = None if opened.changes else _KEPT_AS.get(str(opened.format))
    side = min(image.size)
    if side > px:
        size = tuple(max(px, round(s * px / side)) for s in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        end = None
    width, height = image.size
    if width * height > 4 * px**2:
        raise DataError(f"It is {width}x{height}: too long for a square to be cut out of it.")
    content = f"{width}x{height}".encode() + image.tobytes() + opened.wide.encode()
    pixels = hashlib.sha256(content).hexdigest()
    return (data, end, pixels) if end else (png_bytes(image), ".png", pixels)


def _safe(rows: list[_Row], config: SurData, desk: _Desk) -> list[_Row]:
    safety = config.cleaning.safety
    if safety is None:
        return rows
    classifier, safe = Classifier(safety), []
    with progress("looking for what is unsafe", total=len(rows)) as advance:
        for row in rows:
            (label,) = classifier.classify([_image(row)])
            if label in safety.keep:
                desk.facts.setdefault(row.id, {})["safety"] = label
                safe.append(row)
            else:
                desk.reject(row.source, "unsafe", label)
            advance()
    return safe


def _captioned(
    rows: list[_Row], config: SurData, path: Path, desk: _Desk, folder: Workspace, *, seed: int
) -> list[_Row]:
    """The rows with a caption."""
    if config.captioner is not None:
        texts = captions(
            [Row(row.id, row.prompt, row.image) for row in rows],
            config.captioner,
            path,
            seed=seed,
            note=partial(folder.journal, IMAGES),
            spent=folder.spent(IMAGES),
        )
        rows = [replace(row, text=texts[row.id]) for row in rows]
    captioned = []
    for row in rows:
        if row.text and row.text.strip():
            captioned.append(row)
        else:
            desk.reject(row.source, "no caption", row.prompt[:200])
    return captioned


def _agreeing(rows: list[_Row], agreement: Agreement | None, desk: _Desk) -> list[_Row]:
    if agreement is None:
        return rows
    scorer, agreeing = load_image_scorer(agreement.scorer), []
    with progress("comparing images and captions", total=len(rows)) as advance:
        for row in rows:
            (score,) = scorer.score([_image(row)], [row.text or ""])
            if score >= agreement.at_least:
                desk.facts.setdefault(row.id, {})["agreement"] = score
                agreeing.append(row)
            else:
                desk.reject(row.source, "caption disagrees with image", str(score))
            advance()
    return agreeing


def _image(row: _Row) -> Image.Image:
    return open_image(row.image)


def _write_rejected(path: Path, desk: _Desk) -> None:
    write_rows(path, desk.rejected)
