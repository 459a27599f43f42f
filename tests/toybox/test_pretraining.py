"""Pre-training resumes exactly, degrades as it says, and ends in folders that plain tools load."""

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from selma.toybox.pretraining.autoencoder import render, to_pixels
from selma.toybox.pretraining.degradation import degrade
from selma.toybox.pretraining.language import MAX_TOKENS, new_tokenizer
from selma.toybox.pretraining.loop import Course, train
from selma.toybox.scenes import sample_scene


def course(steps: int, *, stop_at: int | None = None) -> Course:
    """A small regression; raises KeyboardInterrupt at `stop_at`, as a person would."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))

    def loss(step: int) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    return Course(
        "small", model, loss, steps, 1e-2, warmup_steps=3, ema_decay=0.9, checkpoint_every=5
    )


@pytest.mark.parametrize("stop_at", [4, 5, 13, 19])
def test_a_resumed_course_equals_an_uninterrupted_one(tmp_path: Path, stop_at: int):
    whole = course(20)
    train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(course(20, stop_at=stop_at), tmp_path / "cut")
    resumed = course(20)
    report = train(resumed, tmp_path / "cut")
    assert report["steps"] == 20
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_limit_of_time_leaves_a_checkpoint_to_go_on_from(tmp_path: Path):
    limited = course(20)
    limited.limit_s = 0.0
    assert train(limited, tmp_path)["steps"] == 0
    resumed, whole = course(20), course(20)
    train(resumed, tmp_path)
    train(whole, tmp_path / "whole")
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_loss_falls(tmp_path: Path):
    lesson = course(200)
    before = lesson.loss(10_000).item()
    train(lesson, tmp_path)
    assert lesson.loss(10_000).item() < 0.3 * before


def test_the_tokenizer_takes_any_text_and_one_token_for_each_word_of_toybox():
    tokenizer = new_tokenizer()
    assert len(tokenizer("two small red apples left of a dog").input_ids) == 8 + 2
    assert tokenizer("naïve 犬 \U0001f600").input_ids[-1] == tokenizer.eos_token_id
    long = tokenizer("dog " * 200, truncation=True).input_ids
    assert len(long) == MAX_TOKENS


def test_pixels_are_in_range_and_degrading_keeps_them_there():
    rng = random.Random(0)
    pixels = to_pixels([render(sample_scene(rng), rng) for _ in range(40)])
    assert pixels.min() >= -1 and pixels.max() <= 1
    worse = degrade(pixels, rng)
    assert worse.shape == pixels.shape and worse.abs().max() <= 1
    same = sum(torch.equal(a, b) for a, b in zip(pixels, worse, strict=True))
    assert 4 <= same <= 24  # about a third is left as it is
