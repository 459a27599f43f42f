"""What every section of the settings is: frozen, with no unknown key and no number that is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, Union, get_args

from annotated_types import Le, Lt
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    SerializeAsAny,
    Tag,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from selma.errors import ConfigError
from selma.randomness import SEEDS
from selma.registry import added_rows, left_out
from selma.texts import place, quoted, without_logins

Model = TypeVar("Model", bound=BaseModel)
MOST_MISTAKES = 50
"""That a message lists."""

PRIVATE = "private"
"""The type of a mistake whose message must not show what came."""

Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
MOST, MOST_OF_REALS, MOST_CHARACTERS = 10_000_000, 1_000_000, 10_000
"""Of numbers and texts without a bound of their own; numbers are as far from zero at most."""
Probability = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(gt=0, le=16_384)]
"""Along an image's side."""
Resamples = Annotated[int, Field(gt=0, le=100_000)]
"""Of the bootstrap behind an interval."""


class Section(BaseModel):
    """Frozen; unknown keys, NaN and infinite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __repr_str__(self, join_str: str) -> str:
        # What messages and tracebacks show of settings.
        text: str = super().__repr_str__(join_str)  # type: ignore[misc]  # of its own protocol
        return without_logins(text)

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any, info: ValidationInfo) -> Any:
        """A setting that says no bound of its own has ours: nothing that is counted, waited for or
        multiplied ends beyond it, and no text is longer."""
        limits: dict[type, int] = {int: MOST, float: MOST_OF_REALS, str: MOST_CHARACTERS}
        if isinstance(value, dict):
            del limits[int]  # raw settings may be in it, among them seeds
        several = value.values() if isinstance(value, dict) else value
        for each in several if isinstance(value, tuple | list | dict) else (value,):
            most = limits.get(type(each))
            if most is None or (len(each) if isinstance(each, str) else abs(each)) <= most:
                continue
            field = cls.model_fields[info.field_name or ""]
            if isinstance(each, str) or not _bounded((field.annotation, *field.metadata)):
                limit = f"{most:,}{' characters' if isinstance(each, str) else ''}"
                raise PydanticCustomError("countable", "must be at most {most}", {"most": limit})
        return value

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, values: Any) -> Any:
        # Without this, "steps: yes" would quietly be one step.
        mistakes: list[InitErrorDetails] = []
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and field.annotation not in (bool, bool | None):
                kind = PydanticCustomError("truth", "must not be true or false")
                mistakes.append({"type": kind, "loc": (name,), "input": value})
        if mistakes:
            raise ValidationError.from_exception_data(cls.__name__, mistakes)
        return values


def _bounded(notes: Iterable[Any]) -> bool:
    """Whether a type, or what stands beside it, says the most that a number may be."""
    return any(
        isinstance(note, Le | Lt) or _bounded((*getattr(note, "metadata", ()), *get_args(note)))
        for note in notes
    )


@dataclass(frozen=True)
class AddedKinds:
    """Marks the type of settings that rows of other packages bring: see `added_settings`."""

    group: str


def added_settings(group: str) -> dict[str, type[Section]]:
    """Name → settings, of the rows of other packages that bring any."""
    rows = added_rows(group).items()
    settings = {name: getattr(row, "settings", None) for name, row in rows}
    return {name: section for name, section in settings.items() if section is not None}


def _left_out(group: str) -> str:
    return "".join(f"; {sentence.removesuffix('.')}" for sentence in left_out(group))


def kinds(
    *sections: type[Section],
    group: str,
    names: Sequence[str] = (),
    short: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Any:
    """The type of a setting that comes in kinds: one of these sections, told apart by `kind`, or
    the `settings` of a row that another package adds to the table of this group.

    names: kinds that have no settings and are chosen by their name alone, as are rows of other
    packages that bring none; left out, there are no such kinds. short: names that stand for
    settings of these sections; only with `names`.
    """
    own = [str(section.model_fields["kind"].default) for section in sections]

    def kind_of(value: Any) -> str | None:
        if names and isinstance(value, str):
            return "name"
        kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
        if not isinstance(kind, str):
            return None
        # One that is nowhere goes the same way, if an entry point that is left out may have had it.
        added = kind not in own and (kind in added_rows(group) or left_out(group))
        return "added" if added else kind

    def known(value: Any) -> Any:
        """The value, if it is a name or a mapping of a kind that there is."""
        if isinstance(value, str) and value in short:
            return dict(short[value])
        mappings = [*own, *added_settings(group)]
        alone = [*names, *(name for name in added_rows(group) if name not in mappings)]
        kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
        if (value in alone) if isinstance(value, str) else (kind in mappings):
            return value
        raise PydanticCustomError(
            "kind",
            "must be {alone}, or a mapping whose kind is {mappings}{left_out}",
            {
                "alone": ", ".join([*alone, *short]),
                "mappings": " or ".join(mappings),
                "left_out": _left_out(group),
            },
        )

    def validated(value: Any) -> Any:
        if isinstance(value, Section):
            return value
        rows = added_settings(group)
        if value["kind"] not in rows:
            raise PydanticCustomError(
                "kind",
                "kind must be {kinds}{left_out}",
                {"kinds": " or ".join([*own, *rows]), "left_out": _left_out(group)},
            )
        return rows[value["kind"]].model_validate(value)

    added = Annotated[
        SerializeAsAny[Section], PlainValidator(validated), Tag("added"), AddedKinds(group)
    ]
    tagged = [Annotated[section, Tag(kind)] for section, kind in zip(sections, own, strict=True)]
    if not names:
        return Annotated[Union[*tagged, added], Discriminator(kind_of)]
    alone = Annotated[str, Tag("name")]
    return Annotated[Union[*tagged, added, alone], Discriminator(kind_of), BeforeValidator(known)]


def or_added(section: type[Section], *, group: str) -> Any:
    """The type of a setting that is this section, whichever of its kinds, or the `settings` of a
    row that another package adds to the table of this group."""

    def validated(value: Any, own: ValidatorFunctionWrapHandler) -> Any:
        kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
        rows = added_settings(group)
        if not isinstance(kind, str) or kind not in rows:
            return own(value)
        return value if isinstance(value, Section) else rows[kind].model_validate(value)

    own_or_added: Any = Annotated[
        section, SerializeAsAny(), WrapValidator(validated), AddedKinds(group)
    ]
    return own_or_added


KIND_LEFT_OUT = {"base": "local"}
"""Settings that need not say their kind → the kind that is meant then."""


def laid_over(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the changes in them, at every depth; one of another `kind` takes the whole
    place of what was there."""

    def both(name: str, change: Any) -> bool:
        setting = settings.get(name)
        if not isinstance(setting, Mapping) or not isinstance(change, Mapping):
            return False
        own = setting.get("kind", KIND_LEFT_OUT.get(name, change.get("kind")))
        return "kind" not in change or own == change["kind"]

    return dict(settings) | {
        name: laid_over(settings[name], change) if both(name, change) else change
        for name, change in changes.items()
    }


