"""Samples: read in SURD's layout, collected from what people have, every rejected row counted."""

import json
from collections import Counter

import numpy as np
import pytest
import tiny
import tiny_judges
import torch
import transformers
from applications.sur import sur_data
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scripted import Script, serving, writes

from selma.applications.sur.captioning import EXAMPLES, plain, wish
from selma.applications.sur.civitai import read_dump
from selma.applications.sur.collecting import REJECTED, collect_samples, rejected
from selma.applications.sur.marks import stripped
from selma.applications.sur.samples import read_samples
from selma.applications.sur.settings import SampleFolder, SurData
from selma.applications.sur.sources import source_digest
from selma.errors import DataError, ModelError, NoProgress
from selma.toybox.benchmark import benchmark_texts
from selma.workspace import Workspace


def image(seed=0, size=(40, 30)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def saved(path, seed=0, size=(40, 30), **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    image(seed, size).save(path, **how)
    return path


def surd(folder, *rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


# Reading


def test_a_tables_new_words_are_another_source(tmp_path):
    """Of the same length: what is in the file counts, not its size."""
    saved(tmp_path / "a.png")
    config = SurData(source=SampleFolder(folder=str(tmp_path)))
    digests = set()
    for word in ("red", "big"):
        (tmp_path / "metadata.csv").write_text(f"file_name,text\na.png,{word}\n")
        digests.add(source_digest(config))
    assert len(digests) == 2


def test_names_with_and_without_extension_are_read(tmp_path):
    """The released sample names its files without; a name may have a dot that is none."""
    saved(tmp_path / "a.1.png"), saved(tmp_path / "b.jpg")
    surd(
        tmp_path,
        {"file_name": "a.1", "text": "a cat", "prompt": "cat, 4k"},
        {"file_name": "b.jpg", "text": "a dog", "prompt": "dog, 4k", "licence": "CC0"},
    )
    one, two = read_samples(tmp_path, base_px=32, licence="mine").samples
    assert (one.image.name, one.text, one.prompt, one.licence) == (
        "a.1.png", "a cat", "cat, 4k", "mine",
    )  # fmt: skip
    assert two.licence == "CC0" and one.id != two.id


def test_what_is_read_is_what_datasets_reads(tmp_path):
    """Our own folder goes through `datasets`' imagefolder and back."""
    from datasets import load_dataset

    saved(tmp_path / "in" / "x.png")
    surd(tmp_path / "in", {"file_name": "x", "text": "a cat", "prompt": "cat, 4k"})
    made = collect(tmp_path, {"source": {"kind": "imagefolder", "folder": str(tmp_path / "in")}})
    folder = made[0].image.parents[1]
    rows = load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    (row,) = rows
    assert (row["text"], row["prompt"], row["image"].size) == ("a cat", "cat, 4k", (40, 30))


def test_damaged_and_huge_images_are_set_aside_and_broken_rows_refused(tmp_path):
    saved(tmp_path / "good.png"), saved(tmp_path / "huge.png", size=(70, 60))
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:99])
    rows = [{"file_name": n, "text": n, "prompt": n} for n in ("good", "bad", "huge")]
    reading = read_samples(surd(tmp_path, *rows), base_px=32)
    assert [t.text for t in reading.samples] == ["good"]
    assert set(reading.quarantined) == {"bad", "huge"}
    for row, words in (
        ({"file_name": "good", "text": "a"}, "prompt"),
        ({"file_name": "gone", "text": "a", "prompt": "b"}, "not there"),
        ({"file_name": "../good", "text": "a", "prompt": "b"}, "leads out"),
    ):
        with pytest.raises(DataError, match=words):
            read_samples(surd(tmp_path, row), base_px=32)
    saved(tmp_path / "good.jpg")
    with pytest.raises(DataError, match="may be"):
        read_samples(surd(tmp_path, rows[0]), base_px=32)
    with pytest.raises(DataError, match="twice"):
        twice = [{**rows[0], "file_name": "good.png"}] * 2
        read_samples(surd(tmp_path, *twice), base_px=32)


# What is inside prompts and pictures


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a cat, (sharp eyes:1.2), 4k", "a cat, sharp eyes, 4k"),
        ("((masterpiece)), [blurry], (a (red:1.1) dog:0.9)", "masterpiece, blurry, a red dog"),
        ("knight <lora:more_details:0.5>, <hypernet:x:1> field", "knight, field"),
        ("[cat:dog:0.5] on [red|blue] sofa", "cat on red sofa"),
        (r"miku \(vocaloid\), (night: 1.2)", "miku (vocaloid), night"),
        ("a cat BREAK a dog AND a bird", "a cat, a dog, a bird"),
        ("time 10:30, ratio (16:9)", "time 10:30, ratio 16"),
        ("an unclosed (bracket, and ] another", "an unclosed (bracket, and ] another"),
        ("sand and Andes\n\n , , end,", "sand and Andes, end"),
        ("<lora:x:1>", ""),
        ("(,)", ""),
    ],
)
def test_marks_are_stripped_by_the_rule(prompt, words):
    assert stripped(prompt) == words


