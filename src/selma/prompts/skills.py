"""What a skill is: a kind of prompt, told by a description, rules and seeds, as text in a file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from selma.config.section import first_mistakes
from selma.config.yaml_files import NoYaml, parsed_yaml
from selma.errors import DataError, SkillError
from selma.plainfiles import plain_text
from selma.plurals import counted
from selma.texts import kind_in_words, place, quoted
from selma.workspace import inside

_CATALOGUE = Path(str(resources.files("selma.prompts") / "catalogue"))
_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
_MAX_BYTES = 1_000_000  # a skill is a page of text; more is a mistaken file
_WORDS_TO_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_NUMBERS = {word: number for number, word in enumerate(_WORDS_TO_TWENTY.split())}
_NUMBERS |= {"dozen": 12, "dozens": 24, "hundred": 100, "hundreds": 200, "thousand": 1000}


Lack = Literal["too_short", "no_number", "no_match"]
"""What a text does not have that its skill demands."""
_DEMANDS = ("min_words", "must", "pattern")


class Skill(BaseModel):
    """One kind of prompt that a language model can be asked for. Frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    name: str = Field(pattern=_NAME)
    """Names the skill's folder in a run."""
    description: str = Field(min_length=1)
    """What the texts are, as the object of "write ...": a noun phrase in the plural."""
    rules: tuple[str, ...] = ()
    seeds: tuple[str, ...] = Field(min_length=3)
    """The first in-context examples, in the skill's own style."""
    max_words: PositiveInt
    """Longer texts are dropped."""
    min_words: PositiveInt | None = None
    """Shorter texts are dropped; None is no limit."""
    must: Literal["number"] | None = None
    """Texts that name no number, as digits or an English word, are dropped; None asks nothing."""
    pattern: str | None = None
    """A regular expression (RE2); texts in which it is found nowhere are dropped."""
    max_count: PositiveInt | None = None
    """Texts that name a greater number are dropped; None is no limit."""
    grammar: str | None = None
    """What a constrained model may write: a Lark grammar whose rule `caption` is one text."""
    terms: str | None = None
    """A file beside this one whose rules the grammar uses as well."""

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct_lines(cls, seeds: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(seeds)) != len(seeds) or any(not s or "\n" in s for s in seeds):
            raise ValueError("must be different texts of one line each")
        return seeds

    @field_validator("pattern")
    @classmethod
    def _pattern_is_one(cls, pattern: str | None) -> str | None:
        import re2

        try:
            if pattern is not None:
                _compiled(pattern)
        except re2.error as error:
            raise ValueError(f"must be a regular expression of RE2, but: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _seeds_keep_the_limits(self) -> Skill:
        for seed in self.seeds:
            if len(seed.split()) > self.max_words:
                raise ValueError(f"max_words is {self.max_words}, but a seed is longer: {seed!r}")
            if self.counts_too_far(seed):
                raise ValueError(f"max_count is {self.max_count}, but a seed has more: {seed!r}")
            if (fault := self.lacks(seed)) is not None:
                raise ValueError(f"a seed must meet what the skill demands: {fault}: {seed!r}")
        return self

    def counts_too_far(self, text: str) -> bool:
        """Whether the text names a number above `max_count`, as digits or as an English word."""
        if self.max_count is None:
            return False
        return any(number > self.max_count for number in numbers_in(text))

    def lacks(self, text: str) -> Lack | None:
        """Which of the skill's demands a text does not meet; None if it meets all."""
        if self.min_words is not None and len(text.split()) < self.min_words:
            return "too_short"
        if self.must == "number" and not numbers_in(text):
            return "no_number"
        if self.pattern is not None and _compiled(self.pattern).search(text) is None:
            return "no_match"
        return None

    def recipe(self) -> dict[str, Any]:
        """All that prompts depend on, as JSON. Demands that are not made are left out, so that
        skills without them keep their keys."""
        demands = {name for name in _DEMANDS if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=demands)


def numbers_in(text: str) -> list[int]:
    """The numbers that a text names, as digits or as English words."""
    words = re.findall(r"[a-z]+|[0-9]+", text.lower())
    numbers = [int(word[:9]) for word in words if word[0].isdigit()]
    return numbers + [_NUMBERS[word] for word in words if word in _NUMBERS]


@cache
def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def catalogue() -> list[str]:
    """The names of the skills that come with selma, sorted."""
    return sorted(path.stem for path in _CATALOGUE.glob("*.yaml"))


def load_skills(names: Sequence[str]) -> list[Skill]:
    """The skills with these catalogue names or YAML paths, in order. SkillError if one cannot be
    used, or if two would share a folder."""
    skills = [
        _of_catalogue(name) if name in catalogue() else _load(_path_of(name)) for name in names
    ]
    folders = [skill.name for skill in skills]
    twice = sorted({name for name in folders if folders.count(name) > 1})
    if twice:
        raise SkillError(
            f"Each skill needs a name of its own, but {', '.join(twice)} came more than once. "
            "Change `name` in one of the files."
        )
    return skills


def skill_names(names: Sequence[str], *, given: bool = False) -> list[str]:
    """The skills' own names, in order. given: their prompts are, so that a skill that is in no file
    may have any name. SkillError as of `load_skills`."""
    skills = []
    for name in names:
        in_file = not given or name in catalogue() or name.endswith((".yaml", ".yml"))
        skills.append(load_skills([name])[0].name if in_file else _free_name(name))
    if twice := sorted({name for name in skills if skills.count(name) > 1}):
        raise SkillError(f"Each skill needs a name of its own, but {', '.join(twice)} came twice.")
    return skills


def _free_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise SkillError(
            f"A skill's name must be small letters, digits, _ and -, up to 64, but is {name!r}."
        )
    return name


def _path_of(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    if name in catalogue():
        return _CATALOGUE / f"{name}.yaml"
    close = difflib.get_close_matches(name, catalogue(), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise SkillError(
        f"A skill is a name in the catalogue ({', '.join(catalogue())}) or the path of a YAML "
        f"file, but {name!r} is neither.{hint}"
    )


@cache
def _of_catalogue(name: str) -> Skill:
    """Read once in a process, which a command of several stages would do for each of them."""
    return _load(_CATALOGUE / f"{name}.yaml")


def _load(path: Path) -> Skill:
    raw = _read(path)
    if raw.get("terms") is not None:
        raw["grammar"] = f"{raw.get('grammar') or ''}\n{_terms(path, str(raw['terms']))}"
    try:
        return Skill.model_validate(raw)
    except ValidationError as error:
        count, lines = first_mistakes(
            error,
            lambda e: f"  {place(e['loc']) or 'skill'}: {e['msg']} (came: {quoted(e['input'])})",
        )
        raise SkillError(f"{path} has {counted(count, 'mistake')}:\n" + "\n".join(lines)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = parsed_yaml(_text(path))
    except NoYaml as error:
        raise SkillError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise SkillError(
            f"{path} must be a mapping with name, description, seeds and max_words, but has "
            f"{kind_in_words(raw)}."
        )
    return raw


def _terms(path: Path, name: str) -> str:
    try:
        return _text(inside(path.parent, name))
    except DataError as error:
        raise SkillError(f"{path}: terms: {error}") from error


def _text(path: Path) -> str:
    try:
        return plain_text(path, most=_MAX_BYTES)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise SkillError(f"{path} cannot be read as text: {error}.") from error