def mistake(error: Mapping[str, Any], settings: type[Section]) -> str:
    """One line of a message for one of pydantic's errors about settings of this class."""
    key, section = _place(settings, error["loc"])
    if error["type"] == "extra_forbidden":
        return f"  {key}: is not a setting; see {section.__module__} for those that are"
    if error["type"] == "union_tag_not_found":
        return f"  {key}: needs `kind`, which says what the other settings mean"
    if error["type"] == "union_tag_invalid":
        own = error["ctx"]["expected_tags"].replace("'", "").removesuffix(", added").split(", ")
        return f"  {key}: kind must be {' or '.join(own)}, but is {_brief(error['ctx']['tag'])}"
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    if error["type"] == PRIVATE:
        return f"  {key}: {message}"
    if isinstance(given, Mapping | BaseModel) and error["type"] in ("missing", "value_error"):
        return f"  {key}: {message}"  # about several settings, or one that did not come
    return f"  {key}: {message} (came: {_brief(given)})"


def first_mistakes(
    error: ValidationError, line: Callable[[Mapping[str, Any]], str]
) -> tuple[int, list[str]]:
    """How many mistakes there are, and a line for each of the first MOST_MISTAKES; the last one
    says how many more."""
    mistakes = error.errors(include_url=False)
    lines = [line(mistake) for mistake in mistakes[:MOST_MISTAKES]]
    more = len(mistakes) - len(lines)
    return len(mistakes), [*lines, *([f"  and {more:,} more"] if more else [])]


def _brief(given: Any) -> str:
    if isinstance(given, Mapping):
        return f"a mapping of the kind {_brief(given['kind'])}" if "kind" in given else "a mapping"
    if isinstance(given, list | tuple):
        return "a list"
    return without_logins(quoted(given))


def _place(settings: type[Section], key: Sequence[str | int]) -> tuple[str, type[Section]]:
    """A mistake's key as it stands in YAML, and the section that its last part was given for, as
    far as the classes tell."""
    sections, names, section = [settings], [], settings
    for part in key:
        section = sections[0]
        fields = [s.model_fields[part] for s in sections if part in s.model_fields]
        below = [section for field in fields for section in _sections([field.annotation])]
        below = below or [section for field in fields for section in _sections(field.metadata)]
        # A part that is no field's name says where in a list, or which of several kinds.
        named = [s for s in sections if part in (s.__name__, _kind(s))]
        if fields or not named:
            names.append(part if part in section.model_fields else place([part]))
        sections = below or named or sections
    whole = "file" if "config" in settings.model_fields else "config"
    return ".".join(names) or whole, section


def _sections(types: Sequence[Any]) -> Iterator[type[Section]]:
    """All sections in these annotations, inside of unions and lists, too."""
    for annotation in types:
        if isinstance(annotation, AddedKinds):
            yield from added_settings(annotation.group).values()
        elif isinstance(annotation, type) and issubclass(annotation, Section):
            yield annotation
        else:
            yield from _sections(get_args(annotation))


def _kind(section: type[Section]) -> Any:
    field = section.model_fields.get("kind")
    return field and field.default


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def require_kind(value: Any, kind: type[Model], *, maker: str) -> Model:
    """The settings. Raises ConfigError unless they are of this class, which `maker` makes."""
    if not isinstance(value, kind):
        came = f"a {type(value).__name__}" if isinstance(value, BaseModel) else quoted(value)
        raise ConfigError(
            f"Settings of the class {kind.__name__} must come, but {came} came. {maker}"
        )
    return value
