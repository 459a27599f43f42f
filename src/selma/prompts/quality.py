"""The quality gate: which texts are no captions, by a model's own measure.

A language model that goes on with a list drifts into prose ("Improved safety."), which it finds
likelier among lines of prose than among captions. A model that follows instructions can be asked
instead. Texts that do not pass are counted as "no_caption" and never become examples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from selma.backbones.language.loading import LANGUAGE_MODELS
from selma.backbones.language.model import LanguageModel, Sampling
from selma.backbones.language.replies import readable_answer
from selma.config.prompts import PromptsConfig
from selma.errors import ConfigError
from selma.prompts.instructions import beginning, capital
from selma.prompts.skills import Skill

Gate = Literal["likelihood", "question"]
LEAST = 0.1
"""How much likelier a text's tokens must be among captions than among prose, in nats for each. With
SmolLM2-135M, by far the smallest model, 18 captions of the five styles had 0.3 to 3.4, and 15 lines
of prose -5.7 to 0.0."""
PROSE = (
    "The committee will decide next week whether the rules should be changed.",
    "How to write better reports",
    "Lower costs and improved service.",
    "I am not sure that this is what you meant.",
)
_PROSE = "Lines from articles, lists, letters and talks"
_EXAMPLES = 3
_AT_ONCE = 20
_QUESTION = (
    "A caption describes something that can be seen in one picture. Which of these texts are no "
    "captions? Answer with their numbers alone, or with the word none.\n\n"
)


def gate_of(config: PromptsConfig) -> Gate | None:
    """The gate that the settings come to. Raises ConfigError if the model cannot be one."""
    kind = LANGUAGE_MODELS[config.backend.kind]
    if config.quality == "auto":
        return "likelihood" if kind.gives_likelihoods and config.lexicon is None else None
    if config.quality == "likelihood" and not kind.gives_likelihoods:
        raise ConfigError(
            "prompts.quality: likelihood needs a local model, but prompts.backend is of the kind "
            f"{config.backend.kind}. Set it to question, or to null."
        )
    return config.quality


def gate_recipe(skill: Skill, gate: Gate) -> dict[str, Any]:
    """All that decides what passes, beside the model; JSON."""
    if gate == "question":
        return {"gate": gate, "question": _QUESTION}
    return {"gate": gate, "least": LEAST, "after": _contexts(skill)}


def no_captions(
    texts: Sequence[str],
    skill: Skill,
    model: LanguageModel,
    *,
    gate: Gate,
    max_new_tokens: int,
    seed: int,
) -> list[str]:
    """The texts that are no captions, in order."""
    if not texts:
        return []
    if gate == "likelihood":
        return _unlikely(texts, skill, model)
    if model.form != "instructions":
        raise ConfigError(
            "prompts.quality: question needs a model that follows instructions, but "
            f"{model.name} only goes on with texts. Set it to likelihood, or to null."
        )
    parts = [texts[start : start + _AT_ONCE] for start in range(0, len(texts), _AT_ONCE)]
    questions = [
        _QUESTION + "\n".join(f"{n}. {text}" for n, text in enumerate(part, 1)) for part in parts
    ]
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
    replies = model.complete(questions, seeds=[seed] * len(parts), sampling=sampling)
    return [
        text
        for part, reply in zip(parts, replies, strict=True)
        for text in _named(part, reply.text)
    ]


def _unlikely(texts: Sequence[str], skill: Skill, model: Any) -> list[str]:
    as_items = [f" {text}" for text in texts]
    among_captions, among_prose = (
        model.likelihoods(as_items, after=context) for context in _contexts(skill)
    )
    return [
        text
        for text, caption, prose in zip(texts, among_captions, among_prose, strict=True)
        if caption - prose < LEAST
    ]


def _contexts(skill: Skill) -> list[str]:
    """The beginnings of a list of the skill's captions and of one of prose."""
    captions = beginning(capital(skill.description), skill.seeds[:_EXAMPLES])
    return [captions, beginning(_PROSE, PROSE)]


def _named(texts: Sequence[str], reply: str) -> list[str]:
    """The texts whose numbers a reply names; none if it names none."""
    answer, _, _ = readable_answer(reply)
    numbers = {int(digits[:4]) for digits in re.findall(r"[0-9]+", answer)}
    return [text for number, text in enumerate(texts, 1) if number in numbers]
