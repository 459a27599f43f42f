"""The base's files: a folder, a Hub repository or a single file, as whose configs describe it.

Only safetensors are read, and no code from the model's folder is run; safety checker and watermark
are left out (both would change training images).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.backbones import quantizing, speed
from selma.backbones.bases import BASES, Architecture, architecture, located, mismatches
from selma.backbones.families import family_of
from selma.backbones.families.family import Family
from selma.backbones.hub import (
    HUB_ID,
    file_digest,
    folder_digest,
    hub_commit,
    model_config,
    weights_digest,
)
from selma.backbones.single_file import load_single_file, require_whole
from selma.config.networks import AnyBase, BaseConfig, ServedBase
from selma.config.section import require_kind
from selma.errors import ModelError
from selma.plainfiles import MOST_SETTINGS, plain_text
from selma.toybox import base_folder

if TYPE_CHECKING:
    import torch

INDEX = "model_index.json"


def base_fingerprint(base: AnyBase) -> str:
    """64 hex digits that change with any byte of the model that is loaded.

    A local folder is read once per process; of a Hub repository the commit is taken instead, and of
    a server what it says of its version.
    """
    if isinstance(base, ServedBase):
        from selma.backbones.served_base import served_fingerprint

        return served_fingerprint(base)
    base = located(base)
    digests = [_fingerprint(base)]
    if base.config is not None:
        digests.append(base_fingerprint(_configs_of(base)))
    if base.vae is not None:
        digests.append(weights_digest(base.vae, None, setting="base.vae"))
    if base.image_px is not None:
        digests.append(f"{base.image_px} px")
    if base.quantization is not None:
        digests.append(base.quantization)
    digests += speed.digests(base)
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    )


def _fingerprint(base: BaseConfig) -> str:
    if base.config is not None:
        return file_digest(_file(base))
    folder = _local_folder(base.model)
    if folder is None:
        return hashlib.sha256(f"{base.model}@{_commit(base)}".encode()).hexdigest()
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder} must be a diffusers folder, but has no {INDEX}.")
    return folder_digest(folder.resolve())


def load_pipeline(base: BaseConfig, dtype: torch.dtype) -> Any:
    """The pipeline on the CPU, from a folder, a Hub repository or a single file. Raises
    ModelError."""
    configs = _configs_of(base)
    index = _model_index(configs)
    family = _family(index, configs.model)
    given = {key: value for key, value in family.loading.items() if key in index or value is False}
    given |= dict.fromkeys(_left_out(index, family))
    if base.vae is not None:
        given["vae"] = _autoencoder(base, base.vae, family, dtype)
    if base.config is not None:
        config_folder = _configs_folder(configs)
        return load_single_file(
            _file(base), family, configs=config_folder, dtype=dtype, settings=given
        )
    given |= quantizing.loading(base, family, index, dtype)
    folder = _local_folder(base.model)
    revision = {} if folder else {"revision": _commit(base)}
    try:
        return family.load_pipeline_class().from_pretrained(
            folder or base.model,
            dtype=dtype,
            use_safetensors=True,
            **revision,
            **given,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"{base.model} cannot be loaded as {family.pipeline_class} from safetensors files: "
            f"{error}"
        ) from error


def _autoencoder(base: BaseConfig, model: str, family: Family, dtype: torch.dtype) -> Any:
    denoiser, own = part_config(base, family.component) or {}, part_config(base, "vae") or {}
    kind, channels = family.network_class("vae"), family.latent_shape(denoiser)[0]
    if own.get("latent_channels") != channels:
        raise ModelError(
            f"base.vae: {model} has {own.get('latent_channels')} latent channels, but the denoiser "
            f"of {base.model} takes {channels}. It is no {kind.__name__} for this base."
        )
    folder = Path(model).expanduser()
    where = {} if folder.is_dir() else {"revision": hub_commit(model, None, setting="base.vae")}
    try:
        return kind.from_pretrained(
            folder if folder.is_dir() else model, dtype=dtype, use_safetensors=True, **where
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"base.vae: {model} is no {kind.__name__} in safetensors: {error}"
        ) from error


def require_as_named(name: str, pipe: Any) -> None:
    """Raises ModelError unless what was loaded is what its short name stands for."""
    row = BASES.get(name)
    if row is None or row.repository is None:  # toybox comes along: nobody else can change it
        return
    family = family_of(type(pipe).__name__, model=name)
    own = architecture(
        family,
        denoiser=getattr(pipe, family.component).config,
        scheduler=pipe.scheduler.config,
        vae=pipe.vae.config,
        text_encoders=sum(getattr(pipe, p, None) is not None for p in family.text_encoders),
    )
    if wrong := list(mismatches(row, own)):
        raise ModelError(
            f"{row.repository} is not what {name} stands for: {'; '.join(wrong)}. To use it as it "
            "is, set base.model to its Hub id."
        )


def part_config(base: BaseConfig, part: str) -> dict[str, Any] | None:
    """The config of one network of the base; None if the base has none. Raises ModelError."""
    base = located(base)
    configs = _configs_of(base)
    if part == "vae" and base.vae is not None:
        return model_config(base.vae, None, setting="base.vae")
    if not _has(_model_index(configs), part):
        return None
    return _read_json(configs, f"{part}/config.json")


def says_distilled(base: BaseConfig) -> bool:
    """Whether a folder on this machine says of itself that it was distilled to few steps."""
    try:
        configs = _configs_of(located(base))
        here = _local_folder(configs.model) is not None
        return here and _model_index(configs).get("is_distilled") is True
    except ModelError:  # of which others say more
        return False


def left_out(base: BaseConfig) -> tuple[str, ...]:
    """The text encoders that the base was saved without, as Stable Diffusion 3 may be without T5.
    Raises ModelError."""
    index = _model_index(_configs_of(located(base)))
    return _left_out(index, _family(index, base.model))


def _left_out(index: dict[str, Any], family: Family) -> tuple[str, ...]:
    return tuple(p for p in family.text_encoders if p in index and not _has(index, p))


def tokenizer_limit(base: BaseConfig, part: str) -> int | None:
    """How many tokens a tokenizer of the base reads; None if the base has none, or it does not say.
    Raises ModelError."""
    configs = _configs_of(located(base))
    if not _has(_model_index(configs), part):
        return None
    limit = _read_json(configs, f"{part}/tokenizer_config.json").get("model_max_length")
    return limit if isinstance(limit, int) else None


def base_family(base: BaseConfig) -> Family:
    """The base's family, as its model_index.json tells. Raises ModelError."""
    configs = _configs_of(located(base))
    return _family(_model_index(configs), configs.model)


