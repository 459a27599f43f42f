"""Encoding: equal to running the encoders in the loop, and kept once."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image, ImageOps

from selma.errors import DataError
from selma.experts.encoding import encode_pairs
from selma.experts.recipes import image_digests
from selma.records.images import Pair
from selma.records.prompts import Prompt, prompt_id
from selma.workspace import Workspace

CAPTIONS = ["a cat at a mat", "the left cat", "cats"]


def pairs(folder, *, size=(16, 16), captions=CAPTIONS):
    train = folder / "images" / "train"
    train.mkdir(parents=True, exist_ok=True)
    made = []
    for n, caption in enumerate(captions):
        noise = np.random.default_rng(n).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        image = train / f"{n}.png"
        Image.fromarray(noise).save(image)
        prompt = Prompt(id=prompt_id("cats", caption), skill="cats", text=caption)
        made.append(Pair(prompt=prompt, image=image, seed=n))
    return made


def encoded(folder, some, *, shape="sd1", flip=False, model=None, digests=None):
    return encode_pairs(
        some,
        Workspace(folder / "run"),
        skill="cats",
        flip=flip,
        digests=digests or image_digests(some),
        recipe={"shape": shape, "flip": flip},
        model=model or (lambda: tiny.load(shape)),
    )


def never():
    raise AssertionError("the model was loaded")


@pytest.mark.parametrize("shape", tiny.SHAPES)
def test_moments_and_text_are_the_models_own(tmp_path, shape):
    some, model = pairs(tmp_path), tiny.load(shape)
    kept = encoded(tmp_path, some, shape=shape)
    with torch.no_grad():
        for n, pair in enumerate(some):
            x = model.pipe.image_processor.preprocess(Image.open(pair.image))
            posterior = model.pipe.vae.encode(x).latent_dist
            close = {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(kept.mean[n : n + 1], posterior.mean, **close)
            torch.testing.assert_close(kept.logvar[n : n + 1], posterior.logvar, **close)
            out = model.pipe.encode_prompt(
                prompt=pair.prompt.text,
                device="cpu",
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
            )
            torch.testing.assert_close(kept.conditioning.text[n : n + 1], out[0], **close)
            torch.testing.assert_close(kept.empty.text, out[1], **close)
            if shape == "sdxl":
                torch.testing.assert_close(kept.conditioning.pooled[n : n + 1], out[2], **close)
                torch.testing.assert_close(kept.empty.pooled, out[3], **close)
                assert kept.conditioning.time_ids[n].tolist() == [16, 16, 0, 0, 16, 16]


def test_mirror_images_are_encoded_where_the_caption_allows(tmp_path):
    some, model = pairs(tmp_path), tiny.load("sd1")
    kept = encoded(tmp_path, some, flip=True)
    assert torch.equal(kept.mirrored_mean[1], kept.mean[1])  # "the left cat"
    with torch.no_grad():
        x = model.pipe.image_processor.preprocess(ImageOps.mirror(Image.open(some[0].image)))
        mirrored = model.pipe.vae.encode(x).latent_dist.mean
    torch.testing.assert_close(kept.mirrored_mean[:1], mirrored, rtol=1e-4, atol=1e-5)
    assert not torch.equal(kept.mirrored_mean[0], kept.mean[0])


def test_other_sizes_are_fitted_and_reported_to_sdxl(tmp_path):
    kept = encoded(tmp_path, pairs(tmp_path, size=(32, 20)), shape="sdxl")
    assert kept.mean.shape[-2:] == (8, 8)
    # 32x20 → 26x16, of which the middle 16 columns are kept.
    assert kept.conditioning.time_ids[0].tolist() == [20, 32, 0, 5, 16, 16]


def test_the_second_time_needs_no_model(tmp_path):
    some = pairs(tmp_path)
    first, second = encoded(tmp_path, some), encoded(tmp_path, some, model=never)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.conditioning.text, second.conditioning.text)


def test_a_damaged_cache_is_never_trained_on(tmp_path):
    some = pairs(tmp_path)
    encoded(tmp_path, some)
    cache = tmp_path / "run" / "3-experts" / "_encoded" / "cats" / "encoded.safetensors"
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(AssertionError, match="the model was loaded"):
        encoded(tmp_path, some, model=never)
    encoded(tmp_path, some)
    assert cache.read_bytes() == whole


def test_changed_cut_and_huge_images_are_refused(tmp_path):
    some = pairs(tmp_path)
    digests = image_digests(some)
    Image.new("RGB", (16, 16)).save(some[1].image)
    with pytest.raises(DataError, match="damaged"):
        encoded(tmp_path, some, digests=digests)
    some[1].image.write_bytes(some[0].image.read_bytes()[:200])
    with pytest.raises(DataError, match=r"1\.png"):
        encoded(tmp_path, some)
    Image.new("RGB", (33, 32)).save(some[1].image)
    with pytest.raises(DataError, match="33x32"):
        encoded(tmp_path, some)
