"""Rows of very many: their digests are those of the records, whoever has worked them out."""

import json
import os
from pathlib import Path

import pytest
import tiny

from selma import manifests
from selma.config import RunConfig
from selma.errors import DataError
from selma.experts.recipes import pairs_digest
from selma.finished_rows import prompts_digest
from selma.images.generating import generate_pairs
from selma.manifests import ROWS, SELF, read_manifest, signed, sizes_only
from selma.pipeline import Stages
from selma.records.finished import FinishedRows
from selma.records.images import over_token_limit
from selma.report.page import shown_pairs
from selma.status import statuses
from selma.workspace import IMAGES, PROMPTS, Workspace

CAPTIONS = ["a cat", "a naïve café 🐈", 'the word "cat"\tin red', "long " * 30, "two dogs"]
PROMPTS_OF_CATS, IMAGES_OF_CATS = "1-prompts/cats", "2-images/cats"


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MANY", 1)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    captions = tmp_path / "captions"
    captions.mkdir()
    (captions / "cats.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in CAPTIONS)
    )
    return RunConfig.model_validate(
        {
            "name": "rows",
            "folder": tmp_path / "run",
            "prompts": {
                "skills": ["cats"],
                "per_skill": len(CAPTIONS),
                "source": {"kind": "file", "path": str(captions), "text": "text"},
                "novelty": {"threshold": 1},
                "contamination_threshold": None,
            },
            "images": {"steps": 1, "per_prompt": 2},
            "base": tiny.base("sd1").model_dump(),
            "scores": {"benchmark": "toybox"},
        }
    )


def stages(config: RunConfig, *make: str) -> Stages[RunConfig]:
    return Stages(config, Workspace(config.run_folder), make=make)


def made(config: RunConfig):
    """Prompts and pairs of the finished run; nothing is made of a second call."""
    this = stages(config, PROMPTS, IMAGES)
    prompts = this.write_prompts()
    this.generate_pairs(prompts)
    finished = stages(config)
    prompts = finished.write_prompts()
    return prompts["cats"], finished.generate_pairs(prompts)["cats"]


def change_manifest(config: RunConfig, name: str, **changes) -> None:
    folder = config.run_folder / name
    manifest = {**read_manifest(folder), **changes}
    body = {key: value for key, value in manifest.items() if value is not None and key != SELF}
    (folder / "manifest.json").write_text(json.dumps(signed(body)))
    manifests.forget()


def are_unread(*rows) -> bool:
    return all(isinstance(each, FinishedRows) and "_rows" not in vars(each) for each in rows)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("by", ["manifest", "file"])
def test_digests_are_those_of_the_records(config: RunConfig, by: str) -> None:
    made(config)
    if by == "file":  # as earlier versions have left it
        for name in (PROMPTS_OF_CATS, IMAGES_OF_CATS):
            assert read_manifest(config.run_folder / name)[ROWS]
            change_manifest(config, name, **{ROWS: None})
    prompts, pairs = made(config)
    facts = len(prompts), prompts_digest(prompts), len(pairs), pairs_digest(pairs)
    shown = list(shown_pairs(pairs, 3))
    over = over_token_limit(pairs)
    assert are_unread(prompts, pairs)
    assert (*facts, over) == (
        len(list(prompts)),
        prompts_digest(list(prompts)),
        len(list(pairs)),
        pairs_digest(list(pairs)),
        over_token_limit(list(pairs)),
    )
    assert shown == list(shown_pairs(list(pairs), 3))
    assert [prompt.text for prompt in prompts] == [text.strip() for text in CAPTIONS]
    assert (len(pairs), over) == (2 * len(CAPTIONS), 1)
    assert pairs[:2] == list(pairs)[:2]
    assert pairs[-1].prompt == prompts[-1]