def require_single_file(base: BaseConfig) -> None:
    """Raise ModelError if the base is a single file that is none of its family's checkpoints; only
    the file's header is read."""
    if base.config is None:
        return
    family = base_family(base)
    if not family.single_file:
        raise ModelError(
            f"{base.model} cannot be read: of {family.name} a single file has the denoiser alone. "
            f"Set base.model to {base.config}, or to a folder with all of its parts."
        )
    require_whole(_file(base), family.single_file)


def target_widths(base: BaseConfig) -> set[int]:
    """Input widths of the layers that adapters go to; empty unless a folder's configs tell them."""
    try:
        if _local_folder(_configs_of(located(base)).model) is None:
            return set()
        family = base_family(base)
        return family.target_widths(part_config(base, family.component) or {})
    except (ModelError, ValueError, KeyError, TypeError):
        return set()


def local_denoiser(base: BaseConfig) -> tuple[Family, dict[str, Any]] | None:
    """The base's family and its denoiser's config; None unless a folder here tells them."""
    if _local_folder(_configs_of(located(base)).model) is None:
        return None
    family = base_family(base)
    config = part_config(base, family.component)
    return None if config is None else (family, config)


def own_architecture(base: BaseConfig) -> Architecture:
    """What the model's own configs say that it is; no weights are read. Raises ModelError."""
    require_kind(base, BaseConfig, maker="selma.config.networks.base_of(MODEL) makes them.")
    require_single_file(base)
    configs = _configs_of(located(base))
    index = _model_index(configs)
    family = _family(index, configs.model)
    denoiser, scheduler, vae = (
        _read_json(configs, name)
        for name in (
            f"{family.component}/config.json",
            "scheduler/scheduler_config.json",
            "vae/config.json",
        )
    )
    encoders = sum(_has(index, part) for part in family.text_encoders)
    return architecture(
        family,
        denoiser=denoiser,
        scheduler=scheduler,
        vae=vae,
        text_encoders=encoders,
    )


