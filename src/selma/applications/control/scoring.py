"""Generated images → rows, one for each image and model; rows → a card with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selma.applications.control.conditions import (
    Colour,
    class_map,
    edges,
    is_edge,
    read_palette,
)
from selma.applications.control.measures import (
    Measure,
    Row,
    class_row,
    edge_row,
    landmark_row,
    measures_of,
    sums_of,
)
from selma.applications.control.records import ControlCard, ControlSample, ControlScore
from selma.applications.control.settings import Condition, ControlScoring
from selma.backbones.perception.features import Features, InceptionFeatures, load_features, see_all
from selma.backbones.perception.locating import Locator, load_locator
from selma.backbones.perception.segmenting import Segmenter, load_segmenter
from selma.config.scores import PreferenceConfig
from selma.errors import DataError, ModelError
from selma.image_files import open_image
from selma.image_places import image_of
from selma.record_files import read_rows
from selma.records.rows import Identified
from selma.records.scores import Interval
from selma.row_files import fill_rows
from selma.scores.distances import frechet_distance
from selma.scores.statistics import interval_of
from selma.versions import OPENCV, versions
from selma.workspace import (
    SCORES,
    Workspace,
    file_sha256,
    recipe_key,
    write_json,
)

ROWS, CARD = "rows.jsonl", "card.json"
SETTING = "control.scores"
SOURCE = "source"


@dataclass(frozen=True)
class ModelImages:
    """One model's images."""

    model: str
    role: Literal["source", "base", "control"]
    folder: Path | None
    """With one <sample id>.png for each sample; None for the source images themselves."""
    parameters: int | None = None

    def path(self, sample: ControlSample) -> Path:
        """The file with this sample's image."""
        return sample.image if self.folder is None else image_of(self.folder, sample.id)

    def image(self, sample: ControlSample) -> Image.Image:
        """This sample's image. Raises DataError."""
        return open_image(self.path(sample))


SOURCE_IMAGES = ModelImages(SOURCE, "source", None)
"""The samples' own images."""


