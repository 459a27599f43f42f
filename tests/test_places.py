"""What settings name (files, models, servers, keys) is said at the field, and one walk finds it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import ValidationError

from selma.applications import APPLICATIONS
from selma.applications.comparisons.settings import Comparison
from selma.applications.loading import imported, load_config, read_run_file
from selma.applications.questions.settings import QuestionsConfig
from selma.applications.subjects.settings import SubjectsRun
from selma.applications.sur.preflight import mistakes as sur_mistakes
from selma.applications.sur.settings import SurRun
from selma.config import RunConfig, parse_config
from selma.config.places import (
    AddedKinds,
    FilePath,
    LaidOver,
    ModelPath,
    Place,
    ServerUrl,
    Type,
    added_settings,
    bare_address,
    field_types,
    map_paths,
    placed,
    types_of,
    without_secrets,
)
from selma.config.section import MOST, MOST_OF_REALS, Section, laid_over
from selma.errors import ConfigError, SelmaError
from selma.merged.methods import METHODS
from selma.preflight import absent, check
from selma.registry import registered
from selma.runfile import portable, write_run_file
from selma.status import statuses
from selma.workspace import STAGES, Workspace

TELLING = ("folder", "file", "model", "url", "path", "dump", "weights", "tokenizer")
OUTSIDE = "http://me:secret@host/v1?key=sk-4711#sk-4711"


def all_sections() -> set[type[Section]]:
    """Every class of settings: a run's, all applications', and rows of other packages."""
    waiting = [RunConfig, QuestionsConfig]
    waiting += [imported(row.settings) for row in APPLICATIONS.values() if row.settings is not None]
    seen: set[type[Section]] = set()
    while waiting:
        section = waiting.pop()
        if section not in seen:
            seen.add(section)
            for name in section.model_fields:
                waiting += inner_sections(field_types(section, name))
    return seen


def inner_sections(types: list[Type]) -> Iterator[type[Section]]:
    for origin, notes in types:
        if isinstance(origin, type) and issubclass(origin, Section):
            yield origin
        for note in notes:
            if isinstance(note, LaidOver):
                yield note.section()
            if isinstance(note, AddedKinds):
                yield from added_settings(note.group).values()
        for argument in getattr(origin, "__args__", ()):
            yield from inner_sections(list(types_of(argument)))


def strings(types: list[Type]) -> Iterator[Type]:
    """The types that are text, in tuples and mappings too."""
    for type_ in types:
        if type_.origin is str:
            yield type_
        # A mapping's names are the user's own, as the skills in merged.weights.
        for argument in getattr(type_.origin, "__args__", ())[get_origin(type_.origin) is dict :]:
            yield from strings(list(types_of(argument)))


def untyped() -> list[str]:
    return [
        f"{section.__name__}.{name}"
        for section in all_sections()
        for name in section.model_fields
        if any(word in name for word in TELLING)
        for type_ in strings(field_types(section, name))
        if not any(isinstance(note, Place) for note in type_.notes)
    ]


def numbers(types: list[Type], around: tuple[Any, ...] = ()) -> Iterator[tuple[type, list[Any]]]:
    """Each type that is a number, and what of tuples and mappings it stands in."""
    for type_ in types:
        if type_.origin in (int, float):
            yield type_.origin, [*around]
        if (outer := get_origin(type_.origin)) in (tuple, dict):
            for argument in get_args(type_.origin):
                yield from numbers(list(types_of(argument)), (*around, outer))


def test_every_number_ends_somewhere() -> None:
    """By its own bound, or that of all; found by the settings' types."""
    count = 0
    sections = {*all_sections(), Comparison, *(row.settings for row in METHODS.values())}
    for section in sections:
        for name in section.model_fields:
            for kind, around in numbers(field_types(section, name)):
                value: Any = 10**25 if kind is int else 1e25
                for outer in around[::-1]:
                    value = {"a": value} if outer is dict else (value, value)
                with pytest.raises(ValidationError) as mistakes:
                    section.model_validate({name: value})
                assert name in [each["loc"][0] for each in mistakes.value.errors()], (section, name)
                count += 1
    assert count > 250