def test_stripping_ends_on_anything():
    assert stripped("(" * 3000 + "a" + ")" * 3000) == "a"
    assert "(" in stripped("(" * 3000)


UUID = "dd9b038c-bd15-43ab-86ab-66e145ad7ff2"


def models_page(**image):
    """As the models interface nests it."""
    row = {
        "id": 1777041,
        "url": f"https://image.example/xG1/{UUID}/width=450/1777041.jpeg",
        "nsfw": "None",
        "meta": {"prompt": "cyborg, <lora:d:0.5> (gold:1.2)", "negativePrompt": "bad"},
    } | image
    model = {
        "id": 4384,
        "allowCommercialUse": "Rent",
        "allowDerivatives": True,
        "creator": {"username": "somebody"},
        "nsfw": False,
        "modelVersions": [{"images": [row]}],
    }
    return {"items": [model], "metadata": {"nextPage": "https://image.example/next"}}


def entries(tmp_path, *pages):
    for n, page in enumerate(pages):
        (tmp_path / f"meta-{n}.json").write_text(json.dumps(page))
    return list(read_dump(tmp_path))


def test_a_dump_is_read_with_names_and_rights(tmp_path):
    (entry,) = entries(tmp_path, models_page())
    assert set(entry.names) == {UUID, "1777041"}
    assert entry.prompt.startswith("cyborg") and not entry.marked
    assert "somebody" in entry.licence and "allowCommercialUse=Rent" in entry.licence
    flat = {"items": [{"url": "https://x/y/a.png", "id": 7, "meta": None, "license": "CC0"}]}
    two = entries(tmp_path, models_page(), flat)
    assert (two[1].prompt, two[1].licence) == ("", "CC0") and "a" in two[1].names


@pytest.mark.parametrize(
    ("said", "marked"),
    [({"nsfw": "None"}, False), ({"nsfw": False}, False), ({"nsfwLevel": 1}, False),
     ({"nsfw": True}, True), ({"nsfw": "X"}, True), ({"nsfwLevel": 8}, True)],
)  # fmt: skip
def test_what_a_site_calls_unsafe(tmp_path, said, marked):
    (entry,) = entries(tmp_path, models_page(**said))
    assert entry.marked is marked


def test_dumps_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError, match="no image"):
        entries(tmp_path, {"items": []})
    (tmp_path / "meta-1.json").write_text("{")
    with pytest.raises(DataError, match="meta-1"):
        list(read_dump(tmp_path))


# Collecting


def collect(tmp_path, settings, name="run", seed=0):
    return collect_samples(SurData.model_validate(settings), Workspace(tmp_path / name), seed=seed)


def counts(tmp_path, settings, name="run"):
    return rejected(Workspace(tmp_path / name), SurData.model_validate(settings), seed=0)


TOYBOX = {"source": {"kind": "toybox", "count": 12}}


