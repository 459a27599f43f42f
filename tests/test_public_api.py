"""Every function that a user may call takes paths as text as well as `Path`."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Union, get_args, get_origin

import pytest
from public import public_functions
from pydantic import BaseModel

import selma
from selma import pipeline
from selma.adapters.applying import chosen
from selma.adapters.table import kind_of
from selma.applications.angles.experiment import run_angles
from selma.applications.evaluation.dsg import PRESETS
from selma.applications.evaluation.images import judge_from, score_images
from selma.applications.publishing.pushing import push
from selma.applications.questions.settings import backend_of, questions_config
from selma.applications.study.database import study_file
from selma.backbones.judges.matching import load_matcher
from selma.errors import ConfigError, DataError, SelmaError
from selma.paths import as_paths
from selma.scores.benchmarks.layouts import in_folder
from selma.scores.hps import version_kind

FUNCTIONS = public_functions()


def repr_of(value: Any) -> str:
    return value if isinstance(value, str) else type(value).__name__


def leaves(hint: Any) -> Iterator[Any]:
    """The members of a union, at every depth, and what sequences are of."""
    if get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            yield from leaves(member)
    elif get_args(hint) and isinstance(get_origin(hint), type):
        yield get_origin(hint)
        for argument in get_args(hint):
            yield from leaves(argument)
    else:
        yield hint


def path_parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters that take a path, by their annotations."""
    hints = {
        name: evaluated(function, str(parameter.annotation))
        for name, parameter in inspect.signature(function).parameters.items()
    }
    return {
        name: hint
        for name, hint in hints.items()
        if any("Path" in getattr(leaf, "__name__", "") for leaf in leaves(hint))
    }


def evaluated(function: Callable[..., Any], annotation: str) -> Any:
    """The type that an annotation names; None if its module imports it for type checkers alone,
    which none may do with a path."""
    try:
        return eval(annotation, function.__globals__)
    except NameError:
        assert "Path" not in annotation, f"{function.__name__}: {annotation}"
        return None


TAKING_PATHS = {name: f for name, f in FUNCTIONS.items() if path_parameters(f)}


def test_the_walk_finds_what_is_public() -> None:
    for name in ("load_config", "generate", "convert", "merge_files", "check_config"):
        assert f"selma.{name}" in TAKING_PATHS
    for name in ("adapters.table.kind_of", "adapters.converting.convert", "scores.tifa.read_tifa"):
        assert f"selma.{name}" in TAKING_PATHS
    assert len(TAKING_PATHS) > 30


@pytest.mark.parametrize("name", TAKING_PATHS)
def test_a_parameter_that_takes_a_path_takes_text(name: str) -> None:
    for parameter, hint in path_parameters(TAKING_PATHS[name]).items():
        assert str in leaves(hint), f"{name}: {parameter} is {hint}"


class Anything(SimpleNamespace):
    """Stands for an argument that is no path: never looked at before the path is."""


# What a call needs beside its paths to come as far as them.
BESIDE: dict[str, Any] = {"to": "diffusers", "text": "a cat", "weight": 0.5, "images": []}
OF: dict[str, dict[str, Any]] = {
    "fetch": {"benchmark": SimpleNamespace(name="none", files=())},
    "verify": {"benchmark": SimpleNamespace(name="none", files=())},
    "convert_weights": {"kind": "clip"},
    "run_angles": {"source": "nowhere"},
    "serve_study": {"port": 0},
    "write_json": {"value": {"a": 1}},
    "save_images": {"count": 0},
    "image_paths": {"count": 2},
    "score_images": {"rules": PRESETS["default"]},
    "score_dsg": {"rules": PRESETS["default"]},
    "dsg_agreement": {"rules": PRESETS["default"]},
    "fuse": {"base": "toybox"},
    "push": {"repository": "owner/name"},
    "study_file": {"name": "votes"},
    "benchmark_over_limit": {"seeds": 1},
    "score_hps": {"prompts": {"anime": ["a cat"]}},
    "write_questions": {"config": questions_config(style="dsg")},
    "merge_files": {"config": selma.merged_config({"method": "mean_of_deltas"})},
}


