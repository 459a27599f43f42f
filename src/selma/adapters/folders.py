"""Which files of a folder are a LoRA's, and what to do where it has none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selma.adapters import names
from selma.adapters.peft_settings import PEFT_FILE, peft_json
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.errors import AdapterError

SAFETENSORS = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
SHOWN = 5
"""Names of files that a message lists."""


def has_suffix(path: Path, *suffixes: str) -> bool:
    """Whether the file's name ends so, in capitals or not."""
    return path.suffix.lower() in suffixes


def lora_files(source: Path) -> list[tuple[Path, str | None]]:
    """A LoRA's files, and for those of a PEFT folder the component that they say they change.

    source: a file, or a folder of selma, diffusers or PEFT. Raises AdapterError if it is neither,
    with what lies there instead.
    """
    if not source.is_dir():
        _require_tensors(source)
        return [(source, _component(source) if source.name == PEFT_FILE else None)]
    if (source / ADAPTER_FILE).is_file():
        return [(source / ADAPTER_FILE, None)]
    if (source / PEFT_FILE).is_file():
        return [(source / PEFT_FILE, _component(source / PEFT_FILE))]
    parts = [(source / name / PEFT_FILE, name) for name in names.components()]
    present = [(path, name) for path, name in parts if path.is_file()]
    if not present:
        raise AdapterError(_nothing_in(source))
    return [*present]


def _component(path: Path) -> str | None:
    """The component that a PEFT folder changes, by the class that it names."""
    mapping = peft_json(path).get("auto_mapping")
    about = str(mapping.get("base_model_class")) if isinstance(mapping, dict) else ""
    classes = {name: component for component, (name, _) in names.PEFT_CLASSES.items()}
    component = classes.get(about)
    # A denoiser of another family may be of the same class: which it is, its layers say.
    # So may a T5, whatever the number of text encoders before it.
    return component if component in (*names.TEXTS, names.T5) else None


def _require_tensors(path: Path) -> None:
    if not path.exists():
        raise AdapterError(f"{path} must be an adapter's file or folder, but there is none.")
    if has_suffix(path, *PICKLES):
        raise AdapterError(f"{path} is {_pickle(path)}")
    if not has_suffix(path, SAFETENSORS):
        raise AdapterError(
            f"{path} must be a {SAFETENSORS} file, but ends in {path.suffix or 'no suffix'}: "
            "others can run code when read."
        )


def _nothing_in(folder: Path) -> str:
    wanted = f"{folder} must hold {ADAPTER_FILE} (diffusers, selma) or {PEFT_FILE} (PEFT), but "
    files = sorted(path for path in folder.iterdir() if path.is_file())
    tensors = [path for path in files if has_suffix(path, SAFETENSORS)]
    pickles = [path for path in files if has_suffix(path, *PICKLES)]
    if tensors:
        which = "that file itself" if len(tensors) == 1 else "one of these files itself"
        return f"{wanted}holds {_listed(tensors)}. Name {which}: {tensors[0]}"
    if pickles:
        return f"{wanted}holds {_listed(pickles)} alone, {_pickle(pickles[0])}"
    if not files:
        below = sorted(path for path in folder.iterdir() if path.is_dir())
        return wanted + (f"has only folders: {_listed(below)}." if below else "is empty.")
    return f"{wanted}holds only {_listed(files)}."


def _pickle(path: Path) -> str:
    out = path.with_suffix(SAFETENSORS).name
    return (
        "a pickle, which can run code when it is read. Convert it where that does no harm: "
        f"safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), {out!r})"
    )


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(path.name for path in paths[:SHOWN]) + more
