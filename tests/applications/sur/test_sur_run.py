"""`selma sur` from its config to pictures, on a tiny base: each command by itself, and errors."""

import json
import shutil

import pytest
import tiny
import torch
import yaml
from applications.sur import sur_data
from PIL import Image
from typer.testing import CliRunner

from selma import cli
from selma.applications.loading import check_config
from selma.applications.sur import ablation
from selma.applications.sur.records import SurResult
from selma.applications.sur.scoring import keyword_benchmark
from selma.applications.sur.settings import RELEASED_SUR, SurRun, SurSettings
from selma.config import RunConfig, load_config
from selma.errors import ConfigError
from selma.finished import NotFinished
from selma.report.pages import read_pages
from selma.scores.benchmarks import load_benchmark
from selma.workspace import Workspace

TINY = sur_data.llm().backend.model_dump()
"""A language model of two blocks."""


def config_file(tmp_path, **sur):
    raw = {
        "folder": str(tmp_path / "run"),
        "base": {"model": str(tiny.folder("sd1")), "device": "cpu"},
        "images": {"steps": 2, "guidance": 3.0, "batch_size": 4},
        "experts": {"precision": "fp32"},
        "prompts": {"skills": ["toybox_coco"], "per_skill": 2},
        "scores": {"prompts": 5},
        "sur": {
            "data": {"source": {"kind": "toybox", "count": 4}, "image_px": 16},
            "llm": {"backend": sur_data.llm().backend.model_dump()},
            "training": {"steps": 2, "batch_size": 2, "precision": "fp32",
                         "learning_rate": 0.01, "checkpoint_every": 1},
            "adapter": {"weight": 1.0},
        } | sur,
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def run(*words):
    result = CliRunner().invoke(cli.app, ["sur", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_collect_train_and_draw(tmp_path):
    config = config_file(tmp_path)
    with pytest.raises(NotFinished, match="selma sur collect"):
        run("train", config)
    assert "4 samples" in run("collect", config)
    with pytest.raises(NotFinished, match="selma sur train"):
        run("generate", config)
    assert "_sur" in run("train", config)
    out = run("generate", config)
    images = tmp_path / "run" / "5-scores" / "images"
    base, read = (sorted((images / name).glob("*.png")) for name in ("base", "sur"))
    assert len(base) == len(read) == 5 and str(images / "sur") in out
    differ = [a.read_bytes() != b.read_bytes() for a, b in zip(base, read, strict=True)]
    assert any(differ)
    before = {path: path.stat().st_mtime_ns for path in read}
    run("generate", config)
    assert {path: path.stat().st_mtime_ns for path in read} == before


def test_it_is_trained_on_the_bases_images_of_keyword_prompts_or_on_the_sources(tmp_path):
    config = config_file(tmp_path)
    run("collect", config)
    own = tmp_path / "run" / "2-images" / "_sur-own" / "train"
    given = tmp_path / "run" / "2-images" / "_sur" / "train"
    rows = [json.loads(row) for row in (own / "metadata.jsonl").read_text().splitlines()]
    samples = [json.loads(row) for row in (given / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [sample["prompt"] for sample in samples]
    run("train", config)
    adapter = tmp_path / "run" / "3-experts" / "_sur" / "sur_adapter.safetensors"
    by_own = adapter.read_bytes()
    data = {"source": {"kind": "toybox", "count": 4}, "image_px": 16, "images": "source"}
    run("train", config_file(tmp_path, data=data))
    assert adapter.read_bytes() != by_own


def test_training_makes_no_images(tmp_path):
    run("collect", config_file(tmp_path))
    own = tmp_path / "run" / "2-images" / "_sur-own"
    shutil.rmtree(own)
    with pytest.raises(NotFinished, match=r"_sur-own must be finished.*selma sur collect"):
        run("train", config_file(tmp_path))
    assert not own.exists()


def finished(tmp_path):
    """Bytes of everything that scoring left, the journal aside."""
    scores = tmp_path / "run" / "5-scores"
    return {path: path.stat().st_mtime_ns for path in scores.rglob("*") if path.is_file()}


def test_score_says_what_the_adapter_does_to_plain_prompts(tmp_path):
    config = config_file(tmp_path)
    run("collect", config)
    run("train", config)
    out = run("score", config, "--json", tmp_path / "out.json")  # draws what is not drawn
    found = SurResult.model_validate_json((tmp_path / "out.json").read_text())
    assert [m.model for m in found.card.models] == ["base", "keywords", "sur"]
    assert {"counting", "colour"} <= set(found.card.models[0].categories)
    assert [(c.model, c.against) for c in found.card.comparisons] == [("sur", "keywords")]
    assert set(found.keyword_clip_differences) == {"keywords", "sur"}
    assert found.distances.images == 4 and set(found.distances.frechet) == set(found.keyword_clip)
    assert found.distances.kernel["sur"].n == 5
    for word in ("counting", "CLIP, keywords", "kernel distance", "sur minus keywords", "sur.html"):
        assert word in out, word
    page = (tmp_path / "run" / "6-report" / "sur.html").read_bytes()
    assert page.count(b"<img ") == 3 * 5
    (section,) = read_pages(Workspace(tmp_path / "run"))
    assert section.file == "sur.html" and set(section.about) == {"images/base", "scores/judge"}
    before = finished(tmp_path)
    run("score", config)
    assert finished(tmp_path) == before
    assert (tmp_path / "run" / "6-report" / "sur.html").read_bytes() == page


def test_keywords_of_the_base_are_drawn_with_the_prompts_own_seeds(tmp_path):
    """Another text, the same noise, the same file name."""
    config = config_file(tmp_path)
    for command in ("collect", "train", "generate"):
        run(command, config)
    images = tmp_path / "run" / "5-scores" / "images"
    names = [sorted(p.name for p in (images / m).glob("*.png")) for m in ("base", "keywords")]
    assert names[0] == names[1]
    settings = load_config(config, SurRun)
    benchmark_prompts = load_benchmark(settings.scores)
    keywords = keyword_benchmark(
        benchmark_prompts, settings.scores, settings.sur.scores, split="test"
    )
    plain = [prompt.model_copy(update={"text": other.text}) for prompt, other in zip(
        benchmark_prompts, keywords, strict=True)]  # fmt: skip
    assert plain == keywords and [p.text for p in keywords] != [p.text for p in benchmark_prompts]
    from selma.backbones.text_to_image import load_text_to_image
    from selma.randomness import seed_for

    model = load_text_to_image(settings.base)
    seed = seed_for(0, "exam", benchmark_prompts[0].id)
    (generated,) = model.generate(
        [keywords[0].text], seeds=[seed], steps=2, guidance=3.0, batch_size=1
    )
    with Image.open(images / "keywords" / f"{benchmark_prompts[0].id}.png") as kept:
        assert kept.tobytes() == generated.tobytes()


ABLATION = {
    "variants": ["as_set", "as_released", "released_positive_only", "without_alignment", "slow"],
    "own": {"slow": {"training": {"learning_rate": 1e-6}}},
    "prompts": 5,
}


def test_an_ablation_is_one_table_and_goes_on_where_it_was_stopped(tmp_path):
    config = config_file(tmp_path, ablation=ABLATION)
    run("collect", config)
    names = run("ablate", config, "--dry-run").split()
    assert names == ["as_set", "as_released", "released_positive_only", "without_alignment", "slow"]
    run("ablate", config, "--only", "as_set")
    adapters = tmp_path / "run" / "3-experts" / "_sur-variants"
    first = {path: path.stat().st_mtime_ns for path in adapters.rglob("*.safetensors")}
    assert len(first) == 1
    out = run("ablate", config, "--json", tmp_path / "out.json")
    found = SurResult.model_validate_json((tmp_path / "out.json").read_text())
    assert [m.model for m in found.card.models] == [f"ablation/{n}" for n in ("base", *names)]
    # Two that are drawn otherwise share an adapter, and what is there stays.
    after = {path: path.stat().st_mtime_ns for path in adapters.rglob("*.safetensors")}
    assert len(after) == 4 and first.items() <= after.items()
    assert found.card.split == "dev" and found.card.judge == "toybox-b"
    assert all(name in out for name in names)
    before = finished(tmp_path)
    assert run("ablate", config) in out and finished(tmp_path) == before


def test_variants_are_what_their_names_say(tmp_path):
    more = {"layers": [0, 1], "language_models": [{"kind": "local", "model": "owner/big"}]}
    config = load_config(config_file(tmp_path, ablation={"weights": [0.1, 1.0], **more}), SurRun)
    made = ablation.variants(config)
    set_, released = made["as_set"], made["as_released"]
    assert set_ == config.sur
    assert released.adapter.attention == "batch" and released.adapter.weight == 0.1
    assert not released.losses.denoising.gradient and released.generation.dropout
    assert released.training.steps == set_.training.steps and released.training.flip
    differ = {
        "released_gradient_fixed": ("losses", "denoising", "gradient", True),
        "released_attention_fixed": ("adapter", "attention", "tokens"),
        "released_positive_only": ("generation", "negative", "alone"),
        "released_no_dropout": ("generation", "dropout", False),
    }
    for name, (*path, value) in differ.items():
        changed = [(a, b) for a, b in zip(flat(released), flat(made[name]), strict=True) if a != b]
        assert changed == [((".".join(path), not_(value)), (".".join(path), value))], name
    for loss in ("distillation", "alignment", "teacher"):
        assert getattr(made[f"without_{loss}"].losses, loss).weight == 0
    assert {"layer_0", "vectors_of_big"} <= made.keys()
    assert not any(name.startswith("projection_") for name in made)  # similarities have none
    queries = {"distillation": {"match": "queries"}}
    by_queries = ablation.variants(load_config(config_file(tmp_path, losses=queries), SurRun))
    assert {"projection_pca", "projection_learned"} <= by_queries.keys()
    assert "negative_adapted" in made and "negative_alone" not in made
    assert "weight_0.1" in made and "weight_1" not in made  # as it is set
    with pytest.raises(ConfigError, match="must be some of as_set"):
        ablation.variants(ablation.only(config, ["nonsense"]))
    own = {"odd": {"adapter": {"weight": -1}}}
    with pytest.raises(ConfigError, match="'odd' cannot be"):
        ablation.variants(load_config(config_file(tmp_path, ablation={"own": own}), SurRun))


def test_variants_may_be_trained_in_fewer_steps_all_alike(tmp_path):
    config = load_config(config_file(tmp_path, ablation={"steps": 3}), SurRun)
    made = ablation.variants(config)
    assert config.sur.training.steps != 3
    assert {variant.training.steps for variant in made.values()} == {3}
    assert made["as_set"].losses == config.sur.losses


def test_each_of_our_changes_is_a_variant_in_both_directions(tmp_path):
    """Added to the paper by itself, and taken from ours by itself."""
    config = load_config(config_file(tmp_path), SurRun)
    made = ablation.variants(config)
    paper = made["paper"]
    assert paper.losses == SurSettings.model_validate({"preset": "paper"}).losses

    def changed(one, other):
        pairs = zip(flat(one), flat(other), strict=True)
        return {a[0]: (a[1], b[1]) for a, b in pairs if a != b}

    assert changed(paper, made["paper_with_images"]) == {"data.images": ("source", "own")}
    assert changed(paper, made["paper_with_attention"]) == {
        "losses.alignment.at": ("text", "attention")
    }
    assert changed(paper, made["paper_with_teacher"]) == {
        "losses.denoising.weight": (1.0, 0.0),
        "losses.teacher.weight": (0.0, 1.0),
        "losses.teacher.timesteps": ("content", "even"),
    }
    assert changed(made["paper_with_teacher"], made["paper_with_timesteps"]) == {
        "losses.teacher.timesteps": ("even", "content")
    }
    assert changed(config.sur, made["timesteps_as_paper"]) == {
        "losses.teacher.timesteps": ("content", "even")
    }
    assert changed(config.sur, made["centred_as_paper"]) == {"adapter.centred": (True, False)}
    assert changed(config.sur, made["similarities_as_paper"]) == {
        "losses.distillation.match": ("similarities", "queries")
    }
    everything = config.sur.model_dump()
    for name in ablation.OURS:
        back = changed(config.sur, made[f"{name}_as_paper"])
        wanted = dict(flat(made["paper_with_teacher"] if name == "timesteps" else paper))
        assert back and all(theirs == wanted[key] for key, (_, theirs) in back.items()), name
    assert everything == config.sur.model_dump()


def not_(value):
    return {True: False, False: True, "tokens": "batch", "alone": "released"}[value]


def flat(settings):
    from selma.report.page import flat as pairs

    return [(name, json.loads(value)) for name, value in pairs(settings.model_dump(mode="json"))]


def test_another_strength_is_another_drawing(tmp_path):
    config = config_file(tmp_path)
    for command in ("collect", "train", "generate"):
        run(command, config)
    folder = tmp_path / "run" / "5-scores" / "images" / "sur"
    one = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    none = config_file(tmp_path, generation={"strength": 0.0})
    run("generate", none)  # neither collects nor trains again
    base = {p.name: p.read_bytes() for p in (folder.parent / "base").glob("*.png")}
    assert {p.name: p.read_bytes() for p in folder.glob("*.png")} == base != one


def test_generate_reads_a_prompt_through_it(tmp_path):
    config = config_file(tmp_path)
    for command in ("collect", "train"):
        run(command, config)
    words = ["generate", "a cat", "--base", str(tiny.folder("sd1")), "--steps", "2",
             "--sur", str(tmp_path / "run" / "3-experts" / "_sur")]  # fmt: skip
    for name, more in (("a", []), ("b", ["--sur-strength", "0"])):
        out = ["--out", str(tmp_path / f"{name}.png")]
        result = CliRunner().invoke(cli.app, [*words, *more, *out])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    with pytest.raises(ConfigError, match="negative"):
        CliRunner().invoke(cli.app, [*words, "--sur-negative", "nonsense"], catch_exceptions=False)


def test_the_released_preset_is_the_release_and_can_be_mended_in_part():
    released = SurSettings.model_validate({"preset": "released"})
    dumped = released.model_dump()
    for part, given in RELEASED_SUR.items():
        for name, value in given.items():
            if isinstance(value, dict):
                assert {k: dumped[part][name][k] for k in value} == value
            else:
                assert dumped[part][name] == value
    assert released.losses.distillation.weight == 1e-5 and released.training.flip
    mended = SurSettings.model_validate(
        {"preset": "released", "losses": {"denoising": {"gradient": True}}}
    )
    assert mended.losses.denoising.gradient
    assert mended.losses.alignment == released.losses.alignment
    assert mended.adapter == released.adapter
    assert SurSettings.model_validate(released.model_dump()) == released


DEFECTS = {
    "adapter.mix": "shared",
    "adapter.attention": "batch",
    "llm.projection": "released",
    "losses.alignment.direction": "student_teacher",
    "losses.distillation.padding": "kept",
    "losses.alignment.reduce": "sum",
    "losses.denoising.gradient": False,
    "generation.negative": "released",
    "generation.dropout": True,
}


@pytest.mark.parametrize(("key", "value"), DEFECTS.items(), ids=DEFECTS)
def test_a_defect_of_the_release_is_had_by_the_preset_alone(key, value):
    settings = value
    for name in reversed(key.split(".")):
        settings = {name: settings}
    with pytest.raises(ValueError, match=rf"sur\.{key}: {value} is a defect.*preset: released"):
        SurRun.model_validate({"name": "x", "sur": settings})
    mended = SurRun.model_validate({"name": "x", "sur": {"preset": "released"} | settings})
    assert mended.sur == SurSettings.model_validate({"preset": "released"})


def test_the_config_that_comes_along_and_its_paths(tmp_path):
    (tmp_path / "llm").mkdir()
    source = {"kind": "civitai", "dump": "d.json", "images": "pics"}
    captioner = {"kind": "captioner", "model": "llm"}
    path = config_file(
        tmp_path,
        data={"source": source, "captioner": captioner},
        llm={"backend": {"kind": "local", "model": "llm"}, "file": "v.pt"},
    )
    sur = load_config(path, SurRun).sur
    assert sur.data.source.dump == str(tmp_path / "d.json")
    assert sur.data.source.images == str(tmp_path / "pics")
    assert sur.data.captioner.model == sur.llm.backend.model == str(tmp_path / "llm")
    assert sur.llm.file == str(tmp_path / "v.pt")
    with pytest.raises(ConfigError, match="captioner"):
        load_config(config_file(tmp_path, data={"source": source}), SurRun)
    assert not hasattr(RunConfig(name="plain"), "sur")


@pytest.mark.parametrize(
    ("sur", "says"),
    [
        ({"llm": {"layer": 30}}, "sur.llm.layer: must be 0 to 29 for this language model, but is"),
        ({"llm": {"layer": 2, "backend": TINY}}, "sur.llm.layer: must be 0 to 1"),
        ({"ablation": {"layers": [0, 9]}, "llm": {"backend": TINY}}, "layers: must be 0 to 1"),
    ],
)
def test_a_layer_that_the_language_model_lacks_is_a_mistake_of_the_settings(tmp_path, sur, says):
    with pytest.raises(ConfigError, match=says):
        check_config(config_file(tmp_path, **sur))
    check_config(config_file(tmp_path, llm={"layer": 1, "backend": TINY}))


def test_convert_makes_a_file_of_a_released_checkpoint(tmp_path):
    torch.save(sur_data.Released(32).state_dict(), tmp_path / "adapter.pt")
    out = run("convert", tmp_path / "adapter.pt", tmp_path / "out", "--weight", "0.1")
    assert out.strip().endswith("sur_adapter.safetensors")
