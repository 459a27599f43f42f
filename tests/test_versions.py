"""An upgrade makes results anew and says so; what was paid for is taken along; `--keep` goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline.killing import tiny_run, tree
from typer.testing import CliRunner

from selma import cli, manifests, pipeline, versions, workspace
from selma.applications.comparisons.sharing import SharedFinished, SharedWorkspace
from selma.config import RunConfig
from selma.errors import WorkspaceError
from selma.finished import Finished, NotFinished
from selma.status import statuses
from selma.versions import keeping
from selma.workspace import IMAGES, PROMPTS, STAGES, Item, Workspace, kept_in_words

INSTALLED = versions.installed


def upgrade(monkeypatch: pytest.MonkeyPatch, **numbers: str) -> None:
    """From here on these are the installed versions; the others stay what they are."""
    monkeypatch.setattr(versions, "installed", lambda name: numbers.get(name) or INSTALLED(name))
    workspace._upgrades_said.clear()
    workspace._kept.clear()


def made(
    folder: Workspace, stage: str, name: str, text: str, *, paid: bool = False, **recipe: Any
) -> Item:
    """A finished item with one file."""
    item = asked(folder, stage, name, paid=paid, **recipe)
    path = item.begin() / "a.txt"
    path.write_text(text)
    item.finish([path], {})
    return item


def asked(folder: Workspace, stage: str, name: str, *, paid: bool = False, **recipe: Any) -> Item:
    return folder.item(stage, name, recipe=recipe, paid=("a.txt",) if paid else ())


def test_an_upgrade_puts_aside_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Workspace(tmp_path)
    upgrade(monkeypatch, selma="0.1.0")
    old = made(folder, IMAGES, "coco", "old", settings=1)
    made(folder, IMAGES, "count", "old", settings=1)
    upgrade(monkeypatch, selma="0.2.0")
    assert not asked(folder, IMAGES, "coco", settings=1).done
    new = made(folder, IMAGES, "coco", "new", settings=1)
    made(folder, IMAGES, "count", "new", settings=1)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("was made by") == 1
    assert "2-images/coco was made by selma 0.1.0 (now 0.2.0)." in said and "--keep" in said
    assert (tmp_path / f"superseded/2-images_coco-{old.key}/a.txt").read_text() == "old"
    assert (new.path / "a.txt").read_text() == "new" and new.key != old.key


def test_other_settings_are_not_called_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upgrade(monkeypatch, selma="0.1.0")
    made(Workspace(tmp_path), IMAGES, "coco", "old", settings=1)
    upgrade(monkeypatch, selma="0.2.0")
    with keeping():
        item = made(Workspace(tmp_path), IMAGES, "coco", "new", settings=2)
    assert "was made by" not in capsys.readouterr().err
    assert item.recipe["versions"]["selma"] == "0.2.0" and not kept_in_words(tmp_path)


def test_kept_items_stay_and_so_does_what_was_made_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Workspace(tmp_path)
    upgrade(monkeypatch, torch="2.12")
    parent = made(folder, IMAGES, "coco", "old", settings=1)
    made(folder, workspace.EXPERTS, "coco", "old", images=parent.key)
    upgrade(monkeypatch, torch="2.13")
    before = tree(tmp_path)
    with keeping():
        kept = asked(folder, IMAGES, "coco", settings=1)
        assert kept.done and kept.key == parent.key and kept.path == parent.path
        assert asked(folder, workspace.EXPERTS, "coco", images=kept.key).done
        new = asked(folder, IMAGES, "more", settings=1)
    assert new.recipe["versions"]["torch"] == "2.13", "what is not there yet is made by what is"
    assert tree(tmp_path) == before
    assert kept_in_words(tmp_path) == "2 items: torch 2.12 (now 2.13)"
    assert not asked(folder, IMAGES, "coco", settings=1).done, "by choice alone"


def test_what_was_only_begun_or_is_damaged_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one item would be of two versions, and say one of them."""
    upgrade(monkeypatch, selma="0.1.0")
    (asked(Workspace(tmp_path), IMAGES, "begun", settings=1).begin() / "a.txt").write_text("half")
    old = made(Workspace(tmp_path), IMAGES, "damaged", "old", settings=1)
    (old.path / "a.txt").write_text("odd")
    manifests.forget()
    upgrade(monkeypatch, selma="0.2.0")
    with keeping():
        for name in ("begun", "damaged"):
            item = asked(Workspace(tmp_path), IMAGES, name, settings=1)
            assert not item.done and not (item.begin() / "a.txt").exists()
            assert item.recipe["versions"]["selma"] == "0.2.0"


