"""The quality gate: prose does not pass, captions do, and what was stopped goes on as before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted import Script, serving, writes

from selma.backbones.language.loading import LANGUAGE_MODELS, load_language_model
from selma.backbones.language.local import LocalModel
from selma.backbones.language.model import Reply, Sampling
from selma.config.networks import LocalLLM
from selma.config.prompts import PromptsConfig
from selma.errors import ConfigError
from selma.prompts import writing
from selma.prompts.pool import PromptPool
from selma.prompts.quality import gate_of, no_captions
from selma.prompts.skills import Skill, load_skills
from selma.workspace import Workspace, read_lines

CAPTIONS = {
    "coco": (
        "A man rides a bicycle down a wet street",
        "Children play football in a park at sunset",
        "two dogs asleep on a green sofa",
    ),
    "whoops": ("A cat reading a newspaper in a library", "a snowman sunbathing on a beach"),
    "diffusiondb": ("a fox in a forest, watercolor, soft colors, highly detailed",),
}
PROSE = (
    "Improved safety.",
    "Or just do something else critical of a movie",
    "This is because the law requires it.",
    "Use these rules to write your own captions.",
    "The number of students increased by a fifth last year.",
)


def config(**settings: Any) -> PromptsConfig:
    small = {"skills": ["coco"], "per_skill": 4, "asked_per_reply": 4, "examples": 3}
    return PromptsConfig.model_validate(small | settings)


SERVED = {"kind": "openai", "model": "m"}


@pytest.mark.parametrize(
    ("settings", "gate"),
    [
        ({}, "likelihood"),
        ({"lexicon": "toybox"}, None),
        ({"quality": None}, None),
        ({"quality": "likelihood", "lexicon": "toybox"}, "likelihood"),
        ({"quality": "question"}, "question"),
        ({"backend": SERVED}, None),
        ({"backend": SERVED, "quality": "question"}, "question"),
    ],
)
def test_the_gate_is_on_where_it_works(settings: dict[str, Any], gate: str | None) -> None:
    assert gate_of(config(**settings)) == gate


def test_a_gate_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="quality: likelihood needs a local model"):
        gate_of(config(backend=SERVED, quality="likelihood"))


@pytest.fixture(scope="module")
def smollm2() -> LocalModel:
    model = load_language_model(LocalLLM(batch_size=4))
    assert isinstance(model, LocalModel)
    return model


def test_likelihoods_are_those_of_the_text_read_whole(smollm2: LocalModel) -> None:
    """In batches of unequal lengths, after a beginning that is read once."""
    import torch

    after, texts = "A list:\n1.", [" a cat", " two dogs on a green sofa", " it", " a", " so it is"]
    together = smollm2.likelihoods(texts, after=after)
    for text, likelihood in zip(texts, together, strict=True):
        start = smollm2._tokenizer(after).input_ids
        ids = torch.tensor([start + smollm2._tokenizer(text, add_special_tokens=False).input_ids])
        with torch.no_grad():
            logs = smollm2._model(ids).logits.log_softmax(-1)[0, len(start) - 1 : -1]
        each = logs.gather(-1, ids[0, len(start) :, None])
        assert likelihood == pytest.approx(float(each.mean()), abs=1e-3)


@pytest.mark.parametrize("name", CAPTIONS)
def test_prose_is_told_from_captions_by_a_small_model(smollm2: LocalModel, name: str) -> None:
    (skill,) = load_skills([name])
    texts = [*CAPTIONS[name], *PROSE]
    rejected = no_captions(texts, skill, smollm2, gate="likelihood", max_new_tokens=9, seed=0)
    assert rejected == [*PROSE]


class Chat:
    """Follows instructions: names the texts that it was given as no captions."""

    name, form, parallel = "chat", "instructions", 4

    def __init__(self, answer: str) -> None:
        self.answer, self.asked = answer, list[str]()

    def complete(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: Sampling
    ) -> list[Reply]:
        assert sampling.temperature == 0 and len(seeds) == len(prompts)
        self.asked += prompts
        return [Reply(self.answer, 1, 1, truncated=False) for _ in prompts]


@pytest.mark.parametrize(
    ("answer", "positions"),
    [
        ("2, 4", [1, 3]),
        ("none", []),
        ("None of them.", []),
        ("Numbers 1 and 5 are no captions", [0, 4]),
        ("", []),
        ("99", []),
        ("<think>1, 2, 3</think>\n4", [3]),
    ],
)
def test_a_chat_model_is_asked_for_the_numbers(answer: str, positions: list[int]) -> None:
    (skill,), chat = load_skills(["coco"]), Chat(answer)
    rejected = no_captions(PROSE, skill, chat, gate="question", max_new_tokens=99, seed=0)
    assert rejected == [PROSE[position] for position in positions]
    assert all(text in chat.asked[0] for text in PROSE)


def test_a_model_that_only_goes_on_cannot_be_asked(smollm2: LocalModel) -> None:
    (skill,) = load_skills(["coco"])
    with pytest.raises(ConfigError, match="follows instructions"):
        no_captions(PROSE, skill, smollm2, gate="question", max_new_tokens=9, seed=0)
    assert no_captions([], skill, smollm2, gate="question", max_new_tokens=9, seed=0) == []


def test_what_does_not_pass_is_counted_and_never_an_example(tmp_path: Path) -> None:
    """Through a server: the gate's question names what ends in "prose"."""
    number = [0]

    def answer(asked: dict[str, Any]) -> str:
        wish = asked["messages"][-1]["content"]
        if "no captions" in wish:
            lines = [line for line in wish.split("\n") if line.rstrip().endswith("prose")]
            return ", ".join(line.split(".")[0] for line in lines) or "none"
        assert "prose" not in wish  # no example
        number[0] += 1
        n = number[0]
        return (
            f"4. a red kite number {n} over the bay\n5. better service {n} through prose\n"
            f"6. {'two lamps beside an old chair' if n == 1 else f'a drum {n} in the rain'}"
        )

    with serving(Script(writes(answer))) as server:
        served = {"kind": "openai", "model": "m", "base_url": server.url, "max_attempts": 1}
        settings = config(backend=served, quality="question", per_skill=6, asked_per_reply=3)
        settings = settings.model_copy(update={"novelty": settings.novelty.model_copy(
            update={"threshold": 0.95})})  # fmt: skip
        prompts = writing.write_prompts(settings, Workspace(tmp_path), seed=0, benchmark_texts=[])
        drops = writing.counts("dropped", settings, Workspace(tmp_path), seed=0, benchmark_texts=[])
    assert len(prompts["coco"]) == 6
    assert not any("prose" in prompt.text for prompt in prompts["coco"])
    assert drops["coco"]["no_caption"] >= 3
    rows = read_lines(tmp_path / "1-prompts" / "coco" / "replies.jsonl")
    assert all("no_captions" in row for row in rows)


