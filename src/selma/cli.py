"""The command `selma`: a command for each stage, and run, generate, status, check. No logic."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from selma.config import RunConfig
    from selma.records import Scorecard

app = typer.Typer(
    help="Makes a text-to-image diffusion model follow prompts better, with data it draws itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
toybox = typer.Typer(help="The embedded model and its world.", no_args_is_help=True)
app.add_typer(toybox, name="toybox")


class ConfigOrCommand(TyperGroup):
    """`selma score CONFIG` is the stage; `selma score dsg` and its like score what is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["stage", *args]
        return super().parse_args(ctx, args)


score = typer.Typer(
    help="Stage 5: CONFIG draws and judges the exam. Or score answers that you have.",
    cls=ConfigOrCommand,
    no_args_is_help=True,
    subcommand_metavar="CONFIG | COMMAND [ARGS]...",
)
app.add_typer(score, name="score")
study = typer.Typer(
    help="People choose between two models' pictures, as in the paper.", no_args_is_help=True
)
app.add_typer(study, name="study")
sur = typer.Typer(
    help="The SUR-adapter: a language model's understanding for plain prompts.",
    no_args_is_help=True,
)
app.add_typer(sur, name="sur")
data = typer.Typer(help="The public files of benchmarks.", no_args_is_help=True)
app.add_typer(data, name="data")

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file of settings.")]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="The run's folder, in place of the config's.")
]


@app.command()
def run(
    config: Config,
    folder: Folder = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what is there and what would be made.")
    ] = False,
) -> None:
    """Run all six stages; what is finished is not made again."""
    settings = _load(config, folder)
    if dry_run:
        return _show(settings)
    from selma import pipeline

    page = pipeline.run(settings)
    _print_scorecard(pipeline.scorecard(settings))
    return typer.echo(f"Report: {page}")


@app.command()
def prompts(config: Config, folder: Folder = None) -> None:
    """Stage 1: let a language model write prompts for each skill."""
    from selma import pipeline

    for skill, kept in pipeline.prompts(_load(config, folder)).items():
        typer.echo(f"{skill}: {len(kept)} prompts")


@app.command()
def images(config: Config, folder: Folder = None) -> None:
    """Stage 2: let the base model draw each prompt."""
    from selma import pipeline

    for skill, pairs in pipeline.images(_load(config, folder)).items():
        typer.echo(f"{skill}: {len(pairs)} pictures")


@app.command()
def experts(config: Config, folder: Folder = None) -> None:
    """Stage 3: train one adapter for each skill."""
    from selma import pipeline

    for expert in pipeline.experts(_load(config, folder)):
        typer.echo(f"{expert.skill}: {expert.folder}")


Base = Annotated[
    str | None,
    typer.Option(help='"toybox" or a diffusers folder; where a format\'s names need it.'),
]


@app.command()
def merge(
    what: Annotated[
        list[Path], typer.Argument(metavar="CONFIG | FILES...", help="A .yaml, or adapters.")
    ],
    folder: Folder = None,
    out: Annotated[Path | None, typer.Option(help="FILES: where the result goes.")] = None,
    to: Annotated[
        str | None,
        typer.Option(help="FILES: diffusers, kohya or peft; selma or peft for rotations."),
    ] = None,
    method: Annotated[str, typer.Option(help="FILES: see docs/paper.md.")] = "mean_of_deltas",
    weights: Annotated[
        str | None, typer.Option(help="FILES: one number for each, as in 0.5,0.3,0.2.")
    ] = None,
    scale: Annotated[float | None, typer.Option("--scale", "--lambda")] = None,
    rank: Annotated[int | None, typer.Option(help="Cut to this rank.")] = None,
    max_error: Annotated[float | None, typer.Option(help="Or to this relative error.")] = None,
    density: Annotated[float | None, typer.Option(help="Share of entries kept.")] = None,
    normalize: Annotated[bool | None, typer.Option("--normalize/--no-normalize")] = None,
    consensus: Annotated[str | None, typer.Option(help="Of knots: ties or mean.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of dare.")] = None,
    rescale: Annotated[
        bool | None,
        typer.Option("--rescale/--no-rescale", help="Rotations: as far as experts on average."),
    ] = None,
    base: Base = None,
    json: Annotated[Path | None, typer.Option(help="Write the judgement to this file.")] = None,
) -> None:
    """Stage 4: merge the experts into one adapter. Or merge adapter files of any origin."""
    named = {
        "method": method,
        "scale": scale,
        "rank": rank,
        "max_error": max_error,
        "density": density,
        "normalize": normalize,
        "consensus": consensus,
        "seed": seed,
        "rescale": rescale,
    }
    if len(what) == 1 and what[0].suffix in (".yaml", ".yml"):
        _merge_stage(what[0], folder)
    else:
        given = {name: value for name, value in named.items() if value is not None}
        _merge_files(what, out, given, weights=weights, to=to, base=base, json=json)


