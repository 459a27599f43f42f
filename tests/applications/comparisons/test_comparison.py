"""`selma compare` on a tiny base: rows share what they have in common, and what is there stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from pipeline.killing import finished, settings
from pipeline.server import serving
from report.test_page import Parsed, addresses
from typer.testing import CliRunner

from selma import cli
from selma.applications.comparisons import planning
from selma.applications.comparisons.comparing import difference
from selma.applications.comparisons.recipes import load_comparison, only
from selma.applications.comparisons.records import Compared
from selma.applications.comparisons.table import sheets
from selma.errors import ConfigError, SelmaError
from selma.report.pages import read_pages
from selma.report.tables import signed
from selma.toybox import weights_of
from selma.workspace import Workspace


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    tiny.build("sd1", folder / "base")
    return folder


def raw(home: Path, address: str, **different: Any) -> dict[str, Any]:
    run = settings(home, address, run="unused")
    for name in ("name", "folder", "seed"):
        run.pop(name)
    run["experts"] |= {"steps": 2}  # type: ignore[operator]
    return {
        "name": "little",
        "folder": str(home / "run"),
        "settings": run,
        "rows": [
            {"name": "base", "model": "base"},
            {
                "name": "coco",
                "model": "expert",
                "settings": {"prompts": {"skills": ["coco"]}},
                "paper": {"base": "SD v2", "method": ""},
            },
            {"name": "selma", "paper": {"base": "SD v2", "method": "SELMA"}},
            {"name": "sum", "label": "added up", "settings": {"merged": {"scale": 2.0}}},
        ],
        "against": "selma",
        "guidances": [1.0, 3.0],
        "dev_prompts": 5,
        "paper": "table4",
        "claims": [{"says": "experts gain", "row": "selma", "over": "base"}],
    } | different


def written(home: Path, address: str, file: str = "little", **different: Any) -> Path:
    path = home / f"{file}.yaml"
    path.write_text(yaml.safe_dump(raw(home, address, **different)))
    return path


def run(*words: object) -> str:
    result = CliRunner().invoke(cli.app, ["compare", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_plan_has_the_steps_of_a_mixtures_gates(home: Path, address: str) -> None:
    mixed = {"merged": {"mixture": {"steps": 7}}}
    rows = [
        {"name": "base", "model": "base"},
        {"name": "moe", "settings": mixed},
        {"name": "again", "settings": mixed},
    ]
    bare = {"rows": rows, "against": None, "paper": None, "claims": [], "folder": "nowhere"}
    amounts = planning.to_make(load_comparison(written(home, address, "gates", **bare)))
    assert amounts["moe"]["steps"] == planning.Amount(2 * 2 + 7, 2 * 2 + 7)
    assert amounts["again"]["steps"] == planning.Amount(0, 2 * 2 + 7)


def to_make(plan: str) -> list[str]:
    """The last line of a plan: prompts, images, steps, merges, benchmark images."""
    (line,) = (line for line in plan.splitlines() if "all, to make" in line)
    return [word for word in line.split() if word.isdigit()]


@pytest.fixture(scope="module")
def compared(home: Path, address: str) -> tuple[Path, str, dict[str, Any]]:
    """The file, what the command said, and the record."""
    path = written(home, address)
    before = run(path, "--dry-run")
    assert "all, to make" in before and not (home / "run").exists()
    assert to_make(before)[:3] == ["16", "16", "4"]  # what rows share is told once
    said = run(path, "--json", home / "out.json")
    return path, said, json.loads((home / "out.json").read_text())


def test_rows_share_what_they_have_in_common(
    home: Path, compared: tuple[Path, str, dict[str, Any]]
) -> None:
    experts = sorted((home / "run" / "3-experts").glob("*/*/manifest.json"))
    assert sorted(path.parts[-3] for path in experts) == ["coco", "whoops"]
    assert len(list((home / "run" / "4-merged").glob("*/manifest.json"))) == 2
    costs = {row["name"]: row["cost"] for row in compared[2]["rows"]}
    assert costs["base"] == {
        "generated": 0, "scored": 0, "trained": 0, "steps": 0, "seconds": 0.0,
    }  # fmt: skip
    assert (costs["coco"]["generated"], costs["coco"]["trained"]) == (8, 8)
    for row in ("selma", "sum"):
        assert (costs[row]["generated"], costs[row]["trained"], costs[row]["steps"]) == (16, 16, 4)
    assert costs["selma"]["seconds"] > costs["coco"]["seconds"] > 0


def test_all_rows_are_scored_alike(compared: tuple[Path, str, dict[str, Any]]) -> None:
    _, said, record = compared
    assert [scored["reading"] for scored in record["scored"]] == ["training", "best"]
    for scored in record["scored"]:
        models = {model["model"]: model for model in scored["card"]["models"]}
        assert list(models) == ["base", "coco", "selma", "sum"]
        assert models["base"]["difference"] is None and models["sum"]["difference"]["n"] == 6
        pairs = {(pair["model"], pair["against"]) for pair in scored["card"]["comparisons"]}
        assert {("selma", "base"), ("base", "selma"), ("sum", "selma")} <= pairs
    assert all(set(row["curve"]) == {"1", "3"} for row in record["rows"])
    assert all(str(int(row["best"])) in row["curve"] for row in record["rows"])
    (claim, _) = record["verdicts"]
    assert claim["row"] == "selma" and claim["over"] == "base"
    assert max(map(len, said.splitlines())) <= 80 or "Report:" in said
    assert "added up" in said and "77.7" in said and "experts gain" in said


def test_the_papers_table_is_shown_beside_its_rows_alone(
    compared: tuple[Path, str, dict[str, Any]],
) -> None:
    record = Compared.model_validate(compared[2])
    bare = tuple(row.model_copy(update={"paper": None}) for row in record.rows)
    titles = [sheet.title for sheet in sheets(record)]
    assert sum("Beside the paper's table" in title for title in titles) == 1
    rest = [sheet.title for sheet in sheets(record.model_copy(update={"rows": bare}))]
    assert rest == [title for title in titles if "Beside the paper's" not in title]


def test_a_gain_beside_the_papers_is_over_the_row_of_the_same_base(
    compared: tuple[Path, str, dict[str, Any]],
) -> None:
    """Of rows with another base than the comparison's: its own row is what they gain over."""
    record = Compared.model_validate(compared[2])
    assert {row.name: row.over for row in record.rows if row.paper} == {
        "coco": "coco",
        "selma": "coco",
    }
    told = []
    for scored in record.scored:
        gain = difference(scored.card, "selma", "coco")
        assert gain is not None
        other = gain.model_copy(
            update={"difference": gain.difference.model_copy(update={"mean": 9.87})}
        )
        others = [other if each == gain else each for each in scored.card.comparisons]
        card = scored.card.model_copy(update={"comparisons": tuple(others)})
        told.append(scored.model_copy(update={"card": card}))
    record = record.model_copy(update={"scored": tuple(told)})
    (sheet,) = (sheet for sheet in sheets(record) if "Beside the paper's" in sheet.title)
    (ours,) = (row for row in sheet.rows if row[0].text == "our gain over our base")
    assert ours[1].text == signed(9.87)


