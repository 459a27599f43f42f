"""Every mistake that can be found before a model library is loaded, all of them at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selma.adapters.contents import tensor_files
from selma.backbones import quantizing, speed
from selma.backbones.base_files import (
    base_family,
    local_denoiser,
    part_config,
    require_single_file,
    says_distilled,
    target_widths,
)
from selma.backbones.bases import BASES, located, rescale_of
from selma.backbones.families import FAMILIES
from selma.backbones.families.family import Family
from selma.backbones.hub import HUB_ID
from selma.backbones.image_servers import DIALECTS
from selma.backbones.language.loading import LANGUAGE_MODELS
from selma.backbones.published import published_configs
from selma.backbones.server_address import Address as ServerAddress
from selma.config import NO_WEIGHTS, RunConfig
from selma.config.adapters import LoraConfig, RotationConfig
from selma.config.experts import JOINT, TrainingConfig
from selma.config.images import BY_TOYBOX
from selma.config.merged import MixtureConfig
from selma.config.networks import AnyBase, AnyLLM, BaseConfig, ServedBase
from selma.config.places import (
    Address,
    File,
    FileOrFolder,
    Folder,
    Key,
    Model,
    Place,
    Placed,
    placed,
)
from selma.config.preferences import NO_ANSWERS, NO_CANDIDATES, PreferenceObjective
from selma.config.questions import WrittenQuestions
from selma.config.scores import ScorerSettings, ScoresConfig, judge_name
from selma.config.section import Section, mistake
from selma.disk import impossible
from selma.errors import ConfigError, ModelError, SelmaError, SkillError
from selma.plurals import counted
from selma.records.benchmarks import BenchmarkPrompt
from selma.records.merged import UNIFORM
from selma.toybox import BASES as EMBEDDED
from selma.toybox import weights_folder, weights_of
from selma.workspace import EXPERTS, IMAGES, MERGED, PROMPTS, SCORES, STAGES

_PLACES = "a short name (`selma bases`), a diffusers folder or a Hub id (owner/name)"


def check(config: RunConfig, make: Sequence[str] = STAGES, mistakes: Iterable[str] = ()) -> None:
    """Look whether the stages in `make` can start. `mistakes` are those that an application finds
    in its own settings. Raises one ConfigError that lists every mistake."""
    everything = list(dict.fromkeys([*every_mistake(config, make), *mistakes]))
    if everything:
        lines = "\n".join(f"  {mistake}" for mistake in everything)
        raise ConfigError(
            f"{config.name} cannot start, for {counted(len(everything), 'mistake')}:\n{lines}"
        )


def every_mistake(config: RunConfig, make: Sequence[str]) -> Iterator[str]:
    """What keeps the stages in `make` from starting."""
    if never := list(_impossible(config)):
        yield from never  # looking at such a path would fail, or never end
        return
    yield from _addresses(config)
    for look in (_folder, _bases, _skills, _lexicon, _blocks, _benchmark):
        yield from look(config)
    yield from _given(config, make)
    yield from _merging(config, make)
    # Skills, the base and the benchmark say more of themselves than that they are missing.
    yield from absent(config.base, "base", without=["model", "config"])
    prompts, writes = config.prompts, PROMPTS in make and not config.prompts.given
    unasked = ["source", *([] if writes else ["backend"])]
    yield from absent(prompts, "prompts", without=["skills", *unasked])
    if writes:
        yield from language_mistakes(prompts.backend, "prompts.backend")
    unasked = ["source", "base.model", "base.config"]  # of which _given and _bases say more
    unasked += [] if PROMPTS in make else ["choose.questions.backend"]
    if IMAGES in make:
        yield from absent(config.images, "images", without=unasked)
        yield from _adapter(config.images.adapter)
    elif PROMPTS in make:
        yield from absent(
            config.images, "images", without=["source", "base", "adapter", "choose.scorer"]
        )
    yield from _fewest_pairs(config)
    yield from _questions(config, make)
    if EXPERTS in make and config.rewarded is not None:
        yield from absent(config.rewarded, "experts.objective", without=["questions.backend"])
    if EXPERTS in make:
        yield from _distilled(config)
        yield from _training(config)
        yield from _rewards(config)
    yield from _preferences(config)
    if SCORES in make or asks_choosing_judge(config, make):
        yield from _networks(config)


def asks_choosing_judge(config: RunConfig, make: Sequence[str]) -> bool:
    """Whether the choosing judge has a say in what the stages in `make` leave."""
    merged, rewarded = config.merged, config.rewarded
    images = config.images.questions is not None
    experts = config.experts.select == "dev" or (rewarded is not None and rewarded.asks_judge)
    mixes = merged.mixture is not None and merged.mixture.selects(config.experts)
    asks = {IMAGES: images, EXPERTS: images or experts, MERGED: mixes or merged.search is not None}
    return any(asks.get(stage, False) for stage in make)


def _impossible(config: RunConfig) -> Iterator[str]:
    """Paths in the settings by which there can be nothing."""
    paths = [s for s in placed(config) if isinstance(s.names, File | Folder | FileOrFolder | Model)]
    for key, value in [("folder", str(config.folder)), *((s.key, s.value) for s in paths)]:
        if why := impossible(str(Path(value).expanduser()) if "\0" not in value else value):
            yield f"{key}: {value!r:.80} cannot be used: {why}."


def _addresses(config: RunConfig) -> Iterator[str]:
    """Servers' addresses that are none; what came may be private."""
    for setting in placed(config):
        if isinstance(setting.names, Address):
            try:
                ServerAddress.of(setting.value)
            except ValueError:
                yield f"{setting.key}: must be a server's address, as http://127.0.0.1:8080/v1."


