"""`selma score dsg`, `correlate`, `tifa`, `images`, `text` and `convert`: scores without a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selma.console import Json, group
from selma.outputs import word, written
from selma.screen import say

if TYPE_CHECKING:
    from rich.console import Console

Answers = Annotated[Path, typer.Option(help="CSV of answers, one row for each question.")]


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
    missing: Annotated[str | None, typer.Option(help="left_out, zero, upstream or refuse.")] = None,
    json: Json = None,
) -> None:
    """Score a file of answers to DSG's questions, by named rules. Loads no model."""
    from selma.applications.evaluation.dsg import rules_of, score_dsg

    named = {
        "reading": reading,
        "dependencies": dependencies,
        "zeroing": zeroing,
        "average": average,
        "missing": missing,
    }
    rules = rules_of(preset, {rule: choice for rule, choice in named.items() if choice})
    _show(score_dsg(annotations, answers, rules=rules, model=model), json)


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
    """Hold DSG or TIFA scores against people's ratings of the same images."""
    from selma.applications.evaluation.correlation import dsg_agreement, tifa_agreement
    from selma.applications.evaluation.dsg import rules_of
    from selma.errors import ConfigError
    from selma.workspace import write_json

    if annotations and not questions:
        agreement = dsg_agreement(annotations, answers, ratings, rules=rules_of(preset, {}))
    elif questions and not annotations:
        agreement = tifa_agreement(questions, answers, ratings)
    else:
        raise ConfigError("Name either --annotations (DSG) or --questions (TIFA).")
    if json:
        write_json(json, agreement)
    plain = {name: value for name, value in agreement.items() if name != "intervals"}
    say(", ".join(f"{name} {value}" for name, value in plain.items()))
    ends = agreement["intervals"].items()
    say("95% over prompts: " + ", ".join(f"{name} {low} to {high}" for name, (low, high) in ends))


def tifa(
    questions: Annotated[
        Path, typer.Option(help="TIFA's question file, JSON, or the folder of TIFA's files.")
    ],
    answers: Annotated[Path, typer.Option(help="CSV or JSON of answers.")],
    matcher: Annotated[
        str | None,
        typer.Option(help="For free answers: wordllama, or a transformers encoder such as the "
                     "paper's sentence-transformers/all-mpnet-base-v2."),
    ] = None,
    json: Json = None,
) -> None:  # fmt: skip
    """Score a file of answers to TIFA's multiple-choice questions."""
    from selma.applications.evaluation.tifa import read_tifa_answers, score_tifa
    from selma.scores.benchmarks.layouts import in_folder
    from selma.scores.benchmarks.tifa import QUESTIONS
    from selma.scores.tifa import read_tifa

    nearest = None
    if matcher:
        from selma.backbones.judges.matching import load_matcher

        nearest = load_matcher(matcher)
    asked = read_tifa(in_folder(questions, QUESTIONS))
    result = score_tifa(asked, read_tifa_answers(answers), matcher=nearest)
    _show(result | {"matcher": matcher}, json)


