"""ComfyUI's graph: from the node that saves the image, along its links, to its text.

Nodes are told by how they are linked and by their inputs' names, not by their own: there are
thousands. The way goes from the saved image to the first node that is conditioned (the sampler),
and from its positive side through guiders, combinations and switches to the texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from selma.applications.sur.statements import Statement

_MOST_NODES, _MOST_LINKS, _MOST_TEXT = 10_000, 120, 20_000

_SAVES = re.compile(r"file_?name|output_path|save_path", re.IGNORECASE)
_IMAGE = re.compile(r"image|pixels|frames", re.IGNORECASE)
_TEXT = re.compile(r"text|prompt|string|caption|^value$|^(t5xxl|clip_[lg]|bert|mt5xl|llama)$", re.I)
_NO_TEXT = re.compile(r"neg|system|instruct|delimiter|separator|name|path|style|mode|model|type|"
                      r"font|colou?r|weight|format|encoder|parser", re.I)  # fmt: skip
_ENCODES = re.compile(r"clip$|^(text_)?encoder$", re.IGNORECASE)
_CONDITIONS = re.compile(r"^cond", re.IGNORECASE)
_SELECTS = re.compile(r"select|input|index|switch|choice", re.IGNORECASE)
_LATE = re.compile(r"_l$|_from$")
"""CLIP-L's text comes after that of the larger encoder, and what is appended at the end."""


class Link(NamedTuple):
    node: str
    slot: int


class _Unclear(Exception):
    """Why the graph names no prompt."""


def is_graph(value: Any) -> bool:
    """Whether this is ComfyUI's prompt: nodes by their ids."""
    return isinstance(value, dict) and any(map(_is_node, value.values()))


def graph_prompt(nodes: Mapping[str, Any]) -> Statement:
    """The prompt of the image that the graph saves, or why there is none.

    Texts of several encoders (SDXL's text_g, text_l) and of combined conditionings are joined by
    commas, each once.
    """
    try:
        graph = _Graph({str(id): node["inputs"] for id, node in nodes.items() if _is_node(node)})
        return Statement(prompt=graph.prompt())
    except _Unclear as unclear:
        return Statement(reason=f"ComfyUI's graph {unclear}")


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("inputs"), dict)


