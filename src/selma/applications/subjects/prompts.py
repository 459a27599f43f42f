"""The subjects' prompts: a text file's, or selma's own 25 for objects and 25 for living subjects.

DreamBooth's dataset (arXiv:2208.12242) has 25 prompts for objects and 25 for living subjects:
places, things beside them, clothes, other looks. Those below have the same themes in our own
words; where the dataset's file lies in the folder, its own prompts are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from selma.errors import DataError

_PLACES = (
    "a {token} {class} in a dense jungle",
    "a {token} {class} standing in deep snow",
    "a {token} {class} on a sandy beach",
    "a {token} {class} on a street of cobblestones",
    "a {token} {class} lying on pink cloth",
    "a {token} {class} on a floor of wooden boards",
    "a {token} {class} before the skyline of a city",
    "a {token} {class} before a high mountain",
    "a {token} {class} before a house painted blue",
    "a {token} {class} on a purple carpet in the woods",
)
_LOOKS = (
    "a red {token} {class}",
    "a purple {token} {class}",
    "a gleaming {token} {class}",
    "a soaking wet {token} {class}",
    "a {token} {class} in the shape of a cube",
)
OBJECT_PROMPTS = (
    *_PLACES,
    "a {token} {class} at the edge of a wheat field",
    "a {token} {class} under a tree that sheds its autumn leaves",
    "a {token} {class} with the Eiffel Tower far behind it",
    "a {token} {class} drifting on calm water",
    "a {token} {class} drifting on a sea of milk",
    "a {token} {class} on a green lawn among sunflowers",
    "a {token} {class} standing on a mirror",
    "a {token} {class} on the pavement of a busy street",
    "a {token} {class} on a dusty track",
    "a {token} {class} on a white carpet",
    *_LOOKS,
)
LIVE_PROMPTS = (
    *_PLACES,
    "a {token} {class} in a red hat",
    "a {token} {class} in the hat of Santa Claus",
    "a {token} {class} in a scarf of all colours",
    "a {token} {class} with a black top hat and an eyeglass",
    "a {token} {class} dressed as a cook",
    "a {token} {class} dressed as a firefighter",
    "a {token} {class} dressed as a police officer",
    "a {token} {class} with pink glasses",
    "a {token} {class} in a yellow shirt",
    "a {token} {class} dressed as a wizard in purple",
    *_LOOKS,
)

_CLASS_LINE = re.compile(r"([^,'\"\[\]=]+),([^,'\"\[\]=]+)")
_PROMPT_LINE = re.compile(r"""(['"])(.*)\1""")


@dataclass(frozen=True)
class PromptText:
    """The contents of a prompts_and_classes.txt; templates have {token} and {class}."""

    classes: Mapping[str, str] = field(default_factory=dict)
    object_prompts: tuple[str, ...] = ()
    live_prompts: tuple[str, ...] = ()


def read_prompt_text(text: str, *, of: object) -> PromptText:
    """Parse a prompts_and_classes.txt; none of its code is run.

    Class words are the lines below "subject_name,class"; prompts are the strings below "Object
    Prompts" and "Live Subject Prompts", with {0} for the token and {1} for the class. Raises
    DataError if a subject has two classes, or a prompt lacks the token or the class.
    """
    classes: dict[str, str] = {}
    prompts: dict[str, list[str]] = {"object": [], "live": []}
    part = ""
    for line in map(str.strip, text.splitlines()):
        heading = line.lower().strip("=-: ")
        if heading == "subject_name,class":
            part = "classes"
        elif heading in ("object prompts", "live subject prompts"):
            part = heading.split()[0]
        elif heading == "prompts":
            part = ""
        elif part == "classes" and (row := _CLASS_LINE.fullmatch(line)):
            name, kind = (cell.strip() for cell in row.groups())
            if classes.setdefault(name, kind) != kind:
                raise DataError(f"{of} gives {name!r} two classes: {classes[name]!r} and {kind!r}.")
        elif part in prompts and (row := _PROMPT_LINE.match(line)):
            if "{0}" not in row.group(2) or "{1}" not in row.group(2):
                raise DataError(
                    f"{of}: a prompt needs {{0}} for the token and {{1}} for the class, but is "
                    f"{row.group(2)!r}."
                )
            template = row.group(2).replace("{0}", "{token}").replace("{1}", "{class}")
            prompts[part].append(template)
    return PromptText(classes, tuple(prompts["object"]), tuple(prompts["live"]))


def worded(template: str, *, token: str | None, kind: str) -> str:
    """Fill in the template; without a token, the class alone remains, with its article corrected
    ("a qwe apple", "an apple")."""
    text = template.replace("{class}", kind)
    if token is not None:
        return text.replace("{token}", token)
    text = " ".join(text.replace("{token}", " ").split())
    n = "n" if kind[0].lower() in "aeiou" else ""
    return re.sub(rf"\b([Aa])n? (?={re.escape(kind)}\b)", rf"\1{n} ", text)