def test_toybox_gives_plain_captions_rich_tags_and_their_image(tmp_path):
    made = collect(tmp_path, TOYBOX)
    assert len(made) == 12 and counts(tmp_path, TOYBOX) == {}
    assert len({t.prompt for t in made}) == 12
    for sample in made:
        with Image.open(sample.image) as generated:
            assert generated.size == (64, 64)
        assert {sample.text.lower(), sample.prompt.lower()}.isdisjoint(benchmark_texts())
        assert sample.source.startswith("toybox scene") and sample.licence
    assert sum("," in t.prompt for t in made) == 12 > sum("," in t.text for t in made)
    again = collect(tmp_path, TOYBOX, "again")
    assert [(t.text, t.prompt, t.image.read_bytes()) for t in again] == [
        (t.text, t.prompt, t.image.read_bytes()) for t in made
    ]
    other = collect(tmp_path, TOYBOX, "other", seed=1)
    assert {t.prompt for t in other} != {t.prompt for t in made}


def civitai(tmp_path, **more):
    """One good row, and one or two for each reason to reject it."""
    rows = [
        {"url": f"https://x/{n}/width=450/p.jpeg", "id": n, "meta": {"prompt": prompt}} | extra
        for n, (prompt, extra) in enumerate(
            [
                ("red fox, (snow:1.2), <lora:a:1>", {}),
                ("Red  fox, snow", {}),
                ("<lora:a:1>", {}),
                ("", {}),
                ("grey wolf", {"nsfw": "X"}),
                ("green owl", {}),
                ("blue whale", {}),
            ]
        )
    ]
    rows.append(rows[0])  # pages overlap
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps({"items": rows}))
    for n in range(5):
        saved(tmp_path / "images" / f"{n}.png", seed=n)
    saved(tmp_path / "images" / "5.jpg", seed=5).write_bytes(b"no picture at all")
    source = {"kind": "civitai", "dump": str(dump), "images": str(tmp_path / "images")}
    return {"source": source | more, "captioner": {"kind": "captioner", "model": str(blip())}}


_KEPT: dict[str, object] = {}


def blip():
    """A captioner: BLIP's real architecture with random weights."""
    if "blip" not in _KEPT:
        root = tiny_judges.folder("blip").parent / "captioner"
        text = tiny_judges._LAYER | tiny_judges._vocabulary() | {
            "encoder_hidden_size": 32, "bos_token_id": 1, "sep_token_id": 2,
            "max_position_embeddings": 48,
        }  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = transformers.BlipConfig(text_config=text, vision_config=tiny_judges._VISION)
            model = transformers.BlipForConditionalGeneration(config)
            tiny_judges._save(model, root)
        tiny_judges._processor("Blip", root, tiny_judges.words("<s>", "</s>"))
        _KEPT["blip"] = root
    return _KEPT["blip"]


def test_every_rejected_row_is_counted_with_its_reason(tmp_path):
    settings = civitai(tmp_path)
    made = collect(tmp_path, settings)
    assert [t.prompt for t in made] == ["red fox, snow"]
    assert made[0].text and made[0].source == "https://x/0/width=450/p.jpeg"
    assert counts(tmp_path, settings) == {
        "duplicate prompt": 1,
        "duplicate row": 1,
        "marked as unsafe by its source": 1,
        "no prompt": 1,
        "no readable image": 2,
        "nothing but marks": 1,
    }
    lines = (made[0].image.parents[1] / REJECTED).read_text().splitlines()
    assert Counter(json.loads(line)["reason"] for line in lines) == counts(tmp_path, settings)
    assert [p.name for p in made[0].image.parent.glob("*.png")] == [made[0].image.name]


def test_marks_duplicates_and_what_is_marked_can_be_kept(tmp_path):
    settings = civitai(tmp_path, licence="as agreed")
    settings["cleaning"] = {"marks": "kept", "duplicates": True, "marked": True}
    made = collect(tmp_path, settings)
    assert [t.prompt for t in made] == [
        "red fox, (snow:1.2), <lora:a:1>", "Red  fox, snow", "<lora:a:1>", "grey wolf",
    ]  # fmt: skip
    assert {t.licence for t in made} == {"as agreed"}


def test_equal_images_are_one(tmp_path):
    folder = tmp_path / "pngs"
    for n in range(2):
        info = PngInfo()
        info.add_text("parameters", f"cat {n}\nSteps: 2")
        saved(folder / f"{n}.png", pnginfo=info)
    saved(folder / "silent.png", seed=3)
    settings = {
        "source": {"kind": "images", "folder": str(folder)},
        "captioner": {"kind": "captioner", "model": str(blip())},
        "image_px": 24,
    }
    made = collect(tmp_path, settings)
    assert [t.prompt for t in made] == ["cat 0"]
    # The texts inside differ, the pixels do not.
    assert counts(tmp_path, settings) == {"duplicate image": 1, "no prompt": 1}
    whole = settings | {"image_px": 64}
    collect(tmp_path, whole, "whole")
    assert counts(tmp_path, whole, "whole") == {"duplicate image": 1, "no prompt": 1}
    with Image.open(made[0].image) as small:
        assert small.size == (32, 24)


