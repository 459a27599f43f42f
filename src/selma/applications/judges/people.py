"""A judge's scores of images held against people's votes on them.

5-scores/judge-check/people-answers/<setting>/    the judge's answers, each kept
5-scores/judge-check/people/<setting>/people.json  `records.judges.PeopleCheck`
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selma import row_files
from selma.backbones.judges.judge import Judge
from selma.backbones.judges.matching import load_matcher, matcher_identity
from selma.config import RunConfig
from selma.errors import DataError
from selma.ids import listed
from selma.image_files import OPENER, open_image
from selma.image_names import list_images
from selma.manifests import file_sha256
from selma.paths import AnyPath, as_path
from selma.record_files import read_record, read_rows
from selma.records.benchmarks import Answer, BenchmarkPrompt
from selma.records.judges import Agreement, PeopleCheck
from selma.records.rows import PromptAnswers
from selma.records.scores import Zeroing
from selma.row_files import Row, fill_rows
from selma.scores import faithfulness
from selma.scores.agreement import LEAST, agreement, with_both
from selma.scores.answering import (
    ANSWERS,
    answered,
    answers_of,
    has_choices,
    unread_recipe,
    warn_of_unread,
)
from selma.scores.benchmarks import benchmark_of, counted, read_benchmark
from selma.scores.benchmarks.layouts import Rules, rules_named
from selma.scores.describing import CHECKS, PEOPLE
from selma.scores.tifa import match_choices
from selma.scores.votes import ImageKey, Votes, read_scores, read_votes
from selma.workspace import SCORES, Item, Workspace, recipe_key, write_json


@dataclass(frozen=True)
class Voted:
    """Images on which people voted, and what is asked about them."""

    votes: Votes
    prompts: Mapping[str, BenchmarkPrompt]
    """Prompt id → the prompt with its questions."""
    rules: Rules
    zeroing: Zeroing
    images: Mapping[ImageKey, Path]
    words: str
    """Wording of multiple-choice questions."""
    matcher: str | None
    """Whose choice a free answer to one counts as."""

    @property
    def asked(self) -> list[BenchmarkPrompt]:
        """The prompt of each image, with the id <model>/<prompt id>."""
        return [
            self.prompts[id].model_copy(update={"id": f"{model}/{id}"}) for model, id in self.images
        ]


def voted_images(
    config: RunConfig, votes: AnyPath, images: AnyPath, *, benchmark: str | None = None
) -> Voted:
    """The images with votes. They lie in a folder for each model, named by their prompts.

    benchmark: the prompts with their questions; None is the votes' own file where it holds them,
    else the config's. Raises DataError, ConfigError.
    """
    known, folder = read_votes(votes), as_path(images)
    named = benchmark or (str(votes) if known.has_prompts else config.scores.benchmark)
    row = benchmark_of(named)
    every = row.prompts(config.scores.split) if row.prompts is not None else read_benchmark(named)
    rules = rules_named(row, config.scores)
    by_id = {prompt.id: prompt for prompt in counted(every, rules, named=named)}
    prompts = {
        id: by_id[own]
        for id in {id for _, id in known.ratings}
        if (own := id if id in by_id else known.other_ids.get(id, id)) in by_id
    }
    if not prompts:
        strangers = listed(sorted({id for _, id in known.ratings}), by_id)
        raise DataError(
            f"{votes} must have votes on prompts of {named}, but has some on {strangers}. Name "
            "the benchmark that they are of: --benchmark."
        )
    if silent := [prompt.id for prompt in prompts.values() if not prompt.questions]:
        raise DataError(f"Every prompt of {named} needs questions, but {silent[0]} has none.")
    files = {
        (model, id): file
        for model in dict.fromkeys(model for model, _ in known.ratings)
        for id, file in _files(folder, model, known, prompts).items()
    }
    if len(files) < LEAST:
        wanted = next((model, id) for model, id in known.ratings if id in prompts)
        raise DataError(
            f"{folder} must hold three images or more that people voted on, in a folder for each "
            f"model and named by their prompts, such as {'/'.join(wanted)}.png, but has "
            f"{len(files)}."
        )
    choices = has_choices([*prompts.values()])
    return Voted(
        known,
        prompts,
        rules,
        rules.zeroing or config.scores.zeroing,
        files,
        words=config.scores.choices_prompt,
        matcher=config.scores.matcher if choices else None,
    )


def _files(
    folder: Path, model: str, votes: Votes, prompts: Mapping[str, BenchmarkPrompt]
) -> dict[str, Path]:
    """Prompt id → the image of this model, for those with votes."""
    of_model = folder / model
    if Path(model).name != model or not of_model.is_dir():
        return {}
    by_name: dict[str, Path] = {}
    for path in list_images(of_model).images:
        if path.stem in by_name:
            raise DataError(f"{of_model} has several images of one prompt: {path.stem}.")
        by_name[path.stem] = path
    names = {id: (id, votes.other_ids.get(id, id)) for m, id in votes.ratings if m == model}
    return {
        id: by_name[name]
        for id, either in names.items()
        if id in prompts and (name := next((n for n in either if n in by_name), None))
    }


def check_by_people(
    judge: Judge, setting: str, voted: Voted, folder: Workspace, *, resamples: int, seed: int
) -> PeopleCheck:
    """Ask the judge about the images, each answer kept, and hold its scores against the votes."""
    asked = _answers(judge, setting, voted, folder)
    item = folder.item(
        SCORES,
        CHECKS,
        "people",
        setting,
        recipe={
            "answers": asked.key,
            "votes": recipe_key({" ".join(k): v for k, v in voted.votes.ratings.items()}),
            "measure": voted.rules.measure.label,
            "zeroing": voted.zeroing,
            "matcher": voted.matcher and matcher_identity(voted.matcher),
            "resamples": resamples,
            "seed": seed,
        },
    )
    if not item.done:
        rows = read_rows(asked.path / ANSWERS, PromptAnswers)
        scores, unread = _scores(rows, voted)
        check = held_against(
            scores,
            voted.votes.ratings,
            judge=judge.name,
            fingerprint=judge.fingerprint,
            measure=voted.rules.measure.label,
            skills=skills_of(voted.prompts),
            unread=unread,
            resamples=resamples,
            seed=seed,
        )
        file = item.begin() / PEOPLE
        write_json(file, check.model_dump(mode="json"))
        item.finish([file], {"images": check.every.images})
    return read_record(item.path / PEOPLE, PeopleCheck)


def _answers(judge: Judge, setting: str, voted: Voted, folder: Workspace) -> Item:
    prompts = voted.asked
    files = {p.id: file for p, file in zip(prompts, voted.images.values(), strict=True)}
    item = folder.item(
        SCORES,
        CHECKS,
        "people-answers",
        setting,
        recipe={
            "benchmark": recipe_key(
                {p.id: [[q.id, q.text, *q.choices, *q.spellings] for q in p.questions]
                 for p in prompts}
            ),
            "images": recipe_key({name: file_sha256(file) for name, file in files.items()}),
            "network": judge.fingerprint,
            "chunk": row_files.CHUNK,
            "opened": OPENER,
            "choices_prompt": voted.words if has_choices(prompts) else None,
            **unread_recipe(judge, prompts),
        },
        paid=(ANSWERS,) if getattr(judge, "paid", False) else (),
    )  # fmt: skip
    if not item.done:
        warn_of_unread(judge, prompts)

        def work(part: Sequence[BenchmarkPrompt]) -> list[Row]:
            opened = [open_image(files[prompt.id]) for prompt in part]
            rows = answered(judge, part, opened, voted.words)
            return [{key: row[key] for key in row if key != "prompt"} for row in rows]

        path = item.begin() / ANSWERS
        jobs = {prompt.id: prompt for prompt in prompts}
        fill_rows(path, jobs, work, key="prompt", title=f"{judge.name}: people's votes")
        item.finish([path], {"images": len(jobs)})
    return item


def _scores(rows: Sequence[PromptAnswers], voted: Voted) -> tuple[dict[ImageKey, float], float]:
    """Each image's score by the benchmark's measure, 0..1; per cent of answers that say nothing."""
    prompts, rules, answers = voted.asked, voted.rules, answers_of(rows)
    if voted.matcher:
        answers = match_choices(prompts, answers, load_matcher(voted.matcher))
    verdicts = faithfulness.verdicts_by_prompt(
        prompts, answers, zeroing=voted.zeroing, reading=rules.reading
    )
    shares = rules.measure.prompt_scores(rules.measure.points(answers, verdicts))
    unread = sum(_says_nothing(answer, verdicts[answer.prompt_id]) for answer in answers)
    scores = {image: shares[p.id] for image, p in zip(voted.images, prompts, strict=True)}
    return scores, round(100 * unread / len(answers), 4)


def _says_nothing(answer: Answer, verdicts: Mapping[str, str]) -> bool:
    """Of a question that is put for its answer's probability: whether none is told."""
    if answer.first:
        return not any(token for token, _ in answer.first)
    return verdicts[answer.question_id] == "unreadable"


