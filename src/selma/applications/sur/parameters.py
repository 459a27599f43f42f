"""The prompt that an image's own file says it was generated with, and where in the file."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from PIL import ExifTags, Image

from selma.applications.sur.statements import Statement, text_statement
from selma.image_files import MAX_PIXELS
from selma.image_names import register_plugins

_ENTRIES = ("parameters", "invokeai_metadata", "sd-metadata", "generation_data", "prompt")
"""Of PNG, in the order in which they are believed; JSON or, the first, A1111's text."""
_COMFY_IN_EXIF = re.compile(r"\s*prompt\s*:\s*(?=\{)", re.IGNORECASE)
_DREAM = re.compile(r'\s*"(.*)"(?:\s+-\w.*)?\s*', re.DOTALL)
_MOST_TEXT = 8_000_000


def prompt_inside(data: bytes) -> str | None:
    """The keyword prompt, or None where the file says nothing of one."""
    return statement_inside(data).prompt or None


def statement_inside(data: bytes) -> Statement:
    """The keyword prompt, or why the file has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            register_plugins()
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                return Statement(reason="the image has too many pixels")
            statements = list(_statements(image))
    except Exception:  # Pillow's readers raise many kinds; the image itself is judged elsewhere
        return Statement(reason="its metadata cannot be read")
    stated = (statement for statement in statements if statement.prompt)
    return next(stated, statements[0]).cleaned()


def _statements(image: Image.Image) -> Iterator[Statement]:
    exif = Image.Exif()
    with suppress(Exception):  # of a PNG, it reads on to the texts behind the pixels
        exif = image.getexif()
    entries = {key: _text(value) for key, value in image.info.items()}
    texts = {key: text for key, text in entries.items() if text}
    comment = _comment(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment))
    if "parameters" in texts:
        yield text_statement(texts["parameters"], bare=True)
    if comment:
        yield text_statement(comment, bare=False)
    for name in _ENTRIES[1:]:
        if name in texts:
            # Easy Diffusion writes the prompt as it is, and its seed beside it.
            yield text_statement(texts[name], bare=name == "prompt" and "seed" in texts)
    for value in exif.values():
        if isinstance(value, str) and (start := _COMFY_IN_EXIF.match(value)):
            yield text_statement(value[start.end() :], bare=False)
    if "Dream" in texts and (dream := _DREAM.fullmatch(texts["Dream"])):
        yield text_statement(dream[1], bare=True)
    for name in ("Comment", "comment"):
        if name in texts:
            yield text_statement(texts[name], bare=False)
    if texts.get("Software") == "NovelAI" and "Description" in texts:
        yield text_statement(texts["Description"], bare=True)
    if "workflow" in texts:
        yield Statement(reason="ComfyUI's workflow without the graph that was run")
    yield Statement(reason="no metadata of a generator")


def _text(value: Any) -> str:
    """A text of a file; UTF-8 that was written where PNG has Latin-1 is read as such."""
    if isinstance(value, bytes):
        return _utf8(value) or ""
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        return ""
    try:
        return value if value.isascii() else value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _comment(raw: Any) -> str | None:
    """An EXIF comment, whose first eight bytes name its alphabet."""
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, bytes) or len(raw) > _MOST_TEXT:
        return None
    name, text = raw[:8], raw[8:]
    if name.startswith(b"UNICODE"):
        return _utf16(text)
    if name.startswith(b"ASCII") or name == bytes(8):
        return text.decode("utf-8", errors="replace")
    if name.startswith(b"JIS"):
        return text.decode("iso2022_jp", errors="replace")
    return _utf8(raw)  # some programs write no alphabet


def _utf16(text: bytes) -> str:
    """A1111 writes big-endian whatever the file's own order is, others little-endian: what is
    mostly Latin tells by where its zeros are. Some write UTF-8 nevertheless."""
    for mark, order in ((b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le")):
        if text.startswith(mark):
            return text[2:].decode(order, errors="replace")
    first, second = text[::2].count(0), text[1::2].count(0)
    if not first and not second and (plain := _utf8(text)):
        return plain
    return text.decode("utf-16-le" if second > first else "utf-16-be", errors="replace")


def _utf8(text: bytes) -> str | None:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
