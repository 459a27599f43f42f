"""Subject-driven generation: a subject's few images → an adapter → the subject in new scenes.

DreamBooth (arXiv:2208.12242) with OFT (arXiv:2306.07280), on the run's own base: `train`,
`generate` and `score` leave their results in the folders of stages 2, 3, 5 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.applications.subjects.preflight import mistakes
from selma.applications.subjects.records import (
    CurvePoint,
    Subject,
    SubjectAdapter,
    SubjectCard,
    SubjectRow,
)
from selma.applications.subjects.settings import SubjectSettings, SubjectsRun
from selma.config import require_settings
from selma.image_places import image_of
from selma.pipeline import Stages, opened
from selma.records.adapters import AppliedAdapter
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.images import Pair
from selma.runfile import portable
from selma.workspace import EXPERTS, IMAGES, REPORT, SCORES, Workspace

if TYPE_CHECKING:
    from selma.applications.subjects.scoring import RealImages
    from selma.capacity import Work

Generated = dict[tuple[str, str, int], Path]
"""(method, subject, step) → folder with its images; the base is at step 0."""
BASE = "base"
COMMANDS = {
    f"{IMAGES}/_subjects": "subjects train",
    f"{IMAGES}/_class": "subjects train",
    f"{EXPERTS}/_subjects": "subjects train",
    f"{SCORES}/images/_subjects": "subjects generate",
}
"""Item, or a folder above it → the command that makes it."""


def train(config: SubjectsRun) -> list[SubjectAdapter]:
    """Train one adapter for each method and subject; class images are generated first."""
    with _run(config, make=[IMAGES, EXPERTS]) as run:
        return run.trained


def generate(config: SubjectsRun) -> Generated:
    """Generate every subject's prompts with the base and with the trained adapters; earlier
    checkpoints generate only the curve prompts."""
    with _run(config, make=[SCORES]) as run:
        return run.generated(run.at(SCORES))


def score(config: SubjectsRun) -> tuple[SubjectCard, Path]:
    """Score the generated images and write the page: the table and the page's path."""
    with _run(config, make=[SCORES, REPORT]) as run:
        return run.scored()


@contextmanager
def _run(config: SubjectsRun, *, make: Sequence[str]) -> Iterator[_Run]:
    # Neither prompts nor judges of the six stages are needed.
    with opened(
        require_settings(config, SubjectsRun),
        make=make,
        checked=[],
        mistakes=mistakes(config, []),
        commands=COMMANDS,
        work=_work,
    ) as stages:
        yield _Run(stages)


def _work(config: SubjectsRun) -> list[Work]:
    """What is done with the base; training the methods' adapters is not counted."""
    from selma.capacity import encoding, generating

    subjects = config.subjects
    guidance = max(subjects.generation.guidance, subjects.prior.guidance)
    setting = "subjects.generation.batch_size"
    return [
        generating(subjects.generation.batch_size, guidance=guidance, setting=setting),
        encoding(),
    ]


