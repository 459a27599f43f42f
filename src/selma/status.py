"""What a run folder has of each stage and what a run would make, without loading a model.

Each stage is asked, one skill at a time, with a folder in which it can make nothing; where it would
start to, it names the item, and the item's folder tells the rest.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from selma.config import RunConfig
from selma.config.experts import JOINT
from selma.disk import read_regular
from selma.errors import ConfigError, TooFewPairs
from selma.experts.finishing import LOG
from selma.finished import NotFinished, begun
from selma.finished_rows import PROMPTS_FILE
from selma.images.choosing import CANDIDATES
from selma.manifests import sizes_only
from selma.merged.searching import TRIALS
from selma.pipeline import Further, Stages, skill_alone
from selma.prompts.questions.sources import NAME as QUESTIONS
from selma.prompts.skills import skill_names
from selma.records.adapters import applied
from selma.records.experts import Expert
from selma.records.images import Pair
from selma.records.merged import UNIFORM, Merged
from selma.records.prompts import Prompt
from selma.workspace import (
    EXPERTS,
    IMAGES,
    MERGED,
    PROMPTS,
    REPORT,
    SCORES,
    STAGES,
    Item,
    Workspace,
)

COUNTED = (PROMPTS_FILE, TRIALS)
"""Files of stages with a line for each prompt or trial; an item has one of them at most."""
State = Literal[
    "done", "partial", "damaged", "other settings", "other versions", "missing", "waits", "unknown"
]


@dataclass(frozen=True)
class StageStatus:
    """How far one item of a stage is."""

    stage: str
    name: str
    state: State
    have: int | None = None
    """Elements that a run would not make again; None where they are not counted."""
    want: int | None = None
    why: str = ""
    """What keeps an unknown item from being looked at."""
    change: str = ""
    """Where what is there is of another recipe; see `Item.change`."""


def statuses(config: RunConfig) -> list[StageStatus]:
    """One for each item of a run, in order of flow; files are looked at by their size alone."""
    look = _Look(config, lambda own: Stages(own, Workspace(own.run_folder), make=[]))
    with _glancing():
        look.at_experts()
        look.at_models(*look.at_merged())
    return _in_order(look.found)


def statuses_of_model(
    config: RunConfig, stages_of: Callable[[RunConfig], Stages], make: Collection[str]
) -> list[StageStatus]:
    """What the stages in `make`, the first three and perhaps the fourth, have and would make.

    stages_of: the stages by some settings, in which nothing can be made.
    """
    look = _Look(config, stages_of)
    with _glancing():
        look.at_experts()
        if MERGED in make:
            look.at_merged()
    return _in_order(look.found)


@contextmanager
def _glancing() -> Iterator[None]:
    """Files are looked at by size alone; and garbage is not looked for, which among the records of
    a million images takes a third of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with sizes_only():
            yield
    finally:
        if collecting:
            gc.enable()


def present(config: RunConfig) -> list[StageStatus]:
    """What `statuses` says; of a run in whose folder none of the first four stages has begun, but
    applications worked, what there is."""
    of_stages = statuses(config)
    begun_items = [s for s in of_stages if s.state not in ("missing", "waits")]
    others = list(_others(config.run_folder, {f"{s.stage}/{s.name}" for s in begun_items}))
    if not others or any(status.stage in STAGES[:4] for status in begun_items):
        return of_stages
    return _in_order([*begun_items, *others])


def _others(root: Path, known: Collection[str]) -> Iterator[StageStatus]:
    """Items that are in the folder, counted by the folder of their stage that they are in."""
    found: dict[str, list[Path]] = {}
    for plan in (path for stage in STAGES for path in sorted((root / stage).rglob("plan.json"))):
        name = plan.parent.relative_to(root).as_posix()
        if name not in known:
            group = "/".join(name.split("/")[:2])
            found.setdefault(group, []).append(plan.parent)
    for group, items in found.items():
        stage, _, name = group.partition("/")
        done = sum((item / "manifest.json").is_file() for item in items)
        if done == len(items):
            yield StageStatus(stage, name, "done", done, done)
        elif len(items) == 1:
            yield StageStatus(stage, name, "partial", _elements(items[0]))
        else:
            yield StageStatus(stage, name, "partial", done, len(items))


