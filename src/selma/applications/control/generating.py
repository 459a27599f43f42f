"""Generate images from conditions: one seed for each sample, the same for every model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.applications.control.records import ControlSample, TrainedControl
from selma.applications.control.settings import Condition, ControlGeneration
from selma.config.networks import BaseConfig
from selma.image_places import places
from selma.images.generating import Before, Job, generate_missing, generation_recipe, refuse_twins
from selma.randomness import seed_for
from selma.workspace import SCORES, Workspace, file_sha256, recipe_key

if TYPE_CHECKING:
    from selma.backbones.text_to_image import TextToImage


def generate_control(
    samples: Sequence[ControlSample],
    trained: TrainedControl | None,
    generation: ControlGeneration,
    folder: Workspace,
    *,
    condition: Condition,
    base: BaseConfig,
    seed: int,
    model: Callable[[], TextToImage],
) -> Path:
    """Generate each sample's image with a trained network, or from its prompt alone without one.

    Returns the folder `5-scores/control/<condition>/images/<label>` with the images as
    `<sample id>.png`; the label is "base" without a network. `model` is called only if an image is
    missing.
    """
    name = "base" if trained is None else trained.label
    rows = [
        [s.id, s.text, None if trained is None else file_sha256(s.conditioning_image)]
        for s in samples
    ]
    recipe = {
        **generation_recipe(base, steps=generation.steps, guidance=generation.guidance, seed=seed),
        "sampler": generation.sampler,
        "network": None if trained is None else trained.key,
        "samples": recipe_key({"rows": rows}),
    }
    item = folder.item(SCORES, "control", condition, "images", name, recipe=recipe)
    if item.done:
        return item.path
    path = item.begin()
    jobs = [
        Job(file, s.text, seed_for(seed, "control", s.id))
        for s, file in zip(samples, places(path, (f"{s.id}.png" for s in samples)), strict=True)
    ]
    refuse_twins(jobs)
    conditioning_images = {
        job.path: sample.conditioning_image for job, sample in zip(jobs, samples, strict=True)
    }

    @contextmanager
    def conditioned(model: TextToImage, missing: Sequence[Job]) -> Iterator[Before | None]:
        with sampled(model, generation), _controlled(model, trained) as conditioning:
            if conditioning is None:
                yield None
                return

            from selma.applications.control.networks import read_conditioning_images

            def show(positions: Sequence[int]) -> None:
                paths = [conditioning_images[missing[i].path] for i in positions]
                conditioning.show(read_conditioning_images(paths, px=model.image_px))

            yield show

    spent = generate_missing(
        jobs,
        f"generating from {condition}: {name}",
        model=model,
        steps=generation.steps,
        guidance=generation.guidance,
        batch_size=generation.batch_size,
        conditioned=conditioned,
    )
    folder.journal(SCORES, what=f"generating from {condition}: {name}", seconds=spent["seconds"])
    item.finish([job.path for job in jobs], {"images": len(jobs)})
    return item.path


@contextmanager
def sampled(model: TextToImage, generation: ControlGeneration) -> Iterator[None]:
    """Use the chosen sampler while the block runs."""
    if generation.sampler == "base":
        yield
        return
    from diffusers import DDIMScheduler

    before = model.pipe.scheduler
    # diffusers' default would clip x0 to [-1, 1], a range that latents exceed.
    model.pipe.scheduler = DDIMScheduler.from_config(
        before.config, clip_sample=bool(before.config.get("clip_sample", False))
    )
    try:
        yield
    finally:
        model.pipe.scheduler = before


def _controlled(model: TextToImage, trained: TrainedControl | None) -> AbstractContextManager[Any]:
    if trained is None:
        return nullcontext()
    from selma.applications.control.network_files import controlled, load

    return controlled(model, load(trained.folder))
