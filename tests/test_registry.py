"""Tables of kinds, and rows that other packages add."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from itertools import count
from typing import Any, Literal, get_args

import pytest
from pydantic import ValidationError

from selma import registry
from selma.adapters.table import ADAPTERS
from selma.backbones.judges.loading import JUDGES
from selma.backbones.language.loading import LANGUAGE_MODELS
from selma.backbones.preference.scorers import SCORERS
from selma.config.experts import ExpertsConfig
from selma.config.places import field_types
from selma.config.prompts import PromptsConfig
from selma.config.scores import JUDGES_WITHOUT_SETTINGS, PreferenceConfig, ScoresConfig
from selma.config.section import Section, kinds
from selma.errors import ConfigError
from selma.experts.objectives import OBJECTIVES
from selma.registry import Table, registered

GROUP = "selma.test_rows"


@dataclass(frozen=True)
class Row:
    name: str
    settings: Any = None


def table() -> Table[Row]:
    return Table("kind of thing", GROUP, [Row("a"), Row("b")])


def test_rows_are_found_by_name_in_their_order() -> None:
    assert list(table()) == ["a", "b"] and table()["b"].name == "b" and len(table()) == 2
    with pytest.raises(KeyError):
        table()["c"]
    with pytest.raises(ConfigError, match=r"x\.kind: must be a kind of thing \(a, b\), but 'c'"):
        table().find("c", setting="x.kind")


def test_a_row_from_outside_is_there_while_it_is_registered() -> None:
    with registered(GROUP, Row("c")):
        assert list(table()) == ["a", "b", "c"] and table().find("c", setting="x").name == "c"
        with pytest.raises(ValueError, match="two rows"), registered(GROUP, Row("c")):
            pass
    assert "c" not in table()


def test_two_rows_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows"):
        Table("thing", GROUP, [Row("a"), Row("a")])


def fails() -> Any:
    raise RuntimeError("it is Monday")


@dataclass(frozen=True)
class Point:
    """An entry point."""

    name: str
    load: Callable[[], Any]
    value: str = "package:ROW"


Fill = Callable[..., str]
numbers = count()


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Fills a group of its own with entry points, name → what it gives; the group's name."""

    def filled(*points: tuple[str, Callable[[], Any]]) -> str:
        filled_group = f"selma.test_points_{next(numbers)}"

        def given(group: str) -> Any:
            mine = [Point(*point) for point in points]
            return mine if group == filled_group else entry_points(group=group)

        monkeypatch.setattr(registry, "entry_points", given)
        return filled_group

    return filled


def test_entry_points_give_rows_or_several(fill: Fill) -> None:
    group = fill(("one", lambda: Row("c")), ("more", lambda: (Row("d"), Row("e"))))
    rows = Table("thing", group, [Row("a")])
    assert list(rows) == ["a", "c", "d", "e"] and rows["d"] == Row("d")


NO_ROWS: dict[str, tuple[Callable[[], Any], str]] = {
    "a module that fails": (fails, "it cannot be loaded: RuntimeError: it is Monday"),
    "a number": (lambda: 3, "it must be rows, each with a name, but has 3"),
    "a word": (lambda: "row", "it must be rows, each with a name, but has 'r'"),
    "a section": (
        lambda: First,
        "it must be rows, each with a name, but has <class 'test_registry.First'>",
    ),
    "a row and none": (
        lambda: [Row("c"), None],
        "it must be rows, each with a name, but has None",
    ),
    "a name that is none": (
        lambda: Row(3),  # type: ignore[arg-type]
        "it must be rows, each with a name, but has Row(name=3, settings=None)",
    ),
    "a row of another table": (
        lambda: registry.Table("x", "y", [Other("c")])["c"],
        "it must be a Row, but is a Other",
    ),
    "a name of ours": (lambda: Row("a", First), "selma itself has a thing named 'a'"),
}


@dataclass(frozen=True)
class Other:
    name: str


