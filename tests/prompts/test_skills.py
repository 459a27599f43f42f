"""Skills are data: what comes with selma is sound, and what a user writes is checked."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from selma.errors import SkillError
from selma.prompts.instructions import continuation, instructions
from selma.prompts.skills import Skill, catalogue, load_skills

PAPERS = ("localized_narratives", "countbench", "diffusiondb", "whoops", "coco")
STYLES = ("narratives", "count", "tags", "whoops", "coco")
MINE = {
    "name": "mine",
    "description": "captions of my garden",
    "rules": ["Name a plant."],
    "seeds": ["a rose", "two tulips", "an old oak"],
    "max_words": 10,
}


def written(tmp_path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def test_the_catalogue_holds_the_papers_skills_and_more():
    others = {"midjourney", "all", "text_rendering", *(f"toybox_{style}" for style in STYLES)}
    assert set(catalogue()) == {*PAPERS, *others}


@pytest.mark.parametrize("name", catalogue())
def test_every_skill_of_the_catalogue_loads(name):
    (skill,) = load_skills([name])
    assert skill.name == name
    assert len(skill.seeds) == (4 if name.startswith("toybox_") else 3)


def test_word_limits_are_the_released_codes():
    limits = {skill.name: skill.max_words for skill in load_skills(PAPERS)}
    assert limits == {
        "localized_narratives": 50,
        "diffusiondb": 50,
        "countbench": 30,
        "coco": 30,
        "whoops": 30,
    }
    assert load_skills(["countbench"])[0].max_count == 3


def test_a_skill_of_ones_own_is_read_from_its_path(tmp_path):
    (skill,) = load_skills([written(tmp_path, yaml.safe_dump(MINE))])
    assert skill.seeds == ("a rose", "two tulips", "an old oak")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../up"}, "name"),
        ({"name": "Mine"}, "name"),
        ({"seeds": ["a rose", "two tulips"]}, "seeds"),
        ({"seeds": ["a rose", "a rose", "an oak"]}, "different"),
        ({"seeds": ["a rose", " ", "an oak"]}, "seeds"),
        ({"max_words": 1}, "max_words is 1"),
        ({"max_words": 0}, "max_words"),
        ({"max_count": 1}, "max_count is 1"),
        ({"colour": "red"}, "colour"),
        ({"terms": "../secret.lark"}, "leads out"),
        ({"terms": "missing.lark"}, "missing.lark"),
    ],
)
def test_mistakes_are_named(tmp_path, change, said):
    with pytest.raises(SkillError, match=said):
        load_skills([written(tmp_path, yaml.safe_dump(MINE | change))])


@pytest.mark.parametrize("text", ["", "just text", "- a\n- b", "a: [", "\0", "&a [*a]"])
def test_what_is_no_skill_is_refused(tmp_path, text):
    with pytest.raises(SkillError):
        load_skills([written(tmp_path, text)])


def test_unknown_names_get_a_hint():
    with pytest.raises(SkillError, match="countbench"):
        load_skills(["countbensh"])


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SkillError):
            load_skills([f"{path}/"])


def test_two_skills_may_not_share_a_name(tmp_path):
    path = written(tmp_path, yaml.safe_dump(MINE | {"name": "coco"}))
    with pytest.raises(SkillError, match="coco"):
        load_skills(["coco", path])


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*MINE, "other"]),
        st.none() | st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=9), max_size=4),
    )
)
def test_any_mapping_loads_or_is_a_skill_error(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(MINE | values), "utf-8")
    try:
        (skill,) = load_skills([str(path)])
    except SkillError:
        return
    assert skill.seeds and skill.description


@pytest.mark.parametrize(
    ("text", "too_far"),
    [
        ("three dogs", False),
        ("four dogs", True),
        ("a dozen eggs", True),
        ("3 dogs and 12 cats", True),
        ("a scone and a fourteenth-century chair", False),
    ],
)
def test_counts_above_the_limit_are_seen(text, too_far):
    assert load_skills(["countbench"])[0].counts_too_far(text) is too_far


def test_a_wish_names_description_rules_examples_and_numbers():
    (skill,) = load_skills(["countbench"])
    text = instructions(skill, ["one cat", "two dogs", "three cows"], asked=20)
    for part in (skill.description, *skill.rules, "30 words", "\n\n1. one cat\n\n2. two dogs"):
        assert part in text
    assert "from 4 to 23" in text
    assert text.index("3. three cows") < text.index("from 4 to 23")


@pytest.mark.parametrize(
    ("demand", "text", "lack"),
    [
        ({"min_words": 3}, "one cat", "too_short"),
        ({"min_words": 3}, "one black cat", None),
        ({"must": "number"}, "a cat and some dogs", "no_number"),
        ({"must": "number"}, "a cat and Two dogs", None),
        ({"must": "number"}, "a cat and 2 dogs", None),
        ({"must": "number"}, "a dozen eggs", None),
        ({"must": "number"}, "someone often listens", "no_number"),
        ({"pattern": r"\b(left|right) of\b"}, "a cat above a dog", "no_match"),
        ({"pattern": r"\b(left|right) of\b"}, "a cat left of a dog", None),
        ({"pattern": "(?i)^IN "}, "in a house, a cat", None),
        ({"min_words": 2, "must": "number", "pattern": "z"}, "cat", "too_short"),
        ({}, "cat", None),
    ],
)
def test_what_a_skill_demands_is_asked_of_each_text(demand, text, lack):
    seeds = {
        "seeds": ["in a zoo left of two cats", "IN 3 zoos right of it", "in one zoo, left of us"]
    }
    skill = Skill.model_validate(MINE | seeds | demand)
    assert skill.lacks(text) == lack


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        ({"min_words": 40}, "too_short"),
        ({"must": "number"}, "no_number"),
        ({"pattern": "never there"}, "no_match"),
        ({"pattern": "(open"}, "regular expression"),
        ({"must": "noun"}, "number"),
    ],
)
def test_seeds_meet_what_their_skill_demands(tmp_path, demand, words):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINE | {"max_count": None, "max_words": 50} | demand), "utf-8")
    with pytest.raises(SkillError, match=words):
        load_skills([str(path)])


def test_a_skill_that_demands_nothing_has_the_recipe_that_it_had():
    assert "must" not in load_skills(["coco"])[0].recipe()
    recipe = load_skills(["countbench"])[0].recipe()
    assert recipe["must"] == "number" and "min_words" not in recipe and "pattern" not in recipe


def test_a_beginning_tells_the_rules_and_limits_before_the_examples():
    (skill,) = load_skills(["countbench"])
    text = continuation(skill, ["one cat", "two dogs"])
    for rule in (*skill.rules, "at most 30 words", "greater than 3", "Name a number in each."):
        assert rule in text and text.index(rule) < text.index("1. one cat")
        assert rule in instructions(skill, ["one cat", "two dogs"], asked=2)


def test_a_beginning_stops_where_the_model_goes_on():
    (skill,) = load_skills(["coco"])
    assert continuation(skill, ["one cat", "two dogs"]).endswith(":\n1. one cat\n2. two dogs\n3.")