def _local_folder(model: str) -> Path | None:
    """The folder that holds the model; None for a Hub repository id."""
    if (embedded := base_folder(model)) is not None:
        return embedded
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if HUB_ID.fullmatch(model):
        return None
    raise ModelError(
        f"base.model must be one of {', '.join(BASES)}, a diffusers folder, a Hub id like "
        f'"owner/name" or a .safetensors file with base.config, but {model!r} is none of them.'
    )


def _configs_of(base: BaseConfig) -> BaseConfig:
    """The model whose configs a single file has; any other base is its own."""
    return base if base.config is None else located(BaseConfig(model=base.config))


def _configs_folder(base: BaseConfig) -> Path:
    folder = _local_folder(base.model)
    if folder is not None:
        return folder
    import huggingface_hub

    wanted = ["*.json", "*.txt", "*.model"]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                base.model, revision=_commit(base), allow_patterns=wanted
            )
        )
    except Exception as error:  # many kinds: no net, offline mode, no right
        raise ModelError(
            f"base.config: {base.model} cannot be had from the Hub: {error}"
        ) from error


def _file(base: BaseConfig) -> Path:
    path = Path(base.model).expanduser()
    if not path.is_file():
        raise ModelError(f"base.model must be a file of weights, but {path} is missing.")
    return path


def _commit(base: BaseConfig) -> str:
    return hub_commit(base.model, base.revision, setting="base.model", file=INDEX)


def _has(index: dict[str, Any], part: str) -> bool:
    """Whether a model was saved with this part."""
    return (index.get(part) or [None])[0] is not None


def _model_index(base: BaseConfig) -> dict[str, Any]:
    return _read_json(base, INDEX)


def _read_json(base: BaseConfig, name: str) -> dict[str, Any]:
    """One of the model's JSON files, from its folder, the Hub or the Hub's cache."""
    folder = _local_folder(base.model)
    try:
        if folder is None:
            import huggingface_hub

            path = Path(huggingface_hub.hf_hub_download(base.model, name, revision=_commit(base)))
        else:
            path = folder / name
        value = json.loads(plain_text(path, most=MOST_SETTINGS))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{base.model} has no readable {name}: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{base.model}: {name} must be a mapping.")
    return value


def _family(index: dict[str, Any], model: str) -> Family:
    """The model's family. Refuses parts that would run foreign code."""
    named = index.get("_class_name")
    if not isinstance(named, str | None):
        raise ModelError(f"{model}: {INDEX} must name its class, but has {named!r:.80}.")
    family = family_of(named, model=model)
    left_out = {part for part, given in family.loading.items() if given is None}
    for part, origin in index.items():
        if part.startswith("_") or part in left_out or not isinstance(origin, list):
            continue
        if not origin:
            raise ModelError(f"{model}: {INDEX} must say where {part} comes from, but names none.")
        known = ":".join(map(str, origin)) in family.classes.values()
        if origin[0] not in ("diffusers", "transformers", None) and not known:
            raise ModelError(
                f"{model}: {part} must come from diffusers or transformers, but {INDEX} "
                f"names {origin[0]!r:.80}. Code from a model's folder is never run."
            )
    return family