def test_what_is_many_changes_no_byte_and_no_key(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of a finished run, nor of what is made of it."""
    few = made(config)
    assert not any(isinstance(rows, FinishedRows) for rows in few)
    names = (PROMPTS_OF_CATS, IMAGES_OF_CATS)
    before = {name: read_manifest(config.run_folder / name) for name in names}
    assert not any(ROWS in manifest for manifest in before.values())
    monkeypatch.setattr(manifests, "MANY", 1)
    assert are_unread(*made(config))
    assert [pairs_digest(pairs) for _, pairs in (few, made(config))] == [pairs_digest(few[1])] * 2
    again = config.model_copy(update={"folder": config.run_folder.with_name("again")})
    assert made(again)[0] == few[0]
    for name in names:
        manifest = dict(read_manifest(again.run_folder / name))
        assert manifest.pop(ROWS).keys() <= manifest["files"].keys()
        assert {**manifest, SELF: before[name][SELF]} == before[name]


@pytest.mark.usefixtures("many")
def test_to_look_at_a_run_reads_no_rows(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made(config)

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a row was read")

    for module in ("finished_rows.read_rows", "finished_rows.plain_rows", "images.pairs.each_row"):
        monkeypatch.setattr(f"selma.{module}", read)
    found = {s.stage: (s.state, s.want) for s in statuses(config)}
    assert found[PROMPTS] == ("done", len(CAPTIONS))
    assert found[IMAGES] == ("done", 2 * len(CAPTIONS))
    assert found["3-experts"][0] == "missing"


@pytest.mark.usefixtures("many")
def test_a_digest_stands_for_the_bytes_that_it_was_made_of(config: RunConfig) -> None:
    prompts, _ = made(config)
    file = config.run_folder / PROMPTS_OF_CATS / "prompts.jsonl"
    file.write_bytes(file.read_bytes().replace(b"two dogs", b"two cats"))  # of the same size
    with sizes_only():
        changed = stages(config).write_prompts()["cats"]
        assert not isinstance(changed, FinishedRows)
        assert prompts_digest(changed) != prompts_digest(prompts)
    assert {s.stage: s.state for s in statuses(config)}[IMAGES] == "other settings"
    with pytest.raises(DataError, match="sha256"):
        list(prompts)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("name", ["train/metadata.jsonl", "an image"])
@pytest.mark.parametrize("how", ["size", "contents"])
def test_changed_files_are_seen(config: RunConfig, name: str, how: str) -> None:
    _, pairs = made(config)
    folder = config.run_folder / IMAGES_OF_CATS
    file = pairs[0].image if name == "an image" else folder / name
    data = file.read_bytes()
    file.write_bytes(data + b"\n" if how == "size" else bytes([data[0] ^ 1]) + data[1:])
    if how == "size":
        assert {s.stage: s.state for s in statuses(config)}[IMAGES] == "damaged"
    with pytest.raises(Exception, match=f"{file.name} is damaged"):
        stages(config).generate_pairs(stages(config).write_prompts())


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    "facts",
    [
        {"count": -1, "digest": "0"},
        {"count": "5", "digest": "0"},
        {"count": 5},
        {"digest": "0"},
        5,
    ],
)
def test_facts_of_another_shape_are_no_manifests(config: RunConfig, facts: object) -> None:
    made(config)
    change_manifest(config, PROMPTS_OF_CATS, **{ROWS: {"prompts.jsonl": facts}})
    assert {s.stage: s.state for s in statuses(config)}[PROMPTS] == "damaged"


@pytest.mark.usefixtures("many")
def test_facts_without_the_manifests_own_digest_are_worked_out(config: RunConfig) -> None:
    prompts, _ = made(config)
    path = config.run_folder / PROMPTS_OF_CATS / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[SELF]
    manifest[ROWS]["prompts.jsonl"]["digest"] = "0" * 64
    path.write_text(json.dumps(manifest))
    manifests.forget()
    assert prompts_digest(stages(config).write_prompts()["cats"]) == prompts_digest(prompts)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    "row", ['{"id": 1}', "[]", '"text"', "{", '{"id": "a", "text": 5}', "[" * 100_000]
)
def test_rows_of_another_shape_are_told_as_ever(config: RunConfig, row: str) -> None:
    """Of a manifest of earlier versions, in which no digest tells that they once were right."""
    made(config)
    file = config.run_folder / PROMPTS_OF_CATS / "prompts.jsonl"
    file.write_text(row + "\n")
    entry = {"bytes": file.stat().st_size, "sha256": manifests.file_sha256(file)}
    change_manifest(config, PROMPTS_OF_CATS, files={file.name: entry}, **{ROWS: None})
    with pytest.raises(DataError, match="line 1"):
        stages(config).write_prompts()


@pytest.mark.usefixtures("many")
def test_images_are_generated_for_prompts_that_nobody_read(config: RunConfig) -> None:
    prompts, _ = made(config)
    pairs = generate_pairs(
        {"cats": prompts},
        config.images.model_copy(update={"steps": 2}),
        Workspace(config.run_folder.with_name("other")),
        base=config.base,
        seed=0,
        model=lambda: tiny.load("sd1"),
    )
    assert [pair.prompt for pair in pairs["cats"][::2]] == list(prompts)


@pytest.mark.parametrize("small", [0, 2**20], ids=["streamed", "at once"])
@pytest.mark.parametrize(
    "fault", ["", "missing", "bytes", "sha256", "no regular file", "no regular file, as a pipe"]
)
def test_small_files_are_held_against_manifests_as_large_ones(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, small: int, fault: str
) -> None:
    monkeypatch.setattr(manifests, "_SMALL", small)
    _, pairs = made(config)
    image, manifest = pairs[0].image, read_manifest(config.run_folder / IMAGES_OF_CATS)
    folder, data = config.run_folder / IMAGES_OF_CATS, image.read_bytes()
    for times in range(2):  # the second time by what is remembered
        assert not manifests.faults(folder, manifest), times
    if fault:
        image.unlink()
    if fault == "bytes":
        image.write_bytes(data[:-1])
    elif fault == "sha256":
        image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif fault == "no regular file":
        image.mkdir()
    elif "pipe" in fault:
        os.mkfifo(image)
    found = manifests.faults(folder, manifest)
    assert found.keys() == ({f"train/{image.name}"} if fault else set())
    assert fault.partition(",")[0] in "".join(found.values())
