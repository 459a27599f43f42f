"""Passwords in addresses: whatever setting holds one, nothing that is written shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from attacks import Attack
from scripted import Script, fails, serving
from test_places import all_sections, strings

from selma.applications import APPLICATIONS
from selma.applications.loading import imported
from selma.config import RunConfig, parse_config
from selma.config.places import Address, field_types
from selma.config.section import Section
from selma.errors import ConfigError
from selma.runfile import portable
from selma.screen import shown
from selma.texts import without_logins

MARKS = ("pw-4711-private", "sk-0815-private", "frag-1234-private")
URL = f"http://127.0.0.1:9/v1?key={MARKS[1]}#{MARKS[2]}".replace("//", f"//me:{MARKS[0]}@")


def bare(text: str) -> bool:
    return not any(mark in text for mark in MARKS)


def test_every_address_is_bare_in_json_and_where_settings_are_shown(attack: Attack) -> None:
    """Found by the settings' types, those of all applications among them."""
    planted = 0
    for section in all_sections():
        names = [
            name
            for name in section.model_fields
            for type_ in strings(field_types(section, name))
            if any(isinstance(note, Address) for note in type_.notes)
        ]
        values = section.model_construct(**dict.fromkeys(names, URL))
        planted += len(names)
        attack.injects("secrets: a setting", len(names))
        if names:
            assert bare(values.model_dump_json(warnings=False))
            assert bare(repr(values)) and bare(str(values))
            assert not bare(str(values.model_dump(warnings=False))), "the run itself needs it"
        attack.held("secrets: a setting", len(names))
    assert planted >= 2


def planted(section: Section) -> Section:
    """The section with the address in each setting that may be text, at every depth."""
    changes: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        types = field_types(type(section), name)
        if isinstance(value, Section):
            changes[name] = planted(value)
        elif any(type_.origin is str for type_ in types):
            changes[name] = URL
        elif any(str in get_args(type_.origin) for type_ in types):
            is_mapping = any(type_.origin is dict or "dict" in str(type_.origin) for type_ in types)
            changes[name] = {"a": URL} if is_mapping else (URL, URL)
    return section.model_copy(update=changes)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_no_setting_of_any_kind_brings_a_password_into_run_json(
    tmp_path: Path, attack: Attack
) -> None:
    kinds = [RunConfig, *(imported(row.settings) for row in APPLICATIONS.values() if row.settings)]
    for kind in kinds:
        config = planted(kind(name="x", folder=tmp_path) if issubclass(kind, RunConfig) else kind())
        count = str(config.model_dump()).count(MARKS[0])
        assert count
        attack.injects("secrets: a text of a run's settings", count)
        assert bare(repr(config))
        if isinstance(config, RunConfig):
            assert bare(json.dumps(portable(config, tmp_path)))
        attack.held("secrets: a text of a run's settings", count)


MISTAKES: list[dict[str, Any]] = [
    {"base": {"model": [URL]}},
    {"base": {"model": URL, "config": URL}},
    {"base": {"device": URL}},
    {"base": URL},
    {"seed": URL},
    {URL: 1},
    {"base": {URL: 1}},
    {"prompts": {"backend": {"kind": URL}}},
    {"prompts": {"backend": URL}},
    {"prompts": {"backend": {"kind": "openai", "model": "m", "base_url": {URL: URL}}}},
    {"prompts": {"backend": {"kind": "openai", "model": "m", "timeout_s": URL}}},
    {"prompts": {"backend": {"kind": "openai", "model": "m", "key_variable": MARKS[1]}}},
    {"scores": {"judge": URL}},
    {"images": {"steps": URL}},
    {"name": URL},
]


@pytest.mark.parametrize("raw", MISTAKES, ids=range(len(MISTAKES)))
def test_no_mistake_shows_a_password(raw: dict[str, Any], tmp_path: Path, attack: Attack) -> None:
    with attack("secrets: a mistake in settings"):
        with pytest.raises(ConfigError) as mistake:
            parse_config({"name": "x"} | raw, RunConfig, origin=tmp_path / "x", folder=tmp_path)
        assert bare(shown(str(mistake.value)))


def test_a_run_that_fails_shows_no_password_anywhere(tmp_path: Path, attack: Attack) -> None:
    """The command as a process of its own: what it prints, and all files that it leaves."""
    attack.injects("secrets: an address whose server fails")
    with serving(Script(fails(401, message=f"no: {URL}"))) as script:
        address = URL.replace("127.0.0.1:9/v1", script.url.removeprefix("http://"))
        backend = {"kind": "openai", "model": "m", "base_url": address}
        config = {
            "folder": str(tmp_path / "run"),
            "prompts": {"backend": backend, "per_skill": 3, "skills": ["countbench"]},
            "experts": {"precision": "fp32"},
        }
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(config))
        done = subprocess.run(
            [sys.executable, "-m", "selma", "run", path],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert script.asked, done.stderr
    assert done.returncode == 4 and "refused the request for good" in done.stderr
    assert bare(done.stdout) and bare(done.stderr)
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert {"run.json", "journal.jsonl"} <= {file.name for file in files}
    assert all(mark.encode() not in file.read_bytes() for file in files for mark in MARKS)
    attack.held("secrets: an address whose server fails")


def test_a_traceback_of_another_error_shows_no_password_and_steers_no_terminal() -> None:
    program = (
        "import sys\nfrom selma.screen import show_traceback\nsys.excepthook = show_traceback\n"
        f"raise RuntimeError('cannot reach {URL} \\x1b[2J')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "RuntimeError: cannot reach http://...@127.0.0.1:9/v1?... \\x1b[2J" in done.stderr
    assert bare(done.stderr) and "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (URL, "http://...@127.0.0.1:9/v1?..."),
        (f"see {URL}", "see http://...@127.0.0.1:9/v1?..."),
        (f"'{URL}' and", "'http://...@127.0.0.1:9/v1?... and"),
        (f"({URL.split('?')[0]})", "(http://...@127.0.0.1:9/v1)"),
        ("http://me:p'w@h/x http://me:p/w@h/x", "http://...@h/x http://...@h/x"),
        ("http://host:80/@me http://host/x@y", "http://host:80/@me http://host/x@y"),
        ("runs/http:/me:pw@h/x", "runs/http:/...@h/x"),
        ("https://a@b@c/x", "https://...@c/x"),
        ("s3://key:value@bucket/x", "s3://...@bucket/x"),
        ("https://host/a/b and me@host", "https://host/a/b and me@host"),
        ("what? http is // a @ b", "what? http is // a @ b"),
    ],
)
def test_addresses_in_sentences(text: str, hidden: str) -> None:
    assert without_logins(text) == hidden
    assert without_logins(hidden) == hidden


def test_many_addresses_take_no_time() -> None:
    for text in ("http://" * 100_000, "http://" + "a" * 10**6, "a://" + "@" * 10**6, "a" * 10**6):
        assert len(without_logins(text)) <= len(text) + 10