def test_recipes_of_before_there_were_versions_are_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(workspace, "whole_recipe", lambda stage, recipe: dict(recipe))
        made(Workspace(tmp_path), PROMPTS, "coco", "paid", paid=True, settings=1)
    upgrade(monkeypatch, selma="0.2.0")
    path = asked(Workspace(tmp_path), PROMPTS, "coco", paid=True, settings=1).begin()
    assert (path / "a.txt").read_text() == "paid"
    assert "selma of before (now 0.2.0)" in " ".join(capsys.readouterr().err.split())


# What was paid for


def test_paid_replies_are_taken_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Workspace(tmp_path)
    upgrade(monkeypatch, selma="0.1.0")
    old = made(folder, PROMPTS, "coco", "paid", paid=True, settings=1)
    (old.path / "made.txt").write_text("of it")
    upgrade(monkeypatch, selma="0.2.0")
    path = asked(folder, PROMPTS, "coco", paid=True, settings=1).begin()
    assert sorted(file.name for file in path.iterdir()) == ["a.txt", "plan.json"]
    aside = tmp_path / f"superseded/1-prompts_coco-{old.key}"
    for place in (path, aside):
        assert (place / "a.txt").read_text() == "paid"
    assert (aside / "manifest.json").exists() and (aside / "made.txt").exists()


class Killed(BaseException): ...


def killed_upgrade(root: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> bool:
    """A start with upgraded packages that is killed at its nth way to the disk; whether it was."""
    upgrade(monkeypatch, selma="0.2.0")
    steps = iter(range(1, 100))

    def killing(way: Any) -> Any:
        def do(*given: Any) -> Any:
            if next(steps) == step:
                raise Killed
            return way(*given)

        return do

    with monkeypatch.context() as patch:
        for name in ("move", "write_json", "write_bytes", "make_folder"):
            patch.setattr(workspace, name, killing(getattr(workspace, name)))
        try:
            asked(Workspace(root), PROMPTS, "coco", paid=True, settings=1).begin()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("step", range(1, 12))
@pytest.mark.parametrize("after", ["the same", "other settings", "three kills"])
def test_a_kill_amid_an_upgrade_loses_and_mixes_no_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, after: str
) -> None:
    upgrade(monkeypatch, selma="0.1.0")
    old = made(Workspace(tmp_path), PROMPTS, "coco", "paid", paid=True, settings=1)
    (old.path / "made.txt").write_text("of it")
    killed_upgrade(tmp_path, monkeypatch, step)
    for again in (step, step - 1) if after == "three kills" else ():
        killed_upgrade(tmp_path, monkeypatch, again)
    settings = 2 if after == "other settings" else 1
    path = asked(Workspace(tmp_path), PROMPTS, "coco", paid=True, settings=settings).begin()
    assert (path / "a.txt").exists() == (settings == 1)
    kept = [file.read_text() for file in tmp_path.rglob("a.txt")]
    assert kept and set(kept) == {"paid"}
    assert [file.read_text() for file in tmp_path.rglob("made.txt")] == ["of it"]
    (aside,) = {file.parent for file in (tmp_path / "superseded").rglob("made.txt")}
    assert (aside / "manifest.json").exists() and (aside / "plan.json").exists()


def test_the_kills_cover_the_whole_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade(monkeypatch, selma="0.1.0")
    made(Workspace(tmp_path), PROMPTS, "coco", "paid", paid=True, settings=1)
    assert not killed_upgrade(tmp_path, monkeypatch, 12)


