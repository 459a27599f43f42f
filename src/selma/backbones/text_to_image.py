"""The frozen text-to-image model: where it lies, what it is, and how it draws.

Only this module loads it: safetensors only, no code from the model's folder, safety checker and
watermark off (both would change training pictures).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.backbones.bases import BASES, Architecture, architecture, located, mismatches
from selma.backbones.hub import (
    HUB_ID,
    file_digest,
    find_device,
    folder_digest,
    hub_commit,
    weights_digest,
)
from selma.backbones.single_file import load_single_file
from selma.config import BaseConfig
from selma.errors import AdapterError, ModelError

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from PIL import Image

INDEX = "model_index.json"
ADAPTER_FILE = "pytorch_lora_weights.safetensors"
ROTATION_FILE = "rotations.safetensors"
"""An adapter's file in its folder: of LoRA by diffusers' name, of OFT by our own."""

# Class in model_index.json → what its loader is told beside the precision.
FAMILIES: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    },
    "StableDiffusionXLPipeline": {
        "feature_extractor": None,
        "image_encoder": None,
        "add_watermarker": False,
    },
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
REPLACED = {"safety_checker", "feature_extractor", "image_encoder"}

PICTURES_AT_ONCE = 8
"""How many pictures one forward pass on the CPU holds, whatever the batch size is."""
SMALL_LATENT = 32 * 32
"""Latents up to this area gain from sharing a forward pass on the CPU; larger ones do not."""


def adapter_file(place: Path) -> Path:
    """An adapter's file: `place` itself, or what lies in that folder (LoRA's name if nothing)."""
    if not place.is_dir():
        return place
    there = (place / name for name in (ADAPTER_FILE, ROTATION_FILE))
    return next((path for path in there if path.is_file()), place / ADAPTER_FILE)


def base_fingerprint(base: BaseConfig) -> str:
    """64 hex digits that change with any byte of the model that is loaded.

    A local folder is read once per process; of a Hub repository the commit is taken instead.
    """
    base = located(base)
    found = [_fingerprint(base)]
    if base.config is not None:
        found.append(base_fingerprint(_configs_of(base)))
    if base.vae is not None:
        found.append(weights_digest(base.vae, None, setting="base.vae"))
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()


def _fingerprint(base: BaseConfig) -> str:
    if base.config is not None:
        return file_digest(_file(base))
    folder = _local_folder(base.model)
    if folder is None:
        return hashlib.sha256(f"{base.model}@{_commit(base)}".encode()).hexdigest()
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder} must be a diffusers folder, but has no {INDEX}.")
    return folder_digest(folder.resolve())


def load_text_to_image(base: BaseConfig) -> TextToImage:
    """The model, on its device, in evaluation mode and without gradients. Raises ModelError."""
    import diffusers
    import torch
    import transformers

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # truncated prompts are counted, not logged one by one
    asked, base = base, located(base)
    device = find_device(base.device, setting="base.device")
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[base.precision]
    pipe = _pipeline(base, dtype)
    _require_as_named(asked.model, pipe)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    offload = base.offload and device.type != "cpu"  # the CPU's memory is where it is already
    if offload:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    return TextToImage(pipe, device, dtype, base_fingerprint(base), offload)


def _pipeline(base: BaseConfig, dtype: torch.dtype) -> Any:
    """The pipeline on the CPU, from a folder, a Hub repository or a single file."""
    import diffusers

    configs = _configs_of(base)
    index = _model_index(configs)
    family, settings = _family(index, configs.model)
    given = {key: value for key, value in settings.items() if key in index or value is False}
    if base.vae is not None:
        given["vae"] = _autoencoder(base.vae, dtype)
    if base.config is not None:
        place = _configs_folder(configs)
        return load_single_file(_file(base), family, configs=place, dtype=dtype, settings=given)
    folder = _local_folder(base.model)
    revision = {} if folder else {"revision": _commit(base)}
    try:
        return getattr(diffusers, family).from_pretrained(
            folder or base.model,
            torch_dtype=dtype,
            use_safetensors=True,
            **revision,
            **given,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"{base.model} cannot be loaded as {family} from safetensors files: {error}"
        ) from error


def _autoencoder(model: str, dtype: torch.dtype) -> Any:
    import diffusers

    folder = Path(model).expanduser()
    where = {} if folder.is_dir() else {"revision": hub_commit(model, None, setting="base.vae")}
    try:
        return diffusers.AutoencoderKL.from_pretrained(
            folder if folder.is_dir() else model, torch_dtype=dtype, use_safetensors=True, **where
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"base.vae: {model} is no AutoencoderKL in safetensors: {error}"
        ) from error


def _require_as_named(name: str, pipe: Any) -> None:
    """Nothing, if what was loaded is what its short name stands for."""
    row = BASES.get(name)
    if row is None or row.repository is None:  # toybox comes along: nobody else can change it
        return
    own = architecture(
        type(pipe).__name__,
        unet=pipe.unet.config,
        scheduler=pipe.scheduler.config,
        vae=pipe.vae.config,
        text_encoders=1 + (getattr(pipe, "text_encoder_2", None) is not None),
    )
    if wrong := list(mismatches(row, own)):
        raise ModelError(
            f"{row.repository} is not what {name} stands for: {'; '.join(wrong)}. To use it as it "
            "is, set base.model to its Hub id."
        )


def own_architecture(base: BaseConfig) -> Architecture:
    """What the model's own configs say that it is; no weights are read. Raises ModelError."""
    configs = _configs_of(located(base))
    index = _model_index(configs)
    unet, scheduler, vae = (
        _read_json(configs, name)
        for name in ("unet/config.json", "scheduler/scheduler_config.json", "vae/config.json")
    )
    encoders = sum((index.get(part) or [None])[0] is not None for part in TEXT_ENCODERS)
    return architecture(
        str(index.get("_class_name")),
        unet=unet,
        scheduler=scheduler,
        vae=vae,
        text_encoders=encoders,
    )