def test_a_second_run_makes_nothing(home: Path, compared: tuple[Path, str, dict[str, Any]]) -> None:
    before = finished(home / "run")
    pages = {p: p.read_bytes() for p in (home / "run" / "6-report").rglob("*") if p.is_file()}
    assert to_make(run(compared[0], "--dry-run")) == ["0"] * 5
    assert run(compared[0]).splitlines()[-1] == compared[1].splitlines()[-1]
    after = finished(home / "run")
    same = {path: value for path, value in before.items() if "6-report" not in path.parts}
    assert {path: after[path] for path in same} == same
    assert {p: p.read_bytes() for p in pages} == pages


def test_a_row_more_takes_what_is_there(
    home: Path, address: str, compared: tuple[Path, str, dict[str, Any]]
) -> None:
    before = finished(home / "run")
    rows = [
        *raw(home, address)["rows"],
        {"name": "longer", "settings": {"experts": {"steps": 3}}},
        {"name": "round2", "images_by": "selma"},
    ]
    path = written(home, address, "more", name="little", rows=rows)
    said = run(path, "--only", "round2", "--only", "longer", "--json", home / "more.json")
    assert "round2" in said and "longer" in said and "added up" not in said
    after = finished(home / "run")
    assert {file: after[file] for file in before if "6-report" not in file.parts} == {
        file: value for file, value in before.items() if "6-report" not in file.parts
    }
    assert len(list((home / "run" / "3-experts").glob("coco/*/manifest.json"))) == 3
    assert len(list((home / "run" / "2-images").glob("coco/*/manifest.json"))) == 2
    rows = json.loads((home / "more.json").read_text())["rows"]
    costs = {row["name"]: row["cost"] for row in rows}
    # What its teacher took is part of what it took.
    assert costs["round2"]["generated"] == 2 * costs["selma"]["generated"] == 32
    assert costs["round2"]["steps"] == 2 * costs["selma"]["steps"] == 8
    assert costs["round2"]["trained"] == 32


