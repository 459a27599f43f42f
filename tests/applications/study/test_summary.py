"""The report's numbers: the paper's own votes, published agreement, unfinished annotators."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from selma.applications.study.agreement import alpha_interval, krippendorff_alpha, tally
from selma.applications.study.ballot import Ballot, Vote
from selma.applications.study.plan import Pair, Study, showings
from selma.applications.study.summary import COLUMNS, print_summary, summarise, write_votes

# Table 8 of arXiv:2403.06952: win, lose, tie of SDXL + SELMA against SDXL.
PAPER = {
    "localized": (19, 5, 12),
    "diffusiondb": (6, 5, 34),
    "countbench": (26, 11, 17),
    "coco": (35, 2, 47),
    "whoops": (21, 10, 26),
}
ALL = (241, 114, 245)  # the five splits and the other prompts
NAMES = ("Ada", "Ben", "Cleo")


def ballot(outcomes: dict[str, list[str]], groups: dict[str, str], *, seed: int = 0) -> Ballot:
    """outcomes: pair → each of NAMES' outcome, "" for none yet."""
    pairs = tuple(
        Pair(id=id, text=f"=text of {id}", group=groups[id], sha256=("a", "b")) for id in outcomes
    )
    study = Study(models=("base", "merged"), seed=seed, pairs=pairs)
    votes = []
    for index, name in enumerate(NAMES):
        for step, (pair, left) in enumerate(showings(study, name)):
            outcome = outcomes[pair.id][index]
            choice = {"win": ("right", "left")[left], "lose": ("left", "right")[left]}
            if outcome:
                votes.append(
                    Vote(annotator=name, pair=pair.id, step=step, left=left, seconds=2.0,
                         choice=choice.get(outcome, "tie"), time=1e9)  # type: ignore[arg-type]
                )  # fmt: skip
    return Ballot(study, list(NAMES), votes)


