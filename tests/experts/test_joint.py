"""One expert of several skills, and images of another base's size."""

import pytest
import tiny
import torch
from experts.rewarding import Redness
from experts.test_encode_pairs import encoded, pairs
from PIL import Image
from pipeline.test_sources import config, stages

from selma.adapters.reading import read_adapter
from selma.config.adapters import LoraConfig
from selma.config.experts import JOINT, ExpertsConfig
from selma.config.images import DrawingBase, ImagesConfig
from selma.config.merged import MergedConfig
from selma.config.preferences import DpoObjective
from selma.config.rewards import NftObjective
from selma.errors import ConfigError, DataError
from selma.experts.encoding import _fit, encode_pairs
from selma.experts.fitting import OWN, fitting_of
from selma.experts.recipes import expert_recipe, image_digests, pairs_digest
from selma.experts.skills import train_experts
from selma.merged.merging import merge_experts
from selma.records.images import Preference
from selma.workspace import Workspace, manifest, read_lines

CONFIG = ExpertsConfig(
    adapter=LoraConfig(rank=2), steps=2, batch_size=2, learning_rate=1e-2, precision="fp32"
)


def trained(folder, by_skill, *, preferences=None, rewards=None, **settings):
    return train_experts(
        by_skill,
        CONFIG.model_copy(update=settings),
        Workspace(folder),
        base=tiny.base("sd1"),
        seed=0,
        model=lambda: tiny.load("sd1"),
        preferences=preferences,
        rewards=rewards,
    )