@dataclass(frozen=True)
class TextFeatures:
    """What the text encoders give the UNet for one pass of pictures."""

    text: torch.Tensor
    """[b, tokens, width]."""
    negative: torch.Tensor | None
    """The empty prompt's; None without guidance."""
    pooled: torch.Tensor | None = None
    """[b, width], SDXL only."""
    negative_pooled: torch.Tensor | None = None


Rewriting = Callable[[TextFeatures], TextFeatures]


@dataclass
class TextToImage:
    """A frozen diffusion model that draws."""

    pipe: StableDiffusionPipeline | StableDiffusionXLPipeline
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    offload: bool = False
    """Each network waits in the CPU's memory until it is at work."""
    _adapted: bool = False
    _rewriting: Rewriting | None = None

    @property
    def prediction_type(self) -> str:
        """ "epsilon", "v_prediction" or "sample", as the base's own scheduler has it."""
        return str(self.pipe.scheduler.config.prediction_type)

    @property
    def image_px(self) -> int:
        """Side of the square pictures that the base was made for."""
        return int(self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor)

    @cached_property
    def tokenizers(self) -> list[Any]:
        names = ("tokenizer", "tokenizer_2")
        return [part for name in names if (part := getattr(self.pipe, name, None)) is not None]

    def tokens_cut(self, text: str) -> int:
        """How many tokens of the text lie beyond the limit of the stricter encoder."""
        lengths = (
            len(words(text, truncation=False, verbose=False).input_ids) - words.model_max_length
            for words in self.tokenizers
        )
        return max(0, *lengths)

    def draw(
        self,
        texts: Sequence[str],
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        batch_size: int,
    ) -> Iterator[Image.Image]:
        """Pictures in the order of the texts; each depends on its text, seed, steps and guidance.

        Guidance of 1 or less draws without an unconditional pass. On a CPU the batch size changes
        no pixel; on a GPU it may change the last bit of some, and order and resume never do.
        """
        if len(texts) != len(seeds):
            raise ValueError(f"Each text needs one seed, but {len(texts)} and {len(seeds)} came.")
        rows = self._rows(batch_size)
        for start in range(0, len(texts), rows):
            some, their_seeds = list(texts[start : start + rows]), list(seeds[start : start + rows])
            # Matrix products of another size round otherwise (measured: 1e-6, enough to turn a
            # pixel by one), while within one size each row is independent of the others. So
            # every pass has the same size, the last one filled up with copies.
            missing = rows - len(some)
            pictures = self._draw_together(
                some + some[-1:] * missing,
                their_seeds + their_seeds[-1:] * missing,
                steps,
                guidance,
            )
            yield from pictures[: len(some)]

    @contextmanager
    def adapted(self, folder: Path | None, *, scale: float = 1.0) -> Iterator[None]:
        """While the block runs, the UNet's weights hold the LoRA in `folder`, times `scale`.

        Afterwards the weights are what they were, bit for bit. None changes nothing. Adapters of
        any kind, and several at once: `adapters.applying.applied`.
        """
        if folder is None:
            yield
            return
        with self._changed(lambda: self._fuse(adapter_file(folder), scale=scale)):
            yield

    @contextmanager
    def replaced(
        self, changes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]
    ) -> Iterator[None]:
        """While the block runs, each of these layers of the UNet has the weight that its function
        makes of its own, which it is given as float32. Afterwards all is what it was, bit for bit.
        """
        with self._changed(lambda: self._replace(changes)):
            yield

    @contextmanager
    def _changed(self, change: Callable[[], dict[str, torch.Tensor]]) -> Iterator[None]:
        """Runs `change`, which returns the weights that it replaced, and puts them back."""
        if self._adapted:
            raise AdapterError("Only one adapter can be applied at a time; leave the first block.")
        self._adapted = True
        try:
            kept = change()
            try:
                yield
            finally:
                _restore(self.pipe.unet, kept)
        finally:
            self._adapted = False

    @contextmanager
    def denoiser_alone(self) -> Iterator[None]:
        """While the block runs, the UNet stays on the device and is never moved; with `offload`
        the other networks wait, and cannot be used."""
        if not self.offload:
            yield
            return
        self.pipe.remove_all_hooks()
        self.pipe.to("cpu", silence_dtype_warnings=True)
        self.pipe.unet.to(self.device)
        try:
            yield
        finally:
            self.pipe.enable_model_cpu_offload(device=self.device)

    def _replace(
        self, changes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        unet, kept = self.pipe.unet, {}
        try:
            for name, change in changes.items():
                weight = unet.get_parameter(f"{name}.weight").data
                kept[name] = weight.clone()
                weight.copy_(change(weight.float()))
        except BaseException:
            _restore(unet, kept)
            raise
        return kept

    @contextmanager
    def rewritten(self, rewriting: Rewriting | None) -> Iterator[None]:
        """While the block runs, pictures are drawn from what `rewriting` makes of their text
        features. None changes nothing."""
        if rewriting is not None and self._rewriting is not None:
            raise AdapterError("Text features can be rewritten once only; leave the first block.")
        before, self._rewriting = self._rewriting, rewriting or self._rewriting
        try:
            yield
        finally:
            self._rewriting = before

    def text_features(self, texts: Sequence[str], *, guidance: float) -> TextFeatures:
        """As the pipeline itself would encode these texts. Guidance of 1 or less needs no empty
        prompt."""
        out = self.pipe.encode_prompt(
            prompt=list(texts),
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guidance > 1,
        )
        return TextFeatures(*out)

    def _rows(self, batch_size: int) -> int:
        if self.device.type != "cpu":
            return batch_size
        return PICTURES_AT_ONCE if self.pipe.unet.config.sample_size**2 <= SMALL_LATENT else 1

    def _draw_together(
        self, texts: list[str], seeds: list[int], steps: int, guidance: float
    ) -> list[Image.Image]:
        import numpy as np
        import torch

        unet = self.pipe.unet.config
        shape = (1, unet.in_channels, unet.sample_size, unet.sample_size)
        # CPU generators, so that every device starts from the same noise.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        latents = torch.cat([torch.randn(shape, generator=g) for g in generators])
        pictures = self.pipe(
            **self._prompts(texts, guidance),
            latents=latents.to(self.device, self.dtype),
            generator=generators,  # goes on to the schedulers that add noise at each step
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="np",
        ).images
        if not np.isfinite(pictures).all():
            raise ModelError(
                f"The model drew pixels that are not finite with {self.dtype}. "
                "Set base.precision to bf16 or fp32."
            )
        return self.pipe.image_processor.numpy_to_pil(pictures)

    def _prompts(self, texts: list[str], guidance: float) -> dict[str, Any]:
        """The pipeline's keywords for what is to be drawn."""
        import torch

        if self._rewriting is None:
            return {"prompt": texts}
        with torch.no_grad():
            made = self._rewriting(self.text_features(texts, guidance=guidance))
        found = {
            "prompt_embeds": made.text,
            "negative_prompt_embeds": made.negative,
            "pooled_prompt_embeds": made.pooled,
            "negative_pooled_prompt_embeds": made.negative_pooled,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _fuse(self, path: Path, *, scale: float) -> dict[str, torch.Tensor]:
        """Adds the adapter to the UNet's weights; returns the weights that it replaced."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        unet = self.pipe.unet
        kept: dict[str, torch.Tensor] = {}
        try:
            layers = _layers_of(path)
            self.pipe.load_lora_weights(
                path.parent, weight_name=path.name, use_safetensors=True, local_files_only=True
            )
            for name, module in unet.named_modules():
                if isinstance(module, BaseTunerLayer):
                    kept[name] = module.get_base_layer().weight.detach().clone()
            if not kept or len(kept) != layers:
                # The loader passes over layers that it does not find, without an error.
                raise AdapterError(
                    f"{path} changes {layers} layers, of which this model has "
                    f"{len(kept)}. It was made for another one."
                )
            unet.fuse_lora(lora_scale=scale)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            unet.unload_lora()
            _restore(unet, kept)
            raise AdapterError(f"{path} cannot be applied to this model: {error}") from error
        except BaseException:
            unet.unload_lora()
            _restore(unet, kept)
            raise
        unet.unload_lora()  # the layers go, what they added stays
        return kept


def _layers_of(path: Path) -> int:
    """How many layers the adapter changes, all of them the UNet's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise AdapterError(f"{path} is not a whole safetensors file: {error}.") from error
    foreign = [name for name in names if not name.startswith(("unet.", "lora_unet_"))]
    if foreign:
        raise AdapterError(f"{path} must change the UNet alone, but it has {foreign[0]!r}.")
    return sum(bool(re.search(r"lora_A\.|lora[._]down\.|down\.weight$", name)) for name in names)


def _restore(unet: torch.nn.Module, kept: dict[str, torch.Tensor]) -> None:
    for name, weight in kept.items():
        unet.get_parameter(f"{name}.weight").data.copy_(weight)


def _local_folder(model: str) -> Path | None:
    """The folder that holds the model; None for a Hub repository id."""
    if model == "toybox":
        from selma.toybox import weights_folder

        return weights_folder() / "base"
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
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{base.model} has no readable {name}: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{base.model}: {name} must be a mapping.")
    return found


def _family(index: dict[str, Any], model: str) -> tuple[str, dict[str, Any]]:
    """The pipeline's class and its settings; refuses parts that would run foreign code."""
    name = index.get("_class_name")
    if name not in FAMILIES:
        raise ModelError(f"{model} must be one of {', '.join(FAMILIES)}, but is {name!r}.")
    for part, origin in index.items():
        if part.startswith("_") or part in REPLACED or not isinstance(origin, list):
            continue
        if origin[0] not in ("diffusers", "transformers", None):
            raise ModelError(
                f"{model}: {part} must come from diffusers or transformers, but {INDEX} "
                f"names {origin[0]!r}. Code from a model's folder is never run."
            )
    return name, FAMILIES[name]