def _folder(config: RunConfig) -> Iterator[str]:
    # Whether it can be written into is told by the lock: to check is to write nothing.
    folder = config.run_folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        yield f"folder: {existing} must be a folder, but is a file."


def weightless(config: RunConfig) -> Iterator[str]:
    """Of a base on a server, where its weights are needed."""
    if not isinstance(config.base, BaseConfig):
        yield f"base: {NO_WEIGHTS}"


def _distilled(config: RunConfig) -> Iterator[str]:
    """What training would spoil: a base that was distilled to few steps."""
    yield from weightless(config)
    base, name = config.base, config.base.model
    if not isinstance(base, BaseConfig):
        return
    row = BASES.get(name)
    if row is not None and row.undistilled is not None:
        instead = row.undistilled
    elif says_distilled(base):
        instead = "the base that it was distilled from"
    else:
        return
    yield (
        f"base.model: {name} was distilled to few steps, which training would undo. Train "
        f"{instead}, whose adapters it generates with as well (selma generate --base)."
    )


def _at_hand(base: BaseConfig) -> tuple[Family, dict[str, Any]] | None:
    """The base's family and its networks' configs, as far as they are known without the Hub."""
    row = BASES.get(base.model)
    if row is not None and row.repository is not None:
        return FAMILIES[row.architecture.family], published_configs(row)
    try:
        local = local_denoiser(base)
        vae = part_config(base, "vae") if local else None
    except ModelError:  # of which others say more
        return None
    return local and (local[0], {local[0].component: local[1], "vae": vae or {}})


def _of_the_family(base: BaseConfig, key: str) -> Iterator[str]:
    """What the base's family has not, as far as its configs are at hand."""
    if (known := _at_hand(base)) is None:
        return
    family, configs = known
    try:
        family.shape(configs[family.component], configs["vae"], base.image_px)
        family.sampling(steps=1, guidance=1.0, guidance_rescale=rescale_of(base))
    except ConfigError as error:
        yield str(error).replace("base.", f"{key}.", 1)


def _training(config: RunConfig) -> Iterator[str]:
    """What experts are to learn that the base's family has not."""
    if not isinstance(config.base, BaseConfig) or (known := _at_hand(config.base)) is None:
        return
    family, experts = known[0], config.experts
    if why := experts.untrainable(config.base.device, "base.device is"):
        yield f"experts.precision: {why}"
    weighting = "none" if experts.timesteps is None else experts.timesteps.weighting
    if weighting != "none" and family.prediction({}) != "flow":
        yield (
            f"experts.timesteps.weighting: {weighting} is for bases on straight lines to noise, "
            f"but {config.base.model} is none. Set it to none."
        )
    targets = getattr(experts.adapter, "targets", ())
    if isinstance(targets, str) and targets not in family.targets:
        yield (
            f"experts.adapter.targets: must be {' or '.join(family.targets)} for "
            f"{config.base.model}, or endings of names, but is {targets}."
        )