def leaves(section: Section, *above: str) -> Iterator[tuple[str, ...]]:
    """Where a section's numbers are, in the sections inside it too."""
    for name in type(section).model_fields:
        if isinstance(inner := getattr(section, name), Section):
            yield from leaves(inner, *above, name)
        elif {int, float} & {kind for kind, _ in numbers(field_types(type(section), name))}:
            yield (*above, name)


def largest(raw: dict[str, Any], where: tuple[str, ...], folder: Path) -> RunConfig | None:
    """The settings with the largest number there that is taken."""
    for value in (MOST, MOST_OF_REALS, 100_000, 16_384, 10_000, 1000, 1):
        change: Any = value
        for name in reversed(where):
            change = {name: change}
        with suppress(ConfigError):
            return parse_config(
                laid_over(raw, change), RunConfig, origin=folder / "a.yaml", folder=folder
            )
    return None


def test_the_largest_numbers_are_checked_and_looked_at_in_no_time(tmp_path: Path) -> None:
    raw = {"name": "x", "scores": {"prompts": 20}}
    slow = []
    for where in leaves(RunConfig(name="x", folder=tmp_path)):
        if (config := largest(raw, where, tmp_path)) is None:
            continue
        started = time.process_time()
        for look in (check, statuses):
            with suppress(SelmaError):
                look(config)
        if time.process_time() - started > 2:
            slow.append(where)
    assert slow == []


def test_every_setting_that_names_a_place_has_such_a_type() -> None:
    assert {SurRun, SubjectsRun, RunConfig} < all_sections() and len(all_sections()) > 50
    assert untyped() == []


class Untold(Section):
    kind: Literal["untold"] = "untold"
    model: ModelPath = "a/b"
    words_file: str = "words.txt"


@dataclass(frozen=True)
class Row:
    name: str
    settings: type[Section]


def test_a_setting_of_another_package_without_such_a_type_is_found() -> None:
    with registered("selma.language_models", Row("untold", Untold)):
        assert untyped() == ["Untold.words_file"]


