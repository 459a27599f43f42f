"""What stands beside a score: what its judge is, what is known of such numbers, and how the judge
did where it was checked itself.

5-scores/judge-check/<setting>/check.json          `records.judges.JudgeCheck`
5-scores/judge-check/people/<setting>/people.json  `records.judges.PeopleCheck`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selma.backbones.judges.judge import Described, Judge
from selma.backbones.judges.loading import judge_kind
from selma.backbones.judges.wordings import CHOICES
from selma.config.scores import AnyJudge
from selma.record_files import read_record
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.judges import Checked, JudgeCheck, PeopleCheck
from selma.records.scores import JudgeInfo
from selma.scores.answering import has_choices, has_spellings
from selma.scores.benchmarks.layouts import Benchmark
from selma.scores.benchmarks.published import is_of
from selma.workspace import SCORES, Workspace, manifest

CHECKS = "judge-check"
"""The folder of checks in 5-scores."""
CHECK, PEOPLE = "check.json", "people.json"


def describe(
    judge: Judge, benchmark_prompts: Sequence[BenchmarkPrompt], *, choices: str
) -> JudgeInfo:
    """What the judge is, and how it is asked these questions; loads no weights.

    choices: wording of multiple-choice questions.
    """
    about = dict(judge.about) if isinstance(judge, Described) else {}
    if has_spellings(benchmark_prompts):
        about["wording"] = "the benchmark's, word for word"
    elif has_choices(benchmark_prompts):
        about["wording"] = CHOICES.get(choices, choices)
    return JudgeInfo(name=judge.name, fingerprint=judge.fingerprint, **about)


def known_of(
    benchmark: Benchmark, judge: AnyJudge, named: str, prompts: Sequence[BenchmarkPrompt]
) -> tuple[str, ...]:
    """What is known of the benchmark's and the judge's numbers that others do not reach; of the
    benchmark's only where these prompts, in what settings name, are those that were published."""
    known = benchmark.known if benchmark.known and is_of(benchmark, named, prompts) else ""
    return tuple(filter(None, (known, judge_kind(judge).known(judge))))


def judge_checks(folder: Workspace) -> dict[str, Checked]:
    """Fingerprint of each judge that was checked in this run → what was found of it."""
    root = folder.root / SCORES / CHECKS
    drawn = [read_record(path, JudgeCheck) for path in _finished(root, CHECK)]
    people = [read_record(path, PeopleCheck) for path in _finished(root / "people", PEOPLE)]
    by_people = {check.fingerprint: check for check in people}
    # Who is checked by people's votes is checked by drawn scenes first.
    return {
        check.fingerprint: Checked(drawn=check, people=by_people.get(check.fingerprint))
        for check in drawn
    }


def _finished(folder: Path, name: str) -> list[Path]:
    return [path for path in sorted(folder.glob(f"*/{name}")) if manifest(path.parent)]
