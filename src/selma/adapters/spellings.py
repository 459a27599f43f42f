"""What files call a tensor of low-rank factors: whose it is, and which layer it speaks of.

Prefixes are taken off until none is left, so that what one program wraps in another's names
("unet.base_model.model.") still leads to its layer; which layer that is, `resolving` looks up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from selma.adapters import names

LONGEST_NAME = 500
"""Characters of a tensor's name; the longest of a real layer has 110."""

BUNDLED = "bundle_emb."
"""Before embeddings of texts that OneTrainer puts beside a LoRA's factors."""

NAMED_MODELS = {
    "base_model.model.": None,  # what PEFT wraps a model in
    "model.diffusion_model.": names.UNET,  # the original checkpoints, without "model." ComfyUI's
    "diffusion_model.": names.UNET,
    "lora_unet_": names.UNET,
    "lora_transformer_": "transformer",
    "lycoris_": names.UNET,
    "lora_te_": names.TEXT,
    "lora_te1_": names.TEXT,
    "lora_te2_": names.TEXT_2,
    "lora_te3_": names.T5,  # kohya's of FLUX.1 as well, which has no third text encoder
    "text_encoders.": None,  # ComfyUI's
    "clip_l.transformer.": names.TEXT,
    "clip_h.transformer.": names.TEXT,
    "clip_g.transformer.": names.TEXT_2,
    "t5xxl.transformer.": names.T5,
    "gemma2_2b.transformer.model.": names.TEXT,  # of Lumina 2
    "clip_l.": names.TEXT,
    "clip_g.": names.TEXT_2,
    "t5xxl.": names.T5,
}
"""Prefix → the component that it says the layer is of, None where it says nothing of that; the UNet
stands for the denoiser of any base."""

_SCHEMES = (
    ("kohya", r"lora_(unet|te[123]?)_"),
    ("onetrainer", r"lora_transformer_"),
    ("simpletuner", r"lycoris_"),
    ("comfyui", r"(model\.)?diffusion_model\.|text_encoders\.|(clip_[lgh]|t5xxl|gemma2_2b)\."),
    ("peft", r"base_model\.model\."),
)

# What cannot be written as scale x B A of a layer's weight. Found anywhere in a tensor's name.
_REFUSED = {
    r"dora_scale|lora_magnitude_vector": "DoRA: it also changes the norm of each column",
    r"\.hada_": "LoHa: its change is a product of entries, not of matrices",
    r"\.lokr_": "LoKr: its change is a Kronecker product",
    r"\.lora_mid\.": "a Tucker convolution (lora_mid): its change has a third factor",
    r"\.oft_|\.boft_": "OFT: it rotates weights instead of adding to them",
    r"lora_embedding_[AB]": "an embedding's change",
    r"\.diff(_b)?$": "a full difference rather than two factors",
    r"\.bias$": "biases, which no B A reaches",
    r"modules_to_save": "whole modules (modules_to_save)",
}
_FACTORS = {"A": "A", "B": "B", "down": "A", "up": "B"}
_SUFFIX = [
    re.compile(pattern)
    for pattern in (
        # PEFT puts the adapter's own name, which has no dot, before "weight".
        r"(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.[^.]+)?\.weight",
        r"(?P<module>.+)\.lora(?:_linear_layer)?\.(?P<factor>down|up)\.weight",
        r"(?P<module>.+)\.lora_(?P<factor>down|up)\.weight",
        r"(?P<module>.+?)(?:\.processor)?\.(?P<to>to_(?:q|k|v|out))_lora\.(?P<factor>down|up)\.weight",
        r"(?P<module>.+)\.(?P<factor>alpha)",
    )
]
_OF_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""What diffusers' first attention processors called the projections of a text encoder."""


class Spelling(NamedTuple):
    """A layer as a file names it, without prefixes."""

    component: str | None
    """None where the file does not say it."""
    path: str

    def __str__(self) -> str:
        return self.path if self.component is None else f"{self.component}: {self.path}"


class TensorName(NamedTuple):
    """What a tensor's name says."""

    scheme: str
    """Whose name it is: "diffusers", "kohya", "peft", "comfyui", "onetrainer" or "simpletuner"."""
    layer: Spelling
    role: str
    """"A", "B" or "alpha"."""


def read_name(name: str) -> TensorName | None:
    """What a tensor's name says; None if it is none of a low-rank factor."""
    if len(name) > LONGEST_NAME:
        return None
    match = next((match for suffix in _SUFFIX if (match := suffix.fullmatch(name))), None)
    if match is None:
        return None
    module = match["module"]
    if to := match.groupdict().get("to"):
        text = _OF_TEXT[to] if module.endswith(".self_attn") else None
        module = f"{module}.{text or ('to_out.0' if to == 'to_out' else to)}"
    layer = spelling(module.replace(".processor.", "."))
    scheme = next((s for s, prefix in _SCHEMES if re.match(prefix, name)), "diffusers")
    return layer and TensorName(scheme, layer, _FACTORS.get(match["factor"], "alpha"))


def spelling(module: str) -> Spelling | None:
    """The layer without its prefixes; None where they say two components, and for what is longer
    than any name."""
    if len(module) > LONGEST_NAME:
        return None
    component, path = None, module
    prefixes = _prefixes()  # the families' table is asked once for a name
    while match := next((p for p in prefixes if path.startswith(p)), None):
        path = path.removeprefix(match)
        named = prefixes[match]
        if named and component not in (None, named):
            return None
        component = component or named
    return Spelling(component, path)


@cache
def _prefixes_of(components: tuple[str, ...]) -> dict[str, str | None]:
    return NAMED_MODELS | {f"{component}.": component for component in components}


def _prefixes() -> dict[str, str | None]:
    return _prefixes_of(names.components())


def refused(name: str) -> str | None:
    """Why a tensor of this name cannot be part of scale x B A; None where nothing says so."""
    return next((reason for pattern, reason in _REFUSED.items() if re.search(pattern, name)), None)


def factors_alone(tensor_names: Iterable[str]) -> bool:
    """Whether all tensors are low-rank factors by their names, but for bundled embeddings."""
    own = [name for name in tensor_names if not name.startswith(BUNDLED)]
    return bool(own) and all(read_name(name) for name in own)
