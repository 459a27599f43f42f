"""Control's flow (OFT, arXiv:2306.07280): conditions → networks → images → scores.

On the run's own base, with results in the folders of stages 2, 3, 5 and 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.applications.control.preflight import mistakes
from selma.applications.control.records import ControlCard, ControlSample, TrainedControl
from selma.applications.control.settings import (
    TABLES,
    BranchNetwork,
    Condition,
    ControlNetNetwork,
    ControlRun,
    ControlSettings,
    MagnitudeFitting,
    Method,
    NetworkConfig,
    Table,
    has_rotations,
    label_of,
)
from selma.config import require_settings
from selma.config.adapters import OftConfig
from selma.errors import ConfigError
from selma.pipeline import Stages, opened
from selma.runfile import portable
from selma.workspace import EXPERTS, IMAGES, REPORT, SCORES, Workspace

if TYPE_CHECKING:
    from selma.applications.control.candidates import Split
    from selma.applications.control.page import ConditionSection
    from selma.applications.control.scoring import ModelImages
    from selma.capacity import Work

    Samples = dict[Split, list[ControlSample]]
    """The images of one condition."""

COMMANDS = {
    f"{IMAGES}/_control": "control prepare",
    f"{EXPERTS}/_control": "control train",
    f"{SCORES}/control": "control generate",
}
"""Item, or a folder above it → the command that makes it."""


def prepare(config: ControlRun) -> Samples:
    """Prepare both splits: split → images with their conditions."""
    with _opened(config, make=[IMAGES]) as stages:
        return _samples(stages, config.control, stages.folder)


def train(config: ControlRun) -> TrainedControl:
    """Train the network on the prepared images; with magnitudes, then the second stage."""
    settings = require_settings(config, ControlRun).control
    with _opened(config, make=[EXPERTS]) as stages:
        return _trained(
            stages, settings, _samples(stages, settings, stages.finished), stages.folder
        )


def generate(config: ControlRun) -> dict[str, Path]:
    """Generate the validation samples with "base" and each trained network: model → folder.

    Each launched process generates a part.
    """
    settings = require_settings(config, ControlRun).control
    with _opened(config, make=[SCORES], several=True) as stages:
        samples = _samples(stages, settings, stages.finished)
        generated = _generated(stages, settings, _stages_of(settings), samples, make=stages.folder)
        return {images.model: images.folder for images in generated if images.folder is not None}


def score(config: ControlRun) -> tuple[ControlCard, Path]:
    """Score the generated images and write the page: the card and the page's path."""
    from selma.applications.control.scoring import require_reader

    settings = require_settings(config, ControlRun).control
    with _opened(config, make=[SCORES, REPORT]) as stages:
        require_reader(settings.scores, settings.data.condition)
        samples, finished = _samples(stages, settings, stages.finished), stages.finished
        generated = _generated(stages, settings, _stages_of(settings), samples, make=finished)
        card = _card(stages, settings, generated, samples, reference="base")
        return card, _page(stages, [_section(card, generated, samples)])


def compare(config: ControlRun, tables: Sequence[Table] = TABLES) -> tuple[list[ControlCard], Path]:
    """Train and score every network of the paper's tables: one card for each condition, and the
    page's path. Whatever is finished is kept.
    """
    from selma.applications.control.scoring import require_reader

    settings = require_settings(config, ControlRun).control
    plan = planned(settings, tables)
    # Whatever would stop it later is checked before anything is trained.
    variants = {condition: variants_of(rows) for condition, rows in plan.items()}
    networks = [variant.network for trained in variants.values() for variant in trained]
    for condition in plan:
        require_reader(settings.scores, condition)
    sections = []
    with _opened(config, make=[IMAGES, EXPERTS, SCORES, REPORT], networks=networks) as stages:
        samples = {
            condition: _samples(stages, _on(settings, condition), stages.folder)
            for condition in plan
        }
        for condition, rows in plan.items():
            own, images = _on(settings, condition), samples[condition]
            for variant in variants[condition]:
                _trained(stages, variant, images, stages.folder)
            generated = _generated(stages, own, variants[condition], images, make=stages.folder)
            card = _card(stages, own, generated, images, reference=label_of(own.network))
            groups = [
                (table, [full_label(variant) for variant in settings_of_table])
                for table, settings_of_table in rows.items()
            ]
            sections.append(_section(card, generated, images, groups=groups))
        return [section.card for section in sections], _page(stages, sections)