def _merge_stage(config: Path, folder: Path | None) -> None:
    from selma import pipeline

    merged = pipeline.merge(_load(config, folder))
    _show_judged(pipeline.judged(merged))
    _show_trials(pipeline.trials(merged))
    typer.echo(f"Merged adapter: {merged.folder}")


def _merge_files(
    files: list[Path],
    out: Path | None,
    given: dict[str, Any],
    *,
    weights: str | None,
    to: str | None,
    base: str | None,
    json: Path | None,
) -> None:
    from selma.config.merged import merged_config, numbers
    from selma.errors import ConfigError
    from selma.merged.combining import merge_files
    from selma.workspace import write_json

    if out is None:
        raise ConfigError("Merging files needs --out; a stage needs one CONFIG that ends in .yaml.")
    config = merged_config(given)
    each = None if weights is None else numbers(weights)
    written, judged = merge_files(files, config, out, weights=each, to=to, base=base)
    if json:
        write_json(json, judged)
    _show_judged(judged)
    typer.echo(f"Merged adapter: {', '.join(map(str, written))}")


def _show_judged(judged: dict[str, Any]) -> None:
    from rich.console import Console

    from selma.report.tables import print_judged

    if judged:
        print_judged(judged, Console())


def _show_trials(found: list[dict[str, Any]]) -> None:
    from rich.console import Console

    from selma.report.tables import print_trials

    if found:
        print_trials(found, Console())


@app.command()
def convert(
    adapter: Annotated[Path, typer.Argument(metavar="IN", help="A file or a PEFT folder.")],
    to: Annotated[
        str,
        typer.Option(
            help="diffusers, kohya, peft; of rotations selma or peft; or fused (a pipeline folder)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where it goes.")],
    base: Base = None,
    coft_eps: Annotated[
        float | None,
        typer.Option(
            help="What a checkpoint of the released control code was trained with --coft."
        ),
    ] = None,
) -> None:
    """Write an adapter in another format, bit for bit; or fuse it into its base."""
    from selma.adapters import formats, fusing

    if to == "fused":
        typer.echo(fusing.fuse(adapter, out, base=base))
    else:
        for path in formats.convert(adapter, out, to=to, base=base, coft_eps=coft_eps):
            typer.echo(path)


@score.command()
def stage(config: Config, folder: Folder = None) -> None:
    """Let every model of a run draw the exam, and judge the pictures."""
    from selma import pipeline

    _print_scorecard(pipeline.score(_load(config, folder)))


Json = Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")]
Answers = Annotated[Path, typer.Option(help="CSV of answers, one row for each question.")]


