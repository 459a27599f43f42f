"""Weights by score: what is tried, that stopping changes nothing, and what is left on disk."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merged.test_merging import deltas, expert, weights
from merged.test_rotation_methods import KEYS, turns_of
from merged.test_rotation_methods import expert as rotating
from pydantic import ValidationError

from selma.adapters.reading import read_adapter
from selma.backbones.text_to_image import ADAPTER_FILE
from selma.config.merged import MergedConfig, WeightSearch
from selma.errors import ConfigError, DataError
from selma.merged.merging import merge_experts
from selma.merged.searching import Space, best, contrasts, merge_searched, read_trials, search
from selma.workspace import Workspace

UNIFORM = {"ants": 1 / 3, "bees": 1 / 3, "cats": 1 / 3}
WANTED = {"ants": 0.6, "bees": 0.1, "cats": 0.3}


def near_wanted(found, scale):
    """Highest at the wanted weights and scale 1.5."""
    far = sum((math.log(found[s]) - math.log(w)) ** 2 for s, w in WANTED.items())
    return -far - (math.log(scale) - math.log(1.5)) ** 2


def searched(folder, trials=30, score=near_wanted, **more):
    folder.mkdir(exist_ok=True)
    return search(UNIFORM, WeightSearch(trials=trials, **more), folder, score=score)


@given(
    st.integers(1, 8),
    st.lists(st.floats(-30, 30), min_size=9, max_size=9),
    st.sampled_from([None, (0.5, 2.0)]),
    st.sampled_from([1.0, 5.0]),
)
@settings(deadline=None)
def test_weights_are_positive_with_the_uniform_ones_sum(count, point, scale, total):
    uniform = {f"s{i}": total / count for i in range(count)}
    config = WeightSearch(scale=scale)
    if count == 1 and scale is None:
        with pytest.raises(ConfigError, match="two experts"):
            Space(uniform, config)
        return
    space = Space(uniform, config)
    assert space.size >= 2
    found, factor = space.at(np.array(point[: space.size]))
    assert found.keys() == uniform.keys()
    assert all(w >= 0 for w in found.values())
    assert sum(found.values()) == pytest.approx(total)
    assert (factor == 1.0) if scale is None else (scale[0] <= factor <= scale[1])
    at_zero, factor = space.at(np.zeros(space.size))
    assert at_zero == pytest.approx(uniform) and factor == 1.0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_directions_treat_no_expert_differently(count):
    columns = contrasts(count)
    np.testing.assert_allclose(columns.T @ columns, np.eye(count - 1), atol=1e-12)
    np.testing.assert_allclose(columns.sum(axis=0), 0, atol=1e-12)
    # Every expert is as far from the others' directions as any.
    np.testing.assert_allclose((columns**2).sum(axis=1), (count - 1) / count, atol=1e-12)


def test_uniform_weights_are_the_first_trial_and_the_best_is_better(tmp_path):
    trials = searched(tmp_path, trials=60)
    assert trials[0].weights == UNIFORM and trials[0].scale == 1.0
    assert [trial.trial for trial in trials] == list(range(60))
    found = best(trials)
    assert found.score > trials[0].score + 0.5
    assert found.weights["ants"] > found.weights["cats"] > found.weights["bees"]
    assert found.scale > 1.1


def test_the_scale_can_be_searched_alone(tmp_path):
    trials = searched(tmp_path, weights=False)
    assert all(trial.weights == pytest.approx(UNIFORM) for trial in trials)
    assert best(trials).scale == pytest.approx(1.5, rel=0.05)
    with pytest.raises(ValidationError, match="one must be on"):
        WeightSearch(weights=False, scale=None)


def test_a_scale_alone_is_sought_between_its_bounds_around_the_best(tmp_path):
    trials = searched(tmp_path, trials=7, weights=False, scale=(0.25, 2.0))
    # The score is highest at 1.5; in the logarithm, each is the middle of two before it.
    expected = [1.0, 0.25, 2.0, 2**0.5, 2**0.25, 2**0.75, 2**0.375]
    assert [trial.scale for trial in trials] == pytest.approx(expected)
    equal = searched(tmp_path / "equal", 6, lambda *_: 1.0, weights=False, scale=(0.25, 2.0))
    expected = [1.0, 0.25, 2.0, 0.5, 2**-0.5, 2**0.5]  # beside 1, the wider gap first
    assert [trial.scale for trial in equal] == pytest.approx(expected)


def test_of_equal_scores_the_earliest_stays(tmp_path):
    trials = searched(tmp_path, score=lambda *_: 50.0)
    assert best(trials).trial == 0
    assert len({tuple(trial.weights.values()) for trial in trials}) == len(trials)


@pytest.mark.parametrize("stop_at", [0, 1, 2, 9, 11])
def test_a_stopped_search_goes_on_as_if_it_had_not_been(tmp_path, stop_at):
    whole = searched(tmp_path / "whole", trials=12)
    asked = []

    def score(found, scale):
        asked.append(found)
        np.random.seed(len(asked))  # whoever draws pictures moves numpy's own stream
        if len(asked) == stop_at + 1 and stop_at is not None:
            raise KeyboardInterrupt
        return near_wanted(found, scale)

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "part", trials=12, score=score)
    assert len(read_trials(tmp_path / "part")) == stop_at
    asked.clear()

    def rest(found, scale):
        asked.append(found)
        return near_wanted(found, scale)

    assert searched(tmp_path / "part", trials=12, score=rest) == whole
    assert len(asked) == 12 - stop_at


def test_a_larger_budget_goes_on_from_a_smaller_one(tmp_path):
    short = searched(tmp_path / "one", trials=10)
    long = searched(tmp_path / "one", trials=20)
    assert long[:10] == short and long == searched(tmp_path / "two", trials=20)
    assert searched(tmp_path / "one", trials=5) == short[:5]


def test_seeds_try_different_weights(tmp_path):
    one, other = searched(tmp_path / "a"), searched(tmp_path / "b", seed=1)
    assert one[0] == other[0] and one[1] != other[1]


def test_the_record_of_another_search_is_refused(tmp_path):
    searched(tmp_path, trials=4)
    with pytest.raises(DataError, match="another search: its trial 1"):
        searched(tmp_path, trials=4, seed=1)


def test_a_torn_record_loses_its_last_trial_alone(tmp_path):
    whole = searched(tmp_path, trials=4)
    record = tmp_path / "trials.jsonl"
    record.write_bytes(record.read_bytes()[:-9])
    assert searched(tmp_path, trials=4) == whole


def test_a_score_must_be_a_number(tmp_path):
    with pytest.raises(DataError, match="trial 0 has nan"):
        searched(tmp_path, score=lambda *_: math.nan)
    assert read_trials(tmp_path) == []


SKILLS = ("ants", "bees", "cats")
SCORED_BY = {"judge": "b"}


def experts(folder):
    return [expert(folder, skill) for skill in SKILLS]


def likes_ants(folder):
    """A score of the adapter on disk: its overlap with what ants' expert draws first."""
    file = read_adapter(folder)
    return sum(float((b @ a)[0, 0]) for key in file.layers for a, b in [file.factors(key)])


