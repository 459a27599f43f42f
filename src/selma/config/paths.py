"""Which settings are files or folders, so that a config may name them from where it lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from selma.applications.control.settings import ControlSettings
from selma.applications.subjects.settings import SubjectSettings
from selma.applications.sur.settings import Narrator, SurSettings
from selma.config.networks import BaseConfig, FeatureNetwork, LocalLLM, ServedLLM
from selma.config.prompts import is_skill_file
from selma.config.scores import LocalJudge, PreferenceConfig

if TYPE_CHECKING:
    from selma.config import RunConfig


def map_paths(
    config: RunConfig, *, place: Callable[[str], str], is_folder: Callable[[str], bool]
) -> RunConfig:
    """The settings with `place` applied to each that is a file or folder, the run's own aside.

    `is_folder` tells a model's folder from a Hub id, which looks like a relative path.
    """

    def placed(name: str, keep: str, is_path: Callable[[str], bool]) -> str:
        return place(name) if name != keep and is_path(name) else name

    prompts, scores = config.prompts, config.scores
    new: dict[str, Any] = {"skills": tuple(placed(s, "", is_skill_file) for s in prompts.skills)}
    if prompts.lexicon is not None:
        new["lexicon"] = placed(prompts.lexicon, "toybox", bool)
    if isinstance(prompts.backend, LocalLLM):
        language = placed(prompts.backend.model, "smollm2", is_folder)
        new["backend"] = prompts.backend.model_copy(update={"model": language})
    base = _placed_base(config.base, placed, is_folder)

    def placed_scorer(scorer: PreferenceConfig) -> PreferenceConfig:
        return scorer.model_copy(
            update={
                "model": placed(scorer.model, "", is_folder),
                "tokenizer": scorer.tokenizer and placed(scorer.tokenizer, "", is_folder),
            }
        )

    images = config.images
    if images.choose and isinstance(images.choose.scorer, PreferenceConfig):
        choice = images.choose.model_copy(update={"scorer": placed_scorer(images.choose.scorer)})
        images = images.model_copy(update={"choose": choice})
    places: dict[str, Any] = {
        "benchmark": placed(scores.benchmark, "toybox", bool),
        "preferences": tuple(map(placed_scorer, scores.preferences)),
    }
    if scores.matcher is not None:
        places["matcher"] = placed(scores.matcher, "wordllama", is_folder)
    for key in ("judge", "choosing_judge"):
        judge = getattr(scores, key)
        if isinstance(judge, LocalJudge):
            places[key] = judge.model_copy(update={"model": placed(judge.model, "", is_folder)})
    benchmark_prompts = scores.model_copy(update=places)
    return config.model_copy(
        update={
            "base": base,
            "prompts": prompts.model_copy(update=new),
            "images": images,
            "scores": benchmark_prompts,
            "sur": config.sur
            and _map_sur(config.sur, place=place, placed=placed, is_folder=is_folder),
            "control": config.control
            and _map_control(config.control, place=place, placed=placed, is_folder=is_folder),
            "subject": config.subject
            and _map_subject(config.subject, placed=placed, is_folder=is_folder),
        }
    )


def _map_sur(
    sur: SurSettings,
    *,
    place: Callable[[str], str],
    placed: Callable[[str, str, Callable[[str], bool]], str],
    is_folder: Callable[[str], bool],
) -> SurSettings:
    """`map_paths` for the SUR-adapter's settings."""

    def language(backend: LocalLLM | ServedLLM) -> LocalLLM | ServedLLM:
        if isinstance(backend, ServedLLM):
            return backend
        return backend.model_copy(update={"model": placed(backend.model, "smollm2", is_folder)})

    def network(section: Any) -> Any:
        return section.model_copy(update={"model": placed(section.model, "", is_folder)})

    source = sur.data.source
    where = {
        name: place(value)
        for name in ("dump", "images", "folder")
        if (value := getattr(source, name, None)) is not None
    }
    narrator = sur.data.narrator
    if isinstance(narrator, Narrator):
        narrator = narrator.model_copy(update={"backend": language(narrator.backend)})
    elif narrator is not None:
        narrator = network(narrator)
    cleaning = sur.data.cleaning
    if cleaning.safety is not None:
        cleaning = cleaning.model_copy(update={"safety": network(cleaning.safety)})
    if cleaning.agreement is not None and isinstance(cleaning.agreement.scorer, PreferenceConfig):
        scorer = network(cleaning.agreement.scorer)
        agreement = cleaning.agreement.model_copy(update={"scorer": scorer})
        cleaning = cleaning.model_copy(update={"agreement": agreement})
    scores = sur.scores
    if scores.keywords is not None:
        scores = scores.model_copy(update={"keywords": place(scores.keywords)})
    quality = scores.quality
    if quality is not None and isinstance(quality.features, PreferenceConfig):
        quality = quality.model_copy(update={"features": network(quality.features)})
        scores = scores.model_copy(update={"quality": quality})
    others = tuple(language(backend) for backend in sur.ablation.language_models)
    llm = {"backend": language(sur.llm.backend), "file": sur.llm.file and place(sur.llm.file)}
    return sur.model_copy(
        update={
            "data": sur.data.model_copy(
                update={
                    "source": source.model_copy(update=where),
                    "narrator": narrator,
                    "cleaning": cleaning,
                }
            ),
            "llm": sur.llm.model_copy(update=llm),
            "scores": scores,
            "ablation": sur.ablation.model_copy(update={"language_models": others}),
        }
    )