def papers_votes() -> Ballot:
    """The paper's 600 votes, three to a prompt; which prompt had which is not published."""
    rest = tuple(total - sum(split[i] for split in PAPER.values()) for i, total in enumerate(ALL))
    outcomes, groups = {}, {}
    for group, (win, lose, tie) in {**PAPER, "other": rest}.items():
        votes = ["win"] * win + ["lose"] * lose + ["tie"] * tie
        for i in range(len(votes) // 3):
            outcomes[f"{group}_{i}"] = votes[3 * i : 3 * i + 3]
            groups[f"{group}_{i}"] = group
    return ballot(outcomes, groups)


def test_the_papers_votes_give_its_published_percentages() -> None:
    summary = summarise(papers_votes(), resamples=500)
    assert (summary.votes, summary.prompts, summary.unfinished) == (600, 200, ())
    assert (summary.all.win, summary.all.lose, summary.all.tie) == ALL
    assert summary.all.percent is not None
    assert round(summary.all.percent.mean, 1) == 67.9  # figure 4, all
    for group, counts in PAPER.items():
        tallied = summary.groups[group]
        assert (tallied.win, tallied.lose, tallied.tie) == counts
    published = {"coco": 94.6, "localized": 79.2}  # section 5.5
    for group, percent in published.items():
        tallied = summary.groups[group]
        assert tallied.percent is not None
        assert round(tallied.percent.mean, 1) == percent
    assert summary.all.percent_ties_half is not None
    assert summary.all.percent_ties_half.mean == pytest.approx(
        100 * (241 + 245 / 2) / 600, abs=1e-5
    )


def test_the_interval_holds_the_percentage_and_knows_its_prompts() -> None:
    percent = summarise(papers_votes(), resamples=2000).all.percent
    assert percent is not None
    assert percent.low < 67.9 < percent.high and percent.low > 50
    # Resampling single votes, as if three on one prompt were independent, would be narrower.
    assert percent.high - percent.low > 2 * 1.96 * (67.9 * 32.1 / 355) ** 0.5
    assert percent.n < 200  # prompts with ties alone say nothing here


def test_undone_votes_and_unfinished_annotators() -> None:
    given = ballot({"a": ["win", "lose", ""], "b": ["tie", "", ""]}, {"a": "g", "b": "h"})
    undone = given.votes[0].model_copy(update={"undone": 2e9, "choice": "left", "time": 5e8})
    summary = summarise(given._replace(votes=[undone, *given.votes]), resamples=100)
    assert summary.votes == 3 and summary.unfinished == ("Ben", "Cleo")
    assert [(part.name, part.votes, part.of) for part in summary.annotators] == [
        ("Ada", 2, 2), ("Ben", 1, 2), ("Cleo", 0, 2),
    ]  # fmt: skip
    assert summary.annotators[2].median_seconds is None
    assert summary.groups["h"].percent is None  # ties alone
    assert summary.groups["h"].percent_ties_half is not None
    assert summary.groups["h"].percent_ties_half.mean == 50
    assert (summary.groups["g"].win, summary.groups["g"].lose) == (1, 1)


def test_no_votes_at_all_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    empty = ballot({"a": ["", "", ""]}, {"a": "g"})
    summary = summarise(empty)
    assert summary.votes == 0 and summary.all.percent is None and summary.alpha is None
    assert summary.left is None and summary.unfinished == NAMES
    print_summary(summary, Console())
    assert "Ada: 0 of 1, unfinished" in capsys.readouterr().out


def test_swapping_the_models_mirrors_everything() -> None:
    given = papers_votes()
    mirrored = given._replace(
        votes=[vote.model_copy(update={"left": 1 - vote.left}) for vote in given.votes]
    )
    a, b = summarise(given, resamples=200), summarise(mirrored, resamples=200)
    assert (a.all.win, a.all.lose) == (b.all.lose, b.all.win)
    assert a.all.percent and b.all.percent
    assert a.all.percent.mean == pytest.approx(100 - b.all.percent.mean, abs=1e-5)
    assert a.alpha == b.alpha and a.left == b.left


def test_the_export_has_every_vote_and_names_the_models(tmp_path: Path) -> None:
    given = papers_votes()
    undone = given.votes[0].model_copy(update={"undone": 1.5e9})
    write_votes(tmp_path / "votes.csv", given._replace(votes=[undone, *given.votes[1:]]))
    text = (tmp_path / "votes.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 600 and tuple(rows[0]) == COLUMNS
    assert rows[0]["undone"] == "2017-07-14T02:40:00.000+00:00" and rows[1]["undone"] == ""
    assert {row["left_model"] for row in rows} == {"base", "merged"}
    for row in rows:
        better = {"left": row["left_model"], "right": row["right_model"]}.get(row["choice"])
        assert row["outcome"] == {"merged": "win", "base": "lose", None: "tie"}[better]


# K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): one row for each observer,
# "." for missing values.
PUBLISHED = [
    (("0100000010", "1110010000"), 0.095),  # A: binary, two observers
    (("aabbdcccedda", "babbbccceddd"), 0.692),  # B: nominal, two observers
    (("123321412...", "1233224125.3", ".3332342251.", "12332441251."), 0.743),  # C: with gaps
]


@pytest.mark.parametrize(("rows", "alpha"), PUBLISHED)
def test_alpha_equals_the_published_examples(rows: tuple[str, ...], alpha: float) -> None:
    units = [[value for value in column if value != "."] for column in zip(*rows, strict=True)]
    counts = tally(units, sorted({value for unit in units for value in unit}))
    assert krippendorff_alpha(counts) == pytest.approx(alpha, abs=5e-4)


def test_alpha_by_hand() -> None:
    # Units ww, wl, ll; n = 6, n_w = n_l = 3, o_ww = o_ll = 2:
    # alpha = (5 * 4 - 12) / (30 - 12) = 8 / 18.
    assert krippendorff_alpha([[2, 0], [1, 1], [0, 2]]) == pytest.approx(8 / 18)
    assert krippendorff_alpha([[2, 0], [0, 2]]) == 1.0
    assert krippendorff_alpha([[1, 1], [1, 1]]) == pytest.approx(-0.5)  # (0 - 4) / (12 - 4)


def test_what_alpha_does_not_depend_on() -> None:
    table = [[2, 1, 0], [0, 3, 0], [1, 1, 1], [0, 0, 3]]
    alpha = krippendorff_alpha(table)
    assert krippendorff_alpha([row[::-1] for row in table[::-1]]) == pytest.approx(alpha)
    # A unit with a single value, or none, pairs with nothing.
    assert krippendorff_alpha([*table, [1, 0, 0], [0, 0, 0]]) == alpha


@pytest.mark.parametrize("table", [[[3, 0, 0]] * 5, [[1, 0, 0], [0, 1, 0]], [[0, 0, 0]]])
def test_without_difference_or_pairs_there_is_no_alpha(table: list[list[int]]) -> None:
    assert krippendorff_alpha(table) is None and alpha_interval(table, seed=0) is None


def test_alphas_interval_is_repeatable_and_narrows() -> None:
    table = [[3, 0, 0], [2, 1, 0], [0, 3, 0], [0, 1, 2], [1, 1, 1], [0, 0, 3]]
    wide, narrow = alpha_interval(table, seed=1), alpha_interval(table * 20, seed=1)
    assert wide is not None and narrow is not None and wide == alpha_interval(table, seed=1)
    assert wide.low < wide.mean < wide.high and (wide.n, narrow.n) == (6, 120)
    assert narrow.high - narrow.low < (wide.high - wide.low) / 2
