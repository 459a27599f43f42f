"""A tiny run from prompts on: what it leaves, what a second one makes, what a change makes anew."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from backbones.preference_files import hps_folder
from typer.testing import CliRunner

from pipeline.killing import finished, settings, tree
from pipeline.server import serving
from selma import cli, pipeline
from selma.config import RunConfig
from selma.errors import ConfigError
from selma.finished import NotFinished
from selma.images.on_demand import generate, save_images
from selma.records.adapters import AppliedAdapter
from selma.scores.hps import STYLES, run_results
from selma.status import present, statuses, table
from selma.workspace import Workspace


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    tiny.build("sd1", folder / "base")
    return folder


def config(place: Path, address: str, run: str = "one", **different: object) -> RunConfig:
    raw = settings(place, address, run=run)
    for section, values in different.items():
        old = raw.get(section)
        raw[section] = {**old, **values} if isinstance(old, dict) else values  # type: ignore[dict-item]
    return RunConfig.model_validate(raw)


@pytest.fixture(scope="module")
def merged(place: Path, address: str) -> RunConfig:
    """The settings of a run that is done up to its merged adapter."""
    one = config(place, address)
    for stage in (pipeline.prompts, pipeline.images, pipeline.experts, pipeline.merge):
        stage(one)
    return one


def states(one: RunConfig) -> dict[tuple[str, str], str]:
    return {(found.stage, found.name): found.state for found in statuses(one)}


def test_each_stage_leaves_its_files(merged: RunConfig) -> None:
    files = tree(merged.run_folder)
    assert (
        len([name for name in files if name.startswith("2-images") and name.endswith("png")]) == 16
    )
    for skill in ("coco", "whoops"):
        assert f"1-prompts/{skill}/prompts.jsonl" in files
        assert f"3-experts/{skill}/pytorch_lora_weights.safetensors" in files
    assert "4-merged/pytorch_lora_weights.safetensors" in files
    assert "run.json" in files


def test_results_hold_no_path_of_the_machine(merged: RunConfig) -> None:
    root = merged.run_folder
    place = str(root.parent).encode()
    guilty = [name for name in tree(root) if place in (root / name).read_bytes()]
    assert guilty == []


def test_the_journal_has_seconds_of_each_stage(merged: RunConfig) -> None:
    lines = (merged.run_folder / "journal.jsonl").read_text().splitlines()
    timed = {line["stage"] for line in map(json.loads, lines) if "seconds" in line}
    assert timed >= {"1-prompts", "2-images", "3-experts"}


def test_a_finished_run_makes_nothing_and_loads_nothing(merged: RunConfig) -> None:
    before, files = finished(merged.run_folder), tree(merged.run_folder)
    code = (
        "import sys, json\n"
        "from selma import pipeline\n"
        "from selma.config import RunConfig\n"
        "one = RunConfig.model_validate_json(sys.argv[1])\n"
        "pipeline.prompts(one), pipeline.images(one), pipeline.experts(one), pipeline.merge(one)\n"
        "print(json.dumps(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, merged.model_dump_json()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert finished(merged.run_folder) == before and tree(merged.run_folder) == files


def test_status_follows_the_flow(place: Path, address: str, merged: RunConfig) -> None:
    fresh = states(config(place, address, "none"))
    assert fresh["1-prompts", "coco"] == "missing"
    assert fresh["2-images", "coco"] == fresh["6-report", "index.html"] == "waits"
    there = states(merged)
    assert there["3-experts", "whoops"] == there["4-merged", "merged"] == "done"
    assert there["5-scores", "images/base"] == "missing"
    assert there["5-scores", "scorecard"] == "waits"


def test_status_knows_other_settings(place: Path, address: str, merged: RunConfig) -> None:
    other = config(place, address, images={"steps": 3})
    assert {s.change for s in statuses(other) if s.state == "other settings"} == {"other steps"}
    assert "other steps" in table(statuses(other)).columns[2].cells
    there = states(other)
    assert there["1-prompts", "coco"] == "done"
    assert there["2-images", "coco"] == "other settings"
    assert there["3-experts", "coco"] == "waits"


def test_status_of_a_merge_method_that_is_gone(
    place: Path, address: str, merged: RunConfig
) -> None:
    looked = statuses(config(place, address, merged={"method": "median_of_deltas"}))
    there = {(found.stage, found.name): found.state for found in looked}
    assert there["3-experts", "coco"] == "done" and there["4-merged", "merged"] == "unknown"
    assert there["5-scores", "images/merged"] == there["6-report", "index.html"] == "waits"
    (why,) = (found.why for found in looked if found.why)
    assert "merged.method: must be a merge method (" in why
    assert "but 'median_of_deltas' came" in why


def test_status_of_a_run_of_applications_alone(place: Path, address: str) -> None:
    one = config(place, address, "alone")
    folder = Workspace(one.run_folder)
    for stage, *names in (
        ("2-images", "_control", "canny", "train"),
        ("2-images", "_control", "canny", "val"),
        ("3-experts", "_control", "canny", "oft-r4"),
    ):
        item = folder.item(stage, *names, recipe={"names": names})
        item.begin()
        if names[-1] != "val":
            item.finish([], {})
    own = folder.item("2-images", "_sur-own", recipe={}).begin()
    for name in ("a.png", "b.png"):
        (own / name).touch()
    assert [(s.stage, s.name, s.state, s.have, s.want) for s in present(one)] == [
        ("2-images", "_control", "partial", 1, 2),
        ("2-images", "_sur-own", "partial", 2, None),
        ("3-experts", "_control", "done", 1, 1),
    ]
    # Where a run would begin, its stages are shown all the same.
    assert {s.name for s in statuses(one)} >= {"coco", "whoops", "merged", "index.html"}
    folder.item("1-prompts", "coco", recipe={"names": "other"}).begin()
    assert present(one) == statuses(one)


def test_each_benchmark_prompt_may_be_drawn_from_several_seeds(place: Path, address: str) -> None:
    one = config(place, address, "seeds", scores={"prompts": 3, "seeds": 2, "clip": None})
    with pipeline.opened(one, make=["5-scores"]) as this:
        folder = this.generate("base")
        assert {path.stem for path in folder.glob("*.png")} == {
            id for prompt in this.benchmark_prompts for id in (prompt.id, f"{prompt.id}-1")
        }
        card = this.score_models({"base": folder}, [])
    assert (card.seeds, card.prompts, card.models[0].score.n) == (2, 3, 3)
    found = next(s for s in statuses(one) if s.name == "images/base")
    assert (found.state, found.want) == ("done", 6)


def test_status_counts_what_is_begun(place: Path, address: str) -> None:
    one = config(place, address, "begun")
    pipeline.prompts(one)
    pipeline.images(one)
    skill = one.run_folder / "2-images" / "coco"
    (skill / "manifest.json").unlink()
    next((skill / "train").glob("*.png")).unlink()
    found = next(s for s in statuses(one) if (s.stage, s.name) == ("2-images", "coco"))
    assert (found.state, found.have, found.want) == ("partial", 7, 8)
    prompts = one.run_folder / "1-prompts" / "coco"  # with a line for each reply as well
    (prompts / "manifest.json").unlink()
    lines = (prompts / "prompts.jsonl").read_text().splitlines(keepends=True)
    (prompts / "prompts.jsonl").write_text("".join(lines[:5]))
    found = next(s for s in statuses(one) if (s.stage, s.name) == ("1-prompts", "coco"))
    assert (found.state, found.have, found.want) == ("partial", 5, 8)


def test_a_changed_setting_makes_a_new_result_and_keeps_the_old(place: Path, address: str) -> None:
    one = config(place, address, "changed")
    pipeline.prompts(one)
    pipeline.images(one)
    old = finished(one.run_folder)
    pipeline.images(config(place, address, "changed", images={"guidance": 1.0}))
    kept = list((one.run_folder / "superseded").rglob("*.png"))
    assert len(kept) == 16
    new = finished(one.run_folder)
    prompts = {path: state for path, state in old.items() if "1-prompts" in path.parts}
    assert prompts and all(new[path] == state for path, state in prompts.items())


@pytest.mark.parametrize("how", ["relative", "link"])
def test_the_folder_may_be_relative_or_a_link(
    place: Path, address: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    if how == "link":
        Path("target").mkdir()
        Path(how).symlink_to("target")
    one = config(place, address).model_copy(update={"folder": Path(how)})
    pipeline.prompts(one)
    assert len(pipeline.images(one)["coco"]) == 8
    assert states(one)["2-images", "coco"] == "done"


@pytest.mark.parametrize("stage", ["images", "experts", "merge", "score", "report"])
def test_a_stage_makes_nothing_of_the_stages_before(place: Path, address: str, stage: str) -> None:
    one = config(place, address, f"alone-{stage}")
    with pytest.raises(NotFinished, match="selma prompts CONFIG"):
        getattr(pipeline, stage)(one)
    assert tree(one.run_folder) == {}


def test_a_refused_command_leaves_another_runs_settings(merged: RunConfig, address: str) -> None:
    before = tree(merged.run_folder)
    other = merged.model_copy(update={"name": "other", "seed": 77})
    with pytest.raises(NotFinished):
        pipeline.score(other)
    assert tree(merged.run_folder) == before


def test_the_same_prompt_looks_different_with_the_adapter(
    merged: RunConfig, tmp_path: Path
) -> None:
    options = {"base": merged.base, "steps": 2, "count": 2}
    applied = AppliedAdapter(path=merged.run_folder / "4-merged")
    plain = list(generate("a cat", **options))
    again = list(generate("a cat", **options))
    adapted = list(generate("a cat", adapter=[applied], **options))
    assert [p.tobytes() for p in plain] == [p.tobytes() for p in again]
    assert plain[0].tobytes() != plain[1].tobytes()
    assert plain[0].tobytes() != adapted[0].tobytes()
    (usual,) = generate("a cat", **options | {"count": 1, "guidance": 7.5})
    assert plain[0].tobytes() == usual.tobytes()
    saved = list(save_images(plain, tmp_path / "new" / "cat.png", count=2))
    assert [path.name for path in saved] == ["cat-1.png", "cat-2.png"]
    assert all(path.is_file() for path in saved)


def test_hps_is_drawn_and_scored_for_base_and_merged(merged: RunConfig, tmp_path: Path) -> None:
    for style in STYLES:
        (tmp_path / f"{style}.json").write_text(json.dumps([f"a {style} cat", "two dogs"]))
    words = ("score", "hps", "--run", merged.run_folder, "--prompts", tmp_path,
             "--model", hps_folder(tmp_path), "--device", "cpu", "--generated-by")  # fmt: skip

    def scored(model: str) -> None:
        done = CliRunner().invoke(cli.app, [*map(str, words), model])
        if done.exception:
            raise done.exception

    scored("base")
    scored("merged")
    images = [merged.run_folder / "5-scores" / "images" / f"hps-{m}" for m in ("base", "merged")]
    generated = [{p.name: p.read_bytes() for p in folder.glob("*.png")} for folder in images]
    assert len(generated[0]) == 8 and generated[0].keys() == generated[1].keys()
    assert all(generated[0][name] != generated[1][name] for name in generated[0])
    before = finished(merged.run_folder)
    scored("merged")
    assert finished(merged.run_folder) == before
    this = pipeline.Stages(merged, Workspace(merged.run_folder), make=[])
    experts = this.all_experts()
    keys = this.model_keys(experts, this.merge_experts(experts))
    found = run_results(this.folder, keys)
    assert set(found) == {"base", "merged"} and found["merged"]["generated"] == "run"
    assert found["merged"]["minus_base"]["all"]["n"] == 8
    assert str(merged.run_folder).encode() not in (images[0] / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="base, coco, whoops, merged"):
        scored("nobody")


def test_a_whole_run_ends_with_a_report(place: Path, address: str) -> None:
    one = config(place, address, "whole")
    page = pipeline.run(one)
    assert page == one.run_folder / "6-report" / "index.html" and page.stat().st_size > 10_000
    card = pipeline.scorecard(one)
    assert [model.model for model in card.models] == ["base", "coco", "whoops", "merged"]
    assert set(states(one).values()) == {"done"}
    assert str(place).encode() not in page.read_bytes()


def test_a_checkpoint_can_be_chosen_on_dev_prompts(place: Path, address: str) -> None:
    one = config(place, address, "chosen", experts={"select": "dev"}, scores={"dev_prompts": 4})
    for stage in (pipeline.prompts, pipeline.images, pipeline.experts):
        stage(one)
    assert len(list((one.run_folder / "5-scores" / "images").glob("dev-*"))) >= 2
