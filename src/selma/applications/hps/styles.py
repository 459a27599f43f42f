"""HPS's benchmark for a run's model: its images are generated or given as a folder, and scored; the
scores are kept in the run's folder, from where its report takes them.

It stands beside the six stages, as the paper's table 5 stands beside its others.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.config import RunConfig
from selma.config.scores import PreferenceConfig
from selma.errors import ConfigError
from selma.pipeline import UNIFORM, Stages, opened
from selma.records.adapters import AppliedAdapter, applied
from selma.workspace import SCORES

if TYPE_CHECKING:
    from selma.records.experts import Expert
    from selma.records.merged import Merged


def score_styles(
    config: RunConfig,
    scorer: PreferenceConfig,
    *,
    prompts: Path,
    model: str = "merged",
    images: Path | None = None,
) -> dict[str, Any]:
    """The result of one of the run's models ("base", "merged" or a skill), as `scores.hps` has it.

    prompts: the benchmark's folder. images: what the model generated of them; None generates them,
    with the settings and seeds of the run's benchmark. Raises NotFinished where the run has no
    such model yet, ConfigError where it will never have.
    """
    from selma.backbones.preference.scorers import load_preference
    from selma.scores.hps import given_images, hps_benchmark, hps_item, read_hps, read_hps_prompts

    texts = read_hps_prompts(prompts)
    # What is judged here is no benchmark of the run's, so that none of its judges need be there.
    with opened(config, make=[SCORES], checked=[]) as this:
        adapters, key = _model(this, model)
        if images is None:
            benchmark_prompts = hps_benchmark(texts)
            folder = this.generate(f"hps-{model}", adapters, benchmark_prompts)
            files = {prompt.id: folder / f"{prompt.id}.png" for prompt in benchmark_prompts}
        else:
            files = given_images(images, texts)
        item = hps_item(
            files,
            texts,
            load_preference(scorer),
            this.folder,
            model=model,
            key=key,
            generated="run" if images is None else "given",
        )
        return read_hps(item)


def _model(this: Stages, name: str) -> tuple[list[AppliedAdapter], str]:
    """What is applied to the base, and the model's key."""
    if name == "base":  # needs no expert, so that the paper's first rows can come first
        return [], this.base_key()
    experts = this.all_experts()
    merged = this.merge_experts(experts)
    keys = this.model_keys(experts, merged)
    if name not in keys:
        raise ConfigError(f"The run has the models {', '.join(keys)}, but {name!r} came.")
    adapters: dict[str, Expert | Merged | None] = {expert.skill: expert for expert in experts}
    adapters |= {"merged": merged, UNIFORM: merged.uniform}
    adapter = adapters[name]
    return ([] if adapter is None else [applied(adapter)]), keys[name]
