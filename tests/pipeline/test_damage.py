"""A finished run with damaged files: each is named, put aside and made again with the same bytes;
what was paid for is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import SEED, Attack
from typer.testing import CliRunner

from pipeline.killing import tiny_run, tree
from selma import cli, manifests, pipeline
from selma.adapters.reading import read_adapter
from selma.config import RunConfig
from selma.errors import AdapterError, SelmaError, WorkspaceError
from selma.finished import NotFinished
from selma.manifests import all_faults
from selma.status import statuses

KINDS = (
    "1-prompts/*/prompts.jsonl",
    "2-images/*/train/*.png",
    "2-images/*/train/metadata.jsonl",
    "4-merged/*.safetensors",
    "4-merged/diagnostics.json",
    "5-scores/images/*/*.png",
    "5-scores/answers/*/answers.jsonl",
    "5-scores/clip/*/scores.jsonl",
    "5-scores/scorecard/scorecard.json",
    "5-scores/scorecard/verdicts.jsonl",
)
SLOW_KINDS = ("3-experts/*/*.safetensors", "3-experts/*/loss.jsonl", "3-experts/_encoded/*/*")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    """A run that is finished."""
    place = tmp_path_factory.mktemp("damaged")
    with tiny_run(place, run="whole") as config:
        pipeline.run(config)
        yield config


@pytest.fixture
def run(whole: RunConfig, tmp_path: Path) -> RunConfig:
    """A copy of it to be damaged, beside it: run.json names the base from there."""
    copy = whole.run_folder.parent / tmp_path.name
    shutil.copytree(whole.run_folder, copy)
    return whole.model_copy(update={"folder": str(copy)})


def flip(path: Path, seed: int = SEED) -> None:
    """Another value of one bit, with the times of before: as a disk forgets, not as users edit."""
    data, times = bytearray(path.read_bytes()), path.stat()
    pick = random.Random(f"{seed} {path.name}")
    data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def damaged(config: RunConfig, pattern: str, seed: int = SEED) -> Path:
    path = random.Random(seed).choice(sorted(config.run_folder.glob(pattern)))
    flip(path, seed)
    return path


def without_superseded(root: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(root).items() if "superseded" not in name}


def test_a_whole_run_verifies(run: RunConfig) -> None:
    assert list(all_faults(run.run_folder)) == []
    done = CliRunner().invoke(cli.app, ["status", str(run.run_folder), "--verify"])
    assert done.exit_code == 0 and "Every finished file is what was written" in done.output


@pytest.mark.parametrize("pattern", KINDS)
def test_a_flipped_bit_is_named_and_made_again(
    run: RunConfig,
    pattern: str,
    whole: RunConfig,
    capsys: pytest.CaptureFixture[str],
    attack: Attack,
) -> None:
    attack.injects("damages: a flipped bit")
    path = damaged(run, pattern)
    shown = path.relative_to(run.run_folder).as_posix()
    assert {file for file, _ in all_faults(run.run_folder)} == {path}
    bad = path.read_bytes()
    pipeline.run(run)
    said = capsys.readouterr().err
    assert f"{shown}: its sha256 is not the manifest's" in said, said
    assert without_superseded(run.run_folder) == tree(whole.run_folder)
    assert [p.read_bytes() for p in (run.run_folder / "superseded").rglob(path.name)] == [bad]
    attack.held("damages: a flipped bit")


@pytest.mark.parametrize("pattern", [KINDS[0], KINDS[1], KINDS[3], KINDS[5], KINDS[6], KINDS[8]])
def test_a_command_that_makes_none_of_it_refuses_it(run: RunConfig, pattern: str) -> None:
    path = damaged(run, pattern)
    with pytest.raises(NotFinished, match=f"{path} is damaged: its sha256"):
        pipeline.report(run)
    assert path.exists() and not (run.run_folder / "superseded").exists()


@pytest.mark.parametrize("how", ["flipped", "cut", "longer"])
def test_paid_replies_are_refused_and_stay(run: RunConfig, how: str, attack: Attack) -> None:
    attack.injects("damages: paid replies")
    path = next(run.run_folder.glob("1-prompts/*/replies.jsonl"))
    if how == "flipped":
        flip(path)
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-9] if how == "cut" else data + b"{}\n")
    before = tree(run.run_folder)
    with pytest.raises(WorkspaceError, match=r"replies\.jsonl is damaged: .* cost money"):
        pipeline.run(run)
    assert tree(run.run_folder) == before
    attack.held("damages: paid replies")


def test_no_adapter_is_read_that_is_damaged(run: RunConfig) -> None:
    path = damaged(run, "4-merged/*.safetensors")
    for source in (path, path.parent):
        with pytest.raises(SelmaError, match="is damaged: its sha256"):
            read_adapter(source)
    done = CliRunner().invoke(cli.app, ["inspect", str(path.parent)])
    assert isinstance(done.exception, AdapterError) and not done.output


def test_status_tells_by_size_and_verify_by_content(run: RunConfig) -> None:
    image = next(run.run_folder.glob("2-images/*/train/*.png"))
    flip(image)
    states = {s.name: s.state for s in statuses(run) if s.stage == "2-images"}
    assert set(states.values()) == {"done"}
    manifests.forget()
    done = CliRunner().invoke(cli.app, ["status", str(run.run_folder), "--verify"])
    assert isinstance(done.exception, WorkspaceError)
    assert f"{image}: its sha256 is not the manifest's" in done.output
    image.write_bytes(image.read_bytes()[:-1])
    states = {s.name: s.state for s in statuses(run) if s.stage == "2-images"}
    assert states[image.parent.parent.name] == "damaged"


def test_looking_at_a_run_writes_nothing(run: RunConfig) -> None:
    def seen() -> dict[str, tuple[int, int]]:
        every = [run.run_folder, *run.run_folder.rglob("*")]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in every}

    before = seen()
    place = str(run.run_folder)
    for command in (["status", place], ["status", place, "--verify"], ["status", place, "--keep"]):
        done = CliRunner().invoke(cli.app, command)
        assert done.exit_code == 0 and "to be made" in done.output, done.output
    assert seen() == before
    page = run.run_folder / "6-report" / "index.html"
    page.unlink()
    assert [s.state for s in statuses(run) if s.stage == "6-report"] == ["partial"]
    assert not page.exists()


def test_what_cannot_be_read_is_not_said_to_be_sound(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, plain = run.run_folder / "4-merged", os.scandir

    def scandir(path: str) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", path)
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SelmaError, match=f"{closed}.*Permission denied"):
        list(all_faults(run.run_folder))


@pytest.mark.parametrize("name", ["manifest.json", "plan.json"])
@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_of_a_manifest_or_plan_makes_nothing_else(
    run: RunConfig, name: str, seed: int, whole: RunConfig, attack: Attack
) -> None:
    with attack("damages: a flipped bit"):
        damaged(run, f"4-merged/{name}", seed)
        pipeline.run(run)
        assert without_superseded(run.run_folder) == tree(whole.run_folder)


def test_a_damaged_manifest_of_what_was_paid_for_is_refused(run: RunConfig) -> None:
    path = damaged(run, "1-prompts/*/manifest.json")
    with pytest.raises(WorkspaceError, match=r"manifest\.json is damaged: .* go on with replies"):
        pipeline.run(run)
    path.unlink()
    pipeline.run(run)


@pytest.mark.attack
@pytest.mark.parametrize("seed", range(SEED, SEED + 100))
def test_three_damages_at_once_are_healed_or_refused(
    run: RunConfig, whole: RunConfig, seed: int, attack: Attack
) -> None:
    pick = random.Random(seed)
    # What an expert was encoded to is not read again once the expert is there.
    unread = ("_encoded", "6-report/index", "run.json")
    files = [name for name in tree(run.run_folder) if not any(part in name for part in unread)]
    hit = pick.sample(files, 3)
    with attack("damages: three at once", len(hit)):
        for name in hit:
            hurt(run.run_folder / name, pick, seed)
        try:
            pipeline.run(run)
        except SelmaError as error:
            assert any(str(run.run_folder / name) in str(error) for name in hit), (hit, error)
            return
        ours, theirs = without_superseded(run.run_folder), tree(whole.run_folder)
        assert ours == theirs, f"seed {seed}: {sorted(set(ours.items()) ^ set(theirs.items()))}"
        assert [path for path, _ in all_faults(run.run_folder)] == []


def hurt(path: Path, pick: random.Random, seed: int) -> None:
    """A bit flipped, the end cut off, or the file gone."""
    how = pick.choice(["flip", "flip", "cut", "lose"])
    if how == "flip":
        flip(path, seed)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: pick.randrange(path.stat().st_size)])
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.json", ["status"]),
        ("2-images/coco/plan.json", ["status", "--verify"]),
        ("6-report/pages/extra.json", ["report"]),
    ],
)
def test_a_pipe_in_place_of_a_file_is_never_waited_for(
    run: RunConfig, name: str, words: list[str], tmp_path: Path
) -> None:
    path = run.run_folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    config = tmp_path / "run.yaml"
    config.write_text(run.model_dump_json())
    place = run.run_folder if words[0] == "status" else config
    command = [sys.executable, "-m", "selma", *words, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode > 0 and "Traceback" not in done.stderr, done.stderr


def test_to_look_at_a_run_writes_nothing(run: RunConfig) -> None:
    path = run.run_folder / "1-prompts/coco/plan.json"
    path.write_text("{")
    before = tree(run.run_folder)
    done = CliRunner().invoke(cli.app, ["status", str(run.run_folder), "--verify"])
    assert isinstance(done.exception, WorkspaceError) and str(path) in done.output
    assert tree(run.run_folder) == before
    pipeline.run(run)
    assert json.loads(path.read_text())["key"], "a run mends it"