@score.command()
def dsg(
    annotations: Annotated[Path, typer.Option(help="Questions: a CSV in DSG-1k's layout.")],
    answers: Answers,
    preset: Annotated[
        str, typer.Option(help="Rules: default, upstream (DSG's code) or selma-release.")
    ] = "default",
    model: Annotated[
        str | None, typer.Option(help="Whose pictures, where the file has several t2i_model.")
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
    _show_scores(score_dsg(annotations, answers, rules=rules, model=model), json)


@score.command()
def correlate(
    annotations: Annotated[Path, typer.Option(help="Questions: a CSV in DSG-1k's layout.")],
    answers: Answers,
    ratings: Annotated[Path, typer.Option(help="CSV: t2i_model, item_id, answer (a number).")],
    preset: Annotated[
        str, typer.Option(help="Rules: default, upstream (DSG's code) or selma-release.")
    ] = "default",
    json: Json = None,
) -> None:
    """How well DSG scores agree with people's ratings of the same pictures."""
    from selma.scores.given import rules_of
    from selma.scores.human import dsg_agreement
    from selma.workspace import write_json

    found = dsg_agreement(annotations, answers, ratings, rules=rules_of(preset, {}))
    if json:
        write_json(json, found)
    typer.echo(", ".join(f"{name} {value}" for name, value in found.items()))


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
        from selma.backbones.matching import load_matcher

        nearest = load_matcher(matcher)
    found = score_tifa(read_tifa(questions), read_tifa_answers(answers), matcher=nearest)
    _show_scores(found | {"matcher": matcher}, json)


@score.command("images")
def pictures(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Pictures named <item_id>.png or .jpg.")
    ],
    benchmark: Annotated[
        str, typer.Option(help="toybox, or a CSV in DSG-1k's layout.")
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
        str, typer.Option(help="What a missing picture does: refuse, left_out or zero.")
    ] = "refuse",
    vqascore: Annotated[
        str | None, typer.Option(help="Also ask about the whole prompt: plain or vqascore.")
    ] = None,
    json: Json = None,
) -> None:  # fmt: skip
    """Ask a judge about a folder of pictures, and score what it says."""
    from selma.scores.given import rules_of
    from selma.scores.images import judge_from, score_images

    named = {"zeroing": zeroing, "average": average, "missing": missing}
    found = score_images(
        folder,
        benchmark=benchmark,
        split=split,
        judge=judge_from(judge),
        rules=rules_of(preset, {rule: choice for rule, choice in named.items() if choice}),
        answers=answers,
        vqascore=vqascore,
    )
    _show_scores(found, json)


@app.command()
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
    """Let a language model write questions about pictures of your prompts."""
    from selma.report.tables import print_questions
    from selma.scores.benchmarks import read_benchmark
    from selma.scores.questions.settings import backend_of, questions_config
    from selma.scores.questions.writing import write_questions

    settings = questions_config(
        style=style,
        backend=backend_of(backend, model=model, base_url=base_url),
        attempts=attempts,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    print_questions(write_questions(read_benchmark(prompts), settings, out), out)


@score.command()
def hps(
    pictures: Annotated[
        Path, typer.Argument(help="Folder with anime, concept-art, paintings and photo.")
    ],
    prompts: Annotated[Path, typer.Option(help="Folder with anime.json and the like.")],
    model: Annotated[str, typer.Option(help="HPS's weights: a folder or a Hub id.")],
    version: Annotated[str, typer.Option(help="2.0 or 2.1; they are not comparable.")] = "2.1",
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id, where the weights have none.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    antialias: Annotated[
        bool, typer.Option(help="Make pictures smaller as torchvision since 0.17 does.")
    ] = True,
    json: Json = None,
) -> None:
    """Score HPS's benchmark: pictures in four styles, one mean over all."""
    from rich.console import Console

    from selma.backbones.preference import load_preference, settings_of
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
    found = score_hps(pictures, read_hps_prompts(prompts), load_preference(settings))
    if json:
        write_json(json, found)
    print_hps(found, Console())


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
    from selma.backbones.converting import convert_weights

    made = convert_weights(source, out, kind=kind, tokenizer=tokenizer, config=config)
    typer.echo(f"Weights: {made}")


@app.command()
def report(config: Config, folder: Folder = None) -> None:
    """Stage 6: write what was found as one page."""
    from selma import pipeline

    typer.echo(f"Report: {pipeline.report(_load(config, folder))}")


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
) -> None:
    """Show what a run has, is missing, or holds with other settings."""
    from selma.runfile import read_run_file

    _show(read_run_file(run))


@app.command()
def check(config: Config, folder: Folder = None) -> None:
    """Find every mistake in the settings, without loading a model."""
    from selma.preflight import check

    check(_load(config, folder))
    typer.echo(f"{config}: no mistakes found.")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")],
    adapter: Annotated[
        list[Path] | None,
        typer.Option(help="File or folder of an adapter; several are applied in their order."),
    ] = None,
    strength: Annotated[
        list[float] | None, typer.Option(help="One for each adapter; 1 if left out.")
    ] = None,
    sur: Annotated[
        Path | None, typer.Option(help="File or folder of a SUR-adapter, for plain prompts.")
    ] = None,
    sur_strength: Annotated[
        float, typer.Option(min=0, help="Of --sur; 0 is the base model.")
    ] = 1.0,
    sur_negative: Annotated[
        str, typer.Option(help="What --sur does to the empty prompt: alone, adapted, released.")
    ] = "alone",
    base: Annotated[str, typer.Option(help='"toybox", a diffusers folder or a Hub id.')] = "toybox",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 50,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance.")] = 7.5,
    count: Annotated[int, typer.Option("-n", min=1, help="How many pictures.")] = 1,
    out: Annotated[Path, typer.Option(help="PNG; numbered where there are several.")] = Path(
        "picture.png"
    ),
) -> None:
    """Draw one prompt, with or without adapters."""
    from selma import pipeline
    from selma.config.networks import BaseConfig
    from selma.config.sur import sur_drawing

    pictures = pipeline.generate(
        prompt,
        base=BaseConfig(model=base),
        adapter=adapter,
        strengths=strength or (),
        sur=sur,
        reading=sur_drawing(strength=sur_strength, negative=sur_negative),
        seed=seed,
        steps=steps,
        guidance=guidance,
        count=count,
    )
    for path in pipeline.save_pictures(pictures, out, count=count):
        typer.echo(path)


