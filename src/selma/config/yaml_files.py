"""YAML of others, as what it says: each key once, and no more values than it has lines to name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from selma.plainfiles import plain_text
from selma.texts import legible, quoted

MOST_BYTES = 1_000_000
"""Of a file; the longest that comes with selma has some thousand."""
MOST_VALUES = 200_000
"""Of a file with its aliases (*name) written out; each stands for a whole tree."""
_MERGE = "tag:yaml.org,2002:merge"
LONGEST_REASON = 600  # characters


class NoYaml(ValueError):
    """A text that is no YAML, or more than a person writes."""


def read_yaml(path: Path, *, most: int = MOST_BYTES) -> Any:
    """What the file says. Raises OSError as `plain_bytes`, UnicodeDecodeError, NoYaml."""
    return parsed_yaml(plain_text(path, most=most))


def parsed_yaml(text: str) -> Any:
    """What a text says; None if it is empty. Raises NoYaml."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            count = _written_out(node, {}, set())
            if count > MOST_VALUES:
                raise NoYaml(
                    f"its aliases (*name) make {count if count < 10**12 else 'over 10^12'} values "
                    f"of it, and {MOST_VALUES:,} are allowed"
                )
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except NoYaml:
        raise
    except RecursionError:
        raise NoYaml("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise NoYaml(legible(str(error))[:LONGEST_REASON]) from error


def _written_out(node: yaml.Node, counts: dict[int, int], above: set[int]) -> int:
    """How many values the node is, with all aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    key = id(node)
    if key in above:
        raise NoYaml("one of its aliases (*name) stands inside of what it names")
    if key not in counts:
        above.add(key)
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        counts[key] = 1 + sum(_written_out(part, counts, above) for part in parts)
        above.remove(key)
    return counts[key]


class _Loader(yaml.SafeLoader):
    """YAML in which a key may be given once: of two, the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == _MERGE:  # "<<", whose keys those beside it overrule
                continue
            key = self.construct_object(key_node, deep=True)
            try:
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {quoted(key)} is given twice", node.start_mark
                    )
                seen.add(key)
            except TypeError:
                break  # a key that is a list, which the library refuses with its place
        return super().construct_mapping(node, deep=deep)
