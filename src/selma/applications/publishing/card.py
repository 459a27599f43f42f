"""The model card of a run's merged adapter: README.md and a gallery, beside the adapter's file.

    4-merged/README.md           YAML for the Hub, recipe, scorecard
    4-merged/gallery/*.png       images of benchmark prompts; grid.png has the base's beside them

Equal runs give equal bytes; the card holds neither paths of the machine nor times.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from selma.adapters.table import adapter_file
from selma.applications.loading import read_run_file
from selma.applications.publishing.usage import on_hub, usage
from selma.backbones.base_files import own_architecture
from selma.backbones.bases import BASES
from selma.config import RunConfig
from selma.config.adapters import CoftConfig, LoraConfig, RotationConfig
from selma.config.scores import judge_name
from selma.disk import make_folder
from selma.errors import ConfigError, ModelError
from selma.finished import NotFinished
from selma.image_places import image_of
from selma.images.generating import benchmark_seed
from selma.merged.merging import read_diagnostics
from selma.merged.planning import method_of
from selma.merged.searching import read_trials
from selma.paths import AnyPath, as_path
from selma.pipeline import Stages, scorecard
from selma.prompts.skills import skill_names
from selma.records.adapters import applied
from selma.records.benchmarks import BenchmarkPrompt, evenly
from selma.records.experts import Expert
from selma.records.merged import Merged
from selma.records.scores import Scorecard
from selma.report import tables
from selma.report.judged import judged
from selma.report.sources import trained_on
from selma.scores.describing import judge_checks
from selma.versions import keeping, made_with
from selma.workspace import MERGED, REPORT, Workspace, inside, manifest, write_bytes

CARD, GALLERY = "README.md", "gallery"
SHEET = "grid.png"
UNNAMED = "OWNER/NAME"
"""Stands for the adapter's repository before it has one."""
EXAMPLE = "a red cat left of a blue tree"
"""The prompt of a card whose run has no benchmark images."""


@dataclass(frozen=True)
class Card:
    """A card and the files that belong to it, the repository's."""

    adapter: Path
    contents: Mapping[str, bytes]
    """Name beside the adapter's → what it holds: card and images."""

    @property
    def folder(self) -> Path:
        return self.adapter.parent

    @property
    def files(self) -> tuple[Path, ...]:
        """Adapter, card and images."""
        return self.adapter, *(self.folder / name for name in self.contents)


def write_card(run: AnyPath, **how: Any) -> Card:
    """Write the card that `make_card` makes beside the adapter, in place of an older one."""
    card = make_card(run, **how)
    shutil.rmtree(card.folder / GALLERY, ignore_errors=True)
    for name, data in card.contents.items():
        path = inside(card.folder, name)
        make_folder(path.parent)
        write_bytes(path, data)
    return card


def make_card(
    run: AnyPath, *, repository: str = UNNAMED, licence: str | None = None, images: int = 6
) -> Card:
    """The run's card, as it belongs into its `4-merged`; nothing is written.

    licence: one of the Hub's names; None takes the base's, if known. Raises ConfigError of a
    mixture, and WorkspaceError unless the merge is finished; the card of a run without scores has
    no scorecard.
    """
    run = as_path(run)
    config = read_run_file(run)
    if config.merged.mixture is not None:
        raise ConfigError(
            f"{run} has a mixture, which no other program reads. Write the LoRA of its mean gates, "
            f"and publish that: selma convert {run / MERGED} --to diffusers --out FILE."
        )
    stages = Stages(config, Workspace(run), make=[])
    with keeping():  # it is told of as it is, whatever is installed
        experts = stages.all_experts()
        merged = stages.merge_experts(experts)
        card = _scorecard(config)
        gallery, contents = _gallery(stages, merged, images)
    text = _front_matter(config, gallery, licence=licence)
    text += _body(config, experts, merged, card, gallery, repository=repository)
    return Card(
        adapter_file(merged.folder), {CARD: text.encode(), **dict(sorted(contents.items()))}
    )


def _scorecard(config: RunConfig) -> Scorecard | None:
    try:
        return scorecard(config)
    except NotFinished:
        return None


def _gallery(
    stages: Stages, merged: Merged, count: int
) -> tuple[list[tuple[BenchmarkPrompt, str]], dict[str, bytes]]:
    """Images of benchmark prompts, evenly over the groups and whatever their scores: each prompt
    with its image's path beside the card, and what is at these paths. None if the merged model has
    not generated any."""
    images: list[tuple[BenchmarkPrompt, str]] = []
    contents: dict[str, bytes] = {}
    try:
        generated = stages.generate("merged", [applied(merged)])
    except NotFinished:
        return images, contents
    for prompt in evenly(stages.benchmark_prompts, count):
        name = f"{GALLERY}/{prompt.id}.png"
        contents[name] = image_of(generated, prompt.id).read_bytes()
        images.append((prompt, name))
    sheet = stages.folder.root / REPORT / SHEET
    if sheet.is_file():
        contents[f"{GALLERY}/{SHEET}"] = sheet.read_bytes()
    return images, contents