def keyword_folder(tmp_path, count=5):
    rows = []
    for n in range(count):
        saved(tmp_path / "in" / f"{n}.png", seed=n)
        rows.append({"file_name": f"{n}.png", "text": f"text {n}", "prompt": f"cat {n}, 4k"})
    surd(tmp_path / "in", *rows)
    return {"source": {"kind": "imagefolder", "folder": str(tmp_path / "in")}}


def test_a_language_model_writes_captions(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "any")
    last = "\n\nKeywords: "

    def answer(asked):
        words = asked["messages"][0]["content"].rpartition(last)[2].splitlines()[0]
        return "" if words.startswith("cat 3") else f'Sentence: "A {words[:5]} sits here."\nMore.'

    with serving(Script(writes(answer))) as script:
        backend = {
            "kind": "openai", "model": "m", "base_url": script.url, "key_variable": "TEST_KEY",
        }  # fmt: skip
        settings = keyword_folder(tmp_path) | {"captioner": {"kind": "llm", "backend": backend}}
        made = collect(tmp_path, settings)
        assert [t.text for t in made] == [f"A cat {n} sits here." for n in (0, 1, 2, 4)]
        assert counts(tmp_path, settings) == {"no caption": 1}
        assert len(script.asked) == 5
        collect(tmp_path, settings)  # finished: nobody is asked again
        assert len(script.asked) == 5


def test_a_stopped_collection_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    """By a real model that shares forward passes between rows."""
    from selma.backbones.language.local import LocalModel

    backend = {"kind": "local", "model": str(sur_data.language_model("bytes")), "batch_size": 2}
    captioner = {"kind": "llm", "backend": backend, "max_new_tokens": 4, "temperature": 1.0}
    settings = keyword_folder(tmp_path) | {"captioner": captioner}

    def files(name):
        root = tmp_path / name / "2-images" / "_samples"
        return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    collect(tmp_path, settings, "whole")
    complete, calls = LocalModel.complete, []

    def breaking(self, prompts, **how):
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return complete(self, prompts, **how)

    monkeypatch.setattr(LocalModel, "complete", breaking)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, settings, "stopped")
    collect(tmp_path, settings, "stopped")
    assert calls == [2, 2, 2, 1]  # the first group was not asked for again
    assert files("stopped") == files("whole")


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        ("A cat sits.\nMore", "A cat sits."),
        ('\n\n "A cat sits." ', "A cat sits."),
        ("Sentence: A cat.", "A cat."),
        ("**A cat.**", "A cat."),
        ("", ""),
        ("<think>A dog? No.</think>\nA cat sits.", "A cat sits."),
        ("A dog? No.\n</think>\n\nA cat sits.", "A cat sits."),
        ("Sure! Here is a sentence:\n\nA cat sits.", "A cat sits."),
        ("```\nA cat sits.\n```", "A cat sits."),
        ("1. A cat sits.", "A cat sits."),
        ('{"sentence": "A cat sits."}', "A cat sits."),
        ("A cat sits. It is old.", "A cat sits. It is old."),
        ("I am sorry, but I cannot do that.", ""),
        ("<think>A dog? N", ""),
        ("word " * 100, ""),
    ],
)
def test_replies_become_one_sentence(reply, sentence):
    assert plain(reply) == sentence


def test_both_forms_of_asking_show_the_examples_and_end_open():
    for form in ("continuation", "instructions"):
        asked = wish("cat, 4k", form)
        assert all(keywords in asked and text in asked for keywords, text in EXAMPLES)
        assert asked.endswith("Keywords: cat, 4k\nSentence:")


