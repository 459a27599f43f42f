"""What a language model is told: a template for those that follow instructions, and the plain
beginning of a list for those that only continue a text."""

from __future__ import annotations

from collections.abc import Sequence

from selma.prompts.skills import Skill


def instructions(skill: Skill, examples: Sequence[str], *, asked: int) -> str:
    """Description, rules, numbered examples, and the wish for `asked` more, numbered on.

    The layout is the released code's (arXiv:2403.06952, appendix F); the words are ours.
    """
    first, last = len(examples) + 1, len(examples) + asked
    rules = "\n".join(f"- {rule}" for rule in (*skill.rules, *_limits(skill)))
    listed = "\n\n".join(f"{n}. {text}" for n, text in enumerate(examples, 1))
    return (
        f"Please write {skill.description}. An artist will make one picture from each text, so "
        "every text must describe something that can be seen.\n\n"
        f"Rules:\n{rules}\n\n"
        f"Examples:\n\n{listed}\n\n"
        f"Write {asked} more that differ from the examples and from one another. Number them from "
        f"{first} to {last}, each on a line of its own, and write nothing else."
    )


def _limits(skill: Skill) -> list[str]:
    """What is demanded of each text, in words."""
    limits = [f"Use at most {skill.max_words} words for each."]
    if skill.min_words is not None:
        limits.append(f"Use at least {skill.min_words} words for each.")
    if skill.max_count is not None:
        limits.append(f"Name no number greater than {skill.max_count}.")
    if skill.must == "number":
        limits.append("Name a number in each.")
    return limits


def continuation(skill: Skill, examples: Sequence[str]) -> str:
    """The beginning of a numbered list, up to the number of the text that comes next: what it
    lists, by which rules, and the examples."""
    rules = "\n".join(f"- {rule}" for rule in (*skill.rules, *_limits(skill)))
    return beginning(f"{capital(skill.description)}.\nRules:\n{rules}\nThe list", examples)


def beginning(heading: str, texts: Sequence[str]) -> str:
    """The beginning of a numbered list, up to the number of the text that comes next."""
    listed = "\n".join(f"{n}. {text}" for n, text in enumerate(texts, 1))
    return f"{heading}:\n{listed}\n{len(texts) + 1}."


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[0].upper() + text[1:]


def end_of_list(*, first: int, asked: int) -> tuple[str, ...]:
    """Where a continued list of `asked` items from number `first` has gone far enough."""
    return (f"\n{first + asked}.", "\n\n")