def _front_matter(
    config: RunConfig, gallery: list[tuple[BenchmarkPrompt, str]], *, licence: str | None
) -> str:
    """The Hub's metadata, between two lines of dashes."""
    base, row = _base_on_hub(config), BASES.get(config.base.model)
    licence = licence or (row.licence if row else None)
    adapter, family = config.experts.adapter, _family(config)
    loads = isinstance(adapter, LoraConfig)  # diffusers loads no other kind
    kind = (
        ["diffusers", "lora", "template:sd-lora", *family] if loads else [adapter.kind, *family[:1]]
    )
    metadata: dict[str, Any] = {
        **({"license": licence} if licence else {}),
        **({"library_name": "diffusers"} if loads else {}),
        "pipeline_tag": "text-to-image",
        **({"base_model": base, "base_model_relation": "adapter"} if base else {}),
        "tags": ["text-to-image", *kind, "selma"],
        "widget": [{"text": p.text, "output": {"url": url}} for p, url in gallery],
    }
    return f"---\n{_yaml({key: value for key, value in metadata.items() if value})}---\n\n"


def _body(
    config: RunConfig,
    experts: list[Expert],
    merged: Merged,
    card: Scorecard | None,
    gallery: list[tuple[BenchmarkPrompt, str]],
    *,
    repository: str,
) -> str:
    environment = Environment(
        loader=PackageLoader("selma.applications.publishing", ""),
        autoescape=False,  # it is Markdown; cells and code are escaped one by one
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in ("points", "signed", "between", "compared"):
        environment.globals[name] = getattr(tables, name)
    environment.globals["cell"] = _cell
    scores, images, prompts = config.scores, config.images, config.prompts
    names = skill_names(prompts.skills, given=prompts.given)
    example = gallery[0][0] if gallery else None
    made = [merged.folder, *(expert.folder for expert in experts)]
    lines = usage(
        config,
        merged,
        example=EXAMPLE if example is None else example.text,
        seed=0 if example is None else benchmark_seed(config.seed, example.id),
        repository=repository,
    )
    return environment.get_template("card.md").render(
        title=_cell(config.name),
        base_name=_base_name(config),
        base_model=_base_on_hub(config),
        usage=lines,
        in_gallery=bool(gallery),
        kind=_kind(config),
        adapter=_adapter(config),
        skills=[expert.skill for expert in experts],
        card=card,
        judged=judged(card, judge_checks(Workspace(config.run_folder))) if card else [],
        conclusion=" ".join(tables.conclusion(card)) if card else "",
        sheet=f"{GALLERY}/{SHEET}" if (merged.folder / GALLERY / SHEET).is_file() else None,
        recipe=_yaml(_recipe(config, merged)),
        weights=merged.weights,
        pairs={expert.skill: _pairs(expert, config) for expert in experts},
        joint_of=names if config.experts.joint else [],
        steps=config.experts.steps
        * (len(names) if config.experts.joint == "steps_per_skill" else 1),
        trained_on=trained_on(config.model_dump(mode="json")),
        own_images=not images.given and images.base is None,
        experts=config.experts,
        writer=None if config.prompts.given else Path(config.prompts.backend.model).name,
        seed=config.seed,
        diagnostics=read_diagnostics(merged),
        trials=len(read_trials(merged.folder)),
        chooser=judge_name(scores.choosing_judge),
        versions=made_with(manifest(folder)["recipe"] for folder in made),
    )


def _pairs(expert: Expert, config: RunConfig) -> int:
    """How many pairs the expert was trained on, as its manifest has it."""
    asked = config.prompts.per_skill * config.images.per_prompt
    return int(manifest(expert.folder).get("summary", {}).get("pairs", asked))


def _kind(config: RunConfig) -> str:
    adapter = config.experts.adapter
    return "LoRA" if isinstance(adapter, LoraConfig) else adapter.kind.upper()


def _adapter(config: RunConfig) -> str:
    adapter = config.experts.adapter
    if isinstance(adapter, LoraConfig):
        return f"rank {adapter.rank}"
    if not isinstance(adapter, RotationConfig):
        settings = adapter.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
        return ", ".join([adapter.kind, *(f"{name} {value}" for name, value in settings.items())])
    size, count = adapter.block_size, adapter.blocks or 4
    parts = [
        f"blocks of side {size}" if size else f"{count} block{'s' if count > 1 else ''} a layer"
    ]
    parts += ["all alike"] if adapter.share_blocks else []
    parts += ["with magnitudes"] if adapter.magnitudes else []
    parts += [f"eps {adapter.eps:g} ({adapter.radius})"] if isinstance(adapter, CoftConfig) else []
    return ", ".join(parts)


def _recipe(config: RunConfig, merged: Merged) -> dict[str, Any]:
    """The merge as a mergekit config, in mergekit's names if it has them."""
    _, section = method_of(config.merged)
    settings = section.model_dump(mode="json")
    scale = config.merged.scale if config.merged.search is None else merged.scale
    parameters: dict[str, Any] = {"lambda": scale}
    return {
        "merge_method": merged.method,
        "base_model": _base_on_hub(config) or _base_name(config),
        "models": [
            {"model": name, "parameters": {"weight": round(weight, 6)}}
            for name, weight in merged.weights.items()
        ],
        "parameters": parameters | {k: v for k, v in settings.items() if v is not None},
        "dtype": "float32",
    }


def _base_on_hub(config: RunConfig) -> str | None:
    """The base's repository on the Hub; None for toybox, a folder or a file."""
    base = config.local_base
    return on_hub(base.model) if base.config is None else None


def _base_name(config: RunConfig) -> str:
    """The base's name, without a path of the machine."""
    model = config.base.model
    return model if model in BASES or _base_on_hub(config) else Path(model).stem


def _family(config: RunConfig) -> list[str]:
    try:
        own = own_architecture(config.local_base)
    except ModelError:  # the base is not at hand, which the card can do without
        return []
    return [own.family, f"{own.family}-diffusers"]


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=100)


def _cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    for sign in ("\\", "|", "<", "`", "*", "_", "["):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