def _bases(config: RunConfig) -> Iterator[str]:
    for base, key in ((config.base, "base"), (config.images.base, "images.base")):
        if isinstance(base, BaseConfig):
            yield from _base(base, key)
            yield from _of_the_family(base, key)
        elif base is not None:
            yield from _served(base, key)
    drawing = config.images.base or config.base
    if config.images.adapter is not None and isinstance(drawing, ServedBase):
        yield from _sent(drawing)
    if config.images.given:  # whose captions the base's own tokenizer reads
        yield from weightless(config)


def _sent(base: ServedBase) -> Iterator[str]:
    """What keeps an adapter from being sent to a server."""
    dialect = DIALECTS.get(base.dialect)
    if dialect is not None and dialect.adapters is None:
        yield f"images.adapter: {dialect.name} takes no adapter while it runs; leave it out."
    elif base.adapter_folder is None:
        yield (
            f"{base.setting}.adapter_folder: must name a folder that the server sees by the same "
            "path, for images.adapter."
        )


def _served(base: ServedBase, key: str) -> Iterator[str]:
    """What is wrong with a base on a server, as far as no request tells it."""
    try:
        dialect = DIALECTS.find(base.dialect, setting=f"{key}.dialect")
    except ConfigError as error:
        yield str(error)
        return
    if dialect.seeds is None and base.deterministic:
        yield (
            f"{key}.deterministic: {dialect.name} takes no seed, so that no image can be made "
            "again. Set it to false, which is recorded."
        )
    if dialect.sizes and base.image_px not in dialect.sizes:
        sizes = ", ".join(map(str, dialect.sizes))
        yield f"{key}.image_px: {dialect.name} takes {sizes} alone, but {base.image_px} came."


def _base(base: BaseConfig, key: str) -> Iterator[str]:
    """What is wrong with a base that stands under this key."""
    yield from quantizing.mistakes(base, key)
    yield from speed.mistakes(base, key)
    name, model = base.model, f"{key}.model"
    if name in EMBEDDED:
        try:
            yield from _pipeline_folder(weights_of(EMBEDDED[name]), model)
        except ModelError as error:
            yield f"{model}: {error}"
    elif Path(name).is_dir():
        yield from _pipeline_folder(Path(name), model)
    elif base.config is not None:
        yield from _single_file(base, base.config, key)
    elif name not in BASES and not HUB_ID.fullmatch(name):
        yield f"{model}: must be {_PLACES}, but is {name!r}."
    if base.revision is not None and not HUB_ID.fullmatch(located(base).model):
        yield f"{key}.revision: belongs to a Hub repository, but {model} is {name!r}."


def _single_file(base: BaseConfig, configs: str, key: str) -> Iterator[str]:
    embedded = EMBEDDED.get(configs)
    folder = weights_folder() / embedded if embedded else Path(configs)
    if not Path(base.model).is_file():
        yield f"{key}.model: must be a file of weights, but {base.model} is missing."
    if folder.is_dir():
        if problems := list(_pipeline_folder(folder, f"{key}.config")):
            yield from problems
        elif Path(base.model).is_file():
            try:
                require_single_file(base)
            except SelmaError as error:
                yield f"{key}.model: {error}"
    elif configs not in BASES and not HUB_ID.fullmatch(configs):
        yield f"{key}.config: must be {_PLACES}, but is {configs!r}."


def _pipeline_folder(folder: Path, key: str) -> Iterator[str]:
    if not (folder / "model_index.json").is_file():
        yield f"{key}: {folder} must be a diffusers folder, but has no model_index.json."
        return
    try:
        base_family(BaseConfig(model=str(folder)))
    except SelmaError as error:
        yield f"{key}: {error}"


def _skills(config: RunConfig) -> Iterator[str]:
    from selma.prompts.skills import skill_names

    names, joint = [], config.experts.joint is not None
    for entry in config.prompts.skills:
        try:
            names += skill_names([entry], given=config.prompts.given)
        except SelmaError as error:
            yield f"prompts.skills: {error}"
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"prompts.skills: two skills are both named {name!r}; rename one."
    yield from taken_names({"base", "merged", UNIFORM} | ({JOINT} if joint else set()), names)
    if config.merged.weights is not None and len(names) == len(config.prompts.skills):
        experts = {JOINT} if joint else set(names)
        for name in sorted(set(config.merged.weights) ^ experts):
            which = "is not among the experts" if joint else "is not among prompts.skills"
            which = which if name not in experts else "has no weight"
            yield f"merged.weights: {name!r} {which}; each skill needs one weight."


