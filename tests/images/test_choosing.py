"""Choosing training pictures: the best are kept, the rest is told, and no kill changes a byte."""

import json

import pytest
from images.test_generating import DiesAfter, Killed, files, generated, never, prompts

from selma.backbones.judges.loading import load_scorer
from selma.config import RunConfig
from selma.config.images import Choice, ImagesConfig
from selma.image_files import open_image
from selma.images import choosing, generating
from selma.images.choosing import best

PLAIN = ImagesConfig(steps=2, guidance=3.0, batch_size=2, per_prompt=3)
CHOOSING = ImagesConfig(steps=2, guidance=3.0, batch_size=2, choose=Choice(candidates=3))


def test_the_best_come_first_and_of_equal_ones_the_first():
    assert best([1.0, 3.0, 2.0, 3.0], keep=3) == [1, 3, 2]


@pytest.mark.parametrize("keep", [1, 2])
def test_what_is_kept_scores_highest_of_what_the_plain_run_draws(tmp_path, keep):
    everything = generated(tmp_path / "plain", prompts(), config=PLAIN)
    config = CHOOSING.model_copy(update={"per_prompt": keep})
    chosen = generated(tmp_path / "chosen", prompts(), config=config)
    scorer = load_scorer("toybox")
    for number, prompt in enumerate(prompts()):
        some = everything[3 * number : 3 * number + 3]
        images = [open_image(pair.image, max_pixels=10**6) for pair in some]
        scores = scorer.score(images, [prompt.text] * 3)
        assert len(set(scores)) == 3  # else nothing is told apart here
        wanted = [some[place] for place in sorted(range(3), key=scores.__getitem__)[::-1][:keep]]
        mine = chosen[keep * number : keep * number + keep]
        assert [pair.seed for pair in mine] == [pair.seed for pair in wanted]
        assert [p.image.read_bytes() for p in mine] == [p.image.read_bytes() for p in wanted]
        assert all(pair.prompt == prompt for pair in mine)
    skill = tmp_path / "chosen/2-images/cats"
    told = [json.loads(line) for line in (skill / "candidates.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in told] == [pair.seed for pair in everything]
    assert sum(row["kept"] for row in told) == 3 * keep
    held = sorted(
        path.stem for path in (tmp_path / "chosen/2-images/_candidates/cats").glob("*.png")
    )
    assert held == sorted(row["candidate"] for row in told)  # also those that were not chosen


@pytest.mark.parametrize("after", [0, 4, 8])
def test_a_torn_run_ends_with_the_same_bytes(tmp_path, after):
    generated(tmp_path / "whole", prompts(), config=CHOOSING)
    with pytest.raises(Killed):
        generated(tmp_path / "torn", prompts(), config=CHOOSING, model=lambda: DiesAfter(after))
    generated(tmp_path / "torn", prompts(), config=CHOOSING)
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


@pytest.mark.parametrize("place", ["write_rows", "write_metadata", "scored"])
def test_so_does_one_torn_while_it_chooses(tmp_path, monkeypatch, place):
    generated(tmp_path / "whole", prompts(), config=CHOOSING)

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(generating, place, die)
        generated(tmp_path / "torn", prompts(), config=CHOOSING)
    generated(tmp_path / "torn", prompts(), config=CHOOSING)
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


def test_what_is_finished_is_neither_drawn_nor_scored_again(tmp_path, monkeypatch):
    first = generated(tmp_path, prompts(), config=CHOOSING)
    monkeypatch.setattr(choosing, "open_image", never)
    assert generated(tmp_path, prompts(), config=CHOOSING, model=never) == first


def test_plain_and_chosen_images_never_mix(tmp_path):
    generated(tmp_path, prompts(), config=PLAIN)
    generated(tmp_path, prompts(), config=CHOOSING)
    assert len(list((tmp_path / "superseded").iterdir())) == 1


def test_there_must_be_something_to_choose_from():
    with pytest.raises(ValueError, match="more than per_prompt"):
        ImagesConfig(per_prompt=4, choose=Choice(candidates=4))


def test_the_scorer_that_chose_is_no_evidence():
    pickscore = {"kind": "pickscore", "model": "owner/name"}
    scores = {"preferences": [pickscore | {"label": "mine"}, {"kind": "clip", "model": "a/b"}]}
    run = {"name": "x", "scores": scores}
    assert RunConfig.model_validate(run).chosen_by == ()
    by_clip = run | {"images": {"choose": {}}}
    assert RunConfig.model_validate(by_clip).chosen_by == ("clip",)
    by_pickscore = run | {"images": {"choose": {"scorer": pickscore}}}
    assert RunConfig.model_validate(by_pickscore).chosen_by == ("mine",)
    other = run | {"images": {"choose": {"scorer": pickscore | {"model": "another/one"}}}}
    assert RunConfig.model_validate(other).chosen_by == ()