def _opened(
    config: ControlRun,
    *,
    make: Sequence[str],
    networks: Iterable[NetworkConfig] = (),
    several: bool = False,
) -> AbstractContextManager[Stages[ControlRun]]:
    """The run's stages, of which control needs neither prompts nor judges; `networks` are trained
    beside the run's."""
    return opened(
        require_settings(config, ControlRun),
        make=make,
        checked=[],
        mistakes=mistakes(config, [], unique(networks)),
        commands=COMMANDS,
        work=_work,
        several=several,
    )


def _work(config: ControlRun) -> list[Work]:
    """What control does with the base; what its networks add is not counted."""
    from selma.capacity import encoding, generating

    generation = config.control.generation
    setting = "control.generation.batch_size"
    return [
        generating(generation.batch_size, guidance=generation.guidance, setting=setting),
        encoding(),
    ]


def tables_of(names: Sequence[str] | None) -> Sequence[Table]:
    """The tables of these names; all without names. Raises ConfigError."""
    if unknown := sorted(set(names or ()) - set(TABLES)):
        raise ConfigError(f"Tables are {', '.join(TABLES)}, but {unknown[0]!r} came.")
    return [table for table in TABLES if not names or table in names]


def planned(
    settings: ControlSettings, tables: Sequence[Table]
) -> dict[Condition, dict[Table, list[ControlSettings]]]:
    """Condition → table → the settings of each network in it, in the paper's order."""
    config, main = settings.tables, settings.model_copy(update={"magnitudes": None})
    plan: dict[Condition, dict[Table, list[ControlSettings]]] = {}
    if "methods" in tables:
        networks = unique(
            (
                ControlNetNetwork(),
                BranchNetwork(adapter=config.lora),
                BranchNetwork(adapter=config.coft),
                main.network,
            )
        )
        for condition in config.conditions:
            plan[condition] = {"methods": [_variant(_on(main, condition), n) for n in networks]}
    on_other = _on(main, config.other_condition)
    other = plan.setdefault(config.other_condition, {})
    if "blocks" in tables:
        adapters = [OftConfig(blocks=n, targets="attention+geglu") for n in config.blocks]
        other["blocks"] = [_variant(on_other, BranchNetwork(adapter=a)) for a in adapters]
    if "magnitudes" in tables:
        if not has_rotations(main.network):
            raise ConfigError(
                "Table 4 fits magnitudes to rotations, but control.network has none. Set its "
                "adapter to oft or coft, or leave the table out."
            )
        first = _variant(on_other, main.network)
        fitting = settings.magnitudes or MagnitudeFitting()
        other["magnitudes"] = [first, first.model_copy(update={"magnitudes": fitting})]
    return {condition: rows for condition, rows in plan.items() if rows}


def variants_of(rows: Mapping[Table, Sequence[ControlSettings]]) -> list[ControlSettings]:
    """Each network of one condition's tables once. Raises ConfigError if two share a name."""
    variants_once = unique(variant for variants in rows.values() for variant in variants)
    names = [full_label(variant) for variant in variants_once]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"Two networks with different settings would both be called {twins[0]!r}. Make "
            "control.network and control.tables agree."
        )
    return variants_once


def unique(values: Iterable[Any]) -> list[Any]:
    """The distinct values, in order; they need not be hashable."""
    distinct: list[Any] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct


def full_label(settings: ControlSettings) -> str:
    """The label of the network that these settings train."""
    label = label_of(settings.network)
    return label if settings.magnitudes is None else f"{label}-magnitudes"


