"""A benchmark of one's own to choose on, where the one that reports has no dev prompts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scores.colours import ColourJudge, benchmark_prompts, image, write_benchmark

from selma.config import load_config
from selma.config.scores import ScoresConfig
from selma.dev_score import DevScore
from selma.errors import ConfigError
from selma.preflight import check
from selma.scores.benchmarks import all_texts, dev_benchmark_of, load_benchmark
from selma.workspace import STAGES, Workspace

REPORTED, CHOSEN_ON = benchmark_prompts(8)[:4], benchmark_prompts(8)[4:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_benchmark(tmp_path / "test.csv", REPORTED)
    write_benchmark(tmp_path / "dev.csv", CHOSEN_ON)
    (tmp_path / "words.txt").write_text("a red jar\n")
    return tmp_path


def settings(folder: Path, **more: Any) -> ScoresConfig:
    named = {"benchmark": str(folder / "test.csv"), "dev_benchmark": str(folder / "dev.csv")}
    return ScoresConfig.model_validate(named | more)


def test_dev_prompts_are_those_of_the_other_file(folder: Path) -> None:
    scores = settings(folder)
    assert [prompt.id for prompt in load_benchmark(scores)] == ["p000", "p001", "p002", "p003"]
    dev = load_benchmark(scores, split="dev", prompts=3)
    assert len(dev) == 3 and {prompt.id for prompt in dev} <= {"p004", "p005", "p006", "p007"}
    row = dev_benchmark_of(scores)
    assert row is not None and row.name == "dsg-1k"
    assert dev_benchmark_of(settings(folder, dev_benchmark=None)) is None
    # No text of either may be trained on.
    assert all_texts(scores) == [prompt.text for prompt in (*REPORTED, *CHOSEN_ON)]
    # Groups are the reporting benchmark's, and do not cut the other.
    assert len(load_benchmark(settings(folder, groups=["all"]), split="dev")) == 4


def test_toybox_can_be_chosen_on_as_well(folder: Path) -> None:
    scores = settings(folder, dev_benchmark="toybox")
    plain = ScoresConfig()
    assert load_benchmark(scores, split="dev", prompts=5) == load_benchmark(
        plain, split="dev", prompts=5
    )
    # A run that reports on a dev split still does.
    own = ScoresConfig(split="dev", dev_benchmark=str(folder / "dev.csv"), prompts=5)
    assert load_benchmark(own) == load_benchmark(ScoresConfig(split="dev", prompts=5))


def test_nothing_is_chosen_on_what_is_reported(folder: Path) -> None:
    write_benchmark(folder / "dev.csv", [*CHOSEN_ON, REPORTED[1]])
    with pytest.raises(ConfigError, match=r"other prompts than .* but 1 is the same, p001 first"):
        load_benchmark(settings(folder), split="dev")


def test_prompts_without_questions_name_the_command_that_writes_them(folder: Path) -> None:
    scores = settings(folder, dev_benchmark=str(folder / "words.txt"))
    with pytest.raises(
        ConfigError, match=r"1 prompt has no questions .*selma questions .*words\.txt"
    ):
        load_benchmark(scores, split="dev")


CONFIG = """\

scores: {{benchmark: test.csv, {scores}}}
experts: {{select: dev}}
"""


def mistakes(folder: Path, scores: str) -> str:
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(scores=scores))
    try:
        check(load_config(path), STAGES)
    except ConfigError as error:
        return str(error)
    return ""


def test_selma_check_takes_it_and_tells_what_is_wrong_with_it(folder: Path) -> None:
    assert "no dev prompts to choose by" in mistakes(folder, "dev_prompts: 4")
    assert "dev prompts" not in mistakes(folder, "dev_benchmark: dev.csv")
    assert "dev_benchmark" not in mistakes(folder, "dev_benchmark: dev.csv")
    assert "dev_benchmark: must be toybox or" in mistakes(folder, "dev_benchmark: none.csv")
    assert "no questions" in mistakes(folder, "dev_benchmark: words.txt")
    assert "4 are the same" in mistakes(folder, "dev_benchmark: test.csv")


def test_selma_check_tells_of_rules_that_a_benchmark_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("scores: {rules: released}\n")
    with pytest.raises(ConfigError, match=r"scores\.rules must be sound for toybox"):
        check(load_config(path), STAGES)


def test_an_adapters_score_is_made_on_it(folder: Path) -> None:
    (folder / "config.yaml").write_text(CONFIG.format(scores="dev_benchmark: dev.csv"))
    config = load_config(folder / "config.yaml")
    asked: list[str] = []

    def generate(name: str, adapters: Any, prompts: Any, *, folder: Workspace) -> Path:
        """Every image shows the first of its two colours, the last one both."""
        item = folder.item("5-scores", "images", name, recipe={"name": name})
        item.begin()
        asked.extend(prompt.id for prompt in prompts)
        for prompt in prompts:
            words = prompt.text.replace(",", "").split()
            image(*(words[:3:2] if prompt.id == "p007" else words[:1])).save(
                item.path / f"{prompt.id}.png"
            )
        item.finish(item.path.glob("*.png"), {})
        return Path(item.path)

    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "pytorch_lora_weights.safetensors").write_bytes(b"any bytes tell it from another")
    networks: Any = SimpleNamespace(choosing_judge=ColourJudge("colours"))
    score = DevScore(config, Workspace(folder / "run"), generate, lambda: networks)
    assert score(adapter) == pytest.approx(100 * (3 * 0.5 + 1) / 4)
    assert asked == ["p004", "p005", "p006", "p007"]