def images(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Images named <item_id>.png, .jpg, ...")
    ],
    benchmark: Annotated[
        str, typer.Option(help="toybox, or a benchmark's file or folder; see selma data list.")
    ] = "toybox",
    judge: Annotated[
        str,
        typer.Option(help="toybox-a, toybox-b, a short name (qwen3-vl-8b, ...), a model's folder "
                     "or Hub id, or a YAML file of settings as in scores.judge."),
    ] = "toybox-a",
    split: Annotated[
        str, typer.Option(callback=word, help="test or dev (toybox alone has one).")
    ] = "test",
    answers: Annotated[
        Path | None, typer.Option(help="Folder that keeps the answers; by default <DIR>-answers.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Rules: default, upstream (DSG's code) or selma-release.")
    ] = "default",
    rules: Annotated[
        str, typer.Option(help="The benchmark's own: sound, or released as its program has them.")
    ] = "sound",
    grid: Annotated[
        str | None, typer.Option(help="Each file is a grid of images of one prompt, such as 2x2.")
    ] = None,
    zeroing: Annotated[
        str | None, typer.Option(help="cascading, one_level, row_order or none.")
    ] = None,
    average: Annotated[
        str | None, typer.Option(help="prompt, question, or benchmark: as it weighs prompts.")
    ] = None,
    missing: Annotated[
        str, typer.Option(help="How a missing image counts: refuse, left_out, zero or upstream.")
    ] = "refuse",
    vqascore: Annotated[
        str | None, typer.Option(help="Also ask about the whole prompt: plain or vqascore.")
    ] = None,
    choices_prompt: Annotated[
        str, typer.Option(help="Wording of multiple choice: selma, tifa or bare.")
    ] = "selma",
    matcher: Annotated[
        str | None,
        typer.Option(help="For free answers to multiple choice: wordllama, or an encoder."),
    ] = None,
    json: Json = None,
) -> None:  # fmt: skip
    """Ask a judge about a folder of images, and score its answers."""
    from selma.applications.evaluation.dsg import rules_of
    from selma.applications.evaluation.images import judge_from, score_images
    from selma.errors import ConfigError

    named = {"zeroing": zeroing, "average": average, "missing": missing}
    if rules not in ("sound", "released"):
        raise ConfigError(f"--rules must be sound or released, but {rules!r} came.")
    if rules == "released" and preset != "default":
        raise ConfigError(
            f"--rules released and --preset {preset} are two sets of rules, of which one must be "
            "left out: --rules has those of the benchmark's own program, --preset DSG's or SELMA's."
        )
    result = score_images(
        folder,
        benchmark=benchmark,
        split=split,
        judge=judge_from(judge),
        rules=rules_of(preset, {rule: choice for rule, choice in named.items() if choice}),
        counting="released" if rules == "released" else "sound",
        grid=grid,
        answers=answers,
        vqascore=vqascore,
        choices_prompt=choices_prompt,
        matcher=matcher,
    )
    _show(result, json)


def text(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Images named <prompt id>.png, .jpg, ...")
    ],
    prompts: Annotated[
        Path,
        typer.Option(help="Prompts with the text in quotation marks: .txt, .csv, .jsonl, .json; or "
                     "OneIG's text_content.csv."),
    ],
    answers: Annotated[
        Path | None, typer.Option(help="Folder that keeps what is read; by default <DIR>-answers.")
    ] = None,
    json: Json = None,
) -> None:  # fmt: skip
    """Read what is written in images, and compare it with what their prompts ask for."""
    from selma.applications.evaluation.lettering import score_text
    from selma.applications.evaluation.table import print_lettering

    _show(score_text(folder, prompts, answers=answers), json, print_lettering)


def geneval(
    results: Annotated[
        Path, typer.Argument(metavar="FILE", help="Results, a line for each image.")
    ],
    json: Json = None,
) -> None:
    """Read GenEval's result file, and score it with intervals. Loads no model."""
    from selma.applications.evaluation.geneval import score_geneval
    from selma.applications.evaluation.table import print_geneval

    _show(score_geneval(results), json, print_geneval)


def convert_scorer(
    source: Annotated[Path, typer.Argument(help="HPS_v2.1_compressed.pt, ImageReward.pt, ...")],
    out: Annotated[Path, typer.Argument(callback=written, help="New folder.")],
    kind: Annotated[
        str, typer.Option(callback=word, help="pickscore, hps_v2, hps_v2.1, imagereward or clip.")
    ],
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
    say(f"Weights: {folder}")


def _show(
    scores: dict[str, Any],
    json: Path | None,
    show: Callable[[Mapping[str, Any], Console], None] | None = None,
) -> None:
    """Write the scores where they are asked for, and print them: `show` is their table's."""
    from selma.applications.evaluation.table import print_given_scores
    from selma.rich_screen import Screen
    from selma.workspace import write_json

    if json:
        write_json(json, scores)
    (show or print_given_scores)(scores, Screen())


def register(app: typer.Typer) -> None:
    score = group(app, "score")
    for command in (dsg, correlate, tifa, images, text, geneval):
        score.command()(command)
    score.command("convert")(convert_scorer)
