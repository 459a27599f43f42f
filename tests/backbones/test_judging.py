"""Judges and the CLIP scorer: small networks of the real classes, and toybox's own if made."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from pydantic import ValidationError
from transformers import CLIPConfig, CLIPModel

from selma.applications.evaluation.images import judge_from
from selma.backbones.judges.loading import load_judge, load_scorer
from selma.backbones.judges.toybox import ClipScorer, ToyboxJudge, pixels
from selma.config.scores import SHORT_JUDGES, LocalJudge, ScoresConfig
from selma.errors import ConfigError, ModelError
from selma.scores.faithfulness import normalise
from selma.toybox.judges import VqaConfig, VqaModel
from selma.toybox.questions import ask as in_words
from selma.toybox.questions import sample_claim
from selma.toybox.scenes import COLOURS, FINE_GRID_PX, paint, place, sample_scene

WORDS = ("is", "there", "a", "the", "cat", "dog", "red")
QUESTIONS = [
    ["Is there a cat?", "Is the cat red?"],
    [],
    ["Is there a dog?"],
    ["Is there a red cat?"],
]


def images() -> list[Image.Image]:
    names = ("red", "green", "blue", "white")
    return [Image.new("RGB", (64, 64), COLOURS[name]) for name in names]


@pytest.fixture(params=["attention", "modulation"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    VqaModel(VqaConfig(architecture=request.param, vocabulary=WORDS, width=16, layers=1)).save(
        tmp_path
    )
    return tmp_path


def test_every_question_of_every_image_is_answered(folder: Path) -> None:
    answers = ToyboxJudge("x", folder).answer(images(), QUESTIONS)
    assert [len(some) for some in answers] == [2, 0, 1, 1]
    for text, chance in (answer for some in answers for answer in some):
        assert chance is not None and 0 <= chance <= 1
        assert text == ("yes" if chance >= 0.5 else "no")


def test_a_question_of_other_words_is_not_answered(folder: Path) -> None:
    judge = ToyboxJudge("x", folder)
    long = " ".join(["cat"] * 13)
    unread = ["Is there a giraffe?", "?", long]
    assert judge.unread([QUESTIONS[0][0], *unread]) == unread
    (plain,) = judge.answer(images()[:1], [QUESTIONS[0]])
    (mixed,) = judge.answer(images()[:1], [[unread[0], *QUESTIONS[0], *unread[1:]]])
    assert mixed[1:3] == plain
    assert [mixed[0], *mixed[3:]] == [("not read", None)] * 3
    assert normalise(mixed[0][0]) == "unreadable"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_no_answer(folder: Path, batch_size: int) -> None:
    whole = ToyboxJudge("x", folder, batch_size=64).answer(images(), QUESTIONS)
    assert ToyboxJudge("x", folder, batch_size=batch_size).answer(images(), QUESTIONS) == whole
    alone = [ToyboxJudge("x", folder).answer([p], [q])[0]
             for p, q in zip(images(), QUESTIONS, strict=True)]  # fmt: skip
    assert alone == whole


def test_the_fingerprint_follows_the_weights(folder: Path) -> None:
    before = ToyboxJudge("x", folder).fingerprint
    assert before == ToyboxJudge("y", folder).fingerprint
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert ToyboxJudge("x", folder).fingerprint != before


def test_clip_scores_are_cosines_that_no_neighbour_changes(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2}  # fmt: skip
    text = part | {"vocab_size": len(tokenizer), "max_position_embeddings": 24,
                   "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=part | {"image_size": 64, "patch_size": 16})
    CLIPModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["a cat", "a red dog", "", "long " * 40]
    scores = ClipScorer("x", tmp_path).score(images(), texts)
    assert all(-100 <= score <= 100 for score in scores) and len(set(scores)) == 4
    assert ClipScorer("x", tmp_path, batch_size=1).score(images(), texts) == scores


def test_pixels_are_scaled_and_resized() -> None:
    white = Image.new("L", (100, 30), 255)
    black = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    found = pixels([white, black])
    assert found.shape == (2, 3, 64, 64)
    assert found[0].min() == 1 and found[1].max() == -1


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"scores\.judge: must be a judge \(toybox-a, toybox-b,"):
        load_judge("gpt")
    with pytest.raises(ModelError, match="must be toybox"):
        load_scorer("gpt")


@pytest.mark.parametrize("name", ["toybox-a", "toybox-b"])
def test_toyboxs_judges_see_what_is_drawn(name: str) -> None:
    numbers = random.Random(7)
    generated, questions, truth = [], [], []
    for _ in range(60):
        scene = sample_scene(numbers)
        placed = place(scene, numbers, grid_px=FINE_GRID_PX)
        generated.append(Image.fromarray(paint(scene, placed)))
        claims = [sample_claim(scene, placed, numbers) for _ in range(4)]
        many = {group.kind: group.count != 1 for group in scene.groups}
        questions.append([in_words(claim, many) for claim, _ in claims])
        truth += [true for _, true in claims]
    said = [
        text == "yes" for some in load_judge(name).answer(generated, questions) for text, _ in some
    ]
    right = sum(a == b for a, b in zip(said, truth, strict=True)) / len(truth)
    assert right > 0.93


@pytest.mark.parametrize("name", SHORT_JUDGES)
def test_a_short_name_stands_for_a_judges_settings(name: str) -> None:
    config = ScoresConfig.model_validate({"judge": name})
    assert config.judge == LocalJudge.model_validate(SHORT_JUDGES[name]) == judge_from(name)
    assert ScoresConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValidationError, match="must differ"):
        ScoresConfig.model_validate({"judge": name, "choosing_judge": SHORT_JUDGES[name] | {
            "kind": "transformers"}})  # fmt: skip
    with pytest.raises(ValidationError, match=f"must be toybox-a, toybox-b.*{name}"):
        ScoresConfig.model_validate({"judge": "qwen9"})
