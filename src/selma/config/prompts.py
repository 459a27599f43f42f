"""Settings of stage 1."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import NonNegativeFloat, PositiveInt, field_validator

from selma.config.given import GIVEN_GROUP, Imagefolder, PromptFile, ToyboxPairs
from selma.config.networks import LanguageModelConfig, LocalLLM
from selma.config.places import File
from selma.config.section import Probability, Section, kinds

SKILL_FILES = (".yaml", ".yml")


class Novelty(Section):
    threshold: Probability = 0.8
    """A prompt with ROUGE-L F above this against any kept one is dropped."""
    arithmetic: Literal["exact", "released"] = "exact"
    """"exact" compares integers; "released" the floats of the released code, which also drops
    some pairs at exactly the threshold."""


class WrittenPrompts(Section):
    """The paper's: a language model, `prompts.backend`, writes them."""

    kind: Literal["written"] = "written"


class PromptsConfig(Section):
    skills: tuple[Annotated[str, File(endings=SKILL_FILES)], ...] = (
        "localized_narratives",
        "countbench",
        "diffusiondb",
        "whoops",
        "coco",
    )
    """Names in the catalogue, or paths of YAML files (relative to the config's folder). Given
    prompts may have skills of any name."""
    per_skill: PositiveInt = 1000
    """How many prompts; of given ones at most, the first that are novel and not contaminated."""
    source: kinds(  # type: ignore[valid-type]
        WrittenPrompts, PromptFile, Imagefolder, ToyboxPairs, group=GIVEN_GROUP
    ) = WrittenPrompts()
    """Where prompts come from: a language model writes them, or they are given. Of the other
    settings given ones heed per_skill, novelty and contamination_threshold alone."""
    backend: LanguageModelConfig = LocalLLM()
    asked_per_reply: PositiveInt = 20
    temperature: NonNegativeFloat = 1.0
    top_p: Probability = 1.0
    max_new_tokens: PositiveInt = 3072
    examples: PositiveInt = 3
    example_pool: Literal["growing", "seeds"] = "growing"
    """In-context examples come from seeds and all kept prompts, or from the seeds alone."""
    novelty: Novelty = Novelty()
    contamination_threshold: Probability | None = 0.8
    """A prompt with ROUGE-L F above this against a benchmark's prompt is dropped; None is off."""
    lexicon: Annotated[str, File(words=("toybox",))] | None = None
    """Constrains a local model to sentences of these words: "toybox", or a file of words or of
    EBNF grammar (.ebnf)."""
    quality: Literal["auto", "likelihood", "question"] | None = "auto"
    """What drops texts that are no captions: how likely a local model finds them among captions
    and among prose, or a question to a model that follows instructions. "auto" is likelihood where
    a local model writes without a lexicon, and off otherwise; None is off."""
    patience: PositiveInt = 20
    """Stop with a report after this many requests in a row that added nothing."""

    @property
    def given(self) -> bool:
        """Whether prompts are given, instead of being written."""
        return not isinstance(self.source, WrittenPrompts)

    @field_validator("skills")
    @classmethod
    def _distinct(cls, skills: tuple[str, ...]) -> tuple[str, ...]:
        if not skills or len(set(skills)) != len(skills):
            raise ValueError("must name at least one skill, each once")
        return skills
