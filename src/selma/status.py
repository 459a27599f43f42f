"""What a run folder has of each stage and what a run would make, without loading a model.

Each stage is asked, one skill at a time, with a folder in which it can make nothing; where it would
start to, it names the item, and the item's folder tells the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from selma.config import RunConfig
from selma.finished import NotFinished, begun
from selma.pipeline import UNIFORM, Stages, flow
from selma.prompts.skills import load_skills
from selma.records.experts import Expert
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

State = Literal["done", "partial", "other settings", "missing", "waits"]


@dataclass(frozen=True)
class StageStatus:
    """How far one item of a stage is."""

    stage: str
    name: str
    state: State
    have: int | None = None
    """Elements that a run would not make again; None where they are not counted."""
    want: int | None = None


def statuses(config: RunConfig) -> list[StageStatus]:
    """One for each item of a run, in order of flow."""
    look = _Look(config)
    for entry in config.prompts.skills:
        look.at_skill(entry)
    look.at_models()
    order = {stage: number for number, stage in enumerate(STAGES)}
    return sorted(look.found, key=lambda status: order[status.stage])


def table(found: Sequence[StageStatus]) -> Table:
    """The standings for a terminal."""
    shown = Table("stage", "item", "there", "to be made", box=None, pad_edge=False)
    for one in found:
        there = {"done": "done", "partial": "begun", "waits": "waits"}.get(one.state, one.state)
        if one.state == "partial" and one.have is not None:
            there = f"{one.have} of {one.want}" if one.want else str(one.have)
        shown.add_row(one.stage, one.name, there, _to_make(one))
    return shown


def _to_make(one: StageStatus) -> str:
    if one.state == "done":
        return "nothing"
    if one.want is None:
        return "all"
    return str(one.want - (one.have or 0)) if one.state == "partial" else str(one.want)


class _Look:
    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.whole = Stages(config, Workspace(config.run_folder), make=[])
        self.experts: list[Expert] = []
        self.found: list[StageStatus] = []

    def at_skill(self, entry: str) -> None:
        """Prompts, pictures and expert of one skill; what it lacks does not hide the others."""
        alone = self.config.prompts.model_copy(update={"skills": (entry,)})
        config = self.config.model_copy(update={"prompts": alone})
        one = Stages(config, self.whole.folder, make=[])
        name = load_skills([entry])[0].name
        prompts = self._ask(PROMPTS, name, alone.per_skill, one.write_prompts)
        generated = config.images.candidates_per_prompt * alone.per_skill
        pairs = self._ask(IMAGES, name, generated, one.generate_pairs, prompts)
        experts = self._ask(EXPERTS, name, config.experts.steps, one.train_experts, pairs)
        self.experts += experts or []

    def at_models(self) -> None:
        """The merged adapter, each model's exam, the scorecard and the report."""
        whole, names = self.whole, [skill.name for skill in load_skills(self.config.prompts.skills)]
        by_skill = {expert.skill: expert for expert in self.experts}
        ready = self.experts if len(by_skill) == len(names) else None
        merged = self._ask(MERGED, "merged", None, whole.merge_experts, ready)
        adapters = {name: by_skill.get(name) for name in names if self.config.scores.experts}
        images = {"base": self._ask_images("base", whole.generate_base)}
        for name, adapter in {**adapters, "merged": merged}.items():
            images[name] = self._ask_images(name, whole.generate_adapted, name, adapter)
        uniform = getattr(merged, "uniform", None)
        if uniform is not None:
            images[UNIFORM] = self._ask_images(UNIFORM, whole.generate_adapted, UNIFORM, uniform)
        generated = None if None in images.values() else images
        card = self._ask(SCORES, "scorecard", None, whole.score_models, generated, ready)
        self._ask(REPORT, "index.html", None, lambda _: flow(whole), card)

    def _ask_images(self, name: str, call: Callable[..., Path], *needs: Any) -> Path | None:
        wanted = len(self.whole.benchmark_prompts) * self.config.scores.seeds
        return self._ask(SCORES, f"pictures/{name}", wanted, call, *needs)

    def _ask(
        self, stage: str, name: str, want: int | None, call: Callable[..., Any], *needs: Any
    ) -> Any:
        """What the stage returns, or None where it is not finished."""
        if any(need is None for need in needs):
            self.found.append(StageStatus(stage, name, "waits", want=want))
            return None
        try:
            result = call(*needs)
        except NotFinished as missing:
            self.found.append(StageStatus(stage, name, *_state(missing.item), want))
            return None
        self.found.append(StageStatus(stage, name, "done", want, want))
        return result


def _state(item: Item) -> tuple[State, int | None]:
    if item.manifest is not None:
        return "done", None  # the report: its times are new each time, so that it is always asked
    if begun(item):
        return "partial", _elements(item.path)
    return ("other settings" if item.path.exists() else "missing"), None


def _elements(folder: Path) -> int | None:
    """Lines or pictures that are there; None for what is not counted in either."""
    images = sum(1 for _ in folder.rglob("*.png"))
    if images:
        return images
    lines = [path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl")]
    return sum(lines) if lines else None
