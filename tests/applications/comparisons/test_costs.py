"""What a row took: its items once each, candidates and own images of experts among them."""

from __future__ import annotations

from pathlib import Path

from selma.applications.comparisons.costs import cost_of
from selma.applications.comparisons.sharing import Clock, SharedWorkspace
from selma.config import RunConfig
from selma.workspace import Item

PLAIN = RunConfig(name="row")
REWARDED = RunConfig.model_validate(
    {
        "name": "row",
        "experts": {
            "objective": {
                "kind": "nft", "reward": "toybox", "prompts_per_round": 3,
                "images_per_prompt": 4, "updates_per_round": 2,
            },
        },
    }
)  # fmt: skip


def made(folder: SharedWorkspace, *names: str, recipe: object = 1, **summary: int) -> Item:
    item = folder.item(*names, recipe={"made": recipe})
    item.begin()
    item.finish([], summary)
    return item


def test_every_item_counts_once(tmp_path: Path) -> None:
    folder = SharedWorkspace(tmp_path)
    made(folder, "2-images", "coco", images=5)
    made(folder, "3-experts", "_encoded", "coco", pairs=5)
    made(folder, "3-experts", "coco", pairs=5, steps=7)
    made(folder, "5-scores", "images", "dev-1", images=3)
    made(folder, "5-scores", "images", "DSG-test-3", images=9)
    cost = cost_of(folder.used, folder, PLAIN)
    assert cost.model_dump(exclude={"seconds"}) == {
        "generated": 8, "scored": 3, "trained": 5, "steps": 7,
    }  # fmt: skip
    other = SharedWorkspace(tmp_path)
    made(other, "2-images", "coco", recipe=2, images=50)
    assert cost_of(folder.used, folder, PLAIN) == cost


def test_of_chosen_images_the_candidates_were_generated(tmp_path: Path) -> None:
    folder = SharedWorkspace(tmp_path)
    made(folder, "2-images", "candidates", "coco", images=32)
    made(folder, "2-images", "scores", "coco", candidates=32)
    item = folder.item("2-images", "coco", recipe={"choose": [8, "scorer"]})
    item.begin()
    item.finish([], {"images": 4})
    cost = cost_of(folder.used, folder, PLAIN)
    assert (cost.generated, cost.scored, cost.trained) == (32, 32, 4)
    given = folder.item("2-images", "whoops", recipe={"source": "imagefolder"})
    given.begin()
    given.finish([], {"images": 7})
    cost = cost_of(folder.used, folder, PLAIN)
    assert (cost.generated, cost.trained) == (32, 11)


def test_of_preferences_the_images_in_pairs_are_trained_on(tmp_path: Path) -> None:
    folder = SharedWorkspace(tmp_path)
    made(folder, "2-images", "_candidates", "coco", images=16)
    made(folder, "2-images", "_scores", "coco", candidates=16)
    chosen = folder.item("2-images", "coco", recipe={"choose": [2, "scorer"]})
    chosen.begin()
    chosen.finish([], {"images": 8})
    made(folder, "2-images", "_moved", "coco", images=16)  # by a pixel, to measure noise
    made(folder, "2-images", "_moved-scores", "coco", candidates=16)
    made(folder, "2-images", "_preferences", "coco", pairs=7, images=14)
    made(folder, "3-experts", "coco", pairs=7, steps=5)
    objective = {"experts": {"objective": {"kind": "dpo"}}}
    config = RunConfig.model_validate({"name": "row", **objective})
    cost = cost_of(folder.used, folder, config)
    assert cost.model_dump(exclude={"seconds"}) == {
        "generated": 16, "scored": 32, "trained": 14, "steps": 5,
    }  # fmt: skip


def test_of_preferences_by_answers_the_moved_images_are_asked_about(tmp_path: Path) -> None:
    folder = SharedWorkspace(tmp_path)
    made(folder, "2-images", "_candidates", "coco", images=16)
    made(folder, "2-images", "_scores", "coco", candidates=16)
    made(folder, "2-images", "_answers", "coco", prompts=16)  # about the very images
    made(folder, "2-images", "_moved", "coco", images=16)
    made(folder, "2-images", "_moved-answers", "coco", prompts=16)
    cost = cost_of(folder.used, folder, PLAIN)
    assert (cost.generated, cost.scored) == (16, 32)


