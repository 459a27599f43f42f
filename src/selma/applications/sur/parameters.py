"""The prompt that an image's own file says it was generated with: A1111's and ComfyUI's way."""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

from PIL import Image

_EXIF, _USER_COMMENT = 0x8769, 0x9286
_FAR = 16  # nodes between a sampler and its prompt


def prompt_inside(data: bytes) -> str | None:
    """The keyword prompt, or None where the file says nothing of one. Decodes no pixel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            entries = {key: value for key, value in image.info.items() if isinstance(value, str)}
            comment = image.getexif().get_ifd(_EXIF).get(_USER_COMMENT)
    except Exception:  # Pillow's readers raise many kinds; the image itself is judged elsewhere
        return None
    for text in (entries.get("parameters"), _comment(comment)):
        if text and (prompt := a1111(text)):
            return prompt
    return comfy(entries["prompt"]) if "prompt" in entries else None


def a1111(parameters: str) -> str:
    """The lines before "Negative prompt:" and the settings."""
    lines = []
    for line in parameters.splitlines():
        if line.startswith(("Negative prompt:", "Steps: ")):
            break
        lines.append(line)
    return "\n".join(lines).strip()


def comfy(workflow: str) -> str | None:
    """The text that the first sampler's positive input leads back to."""
    try:
        nodes = json.loads(workflow)
    except (ValueError, RecursionError):
        return None
    if not isinstance(nodes, dict):
        return None
    for _, node in sorted(nodes.items()):
        inputs = _inputs(node)
        if "positive" in inputs and "negative" in inputs:
            return _text(nodes, inputs["positive"])
    return None


def _text(nodes: dict[str, Any], link: Any) -> str | None:
    for _ in range(_FAR):
        if isinstance(link, str):
            return link.strip() or None
        if not isinstance(link, list) or not link:
            return None
        inputs = _inputs(nodes.get(str(link[0])))
        names = ("text", "positive", "conditioning", "value", "string")
        link = next((inputs[name] for name in names if name in inputs), None)
    return None


def _inputs(node: Any) -> dict[str, Any]:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _comment(raw: Any) -> str | None:
    """An EXIF comment, whose first eight bytes name its alphabet."""
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, bytes):
        return None
    name, text = raw[:8], raw[8:]
    if name.startswith(b"UNICODE"):
        big = text[:1] == b"\0"  # A1111 writes big-endian whatever the file's own order is
        return text.decode("utf-16-be" if big else "utf-16-le", errors="replace")
    return text.decode("utf-8", errors="replace") if name.startswith(b"ASCII") else None
