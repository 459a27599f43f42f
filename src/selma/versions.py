"""Versions of the packages that decide bytes. They are in every recipe, so that an upgrade makes
results anew; `keeping` goes on with what there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeGuard

ENTRY = "versions"
"""The entry of a recipe with package → version."""
OPENCV = "opencv-python-headless"
NOT_INSTALLED = "not installed"
_keeping = False


@cache
def installed(package: str) -> str:
    """The package's version, without importing it. Kept, since looking it up reads files, and every
    recipe asks."""
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Package → installed version."""
    return {package: installed(package) for package in packages}


@contextmanager
def keeping(keep: bool = True) -> Iterator[None]:
    """While the block runs, what other versions made of the same settings is taken as it is, in all
    threads of this process."""
    global _keeping
    before, _keeping = _keeping, keep
    try:
        yield
    finally:
        _keeping = before


def kept() -> bool:
    """Whether results of other versions are taken as they are."""
    return _keeping


def differ_by_version_alone(recipe: Any, other: Mapping[str, Any]) -> TypeGuard[Mapping[str, Any]]:
    """Whether something that was read, if it is a recipe, has other versions, or none as recipes of
    before, and is `other` in all else."""
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get(ENTRY, {}), Mapping):
        return False
    rest, others = ({k: v for k, v in each.items() if k != ENTRY} for each in (recipe, other))
    return rest == others and recipe.get(ENTRY) != other.get(ENTRY)


def made_with(recipes: Iterable[Mapping[str, Any]]) -> str:
    """All versions in recipes, in words: "selma 0.1.0 and 0.2.0, torch 2.13.0"."""
    found: dict[str, dict[str, None]] = {}
    for recipe in recipes:
        for package, number in recipe.get(ENTRY, {}).items():
            found.setdefault(package, {})[str(number)] = None
    return ", ".join(f"{package} {' and '.join(numbers)}" for package, numbers in found.items())


def difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words, where two recipes' versions differ: "selma 0.1.0 (now 0.2.0)"."""
    old, new = there.get(ENTRY, {}), now.get(ENTRY, {})
    packages = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return ", ".join(
        f"{name} {old.get(name, 'of before')!s:.40} (now {new.get(name, NOT_INSTALLED)})"
        for name in packages
    )
