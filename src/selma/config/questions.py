"""Settings of questions about prompts that a language model writes."""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveInt

from selma.config.networks import LanguageModelConfig, LocalLLM
from selma.config.section import Section, Seed


class WrittenQuestions(Section):
    """A language model writes DSG's yes/no questions with their dependencies."""

    backend: LanguageModelConfig = LocalLLM()
    attempts: PositiveInt = 3
    """Requests for one step before its prompt is put aside."""
    temperature: NonNegativeFloat = 0.0
    """For first attempts; later ones take at least 0.7, since the same reply would come again."""
    max_new_tokens: PositiveInt = 2048
    patience: PositiveInt = 20
    """Stop with a report after this many prompts in a row without questions."""
    seed: Seed = 0
