"""Judges run by transformers: every architecture, equal to its own generate, batch by batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_judges
import torch
from PIL import Image

from selma.backbones.image_processors import load_processor
from selma.backbones.judges.loading import load_judge
from selma.backbones.judges.vqa import VqaJudge
from selma.backbones.judges.wordings import MultipleChoice
from selma.config.scores import LocalJudge
from selma.errors import ConfigError, ModelError

QUESTIONS = [
    ["Is there a dog?", "Is the cat left of the red tree, or right of the one blue car?", "Is it?"],
    [],
    ["Are there two cats?"],
    ["Is there a green tree?", "What?"],
]
WORDING = {
    "blip": "{}",
    "blip2-t5": "Question: {} Short answer:",
    "blip2-opt": "Question: {} Answer:",
    "instructblip": "Question: {} Short answer:",
    "paligemma": "answer en {}",
    **dict.fromkeys(tiny_judges.CHATS, "{} Please answer yes or no."),
}


def images() -> list[Image.Image]:
    numbers = np.random.default_rng(0)
    sizes = [(40, 40), (32, 32), (48, 32), (20, 36)]
    return [Image.fromarray(numbers.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]


def judge(shape: str, **settings: Any) -> VqaJudge:
    how = {"max_new_tokens": 4, "device": "cpu"} | settings
    return VqaJudge(LocalJudge(model=str(tiny_judges.folder(shape)), **how))


def own_answer(one: VqaJudge, shape: str, image: Image.Image, question: str) -> tuple[str, float]:
    """What the model's own processor and generate make of a single question."""
    import transformers

    source, family, text = str(tiny_judges.folder(shape)), one._family, WORDING[shape].format
    if shape in ("paligemma", *tiny_judges.CHATS):
        processor = family.processor
        shown = f"<image>{text(question)}"
        if shape != "paligemma":
            shown = family._asked(text(question))
    else:
        processor, shown = transformers.AutoProcessor.from_pretrained(source), text(question)
    inputs = processor(images=[image], text=[shown], return_tensors="pt")
    inputs.pop("labels", None)
    written = family.model.generate(**inputs, generation_config=one._decoding)
    first = written.logits[0][0].softmax(dim=0)

    def chance(word: str) -> float:
        forms = [space + form for space in ("", " ") for form in (word, word.title(), word.upper())]
        read = [family.tokenizer(form, add_special_tokens=False).input_ids for form in forms]
        return sum(float(first[token]) for token in {t for t, *more in read if not more})

    yes, no = chance("yes"), chance("no")
    new = written.sequences[0][-len(written.logits) :]
    ends = [int(token) in one._decoding.eos_token_id for token in new]
    new = new[: ends.index(True)] if any(ends) else new
    return family.tokenizer.decode(new, skip_special_tokens=True).strip(), yes / (yes + no)


@pytest.mark.parametrize("shape", tiny_judges.SHAPES)
def test_answers_are_those_of_the_models_own_generate(shape: str) -> None:
    one, shown = judge(shape), images()
    answers = one.answer(shown, QUESTIONS)
    assert [len(some) for some in answers] == [3, 0, 1, 2]
    for image, questions, said in zip(shown, QUESTIONS, answers, strict=True):
        for question, (text, chance) in zip(questions, said, strict=True):
            own_text, own_chance = own_answer(one, shape, image, question)
            assert text == own_text
            assert chance == pytest.approx(own_chance, abs=2e-4)
    # Random weights still tell pictures and questions apart; else the test would show nothing.
    assert len({chance for said in answers for _, chance in said}) == 6


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("shape", tiny_judges.SHAPES)
def test_no_batch_changes_an_answer(shape: str, beams: int) -> None:
    shown = images()
    whole = judge(shape, beams=beams).answer(shown, QUESTIONS)
    one = judge(shape, beams=beams, batch_size=1)
    alone = [[one.answer([p], [[q]])[0][0] for q in some]
             for p, some in zip(shown, QUESTIONS, strict=True)]  # fmt: skip
    assert whole == alone
    backwards = judge(shape, beams=beams, batch_size=2).answer(shown[::-1], QUESTIONS[::-1])
    assert backwards[::-1] == whole