@pytest.fixture(scope="module")
def by_skill(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return {"cats": pairs(folder / "cats"), "dogs": pairs(folder / "dogs", captions=["a dog"])}


@pytest.mark.parametrize("joint, steps", [("total_steps", 2), ("steps_per_skill", 4)])
def test_one_expert_learns_all_skills(tmp_path, by_skill, joint, steps):
    (expert,) = trained(tmp_path, by_skill, joint=joint)
    assert (expert.skill, expert.folder) == ("joint", tmp_path / "3-experts/joint")
    told = manifest(expert.folder)
    assert told["summary"]["pairs"] == 4
    assert told["summary"]["steps"] == told["recipe"]["experts"]["steps"] == steps
    assert "joint" not in told["recipe"]["experts"]


def test_one_expert_learns_from_all_preferences(tmp_path, by_skill):
    (cat, other, *_), (dog, *_) = by_skill["cats"], by_skill["dogs"]
    preferences = {
        "cats": [Preference(prompt=cat.prompt, winner=cat.image, loser=other.image, difference=1)],
        "dogs": [Preference(prompt=dog.prompt, winner=dog.image, loser=other.image, difference=1)],
    }
    dpo = {"objective": DpoObjective(beta=50.0), "preferences": preferences}
    (expert,) = trained(tmp_path, by_skill, joint="total_steps", **dpo)
    summary = manifest(expert.folder)["summary"]
    assert (expert.skill, summary["pairs"], summary["steps"]) == ("joint", 2, 2)
    (again,) = trained(tmp_path, by_skill, joint="total_steps", **dpo)
    assert again == expert
    del preferences["dogs"]
    (less,) = trained(tmp_path, by_skill, joint="total_steps", **dpo)
    assert less.key != expert.key


@pytest.mark.parametrize("joint, rounds", [("total_steps", 2), ("steps_per_skill", 4)])
def test_one_expert_learns_from_rewards_of_all_skills(tmp_path, by_skill, joint, rounds):
    nft = NftObjective(
        reward="toybox", prompts_per_round=4, images_per_prompt=2, sampling_steps=1, images_kept=0
    )
    more = {"objective": nft, "rewards": lambda skill: Redness(), "batch_size": 4}
    (expert,) = trained(tmp_path, by_skill, joint=joint, **more)
    summary = manifest(expert.folder)["summary"]
    assert (summary["rounds"], summary["images_generated"]) == (rounds, 8 * rounds)
    rows = read_lines(expert.folder / "rounds" / "000001" / "rewards.jsonl")
    assert {row["prompt"] for row in rows} == {
        pair.prompt.id for of_skill in by_skill.values() for pair in of_skill
    }


def test_what_the_objective_does_not_learn_from_is_refused(tmp_path, by_skill):
    nft = NftObjective(reward="toybox")
    some = {skill: [] for skill in by_skill}
    for what, objective in (
        ({"preferences": some}, CONFIG.objective),
        ({"preferences": some}, nft),
        ({"rewards": lambda skill: Redness()}, CONFIG.objective),
        ({"rewards": lambda skill: Redness()}, DpoObjective()),
    ):
        (name,) = what
        with pytest.raises(ConfigError, match=f"learn from no {name}, but {name} were handed"):
            trained(tmp_path, by_skill, objective=objective, **what)
    with pytest.raises(DataError, match="'cats' has none"):
        trained(tmp_path, by_skill, objective=DpoObjective(), preferences={})
    assert not list(tmp_path.iterdir())


def test_a_runs_joint_expert_gets_the_questions_of_all_skills(tmp_path):
    objective = {"kind": "nft", "reward": "questions", "questions": "toybox"}
    settings = config(
        tmp_path,
        prompts={"source": {"kind": "toybox"}},
        experts={"joint": "total_steps", "objective": objective},
    )
    this = stages(settings)
    reward = this._rewards()(JOINT)
    prompts = [prompt for of_skill in this.write_prompts().values() for prompt in of_skill]
    assert len(prompts) == 6 and all(map(reward.knows, prompts))


def test_merging_one_joint_expert_changes_nothing(tmp_path, by_skill):
    (expert,) = trained(tmp_path, by_skill, joint="total_steps")
    merged = merge_experts([expert], MergedConfig(), Workspace(tmp_path))
    assert merged.weights == {"joint": 1.0}
    before, after = (read_adapter(folder) for folder in (expert.folder, merged.folder))
    assert before.layers.keys() == after.layers.keys()
    for key, layer in before.layers.items():
        (a, b), (merged_a, merged_b) = before.factors(key), after.factors(key)
        change = after.layers[key].scale * merged_b @ merged_a
        torch.testing.assert_close(change, layer.scale * b @ a)


def other(**settings):
    drawing = DrawingBase(model=str(tiny.folder("sd2")), device="cpu", **settings)
    return fitting_of(ImagesConfig(base=drawing))


def test_another_bases_images_are_resized_by_lanczos_and_told_as_named():
    image = Image.effect_noise((12, 12), 60).convert("RGB")
    fitted, crop = _fit(image, 16, other())
    assert fitted.tobytes() == image.resize((16, 16), Image.Resampling.LANCZOS).tobytes()
    assert crop == (12, 12, 0, 0, 16)
    assert _fit(image, 16, other(original_size="trained"))[1] == (16, 16, 0, 0, 16)
    assert _fit(image, 16, OWN)[0].tobytes() != fitted.tobytes()
    own = image.resize((16, 16))
    assert _fit(own, 16, other())[0].tobytes() == own.tobytes()


def test_sdxl_is_told_the_size_at_which_images_were_drawn(tmp_path):
    some = pairs(tmp_path, size=(12, 12))
    for original_size, told in (("drawn", 12), ("trained", 16)):
        encoded = encode_pairs(
            some,
            Workspace(tmp_path / original_size),
            skill="cats",
            flip=False,
            digests=image_digests(some),
            recipe={},
            model=lambda: tiny.load("sdxl"),
            fitting=other(original_size=original_size),
        )
        assert encoded.conditioning.time_ids.tolist() == [[told, told, 0, 0, 16, 16]] * 3


def test_an_experts_recipe_names_both_bases(by_skill):
    some = by_skill["cats"]

    def recipe(fitting):
        return expert_recipe(
            "cats",
            pairs_digest(some),
            CONFIG,
            base=tiny.base("sd1"),
            seed=0,
            fitting=fitting,
        )

    both = recipe(other())
    assert both["base"] == tiny.load("sd1").fingerprint
    assert both["drawn_by"] == tiny.load("sd2").fingerprint
    same = DrawingBase(model=str(tiny.folder("sd1")), device="cpu")
    assert recipe(fitting_of(ImagesConfig(base=same))) == recipe(OWN)
    assert recipe(other(original_size="trained"))["fitting"] != both["fitting"]


def test_photographs_may_be_larger_than_the_bases_images(tmp_path):
    some = pairs(tmp_path, size=(64, 80), captions=["a cat"])
    fitting = fitting_of(ImagesConfig(source={"kind": "imagefolder", "folder": "anywhere"}))
    assert (fitting.filter, fitting.recipe) == ("bilinear", None)
    encode_pairs(
        some,
        Workspace(tmp_path),
        skill="cats",
        flip=False,
        digests=image_digests(some),
        recipe={},
        model=lambda: tiny.load("sd1"),
        fitting=fitting,
    )
    with pytest.raises(Exception, match="An image may have 1024 pixels"):
        encoded(tmp_path / "own", some)
