"""Stage 1 without a language model: prompts that are given pass the same checks as written ones."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from selma.config.prompts import PromptsConfig
from selma.errors import DataError
from selma.finished_rows import PROMPTS_FILE, finished_prompts, prompt_facts
from selma.given import GIVEN
from selma.given.kind import Texts
from selma.prompts.contamination import index_of
from selma.prompts.novelty import SimilarityIndex
from selma.prompts.skills import skill_names
from selma.records.prompts import Prompt, prompt_id
from selma.row_files import write_rows
from selma.workspace import PROMPTS, Item, Workspace


def take_prompts(
    config: PromptsConfig, folder: Workspace, *, seed: int, benchmark_texts: Sequence[str]
) -> dict[str, Sequence[Prompt]]:
    """Skill → the first `config.per_skill` given prompts that are novel and not contaminated, fewer
    where there are no more. Raises DataError if a skill has none."""
    prompts: dict[str, Sequence[Prompt]] = {}
    for skill, texts, item in _items(config, folder, seed, benchmark_texts):
        if not item.done:
            began = time.monotonic()
            _take(skill, texts, item, config, benchmark_texts)
            seconds = round(time.monotonic() - began, 3)
            folder.journal(PROMPTS, skill=skill, seconds=seconds, **item.summary)
        prompts[skill] = finished_prompts(item)
    return prompts


def items(
    config: PromptsConfig, folder: Workspace, *, seed: int, benchmark_texts: Sequence[str]
) -> dict[str, Item]:
    """Skill → the item of its prompts."""
    return {skill: item for skill, _, item in _items(config, folder, seed, benchmark_texts)}


def _items(
    config: PromptsConfig, folder: Workspace, seed: int, benchmark_texts: Sequence[str]
) -> Iterator[tuple[str, Texts, Item]]:
    source = config.source
    row = GIVEN.find(source.kind, setting="prompts.source.kind")
    skills = skill_names(config.skills, given=True)
    benchmark = None
    if config.contamination_threshold is not None:
        benchmark = hashlib.sha256("\n".join(sorted(benchmark_texts)).encode()).hexdigest()
    settings = config.model_dump(
        mode="json", include={"per_skill", "novelty", "contamination_threshold"}
    )
    for skill, texts in row.texts(source, skills, seed=seed).items():
        recipe: dict[str, Any] = {
            "skill": skill,
            "source": {"kind": source.kind, "texts": texts.key},
            "settings": settings,
            "benchmark": benchmark,
        }
        yield skill, texts, folder.item(PROMPTS, skill, recipe=recipe)


def _take(
    skill: str,
    texts: Texts,
    item: Item,
    config: PromptsConfig,
    benchmark_texts: Sequence[str],
) -> None:
    benchmark = index_of(tuple(benchmark_texts), threshold=config.contamination_threshold)
    index = SimilarityIndex(config.novelty.threshold, config.novelty.arithmetic)
    prompts: dict[str, Prompt] = {}
    dropped: Counter[str] = Counter()
    for text in texts.texts:
        if len(prompts) == config.per_skill:
            break
        if text in prompts:
            dropped["repeated"] += 1
        elif benchmark.contains(text):
            dropped["contaminated"] += 1
        elif index.similar(text):
            dropped["similar"] += 1
        else:
            index.add(text)
            prompts[text] = Prompt(id=prompt_id(skill, text), skill=skill, text=text)
    if not prompts:
        raise DataError(
            f"Skill {skill!r} needs at least one prompt, but has none: of those that are given, "
            f"{dropped['contaminated']} are too near to the benchmark's "
            f"(prompts.contamination_threshold)."
        )
    path = item.begin() / PROMPTS_FILE
    write_rows(path, (prompt.model_dump(mode="json") for prompt in prompts.values()))
    item.finish(
        [path],
        {
            "kept": len(prompts),
            "asked": config.per_skill,
            "texts": len(prompts) + dropped.total(),
            "dropped": dict(sorted(dropped.items())),
        },
        rows={PROMPTS_FILE: prompt_facts},
    )
