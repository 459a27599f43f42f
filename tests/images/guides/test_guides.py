"""Images with a guide: what they depend on, and when they are the base's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from selma.backbones.parsers import PARSERS
from selma.backbones.text_to_image import TextToImage
from selma.config.guides import (
    GuideSettings,
    StructureDiffusionConfig,
    SynGenConfig,
    guide_of,
)
from selma.errors import AdapterError, ConfigError
from selma.images.guides import GUIDES
from selma.images.guides.applying import guided, sets_of
from selma.images.guides.structure_diffusion import (
    all_replaced,
    embeddings,
    replaced_rows,
)
from selma.records.guides import AppliedGuide

TEXTS = ["red dog, blue cat", "a dog", "a red cat", "star left of red cup"]
SEEDS = [5, 6, 7, 8]
MOVED = 1e4
"""A step size that shows where latents are as wide as SDXL's first ones, and weights random."""
METHODS: list[GuideSettings] = [
    SynGenConfig(step_size=MOVED),
    StructureDiffusionConfig(),
    StructureDiffusionConfig(form="conjunction"),
]


def applied(settings: GuideSettings, texts: Sequence[str] = TEXTS) -> AppliedGuide:
    sets = sets_of(texts, settings, PARSERS["toybox"])
    return AppliedGuide(settings=settings, key="", sets=sets)


def images(
    model: TextToImage,
    guide: AppliedGuide | None = None,
    which: Sequence[int] = range(len(TEXTS)),
    **how: Any,
) -> dict[int, np.ndarray]:
    options = {"steps": 4, "guidance": 5.0, "batch_size": 8} | how
    with guided(model, guide):
        generated = model.generate(
            [TEXTS[i] for i in which], seeds=[SEEDS[i] for i in which], **options
        )
        return {i: np.asarray(image) for i, image in zip(which, generated, strict=True)}


def equal(a: Mapping[int, np.ndarray], b: Mapping[int, np.ndarray]) -> list[int]:
    assert a.keys() == b.keys()
    return [key for key in a if np.array_equal(a[key], b[key])]