@app.command()
def memory(
    config: Config,
    limit: Annotated[
        float | None, typer.Option(help="GiB that the device has; found out if left out.")
    ] = None,
) -> None:
    """Estimate what a run needs of its device's memory; say what to change if it is too much."""
    from rich.console import Console

    from selma import pipeline
    from selma.report.tables import print_memory

    most = None if limit is None else int(limit * 2**30)
    needs, changes = pipeline.memory(_load(config, None), most)
    print_memory(needs, changes, most, Console())


FinishedRun = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Licence = Annotated[
    str | None, typer.Option("--license", help="The Hub's name of one; the base's if left out.")
]


@app.command()
def card(run: FinishedRun, licence: Licence = None) -> None:
    """Write the merged adapter's model card, with recipe, scores and pictures."""
    from selma.publishing.card import write_card

    for path in write_card(run, licence=licence).files:
        typer.echo(path)


@app.command()
def push(
    run: FinishedRun,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="If the repository is new.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    licence: Licence = None,
) -> None:
    """Upload the merged adapter with its card to the Hub, in one commit."""
    from selma.publishing.pushing import push

    sent = push(run, repository, private=private, dry_run=dry_run, licence=licence)
    for name, size in sent.files.items():
        typer.echo(f"{name}  {size} bytes")
    typer.echo(f"Nothing was sent to {repository}." if sent.url is None else sent.url)


@app.command()
def bases(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A folder, a Hub id or a short name.")
    ] = None,
) -> None:
    """List the base models by short name, or show what a model's own configs say that it is."""
    from rich.console import Console

    from selma.backbones.bases import BASES
    from selma.report.tables import print_architecture, print_bases

    if model is None:
        return print_bases(BASES.values(), Console())
    from selma.backbones.base_files import own_architecture
    from selma.config.networks import BaseConfig

    return print_architecture(own_architecture(BaseConfig(model=model)), BASES, Console())


StudiedRun = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
StudyName = Annotated[str, typer.Option(help="Which study of the run: RUN/study/<name>.sqlite.")]