def outcome(name: str, make: Callable[[str], Any]) -> Any:
    """What comes of a call whose paths are all to files that are not there."""
    function = TAKING_PATHS[name]
    own, paths = OF.get(function.__name__, {}), path_parameters(function)
    arguments = {}
    for parameter, about in inspect.signature(function).parameters.items():
        if parameter in paths:
            arguments[parameter] = make(f"nowhere/at/{parameter}.png")
        elif parameter in own:
            arguments[parameter] = own[parameter]
        elif about.default is inspect.Parameter.empty and about.kind is not about.VAR_KEYWORD:
            arguments[parameter] = BESIDE.get(parameter, Anything())
    try:
        result = function(**arguments)
        return list(result) if isinstance(result, Iterator) else result
    except SelmaError as error:
        return type(error), str(error)
    except Exception as error:  # of what stands for an argument
        return type(error), str(error)


@pytest.mark.parametrize("name", TAKING_PATHS)
def test_text_and_path_come_to_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for number, make in enumerate((Path, str)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        outcomes.append(str(outcome(name, make)).replace(str(folder), ""))
    assert outcomes[1] == outcomes[0]
    assert "'str' object" not in outcomes[1]


def test_one_path_is_not_its_letters() -> None:
    assert as_paths("a.safetensors") == as_paths(Path("a.safetensors")) == [Path("a.safetensors")]
    assert as_paths(["a", Path("b")]) == [Path("a"), Path("b")]
    assert as_paths(()) == []


TIES = selma.merged_config({"method": "ties"})
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a run of a path": (
        lambda: selma.run("configs/x.yaml"),  # type: ignore[arg-type]
        "Settings of the class RunConfig must come, but 'configs/x.yaml' came. Read a YAML file "
        "with selma.load_config(PATH).",
    ),
    "a run of nothing": (lambda: selma.run(None), "but None came"),  # type: ignore[arg-type]
    "a stage of a path": (
        lambda: pipeline.prompts(Path("x.yaml")),  # type: ignore[arg-type]
        "Settings of the class RunConfig must come",
    ),
    "scores of a path": (
        lambda: pipeline.scorecard("x.yaml"),  # type: ignore[arg-type]
        "Settings of the class RunConfig must come",
    ),
    "a merge's name": (
        lambda: selma.merged_config("ties"),  # type: ignore[arg-type]
        "must be a mapping, as {'method': 'ties'}, but 'ties' came.",
    ),
    "a merge by a mapping": (
        lambda: selma.merge_files(["a", "b"], {"method": "ties"}, "c"),  # type: ignore[arg-type]
        "but {'method': 'ties'} came: selma.merged_config({'method': 'ties'}) makes them.",
    ),
    "one weight": (
        lambda: selma.merge_files(["a"], TIES, "c", weights=0.5),  # type: ignore[arg-type]
        "weights must be a list of numbers, but 0.5 came.",
    ),
    "weights as text": (
        lambda: selma.merge_files(["a", "b"], TIES, "c", weights=["1", "2"]),  # type: ignore[list-item]
        "weights must be a list of numbers, but ['1', '2'] came.",
    ),
    "weights without an end": (
        lambda: selma.merge_files(["a"], TIES, "c", weights=[float("inf")]),
        "weights must be finite, but [inf] came.",
    ),
    "no file": (lambda: selma.load_config("toybox"), "toybox cannot be read: there is no such"),
    "a folder": (
        lambda: selma.check_config("."),
        ". must be a YAML file of settings, but is a folder.",
    ),
}
WRONG |= {
    f"{value!r} as {name}": (call, f"A path must be text or a Path, but {value!r} came.")
    for value in (None, 5, ["a"])
    for name, call in {
        "a config": partial(selma.load_config, value),
        "a config to check": partial(selma.check_config, value),
        "a source": partial(selma.convert, value, "b", to="peft"),
        "a target": partial(selma.convert, "a", value, to="peft"),
        "a merge's target": partial(selma.merge_files, ["a"], TIES, value),
        "files to merge": partial(selma.merge_files, [value], TIES, "c"),
        "a file to resize": partial(selma.resize, value, "c", rank=1),
        "a resized file": partial(selma.resize, "a", value, rank=1),
        "a base of a merge": partial(selma.merge_files, ["a"], TIES, "c", base=value),
    }.items()
    if (value, name) != (None, "a base of a merge")
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_fails_at_the_call(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, says = WRONG[case]
    with pytest.raises(ConfigError) as refused:
        call()
    assert says in str(refused.value)
    assert not list(tmp_path.iterdir())


def settings_parameters(function: Callable[..., Any]) -> list[str]:
    """The parameters that take settings or rules of one class, which a call must have."""
    return [
        name
        for name, about in inspect.signature(function).parameters.items()
        if about.default is about.empty
        and isinstance(kind := evaluated(function, str(about.annotation)), type)
        and issubclass(kind, BaseModel)
        and kind.__module__.startswith(("selma.config", "selma.applications"))
        and not isinstance(RUN, kind)
        and name in ("config", "base", "rules", "scorer")
    ]


RUN = selma.RunConfig(name="none", folder=Path("nowhere"))
TAKING_SETTINGS = {name: f for name, f in FUNCTIONS.items() if settings_parameters(f)}


def test_the_walk_finds_what_takes_settings() -> None:
    for application in ("control", "subjects", "sur"):
        for command in ("train", "generate", "score"):
            assert f"selma.applications.{application}.pipeline.{command}" in TAKING_SETTINGS
    for name in ("applications.sur.ablation.ablate", "applications.questions.writing."):
        assert any(name in taking for taking in TAKING_SETTINGS)
    assert len(TAKING_SETTINGS) >= 20


@pytest.mark.parametrize("value", ["x.yaml", Path("x.yaml"), None, 5, {}, RUN], ids=repr_of)
@pytest.mark.parametrize("name", TAKING_SETTINGS)
def test_settings_of_another_class_are_refused(
    name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function = TAKING_SETTINGS[name]
    for parameter in settings_parameters(function):
        arguments = {
            other: BESIDE.get(other, f"nowhere/{other}.csv")
            for other, about in inspect.signature(function).parameters.items()
            if about.default is about.empty
        }
        with pytest.raises(
            ConfigError, match=r"ettings of the class \w+(?: must come)?, but .* came"
        ):
            function(**(arguments | {parameter: value}))
    assert not list(tmp_path.iterdir())


WRONG_TEXTS: dict[str, Callable[[Any], Any]] = {
    "a judge": judge_from,
    "a language model": backend_of,
    "a matcher": load_matcher,
    "a source of angles": lambda value: run_angles(value, "out"),
    "a benchmark": lambda value: score_images("images", benchmark=value, rules=PRESETS["default"]),
    "a version of HPS": version_kind,
    "a study": lambda value: study_file("run", value),
    "a repository": lambda value: push("run", value),
    "a benchmark's images": lambda value: pipeline.benchmark_over_limit(value, seeds=1),
    "an adapter": kind_of,
    "strengths": lambda value: chosen(["a"], value),
    "a benchmark's folder": lambda value: in_folder(value, "a.csv"),
}


@pytest.mark.parametrize("value", [5, RUN, {"a": 1}], ids=repr_of)
@pytest.mark.parametrize("what", WRONG_TEXTS)
def test_a_name_that_is_no_text_is_refused(
    what: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DataError), match=r"came|is 5|is \{|is RunConfig"):
        WRONG_TEXTS[what](value)
    assert not list(tmp_path.iterdir())
