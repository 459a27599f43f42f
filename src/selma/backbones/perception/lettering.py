"""What is written in an image, by an OCR program that runs without a network connection."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from selma.errors import ModelError
from selma.image_modes import plain_rgb
from selma.workspace import file_sha256, recipe_key


class TextReader(Protocol):
    """What scoring by the text in images needs."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def read(self, image: Image.Image) -> str:
        """All that is written in it, line by line from the top, joined by blanks."""
        ...


class RapidReader:
    """RapidOCR with the models that its package brings (PP-OCR, detection and recognition)."""

    def __init__(self) -> None:
        """Raises ModelError where the package is missing."""
        if find_spec("rapidocr") is None or find_spec("onnxruntime") is None:
            raise ModelError(
                "Text in images is read by the packages rapidocr and onnxruntime: "
                "pip install 'selma[ocr]'."
            )

    @cached_property
    def name(self) -> str:
        return f"rapidocr {version('rapidocr')}"

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the program's version and its models."""
        models = Path(str(self._module.__file__)).parent / "models"
        digests = {file.name: file_sha256(file) for file in sorted(models.glob("*.onnx"))}
        return recipe_key({"program": self.name, "models": digests})

    def read(self, image: Image.Image) -> str:
        pixels = np.asarray(plain_rgb(image))[:, :, ::-1]  # it expects OpenCV's order
        found: Sequence[str] | None = self._engine(np.ascontiguousarray(pixels)).txts
        return " ".join(found or ())

    @cached_property
    def _module(self) -> Any:
        import rapidocr

        return rapidocr

    @cached_property
    def _engine(self) -> Any:
        threads = dict.fromkeys(("intra_op_num_threads", "inter_op_num_threads"), 1)
        runs = {f"EngineConfig.onnxruntime.{name}": value for name, value in threads.items()}
        return self._module.RapidOCR(params={"Global.log_level": "critical", **runs})