@pytest.mark.parametrize("shape", tiny.SHAPES)
@pytest.mark.parametrize("settings", METHODS, ids=lambda s: s.kind + getattr(s, "form", ""))
def test_prompts_with_sets_change_and_others_are_the_bases(
    shape: str, settings: GuideSettings
) -> None:
    model = tiny.load(shape)
    base, guide = images(model), applied(settings)
    changed = images(model, guide)
    without = [i for i, text in enumerate(TEXTS) if not guide.sets[text]]
    assert without and equal(base, changed) == without
    assert equal(base, images(model)) == [*base]  # nothing of the guide stays
    alone = images(model, guide, [2], batch_size=1)
    assert equal(alone, {2: changed[2]}) == [2]
    turned = images(model, guide, [3, 1, 0, 2], batch_size=3)
    assert equal(changed, {i: turned[i] for i in changed}) == [*changed]


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_batch_size_changes_nothing_where_passes_are_of_one_image(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.load(shape)
    model.family = replace(model.family, shared_pass=0)  # as for bases with large latents
    guide = applied(SynGenConfig(step_size=MOVED))
    assert equal(images(model, guide), images(model, guide, batch_size=2)) == [0, 1, 2, 3]


def test_a_step_size_of_0_or_no_intervened_step_is_the_base() -> None:
    model = tiny.load("sdxl")
    base = images(model)
    for settings in (SynGenConfig(step_size=0), SynGenConfig(intervened_steps=0)):
        assert equal(base, images(model, applied(settings))) == [*base]
    some = images(model, applied(SynGenConfig(step_size=MOVED, intervened_steps=1)))
    assert equal(
        some, images(model, applied(SynGenConfig(step_size=MOVED, intervened_steps=3)))
    ) == [1]


def test_the_released_maps_are_of_latents_that_are_not_scaled() -> None:
    ours, released = (
        applied(SynGenConfig(step_size=MOVED, reading=r)) for r in ("arcs", "released")
    )
    assert ours.sets == released.sets
    for shape, same in (("sd2", [0, 1, 2, 3]), ("sdxl", [1])):  # DDIM does not scale, Euler does
        model = tiny.load(shape)
        assert equal(images(model, ours), images(model, released)) == same


def test_syngen_takes_a_step_down_the_gradient_of_each_latent() -> None:
    model, text = tiny.load("sd1"), TEXTS[0]
    seen: list[torch.Tensor] = []
    guide = applied(SynGenConfig(step_size=1.0))
    syngen = GUIDES["syngen"].load(model, guide.sets, guide.settings)
    from selma.backbones.text_to_image import Pass

    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    model.pipe.scheduler.set_timesteps(4)
    time = model.pipe.scheduler.timesteps[0]
    with syngen(Pass([text, TEXTS[1]], 4)) as change:
        assert change is not None
        moves = change(latents, time, 0)
        assert moves is not None and change(latents, time, 2) is None
        seen.append(moves)
    with syngen(Pass([text], 4)) as change:
        assert change is not None
        alone = change(latents[:1], time, 0)
    assert torch.equal(seen[0][1], torch.zeros_like(latents[1]))
    assert alone is not None and torch.equal(seen[0][:1], alone)
    assert 0 < alone.abs().max() < float("inf")


def test_attention_over_mean_values_is_the_mean_of_attentions() -> None:
    """The identity that makes one more projection do, on a layer of the base."""
    generator = torch.Generator().manual_seed(0)
    model = tiny.load("sd1")
    layer = next(m for n, m in model.denoiser.named_modules() if n.endswith("attn2"))
    assert layer.to_v.bias is None
    prompt = torch.randn(24, 32, generator=generator)
    phrases = [(torch.randn(24, 32, generator=generator), [2, 3]),
               (torch.randn(24, 32, generator=generator), [6, 7, 8])]  # fmt: skip
    each = [prompt, *replaced_rows(prompt, phrases)]
    image = torch.randn(16, layer.to_q.in_features, generator=generator)
    weights = (layer.to_q(image) @ layer.to_k(prompt).mT).softmax(-1)
    mean = torch.stack([weights @ layer.to_v(w) for w in each]).mean(0)
    read = embeddings(prompt, phrases, StructureDiffusionConfig())
    torch.testing.assert_close(weights @ layer.to_v(read.values), mean)
    assert len(read.keys) == 1 and torch.equal(read.keys[0], prompt)


def test_rows_of_a_phrase_are_those_of_its_own_embedding() -> None:
    prompt, own = torch.zeros(6, 2), torch.arange(12.0).view(6, 2)
    (changed,) = replaced_rows(prompt, [(own, [3, 4])])
    assert changed.tolist() == [[0, 0], [0, 0], [0, 0], [2, 3], [4, 5], [0, 0]]
    read = embeddings(prompt, [(own, [3, 4])], StructureDiffusionConfig())
    assert torch.equal(read.values, changed / 2)
    nested = all_replaced(prompt, [(own, [1, 2]), (own, [2])])
    assert nested.tolist() == [[0, 0], [2, 3], [2, 3], [0, 0], [0, 0], [0, 0]]


def test_the_released_conjunction_replaces_the_prompts_own_key() -> None:
    prompt, own = torch.zeros(6, 2), torch.ones(6, 2)
    phrases = [(own, [1]), (own, [3])]
    kept = embeddings(prompt, phrases, StructureDiffusionConfig(form="conjunction"))
    released = embeddings(
        prompt,
        phrases,
        StructureDiffusionConfig(form="conjunction", full_prompt_key="replaced"),
    )
    assert len(kept.keys) == len(released.keys) == 3
    assert torch.equal(kept.keys[0], prompt) and torch.equal(released.keys[0], kept.values)
    assert torch.equal(kept.keys[1], released.keys[1])
    model = tiny.load("sd1")
    forms = [
        images(model, applied(StructureDiffusionConfig(form="conjunction", full_prompt_key=key)))
        for key in ("prompt", "replaced")
    ]
    assert equal(*forms) == [i for i, text in enumerate(TEXTS) if text in ("a dog", "a red cat")]


def test_guides_are_applied_alone_and_where_there_are_maps() -> None:
    model = tiny.load("sd1")
    guide = applied(SynGenConfig())
    with guided(model, guide), pytest.raises(AdapterError, match="one guide"):
        model.guided(lambda images: None).__enter__()  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match=r"map_side must be a side .* \(4\), but 3 came"):
        guided(model, applied(SynGenConfig(map_side=3)))
    model.family = replace(model.family, map_sides=None)
    for settings in METHODS:
        with pytest.raises(ConfigError, match="Choose a base with a UNet"):
            guided(model, applied(settings))


def test_sides_of_maps_of_the_released_bases() -> None:
    from diffusers import UNet2DConditionModel

    from selma.backbones.families.stable_diffusion import SD1, map_sides
    from selma.backbones.families.stable_diffusion_xl import SDXL

    with torch.device("meta"):
        sd1 = UNet2DConditionModel.from_config(SD1["unet"] | {"sample_size": 64}).config
        sd2 = UNet2DConditionModel.from_config(SD1["unet"] | {"sample_size": 96}).config
        sdxl = UNet2DConditionModel.from_config(SDXL["unet"] | {"sample_size": 128}).config
    assert map_sides(sd1) == (64, 32, 16, 8)
    assert map_sides(sd2) == (96, 48, 24, 12)
    assert map_sides(sdxl) == (64, 32)


def test_a_command_names_a_guide_and_its_settings() -> None:
    assert guide_of(None) is None
    assert guide_of("syngen", ["step_size=3", "map_side=8"]) == SynGenConfig(
        step_size=3.0, map_side=8
    )
    for name, given, says in (
        ("syngen", ["step=3"], "cannot be used:\n  syngen.step: is not a setting"),
        ("nothing", [], "kind must be syngen or structure_diffusion, but is 'nothing'"),
        (None, ["step_size=3"], "belongs to --guide"),
    ):
        with pytest.raises(ConfigError, match=says):
            guide_of(name, given)