def test_experts_that_learn_from_rewards_generate_their_own(tmp_path: Path) -> None:
    folder = SharedWorkspace(tmp_path)
    made(folder, "2-images", "coco", images=5)
    made(folder, "3-experts", "coco", pairs=5, steps=5, images_generated=36, images_judged=36)
    cost = cost_of(folder.used, folder, REWARDED)
    assert (cost.generated, cost.scored, cost.trained) == (5 + 36, 36, 36)


def test_an_item_that_the_journal_lacks_counts_all_the_same(tmp_path: Path) -> None:
    folder = SharedWorkspace(tmp_path)
    made(folder, "2-images", "coco", images=5)
    (tmp_path / "journal.jsonl").unlink()  # killed before its line
    cost = cost_of(folder.used, folder, PLAIN)
    assert (cost.generated, cost.trained, cost.seconds) == (5, 5, 0.0)


def test_what_an_item_was_made_with_counts_for_all_rows(tmp_path: Path) -> None:
    first, second = SharedWorkspace(tmp_path), SharedWorkspace(tmp_path)
    expert = first.item("3-experts", "coco", recipe={"made": 1})
    expert.begin()
    made(first, "3-experts", "_encoded", "coco", pairs=2)
    made(first, "5-scores", "images", "dev-1", images=3)
    expert.finish([], {"steps": 4})
    made(first, "5-scores", "images", "trial-1", images=7)  # of no item that others ask for
    second.item("3-experts", "coco", recipe={"made": 1})
    cost = cost_of(second.used, second, PLAIN)
    assert (cost.generated, cost.scored, cost.steps) == (3, 3, 4)
    assert cost_of(first.used, first, PLAIN).generated == 10


def test_a_searchs_trials_count_but_for_uniform_weights(tmp_path: Path) -> None:
    first, second = SharedWorkspace(tmp_path), SharedWorkspace(tmp_path)
    merge = first.item("4-merged", recipe={"trials": 2})
    merge.begin()
    first.item("5-scores", "search", recipe={"made": 1}).begin()  # never finished: it may go on
    made(first, "5-scores", "images", "trial-1", images=2)
    made(first, "5-scores", "images", "trial-2", images=2)
    merge.finish([], {})
    second.item("4-merged", recipe={"trials": 2})
    assert cost_of(second.used, second, PLAIN).generated == 4
    assert cost_of(second.used, second, PLAIN, but="4-merged").generated == 0


def test_what_a_killed_item_was_made_with_is_known(tmp_path: Path) -> None:
    killed, again = SharedWorkspace(tmp_path), SharedWorkspace(tmp_path)
    killed.item("3-experts", "coco", recipe={"made": 1}).begin()
    made(killed, "5-scores", "images", "dev-1", images=3)
    # The next command finds these images, and asks for them no more.
    made(again, "3-experts", "coco", steps=4)
    cost = cost_of(again.used, again, PLAIN)
    assert (cost.generated, cost.steps) == (3, 4)


def test_an_item_takes_the_time_that_no_other_inside_it_took() -> None:
    clock = Clock()
    for name in ("outer", "inner", "stopped"):
        clock.start(name)
    assert clock.stop("inner") >= 0
    (outer,) = clock.running
    assert outer[0] == "outer" and len(outer[2]) == 1
    assert clock.stop("outer") >= 0 and not clock.running and clock.stop("outer") == 0


def test_an_items_folder_is_that_of_the_last_recipe(tmp_path: Path) -> None:
    folder = SharedWorkspace(tmp_path)
    first = folder.item("2-images", "coco", recipe={"steps": 1})
    second = folder.item("2-images", "coco", recipe={"steps": 2})
    assert first.path != second.path == folder.folder_of("2-images", "coco")
    assert second.path == tmp_path / "2-images" / "coco" / second.key
