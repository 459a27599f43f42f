"""GenAI-Bench (arXiv:2406.13743): VQAScore, the probability of yes to one question, and votes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selma.errors import DataError
from selma.paths import AnyPath, as_path
from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.scores import MeasureInfo
from selma.scores.benchmarks.layouts import Benchmark, RemoteFile, Rules, head, in_folder, unsafe_id
from selma.scores.measures import Measure, chance, chance_of_first
from selma.scores.soft import QUESTION_ID
from selma.textfiles import parsed_json, read_text, require_writable
from selma.texts import printable, quoted

FILE, SKILLS = "genai_image.json", "genai_skills.json"
WORDS = 'Does this figure show "{text}"? Please answer yes or no.'
YES = ("Yes", "yes", " Yes", " yes", "YES")
"""The first is what VQAScore's program asks the probability of."""

_AT = "https://huggingface.co/datasets/BaiqiL/GenAI-Bench-1600/resolve/main"


def read_genai(path: Path) -> list[BenchmarkPrompt]:
    """Read GenAI-Bench's prompts, each with one question about all of it.

    path: genai_image.json, or the folder with it. Of a genai_skills.json beside it a prompt's tags
    are its skills; prompts without one are the group "no skill". Raises DataError.
    """
    file = in_folder(path, FILE)
    rows = _mapping(file)
    tags = _skills(file.with_name(SKILLS), rows)
    # Beside prompts with skills "all" would be read as the total.
    group = "no skill" if tags else "all"
    return [_prompt(file, id, row, tags.get(id, ()), group) for id, row in rows.items()]


def read_votes(path: AnyPath) -> dict[str, dict[str, tuple[float, ...]]]:
    """Model → prompt → people's votes, 1 to 5, on how well the model's image fits the prompt.

    path: as for `read_genai`. Raises DataError.
    """
    file = in_folder(as_path(path), FILE)
    votes: dict[str, dict[str, tuple[float, ...]]] = {}
    for id, row in _mapping(file).items():
        models = row.get("models", {}) if isinstance(row, dict) else None
        for model, given in models.items() if isinstance(models, dict) else [("models", models)]:
            if not (isinstance(given, list) and given and all(map(_is_vote, given))):
                raise DataError(
                    f"{file}, prompt {id}: votes on {model} must be numbers from 1 to 5, but are "
                    f"{quoted(given)}."
                )
            votes.setdefault(model, {})[id] = tuple(map(float, given))
    return votes


def _is_vote(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 5


def _mapping(file: Path) -> dict[str, Any]:
    try:
        content = parsed_json(read_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} must be a JSON file, but cannot be read: {error}.") from error
    if not isinstance(content, dict) or not content:
        raise DataError(f"{file} must be a JSON object of prompts, but is {quoted(content)}.")
    return require_writable(content, file)


def _prompt(file: Path, id: str, row: Any, tags: Sequence[str], group: str) -> BenchmarkPrompt:
    text = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(text, str) or not printable(text).strip():
        raise DataError(f"{file}, prompt {id}: prompt must be a text, but is {quoted(text)}.")
    if unsafe := unsafe_id(id):
        raise DataError(f"{file}: a prompt's id {unsafe}.")
    question = Question(
        id=QUESTION_ID, text=WORDS.format(text=text), category="global", spellings=YES
    )
    return BenchmarkPrompt(id=id, text=text, group=group, tags=tuple(tags), questions=(question,))


def _skills(file: Path, rows: Mapping[str, Any]) -> dict[str, list[str]]:
    """Prompt → its skills; {} without a file of them."""
    if not file.exists():
        return {}
    numbered = {int(id): id for id in rows if re.fullmatch(r"[0-9]{1,18}", id)}
    tags: dict[str, list[str]] = {}
    for skill, numbers in _mapping(file).items():
        if not isinstance(numbers, list):
            raise DataError(f"{file}: {skill!r} must list prompts, but is {quoted(numbers)}.")
        for number in numbers:
            id = numbered.get(number, "") if isinstance(number, int) else str(number)
            # The skills of all 1600 lie beside the 527 of the earlier paper, too.
            if id in rows:
                tags.setdefault(id, []).append(skill)
    return tags


def _tagged(prompts: Sequence[BenchmarkPrompt]) -> list[BenchmarkPrompt]:
    return [prompt for prompt in prompts if prompt.tags]


def _recognises(path: Path) -> bool:
    file = in_folder(path, FILE)
    text = head(file) if file.suffix == ".json" else ""
    begun = re.match(r'\s*\{\s*"\d+"\s*:\s*', text)
    try:
        first = json.JSONDecoder().raw_decode(text, begun.end())[0] if begun else None
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "prompt" in first


def _info(label: str, what: str) -> MeasureInfo:
    return MeasureInfo(
        label=label,
        meaning=f"the probability that the judge gives to {what} to the question whether an image "
        "shows its whole prompt, averaged over prompts",
        earns="the probability of yes",
    )


GENAI = Benchmark(
    name="genai-bench",
    layout="GenAI-Bench's genai_image.json, or the folder of its two files",
    measure=Measure(_info("VQAScore", "yes, however it is spelled,"), point=chance),
    released=Rules(
        Measure(_info("VQAScore, released", 'the token "Yes"'), point=chance_of_first),
        counted=_tagged,
        about='Only the token "Yes" counts, not "yes" or one with a blank, and prompts without a '
        "skill are left out.",
    ),
    recognises=_recognises,
    read=read_genai,
    files=(
        RemoteFile(FILE, f"{_AT}/{FILE}", sha256=None, max_bytes=16_000_000),
        RemoteFile(SKILLS, f"{_AT}/{SKILLS}", sha256=None, max_bytes=4_000_000, alone=False),
    ),
    source="arXiv:2406.13743; huggingface.co/datasets/BaiqiL/GenAI-Bench-1600",
    licence="not stated with the data; its program is Apache-2.0",
    known="Published VQAScores are CLIP-FlanT5-XXL's, which only t2v_metrics 3.0 runs; another "
    "judge's are on another scale.",
)