class Outside(Section):
    kind: Literal["outside"] = "outside"
    model: ModelPath = "a/b"
    words: FilePath = "words.txt"
    address: ServerUrl = OUTSIDE


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of a config, with models in it."""
    for name in ("net", "words"):
        (tmp_path / name).mkdir()
    return tmp_path


def sur(home: Path, **settings: Any) -> SurRun:
    path = home / "some.yaml"
    path.write_text(yaml.safe_dump({"folder": str(home / "runs/some"), "sur": settings}))
    return load_config(path, SurRun)


def written(config: RunConfig) -> str:
    folder = Workspace(config.run_folder)
    folder.root.mkdir(parents=True)
    write_run_file(config, folder)
    return (folder.root / "run.json").read_text()


def test_settings_of_another_package_are_walked(home: Path) -> None:
    path = home / "some.yaml"
    path.write_text("prompts: {backend: {kind: outside, model: net}}")
    with registered("selma.language_models", Row("outside", Outside)):
        config = load_config(path)
        assert config.prompts.backend == Outside(
            model=str(home / "net"), words=str(home / "words.txt")
        )
        text = written(config.model_copy(update={"folder": home / "run"}))
        assert '"http://host/v1"' in text and "secret" not in text and str(home) not in text


def test_a_benchmark_of_another_package_is_no_file(home: Path) -> None:
    path = home / "some.yaml"
    path.write_text("scores: {benchmark: mine}")
    with registered("selma.benchmarks", Row("mine", Outside)):
        assert load_config(path).scores.benchmark == "mine"
    assert load_config(path).scores.benchmark == str(home / "mine")


def test_a_tokenizer_in_a_section_of_an_application_starts_from_the_config(home: Path) -> None:
    features = {"kind": "clip", "model": "net", "tokenizer": "words"}
    config = sur(home, scores={"quality": {"features": features}})
    assert config.sur.scores.quality is not None
    found = config.sur.scores.quality.features
    assert not isinstance(found, str)
    assert (found.model, found.tokenizer) == (str(home / "net"), str(home / "words"))


OWN = {
    "files": {
        "llm": {"file": "v.pt", "backend": {"model": "net"}},
        "data": {
            "source": {"kind": "civitai", "dump": "d.json", "images": "pics"},
            "captioner": {"kind": "llm", "backend": {"kind": "openai", "base_url": OUTSIDE}},
        },
        "scores": {"quality": {"features": {"kind": "clip", "model": "owner/net"}}},
        "training": {"steps": 3},
    },
}


def test_raw_settings_of_a_variant_are_mapped_and_hidden(home: Path) -> None:
    config = sur(home, ablation={"own": OWN})
    own = config.sur.ablation.own["files"]
    assert own["llm"] == {"file": str(home / "v.pt"), "backend": {"model": str(home / "net")}}
    source = {"kind": "civitai", "dump": str(home / "d.json"), "images": str(home / "pics")}
    assert own["data"]["source"] == source
    assert own["scores"] == OWN["files"]["scores"] and own["training"] == {"steps": 3}
    text = written(config)
    assert "secret" not in text and "sk-4711" not in text and str(home) not in text
    back = read_run_file(config.run_folder, SurRun)
    assert Path(back.sur.ablation.own["files"]["llm"]["file"]).resolve() == home / "v.pt"


def test_no_password_of_any_server_is_written(home: Path) -> None:
    captioner = {"kind": "llm", "backend": {"kind": "openai", "model": "m", "base_url": OUTSIDE}}
    config = sur(home, data={"captioner": captioner})
    text = written(config)
    assert "secret" not in text and "sk-4711" not in text and '"http://host/v1"' in text
    # The page shows the same.
    assert "secret" not in json.dumps(portable(config, config.run_folder))
    assert "secret" in str(config.model_dump()), "the run itself needs it"


ADDRESSES = {
    OUTSIDE: "http://host/v1",
    "http://host:8000/v1": "http://host:8000/v1",
    "me:secret@host/v1?key=sk-4711": "host/v1",
    "host:8000/v1": "host:8000/v1",
    "http://me:secret@[host": "",
    "u": "u",
}


@pytest.mark.parametrize(("address", "bare"), ADDRESSES.items(), ids=ADDRESSES.values())
def test_an_address_is_written_without_what_is_private(address: str, bare: str) -> None:
    assert bare_address(address) == bare


@pytest.mark.parametrize("kind", [[1], {"a": 1}, None, "no such kind"])
def test_raw_settings_of_no_kind_are_left_alone(home: Path, kind: object) -> None:
    own = {"odd": {"data": {"source": {"kind": kind, "folder": "pics"}}, "x": [1, "a"]}}
    config = sur(home, ablation={"own": own})
    assert config.sur.ablation.own == own and "pics" in written(config)


def test_all_that_is_missing_is_told_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELMA_NO_KEY", raising=False)
    captioner = {"kind": "openai", "model": "m", "key_variable": "SELMA_NO_KEY"}
    config = sur(
        home,
        data={
            "source": {"kind": "civitai", "dump": "gone.json", "images": "gone"},
            "captioner": {"kind": "llm", "backend": captioner},
        },
        llm={"file": "gone.pt", "backend": {"model": "nowhere"}},
        ablation={"own": {"odd": {"llm": {"file": "odd.pt"}}}},
    )
    with pytest.raises(ConfigError) as caught:
        check(config, mistakes=sur_mistakes(config, STAGES))
    said = str(caught.value)
    for key in ("data.source.dump", "data.source.images", "llm.file", "ablation.own.odd.llm.file"):
        assert f"sur.{key}: must be" in said, key
    assert "sur.data.captioner.backend.key_variable: the environment variable SELMA_NO_KEY" in said
    assert "nowhere" not in said, "with vectors from a file no model is asked"
    assert not list(absent(config.sur, "sur", without=["data", "llm", "ablation"]))


def test_a_walk_that_changes_nothing_gives_the_same_settings() -> None:
    config = SurRun(name="plain")
    assert without_secrets(config) is config
    assert map_paths(config, move=str.upper, is_folder=lambda name: False) is config
    keys = [setting.key for setting in placed(config)]
    assert keys == ["prompts.skills." + str(n) for n in range(5)]