def classifier(labels=("neutral", "drawings", "porn")):
    root = tiny_judges.folder("blip").parent / "classifier"
    if not root.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = transformers.ViTConfig(
                **tiny_judges._LAYER, image_size=32, patch_size=16,
                id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)},
            )  # fmt: skip
            model = transformers.ViTForImageClassification(config)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(0.5 * torch.randn(weight.shape))
            model.save_pretrained(root, safe_serialization=True)
        transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root)
    return root


def test_unsafe_images_go_by_the_classifier_that_is_named(tmp_path):
    from selma.backbones.perception.captioning import Classifier
    from selma.config.networks import Safety

    settings = keyword_folder(tmp_path, 8)
    rows = collect(tmp_path, settings, "all")
    asked = Classifier(Safety(model=str(classifier()), keep=("neutral",)))
    labels = dict(
        zip(
            [t.prompt for t in rows],
            asked.classify([Image.open(t.image).convert("RGB") for t in rows]),
            strict=True,
        )
    )
    label, count = Counter(labels.values()).most_common()[-1]
    assert 0 < count < 8  # the random network does tell these pictures apart
    safety = {"model": str(classifier()), "keep": [label]}
    settings["cleaning"] = {"safety": safety}
    made = collect(tmp_path, settings)
    assert {t.prompt for t in made} == {p for p, found in labels.items() if found == label}
    assert counts(tmp_path, settings) == {"unsafe": 8 - count}
    settings["cleaning"] = {"safety": safety | {"keep": ["nonsense"]}}
    with pytest.raises(ModelError, match="nonsense"):
        collect(tmp_path, settings, "other")


def test_captions_that_disagree_go(tmp_path):
    from selma.backbones.preference.scorers import load_preference
    from selma.config.scores import PreferenceConfig

    folder = tiny_judges.folder("blip").parent / "clip"
    if not folder.exists():
        save_clip(folder)
    settings = keyword_folder(tmp_path)
    rows = collect(tmp_path, settings, "all")
    scorer = {"kind": "clip", "model": str(folder), "device": "cpu"}
    scores = load_preference(PreferenceConfig.model_validate(scorer)).score(
        [Image.open(t.image).convert("RGB") for t in rows], [t.text for t in rows]
    )
    limit = sorted(scores)[2]
    settings["cleaning"] = {"agreement": {"scorer": scorer, "at_least": limit}}
    made = collect(tmp_path, settings)
    assert [t.text for t in made] == [
        t.text for t, score in zip(rows, scores, strict=True) if score >= limit
    ]
    assert counts(tmp_path, settings) == {"caption disagrees with image": 2}
    metadata = (made[0].image.parent / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(row)["agreement"] for row in metadata] == [s for s in scores if s >= limit]


def save_clip(folder):
    words = tiny.tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.CLIPConfig(
            text_config={
                "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 32,
                "num_hidden_layers": 1, "num_attention_heads": 2,
                "max_position_embeddings": tiny.TOKENS, "bos_token_id": words.bos_token_id,
                "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
            },
            vision_config={
                "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
            },
            projection_dim=16,
        )  # fmt: skip
        transformers.CLIPModel(config).save_pretrained(folder, safe_serialization=True)
    words.save_pretrained(folder)


def test_nothing_left_says_so(tmp_path):
    settings = civitai(tmp_path)
    (tmp_path / "dump.json").write_text(
        json.dumps({"items": [{"url": "https://x/9/y/z.png", "meta": {"prompt": ""}}]})
    )
    with pytest.raises(NoProgress, match="no prompt"):
        collect(tmp_path, settings)


def test_other_sources_files_and_settings_are_other_collections(tmp_path):
    settings = keyword_folder(tmp_path)
    first = collect(tmp_path, settings)
    manifest = first[0].image.parents[1] / "manifest.json"
    key = json.loads(manifest.read_text())["key"]
    keys = {key}
    (tmp_path / "in" / "metadata.jsonl").write_text(
        (tmp_path / "in" / "metadata.jsonl").read_text().replace("text 0", "text zero")
    )
    collect(tmp_path, settings)
    keys.add(json.loads(manifest.read_text())["key"])
    collect(tmp_path, settings | {"cleaning": {"marks": "kept"}})
    keys.add(json.loads(manifest.read_text())["key"])
    assert len(keys) == 3
    assert str(tmp_path) not in manifest.read_text()