def by_score(folder, some, score=likes_ants, trials=6, scored_by=SCORED_BY, **settings):
    config = MergedConfig(search=WeightSearch(trials=trials), **settings)
    run = Workspace(folder / "run")
    return merge_searched(some, config, run, dev_score=score, scored_by=scored_by)


@pytest.mark.parametrize("method", ["mean_of_deltas", "mean_of_factors", "ties"])
def test_the_chosen_merge_is_the_plain_one_with_its_weights(tmp_path, method):
    some = experts(tmp_path)
    found = by_score(tmp_path, some, method=method)
    assert found.uniform is not None, "the case needs weights that beat uniform ones"
    given = MergedConfig(method=method, weights=found.weights, scale=found.scale)
    plain = merge_experts(some, given, Workspace(tmp_path / "plain"))
    for one, other in ((found, plain), (found.uniform, merge_experts(
        some, MergedConfig(method=method), Workspace(tmp_path / "even")
    ))):  # fmt: skip
        assert weights(one.folder).keys() == weights(other.folder).keys()
        assert all((weights(one.folder)[k] == t).all() for k, t in weights(other.folder).items())
    assert found.uniform.key == merge_experts(
        some, MergedConfig(method=method), Workspace(tmp_path / "even")
    ).key  # fmt: skip


