"""SynGen (arXiv:2306.08877): latents are moved until modifiers are seen where their nouns are.

Before each of the first steps z ← z - step size · ∂L/∂z, where L is of the attention maps of one
more pass of the denoiser over the prompt. Each image is moved by its own gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from selma.backbones.families.family import Config, Crop, Family
from selma.config.guides import SynGenConfig
from selma.errors import ConfigError
from selma.images.guides.guide import GuideKind, require_text_maps
from selma.images.guides.token_spans import token_offsets, token_sets
from selma.images.guides.words import word_sets
from selma.records.parses import Parse, Sets

if TYPE_CHECKING:
    from torch import Tensor

    from selma.backbones.families.conditioning import Conditioning
    from selma.backbones.memory import Need, Parts
    from selma.backbones.text_to_image import Guide, LatentChange, Pass, TextToImage

PIXELS_OF_A_CELL = 32
"""Pixels of an image along a side of a map's cell, as released: maps of 16 x 16 at 512 px."""


def sets_of(text: str, parse: Parse, config: SynGenConfig) -> Sets:
    """Words that belong together, of each set the noun last."""
    sets = word_sets(parse, reading=config.reading, entities=config.entities)
    return tuple(tuple(parse.words[number].span for number in words) for words in sets)


def map_side(family: Family, denoiser: Config, config: SynGenConfig, *, image_px: int) -> int:
    """The side of the maps. Raises ConfigError unless the base has maps of the side that is set."""
    assert family.map_sides is not None
    sides = family.map_sides(denoiser)
    if config.map_side is not None:
        if config.map_side not in sides:
            known = ", ".join(map(str, sides)) or "no side"
            raise ConfigError(
                f"map_side must be a side of the base's attention maps ({known}), but "
                f"{config.map_side} came."
            )
        return config.map_side
    wanted = -(-image_px // PIXELS_OF_A_CELL)
    return min(sides, key=lambda side: (abs(side - wanted), side))


def require_fit(family: Family, denoiser: Config, config: SynGenConfig) -> None:
    """Raise ConfigError unless the denoiser has maps of the side that is asked for."""
    require_text_maps(family, "syngen")
    map_side(family, denoiser, config, image_px=PIXELS_OF_A_CELL)


class SynGen:
    """The guide of one model."""

    def __init__(self, model: TextToImage, sets: Mapping[str, Sets], config: SynGenConfig) -> None:
        self.model, self.sets, self.config = model, sets, config
        denoiser = model.denoiser.config
        self.side = map_side(model.family, denoiser, config, image_px=model.image_px)

    @contextmanager
    def __call__(self, images: Pass) -> Iterator[LatentChange | None]:
        """The change of these images' latents before each step."""
        import torch

        sets = [self.sets.get(text, ()) for text in images.texts]
        if not any(sets) or not self.config.step_size:
            yield None
            return
        with torch.no_grad():
            conditioning = self._conditioning(images.texts)
        last = self.config.intervened_steps
        last = images.steps // 2 if last is None else last

        def change(latents: Tensor, timestep: Tensor, step: int) -> Tensor | None:
            if step >= last:
                return None
            moves = torch.zeros_like(latents)
            for row, text in enumerate(images.texts):
                before = row - 1
                if row and text == images.texts[before] and latents[row].equal(latents[before]):
                    moves[row] = moves[before]  # a pass is filled up with copies
                elif sets[row]:
                    moves[row] = self._move(
                        text, latents[[row]], timestep, _of_row(conditioning, row)
                    )[0]
            return moves

        yield change

    def _conditioning(self, texts: Sequence[str]) -> Conditioning:
        model, side = self.model, self.model.image_px
        known = model.features(texts, guided=False).positive
        crops = [Crop(side, side, 0, 0, side)] * len(texts)
        return model.family.with_crops(known, crops).to(model.device).to(model.dtype)

    def _move(
        self, text: str, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """-step size · ∂L/∂z of one image, [1, c, h, w]."""
        import torch

        from selma.images.guides.attention_maps import recorded
        from selma.images.guides.binding import binding_loss

        model = self.model
        offsets = token_offsets(model.tokenizers[0], text)
        prompt = [position for position, (first, end) in enumerate(offsets) if first < end]
        with torch.enable_grad(), recorded(model.denoiser, side=self.side) as maps:
            z = latents.detach().requires_grad_()
            scheduler = model.pipe.scheduler
            seen = z
            if self.config.reading != "released":
                seen = scheduler.scale_model_input(z, timestep).to(z.dtype)
            model.family.denoise(model.denoiser, seen, timestep.expand(1), conditioning)
            sets = token_sets(self.sets[text], offsets)
            loss = binding_loss(maps.mean(), sets, prompt)
            if not loss.requires_grad:  # no set lies within what the encoder reads
                return torch.zeros_like(latents)
            (gradient,) = torch.autograd.grad(loss, z)
        return -self.config.step_size * gradient


def _of_row(conditioning: Conditioning, row: int) -> Conditioning:
    return conditioning.map(lambda part: part[[row]])


def move_need(parts: Parts, config: SynGenConfig) -> Need:
    """One image's move: a pass with a gradient for its latents, and none for weights."""
    import torch

    from selma.backbones.memory import Need, peak
    from selma.images.guides.attention_maps import recorded

    side = map_side(parts.family, parts.denoiser.config, config, image_px=parts.image_px)

    def move() -> Any:
        with torch.device("meta"):
            latents = torch.empty(1, *parts.latent, dtype=parts.dtype, requires_grad=True)
            timestep = torch.zeros(1, dtype=torch.long)
        with recorded(parts.denoiser, side=side) as maps:
            parts.family.denoise(parts.denoiser, latents, timestep, parts.conditioning(1))
            return torch.autograd.grad(maps.mean().sum(), latents)

    return Need("syngen's moves", parts.weights, 0, 0, peak(move), 1)


def load(model: TextToImage, sets: Mapping[str, Sets], settings: Any) -> Guide:
    """What guides the model."""
    return SynGen(model, sets, settings)


SYNGEN = GuideKind(
    name="syngen",
    settings=SynGenConfig,
    sets=sets_of,
    parsed_by=frozenset({"reading", "entities"}),
    require_fit=require_fit,
    load=load,
    need=move_need,
)