@study.command()
def serve(
    run: StudiedRun,
    prompts: Annotated[int, typer.Option(min=1, help="How many, evenly over the groups.")] = 200,
    model: Annotated[str, typer.Option(help="Whose wins are counted.")] = "merged",
    against: Annotated[str, typer.Option(help="What it is held against.")] = "base",
    seed: Annotated[int, typer.Option(min=0, help="Of each annotator's order.")] = 0,
    name: StudyName = "votes",
    host: Annotated[
        str, typer.Option(help="Any other than this machine's own is open to everybody.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8642,
) -> None:
    """Serve the page on which people vote; the same command goes on where it was stopped."""
    from selma.study.opening import serve_study

    serve_study(
        run,
        models=(against, model),
        prompts=prompts,
        seed=seed,
        name=name,
        host=host,
        port=port,
        say=typer.echo,
    )


@study.command("report")
def report_study(
    run: StudiedRun,
    name: StudyName = "votes",
    json: Json = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write each vote to this file.")] = None,
) -> None:
    """Show win, lose and tie for each group, with intervals and how far annotators agree."""
    from rich.console import Console

    from selma.study.ballot import read_ballot
    from selma.study.database import study_file
    from selma.study.summary import print_summary, summarise, write_votes
    from selma.workspace import write_json

    ballot = read_ballot(study_file(run, name))
    found = summarise(ballot)
    if json:
        write_json(json, found.model_dump(mode="json"))
    if csv:
        write_votes(csv, ballot)
    print_summary(found, Console())


@sur.command("collect")
def collect_triples(config: Config, folder: Folder = None) -> None:
    """Collect triples of plain prompt, keyword prompt and picture; count what is rejected."""
    from selma import understanding

    triples, rejected = understanding.collect(_load(config, folder))
    typer.echo(f"{len(triples)} triples: {triples[0].image.parent}")
    for reason, count in rejected.items():
        typer.echo(f"  rejected, {reason}: {count}")


@sur.command("train")
def train_sur(config: Config, folder: Folder = None) -> None:
    """Train the adapter on the collected triples."""
    from selma import understanding

    typer.echo(f"SUR-adapter: {understanding.train(_load(config, folder)).folder}")


@sur.command("draw")
def draw_sur(
    config: Config,
    folder: Folder = None,
    experts: Annotated[
        bool, typer.Option("--experts", help="Also with the run's merged experts.")
    ] = False,
) -> None:
    """Draw the exam with the adapter and without."""
    from selma import understanding

    for name, place in understanding.draw(_load(config, folder), experts=experts).items():
        typer.echo(f"{name}: {place}")


@sur.command("convert")
def convert_sur(
    source: Annotated[Path, typer.Argument(metavar="PT", help="A checkpoint of the release.")],
    out: Annotated[Path, typer.Argument(help="Folder for the adapter's file.")],
    weight: Annotated[
        float, typer.Option(min=0, help="adapter_weight; the release keeps it in a folder's name.")
    ],
    attention: Annotated[
        str, typer.Option(help="What its encoder looks across: batch as released, or tokens.")
    ] = "batch",
) -> None:
    """Turn a released checkpoint into a SUR-adapter's file; nothing in it is run."""
    from selma.adapters.sur_files import convert_released

    typer.echo(convert_released(source, out, weight=weight, attention=attention))


Known = Annotated[str, typer.Argument(metavar="NAME", help="dsg-1k or tifa-v1.0.")]


@data.command()
def fetch(
    name: Known,
    to: Annotated[Path | None, typer.Option(help="Folder; data/NAME if not given.")] = None,
) -> None:
    """Fetch a benchmark's files, each checked by its checksum."""
    from selma.scores.benchmarks.fetching import fetch, fetchable, told

    benchmark = fetchable(name)
    for line in told(fetch(benchmark, to or Path("data") / benchmark.name)):
        typer.echo(line)


@data.command()
def verify(
    name: Known,
    folder: Annotated[Path | None, typer.Option(help="Folder; data/NAME if not given.")] = None,
) -> None:
    """Read a benchmark's files and compare their checksums."""
    from selma.scores.benchmarks.fetching import fetchable, told, verify

    benchmark = fetchable(name)
    for line in told(verify(benchmark, folder or Path("data") / benchmark.name)):
        typer.echo(line)


@toybox.command()
def path() -> None:
    """Print the folder of the embedded models."""
    from selma.toybox import weights_folder

    typer.echo(weights_folder())


class Stopped(BaseException):
    """A signal asked for the end; not an Exception, so that no library swallows it."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


def main() -> NoReturn:
    """Runs the command; an error of ours is its message and its exit code, without a traceback."""
    from selma.errors import SelmaError

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        app()
        sys.exit(0)
    except SelmaError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except Stopped as stopped:
        typer.echo(
            "Stopped. What is finished is kept: the same command goes on from here.", err=True
        )
        sys.exit(stopped.exit_code)


def _stop(number: int, frame: object) -> None:
    # A second signal ends the process at once; whatever is half-written is made again.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise Stopped(number)


def _load(config: Path, folder: Path | None) -> RunConfig:
    from selma.config import load_config

    settings = load_config(config)
    return settings if folder is None else settings.model_copy(update={"folder": folder})


def _show(settings: RunConfig) -> None:
    from rich.console import Console

    from selma.standing import standings, table

    Console().print(table(standings(settings)))


def _show_scores(found: dict[str, Any], json: Path | None) -> None:
    from rich.console import Console

    from selma.report.tables import print_given_scores
    from selma.workspace import write_json

    if json:
        write_json(json, found)
    print_given_scores(found, Console())


def _print_scorecard(scorecard: Scorecard) -> None:
    from rich.console import Console

    from selma.report.tables import print_scorecard

    print_scorecard(scorecard, Console())
