"""What a run takes before it starts: nothing is forgotten, and the hours are near measured ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scores.colours import benchmark_prompts, write_benchmark
from typer.testing import CliRunner

from selma import capacity, cli
from selma.backbones.judges.computing import PUBLISHED, Answering, of_local
from selma.backbones.judges.loading import JUDGES
from selma.backbones.memory import Parts, parts_of
from selma.backbones.preference.scorers import scorer_operations
from selma.config import RunConfig, load_config
from selma.config.experts import ExpertsConfig
from selma.config.scores import LocalJudge, PreferenceConfig
from selma.devices import DEVICES, Device, Share, measured
from selma.errors import ConfigError, DataError
from selma.planning import Plan, Work, estimating, plan
from selma.registry import registered
from selma.workspace import EXPERTS, IMAGES, MERGED, PROMPTS, REPORT, SCORES, STAGES

ROOT = Path(__file__).parents[2]
shapes = cache(parts_of)
H100 = DEVICES["h100"]
SMALL: dict[str, Any] = {
    "name": "small",
    "prompts": {"skills": ["toybox_count", "toybox_coco"], "per_skill": 10},
    "images": {"steps": 4, "batch_size": 4},
    "experts": {
        "steps": 20,
        "batch_size": 4,
        "precision": "fp32",
        "adapter": {"kind": "lora", "rank": 4},
    },
    "scores": {"prompts": 6},
}


def once(count: Callable[..., Any]) -> Callable[..., Any]:
    """The same, counted once for all plans of the same network and settings."""
    known: dict[tuple[int, str], tuple[Any, Parts]] = {}  # parts that stay have ids of their own

    def counted(parts: Parts, settings: ExpertsConfig) -> Any:
        key = id(parts), settings.model_dump_json()
        if key not in known:
            known[key] = count(parts, settings), parts
        return known[key][0]

    return counted


COUNTS = {
    f"{module.__name__}.{name}": once(getattr(module, name))
    for module, name in (
        (capacity, "training_need"), (estimating, "adapter_size"),
        (estimating, "sample_operations"),
    )
}  # fmt: skip


@pytest.fixture(autouse=True)
def _counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in COUNTS.items():
        monkeypatch.setattr(name, count)


def small(**sections: Any) -> RunConfig:
    merged = {**SMALL}
    for name, own in sections.items():
        merged[name] = {**SMALL.get(name, {}), **own}
    return RunConfig.model_validate(merged)


def planned(config: RunConfig, device: Device = H100, gpus: int = 1) -> Plan:
    return plan(config, device, gpus, shapes=shapes)


def pieces(config: RunConfig, stage: str) -> dict[str, Work]:
    return {work.what: work for work in planned(config).work if work.stage == stage}


def test_parts_are_not_divided_and_devices_do_not_make_work_cheaper() -> None:
    work = Work(EXPERTS, "training", "training", 6e17, "bf16", at_once=5)
    alone = work.seconds(H100, 1)
    assert alone == pytest.approx(work.busy_s(H100))
    assert work.seconds(H100, 5) == work.seconds(H100, 64) == pytest.approx(alone / 5)
    assert work.seconds(H100, 3) == work.seconds(H100, 4) == pytest.approx(alone * 2 / 5)
    assert work.seconds(DEVICES["cpu"], 2) == pytest.approx(work.busy_s(DEVICES["cpu"]) / 2)


def test_experts_run_side_by_side_over_skills_alone() -> None:
    config = small()
    two, many = planned(config, gpus=2), planned(config, gpus=64)
    train = STAGES.index(EXPERTS)
    assert many.stages[train].seconds == two.stages[train].seconds
    assert many.stages[train].gpus == 2
    assert any("62 of 64 devices wait" in line for line in many.assumed)
    spread = planned(small(experts={"spread": "batch"}), gpus=64)
    assert spread.stages[train].gpus == 8
    assert spread.stages[train].seconds < many.stages[train].seconds
    assert not any("devices wait" in line for line in spread.assumed)


def test_one_expert_of_all_skills_is_one() -> None:
    each = pieces(small(), EXPERTS)["training"]
    total = pieces(small(experts={"joint": "total_steps"}), EXPERTS)["training"]
    steps = pieces(small(experts={"joint": "steps_per_skill"}), EXPERTS)["training"]
    assert total.operations * 2 == steps.operations == each.operations
    assert (each.at_once, total.at_once, steps.at_once) == (2, 1, 1)


def test_every_further_benchmark_counts(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "own.csv", benchmark_prompts(12))
    own = {"benchmark": str(tmp_path / "own.csv")}
    plain = pieces(small(), SCORES)
    config = small(scores={"further": {"own": own}})
    more = pieces(config, SCORES)
    drawn = more["images of own"].operations / plain["images of benchmark"].operations
    assert drawn == 12 / 6  # as many models, twice the prompts
    twice = planned(small(scores={"further": {"own": own, "too": own}}))
    # Equal prompts are drawn once.
    assert sum(work.what.startswith("images of") for work in twice.work) == 2
    # Another judge of the same prompts looks at the same images.
    same = small(scores={"further": {"again": {"judge": "qwen3-vl-8b", "prompts": 6}}})
    judged = pieces(same, SCORES)
    assert "images of again" not in judged
    assert "answers of Qwen/Qwen3-VL-8B-Instruct" in judged


def test_models_seeds_and_candidates_multiply() -> None:
    one = pieces(small(), SCORES)["images of benchmark"].operations
    assert pieces(small(scores={"seeds": 3}), SCORES)["images of benchmark"].operations == 3 * one
    alone = pieces(small(scores={"experts": False}), SCORES)["images of benchmark"].operations
    assert alone == one * 2 / 4  # base and merged without the two experts
    searched = small(merged={"search": {"trials": 3}}, scores={"dev_prompts": 8})
    assert pieces(searched, SCORES)["images of benchmark"].operations == one * 5 / 4
    trial = pieces(searched, MERGED)["trials' dev images"].operations
    assert trial == one * (3 * 8) / (4 * 6)
    drawn = pieces(small(), IMAGES)["training images"].operations
    chosen = pieces(small(images={"choose": {"candidates": 3}}), IMAGES)
    assert chosen["training images"].operations == 3 * drawn
    assert "scores by toybox" in chosen


def test_checkpoints_that_are_chosen_are_scored() -> None:
    config = small(experts={"select": "dev", "checkpoint_every": 10}, scores={"dev_prompts": 8})
    dev = pieces(config, EXPERTS)["checkpoints' dev images"]
    one = pieces(config, SCORES)["images of benchmark"].operations / (4 * 6)
    assert dev.operations == pytest.approx(one * 2 * 2 * 8)
    assert dev.at_once == 2


def test_rewards_draw_and_judge_each_round() -> None:
    objective = {
        "kind": "nft", "reward": "toybox", "prompts_per_round": 2, "images_per_prompt": 4,
        "sampling_steps": 4,
    }  # fmt: skip
    own = pieces(small(experts={"objective": objective, "batch_size": 8}), EXPERTS)
    assert {"own images", "scores by toybox", "training"} == set(own)
    left_out = planned(small(experts={"objective": objective, "batch_size": 8})).left_out
    assert any("objective nft" in line for line in left_out)


def test_mixtures_are_trained_where_others_are_merged() -> None:
    gates = pieces(small(merged={"mixture": {}}), MERGED)
    assert set(gates) == {"gates"} and gates["gates"].at_once == 1
    # As wide as both experts, for as many steps as one of them.
    assert gates["gates"].operations > pieces(small(), EXPERTS)["training"].operations / 2


def test_servers_are_asked_for_money_where_there_are_prices() -> None:
    backend = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    [free] = planned(small(prompts={"backend": backend})).asked
    prices = {"price_per_million_input": 2.0, "price_per_million_output": 8.0}
    [paid] = planned(small(prompts={"backend": backend | prices})).asked
    assert free.cost is None and free.requests == paid.requests == 2  # 20 are asked for at once
    assert paid.cost == pytest.approx((paid.read * 2 + paid.written * 8) / 1e6, rel=1e-3)
    judge = backend | prices
    asked = planned(small(scores={"judge": judge})).asked
    assert [each.what for each in asked] == ["answers of m"]
    assert asked[0].requests > 4 * 6 and asked[0].cost
    drawing = {
        "kind": "served", "dialect": "openai", "model": "d", "base_url": "http://127.0.0.1:9/v1",
        "image_px": 64, "price_per_image": 0.5,
    }  # fmt: skip
    [images] = planned(small(images={"base": drawing})).asked
    assert (images.requests, images.cost) == (20, 10)


def test_what_is_not_known_is_said_to_be_left_out() -> None:
    unknown = LocalJudge(model="nobody/knows-this")
    left_out = planned(small(scores={"judge": unknown.model_dump()})).left_out
    assert any("nobody/knows-this" in line for line in left_out)
    network = {"kind": "clip", "model": "nobody/clip"}
    assert any(
        "clip" in line for line in planned(small(scores={"preferences": [network]})).left_out
    )
    writer = {"kind": "local", "model": "nobody/writes"}
    assert any(
        "nobody/writes" in line for line in planned(small(prompts={"backend": writer})).left_out
    )


@pytest.mark.parametrize(
    ("model", "billions"),
    # Of all weights but embeddings, as their cards have them: 0.36, 3.9 with OPT's or T5's, ...
    [
        ("Salesforce/blip-vqa-capfilt-large", 0.336),
        ("Salesforce/blip2-flan-t5-xl", 3.88),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 7.75),
        ("Qwen/Qwen3-VL-8B-Instruct", 8.14),
    ],
)
def test_published_judges_have_their_published_sizes(model: str, billions: float) -> None:
    from selma.backbones.judges.computing import _config, _sizes

    assert sum(_sizes(_config(None, model)).values()) / 1e9 == pytest.approx(billions, rel=0.01)
    assert model in PUBLISHED


def test_a_judge_in_a_folder_is_counted_from_its_config(tmp_path: Path) -> None:
    """As PyTorch counts the vision model's pass, to which attention's products add little."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import BlipConfig, BlipForQuestionAnswering

    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 8}  # fmt: skip
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "encoder_hidden_size": 64, "vocab_size": 50}  # fmt: skip
    config = BlipConfig(vision_config=vision, text_config=text)
    config.save_pretrained(tmp_path)
    computing = of_local(LocalJudge(model=str(tmp_path)), 512)
    assert computing is not None
    network = BlipForQuestionAnswering(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.vision_model(torch.zeros(1, 3, 32, 32))
    assert computing.image == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_a_kind_of_judge_from_outside_says_what_it_computes() -> None:
    row = replace(JUDGES["toybox-a"], name="mine", computing=lambda judge, px: Answering(px, 7))
    config = small().model_copy(
        update={"scores": small().scores.model_copy(update={"judge": "mine"})}
    )
    with registered("selma.judges", row):
        work = pieces(config, SCORES)["answers of mine"]
    questions = round((work.operations - 4 * 6 * 64) / 7)
    assert questions > 4 * 6 and work.operations == 4 * 6 * 64 + 7 * questions


def test_toyboxs_own_networks_are_counted() -> None:
    for name in ("toybox-a", "toybox-b", "toybox-regions"):
        computing = JUDGES[name].computing(name, 64)
        assert computing is not None and computing.image > 1e6
        # Regions are measured without a network.
        assert (computing.question > 0) == (name != "toybox-regions")
    assert (scorer_operations("toybox") or 0) > 1e6
    pickscore = PreferenceConfig(kind="pickscore", model="x/y")
    # open_clip's table has 381.7 G for CLIP ViT-H/14, attention's products among them.
    assert scorer_operations(pickscore) == pytest.approx(381.7e9, rel=0.05)


def test_a_device_from_outside_is_a_row() -> None:
    row = Device("mine", 16, 10.0, 5.0, training=Share(0.5), generating=Share(0.5))
    with registered("selma.devices", row):
        assert planned(small(), DEVICES["mine"]).seconds > 0


def test_work_that_does_not_fit_is_told() -> None:
    config = small(base={"model": "sd-1.4", "precision": "bf16"}, experts={"batch_size": 64})
    assert any(
        "experts.micro_batch_size" in line for line in planned(config, DEVICES["rtx4090"]).changes
    )
    assert not planned(small()).changes


def test_the_papers_hours_on_an_l40() -> None:
    """The paper has 6 hours for an expert of SD 2 on an L40, with an autoencoder's and a text
    encoder's pass for each sample, where selma encodes once. Without them the plan is 1.7 times
    less; with them it is within a tenth. At 768 px neither would be near."""
    config = load_config(ROOT / "configs" / "paper-sd2.yaml")
    base = config.local_base.model_copy(update={"image_px": 512})
    scores = small().scores
    config = config.model_copy(update={"base": base, "scores": scores})
    l40 = DEVICES["l40"]
    own = {work.what: work for work in planned(config, l40).work if work.stage == EXPERTS}
    hours = own["training"].seconds(l40, 5) / 3600
    assert 6 / 2 < hours < 6
    samples, pairs = 5 * 5000 * 64, 5000
    encoding = own["encoding"].operations / pairs * samples
    with_encoding = replace(own["training"], operations=own["training"].operations + encoding)
    assert with_encoding.seconds(l40, 5) / 3600 == pytest.approx(6, rel=0.1)


def test_the_demos_measured_seconds() -> None:
    """The processor's seconds of docs/performance.md, by the peak that was measured beside them."""
    seconds = {PROMPTS: 67.6, IMAGES: 90.9, EXPERTS: 150.6, MERGED: 3.8, SCORES: 64.9, REPORT: 3.3}
    demo = planned(load_config(ROOT / "configs" / "toybox.yaml"), DEVICES["cpu"])
    for stage in demo.stages:
        assert stage.busy_s == pytest.approx(seconds[stage.stage], rel=0.3), stage.stage
    assert demo.seconds == pytest.approx(sum(seconds.values()), rel=0.1)
    images = 5 * 64 * 4 + 7 * 100
    assert sum(s.disk for s in demo.stages if s.stage in (IMAGES, SCORES)) == pytest.approx(
        1.6 * 64 * 64 * images
    )


def test_the_processor_is_timed() -> None:
    row = measured(DEVICES["cpu"])
    assert 1e-3 < row.single < 10 and row.single == row.half
    with pytest.raises(ConfigError, match="--kind is h100"):
        measured(H100)


def test_no_work_without_a_device() -> None:
    with pytest.raises(ConfigError, match="at least one device, but 0 came"):
        planned(small(), gpus=0)


def test_the_command_shows_a_table_and_writes_json(tmp_path: Path) -> None:
    config, out = tmp_path / "small.yaml", tmp_path / "plan.json"
    config.write_text(yaml.safe_dump(SMALL))
    command = ["plan", str(config), "--gpus", "8", "--kind", "h100", "--json", str(out)]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    for word in (*STAGES, "in all", "Taken: training at 14%", "Left out: text encoders"):
        assert word in result.output
    written = json.loads(out.read_text())["small"]
    assert written["gpus"] == 8 and written["kind"] == "h100"
    assert [stage["stage"] for stage in written["stages"]] == list(STAGES)
    assert written["totals"]["seconds"] == pytest.approx(
        sum(stage["seconds"] for stage in written["stages"])
    )
    assert written["work"] and written["totals"]["disk"] > 0
    assert next(stage for stage in written["stages"] if stage["stage"] == PROMPTS)["operations"] > 0


def test_a_benchmark_that_is_missing_says_what_brings_it(tmp_path: Path) -> None:
    path = tmp_path / "dsg-1k" / "dsg-1k-anns.csv"
    with pytest.raises(DataError, match=r"is missing\. Run `selma data fetch dsg-1k`\. Name"):
        planned(small(scores={"benchmark": str(path)}))
    with pytest.raises(DataError, match=r"is missing\. Name another file, or toybox"):
        planned(small(scores={"benchmark": str(tmp_path / "own.csv")}))