def _variant(settings: ControlSettings, network: NetworkConfig) -> ControlSettings:
    """The settings with this network and its learning rate."""
    kind: Method | None = "controlnet"
    if isinstance(network, BranchNetwork):
        kind = None if network.adapter is None else network.adapter.kind
    rate = settings.training.learning_rate
    if kind is not None:
        rate = settings.tables.learning_rates.get(kind, rate)
    training = settings.training.model_copy(update={"learning_rate": rate})
    return settings.model_copy(update={"network": network, "training": training})


def _on(settings: ControlSettings, condition: Condition) -> ControlSettings:
    data = settings.data.model_copy(update={"condition": condition})
    return settings.model_copy(update={"data": data})


def _stages_of(settings: ControlSettings) -> list[ControlSettings]:
    """The network before its magnitudes are fitted, and after."""
    first = settings.model_copy(update={"magnitudes": None})
    return [first] if settings.magnitudes is None else [first, settings]


def _samples(stages: Stages[ControlRun], settings: ControlSettings, folder: Workspace) -> Samples:
    from selma.applications.control.preparing import prepare_control
    from selma.backbones.base_files import own_architecture

    px = own_architecture(stages.config.local_base).image_px
    return prepare_control(settings.data, folder, px=px, seed=stages.config.seed)


def _trained(
    stages: Stages[ControlRun], settings: ControlSettings, samples: Samples, folder: Workspace
) -> TrainedControl:
    from selma.applications.control.training import train_control

    return train_control(
        samples["train"],
        settings,
        folder,
        base=stages.config.local_base,
        seed=stages.config.seed,
        model=stages.model,
    )


def _generated(
    stages: Stages[ControlRun],
    settings: ControlSettings,
    variants: Sequence[ControlSettings],
    samples: Samples,
    *,
    make: Workspace,
) -> list[ModelImages]:
    """The source images, the base's and each network's, generated in `make`."""
    from selma.applications.control.generating import generate_control
    from selma.applications.control.network_files import load
    from selma.applications.control.scoring import SOURCE_IMAGES, ModelImages

    def images(trained: TrainedControl | None) -> Path:
        return generate_control(
            samples["val"],
            trained,
            settings.generation,
            make,
            condition=settings.data.condition,
            base=stages.config.local_base,
            seed=stages.config.seed,
            model=stages.model,
        )

    images_of_models = [SOURCE_IMAGES, ModelImages("base", "base", images(None))]
    for variant in variants:
        trained = _trained(stages, variant, samples, stages.finished)
        count = load(trained.folder).parameters
        images_of_models.append(ModelImages(trained.label, "control", images(trained), count))
    return images_of_models


def _card(
    stages: Stages[ControlRun],
    settings: ControlSettings,
    generated: Sequence[ModelImages],
    samples: Samples,
    *,
    reference: str,
) -> ControlCard:
    from selma.applications.control.scoring import Scorer
    from selma.applications.control.sources import palette_of

    data = settings.data
    scorer = Scorer(
        samples["val"],
        settings.scores,
        stages.folder,
        condition=data.condition,
        palette=palette_of(data),
        canny=(data.canny_low, data.canny_high),
        seed=stages.config.seed,
    )
    return scorer.card(generated, reference=reference)


def _section(
    card: ControlCard,
    generated: Sequence[ModelImages],
    samples: Samples,
    *,
    groups: Sequence[tuple[Table | None, Sequence[str]]] = (),
) -> ConditionSection:
    """One condition's section of the page; without groups, all networks are in one table."""
    from selma.applications.control.page import ConditionSection

    networks = [images.model for images in generated if images.role == "control"]
    return ConditionSection(
        card=card,
        samples=samples["val"],
        images={images.model: images.folder for images in generated},
        groups=groups or [(None, networks)],
    )


def _page(stages: Stages[ControlRun], sections: Sequence[ConditionSection]) -> Path:
    from selma.applications.control.page import write_control_page

    settings = portable(stages.config, stages.folder.root)["control"]
    return write_control_page(
        sections,
        stages.folder,
        name=stages.config.name,
        settings=settings,
        about={"base": stages.base_key()},
    )
