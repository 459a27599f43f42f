"""Control's flow (OFT, arXiv:2306.07280): conditions → networks → images → scores, in one folder.

It stands beside the six stages, with the run's own base.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    ToyboxImages,
    label_of,
    turns,
)
from selma.config.adapters import OftConfig
from selma.errors import ConfigError
from selma.pipeline import Stages, opened
from selma.preflight import check
from selma.runfile import portable
from selma.workspace import EXPERTS, IMAGES, REPORT, SCORES, Workspace

if TYPE_CHECKING:
    from selma.applications.control.page import Shown
    from selma.applications.control.scoring import Generated
    from selma.applications.control.sources import Split

COMMANDS = {
    f"{IMAGES}/_control": "control prepare",
    f"{EXPERTS}/_control": "control train",
    f"{SCORES}/control": "control generate",
}
"""Item, or a folder above it → the command that makes it."""


def prepare(config: ControlRun) -> dict[Split, list[ControlSample]]:
    """Split → images with their conditions."""
    with opened(
        config, make=[IMAGES], checked=[], mistakes=mistakes(config, []), commands=COMMANDS
    ) as this:
        return _samples(this, config.control, this.folder)


def train(config: ControlRun) -> TrainedControl:
    """The network, trained on what `prepare` left; with magnitudes the second stage's."""
    settings = config.control
    with opened(
        config, make=[EXPERTS], checked=[], mistakes=mistakes(config, []), commands=COMMANDS
    ) as this:
        return _trained(this, settings, this.folder)


def generate(config: ControlRun) -> dict[str, Path]:
    """Model → folder with its image of each validation sample: "base", and the trained ones. Each
    of the processes that were launched generates a part."""
    settings = config.control
    with opened(
        config,
        make=[SCORES],
        checked=[],
        mistakes=mistakes(config, []),
        commands=COMMANDS,
        several=True,
    ) as this:
        generated = _generated(this, settings, _stages_of(settings), make=this.folder)
        return {images.model: images.folder for images in generated if images.folder is not None}


def score(config: ControlRun) -> tuple[ControlCard, Path]:
    """The card, and the page on it."""
    from selma.applications.control.scoring import require_reader

    settings = config.control
    with opened(
        config, make=[SCORES, REPORT], checked=[], mistakes=mistakes(config, []), commands=COMMANDS
    ) as this:
        require_reader(settings.scores, settings.data.condition)
        generated = _generated(this, settings, _stages_of(settings), make=this.finished)
        card = _card(this, settings, generated, reference="base")
        return card, _page(this, [_shown(this, settings, card, generated)])


def compare(config: ControlRun, tables: Sequence[Table] = TABLES) -> tuple[list[ControlCard], Path]:
    """One card for each condition with every network of the paper's tables, and the page on them.

    Whatever is missing is prepared, trained, generated and scored; what is there is not made again.
    """
    from selma.applications.control.scoring import require_reader

    settings = config.control
    plan = planned(settings, tables)
    # Whatever would stop it later is looked for before anything is trained.
    variants = {condition: variants_of(rows) for condition, rows in plan.items()}
    for network in unique(
        variant.network for settings_of_table in variants.values() for variant in settings_of_table
    ):
        variant = settings.model_copy(update={"network": network, "magnitudes": None})
        changed = config.model_copy(update={"control": variant})
        check(changed, [], mistakes(changed, []))
    for condition in plan:
        require_reader(settings.scores, condition)
    shown = []
    with opened(
        config,
        make=[IMAGES, EXPERTS, SCORES, REPORT],
        checked=[],
        mistakes=mistakes(config, []),
        commands=COMMANDS,
    ) as this:
        for condition in plan:
            _samples(this, _on(settings, condition), this.folder)
        for condition, rows in plan.items():
            mine = _on(settings, condition)
            for variant in variants[condition]:
                _trained(this, variant, this.folder)
            generated = _generated(this, mine, variants[condition], make=this.folder)
            card = _card(this, mine, generated, reference=label_of(mine.network))
            groups = [
                (table, [full_label(variant) for variant in settings_of_table])
                for table, settings_of_table in rows.items()
            ]
            shown.append(_shown(this, mine, card, generated, groups=groups))
        return [condition.card for condition in shown], _page(this, shown)


def tables_of(names: Sequence[str] | None) -> Sequence[Table]:
    """The tables that these names mean; all for none. Raises ConfigError."""
    if unknown := sorted(set(names or ()) - set(TABLES)):
        raise ConfigError(f"Tables are {', '.join(TABLES)}, but {unknown[0]!r} came.")
    return [table for table in TABLES if not names or table in names]


