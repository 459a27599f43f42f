"""DPG-Bench: its columns, and both counts of the same answers, worked out by hand."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from selma.applications.evaluation.dsg import DsgRules, score_answers
from selma.applications.evaluation.images import score_images
from selma.errors import ConfigError, DataError
from selma.records.benchmarks import Answer, repeated
from selma.scores.benchmarks import DPG, benchmark_of, counted, layout_of, read_benchmark
from selma.scores.networks import Loaders

HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language"
)


def row(id: str, text: str, number: int, needs: object, kind: str, about: str, asks: str) -> str:
    broad, finer = kind.split(" - ")
    return f'{id},{text},word,{number},{needs},{broad},{finer},"{kind} ({about})",{asks}'


MILL, KITES, IRON = (
    ("0", "a mill by a pond"),
    ("partiprompts7", "two kites"),
    ("whoops3", "an iron"),
)
ROWS = (
    # The first prompt's second question needs its first, which the program never reads.
    row(*MILL, 1, 0, "entity - whole", "mill", "Is there a mill?"),
    row(*MILL, 2, 1, "relation - spatial", "mill, pond, by", "Is the mill by a pond?"),
    row(*KITES, 1, 0, "entity - whole", "kites", "Are there kites?"),
    row(*KITES, 2, 1, "other - count", "kites, ==2", "Are there two kites?"),
    row(*KITES, 3, 2, "attribute - color", "kites, red", "Are the kites red?"),
    # Parents that stand below their children: a pass down the rows sees the children first.
    row(*IRON, 1, 2, "attribute - state", "iron, on", "Does the iron glow?"),
    row(*IRON, 2, 3, "entity - part", "iron, plate", "Has the iron a plate?"),
    row(*IRON, 3, 0, "entity - whole", "iron", "Is there an iron?"),
)
PLAIN = DsgRules()


def write(folder: Path, *rows: str, name: str = "dpg_bench.csv") -> Path:
    path = folder / name
    path.write_text("\n".join((HEADER, *rows)) + "\n", "utf-8")
    return path


def answers(of: Mapping[str, Sequence[str]]) -> list[Answer]:
    """Prompt → its answers in order, y or n or another text."""
    words = {"y": "yes", "n": "no"}
    return [
        Answer(prompt_id=id, question_id=str(number), text=words.get(letter, letter))
        for id, letters in of.items()
        for number, letter in enumerate(letters, 1)
    ]


def scored(path: Path, given: Sequence[Answer], counting: Any, **how: Any) -> dict[str, Any]:
    rules = DPG.rules(counting)
    prompts = counted(read_benchmark(path), rules, named=str(path))
    seeds = how.get("seeds", 1)
    own = {"reading": rules.reading} | ({"zeroing": rules.zeroing} if rules.zeroing else {})
    known = {prompt.id for prompt in repeated(prompts, seeds)}
    return score_answers(
        repeated(prompts, seeds),
        [answer for answer in given if answer.prompt_id in known],
        rules=PLAIN.model_copy(update=own),
        measure=rules.measure,
        resamples=100,
        **how,
    )


def test_a_file_is_known_by_name_and_columns(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    assert layout_of(path) is DPG and layout_of(tmp_path) is DPG
    assert benchmark_of(str(write(tmp_path, *ROWS, name="mine.csv"))).name == "dsg-1k"
    prompts = read_benchmark(path)
    assert [prompt.group for prompt in prompts] == ["numbered", "partiprompts", "whoops"]
    kinds = [(q.category, q.detail) for q in prompts[1].questions]
    assert kinds == [
        ("entity", "entity - whole"),
        ("other", "other - count"),
        ("attribute", "attribute - color"),
    ]


def test_sound_and_released_rules_count_the_same_answers(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    given = answers({"0": "yy", "partiprompts7": "yny", "whoops3": "yyn"})
    sound = scored(path, given, "sound")
    # 2/2; a no takes the third's point: 1/3; the iron is not there, which takes all: 0/3.
    assert sound["score"] == pytest.approx(100 * (1 + 1 / 3 + 0) / 3, abs=1e-3)
    assert sound["categories"]["entity - whole"] == pytest.approx(200 / 3, abs=1e-3)
    assert sound["categories"]["attribute - color"] == 0
    released = scored(path, given, "released")
    # The first prompt is lost. Down the rows: 1/3; then y (its parent is yes as yet), 0, n: 1/3.
    assert released["score"] == pytest.approx(100 / 3, abs=1e-3)
    assert released["prompts"] == 2
    # Categories are of the answers themselves.
    assert released["categories"]["attribute - color"] == 100
    assert released["categories_broad"] == {
        "attribute": 100.0,  # colour yes, state yes
        "entity": pytest.approx(200 / 3, abs=1e-3),  # kites yes, plate yes, iron no
        "other": 0.0,
    }


def test_a_first_row_on_which_nothing_depends_costs_only_itself(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[1].replace(",2,1,", ",2,0,"), *ROWS[2:5]]
    path = write(tmp_path, *rows)
    given = answers({"0": "yn", "partiprompts7": "yyy"})
    assert scored(path, given, "sound")["score"] == 75.0
    assert scored(path, given, "released")["score"] == 50.0
    # Of a part of the prompts, the row that is skipped is still the file's first.
    part = counted(read_benchmark(path)[1:], DPG.rules("released"), named=str(path))
    assert [len(prompt.questions) for prompt in part] == [3]


def test_only_the_exact_word_counts_for_the_released_program(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    given = answers({"0": "yy", "partiprompts7": ("Yes", "y", "yes."), "whoops3": "yyy"})
    assert scored(path, given, "sound")["score"] == 100.0
    # "Yes" is none, which takes the second's point, and that the third's.
    assert scored(path, given, "released")["score"] == 50.0


def test_a_word_for_a_dependency_stops_the_released_program_alone(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS[:3], ROWS[3].replace(",2,1,", ",2,left,"))
    given = answers({"0": "yy", "partiprompts7": "yy"})
    assert scored(path, given, "sound")["score"] == 100.0
    with pytest.raises(DataError, match="as dependencies, but partiprompts7 has 'left'"):
        scored(path, given, "released")


def test_the_last_of_several_images_makes_the_released_categories(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    first = answers({"partiprompts7": "ynn", "whoops3": "yyy"})
    second = answers({"partiprompts7-1": "yyy", "whoops3-1": "yyn"})
    given = [*first, *second, *answers({"0": "yy", "0-1": "yy"})]
    sound = scored(path, given, "sound", seeds=2)
    assert sound["prompts"] == 3
    # Kites 1/3 and 3/3, the iron 3/3 and 0/3.
    assert sound["score"] == pytest.approx(100 * (1 + 2 / 3 + 1 / 2) / 3, abs=1e-3)
    assert sound["categories"]["attribute - color"] == 50
    released = scored(path, given, "released", seeds=2)
    # The iron's second image, down the rows: y, 0, n.
    assert released["score"] == pytest.approx(100 * (2 / 3 + 2 / 3) / 2, abs=1e-3)
    assert released["categories"]["attribute - color"] == 100
    assert released["categories"]["entity - whole"] == 50


class GreenJudge:
    """Says yes where an image is green, whatever is asked."""

    name = fingerprint = "green"

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        green = [image.convert("RGB").getpixel((1, 1)) == (0, 200, 0) for image in images]
        return [
            [("yes" if g else "no", float(g)) for _ in asked]
            for g, asked in zip(green, questions, strict=True)
        ]


def test_grids_are_cut_into_images_row_by_row(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)
    folder = tmp_path / "grids"
    folder.mkdir()
    # Prompt n has n + 1 green cells of four: the last of the grid is the last to become so.
    for n, id in enumerate(("0", "partiprompts7", "whoops3")):
        grid = Image.new("RGB", (16, 12), (200, 0, 0))
        for cell in range(n + 2):
            grid.paste(
                (0, 200, 0), (cell % 2 * 8, cell // 2 * 6, cell % 2 * 8 + 8, cell // 2 * 6 + 6)
            )
        grid.save(folder / f"{id}.png")
    load = Loaders(judge=lambda *_, **__: GreenJudge())
    how: dict[str, Any] = {"benchmark": str(path), "rules": PLAIN, "load": load, "resamples": 100}
    sound = score_images(folder, grid="2x2", **how)
    assert (sound["score"], sound["prompts"], sound["images_of_each"]) == (75.0, 3, 4)
    assert sound["measure"] == "DPG"
    assert sound["soft"]["mean"] == 75 and sound["soft"]["n"] == 3
    released = score_images(folder, grid="2x2", counting="released", **how)
    assert released["score"] == pytest.approx(100 * (3 / 4 + 4 / 4) / 2)
    assert released["categories_broad"]["entity"] == pytest.approx(200 / 3, abs=1e-3)
    assert "first row" in released["counting_about"]
    whole = score_images(folder, **how)
    assert whole["score"] == 100.0, "the first cell is green everywhere"
    with pytest.raises(DataError, match="must be a grid of 3 x 2 images"):
        score_images(folder, grid="3x2", **how)
    with pytest.raises(ConfigError, match="such as 2x2, but 'four' came"):
        score_images(folder, grid="four", **how)


def test_what_released_rules_leave_out_is_no_answer_that_nobody_asked_for(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "0,a mill,whole,1,0,entity,whole,entity - whole (mill),Is there a mill?",
        "0,a mill,whole,2,0,global,-,global - style (old),Is it old?",
    )
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8), (0, 200, 0)).save(folder / "0.png")
    load = Loaders(judge=lambda *_, **__: GreenJudge())
    how: dict[str, Any] = {"benchmark": str(path), "rules": PLAIN, "load": load, "resamples": 50}
    released = score_images(folder, counting="released", **how)
    assert (released["questions"], released["not_asked"]) == (1, [])
    assert list(released["answers"]["0"]) == ["1", "2"], "all answers are kept"


def test_other_benchmarks_have_rules_of_their_programs_only_if_they_differ(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a red cube\n")
    with pytest.raises(ConfigError, match="must be sound for prompts"):
        layout_of(tmp_path / "mine.txt").rules("released")


def test_an_independent_count_agrees_on_random_answers(tmp_path: Path) -> None:
    """The published program's arithmetic in other words, over many answers."""
    path = write(tmp_path, *ROWS)
    with path.open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)][1:]
    for seed in range(16):
        bits = {(r["item_id"], r["proposition_id"]): (seed * 2654435761 >> n & 1)
                for n, r in enumerate(rows)}  # fmt: skip
        totals = {}
        for id in ("partiprompts7", "whoops3"):
            state = {q: b for (i, q), b in bits.items() if i == id}
            for row in (r for r in rows if r["item_id"] == id):
                if any(not state[p] for p in row["dependency"].split(",") if p != "0"):
                    state[row["proposition_id"]] = 0
            totals[id] = sum(state.values()) / len(state)
        given = [Answer(prompt_id=i, question_id=q, text="yes" if b else "no")
                 for (i, q), b in bits.items() if i != "0"]  # fmt: skip
        given += answers({"0": "yy"})
        expected = 100 * sum(totals.values()) / len(totals)
        assert scored(path, given, "released")["score"] == pytest.approx(expected, abs=1e-3)
