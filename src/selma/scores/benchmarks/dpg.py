"""DPG-Bench (ELLA, arXiv:2403.05135): 1065 long prompts, with questions in DSG-1k's columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from selma.errors import DataError
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.scores import MeasureInfo
from selma.scores.benchmarks.dsg import COLUMNS, has_layout, read_dsg
from selma.scores.benchmarks.layouts import Benchmark, RemoteFile, Rules, in_folder
from selma.scores.measures import Measure, by_itself
from selma.textfiles import csv_rows

FILE = "dpg_bench.csv"
_EARNS = "a plain yes"


def read_dpg(path: Path) -> list[BenchmarkPrompt]:
    """Read all prompts of DPG-Bench's file, or of the folder of `selma data fetch dpg-bench`.

    Categories are those of the column `tuple`, as its own tables have them: "entity" with the finer
    "entity - whole". A prompt's group is the letters that its id begins with. Raises DataError.
    """
    path = in_folder(path, FILE)
    kinds = _kinds(path)
    return [
        prompt.model_copy(
            update={
                "group": _group(prompt.id),
                "questions": tuple(_placed(q, kinds[prompt.id, q.id]) for q in prompt.questions),
            }
        )
        for prompt in read_dsg(path)
    ]


def _kinds(path: Path) -> dict[tuple[str, str], str]:
    """(prompt, question) → its finer category, with the broad one before a dash."""
    kinds = {}
    for _, cells in csv_rows(path, COLUMNS):
        ids = cells["item_id"].strip(), cells["proposition_id"].strip()
        kinds[ids] = cells.get("tuple", "").partition("(")[0].strip() or " - ".join(
            cells[name].strip() for name in ("category_broad", "category_detailed")
        )
    return kinds


def _placed(question: Question, kind: str) -> Question:
    return question.model_copy(update={"category": kind.partition("-")[0].strip(), "detail": kind})


def _group(id: str) -> str:
    letters = re.match(r"[A-Za-z]+", id)
    return letters[0] if letters else "numbered"


def _counted_by_release(prompts: Sequence[BenchmarkPrompt]) -> list[BenchmarkPrompt]:
    """All but the file's first question, and prompts with a question that depends on none of its
    prompt's: there the program stops, and goes on with the next image.

    Raises DataError for a dependency that is no number, with which it does not start.
    """
    first, *others = prompts
    left = [first.model_copy(update={"questions": first.questions[1:]}), *others]
    counting = []
    for prompt in left:
        known = {question.id for question in prompt.questions}
        parents = {parent for question in prompt.questions for parent in question.parents}
        if words := sorted(parent for parent in parents if not parent.isdecimal()):
            raise DataError(
                f"DPG-Bench's own program needs numbers as dependencies, but {prompt.id} has "
                f"{words[0]!r}. Set scores.rules to sound, or take the published file."
            )
        if known and parents <= known:
            counting.append(prompt)
    return counting


def _is_dpg(path: Path) -> bool:
    file = in_folder(path, FILE)
    return file.name.lower().startswith("dpg") and has_layout(file)


DPG = Benchmark(
    name="dpg-bench",
    layout="DPG-Bench's CSV (its columns are DSG-1k's, so that its name must begin with dpg)",
    measure=Measure(
        MeasureInfo(
            label="DPG",
            meaning="the share of yes/no questions about an image that are answered as a faithful "
            "one makes them, averaged over prompts",
            earns=_EARNS,
        )
    ),
    released=Rules(
        Measure(
            MeasureInfo(
                label="DPG, released",
                meaning="the number of DPG-Bench's own program: the share of yes answers, without "
                "the file's first question, averaged over prompts",
                earns=_EARNS,
            ),
            category_point=by_itself,
            last_image=True,
        ),
        zeroing="row_order",
        reading="exact",
        counted=_counted_by_release,
        about="The first row of the file is skipped, and its prompt with it if a question depends "
        "on that row. Only the exact text yes counts. A no takes points in the order of the rows. "
        "Categories are of each prompt's last image alone, and no dependency takes their points.",
    ),
    detailed=True,
    recognises=_is_dpg,
    read=read_dpg,
    files=(
        RemoteFile(
            FILE,
            "https://raw.githubusercontent.com/TencentQQGYLab/ELLA/"
            "3c228f1dc6c4d3cad0a47493816151a419f14db3/dpg_bench/dpg_bench.csv",
            sha256=None,
            max_bytes=32_000_000,
            git_blob="98457fc9901943f51ff9a30367250fc292533bed",
        ),
    ),
    source="arXiv:2403.05135; github.com/TencentQQGYLab/ELLA",
    licence="Apache-2.0",
    known="Others do not reach published numbers with the released program: 81.5 for 83.5 "
    "(Infinity, issue 103), 78.5 for 84.3 (Lumina-mGPT 2.0, 25), 82.3 for 87.7 (X-Omni, "
    "17).",
)