def skills_of(prompts: Mapping[str, BenchmarkPrompt]) -> dict[str, tuple[str, ...]]:
    """Prompt id → its skills, or its group."""
    return {id: prompt.tags or (prompt.group,) for id, prompt in prompts.items()}


def check_scores(
    votes: AnyPath,
    scores: AnyPath,
    *,
    benchmark: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> PeopleCheck:
    """Scores that are there already held against the votes; nothing is asked.

    scores: CSV with t2i_model, item_id and score. Raises DataError.
    """
    known = read_votes(votes)
    named = benchmark or (str(votes) if known.has_prompts else None)
    prompts = {prompt.id: prompt for prompt in read_benchmark(named)} if named else {}
    return held_against(
        read_scores(scores),
        known.ratings,
        judge=as_path(scores).name,
        fingerprint="",
        measure="score",
        skills=skills_of(prompts),
        resamples=resamples,
        seed=seed,
    )


def held_against(
    scores: Mapping[ImageKey, float],
    ratings: Mapping[ImageKey, float],
    *,
    judge: str,
    fingerprint: str,
    measure: str,
    skills: Mapping[str, Sequence[str]],
    unread: float = 0.0,
    resamples: int = 10_000,
    seed: int = 0,
) -> PeopleCheck:
    """How scores agree with ratings of the same images; of skills whose images are fewer than
    three, nothing. Raises DataError unless three images have both."""
    images = with_both(scores, ratings)
    of_skill: dict[str, list[ImageKey]] = defaultdict(list)
    for image in images:
        for skill in skills.get(image[1], ()):
            of_skill[skill].append(image)

    def agrees(chosen: Sequence[ImageKey], tie: float | None = None) -> Agreement:
        by_metric, by_people = ([values[i] for i in chosen] for values in (scores, ratings))
        how: dict[str, Any] = {"tie": tie, "seed": seed, "resamples": resamples}
        return agreement([id for _, id in chosen], by_metric, by_people, **how)

    every = agrees(images)
    by_skill = {
        # One tie for all: chosen on few images, it would flatter them.
        skill: agrees(chosen, every.tie)
        for skill, chosen in sorted(of_skill.items())
        if len(of_skill) > 1 and len(chosen) >= LEAST
    }
    return PeopleCheck(
        judge=judge,
        fingerprint=fingerprint,
        measure=measure,
        models=tuple(dict.fromkeys(model for model, _ in images)),
        unread=unread,
        only_rated=len(ratings) - len(images),
        only_scored=len(scores) - len(images),
        every=every,
        skills=by_skill,
    )
