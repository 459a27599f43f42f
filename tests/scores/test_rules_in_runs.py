"""Rules in a run's scorecard: which were taken, what they left out, and measures beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from selma.backbones.judges.judge import FirstToken, Spelled
from selma.backbones.judges.loading import JudgeKind
from selma.config import load_config
from selma.config.scores import ScoresConfig
from selma.errors import ConfigError, ModelError
from selma.preflight import check
from selma.records.scores import Scorecard
from selma.registry import registered
from selma.report.tables import print_scorecard
from selma.scores.benchmarks import load_benchmark, measure_labelled
from selma.scores.networks import Loaders, ScoringNetworks
from selma.scores.scoring import read_answers, score_models
from selma.workspace import STAGES, Workspace

DPG = """\
item_id,text,proposition_id,dependency,category_broad,category_detailed,question_natural_language
0,a mill,1,0,entity,whole,Is there a mill?
0,a mill,2,1,attribute,color,Is it green?
kites1,green kites,1,0,entity,whole,Are there kites?
kites1,green kites,2,1,attribute,color,Are they green?
"""
GENEVAL2 = [
    {"prompt": "two green jars", "atom_count": 3, "skills": ["count", "attribute"],
     "vqa_list": [["How many jars are in the image?", "two"], ["Are they green?", "Yes"]]},
    {"prompt": "a jar", "atom_count": 4, "skills": ["object"],
     "vqa_list": [["Are there any jars?", "Yes"]]},
]  # fmt: skip


class Tone:
    """As sure of everything as an image is green; of what is green it says no where it is not."""

    def __init__(self, name: str) -> None:
        self.name, self.fingerprint = name, f"tone-{name}"

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        tones = [image.convert("RGB").getpixel((0, 0))[1] / 255 for image in images]  # type: ignore[index]
        return [
            [("yes" if tone > 0.5 or "green" not in q else "no", tone) for q in asked]
            for tone, asked in zip(tones, questions, strict=True)
        ]


class Speller(Tone):
    def spell(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[Spelled]]
    ) -> list[list[tuple[str, list[FirstToken]]]]:
        said = self.answer(images, [[q.text for q in asked] for asked in questions])
        return [
            [
                # One token for all spellings, which is as likely as half of the tone.
                (text, [("it", (tone or 0) / 2) for _ in question.spellings])
                for question, (text, tone) in zip(asked, group, strict=True)
            ]
            for asked, group in zip(questions, said, strict=True)
        ]


def carded(
    folder: Path, path: Path, tones: Mapping[str, int], kind: type[Tone] = Speller, **more: Any
) -> tuple[Scorecard, Workspace]:
    """The scorecard of models whose images all have one tone of green."""
    config = ScoresConfig.model_validate({"benchmark": str(path), "resamples": 200} | more)
    config = config.model_copy(update={"clip": None})
    prompts, run = load_benchmark(config), Workspace(folder / "run")
    images = {}
    for model, tone in tones.items():
        item = run.item("5-scores", "images", model, recipe={"tone": tone})
        if not item.done:
            item.begin()
            for prompt in prompts:
                Image.new("RGB", (8, 8), (0, tone, 0)).save(item.path / f"{prompt.id}.png")
            item.finish(item.path.glob("*.png"), {})
        images[model] = item.path
    networks = ScoringNetworks(config, Loaders(judge=lambda judge, **_: kind(str(judge))))
    roles = {model: model for model in tones}
    return score_models(prompts, images, config, run, roles=roles, seed=0, networks=networks), run


def printed(card: Scorecard) -> str:
    console = Console(record=True, width=160)
    print_scorecard(card, console)
    return console.export_text()


def test_released_rules_count_other_prompts_of_the_same_answers(tmp_path: Path) -> None:
    path = tmp_path / "dpg_bench.csv"
    path.write_text(DPG)
    tones = {"base": 100, "merged": 255}
    sound, run = carded(tmp_path, path, tones)
    assert (sound.measure, sound.rules, sound.rules_about) == ("DPG", "sound", "")
    assert [model.score.mean for model in sound.models] == [50, 100]
    assert sound.models[0].score.n == 2
    before = (run.root / "5-scores/answers/base/answers.jsonl").read_bytes()
    released, _ = carded(tmp_path, path, tones, rules="released")
    # The first row is skipped, and with it its prompt, of which a question depends on it.
    assert released.measure == "DPG, released" and released.models[0].score.n == 1
    assert released.zeroing == "row_order" and "first row" in released.rules_about
    assert released.models[0].details["attribute - color"].mean == 0
    assert (run.root / "5-scores/answers/base/answers.jsonl").read_bytes() == before
    answers = {(a.prompt_id, a.question_id): a.verdict for a in read_answers(run, "base")}
    assert answers == {
        ("0", "1"): None,
        ("0", "2"): None,
        ("kites1", "1"): "yes",
        ("kites1", "2"): "no",
    }
    assert measure_labelled("DPG, released").label == "DPG, released"
    assert "Released rules: The first row" in printed(released)
    assert "Released" not in printed(sound)


def test_measures_beside_the_score_have_differences_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "geneval2_data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in GENEVAL2))
    card, _ = carded(tmp_path, path, {"base": 51, "merged": 255})
    assert card.measure == "Soft-TIFA GM"
    base, merged = card.models
    # One token for all spellings counts once, half of 51/255 and of 1.
    assert base.score.mean == pytest.approx(10, abs=1e-2)
    assert merged.score.mean == pytest.approx(50)
    assert base.beside["Soft-TIFA AM"].mean == pytest.approx(10, abs=1e-2)
    assert not base.beside_differences
    assert merged.beside_differences["Soft-TIFA AM"].mean == pytest.approx(40, abs=1e-2)
    assert set(base.groups) == {"3 atoms", "4 atoms"}
    assert base.soft is None, "the score itself is of probabilities"
    assert "Soft-TIFA AM" in printed(card)
    twice, _ = carded(tmp_path, path, {"base": 51, "merged": 255}, rules="released")
    # Six spellings of two, four of yes: (6 x 4)^(1/2) and 4 times a half, in the mean.
    expected = 100 * ((24**0.5 + 4) / 2) / 2
    assert twice.models[1].score.mean == pytest.approx(expected, abs=1e-2)
    assert "counts twice" in twice.rules_about


def test_a_judge_that_tells_no_probabilities_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "geneval2_data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in GENEVAL2))
    with pytest.raises(ModelError, match="but toybox-a tells none"):
        carded(tmp_path, path, {"base": 51, "merged": 255}, Tone)


def test_selma_check_names_a_judge_that_tells_no_probabilities(tmp_path: Path) -> None:
    (tmp_path / "geneval2_data.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in GENEVAL2)
    )
    path = tmp_path / "config.yaml"
    path.write_text("scores: {benchmark: geneval2_data.jsonl, judge: mute}\n")
    mute = JudgeKind("mute", lambda judge, setting: Tone("mute"))
    with registered("selma.judges", mute), pytest.raises(ConfigError) as told:
        check(load_config(path), STAGES)
    assert "scores.judge: mute does not tell how likely its words are" in str(told.value)
    assert "scores.choosing_judge" not in str(told.value)


def test_a_zeroing_beside_released_rules_is_theirs_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dpg_bench.csv"
    path.write_text(DPG)
    named: dict[str, Any] = {"benchmark": str(path), "rules": "released"}
    for zeroing in ("none", "cascading"):  # also what would be taken if none were named
        with pytest.raises(ConfigError, match=r"scores\.zeroing must be row_order, or be left out"):
            carded(tmp_path, path, {"base": 51}, rules="released", zeroing=zeroing)
    card, _ = carded(tmp_path, path, {"base": 51}, rules="released", zeroing="row_order")
    assert card.zeroing == "row_order"
    further = ScoresConfig.model_validate(
        {"further": {"x": named | {"zeroing": "none"}, "y": named}, "zeroing": "one_level"}
    )
    (tmp_path / "config.yaml").write_text("scores: {prompts: 2}\n")
    config = load_config(tmp_path / "config.yaml").model_copy(update={"scores": further})
    with pytest.raises(
        ConfigError, match=r"scores\.further\.x\.zeroing must be row_order"
    ) as caught:
        check(config)
    assert "further.y" not in str(caught.value), "what it takes over from scores it did not name"
    assert further.of("y").zeroing == "one_level" and further.model_fields_set == {
        "further", "zeroing"
    }  # fmt: skip
