"""Settings of `selma compare`: shared settings, and rows that change them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from selma.config import RunConfig
from selma.config.guides import AnyGuide
from selma.config.places import FilePath, LaidOver
from selma.config.scores import ScoresConfig
from selma.config.section import Section
from selma.report.paper import COMPARISONS

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,59}$")]
MOST_ROWS = 1000
Label = Annotated[str, Field(max_length=200)]
Sentence = Annotated[str, Field(max_length=2000)]
Changes = Annotated[dict[str, Any], LaidOver(lambda: RunConfig)]
ScoreChanges = Annotated[dict[str, Any], LaidOver(lambda: ScoresConfig)]
Guidance = Annotated[float, Field(ge=1)]
SHARED = ("name", "folder", "seed", "scores", "report")
"""Settings that no row may change: all rows are scored alike, from the same seeds."""


class PaperRow(Section):
    """The row of the paper's table whose figures stand beside ours."""

    base: str
    """In the paper's words: SD v1.4, SD v2 or SDXL."""
    method: str = ""
    """"" is the base itself."""


class RowSettings(Section):
    """One row: a recipe, and which of its models is shown."""

    name: Name
    """In commands and folders."""
    label: Label | None = None
    """In tables; None is the name."""
    settings: Changes = Field(default_factory=dict)
    """What is laid over the shared settings, at every depth."""
    model: Literal["base", "expert", "merged", "uniform"] = "merged"
    """The base as it is, or by another way of generating; the expert of a recipe with a single one;
    the merged adapter; or, where merge weights are searched, the merge with uniform ones."""
    images_by: Name | None = None
    """A row above whose model generates the training images, as in rounds of DreamSync; None is the
    base, or images.adapter."""
    guide: AnyGuide | None = None
    """A method that changes how the row's model generates the benchmarks and trains nothing:
    syngen or structure_diffusion. Training images are generated without it."""
    paper: PaperRow | None = None

    @property
    def title(self) -> str:
        return self.label or self.name

    @model_validator(mode="after")
    def _own(self) -> RowSettings:
        if shared := sorted({*SHARED} & self.settings.keys()):
            raise ValueError(
                f"settings may not have {shared[0]}, which all rows share; set it in the "
                "comparison's own settings"
            )
        return self


class BenchmarkSettings(Section):
    """One of the benchmarks that all rows are scored on."""

    name: Name
    """Its column; that of the paper is found by it (DSG, TIFA)."""
    scores: ScoreChanges = Field(default_factory=dict)
    """What is laid over the shared `scores`: benchmark, judge, choices_prompt, ..."""


class Claim(Section):
    """A sentence that one difference of scores bears out or not."""

    says: Sentence
    row: Name
    over: Name


class Comparison(Section):
    """A comparison's settings."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    folder: Path | None = None
    """Where all of it lies; None is runs/<name>."""
    title: Label = "Recipes compared"
    config: FilePath | None = None
    """A run's settings that all rows share; None has the defaults."""
    settings: Changes = Field(default_factory=dict)
    """What is laid over those of `config`, for all rows."""
    rows: tuple[RowSettings, ...]
    base: Name | None = None
    """The row that every other is compared with, pair by pair; None is the first."""
    against: Name | None = None
    """A second row that every other is compared with."""
    benchmarks: tuple[BenchmarkSettings, ...] = ()
    """None: the one of the shared settings."""
    guidances: tuple[Guidance, ...] = (1.0, 2.0, 3.0, 5.0, 7.0)
    """Each row's own best of these is found on dev prompts by scores.choosing_judge, on the first
    benchmark that has any. With none, rows are only compared at the guidance of the training
    images."""
    dev_prompts: PositiveInt | None = None
    """How many dev prompts choose a guidance; None is all."""
    paper: str | None = None
    """The paper's table whose rows are named: table1, table2, table3 or table4."""
    claims: tuple[Claim, ...] = ()
    """Each is said to hold, not to hold, or to be open, by the interval of row minus over."""
    notes: tuple[Sentence, ...] = ()
    """Sentences below the tables."""

    @property
    def run_folder(self) -> Path:
        return Path("runs") / self.name if self.folder is None else Path(self.folder)

    @property
    def base_row(self) -> str:
        return self.base or self.rows[0].name

    def over(self, row: RowSettings) -> str:
        """The row that stands for the base of this row's figures in the paper."""
        bases = (
            other.name
            for other in self.rows
            if row.paper and other.paper == row.paper.model_copy(update={"method": ""})
        )
        return next(bases, self.base_row)

    def row(self, name: str) -> RowSettings:
        return next(row for row in self.rows if row.name == name)

    @model_validator(mode="after")
    def _names(self) -> Comparison:
        names = [row.name for row in self.rows]
        if len(names) < 2:
            raise ValueError(f"rows must be two or more, but are {len(names)}")
        if len(names) > MOST_ROWS:
            raise ValueError(f"rows must be at most {MOST_ROWS:,}, but are {len(names):,}")
        if twice := [name for name, n in Counter(map(str.lower, names)).items() if n > 1]:
            raise ValueError(f"rows need a name each, but two are named {twice[0]}")  # of folders
        known = {*names}
        for key, name in self._named():
            if name not in known:
                raise ValueError(f"{key} must be a row ({', '.join(names)}), but is {name!r}")
        if unlike := [claim.says for claim in self.claims if claim.row == claim.over]:
            raise ValueError(f"claims need two rows each, but {unlike[0]!r} has one")
        columns = [benchmark.name for benchmark in self.benchmarks]
        if len({column.lower() for column in columns}) < len(columns):
            raise ValueError(f"benchmarks need a name each, but are named {', '.join(columns)}")
        return self

    @model_validator(mode="after")
    def _order(self) -> Comparison:
        above: set[str] = set()
        for row in self.rows:
            if row.images_by is not None and row.images_by not in above:
                raise ValueError(
                    f"rows, {row.name}: images_by must be a row above it, but is {row.images_by!r}"
                )
            above.add(row.name)
        return self

    @model_validator(mode="after")
    def _of_the_paper(self) -> Comparison:
        if self.paper is not None and self.paper not in COMPARISONS:
            raise ValueError(f"paper must be one of {', '.join(COMPARISONS)}, but is {self.paper}")
        printed = {} if self.paper is None else COMPARISONS[self.paper].rows
        for row in self.rows:
            if row.paper is not None and self.paper is None:
                raise ValueError(f"rows, {row.name}: paper needs the comparison's own, a table")
            if row.paper is not None and row.paper.method not in printed.get(row.paper.base, {}):
                raise ValueError(
                    f"rows, {row.name}: paper must be a row of {self.paper}, but is "
                    f"{row.paper.base} with {row.paper.method!r}"
                )
        return self

    def _named(self) -> Iterator[tuple[str, str]]:
        """Key and value of all that names a row."""
        for key, name in (("base", self.base), ("against", self.against)):
            if name is not None:
                yield key, name
        for number, claim in enumerate(self.claims):
            yield f"claims.{number}.row", claim.row
            yield f"claims.{number}.over", claim.over
