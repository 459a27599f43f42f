"""The files of `configs/tables`: each can start once benchmarks and key are there, offline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from selma import cli
from selma.applications.comparisons.recipes import check, load_comparison, runs
from selma.config.adapters import LoraConfig
from selma.config.preferences import DpoObjective
from selma.config.rewards import DdpoObjective
from selma.config.scores import ScorerSettings
from selma.errors import ConfigError
from selma.toybox import BASES, weights_folder

CONFIGS = Path(__file__).parents[3] / "configs"
FILES = sorted((CONFIGS / "tables").glob("*.yaml"))
DSG = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language\n"
    "drawbench_1,a red cat,,1,0,entity,whole,entity - whole (cat),Is there a cat?\n"
)
TIFA = [
    {
        "id": "coco_1", "caption": "a red cat", "question": "what animal is it?",
        "choices": ["cat", "dog"], "answer": "cat", "element_type": "animal/human",
        "element": "cat",
    }
]  # fmt: skip


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configs with little benchmarks beside them, and a key."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    (tmp_path / "data" / "dsg-1k").mkdir(parents=True)
    (tmp_path / "data" / "dsg-1k" / "dsg-1k-anns.csv").write_text(DSG)
    (tmp_path / "data" / "tifa-v1.0").mkdir()
    path = tmp_path / "data" / "tifa-v1.0" / "tifa_v1.0_question_answers.json"
    path.write_text(json.dumps(TIFA))
    texts = [{"id": "coco_1", "caption": "a red cat"}]
    path.with_name("tifa_v1.0_text_inputs.json").write_text(json.dumps(texts))
    for skill in ("localized_narratives", "countbench", "diffusiondb", "whoops", "coco"):
        (tmp_path / "data" / "pairs" / skill).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / "pairs" / skill / "cat.png")
        (tmp_path / "data" / "pairs" / skill / "cat.txt").write_text("a red cat")
    return tmp_path / "configs" / "tables"


def _weights(base: str) -> bool:
    return any((weights_folder() / BASES[base]).rglob("*.safetensors"))


@pytest.mark.parametrize("name", [file.name for file in FILES])
def test_it_can_start(copied: Path, name: str) -> None:
    needed = [base for base in BASES if base in (copied / name).read_text()]
    if missing := [base for base in needed if not _weights(base)]:
        with pytest.raises(ConfigError, match=f"pretraining --only {BASES[missing[0]]}"):
            check(load_comparison(copied / name))
        return
    plan = load_comparison(copied / name)
    check(plan)
    assert plan.comparison.name == Path(name).stem
    assert runs(copied / name).keys() == plan.recipes.keys()


def test_what_is_missing_is_said_once_for_all_rows(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    shutil.rmtree(copied.parents[1] / "data")
    with pytest.raises(ConfigError) as caught:
        check(load_comparison(copied / "table2-sd2.yaml"))
    text = str(caught.value)
    assert text.count("OPENAI_API_KEY") == 1
    assert text.count("selma data fetch dsg-1k") == 1
    assert "selma data fetch tifa-v1.0" in text


@pytest.mark.parametrize("name", ["table1-sd14.yaml", "table4-sd2.yaml"])
def test_a_dry_run_and_an_estimate_need_no_hub(
    copied: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no net")

    for function in ("model_info", "hf_hub_download"):
        monkeypatch.setattr(f"huggingface_hub.{function}", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    result = CliRunner().invoke(cli.app, ["compare", str(copied / name), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "all, to make" in result.output
    unpinned = name.startswith("table4-sd2")
    assert (
        "counts as missing, since its commit or version cannot be told" in result.output
    ) == unpinned


def test_dpos_rows_have_two_images_of_each_prompt() -> None:
    for path in FILES:
        for name, config in runs(path).items():
            objective = config.experts.objective
            if isinstance(objective, DpoObjective):
                assert (config.images.candidates_per_prompt, objective.pairs.of) == (2, "first_two")
                assert (config.experts.learning_rate, config.experts.schedule) == (3e-4, "constant")
                assert name == "dpo"


def test_figure_3_is_the_same_for_every_base() -> None:
    tables = {path: load_comparison(path) for path in FILES if path.stem.startswith("figure3")}
    rows = {tuple((r.name, r.model) for r in t.comparison.rows) for t in tables.values()}
    claims = {tuple(t.comparison.claims) for t in tables.values()}
    assert len(tables) == 4 and len(rows) == len(claims) == 1
    for table in tables.values():
        for name, recipe in table.recipes.items():
            prompts, images = recipe.config.prompts, recipe.config.images
            given = (name.endswith(("-pairs", "-captions")), name.endswith("-pairs"))
            assert (prompts.given, images.given) == given
            assert recipe.row.model == "base" or len(prompts.skills) == 1


def test_policy_gradients_learn_as_released() -> None:
    for base in ("sd14", "sd2", "sdxl"):
        rows = runs(CONFIGS / "tables" / f"table1-{base}.yaml")
        for name, rate, decay, clip in (("ddpo", 3e-4, 1e-4, 1.0), ("dpok", 1e-5, 0.0, 0.1)):
            experts = rows[name].experts
            assert isinstance(experts.adapter, LoraConfig)
            assert (experts.adapter.rank, experts.adapter.alpha) == (4, 4)
            assert (experts.learning_rate, experts.schedule) == (rate, "constant")
            assert (experts.weight_decay, experts.max_grad_norm) == (decay, clip)
            reward = rows[name].rewarded.reward
            # The base's other reward, which reports, would be no evidence.
            assert isinstance(reward, ScorerSettings) and reward.kind == "imagereward"
            assert rows[name].chosen_by == ()
        assert rows["dpok"].experts.batch_size == 24


def test_ddpo_learns_from_all_that_a_round_drew_as_released() -> None:
    for base in ("sd14", "sd2", "sdxl"):
        experts = runs(CONFIGS / "tables" / f"table1-{base}.yaml")["ddpo"].experts
        objective = experts.objective
        assert isinstance(objective, DdpoObjective)
        transitions = objective.images_per_round * objective.sampling_steps
        assert objective.updates_per_round * experts.batch_size == transitions == 12_800
        assert experts.steps == 100 * objective.updates_per_round
