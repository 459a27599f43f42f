"""Where a network's files lie (a folder, or a commit of a Hub repository), and reading them whole.

Only safetensors are read, code from a model's folder is never run, and a tensor that is missing or
left over is an error: transformers would fill it with random numbers and go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from selma.backbones.hub import HUB_ID, folder_digest, hub_commit
from selma.backbones.quiet import quiet
from selma.errors import ModelError
from selma.plurals import counted


@dataclass(frozen=True)
class Weights:
    """Files of a network or a tokenizer. Nothing is looked up before it is asked for."""

    name: str
    """A folder, or a Hub id."""
    revision: str | None = None

    @property
    def folder(self) -> Path | None:
        """None for a Hub id, which looks like a relative path. Raises ModelError for neither."""
        path = Path(self.name).expanduser()
        if path.is_dir():
            return path
        if HUB_ID.fullmatch(self.name):
            return None
        raise ModelError(
            f'A model must be a folder or a Hub id like "owner/name", but {self.name!r} is neither.'
        )

    @property
    def label(self) -> str:
        """What a reader may see: the Hub id, or a folder's own name without its path."""
        return self.name if self.folder is None else self.folder.resolve().name

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any file of the folder, or is the commit; loads nothing."""
        return self._commit if self.folder is None else folder_digest(self.folder)

    @cached_property
    def _commit(self) -> str:
        return hub_commit(self.name, self.revision, setting="model")

    def source(self, part: str = "") -> dict[str, Any]:
        """Keywords for `from_pretrained`; `part` is a folder inside."""
        if self.folder is None:
            return {"pretrained_model_name_or_path": self.name, "revision": self._commit,
                    "subfolder": part}  # fmt: skip
        return {"pretrained_model_name_or_path": self.folder / part, "local_files_only": True}

    def file(self, name: str) -> Path | None:
        """One file of these, fetched if it lies on the Hub; None if there is none."""
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        cached = huggingface_hub.try_to_load_from_cache(self.name, name, revision=self._commit)
        if cached is not None:  # a path, or a mark that the repository has no such file
            return Path(cached) if isinstance(cached, str) else None
        try:
            return Path(huggingface_hub.hf_hub_download(self.name, name, revision=self._commit))
        except Exception as error:  # many kinds: no net, offline mode, no right
            # Without a net nobody knows whether the file is there; that is no "there is none".
            absent = isinstance(error, EntryNotFoundError)
            if absent and not isinstance(error, LocalEntryNotFoundError):
                return None
            raise ModelError(f"{self.name}/{name} cannot be had from the Hub: {error}") from error


def load_network(kind: Any, weights: Weights, *, part: str = "", **how: Any) -> Any:
    """The transformers class `kind` with these weights, float32, ready to be asked on a CPU.

    Raises ModelError where it cannot be read, or where names or shapes do not fit exactly.
    """
    import torch

    quiet("transformers")
    try:
        network, report = kind.from_pretrained(
            **weights.source(part),
            **how,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # many kinds: no file, no net, broken header, wrong shapes
        raise ModelError(
            f"{weights.name} must hold a {kind.__name__} in safetensors, but cannot be loaded: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__} If there is "
            "only a pickle (.bin, .pt), make safetensors of it with `selma score convert`."
        ) from error
    # Index buffers were saved by old versions; they hold 0, 1, 2, ... and are made anew.
    extra = {name for name in report["unexpected_keys"] if not name.endswith("position_ids")}
    if wrong := sorted({*report["missing_keys"], *extra, *map(str, report["mismatched_keys"])}):
        raise ModelError(
            f"{weights.name} must hold exactly the tensors of its {kind.__name__}, but "
            f"{counted(len(wrong), 'is', 'are')} missing, left over or of another shape, "
            f"{wrong[0]} first."
        )
    return network.eval().requires_grad_(False)


def load_tokenizer(kind: Any, weights: Weights) -> Any:
    """The transformers tokenizer class `kind` from these files. Raises ModelError."""
    try:
        return kind.from_pretrained(**weights.source())
    except Exception as error:  # as above
        raise ModelError(
            f"{weights.name} must hold a tokenizer, but it cannot be loaded: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__} "
            "Name a folder or Hub id that has one as `tokenizer`."
        ) from error
