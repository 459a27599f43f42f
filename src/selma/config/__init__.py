"""Every setting, one section for each stage. Unknown keys are errors.

Defaults are the paper's (arXiv:2403.06952, section 4.3) unless a line says otherwise. Reading a
config imports no model library, so that mistakes are shown before anything is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, overload

from pydantic import Field, ValidationError, model_validator

from selma.config.engine import AnyEngine, LocalEngine
from selma.config.experts import ExpertsConfig
from selma.config.images import ImagesConfig
from selma.config.merged import MergedConfig
from selma.config.networks import BaseConfig, BaseSettings
from selma.config.places import StorageUrl, map_paths
from selma.config.prompts import PromptsConfig
from selma.config.questions import WrittenQuestions
from selma.config.rewards import RewardedObjective, with_sum_searched
from selma.config.scores import ScorerSettings, ScoresConfig
from selma.config.section import (
    Section,
    Seed,
    first_mistakes,
    is_folder,
    mistake,
    require_kind,
)
from selma.config.yaml_files import NoYaml, read_yaml
from selma.errors import ConfigError
from selma.paths import AnyPath, as_path
from selma.plurals import counted
from selma.texts import kind_in_words

NO_WEIGHTS = (
    "is on a server, which generates images, but training needs the weights. Name the model itself "
    "in base, and the server in images.base, which generates the training images."
)


class ReportConfig(Section):
    grid_prompts: Annotated[int, Field(gt=0, le=10_000)] = 24
    """How many before/after images are shown."""
    training_pairs: Annotated[int, Field(gt=0, le=10_000)] = 8
    """How many training pairs are shown for each skill."""


class RunConfig(Section):
    """A run's settings; an application's own are a subclass with a section more."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    folder: Path | None = None
    """The run's folder; None is runs/<name>."""
    storage: StorageUrl | None = None
    """An object store's address (s3://bucket/run, gs://bucket/run) that the folder's files are
    pulled from before a command and pushed to while it works, so that another machine can go on.
    For one process at a time."""
    seed: Seed = 0
    engine: AnyEngine = LocalEngine()
    """Where work is done; of no effect on what comes out."""
    base: BaseSettings = BaseConfig()
    prompts: PromptsConfig = PromptsConfig()
    images: ImagesConfig = ImagesConfig()
    experts: ExpertsConfig = ExpertsConfig()
    merged: MergedConfig = MergedConfig()
    scores: ScoresConfig = ScoresConfig()
    report: ReportConfig = ReportConfig()

    @property
    def run_folder(self) -> Path:
        return Path("runs") / self.name if self.folder is None else Path(self.folder)

    @property
    def local_base(self) -> BaseConfig:
        """The base, where its weights are needed. Raises ConfigError if it is on a server."""
        if isinstance(self.base, BaseConfig):
            return self.base
        raise ConfigError(f"base: {NO_WEIGHTS}")

    @property
    def benchmark_steps(self) -> int:
        """Denoising steps of the benchmark's images."""
        return self.scores.steps or self.images.steps

    @property
    def benchmark_guidance(self) -> float:
        """Guidance of the benchmark's images."""
        return self.images.guidance if self.scores.guidance is None else self.scores.guidance

    @property
    def chosen_by(self) -> tuple[str, ...]:
        """Labels of the reported scorers that are no evidence: those declared in scores.chosen_by,
        the one that chose this run's training images, and the one that rewarded its experts."""
        chose: list[str | ScorerSettings] = (
            [self.images.choose.scorer] if self.images.choose else []
        )
        if self.rewarded is not None:
            chose += [self.rewarded.reward, *(added.scorer for added in self.rewarded.also)]
        same = [label for scorer in chose for label in self._labels_of(scorer)]
        return tuple(dict.fromkeys([*self.scores.chosen_by, *same]))

    def _labels_of(self, scorer: str | ScorerSettings) -> list[str]:
        """What a scorer is called in the report, where it is there."""
        if isinstance(scorer, ScorerSettings):
            return [row.key for row in self.scores.preferences if row.weights == scorer.weights]
        return ["clip"] if scorer == self.scores.clip else []

    @property
    def rewarded(self) -> RewardedObjective | None:
        """The experts' objective, if it is one that learns from rewards."""
        objective = self.experts.objective
        return objective if isinstance(objective, RewardedObjective) else None

    @property
    def questions(self) -> str | WrittenQuestions | None:
        """Where questions about the training prompts come from; None if nobody asks any."""
        wanted = self.rewarded.questions if self.rewarded is not None else None
        return self.images.questions or wanted

    @model_validator(mode="before")
    @classmethod
    def _sum_of_rewards(cls, values: Any) -> Any:
        return with_sum_searched(values)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        wanted = self.rewarded and self.rewarded.questions
        if wanted and self.images.questions and wanted != self.images.questions:
            raise ValueError(
                "images.choose.questions and experts.objective.questions must be the same, since a "
                "prompt's questions are written once; leave one out or make them equal"
            )
        return self


Run = TypeVar("Run", bound=RunConfig)


@overload
def load_config(path: AnyPath) -> RunConfig: ...
@overload
def load_config(path: AnyPath, kind: type[Run]) -> Run: ...
def load_config(path: AnyPath, kind: Any = RunConfig) -> Any:
    """The settings in a YAML file. All mistakes are in one ConfigError, each with its key.

    kind: their class.  Paths in the file are relative to its own folder; the run's `folder` is
    relative to where the command is run.
    """
    path = as_path(path)
    return parse_config(read_mapping(path), kind, origin=path, folder=path.parent)


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file's settings, unchecked; `name` is the file's where none is given."""
    if is_folder(path):
        raise ConfigError(f"{path} must be a YAML file of settings, but is a folder.")
    try:
        raw = read_yaml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} cannot be read: there is no such file.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except NoYaml as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read as text: {error}.") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of settings, but has {kind_in_words(raw)}.")
    raw.setdefault("name", path.stem)
    return raw


def require_settings(config: Any, kind: type[Run]) -> Run:
    """The settings. Raises ConfigError unless they are a run's of this kind."""
    what = "" if kind is RunConfig else f", {kind.__name__}"
    maker = f"Read a YAML file with selma.load_config(PATH{what})."
    return require_kind(config, kind, maker=maker)


def parse_config(raw: dict[str, Any], kind: type[Run], *, origin: Path, folder: Path) -> Run:
    """The settings in a mapping, as `load_config` has them.

    origin: named in the ConfigError.  folder: what relative paths start from.
    """
    try:
        config = kind.model_validate(raw)
    except ValidationError as error:
        # Of a run's sections, those of an application are not the most to be told about.
        count, lines = first_mistakes(
            error, lambda e: mistake(e, kind if len(e["loc"]) > 1 else RunConfig)
        )
        raise ConfigError(
            f"{origin} has {counted(count, 'mistake')}:\n" + "\n".join(lines)
        ) from error
    return map_paths(
        config,
        move=lambda name: str(folder / name),
        is_folder=lambda name: is_folder(folder / name),
    )