@dataclass
class _Graph:
    nodes: Mapping[str, Mapping[str, Any]]
    """Id → inputs."""
    texts: dict[tuple[Link, str], list[str]] = field(default_factory=dict)
    """What was read already: without it, diamonds would be walked through again and again."""

    def prompt(self) -> str:
        if len(self.nodes) > _MOST_NODES:
            raise _Unclear(f"has {len(self.nodes)} nodes")
        samplers = list(dict.fromkeys(s for saver in self._savers() for s in self._samplers(saver)))
        if not samplers:
            raise _Unclear("leads from no saved image to a sampler")
        prompts = {self._of_sampler(sampler) for sampler in samplers}
        if len(prompts) > 1:
            raise _Unclear("makes images of different prompts")
        (prompt,) = prompts
        if not prompt:
            raise _Unclear("leads to no text, or to an empty one")
        return prompt

    def _savers(self) -> list[str]:
        """What saves images to files; without any, what shows them, else whatever comes last."""
        images = [id for id in self.nodes if any(map(_IMAGE.search, self._links(id)))]
        savers = [
            id
            for id in images
            if any(_SAVES.search(name) and isinstance(v, str) for name, v in self.nodes[id].items())
        ]
        used = {link.node for id in self.nodes for link in self._links(id).values()}
        ends = [id for id in self.nodes if id not in used]
        return savers or [id for id in images if id in ends] or ends

    def _samplers(self, saver: str) -> Iterator[str]:
        """The first conditioned node on each way from the saved image."""
        links = self._links(saver)
        images = [link.node for name, link in links.items() if _IMAGE.search(name)]
        waiting, seen = (images or [saver])[::-1], set[str]()
        while waiting:
            id = waiting.pop()
            if id in seen:
                continue
            seen.add(id)
            if self._condition(id, "positive") is not None:
                yield id
            else:
                waiting += [link.node for link in self._links(id).values()][::-1]

    def _of_sampler(self, id: str) -> str:
        parts = self._conditioned(id, "positive", ())
        prompt = ", ".join(dict.fromkeys(part.strip() for part in parts if part.strip()))
        if len(prompt) > _MOST_TEXT:
            raise _Unclear("leads to a text without end")
        return prompt

    def _condition(self, id: str, side: str) -> str | None:
        """The name of the input that conditions a node which makes an image."""
        inputs, links = self.nodes[id], self._links(id)
        for name in (side, f"{side}_prompt", f"{side}_conditioning"):
            if name in links or (isinstance(inputs.get(name), str) and inputs[name].strip()):
                return name
        names = [
            *(name for name in links if name == "guider"),
            *(name for name in links if "pipe" in name.lower()),
            *(name for name in links if _CONDITIONS.search(name)),
            *(["prompt"] if "prompt" in links or isinstance(inputs.get("prompt"), str) else []),
        ]
        return names[0] if names else None

    def _conditioned(self, id: str, side: str, path: tuple[Link, ...]) -> list[str]:
        """The texts behind a node's positive or negative side."""
        name = self._condition(id, side)
        link = self._links(id).get(name or "")
        if link is None:
            return [str(self.nodes[id][name])] if name else []
        other = self._links(id).get("negative" if side == "positive" else "positive")
        if name == side and other is not None and other.node == link.node:
            # Both sides come out of one node, the positive one first.
            side = "positive" if link.slot <= other.slot else "negative"
        elif name != side:
            side = "positive"
        return self._behind(link, side, path)

    def _behind(self, link: Link, side: str, path: tuple[Link, ...]) -> list[str]:
        """The texts that condition what comes out of this link."""
        if link in path:
            raise _Unclear("leads round in a circle")
        if len(path) > _MOST_LINKS:
            raise _Unclear("has too long a way to its text")
        if (link, side) not in self.texts:
            self.texts[link, side] = self._read(link, side, (*path, link))
        return self.texts[link, side]

    def _read(self, link: Link, side: str, path: tuple[Link, ...]) -> list[str]:
        inputs, links = self.nodes[link.node], self._links(link.node)
        if side in links or isinstance(inputs.get(side), str):
            return self._conditioned(link.node, side, path)
        if names := self._text_names(link.node):
            return self._texts(link, names, side, path)
        names = ["guider"] if "guider" in links else []
        names = names or [name for name in links if "pipe" in name.lower()]
        names = names or sorted(filter(_CONDITIONS.search, links), key=_is_late)
        if "negative" in links:  # a guider with two positive sides, the second of which guides
            names = names[:1]
        names = names or (list(links) if len(links) == 1 else [])
        names = names or [name for name in links if re.fullmatch(r"any_?\d+", name)][:1]
        texts = (text for name in names for text in self._behind(links[name], side, path))
        return list(dict.fromkeys(texts))

    def _texts(self, link: Link, names: list[str], side: str, path: tuple[Link, ...]) -> list[str]:
        """The texts of an encoder, or the one text of a node of strings."""
        inputs, links = self.nodes[link.node], self._links(link.node)
        is_encoder = any(map(_ENCODES.search, links))
        if not is_encoder and any(map(_IMAGE.search, links)):
            raise _Unclear("makes its text of an image while it runs")
        texts = []
        for name in names:
            parts = self._behind(links[name], side, path) if name in links else [inputs[name]]
            texts.append(", ".join(parts))
        if is_encoder or len(texts) == 1:
            return list(dict.fromkeys(text for text in texts if text.strip()))
        if "text" in names:  # a text for each of the node's outputs, or a text and how it was shown
            return [texts[link.slot] if link.slot < len(texts) else texts[0]]
        between = next((v for n, v in inputs.items() if re.search("delimiter|separator", n)), ", ")
        joined = str(between).replace("\\n", "\n").join(text for text in texts if text)
        if len(joined) > _MOST_TEXT:
            raise _Unclear("leads to a text without end")
        return [joined]

    def _text_names(self, id: str) -> list[str]:
        """The inputs that are texts, in the order in which they are read."""
        inputs, links = self.nodes[id], self._links(id)
        names = [
            name
            for name, value in inputs.items()
            if _TEXT.search(name)
            and not _NO_TEXT.search(name)
            and (name in links or isinstance(value, str))
        ]
        drawn = [name for name in names if "populated" in name and inputs[name]]
        return drawn or sorted(names, key=_is_late)

    def _links(self, id: str) -> dict[str, Link]:
        """Input → where it comes from; of a switch, the chosen one alone."""
        inputs = self.nodes[id]
        links = {
            name: Link(str(value[0]), value[1])
            for name, value in inputs.items()
            if isinstance(value, list)
            and len(value) == 2
            and isinstance(value[1], int)
            and str(value[0]) in self.nodes
        }
        chosen = _chosen(inputs, links)
        return links if chosen is None else {chosen: links[chosen]}


def _is_late(name: str) -> bool:
    return _LATE.search(name) is not None


def _chosen(inputs: Mapping[str, Any], links: Mapping[str, Link]) -> str | None:
    """The link that a switch takes: by its number, or by yes and no."""
    if len(links) < 2:
        return None
    for name, value in inputs.items():
        if isinstance(value, bool):
            word = "true" if value else "false"
            if sides := [side for side in links if word in side.lower()]:
                return sides[0]
        elif isinstance(value, int) and _SELECTS.fullmatch(name):
            numbered = [other for other in links if re.search(rf"(?<!\d)0*{value}$", other)]
            if numbered:
                return numbered[0]
    return None