def _given(config: RunConfig, make: Sequence[str]) -> Iterator[str]:
    """Of prompts and images that are given, where a look at their files tells."""
    from selma.given import GIVEN
    from selma.prompts.skills import skill_names

    prompts, images = config.prompts, config.images
    looks = {"prompts.source": prompts.source} if prompts.given and PROMPTS in make else {}
    if images.given and IMAGES in make:
        if prompts.given and images.source != prompts.source:
            looks |= {"images.source": images.source}
        if GIVEN.find(images.source.kind, setting="images.source").images is None:
            yield f"images.source: {images.source.kind} has prompts, but no images of them."
        if images.source.kind == "imagefolder" and not prompts.given:
            yield (
                "prompts.source: given images have captions of their own; set it to the same as "
                "images.source."
            )
    for key, source in looks.items():
        try:
            names = skill_names(prompts.skills, given=prompts.given)
            GIVEN.find(source.kind, setting=key).texts(source, names, seed=config.seed)
        except SkillError:
            return  # told with the skills
        except SelmaError as error:
            yield f"{key}: {error}"


def taken_names(taken: Set[str], names: Iterable[str]) -> Iterator[str]:
    """Skills that are named as one of the models is, by whose name images and scores are kept."""
    for name in sorted(taken & set(names)):
        yield f"prompts.skills: no skill may be named {name!r}, as one of the models is."


def absent(section: Section, key: str, *, without: Collection[str] = ()) -> Iterator[str]:
    """Files, folders, models and keys that a section's settings name and that are not there.

    key: where the section stands.  without: parts of it that nobody asks for.
    """
    settings = placed(section)
    # A server that is named may need no key; if it does, it says so itself.
    named = {s.key.rpartition(".")[0] for s in settings if isinstance(s.names, Address)}
    for setting in settings:
        if isinstance(setting.names, Key) and setting.key.rpartition(".")[0] in named:
            continue
        if not any(f"{setting.key}.".startswith(f"{part}.") for part in without):
            for problem in _absence(setting):
                yield f"{key}.{setting.key}: {problem}"


def _absence(setting: Placed) -> Iterator[str]:
    value, names = setting.value, setting.names
    path = Path(value)
    file = not names.endings or value.endswith(names.endings)
    if isinstance(names, Key):
        if not os.environ.get(value):
            yield (
                f"the environment variable {value} must hold the key of OpenAI's server, but is "
                "not set. Set it, or name another server in base_url."
            )
    elif isinstance(names, File) and file and not path.is_file():
        came = "a folder" if path.is_dir() else "missing"
        yield f"must be {_or_word(names)}a file, but {value} is {came}."
    elif isinstance(names, Folder) and not path.is_dir():
        came = "a file" if path.exists() else "missing"
        yield f"must be {_or_word(names)}a folder, but {value} is {came}."
    elif isinstance(names, FileOrFolder) and not path.exists():
        yield f"must be {_or_word(names)}a file or folder, but {value} is missing."
    elif isinstance(names, Model) and not path.is_dir() and not HUB_ID.fullmatch(value):
        yield f"must be {_or_word(names)}a folder or a Hub id (owner/name), but is {value!r}."


def _or_word(names: Place) -> str:
    return f"{', '.join(names.words)} or " if names.words else ""


def language_mistakes(backend: AnyLLM, key: str) -> Iterator[str]:
    """What a language model needs beside what its settings name."""
    yield from LANGUAGE_MODELS[backend.kind].mistakes(backend, key)


def _lexicon(config: RunConfig) -> Iterator[str]:
    backend = LANGUAGE_MODELS[config.prompts.backend.kind]
    if config.prompts.given:
        return
    if config.prompts.lexicon is not None and not backend.takes_grammar:
        yield "prompts.lexicon: only a local model can be held to a lexicon; leave it out."
    if config.prompts.quality == "likelihood" and not backend.gives_likelihoods:
        yield "prompts.quality: likelihood needs a local model; set it to question, or to null."