@pytest.mark.parametrize("shape", tiny_judges.SHAPES)
def test_each_image_is_encoded_once(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, seen = judge(shape), []
    model = one._family.model
    tower = getattr(model, "vision_model", None) or model.base_model
    tower = getattr(tower, "visual", None) or getattr(tower, "vision_tower", None) or tower
    hook = tower.register_forward_hook(
        lambda module, given, kwargs, out: seen.append(
            len(kwargs["pixel_values"]) if "blip" in shape else 1
        ),
        with_kwargs=True,
    )
    one.answer(images(), QUESTIONS)
    hook.remove()
    assert sum(seen) == len(images())


def test_choices_are_put_by_a_named_wording() -> None:
    one, asked = judge("blip2-t5"), []
    say = one._say

    def listen(shown: Sequence[Image.Image], texts: Sequence[Sequence[str]]) -> Any:
        asked.extend(texts)
        return say(shown, texts)

    one._say = listen  # type: ignore[method-assign]
    question = MultipleChoice("What colour is it?", ("red", "blue"))
    answers = one.choose(images()[:1], [[question]])
    assert isinstance(answers[0][0], str)
    one.choose(images()[:1], [[question]], words="tifa")
    assert asked == [
        ["Question: What colour is it? Options: red, blue Answer:"],
        [
            "Answer the multiple-choice question. Question: What colour is it? Choices: red, blue "
            "Answer:"
        ],
    ]


def test_a_tokenizer_without_the_words_gives_no_probability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_judges, "WORDS", [w for w in tiny_judges.WORDS if w.lower() != "no"])
    tiny_judges.build("blip", tmp_path)
    one = VqaJudge(LocalJudge(model=str(tmp_path), max_new_tokens=2, device="cpu"))
    assert [chance for _, chance in one.answer(images()[:1], [["Is it?"]])[0]] == [None]


SAME = [{"batch_size": 1}, {"device": "cpu"}, {"length_penalty": 2.0}, {"prompt": "bare"},
        {"prompt": "{question}"}]  # fmt: skip
OTHER = [
    {"prompt": "yes_or_no"},
    {"prompt": "Look. {question}"},
    {"beams": 2},
    {"beams": 2, "length_penalty": 2.0},
    {"max_new_tokens": 5},
    {"repetition_penalty": 1.5},
    {"precision": "bf16"},
]


def test_the_fingerprint_follows_what_answers_depend_on(tmp_path: Path) -> None:
    mine = judge("blip").fingerprint
    assert all(judge("blip", **change).fingerprint == mine for change in SAME)
    others = [judge("blip", **change).fingerprint for change in OTHER]
    assert len({mine, *others}) == len(OTHER) + 1
    moved = tmp_path / "another name"
    shutil.copytree(tiny_judges.folder("blip"), moved)
    copy = VqaJudge(LocalJudge(model=str(moved), max_new_tokens=4))
    assert copy.fingerprint == mine and copy.name == "another name"
    (moved / "README.md").write_text("words")
    assert VqaJudge(LocalJudge(model=str(moved), max_new_tokens=4)).fingerprint == mine
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert VqaJudge(LocalJudge(model=str(moved), max_new_tokens=4)).fingerprint != mine


def test_what_cannot_be_a_judge_is_named(tmp_path: Path) -> None:
    def refused(error: type[Exception], says: str, **settings: Any) -> None:
        with pytest.raises(error, match=says):
            one = load_judge(LocalJudge(**settings))
            _ = one.fingerprint
            one.answer(images()[:1], [["Is it?"]])

    refused(ModelError, "only in modelscope", model="damo/mplug_visual-question-answering")
    refused(ModelError, "neither", model="no such folder at all")
    refused(ModelError, r"no readable config\.json", model=str(tmp_path))
    blip = tmp_path / "blip"
    shutil.copytree(tiny_judges.folder("blip"), blip)
    refused(ConfigError, r"scores\.judge\.prompt: must be one of bare", model=str(blip), prompt="x")
    refused(ConfigError, "must be one of bare", model=str(blip), prompt="{question} {other}")
    refused(ConfigError, "braces", model=str(blip), prompt="{question")
    settings = json.loads((blip / "config.json").read_text())
    for name in ("BlipForConditionalGeneration", None):
        settings["architectures"] = [name]
        (blip / "config.json").write_text(json.dumps(settings))
        refused(ModelError, "does not answer questions", model=str(blip))
    shutil.rmtree(blip)
    shutil.copytree(tiny_judges.folder("blip"), blip)
    (blip / "model.safetensors").unlink()
    torch.save({}, blip / "pytorch_model.bin")
    refused(ModelError, "must hold safetensors", model=str(blip))
    with pytest.raises(ModelError, match="cannot be loaded as BlipForQuestionAnswering"):
        load_judge(LocalJudge(model=str(blip))).answer(images()[:1], [["Is it?"]])


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    import tiny
    from transformers import CLIPConfig, CLIPModel

    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2}  # fmt: skip
    CLIPModel(CLIPConfig(text_config=part, vision_config=part)).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_judge(LocalJudge(model=str(tmp_path))).answer(images()[:1], [["Is it?"]])


def test_the_processor_without_videos_is_the_models_own() -> None:
    one = judge("qwen2-vl")
    family = one._family
    source = {"pretrained_model_name_or_path": tiny_judges.folder("qwen2-vl")}
    again = load_processor(source, family.model.config)
    assert again.chat_template == family.processor.chat_template
    assert type(again).__mro__[1].__name__ == "Qwen2VLProcessor"