def _in_order(found: Sequence[StageStatus]) -> list[StageStatus]:
    order = {stage: number for number, stage in enumerate(STAGES)}
    return sorted(found, key=lambda status: order[status.stage])


def table(statuses: Sequence[StageStatus]) -> Table:
    """All statuses as a table for a terminal."""
    rows = Table("stage", "item", "there", "to be made", box=None, pad_edge=False)
    for status in statuses:
        state: str = "begun" if status.state == "partial" else status.change or status.state
        if status.state == "partial" and status.have is not None:
            state = f"{status.have} of {status.want}" if status.want else str(status.have)
        rows.add_row(status.stage, status.name, state, _to_make(status))
    return rows


def _to_make(status: StageStatus) -> str:
    if status.state in (words := {"done": "nothing", "unknown": ""}):
        return words[status.state]
    if status.state == "damaged":
        return "what is damaged"
    if status.want is None:
        return "the rest" if status.state == "partial" else "all"
    return str(status.want - (status.have or 0)) if status.state == "partial" else str(status.want)


class _Look:
    def __init__(self, config: RunConfig, stages_of: Callable[[RunConfig], Stages]) -> None:
        self.config = config
        self.stages_of = stages_of
        self.stages = stages_of(config)
        self.prompts: dict[str, Sequence[Prompt]] = {}
        self.pairs: dict[str, Sequence[Pair]] = {}
        """Skill → its prompts, and its pairs, where they are finished."""
        self.experts: list[Expert] = []
        self.found: list[StageStatus] = []

    def at_experts(self) -> None:
        """The first three stages."""
        for entry in self.config.prompts.skills:
            self.at_skill(entry)
        if self.config.experts.joint is not None:
            self.at_joint()

    def at_skill(self, entry: str) -> None:
        """Prompts, images and expert of one skill; what it lacks does not hide the others."""
        config = skill_alone(self.config, entry)
        alone, stages = config.prompts, self.stages_of(config)
        name = skill_names([entry], given=alone.given)[0]
        prompts = self._ask(PROMPTS, name, alone.per_skill, stages.write_prompts)
        count = alone.per_skill if prompts is None else sum(map(len, prompts.values()))
        if config.images.choose is None:
            wanted = config.images.per_prompt * count
            pairs = self._ask(IMAGES, name, wanted, stages.generate_pairs, prompts)
        else:
            pairs = self._ask_chosen(name, stages, prompts, count)
        self.prompts |= prompts or {}
        self.pairs |= pairs or {}
        if config.experts.joint is not None:
            return
        experts = self._ask(EXPERTS, name, config.experts.steps, stages.train_experts, pairs)
        self.experts += experts or []

    def _ask_chosen(self, name: str, stages: Stages[RunConfig], prompts: Any, count: int) -> Any:
        """The pairs; unless they are finished, what they are chosen from is shown as well."""
        config = self.config
        needs = [prompts]
        if config.images.questions is not None:
            item = f"{QUESTIONS}/{name}"
            asked = self._ask(PROMPTS, item, count, stages.write_questions, prompts)
            count = count if asked is None else len(asked[name])
            needs = [None if asked is None else prompts]
        status, pairs = self._look(IMAGES, name, None, stages.generate_pairs, *needs)
        if pairs is None and status.state != "unknown":
            wanted = config.images.candidates_per_prompt * count
            item = f"{CANDIDATES}/{name}"
            if self._ask(IMAGES, item, wanted, stages.generate_candidates, *needs) is None:
                status = StageStatus(IMAGES, name, "waits")
        self.found.append(status)
        return pairs

    def at_joint(self) -> None:
        """The expert that is trained on all skills."""
        experts, names = self.config.experts, self._skills()
        pairs = self.pairs if len(self.pairs) == len(names) else None
        steps = experts.steps * (len(names) if experts.joint == "steps_per_skill" else 1)
        self.experts = self._ask(EXPERTS, JOINT, steps, self.stages.train_experts, pairs) or []

    def _skills(self) -> list[str]:
        prompts = self.config.prompts
        return skill_names(prompts.skills, given=prompts.given)

    def _names(self) -> list[str]:
        """The experts' names."""
        return self._skills() if self.config.experts.joint is None else [JOINT]

    def at_merged(self) -> tuple[list[Expert] | None, Merged | None]:
        """All experts and the merged adapter, where they are finished."""
        names = set(self._names())
        ready = self.experts if {expert.skill for expert in self.experts} == names else None
        return ready, self._ask(MERGED, "merged", None, self.stages.merge_experts, ready)

    def at_models(self, ready: list[Expert] | None, merged: Merged | None) -> None:
        """Each model's benchmark, the scorecard and the report."""
        stages = self.stages
        names = self._names()
        by_skill = {expert.skill: expert for expert in self.experts}
        adapters = {name: by_skill.get(name) for name in names if self.config.scores.experts}
        uniform = getattr(merged, "uniform", None)
        models: dict[str, Any] = {"base": []}
        for name, adapter in {
            **adapters,
            **({} if uniform is None else {UNIFORM: uniform}),
            "merged": merged,
        }.items():
            models[name] = None if adapter is None else [applied(adapter)]
        wanted = len(stages.benchmark_prompts) * self.config.scores.seeds
        images = {
            name: self._ask(SCORES, f"images/{name}", wanted, partial(stages.generate, name), its)
            for name, its in models.items()
        }
        generated = None if None in images.values() else images
        further: dict[str, Path] | None = {}
        drawn: dict[str | None, Mapping[str, Path | None]] = {None: images}
        for name in self.config.scores.further:
            part = stages.further(name)
            if part.images_of == name:
                drawn[name] = self.at_images_of(part, models)
            folder = self.at_further(part, drawn[part.images_of], ready)
            further = None if further is None or folder is None else {**further, name: folder}
        card = self._ask(SCORES, "scorecard", None, stages.score_models, generated, ready, further)
        parts = (self.prompts, self.pairs, ready, merged, generated, card)
        self._ask(REPORT, "index.html", None, stages.write_report, *parts)

    def at_images_of(self, part: Further, models: Mapping[str, Any]) -> dict[str, Path | None]:
        """Model → its images of a further benchmark."""
        wanted, images = len(part.prompts) * part.scores.seeds, {}
        for name, its in models.items():
            call = partial(self.stages.generate_further, part, name)
            item = f"benchmarks/{part.name}/images/{name}"
            images[name] = self._ask(SCORES, item, wanted, call, its)
        return images

    def at_further(
        self, part: Further, images: Mapping[str, Path | None], ready: list[Expert] | None
    ) -> Path | None:
        """A further benchmark's scorecard, of which the folder is returned."""
        generated = None if None in images.values() else images
        call = partial(self.stages.score_models_further, part)
        return self._ask(SCORES, f"benchmarks/{part.name}/scorecard", None, call, generated, ready)

    def _ask(
        self, stage: str, name: str, want: int | None, call: Callable[..., Any], *needs: Any
    ) -> Any:
        """What the stage returns, or None where it is not finished."""
        status, result = self._look(stage, name, want, call, *needs)
        self.found.append(status)
        return result

    def _look(
        self, stage: str, name: str, want: int | None, call: Callable[..., Any], *needs: Any
    ) -> tuple[StageStatus, Any]:
        if any(need is None for need in needs):
            return StageStatus(stage, name, "waits", want=want), None
        try:
            result = call(*needs)
        except NotFinished as missing:
            state, have = _state(missing.item)
            change = missing.item.change if state.startswith("other") else ""
            return StageStatus(stage, name, state, have, want, change=change), None
        except (ConfigError, TooFewPairs) as error:  # a merge method whose package is gone, say
            return StageStatus(stage, name, "unknown", want=want, why=str(error)), None
        return StageStatus(stage, name, "done", want, want), result


def _state(item: Item) -> tuple[State, int | None]:
    if item.manifest is not None:
        return "partial", None  # the report without its page, which no manifest names
    if item.faults:
        return "damaged", None
    if begun(item):
        return "partial", _elements(item.path)
    if item.earlier() is not None:
        return "other versions", None
    return ("other settings" if item.path.exists() else "missing"), None


def _elements(folder: Path) -> int | None:
    """Steps, images or lines that are there; None for what is not counted in any of them."""
    if (log := folder / LOG).exists():  # beside it, rounds have images and rewards
        return read_regular(log).count(b"\n")
    if images := sum(1 for _ in folder.rglob("*.png")):
        return images
    files = [path for path in map(folder.joinpath, COUNTED) if path.is_file()]
    return read_regular(files[0]).count(b"\n") if files else None
