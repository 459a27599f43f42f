"""A run's data from elsewhere: what is checked before it starts, and the stages together."""

import pytest
import tiny
from pydantic import ValidationError

from selma.capacity import memory
from selma.config import RunConfig
from selma.errors import ConfigError
from selma.images.generating import drawing_settings
from selma.pipeline import Stages
from selma.preflight import check
from selma.report.sources import trained_on
from selma.status import statuses
from selma.workspace import IMAGES, PROMPTS, STAGES, Workspace, manifest

TOYBOX = {"kind": "toybox"}
SKILLS = ["toybox_coco", "toybox_tags"]


def config(folder, *, prompts=None, images=None, experts=None, **rest):
    return RunConfig.model_validate(
        {
            "name": "some",
            "folder": folder / "run",
            "base": {"model": str(tiny.folder("sd1")), "device": "cpu"},
            "prompts": {"skills": SKILLS, "per_skill": 3, **(prompts or {})},
            "images": {"steps": 2, "guidance": 1.0, **(images or {})},
            "experts": {"adapter": {"kind": "lora", "rank": 2}, "steps": 2, **(experts or {})},
            **rest,
        }
    )


def stages(settings):
    return Stages(settings, Workspace(settings.run_folder), make=STAGES)


def pairs_of(settings):
    this = stages(settings)
    return this.generate_pairs(this.write_prompts())


def mistakes(settings, make=(PROMPTS, IMAGES)):
    with pytest.raises(ConfigError) as error:
        check(settings, make)
    return str(error.value)


def test_figure_3s_arms_share_captions_and_differ_in_images(tmp_path):
    real = config(tmp_path / "real", prompts={"source": TOYBOX}, images={"source": TOYBOX})
    own = config(tmp_path / "own", prompts={"source": TOYBOX})
    with_real, with_own = pairs_of(real), pairs_of(own)
    for skill in SKILLS:
        captions = [pair.prompt for pair in with_real[skill]]
        assert captions == [pair.prompt for pair in with_own[skill]]
        for first, second in zip(with_real[skill], with_own[skill], strict=True):
            assert first.image.read_bytes() != second.image.read_bytes()
    found = {(s.stage, s.name): s for s in statuses(real)}
    assert found["1-prompts", SKILLS[0]].state == found["2-images", SKILLS[1]].state == "done"


def test_another_base_draws_with_its_own_settings(tmp_path):
    drawing = {"model": str(tiny.folder("sd2")), "device": "cpu", "steps": 3, "guidance": 2.0}
    weak = config(tmp_path, prompts={"source": TOYBOX}, images={"base": drawing})
    settings = drawing_settings(weak.images)
    assert (settings.steps, settings.guidance) == (3, 2.0)
    assert (weak.benchmark_steps, weak.benchmark_guidance) == (2, 1.0)
    pairs_of(weak)
    recipe = manifest(tmp_path / "run/2-images" / SKILLS[0])["recipe"]
    assert recipe["base"] == tiny.load("sd2").fingerprint
    assert (recipe["steps"], recipe["guidance"]) == (3, 2.0)
    assert "images by images.base" in [need.what for need in memory(weak)[0]]
    named = drawing_settings(weak.images.model_copy(update={"base": None}))
    assert named.steps == 2


def test_a_bases_short_name_says_how_it_draws(tmp_path):
    weak = config(tmp_path, images={"base": {"model": "toybox-weak"}})
    settings = drawing_settings(weak.images)
    assert (settings.steps, settings.guidance) == (8, 3.0)


def test_the_same_base_by_name_makes_the_same_images(tmp_path):
    plain = config(tmp_path, prompts={"source": TOYBOX})
    first = pairs_of(plain)
    same = {"model": plain.base.model, "device": "cpu", "steps": 2, "guidance": 1.0}
    again = config(tmp_path, prompts={"source": TOYBOX}, images={"base": same})
    this = Stages(again, Workspace(again.run_folder), make=[])
    assert this.generate_pairs(this.write_prompts()) == first


def test_mistakes_are_told_before_a_run(tmp_path):
    missing = {"kind": "imagefolder", "folder": str(tmp_path / "none")}
    told = mistakes(config(tmp_path, prompts={"source": missing}))
    assert "prompts.source: " in told and "must be a folder of images" in told
    given = config(tmp_path, images={"source": missing})
    assert "set it to the same as images.source" in mistakes(given)
    cats = config(tmp_path, prompts={"source": TOYBOX, "skills": ["cats"]})
    assert "prompts.source: Toybox has captions for toybox_coco" in mistakes(cats)
    base = config(tmp_path, images={"base": {"model": "no base"}})
    assert "images.base.model: must be a short name" in mistakes(base)
    joint = {"joint": "total_steps"}
    weights = {"weights": {"toybox_coco": 1.0}}
    told = mistakes(config(tmp_path, experts=joint, merged=weights), STAGES)
    assert "'toybox_coco' is not among the experts" in told
    assert "'joint' has no weight" in told
    taken = {"source": TOYBOX, "skills": ["joint"]}
    told = mistakes(config(tmp_path, experts=joint, prompts=taken))
    assert "no skill may be named 'joint'" in told


def test_rewards_need_the_autoencoder_at_hand(tmp_path):
    base = {"model": str(tiny.folder("sd1")), "device": "cpu", "offload": True}
    rewarded = {"objective": {"kind": "ddpo", "reward": "toybox"}}
    told = mistakes(config(tmp_path, experts=rewarded, base=base), STAGES)
    assert "base.offload: moves the autoencoder away" in told and "ddpo generates images" in told


@pytest.mark.parametrize("part", [{"base": {"model": "toybox"}}, {"adapter": "a"}, {"choose": {}}])
def test_given_images_are_not_generated(tmp_path, part):
    with pytest.raises(ValidationError, match="belong to images that are generated"):
        config(tmp_path, images={"source": TOYBOX, **part})


def test_given_prompts_need_no_language_model(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    backend = {"kind": "openai", "model": "some"}
    written = config(tmp_path, prompts={"backend": backend})
    assert "OPENAI_API_KEY" in mistakes(written)
    check(config(tmp_path, prompts={"backend": backend, "source": TOYBOX}), [PROMPTS])


def test_a_joint_expert_has_a_line_of_its_own(tmp_path):
    joint = config(tmp_path, prompts={"source": TOYBOX}, experts={"joint": "steps_per_skill"})
    lines = [(s.name, s.want) for s in statuses(joint) if s.stage == "3-experts"]
    assert lines == [("joint", 4)]
    assert "images/joint" in [s.name for s in statuses(joint)]


def test_the_report_says_where_data_come_from(tmp_path):
    def told(**sections):
        return trained_on(config(tmp_path, **sections).model_dump(mode="json"))

    assert told() == (
        "Prompts that a language model wrote for each skill, generated by the base model itself"
    )
    real = {"source": TOYBOX}
    assert told(prompts=real, images=real) == (
        "Captions of toybox's own scenes, rendered by toybox itself"
    )
    assert told(images={"base": {"model": "sd-2"}}).endswith("generated by another base, sd-2")
    rewarded = {"objective": {"kind": "nft", "reward": "toybox"}}
    assert told(experts=rewarded).endswith("experts learnt from rewarded images of their own")
    assert told(experts={"objective": {"kind": "dpo"}}).endswith("of which one is preferred")