def test_a_text_that_once_did_not_pass_never_does() -> None:
    """Whatever a later batch's gate looked at; also when the replies are read again."""
    (skill,) = load_skills(["coco"])
    pool = PromptPool(skill, config(quality=None, per_skill=9), seed=0, benchmark_texts=[])
    reply = Reply("4. a cat on a mat\n5. better service", 1, 1, truncated=False)
    assert pool.candidates([reply]) == ["a cat on a mat", "better service"]
    new = pool.take([reply], range(1), no_captions=["better service"])
    assert [prompt.text for prompt in new] == ["a cat on a mat"]
    assert pool.candidates([reply]) == []
    assert pool.take([reply], range(1, 2)) == []
    assert pool.dropped == {"no_caption": 2, "similar": 1}


def test_recipes_change_only_where_the_gate_or_the_list_do(tmp_path: Path) -> None:
    def recipe(**settings: Any) -> str:
        (skill,) = load_skills(["coco"])
        return json.dumps(writing._recipe(skill, config(**settings), 0, []), sort_keys=True)

    served = recipe(backend=SERVED)
    assert "quality" not in served and '"list"' not in served
    assert recipe(backend=SERVED, quality=None) == served
    assert recipe(backend=SERVED, quality="question") != served
    assert recipe() != recipe(quality=None)
    assert LANGUAGE_MODELS["local"].gives_likelihoods
    assert isinstance(load_skills(["coco"])[0], Skill)