def _map_control(
    control: ControlSettings,
    *,
    place: Callable[[str], str],
    placed: Callable[[str, str, Callable[[str], bool]], str],
    is_folder: Callable[[str], bool],
) -> ControlSettings:
    """`map_paths` for the settings of control."""
    data, scores = control.data, control.scores
    folder = getattr(data.source, "folder", None)
    where = {} if folder is None else {"folder": place(folder)}
    captioner = data.captioner
    if captioner is not None:
        captioner = captioner.model_copy(update={"model": placed(captioner.model, "", is_folder)})
    new: dict[str, Any] = {
        "segmenter": placed(scores.segmenter, "toybox", is_folder),
        "palette": scores.palette and place(scores.palette),
        "reader": placed(scores.reader, "toybox", bool),
    }
    if scores.features not in (None, "inception"):
        new["features"] = placed(str(scores.features), "toybox", is_folder)
    return control.model_copy(
        update={
            "data": data.model_copy(
                update={
                    "source": data.source.model_copy(update=where),
                    "captioner": captioner,
                }
            ),
            "scores": scores.model_copy(update=new),
        }
    )


def _map_subject(
    subject: SubjectSettings,
    *,
    placed: Callable[[str, str, Callable[[str], bool]], str],
    is_folder: Callable[[str], bool],
) -> SubjectSettings:
    """`map_paths` for subjects' settings."""
    folder = placed(subject.data.folder, "toybox", bool)
    networks = {
        name: network.model_copy(update={"model": placed(network.model, "toybox", is_folder)})
        for name in ("dino", "clip", "lpips")
        if isinstance(network := getattr(subject.scores, name), FeatureNetwork)
    }
    return subject.model_copy(
        update={
            "data": subject.data.model_copy(update={"folder": folder}),
            "scores": subject.scores.model_copy(update=networks),
        }
    )


def _placed_base(
    base: BaseConfig,
    placed: Callable[[str, str, Callable[[str], bool]], str],
    is_folder: Callable[[str], bool],
) -> BaseConfig:
    def is_path(name: str) -> bool:
        return name.endswith(".safetensors") or is_folder(name)

    new: dict[str, Any] = {"model": placed(base.model, "toybox", is_path)}
    if base.config is not None:
        new["config"] = placed(base.config, "toybox", is_folder)
    if base.vae is not None:
        new["vae"] = placed(base.vae, "", is_folder)
    return base.model_copy(update=new)