@dataclass
class _Run:
    """One run's subjects. Stages that may make nothing are only read."""

    stages: Stages[SubjectsRun]

    @property
    def config(self) -> SubjectsRun:
        return self.stages.config

    @property
    def settings(self) -> SubjectSettings:
        return self.config.subjects

    @cached_property
    def subjects(self) -> list[Subject]:
        from selma.applications.subjects.images import read_subjects
        from selma.backbones.base_files import own_architecture

        base_px = own_architecture(self.config.local_base).image_px
        return read_subjects(self.settings.data, self.at(IMAGES), base_px=base_px)

    @cached_property
    def trained(self) -> list[SubjectAdapter]:
        from selma.applications.subjects.images import instance_pairs
        from selma.applications.subjects.training import train_subjects

        data = self.settings.data
        return train_subjects(
            {subject.name: instance_pairs(subject, data) for subject in self.subjects},
            self._class_pairs(),
            self.settings,
            self.at(EXPERTS),
            base=self.config.local_base,
            seed=self.config.seed,
            model=self.stages.model,
        )

    def generated(self, folder: Workspace) -> Generated:
        """Generate in `folder` all that is missing in it."""
        from selma.applications.subjects.training import adapter_at

        images: Generated = {}
        for subject in self.subjects:
            images[BASE, subject.name, 0] = self._generate(subject, folder, BASE, 0, None, None)
        for adapter in self.trained:
            subject = next(s for s in self.subjects if s.name == adapter.subject)
            for step in adapter.steps:
                images[adapter.method, adapter.subject, step] = self._generate(
                    subject,
                    folder,
                    adapter.method,
                    step,
                    adapter_at(adapter, step),
                    f"{adapter.key}@{step}",
                    few=step != adapter.steps[-1],
                )
        return images

    def scored(self) -> tuple[SubjectCard, Path]:
        from selma.applications.subjects.page import write_subject_page

        generated = self.generated(self.stages.finished)  # scoring generates no missing image
        card = self._card(generated)
        page = write_subject_page(
            card,
            {s.name: s.images for s in self.subjects},
            {s.name: self._prompts(s) for s in self.subjects},
            generated,
            settings=portable(self.config, self.stages.folder.root)["subjects"],
            name=self.config.name,
            folder=self.at(REPORT),
            about={"base": self.stages.base_key()},
        )
        return card, page

    def _card(self, generated: Generated) -> SubjectCard:
        from selma.adapters.headers import parameter_count
        from selma.adapters.table import adapter_file
        from selma.applications.subjects import scorecard
        from selma.applications.subjects.scoring import RealImages, load_networks

        settings, folder = self.settings, self.at(SCORES)
        networks = load_networks(settings.scores)
        measures = [measure.key for measure in networks.measures]
        bootstrap = {"seed": self.config.seed, "resamples": settings.scores.resamples}
        real = {s.name: RealImages(s, networks) for s in self.subjects}
        rows = {
            key: self._rows(key, images, real[key[1]], folder) for key, images in generated.items()
        }
        last = settings.training.steps
        by_method = {
            method: {
                s.name: rows[method, s.name, 0 if method == BASE else last] for s in self.subjects
            }
            for method in (BASE, *settings.methods)
        }
        parameters = {
            a.method: parameter_count(adapter_file(a.folder)) for a in reversed(self.trained)
        }
        table = [
            scorecard.method_row(
                method, by_subject, measures, parameters=parameters.get(method), **bootstrap
            )
            for method, by_subject in by_method.items()
        ]
        first = self._prompts(self.subjects[0])
        ideal = self._real_row(real, generated, first, bootstrap)
        curve = {
            s.name: {p.id.partition("-")[0] for p in self._prompts(s, few=True)}
            for s in self.subjects
        }
        return SubjectCard(
            subjects={s.name: s.kind for s in self.subjects},
            token=settings.data.token,
            prompts=len({p.id.partition("-")[0] for p in first}),
            images=settings.generation.images,
            steps=last,
            measures=networks.measures,
            rows=(*([ideal] if ideal else []), *table),
            comparisons=tuple(
                scorecard.comparisons(
                    {m: by_method[m] for m in settings.methods}, measures, **bootstrap
                )
            ),
            curves={
                method: tuple(self._curve(method, rows, by_method[BASE], measures, curve))
                for method in settings.methods
            },
            curve_prompts=max(map(len, curve.values())),
        )

    def _curve(
        self,
        method: str,
        rows: Mapping[tuple[str, str, int], list[dict[str, Any]]],
        base: Mapping[str, list[dict[str, Any]]],
        measures: Sequence[str],
        prompts: Mapping[str, set[str]],
    ) -> Iterator[CurvePoint]:
        from selma.applications.subjects.scorecard import curve_point
        from selma.applications.subjects.training import kept_steps

        yield curve_point(0, base, measures, prompts)
        for step in kept_steps(self.settings.training):
            by_subject = {s.name: rows[method, s.name, step] for s in self.subjects}
            yield curve_point(step, by_subject, measures, prompts)

    def _real_row(
        self,
        real: Mapping[str, RealImages],
        generated: Generated,
        prompts: Sequence[BenchmarkPrompt],
        bootstrap: dict[str, int],
    ) -> SubjectRow | None:
        from selma.applications.subjects.scorecard import real_row
        from selma.image_files import open_image

        # At the generated images' size, so that distances have one scale.
        image = image_of(generated[BASE, self.subjects[0].name, 0], prompts[0].id)
        px = open_image(image).width
        return real_row({n: r.among_themselves(px) for n, r in real.items()}, **bootstrap)

    def _rows(
        self, key: tuple[str, str, int], images: Path, real: RealImages, folder: Workspace
    ) -> list[dict[str, Any]]:
        from selma.applications.subjects.prompts import worded
        from selma.applications.subjects.scoring import score_generated

        method, _, step = key
        subject, data = real.subject, self.settings.data
        few = method != BASE and step != self.settings.training.steps
        prompts = self._prompts(subject, few=few)
        token = data.token if self.settings.scores.clip_t_with_token else None
        texts = {
            number: worded(subject.prompts[int(number)], token=token, kind=subject.kind)
            for number in (prompt.id.partition("-")[0] for prompt in prompts)
        }
        return score_generated(
            real, prompts, texts, images, folder, name=(method, subject.name, str(step))
        )

    def _prompts(self, subject: Subject, *, few: bool = False) -> list[BenchmarkPrompt]:
        from selma.applications.subjects.images import image_prompts

        generation = self.settings.generation
        return image_prompts(
            subject,
            self.settings.data,
            images=generation.images,
            curve=generation.curve_prompts if few else None,
        )

    def _class_pairs(self) -> dict[str, Sequence[Pair]]:
        from selma.applications.subjects.images import class_pairs

        return class_pairs(
            self.subjects,
            self.settings,
            self.at(IMAGES),
            base=self.config.local_base,
            seed=self.config.seed,
            batch_size=self.settings.generation.batch_size,
            model=self.stages.model,
        )

    def _generate(
        self,
        subject: Subject,
        folder: Workspace,
        method: str,
        step: int,
        adapter: Path | None,
        key: str | None,
        *,
        few: bool = False,
    ) -> Path:
        from selma.images.generating import generate_benchmark

        generation = self.settings.generation
        return generate_benchmark(
            self._prompts(subject, few=few),
            name=f"_subjects/{method}/{subject.name}/{step}",
            adapters=[] if adapter is None else [AppliedAdapter(path=adapter, key=key or "")],
            steps=generation.steps,
            guidance=generation.guidance,
            batch_size=generation.batch_size,
            folder=folder,
            base=self.config.local_base,
            seed=self.config.seed,
            model=self.stages.model,
        )

    def at(self, stage: str) -> Workspace:
        """The folder to hand to a stage."""
        return self.stages.folder if stage in self.stages.make else self.stages.finished