def _adapter(adapter: str | None) -> Iterator[str]:
    if adapter is not None and Path(adapter).exists():
        try:
            tensor_files(Path(adapter))
        except SelmaError as error:
            yield f"images.adapter: {error}"


def _questions(config: RunConfig, make: Sequence[str]) -> Iterator[str]:
    from selma.scores.benchmarks import read_benchmark

    source = config.questions
    key = "images.choose" if config.images.questions is not None else "experts.objective"
    key += ".questions"
    if source in BY_TOYBOX and not config.prompts.given:
        yield from _readable_by_toybox(config, key)
    elif isinstance(source, WrittenQuestions):
        if PROMPTS in make:
            yield from language_mistakes(source.backend, f"{key}.backend")
    elif source is not None and Path(source).is_file():
        try:
            asked = read_benchmark(Path(source))
        except SelmaError as error:
            yield f"{key}: {error}"
            return
        if not any(prompt.questions for prompt in asked):
            yield (
                f"{key}: {source} has no questions. Let a language model write them: "
                f"selma questions {source} --out FILE.csv."
            )
        yield from _choices(asked, config.scores, {"choosing_judge": "scores.choosing_judge"})


def _rewards(config: RunConfig) -> Iterator[str]:
    if config.rewarded is not None and getattr(config.base, "offload", False):
        yield (
            "base.offload: moves the autoencoder away while experts are trained, but "
            f"{config.rewarded.kind} generates images between its steps; set it to false."
        )


def _preferences(config: RunConfig) -> Iterator[str]:
    """Of objectives that learn from preferences: what there must be to prefer one by."""
    objective, choose = config.experts.objective, config.images.choose
    if isinstance(objective, PreferenceObjective):
        if choose is None:
            yield f"experts.objective: {objective.kind} {NO_CANDIDATES}"
        elif objective.pairs.by == "answers" and choose.questions is None:
            yield f"experts.objective: {NO_ANSWERS}"


def _fewest_pairs(config: RunConfig) -> Iterator[str]:
    """Of thresholds that could never leave as many pairs as a skill needs."""
    choose = config.images.choose
    most = config.prompts.per_skill * config.images.per_prompt
    if choose is not None and choose.drops and choose.fewest_pairs > most:
        yield (
            f"images.choose.fewest_pairs: a skill has at most {counted(most, 'pair')} "
            "(prompts.per_skill times images.per_prompt), but needs "
            f"{choose.fewest_pairs}; lower it, or raise prompts.per_skill."
        )


def _readable_by_toybox(config: RunConfig, key: str) -> Iterator[str]:
    """Prompts that are not to be captions of toybox, whose questions it could tell."""
    from selma.prompts.questions.sources import toybox_reads
    from selma.prompts.skills import load_skills

    advice = "let a language model write the questions"
    if (
        config.prompts.lexicon is None
        and LANGUAGE_MODELS[config.prompts.backend.kind].takes_grammar
    ):
        yield (
            f"{key}: toybox reads only captions of its own words, but prompts.lexicon is null; set "
            f"that to toybox, or {advice}."
        )
    for entry in config.prompts.skills:
        try:
            (skill,) = load_skills([entry])
        except SelmaError:
            continue  # the skills' own mistakes are told already
        if not any(toybox_reads(seed) for seed in skill.seeds):
            yield (
                f"{key}: toybox reads only captions of its own words, but none of the seeds of "
                f"{skill.name!r} is one; choose a skill of toybox, or {advice}."
            )


def _merging(config: RunConfig, make: Sequence[str]) -> Iterator[str]:
    from selma.merged.methods import METHODS
    from selma.merged.planning import setting_mistakes

    merged, adapter = config.merged, config.experts.adapter
    if merged.mixture is not None:
        yield from _mixing(config, merged.mixture)
        return
    yield from setting_mistakes(merged.method, merged.method_settings)
    if adapter.merge_space is None:
        if MERGED in make:
            yield (
                f"experts.adapter: experts of the kind {adapter.kind} cannot be merged: "
                f"{adapter.unmergeable}."
            )
        return
    if merged.method not in METHODS:
        return
    rotates = adapter.merge_space == "rotations"
    if rotates != METHODS[merged.method].rotates:
        fitting = ", ".join(row.name for row in METHODS.values() if row.rotates == rotates)
        yield (
            f"merged.method: {merged.method} does not merge experts of the kind {adapter.kind}; "
            f"{fitting} do."
        )


