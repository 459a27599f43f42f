"""`selma score`: a run's fifth stage, or answers and images that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from selma.cli.loading import load
from selma.console import Config, Folder, Json, show_scorecard, show_scores


class ConfigOrCommand(TyperGroup):
    """`selma score CONFIG` is the stage; `selma score dsg` and its like score what is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["stage", *args]
        return super().parse_args(ctx, args)


score = typer.Typer(
    help="Stage 5: CONFIG generates and scores a benchmark's images. Or score answers you have.",
    cls=ConfigOrCommand,
    no_args_is_help=True,
    subcommand_metavar="CONFIG | COMMAND [ARGS]...",
)


@score.command()
def stage(config: Config, folder: Folder = None) -> None:
    """Let every model of a run generate the benchmark's images, and score them."""
    from selma import pipeline

    show_scorecard(pipeline.score(load(config, folder)))


Answers = Annotated[Path, typer.Option(help="CSV of answers, one row for each question.")]


@score.command()
def dsg(
    annotations: Annotated[Path, typer.Option(help="Questions: a CSV in DSG-1k's layout.")],
    answers: Answers,
    preset: Annotated[
        str, typer.Option(help="Rules: default, upstream (DSG's code) or selma-release.")
    ] = "default",
    model: Annotated[
        str | None, typer.Option(help="Whose images, where the file has several t2i_model.")
    ] = None,
    reading: Annotated[str | None, typer.Option(help="normalised or exact.")] = None,
    dependencies: Annotated[
        str | None, typer.Option(help="lenient, whole_item or verbatim.")
    ] = None,
    zeroing: Annotated[
        str | None, typer.Option(help="cascading, one_level, row_order or none.")
    ] = None,
    average: Annotated[str | None, typer.Option(help="prompt or question.")] = None,
    missing: Annotated[str | None, typer.Option(help="left_out, zero or refuse.")] = None,
    json: Json = None,
) -> None:
    """Score given answers to DSG's questions, by rules that have names. Loads no model."""
    from selma.scores.given import rules_of, score_dsg

    named = {
        "reading": reading,
        "dependencies": dependencies,
        "zeroing": zeroing,
        "average": average,
        "missing": missing,
    }
    rules = rules_of(preset, {rule: choice for rule, choice in named.items() if choice})
    show_scores(score_dsg(annotations, answers, rules=rules, model=model), json)