@pytest.mark.parametrize("skills", [("ants", "bees"), ("bees", "ants")])
def test_the_order_of_an_ordered_method_is_the_runs(tmp_path, skills):
    some = [rotating(tmp_path, skill) for skill in skills]
    scores = iter([0.0, 2.0, 1.0, 1.0])
    found = by_score(tmp_path, some, lambda _: next(scores), 4, method="product")
    given = MergedConfig(method="product", weights=found.weights, scale=found.scale)
    plain = merge_experts(some, given, Workspace(tmp_path / "plain"))
    even = merge_experts(some, MergedConfig(method="product"), Workspace(tmp_path / "even"))
    for one, other in ((found, plain), (found.uniform, even)):
        turns, others = turns_of(one.folder), turns_of(other.folder)
        assert turns.keys() == others.keys() == {*KEYS}
        for key, turn in turns.items():
            assert torch.equal(turn.skew_entries, others[key].skew_entries)
    assert found.uniform.key == even.key
    assert json.loads((found.folder / "manifest.json").read_text())["recipe"]["order"] == [*skills]


def test_the_manifest_has_every_trial(tmp_path):
    found = by_score(tmp_path, experts(tmp_path))
    manifest = json.loads((found.folder / "manifest.json").read_text())
    trials = manifest["summary"]["trials"]
    assert len(trials) == 6 and trials == [vars(t) for t in read_trials(found.folder)]
    assert manifest["summary"]["chosen"] == max(trials, key=lambda t: t["score"])
    assert manifest["recipe"]["scored_by"] == SCORED_BY
    assert set(manifest["files"]) == {
        ADAPTER_FILE, "diagnostics.json", "trials.jsonl", f"uniform/{ADAPTER_FILE}"
    }  # fmt: skip
    assert not (found.folder / "trial").exists()


def test_where_uniform_weights_win_there_is_nothing_to_compare(tmp_path):
    found = by_score(tmp_path, experts(tmp_path), score=lambda _: 1.0)
    assert found.uniform is None and found.scale == 1.0
    assert found.weights == dict.fromkeys(SKILLS, 1 / 3)
    assert not (found.folder / "uniform").exists()


def test_a_finished_search_is_not_made_again_and_a_new_judge_searches_anew(tmp_path):
    some, asked = experts(tmp_path), []

    def score(folder):
        asked.append(deltas(folder))
        return likes_ants(folder)

    first = by_score(tmp_path, some, score=score)
    assert len(asked) == 6
    assert by_score(tmp_path, some, score=score) == first and len(asked) == 6
    by_score(tmp_path, some, score=score, trials=8)
    assert len(asked) == 8, "the six trials on record are not judged again"
    by_score(tmp_path, some, score=score, scored_by={"judge": "c"})
    assert len(asked) == 14


def test_no_name_of_an_expert_changes_what_is_tried(tmp_path):
    first = by_score(tmp_path / "one", experts(tmp_path / "one"))
    second = by_score(tmp_path / "two", experts(tmp_path / "two")[::-1])
    assert [t.weights for t in read_trials(first.folder)] == [
        t.weights for t in read_trials(second.folder)
    ]