def _mixing(config: RunConfig, mixture: MixtureConfig) -> Iterator[str]:
    adapter = config.experts.adapter
    if config.experts.joint is not None:
        yield "merged.mixture: one joint expert cannot be mixed; leave experts.joint out."
    if not isinstance(adapter, LoraConfig):
        yield (
            f"merged.mixture: a mixture is made of low-rank experts, but they are of the kind "
            f"{adapter.kind}. Set experts.adapter to lora, or leave the mixture out."
        )
    try:
        mixture.training(config.experts)
    except ValidationError as error:
        for wrong in error.errors(include_url=False):
            told = mistake(wrong, TrainingConfig).strip().removeprefix("config: ")
            yield f"merged.mixture: with what experts says beside it: {told}"


def _blocks(config: RunConfig) -> Iterator[str]:
    """Of rotations whose blocks would not fill a layer, where the model's folder tells widths."""
    yield from block_mistakes(config.experts.adapter, config.base)


def block_mistakes(adapter: Section | None, base: AnyBase) -> Iterator[str]:
    """Layers of the base that an adapter's blocks would not fill; none for other adapters."""
    if isinstance(adapter, RotationConfig) and isinstance(base, BaseConfig):
        for width in sorted(target_widths(base)):
            try:
                adapter.blocks_of(width)
            except ConfigError as error:
                yield str(error)


def _benchmark(config: RunConfig) -> Iterator[str]:
    scores = config.scores
    judges = {"judge": "scores.judge", "choosing_judge": "scores.choosing_judge"}
    yield from _scored(scores, "scores", judges)
    yield from _choosing(config)
    yield from _dev_benchmark(config)
    for name, own in scores.further.items():
        key = f"scores.further.{name}"
        its = judges if own.judge is None else judges | {"judge": f"{key}.judge"}
        yield from _scored(scores.of(name), key, its)


def _choosing(config: RunConfig) -> Iterator[str]:
    """What is to be chosen where there are no prompts to choose on, or only reported ones."""
    from selma.scores.benchmarks import BENCHMARKS

    mixture, search = config.merged.mixture, config.merged.search
    choosing = {
        "experts.select": config.experts.select == "dev",
        "merged.mixture.select": mixture is not None and mixture.select == "dev",
        "merged.search": search is not None,
    }
    asked = [key for key, chooses in choosing.items() if chooses]
    named = BENCHMARKS.get(config.scores.benchmark)
    own = named is not None and named.prompts is not None and "dev" in named.splits
    if own or config.scores.dev_benchmark is not None:
        if asked:
            yield from _reported_and_chosen_on(config.scores, asked[0])
        return
    for key in asked:
        yield (
            f"{key}: a file has no dev prompts to choose by; leave it out, or set "
            "scores.dev_benchmark to a file of other prompts with questions."
        )


def _reported_and_chosen_on(scores: ScoresConfig, chooses: str) -> Iterator[str]:
    """Benchmarks that report on prompts on which something is chosen."""
    from selma.scores.benchmarks import chosen_on

    parts = {"scores": scores, **{f"scores.further.{k}": v for k, v in scores.further.items()}}
    for key, part in parts.items():
        try:
            shared = chosen_on(scores, part)
        except SelmaError:
            continue  # told where the benchmark is looked at
        if shared:
            yield (
                f"{key}: {counted(len(shared), 'prompt is', 'prompts are')} among those that "
                f"{chooses} chooses on ({shared[0]} first), and what is chosen on a prompt scores "
                "better on it. Take other prompts (split: test), or other ones to choose on."
            )