@dataclass
class Scorer:
    """Scores all models' images of one condition."""

    samples: Sequence[ControlSample]
    config: ControlScoring
    folder: Workspace
    condition: Condition
    palette: tuple[Colour, ...] | None
    """Colours of the segmenter's classes in the samples' maps, where their source tells them."""
    canny: tuple[int, int]
    seed: int
    _keys: dict[ModelImages, str] = field(default_factory=dict, init=False, repr=False)

    def card(self, generated: Sequence[ModelImages], *, reference: str | None) -> ControlCard:
        """Compute every model's measures with intervals, and their differences from those of the
        reference, paired by image; writes `5-scores/control/<condition>/card.json`."""
        if not self.samples:
            raise DataError("There must be at least one image to score, but there is none.")
        self._require_palette()
        rows = {images.model: self._rows(images) for images in generated}
        distances = self._distances(generated)
        against = rows.get(reference) if reference else None
        card = ControlCard(
            condition=self.condition,
            images=len(self.samples),
            reference=reference if against is not None else None,
            reader=self._reader_name,
            features=None if self.config.features is None else self._features.name,
            models=tuple(
                self._score(
                    images,
                    rows[images.model],
                    None if images.model == reference else against,
                    distances,
                )
                for images in generated
            ),
        )
        path = self.folder.root / SCORES / "control" / self.condition / CARD
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, card.model_dump(mode="json"))
        return card

    def _score(
        self,
        images: ModelImages,
        rows: Sequence[Row],
        against: Sequence[Row] | None,
        distances: Mapping[str, float],
    ) -> ControlScore:
        measures, differences = {}, {}
        for measure in measures_of(self.condition):
            sums = sums_of(measure, rows, self._classes)
            if (interval := self._interval(sums, measure.value)) is not None:
                measures[measure.name] = interval
            if against is not None and images.role != "source":
                both = np.hstack([sums, sums_of(measure, against, self._classes)])
                if (interval := self._interval(both, _difference(measure))) is not None:
                    differences[measure.name] = interval
        return ControlScore(
            model=images.model,
            role=images.role,
            parameters=images.parameters,
            measures=measures,
            differences=differences,
            failures=sum("error" in row and row["error"] is None for row in rows),
            left_out=sum("iou" in row and row["iou"] is None for row in rows),
            fid=distances.get(images.model),
        )

    def _interval(self, sums: Any, value: Callable[[Any], Any]) -> Interval | None:
        """None if no image could be measured."""
        try:
            return interval_of(sums, value, seed=self.seed, resamples=self.config.resamples)
        except ValueError:
            return None

    def _rows(self, images: ModelImages) -> list[Row]:
        """One row for each sample, in their order; rows on file are not computed again."""
        if not measures_of(self.condition):
            return [{"id": sample.id} for sample in self.samples]
        item = self.folder.item(
            SCORES, "control", self.condition, "rows", images.model, recipe=self._recipe(images)
        )
        if not item.done:
            path, started = item.begin(), time.monotonic()
            title = f"reading {self.condition}: {images.model}"
            jobs = {sample.id: sample for sample in self.samples}
            fill_rows(
                path / ROWS,
                jobs,
                lambda part: [self._row(images, sample) for sample in part],
                key="id",
                title=title,
                chunk=1,
            )
            item.finish([path / ROWS], {"images": len(self.samples)})
            seconds = round(time.monotonic() - started, 3)
            self.folder.journal(SCORES, what=title, seconds=seconds)
        by_id = {row["id"]: row for row in read_rows(item.path / ROWS, Identified)}
        return [by_id[sample.id] for sample in self.samples]

    def _recipe(self, images: ModelImages) -> dict[str, Any]:
        recipe: dict[str, Any] = {
            "condition": self.condition,
            "images": self._key(images),
        }
        if self.condition == "canny":
            recipe["canny"] = list(self.canny)
            recipe["versions"] = versions((OPENCV,))
        elif self.condition == "segmentation":
            recipe["reader"] = self._segmenter.fingerprint
            recipe["palette"] = self._palette
        else:
            recipe["reader"] = self._locator.fingerprint
        return recipe

    def _key(self, images: ModelImages) -> str:
        """A digest of all images, conditions and landmarks that are compared."""
        if images not in self._keys:
            rows = [
                [sample.id, file_sha256(images.path(sample)), *compared]
                for sample, compared in zip(self.samples, self._compared, strict=True)
            ]
            self._keys[images] = recipe_key({"rows": rows})
        return self._keys[images]

    @cached_property
    def _compared(self) -> list[list[Any]]:
        """Of each sample, the digest of its conditioning image, and its landmarks."""
        return [
            [
                file_sha256(sample.conditioning_image),
                None if sample.landmarks is None else [p.model_dump() for p in sample.landmarks],
            ]
            for sample in self.samples
        ]

    def _row(self, images: ModelImages, sample: ControlSample) -> Row:
        generated = images.image(sample)
        if self.condition == "canny":
            low, high = self.canny
            generated_edges = is_edge(edges(generated, low=low, high=high))
            return edge_row(is_edge(_conditioning_image(sample)), generated_edges)
        if self.condition == "segmentation":
            (predicted,) = self._segmenter.segment([generated])
            return class_row(self._class_map(sample), predicted, self._classes)
        (detected,) = self._locator.locate([generated], [(images.model, sample.id)])
        truth = sample.landmarks
        if truth is None:
            source = SOURCE_IMAGES.image(sample)
            (truth,) = self._locator.locate([source], [(SOURCE, sample.id)])
        if truth is None:
            raise DataError(
                f"{sample.source} has no landmarks, and the reader finds none in the source "
                "image. Take it out of the data, or give `landmarks` in its row."
            )
        return landmark_row(truth, detected)

    def _class_map(self, sample: ControlSample) -> NDArray[np.integer]:
        """The map's classes by their colours or, without a palette, the segmenter's reading of the
        source image."""
        if self._palette is None:
            (predicted,) = self._segmenter.segment([SOURCE_IMAGES.image(sample)])
            return predicted
        classes = class_map(_conditioning_image(sample), self._palette)
        if not (classes >= 0).any():
            raise DataError(
                f"{sample.conditioning_image} has no colour of control.scores.palette. Name the "
                "list of colours that the maps were made with."
            )
        return classes

    def _distances(self, generated: Sequence[ModelImages]) -> dict[str, float]:
        """Model → FID to the source images; {} if it is off."""
        if self.config.features is None or len(self.samples) < 2:
            return {}
        distances: dict[str, float] = {}
        for images in (images for images in generated if images.role != "source"):
            recipe = {
                "features": self._features.fingerprint,
                "images": self._key(images),
                "source": self._key(SOURCE_IMAGES),
            }
            item = self.folder.item(
                SCORES, "control", self.condition, "fid", images.model, recipe=recipe
            )
            if not item.done:
                path = item.begin()
                value = round(frechet_distance(self._features_of(images), self._real), 4)
                write_json(path / "fid.json", {"fid": value})
                item.finish([path / "fid.json"], {"fid": value})
            distances[images.model] = float(item.summary["fid"])
        return distances

    @cached_property
    def _real(self) -> Any:
        return self._features_of(SOURCE_IMAGES)

    def _features_of(self, images: ModelImages) -> Any:
        opened = (images.image(sample) for sample in self.samples)
        return see_all(
            self._features.see, opened, total=len(self.samples), what=f"images: {images.model}"
        )

    @cached_property
    def _features(self) -> Features:
        name, setting = self.config.features, f"{SETTING}.features"
        if name == "inception":
            return InceptionFeatures(setting=setting)
        if name == "toybox":
            return load_features("toybox", setting=setting)
        clip = PreferenceConfig(kind="clip", model=str(name), device=self.config.device, label=None)
        return load_features(clip, setting=setting)

    @cached_property
    def _segmenter(self) -> Segmenter:
        return _load_segmenter(self.config)

    @cached_property
    def _locator(self) -> Locator:
        return load_locator(self.config.reader, setting=f"{SETTING}.reader")

    @cached_property
    def _classes(self) -> int:
        if self.condition != "segmentation":
            return 0
        return self._segmenter.classes

    def _require_palette(self) -> None:
        colours = self._palette if self.condition == "segmentation" else None
        if colours is not None and len(colours) != self._classes:
            raise DataError(
                f"The palette must have a colour for each of the segmenter's {self._classes} "
                f"classes, but has {len(colours)}."
            )

    @cached_property
    def _palette(self) -> tuple[Colour, ...] | None:
        if self.config.palette is not None:
            return read_palette(Path(self.config.palette))
        return self.palette

    @property
    def _reader_name(self) -> str:
        if self.condition == "canny":
            return f"Canny, {self.canny[0]} to {self.canny[1]}"
        if self.condition == "segmentation":
            return self._segmenter.name
        return self._locator.name if self.condition == "landmarks" else "none"


