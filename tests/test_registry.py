"""Tables of kinds, and rows that other packages add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import pytest
from pydantic import ValidationError

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
    # Subjects alone are fine-tuned in full, and a SUR-adapter is no expert.
    assert kinds_of(ExpertsConfig, "adapter") == {*ADAPTERS} - {"full", "sur"}
    for name in ("judge", "choosing_judge"):
        assert kinds_of(ScoresConfig, name) | {*JUDGES_WITHOUT_SETTINGS} == {*JUDGES}
    assert {*get_args(PreferenceConfig.model_fields["kind"].annotation)} == {*SCORERS}