def test_the_page_is_a_section_and_loads_nothing(
    home: Path, compared: tuple[Path, str, dict[str, Any]]
) -> None:
    page = home / "run" / "6-report" / "compare.html"
    parsed = Parsed(page.read_text())
    assert "Recipes compared" in parsed.text and "added up" in parsed.text
    assert all(address.startswith(("data:", "#")) for address in addresses(parsed))
    assert sum(tag == "img" for tag, _ in parsed.tags) == 2 * 4
    assert [section.name for section in read_pages(Workspace(home / "run"))] == ["compare"]
    assert "| added up |" in (home / "run" / "6-report" / "compare.md").read_text()


def test_no_result_holds_a_path_of_the_machine(
    home: Path, compared: tuple[Path, str, dict[str, Any]]
) -> None:
    for file in (home / "run").rglob("*"):
        if file.is_file():
            assert str(home).encode() not in file.read_bytes(), file


def test_only_keeps_what_rows_are_compared_with(home: Path, address: str) -> None:
    plan = load_comparison(written(home, address, "few"))
    assert list(only(plan, ["coco"]).recipes) == ["base", "coco", "selma"]
    with pytest.raises(ConfigError, match="--only must name rows"):
        only(plan, ["other"])


def check(path: Path) -> Any:
    return CliRunner().invoke(cli.app, ["check", str(path)])


def test_check_tells_the_mistakes_of_all_rows_at_once(home: Path, address: str) -> None:
    rows = [
        {"name": "base", "model": "base"},
        {"name": "one", "settings": {"experts": {"stepz": 3}}},
        {"name": "two", "settings": {"images": {"steps": 0}}},
    ]
    shared = {"rows": rows, "against": None, "paper": None, "claims": []}
    result = check(written(home, address, "wrong", **shared))
    assert isinstance(result.exception, ConfigError)
    assert "experts.stepz" in str(result.exception) and "images.steps" in str(result.exception)
    assert "rows, one" in str(result.exception) and "rows, two" in str(result.exception)


def test_check_says_once_what_rows_have_in_common(home: Path, address: str) -> None:
    rows = [
        {"name": "base", "model": "base"},
        {"name": "one", "model": "expert"},
        {"name": "two", "model": "uniform"},
    ]
    run_settings = raw(home, address)["settings"]
    run_settings |= {"base": {"model": "nowhere at all", "device": "cpu"}}
    different = {"rows": rows, "against": None, "paper": None, "claims": []}
    result = check(written(home, address, "lost", settings=run_settings, **different))
    text = str(result.exception)
    assert text.count("nowhere at all") == 1
    assert "one: model: expert is for recipes with one expert, but this has 2" in text
    assert "two: model: uniform is beside searched weights" in text
    assert check(written(home, address, "right")).exit_code == 0


def test_a_judge_that_reports_on_any_benchmark_chooses_nothing(home: Path, address: str) -> None:
    asked = {"choose": {"questions": "toybox"}}
    nft = {"kind": "nft", "questions": "toybox"}
    whole = {"kind": "ddpo", "reward": "vqascore"}
    rows = [
        {"name": "base", "model": "base", "settings": {"images": asked}},
        {"name": "plain"},
        {"name": "chosen", "settings": {"images": asked}},
        {"name": "rewarded", "settings": {"experts": {"objective": nft}}},
        {"name": "whole", "settings": {"experts": {"objective": whole}}},
        {"name": "best", "model": "expert", "settings": {"experts": {"select": "dev"}}},
    ]
    two = [
        {"name": "one"},
        {"name": "two", "scores": {"judge": "toybox-b", "choosing_judge": "toybox-a"}},
    ]
    bare = {"rows": rows, "against": None, "paper": None, "claims": []}
    text = str(check(written(home, address, "leak", benchmarks=two, **bare)).exception)
    assert "chosen, rewarded, whole, best, guidances: scores.choosing_judge: toybox-b " in text
    alone = str(check(written(home, address, "leak", benchmarks=two[:1], **bare)).exception)
    assert "reports on" not in alone
    # The same weights under another name are the same judge.
    shutil.copytree(weights_of("judge-b"), home / "copy")
    copy = {"judge": {"kind": "transformers", "model": str(home / "copy")}}
    renamed = [two[0], {"name": "three", "scores": copy}]
    text = str(check(written(home, address, "leak", benchmarks=renamed, **bare)).exception)
    assert "toybox-b reports on three under the name copy, with the same weights" in text


