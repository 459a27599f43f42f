"""Distances of drawn pictures from good ones, against torchmetrics, scipy and their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from backbones.preference_files import clip_folder
from PIL import Image
from scores.colours import benchmark_prompts, image
from torchmetrics.image.kid import poly_mmd

from selma.applications.sur.quality import quality_items, read_distance
from selma.backbones.perception.features import load_features
from selma.config.scores import PreferenceConfig
from selma.errors import ConfigError, DataError
from selma.scores import statistics
from selma.scores.distances import frechet_distance, kernel_parts
from selma.workspace import Workspace, read_lines


def clouds(n: int = 40, m: int = 40, width: int = 12, *, apart: float = 0.4):
    stream = torch.Generator().manual_seed(n + m)
    return torch.randn(n, width, generator=stream), 1.3 * torch.randn(
        m, width, generator=stream
    ) + apart


def test_the_parts_mean_is_the_kernel_distance() -> None:
    generated, good = clouds()
    theirs = float(poly_mmd(generated.double(), good.double()))
    assert kernel_parts(generated, good).mean().item() == pytest.approx(theirs, rel=1e-10)
    more = clouds(30, 50)  # by the definition, for sets of two sizes

    def mean(a, b, *, same=False):
        values = [
            float((x @ y / len(x) + 1) ** 3)
            for i, x in enumerate(a.double())
            for j, y in enumerate(b.double())
            if not (same and i == j)
        ]
        return sum(values) / len(values)

    by_hand = mean(more[0], more[0], same=True) + mean(more[1], more[1], same=True)
    by_hand -= 2 * mean(*more)
    assert kernel_parts(*more).mean().item() == pytest.approx(by_hand, rel=1e-9)


def test_the_parts_spread_is_that_of_the_distance() -> None:
    """Intervals from the parts are as wide as the distance really moves between samples."""
    good = clouds(40, 400)[1]
    found, widths = [], []
    for seed in range(60):
        generated = torch.randn(80, 12, generator=torch.Generator().manual_seed(seed))
        parts = kernel_parts(generated, good).numpy()
        ends = statistics.interval(parts, seed=0, resamples=300)
        found.append(parts.mean())
        widths.append((ends.high - ends.low) / (2 * 1.96))
    assert np.mean(widths) == pytest.approx(np.std(found), rel=0.25)


def test_equal_distributions_are_no_distance_apart_and_others_are() -> None:
    one = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    two = torch.randn(300, 8, generator=torch.Generator().manual_seed(2))
    near = statistics.interval(kernel_parts(one, two), seed=0, resamples=500)
    far = statistics.interval(kernel_parts(one + 0.5, two), seed=0, resamples=500)
    assert near.low < 0 < near.high and far.low > near.high
    assert frechet_distance(one + 0.5, two) > frechet_distance(one, two) > 0
    assert frechet_distance(two, two) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_is_scipys() -> None:
    generated, good = clouds(60, 90, 8)
    a, b = generated.double().numpy(), good.double().numpy()
    between = a.mean(0) - b.mean(0)
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    theirs = between @ between + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(generated, good) == pytest.approx(theirs, rel=1e-8)


BENCHMARK = benchmark_prompts(6)


def place(root: Path, name: str, colours: list[str]) -> Path:
    item = Workspace(root).item("5-scores", "images", name, recipe={"model": name})
    item.begin()
    for i, prompt in enumerate(BENCHMARK):
        generated = image(colours[i % len(colours)])
        generated.paste((9 * i, 40, 5 * i), (0, 0, 20, 20))
        generated.save(item.path / f"{prompt.id}.png")
    item.finish(item.path.glob("*.png"), {})
    return item.path


@pytest.fixture
def world(tmp_path: Path):
    images = {"base": place(tmp_path, "base", ["red", "green"]),
                "sur": place(tmp_path, "sur", ["blue", "green"])}  # fmt: skip
    good = sorted(place(tmp_path, "good", ["blue", "green"]).glob("*.png"))
    return images, good, Workspace(tmp_path)


def test_each_model_is_an_item_and_nothing_is_seen_twice(world) -> None:
    images, good, folder = world

    class Counting:
        fingerprint = "counting"
        seen = 0

        def see(self, some: list[Image.Image]) -> torch.Tensor:
            self.seen += len(some)
            return torch.stack([torch.tensor(np.asarray(p)).float().mean((0, 1)) for p in some])

    encoder = Counting()
    items = quality_items(BENCHMARK, images, good, encoder, folder)
    assert encoder.seen == 3 * 6
    assert read_distance(items["sur"]) < read_distance(items["base"])
    rows = read_lines(items["base"].path / "scores.jsonl")
    assert [row["prompt"] for row in rows] == [p.id for p in BENCHMARK]
    quality_items(BENCHMARK, images, good, encoder, folder)
    assert encoder.seen == 3 * 6
    quality_items(BENCHMARK, images, good[:4], encoder, folder)  # other good pictures, other items
    assert encoder.seen == 3 * 6 + 4 + 2 * 6


def test_what_cannot_be_compared_is_named(world) -> None:
    images, good, folder = world
    encoder = load_features("toybox", setting="here")
    with pytest.raises(DataError, match="at least 2 images"):
        quality_items(BENCHMARK, images, good[:1], encoder, folder)
    (images["sur"] / f"{BENCHMARK[2].id}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=BENCHMARK[2].id):
        quality_items(BENCHMARK, images, good, encoder, folder)


def test_encoders_see_each_image_for_itself(tmp_path: Path) -> None:
    some = [image("red"), image("blue", "green"), image("green")]
    settings = PreferenceConfig(
        kind="clip", model=str(clip_folder(tmp_path / "clip")), device="cpu"
    )
    for config in ("toybox", settings):
        encoder = load_features(config, setting="here")
        together = encoder.see(some)
        assert together.shape[0] == 3 and together.dtype == torch.float32
        for i, one in enumerate(some):
            assert torch.equal(encoder.see([one])[0], together[i])
        assert len(encoder.fingerprint) == 16
        assert str(tmp_path) not in encoder.name
    with pytest.raises(ConfigError, match="kind clip"):
        load_features(PreferenceConfig(kind="pickscore", model="a/b"), setting="here")
