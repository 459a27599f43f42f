"""A run's studies as its report takes them: those with votes, and whether they are still true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from applications.study.little import little_study

from selma.applications.study.database import study_file
from selma.applications.study.results import run_studies
from selma.applications.study.store import Store
from selma.errors import DataError


def test_only_votes_make_a_study_and_new_pictures_make_it_old(tmp_path: Path) -> None:
    assert run_studies(tmp_path) == {}
    study = little_study(tmp_path, prompts=4)
    store = Store(study_file(tmp_path, "votes"), study)
    secret = store.join("Ada").secret
    assert run_studies(tmp_path) == {}
    for step in range(3):
        store.vote(secret, step, "left", seconds=1.0)
    found = run_studies(tmp_path)  # while the study is served
    store.close()
    assert list(found) == ["votes"] and found["votes"].current
    assert found["votes"].summary.votes == 3 and found["votes"].summary.unfinished == ("Ada",)
    names = [name for name, _ in found["votes"].rows]
    assert names[0] == "All" and set(names[1:]) == {pair.group for pair in study.pairs}
    whole, *parts = (row for _, row in found["votes"].rows)
    assert sum(p.win for p in parts) == whole.win and whole.win + whole.lose == 3

    manifest = tmp_path / "5-scores" / "images" / "quagga" / "manifest.json"
    value = json.loads(manifest.read_text())
    value["files"][f"{study.pairs[0].id}.png"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(value))
    assert not run_studies(tmp_path)["votes"].current


def test_what_is_no_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "votes.sqlite").write_text("no study")
    with pytest.raises(DataError, match=r"votes\.sqlite"):
        run_studies(tmp_path)
