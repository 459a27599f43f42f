"""Settings: each mistake is one clear error with its key, before anything is loaded."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from selma.applications import APPLICATIONS
from selma.applications.loading import imported, read_run_file
from selma.applications.loading import load_config as load_any
from selma.config import RunConfig, load_config
from selma.config.experts import ExpertsConfig
from selma.config.guides import GuideSettings
from selma.config.preferences import PreferenceObjective
from selma.config.rewards import RewardedObjective
from selma.config.scores import LocalJudge, judge_name
from selma.config.section import Section
from selma.errors import ConfigError, SelmaError, SkillError, WorkspaceError
from selma.preflight import check
from selma.prompts.skills import load_skills
from selma.runfile import write_run_file
from selma.workspace import Workspace

CONFIGS = Path(__file__).parent.parent / "configs"


def config_file(folder: Path, text: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(text, "utf-8")
    return path


BROKEN = {
    "imagess: {steps: 1}": "imagess: is not a setting",
    "images: {stepps: 1}": "images.stepps: is not a setting",
    "images: {steps: 0}": "images.steps",
    "images: {steps: -5}": "images.steps",
    "images: {steps: many}": "images.steps",
    "images: {steps: yes}": "images.steps: must not be true or false (came: True)",
    "images: {steps: 1.5}": "images.steps",
    "images: {guidance: .nan}": "images.guidance",
    "images: {guidance: .inf}": "images.guidance",
    "images: [1]": "images",
    "images: null": "images",
    "seed: -1": "seed",
    "seed: true": "seed: must not be true or false (came: True)",
    "name: ../else": "name",
    "name: ''": "name",
    "name: 7": "name",
    "base: {device: tpu}": "base.device",
    "base: {precision: int8}": "base.precision",
    "prompts: {skills: []}": "prompts.skills",
    "prompts: {skills: [coco, coco]}": "prompts.skills",
    "prompts: {skills: coco}": "prompts.skills",
    "prompts: {per_skill: 0}": "prompts.per_skill",
    "prompts: {backend: {kind: cloud}}": "prompts.backend: kind must be local or openai, but is",
    "prompts: {backend: {model: smollm2}}": "prompts.backend: needs `kind`",
    "prompts: {backend: {kind: openai}}": "prompts.backend.model",
    "prompts: {backend: {kind: openai, model: m, api_key: k}}": "api_key: is not a setting",
    "prompts: {novelty: {threshold: 1.1}}": "prompts.novelty.threshold",
    "prompts: {temperature: -1}": "prompts.temperature",
    "experts: {objective: {kind: [nft]}}": "experts.objective: needs `kind`",
    "experts: {objective: {kind: {a: 1}}}": "experts.objective: needs `kind`",
    "experts: {objective: {kind: dpo, preset: [x]}}": "experts.objective.preset",
    "experts: {objective: {kind: nft, preset: {a: 1}}}": "preset: is not a setting",
    "experts: {objective: {kind: nft, also: [{scorer: toybox, weight: 1.0e+308}]}}": "weight",
    "experts: {adapter: {kind: magic}}": "experts.adapter: kind must be lora or oft or coft, but",
    "images: {source: {kind: file}}": "kind must be own or imagefolder or toybox, but is 'file'",
    "experts: {adapter: {rank: 0}}": "experts.adapter",
    "experts: {adapter: {kind: oft, rank: 4}}": "rank: is not a setting",
    "experts: {adapter: {kind: oft, eps: 0.1}}": "eps: is not a setting",
    "experts: {adapter: {kind: oft, blocks: 4, block_size: 8}}": "blocks and block_size",
    "experts: {adapter: {kind: oft, block_size: 1}}": "block_size",
    "experts: {adapter: {kind: coft, eps: 0}}": "eps",
    "experts: {adapter: {kind: coft, radius: operator}}": "radius",
    "experts: {batch_size: 10, micro_batch_size: 4}": "micro_batch_size must divide batch_size",
    "experts: {min_timestep: 500, max_timestep: 500}": "min_timestep must be below max_timestep",
    "experts: {learning_rate: 0}": "experts.learning_rate",
    "experts: {betas: [0.9]}": "experts.betas",
    "experts: {schedule: random}": "experts.schedule",
    "merged: {weights: {coco: .nan}}": "merged.weights.coco",
    "merged: {method: ties, scale: 1, lambda: 1}": "two names of one setting",
    "images: {choose: {threshold: 0.8}}": "images.choose: threshold is of questions, but there",
    "images: {choose: {fewest_pairs: 2}}": "fewest_pairs is of questions or score_threshold, but",
    "images: {choose: {score_threshold: yes}}": "choose.score_threshold: must not be true or false",
    "images: {choose: {score_threshold: .nan}}": "images.choose.score_threshold",
    "images: {steps: yes, guidance: yes}": "has 2 mistakes",
    "scores: {experts: {coco: yes}}": "scores.experts: Input should be a valid boolean (came: a m",
    "merged: {method: ties, lambda: yes}": "merged.scale: must not be true or false",
    "scores: {judge: blip-vqa, choosing_judge: {kind: transformers, "
    "model: salesforce/BLIP-vqa-capfilt-large}}": "judge and choosing_judge must differ",
    "scores: {judge: toybox-b}": "judge and choosing_judge must differ",
    "scores: {judge: gpt}": "scores.judge",
    "scores: {judge: {kind: cloud, model: m}}": "must be toybox-a, toybox-b, toybox-regions, qwen3",
    "scores: {judge: {model: m}}": "scores.judge: must be toybox-a, toybox-b, toybox-regions, ",
    "scores: {judge: 7}": "scores.judge: must be toybox-a, toybox-b, toybox-regions, ",
    "scores: {judge: {kind: transformers, model: m, beem: 2}}": "scores.judge.beem: is not a",
    "scores: {judge: {kind: openai}}": "scores.judge.model",
    "scores: {judge: {kind: openai, model: m, api_key: k}}": "api_key: is not a setting",
    "scores: {judge: {kind: transformers, model: o/m}, choosing_judge: {kind: transformers, "
    "model: o/m, prompt: bare}}": "judge and choosing_judge must differ, but both are 'o/m'",
    "scores: {split: train}": "scores.split",
    "scores: {preferences: [{kind: hps, model: a/b}]}": "scores.preferences.0.kind",
    "scores: {preferences: [{kind: clip}]}": "scores.preferences.0.model",
    "scores: {preferences: [{kind: clip, model: a/b}, {kind: clip, model: c/d}]}": "label each",
    "scores: {preferences: [{kind: clip, model: a/b, label: ../c}]}": "preferences.0.label",
    "scores: {chosen_by: [pickscore]}": "chosen_by must name scorers that are reported",
    "scores: {resamples: 0}": "scores.resamples",
    "name: a\nname: b": "the key 'name' is given twice",
    "images: {steps: 1, steps: 2}": "the key 'steps' is given twice",
    "- a": "must be a mapping of settings, but has a list",
    "": "must be a mapping of settings, but has nothing",
    "{": "is not valid YAML",
    "a: !!python/object/apply:os.system [true]": "is not valid YAML",
    "\0": "is not valid YAML",
    "1: 2": "some.yaml has 1 mistake",
}


@pytest.mark.parametrize(("text", "says"), BROKEN.items(), ids=BROKEN)
def test_a_broken_config_says_which_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(config_file(tmp_path, text))
    assert says in str(caught.value)


def test_what_is_wrong_with_a_section_is_said_without_all_of_it(tmp_path: Path) -> None:
    text = "base: {model: m.bin, precision: fp16}\nprompts: {backend: {kind: openai}}"
    with pytest.raises(ConfigError, match=r"convert it\n.*model: Field required$") as caught:
        load_config(config_file(tmp_path, text))
    assert "came" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key", "module"),
    [
        ("images: {stepps: 1}", "images.stepps", "selma.config.images"),
        ("imagess: 1\nsur: {}", "imagess", "selma.config"),
        ("sur: {losses: {teacher: {wait: 1}}}", "teacher.wait", "selma.applications.sur.settings"),
        ("sur: {llm: {backend: {modl: m}}}", "sur.llm.backend.modl", "selma.config.networks"),
        ("control: {source: 1}", "control.source", "selma.applications.control.settings"),
        ("control: {network: {kind: branch, adapter: {kind: oft, x: 1}}}",
         "control.network.adapter.x", "selma.config.adapters"),
        ("subjects: {training: {x: 1}}", "training.x", "selma.applications.subjects.settings"),
    ],
)  # fmt: skip
def test_an_unknown_setting_leads_to_those_that_there_are(
    tmp_path: Path, text: str, key: str, module: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_any(config_file(tmp_path, text))
    assert f"{key}: is not a setting; see {module} for those that are" in str(caught.value)
    assert import_module(module)


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    text = "seed: -1\nimages: {steps: 0, colour: red}\nexperts: {batch_size: no}"
    with pytest.raises(ConfigError, match="has 4 mistake") as caught:
        load_config(config_file(tmp_path, text))
    for key in ("seed", "images.steps", "images.colour", "batch_size"):
        assert key in str(caught.value)


@pytest.mark.parametrize("what", ["missing", "folder", "bytes"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "some.yaml"
    if what == "folder":
        path.mkdir()
    if what == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot be read|but is a folder"):
        load_config(path)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(list(RunConfig.model_fields)) | st.text(), inner)
        ),
        max_leaves=12,
    )
)
def test_no_yaml_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, raw: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(raw), "utf-8")
    try:
        assert isinstance(load_config(path), RunConfig)
    except ConfigError as error:
        assert str(path) in str(error)


def test_defaults_are_the_papers() -> None:
    config = RunConfig(name="paper")
    assert config.prompts.per_skill == 1000 and config.prompts.examples == 3
    assert config.prompts.novelty.threshold == 0.8
    assert (config.images.steps, config.images.guidance) == (50, 7.5)
    experts = config.experts
    assert experts.adapter.rank == 128 and experts.learning_rate == 3e-4
    assert (experts.batch_size, experts.steps) == (64, 5000)
    assert len(config.prompts.skills) == 5


COME_ALONG = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("bases/*.yaml")])


@pytest.mark.parametrize("path", COME_ALONG, ids=lambda path: path.stem)
def test_the_configs_that_come_along_are_sound(path: Path) -> None:
    config = load_any(path)
    assert config.name == path.stem
    names = [Path(entry).stem for entry in config.prompts.skills]
    assert [skill.name for skill in load_skills(config.prompts.skills)] == names
    for row in APPLICATIONS.values():
        if row.settings is not None:
            assert load_any(path, imported(row.settings)).name == path.stem


def test_paths_start_from_the_configs_folder(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    text = (
        "base: {model: base}\n"
        "prompts: {skills: [coco, mine.yaml], lexicon: words.txt}\n"
        "scores: {benchmark: exam.csv, judge: {kind: transformers, model: base}}"
    )
    config = load_config(config_file(tmp_path, text))
    assert config.base.model == str(tmp_path / "base")
    assert config.prompts.skills == ("coco", str(tmp_path / "mine.yaml"))
    assert config.prompts.lexicon == str(tmp_path / "words.txt")
    assert config.scores.benchmark == str(tmp_path / "exam.csv")
    assert judge_name(config.scores.judge) == "base"
    assert config.scores.judge == LocalJudge(model=str(tmp_path / "base"))


def test_hub_ids_and_names_are_no_paths(tmp_path: Path) -> None:
    config = load_config(config_file(tmp_path, "base: {model: owner/name}"))
    assert config.base.model == "owner/name"
    assert config.scores.benchmark == "toybox"
    assert load_config(config_file(tmp_path, "seed: 1")).base.model == "toybox"


# What only a look at the machine can tell


def mistakes(tmp_path: Path, text: str) -> str:
    config = load_config(config_file(tmp_path, text))
    config = config.model_copy(update={"folder": config.folder or tmp_path / "run"})
    with pytest.raises(ConfigError) as caught:
        check(config)
    return str(caught.value)


IMPOSSIBLE = {
    "base: {model: nowhere}": "base.model: must be",
    "base: {model: ./no/such/folder}": "base.model: must be",
    "base: {model: .}": "has no model_index.json",
    "base: {revision: abc}": "base.revision: belongs to a Hub repository",
    "prompts: {skills: [cocoa]}": "Did you mean 'coco'",
    "prompts: {skills: [gone.yaml]}": "gone.yaml",
    "prompts: {backend: {kind: local, model: nowhere}}": "prompts.backend.model: must be",
    "prompts: {backend: {kind: openai, model: m, key_variable: SELMA_NO_KEY}}": "SELMA_NO_KEY",
    "prompts: {lexicon: gone.txt}": "prompts.lexicon",
    "prompts: {lexicon: toybox, backend: {kind: openai, model: m}}": "only a local model",
    "prompts: {skills: [coco]}\nmerged: {weights: {dogs: 1}}": "'dogs' is not among",
    "prompts: {skills: [coco, whoops]}\nmerged: {weights: {coco: 1}}": "'whoops' has no weight",
    "merged: {method: product, rescale: true}": "product has no rescale",
    "merged: {method: mean_of_logs, density: 0.2}": "mean_of_logs has no density",
    "merged: {method: median}": "merged.method: must be a merge method (mean_of_deltas, ",
    "merged: {method: mean_of_deltas, rank: 4}": "has no rank, but sum_of_deltas, svd",
    "merged: {method: svd, density: 0.5}": "svd has no density",
    "merged: {method: svd, rank: 4, max_error: 0.1}": "rank and max_error",
    "merged: {method: knots, consensus: mean, normalize: yes}": "consensus is mean",
    "merged: {method: ties, densty: 0.1}": "ties has no densty, it has rank, ",
    "merged: {method: ties, density: 2}": "merged.density: Input should be less than or equal",
    "scores: {benchmark: gone.csv}": "scores.benchmark: must be",
    "scores: {benchmark: some.yaml}": "scores.benchmark",
    "scores: {prompts: 321}": "  scores.prompts must be at most 320, as many as there are, bu",
    "scores: {prompts: 65, groups: [coco]}": "must be at most 64, as many as there are in scores.g",
    "scores: {groups: [cocoa]}": "  scores.groups must name groups of the benchmark",
    "scores: {benchmark: some.yaml}\nexperts: {select: dev}": "no dev prompts",
    "scores: {judge: {kind: transformers, model: nowhere}}": "scores.judge.model: must be a folder",
    "scores: {judge: {kind: transformers, model: .}}": "has no readable config.json",
    "scores: {judge: {kind: transformers, model: damo/mplug_vqa}}": "only in modelscope",
    "scores: {judge: {kind: transformers, model: o/m, prompt: loud}}": "judge.prompt: must be",
    "scores: {judge: {kind: openai, model: m, key_variable: SELMA_NO_KEY}}": "SELMA_NO_KEY",
    "scores: {choosing_judge: {kind: openai, model: m, base_url: u, prompt: loud}}": "judge.prompt",
    "experts: {batch_size: 4}\nmerged: {mixture: {micro_batch_size: 3}}": "it: micro_batch_size",
    "scores: {vqascore: loud}": "scores.vqascore: must be one of plain, vqascore",
    "folder: /dev/null/run": "must be a folder, but is a file",
}


@pytest.mark.parametrize(("text", "says"), IMPOSSIBLE.items(), ids=IMPOSSIBLE)
def test_check_finds_what_cannot_start(tmp_path: Path, text: str, says: str) -> None:
    assert says in mistakes(tmp_path, text)


def test_a_server_that_is_named_may_need_no_key(tmp_path: Path) -> None:
    server = (
        "{kind: openai, model: m, base_url: 'http://localhost:1/v1', key_variable: NO_SUCH_KEY}"
    )
    text = f"prompts: {{backend: {server}}}\nscores: {{judge: {server}}}"
    config = load_config(config_file(tmp_path, text))
    check(config.model_copy(update={"folder": tmp_path / "run"}))


def test_check_lists_everything_at_once(tmp_path: Path) -> None:
    said = mistakes(
        tmp_path,
        "base: {model: x}\nprompts: {skills: [y]}\nscores: {benchmark: z}\n"
        "merged: {method: ties, density: 2, normalize: 7, colour: red}",
    )
    assert all(key in said for key in ("base.model", "prompts.skills", "scores.benchmark"))
    assert all(f"merged.{key}: " in said for key in ("density", "normalize", "colour"))


@pytest.mark.parametrize("kind", ["oft", "coft"])
def test_rotations_of_a_single_files_layers_are_checked(tmp_path: Path, kind: str) -> None:
    (tmp_path / "base.safetensors").write_bytes(b"")
    text = "base: {model: base.safetensors, config: toybox}\n"
    said = mistakes(tmp_path, text + f"experts: {{adapter: {{kind: {kind}, blocks: 7}}}}")
    assert "experts.adapter.blocks must divide" in said and "but 7 and 128 came" in said


SKILL = {"name": "mine", "description": "d", "seeds": ["a a", "b b", "c c"], "max_words": 5}
BAD_SKILLS: dict[str, object] = {
    "no name": {key: value for key, value in SKILL.items() if key != "name"},
    "path for a name": SKILL | {"name": "../mine"},
    "capital name": SKILL | {"name": "Mine"},
    "two seeds": SKILL | {"seeds": ["a", "b"]},
    "equal seeds": SKILL | {"seeds": ["a", "a", "b"]},
    "seed of two lines": SKILL | {"seeds": ["a\nb", "b", "c"]},
    "blank seed": SKILL | {"seeds": ["", "b", "c"]},
    "seed over the limit": SKILL | {"max_words": 1},
    "seed over the count": SKILL | {"seeds": ["four a", "b", "c"], "max_count": 3},
    "unknown key": SKILL | {"colour": "red"},
    "zero words": SKILL | {"max_words": 0},
    "terms outside": SKILL | {"terms": "../some.lark"},
    "terms missing": SKILL | {"terms": "gone.lark"},
    "a list": [SKILL],
    "a text": "mine",
    "nothing": None,
}


@pytest.mark.parametrize("raw", BAD_SKILLS.values(), ids=BAD_SKILLS)
def test_a_broken_skill_is_one_error(tmp_path: Path, raw: object) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw), "utf-8")
    with pytest.raises(SkillError, match=r"mine\.yaml|gone\.lark"):
        load_skills([str(path)])


@pytest.mark.parametrize("name", ["base", "merged"])
def test_no_skill_is_named_like_a_model(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SKILL | {"name": name}), "utf-8")
    assert f"no skill may be named {name!r}" in mistakes(tmp_path, "prompts: {skills: [mine.yaml]}")


# run.json


def test_run_file_gives_the_settings_back(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SKILL), "utf-8")
    config = load_config(config_file(tmp_path, "prompts: {skills: [mine.yaml]}\nseed: 3"))
    root = tmp_path / "runs" / "one"
    root.mkdir(parents=True)
    write_run_file(config, Workspace(root))
    back = read_run_file(root)
    assert back.seed == 3 and back.folder == root
    assert [skill.name for skill in load_skills(back.prompts.skills)] == ["mine"]
    assert str(tmp_path) not in (root / "run.json").read_text()


def test_run_file_holds_no_password(tmp_path: Path) -> None:
    backend = {"kind": "openai", "model": "m", "base_url": "http://me:secret@host/v1?key=hidden"}
    settings = {"name": "one", "prompts": {"backend": backend}, "scores": {"judge": backend}}
    config = RunConfig.model_validate(settings)
    write_run_file(config, Workspace(tmp_path))
    text = (tmp_path / "run.json").read_text()
    assert text.count('"http://host/v1"') == 2
    assert "secret" not in text and "hidden" not in text


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 1}', '{"settings": {"x": 1}}'])
def test_a_broken_run_file_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(SelmaError, match=r"run\.json"):
        read_run_file(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="must be the folder of a run"):
        read_run_file(tmp_path)


def test_run_file_holds_no_times(tmp_path: Path) -> None:
    write_run_file(RunConfig(name="one"), Workspace(tmp_path))
    first = (tmp_path / "run.json").read_bytes()
    (tmp_path / "run.json").unlink()
    write_run_file(RunConfig(name="one"), Workspace(tmp_path))
    assert (tmp_path / "run.json").read_bytes() == first
    assert set(json.loads(first)) == {"settings", "versions"}


def test_preference_scorers_are_looked_for_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "pick").mkdir()
    text = (
        "scores:\n  preferences:\n    - {kind: pickscore, model: pick, tokenizer: some/words}\n"
        "    - {kind: clip, model: openai/clip, label: large}\n  chosen_by: [large]\n"
    )
    config = load_config(config_file(tmp_path, text))
    first, second = config.scores.preferences
    assert first.model == str(tmp_path / "pick") and first.tokenizer == "some/words"
    assert (second.model, second.key, first.key) == ("openai/clip", "large", "pickscore")
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert "preferences, pickscore" in str(caught.value)
    assert "selma score convert" in str(caught.value) and "large" not in str(caught.value)


@pytest.mark.parametrize("section", [GuideSettings, PreferenceObjective, RewardedObjective])
def test_what_kinds_have_in_common_says_what_a_kind_is(section: type[Section]) -> None:
    source = inspect.getsource(section)
    for name in section.__annotations__:
        if name == "kind":
            assert re.search(r'    kind: str\n    """The name of a row of `\S+`\."""\n', source)


@pytest.mark.parametrize(
    ("objective", "more", "batches"),
    [
        ({"kind": "nft"}, {}, (48 * 24, 64)),
        ({"kind": "nft", "updates_per_round": 4}, {}, (48 * 24 // 4, 48)),
        ({"kind": "ddpo", "updates_per_round": 2}, {}, (32 * 8 * 50 // 2, 64)),
        ({"kind": "dpok"}, {}, (6 * 50 // 5, None)),
        ({"kind": "nft"}, {"micro_batch_size": 100}, (1100, 100)),
        ({"kind": "nft"}, {"batch_size": 32}, (32, None)),
        ({"kind": "denoising"}, {}, (64, None)),
    ],
)
def test_a_batch_that_is_not_set_takes_all_of_a_round(
    objective: dict[str, object], more: dict[str, object], batches: tuple[int, int | None]
) -> None:
    if objective["kind"] != "denoising":
        objective = objective | {"reward": "toybox"}
    read = ExpertsConfig.model_validate({"objective": objective} | more)
    made = ExpertsConfig.model_validate({"objective": read.objective} | more)
    for experts in (read, made):
        assert (experts.batch_size, experts.micro_batch_size) == batches


def test_a_wrong_objective_is_told_without_a_batch() -> None:
    with pytest.raises(ValidationError, match="images_per_prompt"):
        ExpertsConfig.model_validate({"objective": {"kind": "nft", "images_per_prompt": 1}})