@pytest.mark.parametrize("damage", ["{", "", '{"key": "/../../../out", "recipe": {}}', "[]"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_plan_costs_no_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, finished: bool
) -> None:
    """The manifest tells whose they are; without one nobody does."""
    root = tmp_path / "run"
    upgrade(monkeypatch, selma="0.1.0")
    item = asked(Workspace(root), PROMPTS, "coco", paid=True, settings=1)
    path = item.begin() / "a.txt"
    path.write_text("paid")
    if finished:
        item.finish([path], {})
    (item.path / "plan.json").write_text(damage)
    for number in ("0.1.0", "0.2.0"):
        upgrade(monkeypatch, selma=number)
        now = asked(Workspace(root), PROMPTS, "coco", paid=True, settings=1)
        if finished:
            assert (now.begin() / "a.txt").read_text() == "paid"
        else:
            with pytest.raises(WorkspaceError, match=r"plan\.json is damaged.*cost money"):
                now.begin()
            assert path.read_text() == "paid"
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_damaged_replies_of_another_version_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Workspace(tmp_path)
    upgrade(monkeypatch, selma="0.1.0")
    old = made(folder, PROMPTS, "coco", "paid", paid=True, settings=1)
    (old.path / "a.txt").write_text("pald")
    manifests.forget()
    upgrade(monkeypatch, selma="0.2.0")
    with pytest.raises(WorkspaceError, match=r"a\.txt is damaged.*cost money"):
        asked(folder, PROMPTS, "coco", paid=True, settings=1).begin()


# Folders by key, as comparisons have them


def test_a_comparison_keeps_or_makes_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SharedWorkspace(tmp_path)
    upgrade(monkeypatch, selma="0.1.0")
    old = made(folder, PROMPTS, "coco", "paid", paid=True, settings=1)
    made(folder, PROMPTS, "coco", "other", paid=True, settings=2)
    upgrade(monkeypatch, selma="0.2.0")
    with keeping():
        for each in (folder, SharedFinished(tmp_path)):
            kept = asked(each, PROMPTS, "coco", paid=True, settings=1)
            assert kept.done and kept.path == old.path and kept.name == old.name
        assert folder.folder_of(PROMPTS, "coco") == old.path
    with pytest.raises(NotFinished, match=r"there by selma 0\.1\.0 \(now 0\.2\.0\)"):
        _ = asked(SharedFinished(tmp_path), PROMPTS, "coco", settings=1).done
    new = asked(folder, PROMPTS, "coco", paid=True, settings=1)
    path = new.begin()
    assert "was made by selma 0.1.0" in capsys.readouterr().err
    assert path != old.path and (path / "a.txt").read_text() == "paid"
    assert (old.path / "a.txt").read_text() == "paid", "it stays where it is"
    new.finish([path / "a.txt"], {})
    with keeping():
        assert asked(folder, PROMPTS, "coco", settings=1).path == path, "the installed one is there"


def test_newer_replies_are_never_overwritten_by_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(monkeypatch, selma="0.1.0")
    made(SharedWorkspace(tmp_path), PROMPTS, "coco", "old", paid=True, settings=1)
    upgrade(monkeypatch, selma="0.2.0")
    new = asked(SharedWorkspace(tmp_path), PROMPTS, "coco", paid=True, settings=1)
    (new.begin() / "a.txt").write_text("old and new")
    (new.path / "plan.json").write_text("{")
    path = asked(SharedWorkspace(tmp_path), PROMPTS, "coco", paid=True, settings=1).begin()
    assert (path / "a.txt").read_text() == "old and new"


def test_a_finished_item_is_kept_beside_one_that_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(monkeypatch, selma="0.1.0")
    old = made(SharedWorkspace(tmp_path), IMAGES, "coco", "old", settings=1)
    for number in ("0.2.0", "0.3.0"):
        upgrade(monkeypatch, selma=number)
        asked(SharedWorkspace(tmp_path), IMAGES, "coco", settings=1).begin()
    with keeping():
        kept = asked(SharedWorkspace(tmp_path), IMAGES, "coco", settings=1)
    assert kept.path == old.path and kept.done
    assert kept_in_words(tmp_path) == "1 item: selma 0.1.0 (now 0.3.0)"


def test_a_damaged_item_of_other_versions_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(monkeypatch, selma="0.1.0")
    old = made(Workspace(tmp_path), IMAGES, "coco", "old", settings=1)
    (old.path / "manifest.json").write_text("{")
    upgrade(monkeypatch, selma="0.2.0")
    path = asked(Workspace(tmp_path), IMAGES, "coco", settings=1).begin()
    assert [file.name for file in path.iterdir()] == ["plan.json"]


def test_damage_is_named_whatever_the_versions_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upgrade(monkeypatch, selma="0.1.0")
    old = made(Workspace(tmp_path), IMAGES, "coco", "old", settings=1)
    file = next(path for path in old.path.iterdir() if path.suffix not in (".json",))
    file.write_bytes(b"x" * file.stat().st_size)
    manifests.forget()
    upgrade(monkeypatch, selma="0.2.0")
    asked(Workspace(tmp_path), IMAGES, "coco", settings=1).begin()
    said = capsys.readouterr().err
    assert "its sha256 is not the manifest's" in said and "--keep" not in said


# A whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    place = tmp_path_factory.mktemp("upgraded")
    with tiny_run(place, run="run") as config:
        pipeline.run(config)
        yield config


def plans(root: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(root).as_posix(): json.loads(path.read_text())["recipe"]
        for path in root.rglob("plan.json")
    }


def test_every_recipe_has_its_versions_and_has_them_once(run: RunConfig) -> None:
    found = plans(run.run_folder)
    assert {name.split("/")[0] for name in found} == set(STAGES)
    for name, recipe in found.items():
        assert recipe["versions"]["selma"] == INSTALLED("selma"), name
        assert json.dumps(recipe).count('"versions"') == 1, name
    drawn = found["2-images/coco/plan.json"]["versions"]
    assert {"torch", "diffusers", "transformers", "pillow"} <= drawn.keys()


def test_an_upgraded_run_is_kept_or_made_again(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = run.run_folder
    before = tree(root)
    upgrade(monkeypatch, selma="99.9")
    states = {status.state for status in statuses(run)}
    assert states == {"other versions", "waits"}
    with pytest.raises(NotFinished, match=r"there by selma .* \(now 99\.9\).*--keep takes it"):
        pipeline.report(run)

    path = root.parent / "run.yaml"
    path.write_text(json.dumps(run.model_dump(mode="json")))
    shown = CliRunner().invoke(cli.app, ["status", str(root), "--keep"])
    rows = [line for line in shown.output.splitlines() if line[:2] in ("2-", "3-", "4-", "5-")]
    assert shown.exit_code == 0 and rows and all(" done " in row for row in rows), shown.output
    assert not versions.kept(), "of one command alone"
    done = CliRunner().invoke(cli.app, ["run", str(path), "--keep"])
    assert done.exit_code == 0, done.exception
    kept = tree(root)
    changed = {name for name in {*before, *kept} if before.get(name) != kept.get(name)}
    assert {name for name in changed if "6-report" not in name} == {"run.json"}
    page = (root / "6-report/index.html").read_text()
    assert "kept, of other versions" in page and f"selma {INSTALLED('selma')} (now 99.9)" in page

    pipeline.run(run)
    assert {
        recipe["versions"]["selma"]
        for name, recipe in plans(root).items()
        if "superseded" not in name
    } == {"99.9"}
    images = [name for name in before if name.startswith("2-images") and name.endswith(".png")]
    after = tree(root)
    assert images and all(after[name] == before[name] for name in images)
    assert any("superseded/2-images_coco" in name for name in after)
    assert "was made by selma" in capsys.readouterr().err


def test_the_packages_of_each_stage_are_installed() -> None:
    assert workspace.DECIDING.keys() == set(STAGES)
    for packages in workspace.DECIDING.values():
        assert versions.NOT_INSTALLED not in versions.versions(packages).values()


def test_a_folder_that_only_shows_takes_what_a_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(monkeypatch, selma="0.1.0")
    old = made(Workspace(tmp_path), IMAGES, "coco", "old", settings=1)
    upgrade(monkeypatch, selma="0.2.0")
    with keeping():
        assert asked(Finished(tmp_path), IMAGES, "coco", settings=1).key == old.key
