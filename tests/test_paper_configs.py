"""The paper's settings as files: its figures, and that a run could start from them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from selma.config import RunConfig, load_config
from selma.config.networks import ServedLLM
from selma.config.scores import LocalJudge
from selma.errors import ConfigError
from selma.preflight import check

CONFIGS = Path(__file__).parent.parent / "configs"
NAMES = ("paper-sd14", "paper-sd2", "paper-sdxl")
BENCHMARK = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language\n"
    "drawbench_1,a red cat,,1,0,entity,whole,entity - whole (cat),Is there a cat?\n"
    "drawbench_1,a red cat,,2,1,attribute,color,attribute - color (red),Is the cat red?\n"
)


@pytest.fixture(params=NAMES)
def config(request: pytest.FixtureRequest) -> RunConfig:
    return load_config(CONFIGS / f"{request.param}.yaml")


def test_it_has_the_papers_figures(config: RunConfig) -> None:
    prompts, images, experts = config.prompts, config.images, config.experts
    # section 4.3, l.39
    assert prompts.skills == (
        "localized_narratives", "countbench", "diffusiondb", "whoops", "coco"
    )  # fmt: skip
    assert (prompts.per_skill, prompts.examples, prompts.novelty.threshold) == (1000, 3, 0.8)
    assert isinstance(prompts.backend, ServedLLM) and "gpt-3.5-turbo" in prompts.backend.model
    # released prompt_generation.py
    assert (prompts.asked_per_reply, prompts.temperature, prompts.top_p) == (20, 1.0, 1.0)
    assert prompts.max_new_tokens == 3072
    # l.40 and l.62
    assert (images.steps, images.guidance, images.per_prompt) == (50, 7.5, 1)
    assert (experts.adapter.rank, experts.adapter.alpha) == (128, 128)
    assert (experts.learning_rate, experts.schedule, experts.warmup_steps) == (3e-4, "constant", 0)
    assert (experts.batch_size, experts.steps, experts.checkpoint_every) == (64, 5000, 1000)
    assert experts.precision == "fp16"
    # released training script
    assert set(experts.adapter.targets) == {"to_k", "to_q", "to_v", "to_out.0"}
    assert experts.adapter.init == "gaussian"
    assert (experts.betas, experts.weight_decay, experts.epsilon) == ((0.9, 0.999), 1e-2, 1e-8)


@pytest.mark.parametrize(
    ("name", "base", "at_once"),
    [("paper-sd14", "sd-1.4", 16), ("paper-sd2", "sd-2", 16), ("paper-sdxl", "sdxl", 4)],
)
def test_each_has_its_own_base(name: str, base: str, at_once: int) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    assert (config.name, config.base.model, config.base.precision) == (name, base, "fp16")
    assert config.experts.micro_batch_size == at_once


def test_nothing_is_chosen_by_what_is_reported(config: RunConfig) -> None:
    scores = config.scores
    assert config.experts.select == "last" and config.merged.search is None
    assert isinstance(scores.judge, LocalJudge) and isinstance(scores.choosing_judge, LocalJudge)
    assert scores.judge.model != scores.choosing_judge.model
    assert scores.clip is None, "toybox's scorer knows no photographs"


@pytest.mark.parametrize("name", NAMES)
def test_every_number_says_where_it_is_from(name: str) -> None:
    section = "top"
    for line in (CONFIGS / f"{name}.yaml").read_text().splitlines():
        setting, _, comment = line.partition("#")
        if re.search(r":\s*\[?[\d.]", setting):
            assert comment.strip(), f"{name}, {section}: {line}"
            assert re.search(r"l\.\d|released|the same|ours|choice", comment), line
        elif setting and not setting.startswith(" "):
            section = setting


@pytest.mark.parametrize("name", NAMES)
def test_check_accepts_it_once_benchmark_and_key_are_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    path = Path(shutil.copy(CONFIGS / f"{name}.yaml", tmp_path / "configs"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="for 2 mistake") as caught:
        check(load_config(path))
    assert "OPENAI_API_KEY" in str(caught.value)
    assert "selma data fetch dsg-1k" in str(caught.value)
    benchmark_prompts = tmp_path / "data" / "dsg-1k" / "dsg-1k-anns.csv"
    benchmark_prompts.parent.mkdir(parents=True)
    benchmark_prompts.write_text(BENCHMARK)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    check(load_config(path))