@score.command()
def correlate(
    answers: Answers,
    ratings: Annotated[
        Path,
        typer.Option(help="CSV: t2i_model, item_id, answer (a number); with --questions also "
                     "source_id."),
    ],
    annotations: Annotated[
        Path | None, typer.Option(help="Questions: a CSV in DSG-1k's layout.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="Or TIFA's question file, JSON.")] = None,
    preset: Annotated[
        str, typer.Option(help="Rules: default, upstream (DSG's code) or selma-release.")
    ] = "default",
    json: Json = None,
) -> None:  # fmt: skip
    """How well DSG or TIFA scores agree with people's ratings of the same images."""
    from selma.errors import ConfigError
    from selma.scores.correlation import dsg_agreement, tifa_agreement
    from selma.scores.given import rules_of
    from selma.workspace import write_json

    if annotations and not questions:
        agreement = dsg_agreement(annotations, answers, ratings, rules=rules_of(preset, {}))
    elif questions and not annotations:
        agreement = tifa_agreement(questions, answers, ratings)
    else:
        raise ConfigError("Name either --annotations (DSG) or --questions (TIFA).")
    if json:
        write_json(json, agreement)
    typer.echo(", ".join(f"{name} {value}" for name, value in agreement.items()))


@score.command()
def tifa(
    questions: Annotated[Path, typer.Option(help="TIFA's question file, JSON.")],
    answers: Annotated[Path, typer.Option(help="CSV or JSON of answers.")],
    matcher: Annotated[
        str | None,
        typer.Option(help="For free answers: wordllama, or a transformers encoder such as the "
                     "paper's sentence-transformers/all-mpnet-base-v2."),
    ] = None,
    json: Json = None,
) -> None:  # fmt: skip
    """Score given answers to TIFA's multiple-choice questions."""
    from selma.scores.tifa import read_tifa, read_tifa_answers, score_tifa

    nearest = None
    if matcher:
        from selma.backbones.judges.matching import load_matcher

        nearest = load_matcher(matcher)
    result = score_tifa(read_tifa(questions), read_tifa_answers(answers), matcher=nearest)
    show_scores(result | {"matcher": matcher}, json)


@score.command("images")
def images(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Images named <item_id>.png or .jpg.")
    ],
    benchmark: Annotated[
        str, typer.Option(help="toybox, a CSV in DSG-1k's layout, or TIFA's question file.")
    ] = "toybox",
    judge: Annotated[
        str,
        typer.Option(help="toybox-a, toybox-b, a model's folder or Hub id, or a YAML file of "
                     "settings as in scores.judge."),
    ] = "toybox-a",
    split: Annotated[str, typer.Option(help="test or dev (toybox alone has one).")] = "test",
    answers: Annotated[
        Path | None, typer.Option(help="Where answers are kept; the default is <DIR>-answers.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Rules: default, upstream (DSG's code) or selma-release.")
    ] = "default",
    zeroing: Annotated[
        str | None, typer.Option(help="cascading, one_level, row_order or none.")
    ] = None,
    average: Annotated[str | None, typer.Option(help="prompt or question.")] = None,
    missing: Annotated[
        str, typer.Option(help="What a missing image does: refuse, left_out or zero.")
    ] = "refuse",
    vqascore: Annotated[
        str | None, typer.Option(help="Also ask about the whole prompt: plain or vqascore.")
    ] = None,
    choices_prompt: Annotated[
        str, typer.Option(help="How multiple choice is put: selma, tifa or bare.")
    ] = "selma",
    matcher: Annotated[
        str | None,
        typer.Option(help="For free answers to multiple choice: wordllama, or an encoder."),
    ] = None,
    json: Json = None,
) -> None:  # fmt: skip
    """Ask a judge about a folder of images, and score what it says."""
    from selma.scores.given import rules_of
    from selma.scores.images import judge_from, score_images

    named = {"zeroing": zeroing, "average": average, "missing": missing}
    result = score_images(
        folder,
        benchmark=benchmark,
        split=split,
        judge=judge_from(judge),
        rules=rules_of(preset, {rule: choice for rule, choice in named.items() if choice}),
        answers=answers,
        vqascore=vqascore,
        choices_prompt=choices_prompt,
        matcher=matcher,
    )
    show_scores(result, json)


def questions(
    prompts: Annotated[
        Path, typer.Argument(metavar="PROMPTS", help="Your prompts: .txt, .csv, .jsonl or .json.")
    ],
    out: Annotated[Path, typer.Option(help="The questions: .csv, or .json for --style tifa.")],
    style: Annotated[
        str, typer.Option(help="dsg: yes/no with dependencies; tifa: multiple choice.")
    ] = "dsg",
    backend: Annotated[
        str | None,
        typer.Option(help="YAML with a language model's settings, or a local model's folder."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Or a model on a server.")] = None,
    base_url: Annotated[str | None, typer.Option(help="The server of --model.")] = None,
    attempts: Annotated[int, typer.Option(min=1, help="How often a step is asked for.")] = 3,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of each reply.")] = 2048,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Let a language model write questions about images of your prompts."""
    from selma.applications.loading import sections
    from selma.report.tables import print_questions
    from selma.scores.benchmarks import read_benchmark
    from selma.scores.questions.settings import backend_of, questions_config
    from selma.scores.questions.writing import write_questions

    settings = questions_config(
        style=style,
        backend=backend_of(backend, model=model, base_url=base_url, others=sections()),
        attempts=attempts,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    print_questions(write_questions(read_benchmark(prompts), settings, out), out)


@score.command()
def hps(
    prompts: Annotated[Path, typer.Option(help="Folder with anime.json and the like.")],
    model: Annotated[str, typer.Option(help="HPS's weights: a folder or a Hub id.")],
    images: Annotated[
        Path | None,
        typer.Argument(help="Folder with anime, concept-art, paintings and photo; may be left out "
                       "with --run, which then generates them."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="A run's folder: the result is kept there, for its report, and goes on "
                     "where it was stopped."),
    ] = None,
    drawn_by: Annotated[
        str, typer.Option(help="With --run: whose images; base, merged or a skill.")
    ] = "merged",
    version: Annotated[str, typer.Option(help="2.0 or 2.1; they are not comparable.")] = "2.1",
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id, where the weights have none.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    antialias: Annotated[
        bool, typer.Option(help="Make images smaller as torchvision since 0.17 does.")
    ] = True,
    json: Json = None,
) -> None:  # fmt: skip
    """Score HPS's benchmark: images in four styles, one mean over all."""
    from rich.console import Console

    from selma.backbones.preference.scorers import load_preference, settings_of
    from selma.errors import ConfigError
    from selma.report.tables import print_hps
    from selma.scores.hps import read_hps_prompts, score_hps, version_kind
    from selma.workspace import write_json

    settings = settings_of(
        kind=version_kind(version),
        model=model,
        tokenizer=tokenizer,
        device=device,
        antialias=antialias,
    )
    if run is not None:
        from selma.applications.hps import score_styles
        from selma.applications.loading import read_run_file

        result = score_styles(
            read_run_file(run), settings, prompts=prompts, model=drawn_by, images=images
        )
    elif images is not None:
        result = score_hps(images, read_hps_prompts(prompts), load_preference(settings))
    else:
        raise ConfigError("Name a folder of images, or a run that generates them with --run.")
    if json:
        write_json(json, result)
    print_hps(result, Console())


@score.command("convert")
def convert_scorer(
    source: Annotated[Path, typer.Argument(help="HPS_v2.1_compressed.pt, ImageReward.pt, ...")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    kind: Annotated[str, typer.Option(help="pickscore, hps_v2, hps_v2.1, imagereward or clip.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id; its authors' choice where left out.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON of the network's shape, if not the released one.")
    ] = None,
) -> None:
    """Turn a preference scorer's pickle into safetensors, without running anything in it."""
    from selma.backbones.preference.converting import convert_weights

    folder = convert_weights(source, out, kind=kind, tokenizer=tokenizer, config=config)
    typer.echo(f"Weights: {folder}")