def planned(
    settings: ControlSettings, tables: Sequence[Table]
) -> dict[Condition, dict[Table, list[ControlSettings]]]:
    """Condition → table → the settings of each network in it, in the paper's order."""
    wanted, main = settings.tables, settings.model_copy(update={"magnitudes": None})
    plan: dict[Condition, dict[Table, list[ControlSettings]]] = {}
    if "methods" in tables:
        each = (
            ControlNetNetwork(),
            BranchNetwork(adapter=wanted.lora),
            BranchNetwork(adapter=wanted.coft),
            main.network,
        )
        for condition in wanted.conditions:
            plan[condition] = {"methods": [_rated(_on(main, condition), n) for n in unique(each)]}
    on_other = _on(main, wanted.other_condition)
    other = plan.setdefault(wanted.other_condition, {})
    if "blocks" in tables:
        adapters = [OftConfig(blocks=n, targets="attention+geglu") for n in wanted.blocks]
        other["blocks"] = [_rated(on_other, BranchNetwork(adapter=a)) for a in adapters]
    if "magnitudes" in tables:
        if not turns(main.network):
            raise ConfigError(
                "Table 4 fits magnitudes to rotations, but control.network has none. Set its "
                "adapter to oft or coft, or leave the table out."
            )
        first = _rated(on_other, main.network)
        fitting = settings.magnitudes or MagnitudeFitting()
        other["magnitudes"] = [first, first.model_copy(update={"magnitudes": fitting})]
    return {condition: rows for condition, rows in plan.items() if rows}


def variants_of(rows: Mapping[Table, Sequence[ControlSettings]]) -> list[ControlSettings]:
    """Each network of one condition's tables once. Raises ConfigError where two share a name."""
    variants_once = unique(variant for variants in rows.values() for variant in variants)
    names = [full_label(variant) for variant in variants_once]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"Two networks with different settings would both be called {twins[0]!r}. Make "
            "control.network and control.tables agree."
        )
    return variants_once


def unique(values: Iterable[Any]) -> list[Any]:
    """Each once, in the order of the first."""
    distinct: list[Any] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct


def full_label(settings: ControlSettings) -> str:
    """What the network that these settings train is called."""
    label = label_of(settings.network)
    return label if settings.magnitudes is None else f"{label}-magnitudes"


def _rated(settings: ControlSettings, network: NetworkConfig) -> ControlSettings:
    """With this network and its own learning rate, where one is set."""
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


def _samples(
    this: Stages[ControlRun], settings: ControlSettings, folder: Workspace
) -> dict[Split, list[ControlSample]]:
    from selma.applications.control.preparing import prepare_control
    from selma.backbones.base_files import own_architecture

    px = own_architecture(this.config.base).image_px
    return prepare_control(settings.data, folder, px=px, seed=this.config.seed)


def _trained(
    this: Stages[ControlRun], settings: ControlSettings, folder: Workspace
) -> TrainedControl:
    from selma.applications.control.training import train_control

    return train_control(
        _samples(this, settings, this.finished)["train"],
        settings,
        folder,
        base=this.config.base,
        seed=this.config.seed,
        model=this.model,
    )


def _generated(
    this: Stages[ControlRun],
    settings: ControlSettings,
    variants: Sequence[ControlSettings],
    *,
    make: Workspace,
) -> list[Generated]:
    """The source images, the base's and each network's."""
    from selma.applications.control.generating import generate_control
    from selma.applications.control.network_files import load
    from selma.applications.control.scoring import SOURCE, Generated

    finished = this.finished
    samples = _samples(this, settings, finished)["val"]

    def images(trained: TrainedControl | None) -> Path:
        return generate_control(
            samples,
            trained,
            settings.generation,
            make,
            condition=settings.data.condition,
            base=this.config.base,
            seed=this.config.seed,
            model=this.model,
        )

    images_of_models = [Generated(SOURCE, "source", None), Generated("base", "base", images(None))]
    for variant in variants:
        trained = _trained(this, variant, finished)
        count = load(trained.folder).parameters
        images_of_models.append(Generated(trained.label, "control", images(trained), count))
    return images_of_models


def _card(
    this: Stages[ControlRun],
    settings: ControlSettings,
    generated: Sequence[Generated],
    *,
    reference: str,
) -> ControlCard:
    from selma.applications.control.scoring import Scorer

    data = settings.data
    scorer = Scorer(
        _samples(this, settings, this.finished)["val"],
        settings.scores,
        this.folder,
        condition=data.condition,
        toybox=isinstance(data.source, ToyboxImages),
        canny=(data.canny_low, data.canny_high),
        seed=this.config.seed,
    )
    return scorer.card(generated, reference=reference)


def _shown(
    this: Stages[ControlRun],
    settings: ControlSettings,
    card: ControlCard,
    generated: Sequence[Generated],
    *,
    groups: Sequence[tuple[Table | None, Sequence[str]]] = (),
) -> Shown:
    """What the page tells of one condition; without groups all networks stand in one table."""
    from selma.applications.control.page import Shown

    networks = [images.model for images in generated if images.role == "control"]
    return Shown(
        card=card,
        samples=_samples(this, settings, this.finished)["val"],
        images={images.model: images.folder for images in generated},
        groups=groups or [(None, networks)],
    )


def _page(this: Stages[ControlRun], shown: Sequence[Shown]) -> Path:
    from selma.applications.control.page import write_control_page

    settings = portable(this.config, this.folder.root)["control"]
    return write_control_page(
        shown,
        this.folder,
        name=this.config.name,
        settings=settings,
        about={"base": this.base_key()},
    )