@pytest.mark.parametrize("case", NO_ROWS)
def test_an_entry_point_that_is_no_row_is_left_out_and_said_once(
    case: str, fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    load, why = NO_ROWS[case]
    group = fill(("bad", load), ("good", lambda: Row("g")))
    rows = Table("thing", group, [Row("a"), Row("b")])
    said = (
        f"The entry point 'bad' of {group} (package:ROW) is left out: {why}. "
        "Mend or remove the package that declares it."
    )
    for _ in range(2):
        assert list(rows) == ["a", "b", "g"] and rows["a"] == Row("a") and rows["g"] == Row("g")
    assert capsys.readouterr().err == f"Warning: {said}\n"
    for name in ("bad", "c"):
        with pytest.raises(ConfigError) as raised:
            rows.find(name, setting="x.kind")
        assert str(raised.value) == f"x.kind: must be a thing (a, b, g), but {name!r} came. {said}"
        with pytest.raises(ConfigError) as raised:
            rows[name]
        assert str(raised.value) == f"must be a thing (a, b, g), but {name!r} came. {said}"
    assert capsys.readouterr().err == ""


def test_of_two_entry_points_with_one_name_neither_counts(
    fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    group = fill(("one", lambda: [Row("c"), Row("d")]), ("two", lambda: Row("c")))
    rows = Table("thing", group, [Row("a")])
    said = (
        f"The entry point 'two' of {group} (package:ROW) is left out: the entry point 'one' of "
        f"{group} (package:ROW) has a row 'c' as well, so that neither counts. "
        "Mend or remove the package that declares it."
    )
    assert list(rows) == ["a", "d"]
    assert capsys.readouterr().err == f"Warning: {said}\n"
    with pytest.raises(ConfigError) as raised:
        rows.find("c", setting="kind")
    assert str(raised.value) == f"kind: must be a thing (a, d), but 'c' came. {said}"


def test_of_many_processes_the_main_one_says_it(
    fill: Fill, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group = fill(("bad", fails))
    monkeypatch.setattr(registry, "launched", lambda: (1, 2))
    assert list(Table("thing", group, [Row("a")])) == ["a"]
    assert capsys.readouterr().err == ""


def test_rows_of_other_packages_are_guarded_and_ours_are_not(
    fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Table("thing", fill(("bad", lambda: Row("c"))), [Row("a")])
    with rows.guarded("c"):
        fails()
    assert list(rows) == ["a"]
    assert "'bad'" in (said := capsys.readouterr().err) and "RuntimeError: it is Monday" in said
    with pytest.raises(RuntimeError), rows.guarded("a"):
        fails()


@pytest.mark.parametrize("names", [(), ("word",)])
def test_a_setting_of_a_kind_that_is_left_out_says_why(names: tuple[str, ...], fill: Fill) -> None:
    group = fill(("bad", fails), ("good", lambda: Row("outside", Outside)))

    class Part(Section):
        part: kinds(First, Second, group=group, names=names)  # type: ignore[valid-type]

    assert Part.model_validate({"part": {"kind": "outside"}}).part == Outside()
    assert Part.model_validate({"part": {"kind": "second"}}).part == Second()
    with pytest.raises(ValidationError, match=r"'bad' of .* is left out: .* it is Monday"):
        Part.model_validate({"part": {"kind": "missing"}})


class First(Section):
    kind: Literal["first"] = "first"
    size: int = 1


class Second(Section):
    kind: Literal["second"] = "second"


class Outside(Section):
    kind: Literal["outside"] = "outside"
    share: float = 0.5


class Whole(Section):
    part: kinds(First, Second, group=GROUP) = First()  # type: ignore[valid-type]


def test_a_setting_takes_the_section_of_its_kind() -> None:
    assert Whole.model_validate({"part": {"kind": "second"}}).part == Second()
    assert Whole(part=First(size=3)).part.size == 3
    for wrong in ({"kind": "outside"}, {}, {"kind": "first", "size": "x"}, "first"):
        with pytest.raises(ValidationError):
            Whole.model_validate({"part": wrong})


def test_a_setting_takes_a_section_from_outside_and_writes_it_whole() -> None:
    with registered(GROUP, Row("outside", Outside)):
        whole = Whole.model_validate({"part": {"kind": "outside", "share": 0.25}})
        assert whole.part == Outside(share=0.25)
        assert whole.model_dump(mode="json") == {"part": {"kind": "outside", "share": 0.25}}
        assert Whole.model_validate_json(whole.model_dump_json()) == whole
        with pytest.raises(ValidationError):
            Whole.model_validate({"part": {"kind": "outside", "share": "much"}})


def kinds_of(section: type[Section], name: str) -> set[str]:
    """The kinds that a setting takes, those of other packages aside."""
    origins = [type_.origin for type_ in field_types(section, name)]
    sections = [
        o for o in origins if isinstance(o, type) and "kind" in getattr(o, "model_fields", {})
    ]
    return {kind for s in sections for kind in get_args(s.model_fields["kind"].annotation)}


def test_settings_take_the_kinds_that_the_tables_have() -> None:
    assert kinds_of(PromptsConfig, "backend") == {*LANGUAGE_MODELS}
    assert kinds_of(ExpertsConfig, "objective") == {*OBJECTIVES}
    # Subjects alone are fine-tuned in full; a SUR-adapter is no expert, a mixture is made of them.
    assert kinds_of(ExpertsConfig, "adapter") == {*ADAPTERS} - {"full", "sur", "mixture"}
    for name in ("judge", "choosing_judge"):
        assert kinds_of(ScoresConfig, name) | {*JUDGES_WITHOUT_SETTINGS} == {*JUDGES}
    assert {*get_args(PreferenceConfig.model_fields["kind"].annotation)} == {*SCORERS}
