"""Which settings name something outside the settings: files, folders, models, servers, keys.

It is said at the field, by its type, as in `file: FilePath | None`. One walk over any section finds
them all: to read paths from where a config lies, to hide what is private, to look what is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    overload,
)
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from selma.config.section import PRIVATE, AddedKinds, Section, added_settings
from selma.registry import added_rows

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True)
class Place:
    """What a string setting names."""

    words: tuple[str, ...] = ()
    """Values that are no place but have a meaning of their own, as "toybox"."""
    endings: tuple[str, ...] = ()
    """If any, only values that end so are files; of a model, those that are files."""
    group: str = ""
    """If any, names of rows that other packages add to this table are words, too."""


class File(Place):
    pass


class Folder(Place):
    pass


class FileOrFolder(Place):
    pass


class Model(Place):
    """A folder or a Hub id."""


class Name(Place):
    """A name that only a server knows."""


class Address(Place):
    """A server's address, which may hold a password."""


class Key(Place):
    """An environment variable that holds a key."""


def _require_variable(name: str) -> str:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return name
    raise PydanticCustomError(
        PRIVATE,
        "must be the name of an environment variable, as OPENAI_API_KEY; the key itself belongs "
        "into that variable",
    )


def _require_store(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    bucket, _, folder = rest.partition("/")
    # A folder of this machine has no bucket: what stands there would be relative to who knows what.
    placed = not bucket if scheme in ("file", "local") else bool(bucket)
    if not (separator and scheme and placed and folder.strip("/")):
        raise PydanticCustomError(
            PRIVATE,
            "must be an address with a bucket and a folder, as s3://bucket/run, or a folder from "
            "the root, as file:///mnt/bucket/run",
        )
    if bare_address(url) != url:
        raise PydanticCustomError(
            PRIVATE,
            "must have no user, password or query; the store's own program finds its keys, for s3 "
            "in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    return url


FilePath = Annotated[str, File()]
FolderPath = Annotated[str, Folder()]
FileOrFolderPath = Annotated[str, FileOrFolder()]
ModelPath = Annotated[str, Model()]
ModelName = Annotated[str, Name()]
ServerUrl = Annotated[
    str, Address(), PlainSerializer(lambda url: bare_address(url), when_used="json")
]
StorageUrl = Annotated[str, AfterValidator(_require_store)]
KeyVariable = Annotated[str, Key(), AfterValidator(_require_variable)]


@dataclass(frozen=True)
class LaidOver:
    """Marks a mapping of raw settings that are laid over a section's; `section` gives its class."""

    section: Callable[[], type[Section]]


class Placed(NamedTuple):
    """One setting that names something, and where it stands."""

    key: str
    value: str
    names: Place


def placed(section: Section) -> list[Placed]:
    """Every setting of the section that is typed as a place and not one of its words, in order."""
    settings: list[Placed] = []

    def note(setting: Placed) -> str:
        settings.append(setting)
        return setting.value

    _replaced(section, [], note, ())
    return settings


def map_paths(
    section: AnySection, *, move: Callable[[str], str], is_folder: Callable[[str], bool]
) -> AnySection:
    """The settings with `move` applied to each that is a file or folder.

    `is_folder` tells a model's folder from a Hub id, which looks like a relative path.
    """

    def mapped(setting: Placed) -> str:
        return move(setting.value) if _is_path(setting, is_folder) else setting.value

    mapped_section: AnySection = _replaced(section, [], mapped, ())
    return mapped_section


def absolute(section: AnySection) -> AnySection:
    """The settings with every path from the root, for a process that works in another folder."""
    whole = map_paths(section, move=os.path.abspath, is_folder=os.path.isdir)
    folder = getattr(whole, "run_folder", None)
    return whole if folder is None else whole.model_copy(update={"folder": folder.absolute()})


def without_secrets(section: AnySection) -> AnySection:
    """The settings with no password in any server's address."""

    def hidden(setting: Placed) -> str:
        if isinstance(setting.names, Address):
            return bare_address(setting.value)
        return setting.value

    bare: AnySection = _replaced(section, [], hidden, ())
    return bare


@overload
def bare_address(url: str) -> str: ...
@overload
def bare_address(url: None) -> None: ...
def bare_address(url: str | None) -> str | None:
    """The address without user, password, query and fragment, where keys may hide."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where what stands before a slash of the password is taken for it
    except ValueError:
        return ""  # no address, so that nobody knows what is private in it
    if not parts.netloc:  # without a scheme the user would be taken for it
        return re.split(r"[?#]", url, maxsplit=1)[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _is_path(setting: Placed, is_folder: Callable[[str], bool]) -> bool:
    value, names = setting.value, setting.names
    if isinstance(names, Model):
        return value.lower().endswith(names.endings) or is_folder(value)
    if isinstance(names, File | Folder | FileOrFolder):
        return not names.endings or value.lower().endswith(names.endings)
    return False


class Type(NamedTuple):
    """One of the types that a setting may have, with what `Annotated` says of it."""

    origin: Any
    notes: tuple[Any, ...]


def types_of(hint: Any, notes: tuple[Any, ...] = ()) -> Iterator[Type]:
    """A setting's types: the members of a union, and anything else by itself."""
    if get_origin(hint) is Annotated:
        inner, *more = get_args(hint)
        yield from types_of(inner, (*notes, *more))
    elif get_origin(hint) in (Union, UnionType):
        for member in get_args(hint):
            yield from types_of(member, notes)
    else:
        yield Type(hint, notes)


@cache
def field_types(section: type[Section], name: str) -> Sequence[Type]:
    """The types of one field; none where the section has no such field."""
    field = section.model_fields.get(name)
    return () if field is None else tuple(types_of(field.annotation, tuple(field.metadata)))


def _replaced(
    value: Any, types: Sequence[Type], replace: Callable[[Placed], str], key: tuple[str, ...]
) -> Any:
    """The value with `replace` applied to each place in it, at every depth."""
    if isinstance(value, Section):
        old = {name: getattr(value, name) for name in type(value).model_fields}
        new = {
            name: _replaced(inner, field_types(type(value), name), replace, (*key, name))
            for name, inner in old.items()
        }
        changes = {name: inner for name, inner in new.items() if inner != old[name]}
        return value.model_copy(update=changes) if changes else value
    if isinstance(value, str):
        named = _named(value, types)
        return value if named is None else replace(Placed(".".join(key), value, named))
    if isinstance(value, dict):
        sections = list(_sections(value, types))
        return {
            name: _replaced(
                inner, _entry_types(str(name), types, sections), replace, (*key, str(name))
            )
            for name, inner in value.items()
        }
    if isinstance(value, tuple | list):
        items = (
            _replaced(inner, _item_types(number, types), replace, (*key, str(number)))
            for number, inner in enumerate(value)
        )
        return type(value)(items)
    return value


def _named(value: str, types: Sequence[Type]) -> Place | None:
    for origin, notes in types:
        if get_origin(origin) is Literal and value in get_args(origin):
            return None
        for note in notes:
            if origin is str and isinstance(note, Place):
                known = value in note.words or value in added_rows(note.group)
                return None if known else note
    return None


def _sections(raw: dict[str, Any], types: Sequence[Type]) -> Iterator[type[Section]]:
    """The sections that a raw mapping may become: that of its kind, or all where it has none."""
    kind = raw.get("kind")
    for origin, notes in types:
        for note in notes:
            if isinstance(note, LaidOver):
                yield note.section()
            if isinstance(note, AddedKinds) and isinstance(kind, str):
                yield from filter(None, [added_settings(note.group).get(kind)])
        if isinstance(origin, type) and issubclass(origin, Section) and origin is not Section:
            own = origin.model_fields.get("kind")
            if own is None or "kind" not in raw or kind in get_args(own.annotation):
                yield origin


def _entry_types(name: str, types: Sequence[Type], sections: Sequence[type[Section]]) -> list[Type]:
    if sections:
        return [type_ for section in sections for type_ in field_types(section, name)]
    entries = [get_args(origin) for origin, _ in types if get_origin(origin) is dict]
    return [type_ for _, hint in entries for type_ in types_of(hint)]


def _item_types(number: int, types: Sequence[Type]) -> list[Type]:
    types_of_item: list[Type] = []
    for origin, _ in types:
        hints = get_args(origin)
        if get_origin(origin) is list or (get_origin(origin) is tuple and Ellipsis in hints):
            types_of_item += types_of(hints[0])
        elif get_origin(origin) is tuple and number < len(hints):
            types_of_item += types_of(hints[number])
    return types_of_item
