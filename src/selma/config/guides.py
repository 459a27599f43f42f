"""Settings of guides: methods that change how images are generated, and train nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from selma.config.section import Section, kinds, mistake
from selma.errors import ConfigError


class GuideSettings(Section):
    """What settings of each kind of guide have beside their own."""

    kind: str
    """The name of a row of `images.guides.GUIDES`."""
    parser: str | None = None
    """Who parses prompts: "toybox" (its captions are read back) or "spacy" (its small English
    model, of the extra selma[parser]). None: toybox for its own bases, spacy for any other."""


class SynGenConfig(GuideSettings):
    """Latents are moved so that a modifier's attention map is like its noun's and unlike other
    words' (SynGen, arXiv:2306.08877)."""

    kind: Literal["syngen"] = "syngen"
    reading: Literal["chunks", "arcs", "released"] = "chunks"
    """Which words belong together. "chunks": noun chunks, and arcs for "is red" and "that is red".
    "arcs": the paper's three rules on arcs alone. "released": as its code has them, where relative
    clauses are looked for at the first noun only, a copula's last word counts as its noun, and maps
    are those of latents that the scheduler has not scaled."""
    entities: bool = False
    """Nouns without a modifier are also told from other words; off in the released code."""
    step_size: NonNegativeFloat = 20.0
    """Of the gradient that is taken from latents before a step; 0 is the base."""
    intervened_steps: NonNegativeInt | None = None
    """How many steps, from the first one on, begin with a move; None is half of all, as the
    released 25 of 50."""
    map_side: PositiveInt | None = None
    """Side of the attention maps, of those that the base has. None is an image's side by 32,
    rounded up, or where the base has no such maps the side that is nearest."""


class StructureDiffusionConfig(GuideSettings):
    """Cross-attention's values are a mean over the prompt and its noun phrases, each encoded by
    itself (StructureDiffusion, arXiv:2212.05032)."""

    kind: Literal["structure_diffusion"] = "structure_diffusion"
    phrases: Literal["chunks", "subtrees"] = "chunks"
    """Of more than one word: noun chunks, or also all that depends on their nouns, which is nearer
    to the paper's constituents and rests on more of the parser's arcs."""
    form: Literal["values", "conjunction"] = "values"
    """"values": the prompt's keys and mean values. "conjunction": keys of each phrase's embedding,
    and values with all phrases, which its authors advise for "A and B"."""
    full_prompt_key: Literal["prompt", "replaced"] = "prompt"
    """Of the conjunction: whose key the prompt itself has. "replaced" is as released, whose code
    writes phrases into the prompt's own embedding."""


GROUP = "selma.guides"

if TYPE_CHECKING:
    AnyGuide = SynGenConfig | StructureDiffusionConfig
else:
    AnyGuide = kinds(SynGenConfig, StructureDiffusionConfig, group=GROUP)


def guide_of(name: str | None, given: Sequence[str] = ()) -> GuideSettings | None:
    """The guide that a command's options name, each setting as "name=value"; None without a name.
    Raises ConfigError."""
    if name is None:
        if given:
            raise ConfigError("--guide-setting belongs to --guide, which is missing.")
        return None
    values = dict(setting.partition("=")[::2] for setting in given)
    try:
        guide: GuideSettings = TypeAdapter(AnyGuide).validate_python({**values, "kind": name})
    except ValidationError as error:
        lines = [mistake(dict(problem), GuideSettings) for problem in error.errors()]
        raise ConfigError("The guide cannot be used:\n" + "\n".join(lines)) from error
    return guide