def require_reader(config: ControlScoring, condition: Condition) -> None:
    """Check that what reads this condition is there, without loading it. Raises ModelError or
    DataError."""
    if condition == "segmentation":
        _load_segmenter(config)
    elif condition == "landmarks":
        load_locator(config.reader, setting=f"{SETTING}.reader")
    if config.features is not None and find_spec("torchmetrics") is None:
        raise ModelError(
            "FID needs the package torchmetrics: pip install 'selma[control]'. Or set "
            "control.scores.features to null."
        )
    if config.features == "inception" and find_spec("torch_fidelity") is None:
        raise ModelError(
            "FID by Inception's features needs the package torch-fidelity: "
            "pip install torch-fidelity. Or name other features in control.scores.features."
        )


def _load_segmenter(config: ControlScoring) -> Segmenter:
    return load_segmenter(
        config.segmenter, revision=config.revision, device=config.device, setting=SETTING
    )


def _difference(measure: Measure) -> Callable[[Any], Any]:
    """A model's value minus the reference's, from both totals side by side."""

    def value(totals: Any) -> Any:
        own, reference = np.split(totals, 2, axis=1)
        return measure.value(own) - measure.value(reference)

    return value


def _conditioning_image(sample: ControlSample) -> Image.Image:
    return open_image(sample.conditioning_image)
