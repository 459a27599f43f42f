"""Stage 1: show the model some examples, ask for more, keep what is new, until there are enough.

arXiv:2403.06952, section 3.1. Each batch of replies is written to disk before it is used, and
everything else is worked out from the replies; so a run that was stopped reads them again, asks for
none of them twice, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from selma.backbones.language.loading import (
    LANGUAGE_MODELS,
    deciding_versions,
    load_language_model,
    model_identity,
    paid_files,
)
from selma.backbones.language.model import LanguageModel, Reply, Sampling
from selma.config.prompts import PromptsConfig
from selma.disk import append_bytes
from selma.errors import ConfigError, NoProgress
from selma.finished_rows import PROMPTS_FILE, finished_prompts, prompt_facts
from selma.plurals import counted
from selma.progress import Advance, progress
from selma.prompts.given import items, take_prompts
from selma.prompts.instructions import continuation, end_of_list, instructions
from selma.prompts.lexicon import caption_rules, reply_grammar
from selma.prompts.outcomes import advice, counted_replies
from selma.prompts.pool import PromptPool
from selma.prompts.quality import gate_of, gate_recipe, no_captions
from selma.prompts.skills import Skill, load_skills
from selma.record_files import REMEDY_FOR_REPLIES, each_row
from selma.records.prompts import Prompt
from selma.records.rows import BatchOfReplies
from selma.workspace import PROMPTS, Item, Workspace, append_line, write_bytes

REPLIES = "replies.jsonl"


def write_prompts(
    config: PromptsConfig, folder: Workspace, *, seed: int, benchmark_texts: Sequence[str]
) -> dict[str, Sequence[Prompt]]:
    """Skill → exactly `config.per_skill` prompts, read back where they are there already; at most
    that many of prompts that are given (`prompts.given`).

    NoProgress if a model finds nothing new any more, BackendError if its server fails for good; in
    both cases what came is kept and the same call goes on from there.
    """
    if config.given:
        return take_prompts(config, folder, seed=seed, benchmark_texts=benchmark_texts)
    skills = _usable_skills(config)

    @cache
    def model() -> LanguageModel:
        note = partial(folder.journal, PROMPTS)
        return load_language_model(config.backend, note=note, spent=folder.spent(PROMPTS))

    written: dict[str, Sequence[Prompt]] = {}
    for skill in skills:
        item = folder.item(
            PROMPTS,
            skill.name,
            recipe=_recipe(skill, config, seed, benchmark_texts),
            paid=paid_files(config.backend, REPLIES),
        )
        if not item.done:
            began = time.monotonic()
            pool = PromptPool(skill, config, seed=seed, benchmark_texts=benchmark_texts)
            _fill(item, pool, model)
            seconds = round(time.monotonic() - began, 3)
            folder.journal(PROMPTS, skill=skill.name, seconds=seconds, **item.summary)
        written[skill.name] = finished_prompts(item)
    return written


def counts(
    what: str,
    config: PromptsConfig,
    folder: Workspace,
    *,
    seed: int,
    benchmark_texts: Sequence[str],
) -> dict[str, dict[str, int]]:
    """Skill → reason or outcome → how many: of "dropped" texts, or of "replies" by what became of
    them (`selma.prompts.outcomes`). Only of skills that are finished."""
    if config.given:
        of_skills = items(config, folder, seed=seed, benchmark_texts=benchmark_texts)
    else:
        of_skills = {
            skill.name: folder.item(
                PROMPTS, skill.name, recipe=_recipe(skill, config, seed, benchmark_texts)
            )
            for skill in _usable_skills(config)
        }
    return {
        skill: dict(item.summary.get(what, {})) for skill, item in of_skills.items() if item.done
    }


def _fill(item: Item, pool: PromptPool, model: Callable[[], LanguageModel]) -> None:
    """Makes the item, or the rest of it."""
    replies, prompts = item.begin() / REPLIES, item.path / PROMPTS_FILE
    for batch, rejected in _kept_replies(replies):
        pool.take(batch, pool.next_batch(), no_captions=rejected)
    # A crash between the two files leaves prompts behind replies: put them level.
    write_bytes(prompts, b"".join(map(_line, pool.kept)))
    pool.without_news = 0  # each start has all of its patience
    config = pool.config
    with progress(
        f"prompts: {pool.skill.name}", total=config.per_skill, done=len(pool.kept)
    ) as bar:
        while not pool.full:
            _one_batch(pool, model(), replies=replies, prompts=prompts, bar=bar)
            if pool.without_news >= config.patience and not pool.full:
                raise NoProgress(_no_progress(pool, replies))
    item.finish([replies, prompts], pool.summary, rows={PROMPTS_FILE: prompt_facts})


def _one_batch(
    pool: PromptPool, model: LanguageModel, *, replies: Path, prompts: Path, bar: Advance
) -> None:
    requests = pool.next_batch()
    came = _ask(pool, model, requests)
    line: dict[str, Any] = {"first": requests.start, "replies": [reply.record() for reply in came]}
    rejected: list[str] = []
    if (gate := gate_of(pool.config)) is not None:
        rejected = no_captions(
            pool.candidates(came),
            pool.skill,
            model,
            gate=gate,
            max_new_tokens=pool.config.max_new_tokens,
            seed=pool.seed(requests.start),
        )
        line["no_captions"] = rejected
    append_line(replies, line)
    new = pool.take(came, requests, no_captions=rejected)
    append_bytes(prompts, b"".join(map(_line, new)))
    bar(len(new))


def _ask(pool: PromptPool, model: LanguageModel, requests: range) -> list[Reply]:
    """Replies in order, each numbered as the list that it goes on with."""
    config, skill = pool.config, pool.skill
    shown = [[text for _, text in pool.examples(request)] for request in requests]
    seeds = [pool.seed(request) for request in requests]
    first, asked = config.examples + 1, config.asked_per_reply
    sampling = partial(
        Sampling,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
    )
    if config.lexicon is None and model.form == "instructions":
        texts = [instructions(skill, examples, asked=asked) for examples in shown]
        return model.complete(texts, seeds=seeds, sampling=sampling())
    grammar = None
    if config.lexicon is not None:
        grammar = reply_grammar(skill, config.lexicon, first=first, asked=asked)
    texts = [continuation(skill, examples) for examples in shown]
    # A grammar ends by itself; a stop would only meet the last line break.
    stop = () if grammar else end_of_list(first=first, asked=asked)
    came = model.complete(texts, seeds=seeds, sampling=sampling(stop=stop, grammar=grammar))
    return [Reply(**{**vars(reply), "text": f"{first}.{reply.text}"}) for reply in came]


def _kept_replies(path: Path) -> Iterator[tuple[list[Reply], list[str]]]:
    """Each batch, and what of it the quality gate did not let pass."""
    for line in each_row(path, BatchOfReplies, repair=True, remedy=REMEDY_FOR_REPLIES):
        yield [Reply(**reply) for reply in line["replies"]], line.get("no_captions", [])


def _line(prompt: Prompt) -> bytes:
    return (prompt.model_dump_json() + "\n").encode()


def _no_progress(pool: PromptPool, replies: Path) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in pool.dropped.most_common())
    texts = f" Texts dropped: {reasons.replace('_', ' ')}." if reasons else ""
    return (
        f"Skill {pool.skill.name!r} needs {counted(pool.config.per_skill, 'prompt')} and has "
        f"{len(pool.kept)}, which are kept, but the last "
        f"{counted(pool.without_news, 'request')} added none. "
        f"{counted_replies(pool.outcomes)}.{texts} "
        f"{advice(pool.outcomes, pool.dropped, pool.config, replies)}"
    )


def _usable_skills(config: PromptsConfig) -> list[Skill]:
    skills = load_skills(config.skills)
    for skill in skills:
        if len(skill.seeds) < config.examples:
            raise ConfigError(
                f"prompts.examples is {config.examples}, but skill {skill.name!r} has only "
                f"{len(skill.seeds)} seeds. Add seeds, or lower prompts.examples."
            )
    gate_of(config)
    if config.lexicon is not None and not LANGUAGE_MODELS[config.backend.kind].takes_grammar:
        raise ConfigError(
            "prompts.lexicon holds a local model to a grammar, but prompts.backend is of the kind "
            f"{config.backend.kind}. Set prompts.lexicon to null, or use a local model."
        )
    return skills


def _recipe(
    skill: Skill, config: PromptsConfig, seed: int, benchmark_texts: Sequence[str]
) -> dict[str, Any]:
    """Everything that a skill's prompts depend on."""
    left_out = {"skills", "backend", "patience", "quality", "source"}
    settings = config.model_dump(mode="json", exclude=left_out)
    if (gate := gate_of(config)) is not None:
        settings["quality"] = gate_recipe(skill, gate)
    if LANGUAGE_MODELS[config.backend.kind].takes_grammar:  # may be one that goes on with a list
        settings["list"] = continuation(skill, ())
    if config.lexicon is not None:
        settings["lexicon"] = caption_rules(skill, config.lexicon)
    benchmark_prompts = None
    if config.contamination_threshold is not None:
        benchmark_prompts = hashlib.sha256("\n".join(sorted(benchmark_texts)).encode()).hexdigest()
    return {
        "skill": skill.recipe(),
        "settings": settings,
        "backend": model_identity(config.backend),
        "versions": deciding_versions(config.backend),
        "benchmark": benchmark_prompts,
        "seed": seed,
    }