def test_what_rewards_have_by_default_is_not_shared_by_rows(home: Path, address: str) -> None:
    nft = {"kind": "nft", "reward": "toybox"}
    shared = raw(home, address)["settings"] | {"name": "shared", "experts": {"objective": nft}}
    rows = [
        {"name": "base", "model": "base"},
        {"name": "nft"},
        {"name": "denoising", "settings": {"experts": {"objective": {"kind": "denoising"}}}},
    ]
    bare = {"rows": rows, "against": None, "paper": None, "claims": [], "settings": {}}
    for given, method, searched in (
        ({}, "mean_of_deltas", False),
        ({"method": "ties", "search": {"trials": 2}}, "ties", True),
    ):
        (home / "shared.yaml").write_text(yaml.safe_dump(shared | {"merged": given}))
        plan = load_comparison(written(home, address, "rows", config="shared.yaml", **bare))
        merged = {name: recipe.config.merged for name, recipe in plan.recipes.items()}
        assert merged["nft"].method == ("ties" if given else "sum_of_deltas")
        assert merged["nft"].search is not None
        assert merged["denoising"].method == method
        assert (merged["denoising"].search is not None) == searched


@pytest.mark.parametrize(
    ("different", "says"),
    [
        ({"against": "nobody"}, "against must be a row"),
        ({"rows": [{"name": "a"}]}, "rows must be two or more, but are 1"),
        ({"rows": [{"name": "a", "modle": "base"}, {"name": "b"}]}, "has 1 mistake"),
        ({"claims": [{"says": "c", "row": "sum", "over": "sum"}]}, "claims need two rows each"),
        ({"paper": None}, "rows, coco: paper needs the comparison's own"),
        ({"paper": "table9"}, "paper must be one of"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two are named a"),
        ({"rows": [{"name": f"r{n}"} for n in range(1001)]}, "rows must be at most 1,000"),
        ({"rows": [{"name": "a", "label": "x" * 201}, {"name": "b"}]}, "rows.0.label"),
        ({"notes": ["x" * 2001]}, "notes"),
        ({"rows": [{"name": "a"}, {"name": "A"}]}, "file: rows need a name each"),
        ({"rows": [{"name": "a", "settings": {"seed": 3}}, {"name": "b"}]}, "all rows share"),
        ({"rows": [{"name": "a", "images_by": "b"}, {"name": "b"}]}, "must be a row above it"),
        (
            {"rows": [{"name": "a", "paper": {"base": "SDXL", "method": "X"}}, {"name": "b"}]},
            "paper must be a row of",
        ),
    ],
)
def test_what_rows_may_not_say(
    home: Path, address: str, different: dict[str, Any], says: str
) -> None:
    bare = {"against": None, "claims": []} | different
    with pytest.raises(ConfigError, match=says):
        load_comparison(written(home, address, "refused", **bare))


def refused(*words: object) -> str:
    result = CliRunner().invoke(cli.app, [*map(str, words)])
    assert isinstance(result.exception, SelmaError), result.output
    return str(result.exception)


def test_a_run_and_a_comparison_take_no_folder_of_the_other(
    tmp_path: Path, home: Path, address: str
) -> None:
    file, folder = written(home, address, "apart"), tmp_path / "folder"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    for command in (["compare", file], ["compare", file, "--dry-run"], ["check", file]):
        assert "holds a run" in refused(*command, "--folder", folder)
    (folder / "run.json").rename(folder / "comparison.json")
    one = tmp_path / "one.yaml"
    one.write_text(yaml.safe_dump(settings(home, address, run="unused")))
    for command in ("run", "check", "images"):
        assert "is of `selma compare`" in refused(command, one, "--folder", folder)
    assert "is of `selma compare`" in refused("status", folder)


def test_other_commands_say_whose_file_it_is(home: Path, address: str) -> None:
    file = written(home, address, "whose")
    for command in ("run", "images", "sur train"):
        assert "it is a file for `selma compare`" in refused(*command.split(), file)


def test_memory_is_told_for_rows_that_differ(home: Path, address: str) -> None:
    result = CliRunner().invoke(cli.app, ["memory", str(written(home, address, "memory"))])
    assert result.exit_code == 0, result.output
    assert "generating" in result.output


def test_preferences_are_made_of_the_rows_own_candidates(home: Path, address: str) -> None:
    choose = {"candidates": 3, "scorer": "toybox"}
    pairs = {"of": "best_worst", "least_difference": 0.0}
    objective = {"kind": "dpo", "pairs": pairs}
    changes = {"images": {"choose": choose}, "experts": {"objective": objective, "steps": 2}}
    rows = [{"name": "base", "model": "base"}, {"name": "dpo", "settings": changes}]
    bare = {"rows": rows, "against": None, "paper": None, "claims": [], "guidances": []}
    path = written(home, address, "preferred", **bare)
    run(path)
    before = finished(home / "run")
    assert to_make(run(path, "--dry-run")) == ["0"] * 5
    run(path)
    after = finished(home / "run")
    assert {file for file in after if "6-report" not in file.parts} == {
        file for file in before if "6-report" not in file.parts
    }