def _scored(scores: ScoresConfig, key: str, judges: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a benchmark. key: where it stands.  judges: field → where it stands."""
    from selma.scores.benchmarks import (
        BENCHMARKS,
        benchmark_of,
        fetched_by,
        load_benchmark,
        require_scorable,
    )
    from selma.scores.benchmarks.layouts import rules_named

    named = BENCHMARKS.get(scores.benchmark)
    if (named is None or named.prompts is None) and not Path(scores.benchmark).exists():
        fetch = fetched_by(Path(scores.benchmark))
        yield (
            f"{key}.benchmark: must be toybox or a file, but {scores.benchmark} is missing.{fetch}"
        )
        return
    try:
        rules_named(benchmark_of(scores.benchmark), scores)
        benchmark_prompts = load_benchmark(scores)
    except SelmaError as error:
        text = str(error)
        own = text.startswith("scores.")
        yield text.replace("scores.", f"{key}.", 1) if own else f"{key}.benchmark: {text}"
        return
    silent = [prompt.id for prompt in benchmark_prompts if not prompt.questions]
    if silent:
        yield (
            f"{key}.benchmark: {counted(len(silent), 'prompt has', 'prompts have')} no questions "
            f"({silent[0]} first). Let a language model write them: "
            f"selma questions {scores.benchmark} --out FILE.csv."
        )
    else:
        try:
            require_scorable(scores, benchmark_prompts)
        except SelmaError as error:
            text = str(error)
            own = text.startswith("scores.")
            yield text.replace("scores.", f"{key}.", 1) if own else f"{key}.benchmark: {text}"
    yield from _choices(benchmark_prompts, scores, judges)


def _dev_benchmark(config: RunConfig) -> Iterator[str]:
    from selma.scores.benchmarks import load_benchmark

    named = config.scores.dev_benchmark
    if named is None or not (named == "toybox" or Path(named).exists()):
        return  # a missing file is told with all files
    try:
        asked = load_benchmark(config.scores, split="dev")
    except SelmaError as error:
        text = str(error)
        yield text if text.startswith("scores.") else f"scores.dev_benchmark: {text}"
        return
    yield from _choices(asked, config.scores, {"choosing_judge": "scores.choosing_judge"})


def _choices(
    asked: Sequence[BenchmarkPrompt], scores: ScoresConfig, judges: Mapping[str, str]
) -> Iterator[str]:
    """Judges that are asked what they cannot answer. judges: field → where it stands."""
    from selma.backbones.judges.loading import judge_kind

    questions = [question for prompt in asked for question in prompt.questions]
    for field, key in judges.items():
        judge = getattr(scores, field)
        name, kind = judge_name(judge), judge_kind(judge, setting=key)
        if any(question.choices for question in questions) and not kind.chooses:
            yield f"{key}: {name} can answer only yes or no, not multiple choice."
        if any(question.spellings for question in questions) and not kind.spells:
            yield (
                f"{key}: {name} does not tell how likely its words are, of which the benchmark's "
                "score is made."
            )


def _networks(config: RunConfig) -> Iterator[str]:
    from selma.backbones.judges.loading import judge_kind, missing_weights, same_weights
    from selma.scores.networks import SAME_WEIGHTS

    scores = config.scores
    # A judge's row says whether its server needs a key.
    # The choosing judge is always asked too: how often both agree is part of the scorecard.
    judges = {**scores.judges, "choosing_judge": scores.choosing_judge}
    keys = [f"{key}.key_variable" for key in judges]
    benchmarks = ["benchmark", *(f"further.{name}.benchmark" for name in scores.further)]
    yield from absent(scores, "scores", without=[*benchmarks, *keys])
    for key, judge in judges.items():
        yield from judge_kind(judge, setting=f"scores.{key}").mistakes(judge, f"scores.{key}")
    if any(same_weights(judge, scores.choosing_judge) for judge in scores.judges.values()):
        yield SAME_WEIGHTS
    asked = {f"scores.further.{name}": part.vqascore for name, part in scores.further.items()}
    for key, words in {"scores": scores.vqascore, **asked}.items():
        if words is not None:
            from selma.backbones.judges.wordings import VQASCORE, wording

            try:
                wording(words, VQASCORE, key=f"{key}.vqascore")
            except ConfigError as error:
                yield str(error)
    if scores.clip is not None:
        yield from missing_weights("clip", "scores.clip")
    for scorer in scores.preferences:
        yield from scorer_mistakes(scorer, f"scores.preferences, {scorer.key}")


def scorer_mistakes(scorer: ScorerSettings, key: str) -> Iterator[str]:
    """What a scorer needs beside what its settings name."""
    from selma.backbones.preference.scorers import SCORERS

    return SCORERS.find(scorer.kind, setting=key).mistakes(scorer, key)
