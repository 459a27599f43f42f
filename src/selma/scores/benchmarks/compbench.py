"""T2I-CompBench (arXiv:2307.06350): its BLIP-VQA part, one question for each noun phrase."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from selma.errors import DataError
from selma.records.benchmarks import Answer, BenchmarkPrompt, Question
from selma.records.parses import Parse
from selma.records.scores import MeasureInfo
from selma.scores.benchmarks.layouts import Benchmark, RemoteFile, Rules
from selma.scores.faithfulness import Verdict
from selma.scores.measures import Measure, product
from selma.textfiles import read_text

KINDS = ("color", "shape", "texture")
"""What its BLIP-VQA part is about; other kinds of its prompts have other judges."""
NO_THINGS = ("top", "the side", "the left", "the right")
MOST_PHRASES = 8
WHOLE = "whole"
"""The question about a prompt without a noun phrase."""

_AT = (
    "https://raw.githubusercontent.com/Karine-Huang/T2I-CompBench/"
    "1b7094991a57f3c22abdd4f6e8ba6c1a15517073/examples/dataset"
)
_SUMS = {
    "color": "1634259756dbc77d13093d907d414480080ec9790a8c97ad09efaea7b2534f2d",
    "shape": "37e1a276906c7ea9516cbd7ac8501be896006c0c17ca7344f260562834455bae",
    "texture": "fbb5363515b4a28009e360afaaaf389d2dd2289e50dbb0c6ef4ea0c7fe4f3d4f",
}


def read_compbench(path: Path) -> list[BenchmarkPrompt]:
    """Read <kind>_val.txt, or those of a folder. Prompts are named <kind>_<line>, from 000.

    Noun phrases are found by spaCy's small English model, as by its program. Raises DataError, or
    ModelError where that model is not installed.
    """
    from selma.backbones.parsers import PARSERS

    files = [path / _file(kind) for kind in KINDS] if path.is_dir() else [path]
    named = [(file.name.removesuffix("_val.txt"), file) for file in files if file.is_file()]
    texts = [
        (f"{kind}_{number:03d}", kind, line.strip())
        for kind, file in named
        for number, line in enumerate(read_text(file).strip().split("\n"))
    ]
    if empty := [id for id, _, text in texts if not text]:
        raise DataError(f"{path} must have a prompt in each line, but {empty[0]} has none.")
    parses = PARSERS["spacy"].parse([text for _, _, text in texts])
    return [
        BenchmarkPrompt(id=id, text=text, group=kind, questions=_questions(text, parse, kind))
        for (id, kind, text), parse in zip(texts, parses, strict=True)
    ]


def _questions(text: str, parse: Parse, kind: str) -> tuple[Question, ...]:
    phrases = noun_phrases(text, parse)
    asked = {str(n): phrase for n, phrase in enumerate(phrases, 1)} or {WHOLE: text}
    return tuple(
        Question(id=id, text=_question(phrase), category=kind) for id, phrase in asked.items()
    )


def noun_phrases(text: str, parse: Parse) -> list[str]:
    """The noun phrases of a prompt that are asked for, 8 at most."""
    phrases = [
        text[parse.words[first].span[0] : parse.words[after - 1].span[1]]
        for first, after in parse.chunks
    ]
    return [phrase for phrase in phrases if phrase not in NO_THINGS][:MOST_PHRASES]


def _question(phrase: str) -> str:
    # In the form in which its copy of BLIP reads questions.
    return re.sub(r"[.!\"()*#:;~]", "", f"{phrase}?".lower()).rstrip(" ")


def chance_of_yes(answer: Answer, verdict: Verdict) -> float:
    """P(yes), shared between yes and no alone. Raises DataError if the judge told none."""
    if answer.yes is None:
        raise DataError(
            "The score is made of probabilities, but the judge told none for question "
            f"{answer.question_id} of {answer.prompt_id}. Name a judge that does: a local one, or "
            "a server that gives log-probabilities."
        )
    return answer.yes


def _released_point(answer: Answer, verdict: Verdict) -> float:
    return 1.0 if answer.question_id == WHOLE else chance_of_yes(answer, verdict)


def _rounded(points: Sequence[float]) -> float:
    return len(points) * round(product(points) / len(points), 4)


def _about(label: str) -> MeasureInfo:
    return MeasureInfo(
        label=label,
        meaning="the product of the probabilities of yes to the question for each noun phrase of a "
        "prompt, averaged over prompts",
        earns="the probability of yes",
    )


def _file(kind: str) -> str:
    return f"{kind}_val.txt"


def _recognises(path: Path) -> bool:
    if path.is_dir():
        return any((path / _file(kind)).is_file() for kind in KINDS)
    return path.name in {_file(kind) for kind in KINDS}


COMPBENCH = Benchmark(
    name="t2i-compbench",
    layout="T2I-CompBench's color_val.txt, shape_val.txt, texture_val.txt, or a folder of them",
    measure=Measure(_about("BLIP-VQA"), point=chance_of_yes, earned=product),
    released=Rules(
        Measure(_about("BLIP-VQA, released"), point=_released_point, earned=_rounded),
        about="A prompt without a noun phrase scores 1, unseen, and prompts' scores have four "
        "decimals.",
    ),
    recognises=_recognises,
    read=read_compbench,
    files=tuple(
        RemoteFile(_file(kind), f"{_AT}/{_file(kind)}", sha256=sha256, max_bytes=1_000_000)
        for kind, sha256 in _SUMS.items()
    ),
    source="arXiv:2307.06350; github.com/Karine-Huang/T2I-CompBench",
    licence="MIT",
    known="Its other parts need UniDet, which does not install with torch of today; no overall "
    "number is made without them.",
)
