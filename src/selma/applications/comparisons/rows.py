"""The stages of one row: its recipe in the shared folder, with the base and networks of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from selma.applications.comparisons.recipes import Plan, Recipe
from selma.applications.comparisons.sharing import Clock, SharedFinished, SharedWorkspace
from selma.config import RunConfig
from selma.config.networks import AnyBase, BaseConfig
from selma.pipeline import Stages
from selma.records.adapters import AppliedAdapter, applied
from selma.scores.benchmarks import all_texts
from selma.workspace import STAGES, Workspace

if TYPE_CHECKING:
    from selma.backbones.drawing import AnyTextToImage
    from selma.backbones.text_to_image import TextToImage
    from selma.scores.networks import ScoringNetworks

Model = TypeVar("Model")


class RowStages(Stages[RunConfig]):
    """The six stages by one row's settings."""

    def __init__(
        self, config: RunConfig, folder: Workspace, *, make: Sequence[str], resources: Resources
    ) -> None:
        super().__init__(config, folder, make=make)
        self.finished = SharedFinished(folder.root)
        self.resources = resources
        self.images_by: Callable[[], list[AppliedAdapter]] | None = None
        """Adapters of the row that generates the training images."""

    @property
    def used(self) -> set[str]:
        """Items that were asked for."""
        assert isinstance(self.folder, SharedWorkspace)
        return self.folder.used

    def model(self) -> TextToImage:
        return self.resources.model(self.config.local_base, self._loaded)

    def drawing(self) -> AnyTextToImage:
        base = self.config.base
        if isinstance(base, BaseConfig):
            return self.model()
        served: AnyTextToImage = self.resources.model(base, super().drawing)
        return served

    def _loaded(self) -> TextToImage:
        model = super().model()
        self.__dict__.pop("_model", None)  # all rows have it in common
        return model

    @cached_property
    def networks(self) -> ScoringNetworks:
        return self.resources.networks(self.config)

    @cached_property
    def _image_adapters(self) -> list[AppliedAdapter]:
        return super()._image_adapters if self.images_by is None else self.images_by()

    @cached_property
    def _benchmark_texts(self) -> list[str]:
        # No row is trained on a prompt of any benchmark.
        return self.resources.benchmark_texts


@dataclass
class Resources:
    """What all rows have in common."""

    plan: Plan
    clock: Clock = field(default_factory=Clock)
    _model: tuple[AnyBase, Any] | None = None
    _networks: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def benchmark_texts(self) -> list[str]:
        configs = self.plan.benchmarks.values()
        texts = (text for config in configs for text in all_texts(config.scores))
        return list(dict.fromkeys(texts))

    def workspace(self) -> SharedWorkspace:
        """The folder, for one row."""
        return SharedWorkspace(self.plan.comparison.run_folder, self.clock)

    def stages(self, recipe: Recipe, *, make: bool) -> RowStages:
        """The row's stages; without `make` they only show what is finished."""
        to_make = STAGES if make else ()
        stages = RowStages(recipe.config, self.workspace(), make=to_make, resources=self)
        if (teacher := recipe.row.images_by) is not None:
            stages.images_by = lambda: self._teaching(teacher, stages, make=make)
        return stages

    def _teaching(self, row: str, taught: RowStages, *, make: bool) -> list[AppliedAdapter]:
        """Adapters of the row that generates another's training images. What that took counts for
        the other one, too."""
        recipe = self.plan.recipes[row]
        stages = self.stages(recipe, make=make)
        adapters = self.adapters(stages, recipe)
        taught.used.update(stages.used)
        return adapters

    def adapters(self, stages: RowStages, recipe: Recipe) -> list[AppliedAdapter]:
        """What is applied to the base to be the row's model; what it needs is made."""
        if recipe.row.model == "base":
            return []
        experts = stages.all_experts()
        if recipe.row.model == "expert":
            return [applied(expert) for expert in experts]
        merged = stages.merge_experts(experts)
        if recipe.row.model == "uniform" and merged.uniform is not None:
            return [applied(merged.uniform)]
        return [applied(merged)]  # searched weights that did not beat them are uniform, too

    def model(self, base: AnyBase, load: Callable[[], Model]) -> Model:
        """The base, loaded once; of several bases the last, so that memory holds one."""
        if self._model is None or self._model[0] != base:
            self._model = None
            self._model = base, load()
        model: Model = self._model[1]
        return model

    def networks(self, config: RunConfig) -> ScoringNetworks:
        """The networks of stage 5 by these settings, each loaded once."""
        from selma.scores.networks import ScoringNetworks

        key = config.scores.model_dump_json()
        if key not in self._networks:
            self._networks[key] = ScoringNetworks(config.scores)
        networks: ScoringNetworks = self._networks[key]
        return networks
