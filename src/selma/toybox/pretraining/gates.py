"""The gates that toybox's bases pass before anything is concluded from them.

A base that has not converged, or on which guidance costs nothing, says nothing about a method that
is tried on it. `bench/gates.py` measures them and writes them to `pretraining.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma.randomness import rng
from selma.records.benchmarks import BenchmarkPrompt
from selma.toybox import BASES, WORLD
from selma.toybox.benchmark import Split, stated
from selma.toybox.captions import STYLES, caption
from selma.toybox.mismatch import ideal
from selma.workspace import file_sha256

GUIDANCES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0)
RESCALED = 0.7
"""What is taken back of guidance's wider spread in the tables' second row (arXiv:2305.08891)."""

JUDGES = ("judge-a", "judge-b")
MEASURED = "measured"
"""Where `pretraining.json` keeps measurements: base → "gates", "guidance", "losses", `RESTS_ON`."""
RESTS_ON = "rests_on"


@dataclass(frozen=True)
class Gate:
    """A measured number, and what it must lie between."""

    name: str
    meaning: str
    least: float | None = None
    most: float | None = None
    beside: str | None = None
    """If any, another gate's name: the bounds are of the difference to that one's number."""


GATES = (
    Gate("dsg_1", "DSG without guidance", least=50, most=62),
    Gate("dsg_best", "DSG at the best guidance", least=70, most=82),
    Gate("best_guidance", "the best guidance", least=3, most=6),
    Gate("dsg_9", "DSG at guidance 9", most=-2, beside="dsg_best"),
    Gate("ideal_9", "the ideal sampler's DSG at guidance 9", least=8, beside="dsg_best"),
    Gate("tags_minus_sentences", "DSG of tags minus that of sentences, equal facts", least=8),
    Gate("spatial", "relations that are right, at the best guidance", least=50),
    Gate("share_of_ideal", "DSG's share of the ideal sampler's at guidance 3", least=85),
    Gate("judge_a_degraded", "judge a's accuracy on degraded images", least=98),
    Gate("judge_b_degraded", "judge b's accuracy on degraded images", least=98),
)
"""In per cent or points, but for the guidance."""


def missed(measured: Mapping[str, float]) -> list[str]:
    """What keeps each gate that is not passed shut; [] if all are passed."""
    return [problem for gate in GATES for problem in _missed(gate, measured)]


def _missed(gate: Gate, measured: Mapping[str, float]) -> list[str]:
    if gate.name not in measured:
        return [f"{gate.name} ({gate.meaning}) must be measured, but is not."]
    value = measured[gate.name] - (measured[gate.beside] if gate.beside else 0.0)
    what = f"{gate.name} - {gate.beside}" if gate.beside else gate.name
    # Asked this way, what is no number passes neither.
    bounds = [(gate.least, "at least", not value >= (gate.least or 0)),
              (gate.most, "at most", not value <= (gate.most or 0))]  # fmt: skip
    return [
        f"{what} ({gate.meaning}) must be {words} {bound:g}, but is {value:.1f}."
        for bound, words, out in bounds
        if bound is not None and out
    ]


def gates(
    dsg: Mapping[float, float],
    ideals: Mapping[float, float],
    *,
    spatial: Mapping[float, float],
    tags_minus_sentences: float,
    judges: Mapping[str, float],
) -> dict[str, float]:
    """The measured gates, from guidance → the base's DSG, the ideal sampler's, and relations.

    judges: "judge-a" and "judge-b" → accuracy on degraded images.
    """
    best = best_guidance(dsg)
    return {
        "dsg_1": dsg[1.0],
        "dsg_best": dsg[best],
        "best_guidance": best,
        "dsg_9": dsg[9.0],
        "ideal_9": ideals[9.0],
        "tags_minus_sentences": tags_minus_sentences,
        "spatial": spatial[best],
        "share_of_ideal": 100 * dsg[3.0] / ideals[3.0],
        "judge_a_degraded": judges["judge-a"],
        "judge_b_degraded": judges["judge-b"],
    }


def best_guidance(dsg: Mapping[float, float]) -> float:
    """The guidance with the highest score; of equal ones the lowest."""
    return min(dsg, key=lambda guidance: (-dsg[guidance], guidance))


def ideal_score(prompts: list[BenchmarkPrompt], guidance: float, *, split: Split = "dev") -> float:
    """The DSG, 0-100, of someone who has learnt the captions exactly."""
    contents = stated(split)
    shares = []
    for prompt in prompts:
        content = contents[prompt.id]
        shares.append([*ideal(content.scene, content.style, guidance).values()])
    return 100 * sum(sum(row) / len(row) for row in shares) / len(shares)


def reworded(
    prompts: list[BenchmarkPrompt], *, tags: bool, split: Split = "dev"
) -> list[BenchmarkPrompt]:
    """The benchmark's own scenes as tags, or each as a sentence in a style drawn for it; ids and
    questions stay, so that prompts are paired."""
    contents, sentences = stated(split), [style for style in STYLES if style != "tags"]
    texts = {}
    for prompt in prompts:
        draw = rng(0, "gates", prompt.id)
        style = "tags" if tags else draw.choice(sentences)
        texts[prompt.id] = caption(contents[prompt.id].scene, style, draw)
    return [prompt.model_copy(update={"text": texts[prompt.id]}) for prompt in prompts]


def rests_on(base: str, weights: Path, *, prompts: int, steps: int) -> dict[str, Any]:
    """What a measurement is of: the world, the base with its sampler and tokenizer, both judges,
    how many dev prompts, in how many denoising steps."""
    prints = fingerprints(base, weights)
    return {"world": WORLD, "prompts": prompts, "steps": steps, "weights": prints}


def parts(base: str) -> tuple[str, ...]:
    """The weights that a base's gates rest on."""
    return (BASES[base], *JUDGES)


def fingerprints(base: str, weights: Path) -> dict[str, str]:
    """Part that a base's gates rest on → its fingerprint."""
    return {part: fingerprint(weights / part) for part in parts(base)}


def fingerprint(part: Path) -> str:
    """SHA-256 of all files of a part's folder with their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in part.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(part).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def without_outdated(notes: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """The notes of `pretraining.json`, without what was measured with other weights than those that
    lie there."""
    kept = {
        base: measured
        for base, measured in notes.get(MEASURED, {}).items()
        if measured.get(RESTS_ON, {}).get("weights") == fingerprints(base, weights)
    }
    others = {name: note for name, note in notes.items() if name != MEASURED}
    return others | {MEASURED: kept} if kept else others
