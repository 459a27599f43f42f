"""A judge's answers where the right ones are known, and what they say of it.

5-scores/judge-check/images/               one PNG for each image, the same for every judge
5-scores/judge-check/answers/<setting>/    the judge's answers, each kept
5-scores/judge-check/<setting>/check.json  `records.judges.JudgeCheck`
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from selma.applications.judges import SCENES
from selma.applications.judges.asking import (
    CHANGED,
    NOTHING,
    OTHER,
    PLAIN,
    REWORDED,
    SAID,
    TURNED,
    Shown,
    everything,
)
from selma.applications.judges.people import check_by_people, voted_images
from selma.backbones.judges.judge import Judge
from selma.backbones.judges.loading import load_judge
from selma.config import RunConfig
from selma.config.scores import AnyJudge, ScoresConfig
from selma.image_files import png_bytes
from selma.paths import AnyPath
from selma.pipeline import opened
from selma.plurals import counted
from selma.record_files import read_record
from selma.records.benchmarks import Answer
from selma.records.judges import Checked, JudgeCheck
from selma.records.scores import Interval
from selma.scores import statistics
from selma.scores.answering import answer_item, benchmark_hash, read_answer_file
from selma.scores.describing import CHECK, CHECKS
from selma.scores.faithfulness import understood
from selma.toybox import WORLD
from selma.toybox.questions import CATEGORIES
from selma.workspace import SCORES, Item, Workspace, write_bytes, write_json

LEFT_OUT = "is counted as unread, and is neither a yes nor a no in what is found"
LEANS = 10.0
"""Points of `yes_bias`, and per cent of `nothing`, that are a fault."""
CONTRADICTS = 90.0
"""Per cent of `reworded` that are too few."""
MISREADS = 75.0
"""Per cent of `turned` that are too few."""


def check_judges(
    config: RunConfig,
    *,
    scenes: int = SCENES,
    votes: AnyPath | None = None,
    images: AnyPath | None = None,
    benchmark: str | None = None,
) -> dict[str, Checked]:
    """Setting → what was found of the run's judges; kept in its folder, and made once.

    scenes: at least 2.  votes, images, benchmark: see `people.voted_images`. Raises ConfigError,
    ModelError, DataError.
    """
    voted = None
    if votes is not None and images is not None:
        voted = voted_images(config, votes, images, benchmark=benchmark)
    shown = everything(scenes, seed=config.seed)
    how = {"resamples": config.scores.resamples, "seed": config.seed}
    with opened(config, make=[SCORES], checked=[]) as this:
        drawn = _images(shown, this.folder, seed=config.seed)
        checks = {}
        for setting, named in _judges(config.scores).items():
            judge = load_judge(named, setting=f"scores.{setting}")
            by_scenes = _checked(judge, setting, shown, drawn, this.folder, **how)
            by_people = voted and check_by_people(judge, setting, voted, this.folder, **how)
            checks[setting] = Checked(drawn=by_scenes, people=by_people or None)
        return checks


def _judges(scores: ScoresConfig) -> dict[str, AnyJudge]:
    """Setting → judge: all that report, each once, and the one that chooses."""
    judges: dict[str, AnyJudge] = {}
    for setting, judge in {**scores.judges, "choosing_judge": scores.choosing_judge}.items():
        if judge not in judges.values():
            judges[setting] = judge
    return judges


def _images(shown: Sequence[Shown], folder: Workspace, *, seed: int) -> Item:
    prompts = [each.prompt for each in shown]
    recipe = {"world": WORLD, "prompts": benchmark_hash(prompts), "seed": seed}
    item = folder.item(SCORES, CHECKS, "images", recipe=recipe)
    if not item.done:
        path = item.begin()
        files = [path / f"{each.prompt.id}.png" for each in shown]
        for file, each in zip(files, shown, strict=True):
            write_bytes(file, png_bytes(Image.fromarray(each.pixels)))
        item.finish(files, {"images": len(files)})
    return item


def _checked(
    judge: Judge,
    setting: str,
    shown: Sequence[Shown],
    images: Item,
    folder: Workspace,
    *,
    resamples: int,
    seed: int,
) -> JudgeCheck:
    prompts = [each.prompt for each in shown]
    what = f"{CHECKS}/answers"
    answered = answer_item(prompts, setting, images.path, judge, folder, what=what, unread=LEFT_OUT)
    item = folder.item(
        SCORES,
        CHECKS,
        setting,
        recipe={"answers": answered.key, "resamples": resamples, "seed": seed},
    )
    if not item.done:
        found = found_of(
            shown,
            read_answer_file(answered.path),
            judge=judge.name,
            fingerprint=judge.fingerprint,
            resamples=resamples,
            seed=seed,
        )
        file = item.begin() / CHECK
        write_json(file, found.model_dump(mode="json"))
        item.finish([file], {"questions": found.questions})
    return read_record(item.path / CHECK, JudgeCheck)


class _Said(NamedTuple):
    """One answer, and what it is to be held against."""

    scene: str
    fact: str
    image: str
    """SAID, CHANGED, OTHER or NOTHING."""
    way: str
    category: str
    right: str
    word: str | None
    """yes, no, or None for an answer that is neither."""


def found_of(
    shown: Sequence[Shown],
    answers: Iterable[Answer],
    *,
    judge: str,
    fingerprint: str,
    resamples: int = 10_000,
    seed: int = 0,
) -> JudgeCheck:
    """What these answers, to all questions of `shown`, say of the judge that gave them."""
    questions = {
        (s.prompt.id, q.id): (s.prompt.group, q) for s in shown for q in s.prompt.questions
    }
    said = []
    for answer in answers:
        group, question = questions[answer.prompt_id, answer.question_id]
        fact, _, way = question.id.partition("-")
        scene = answer.prompt_id if group == NOTHING else answer.prompt_id.partition("-")[0]
        word = understood(question, answer.text)
        said.append(_Said(scene, fact, group, way, question.category, question.answer, word))

    def share(chosen: Iterable[tuple[str, float]]) -> Interval | None:
        """The mean of (scene, value) with its interval over scenes."""
        values: dict[str, list[float]] = defaultdict(list)
        for scene, value in chosen:
            values[scene].append(value)
        if not values:
            return None
        totals, sizes = [sum(v) for v in values.values()], [len(v) for v in values.values()]
        return statistics.interval(totals, sizes, seed=seed, resamples=resamples)

    read = [each for each in said if each.word is not None]
    balanced = [e for e in read if e.way == PLAIN and e.image in (SAID, CHANGED)]
    word_of = {(e.scene, e.fact, e.image, e.way): e.word for e in read}
    measures: dict[str, Any] = {
        "right": share((e.scene, 100.0 * (e.word == e.right)) for e in balanced),
        "yes_bias": share((e.scene, 100.0 * (e.word == "yes") - 50) for e in balanced),
        "one_fact": share(_apart(word_of, CHANGED)),
        "other_image": share(_apart(word_of, OTHER)),
        "nothing": share((e.scene, 100.0 * (e.word == "yes")) for e in read if e.image == NOTHING),
        "turned": share(_beside(word_of, TURNED, lambda one, other: one != other)),
        "reworded": share(_beside(word_of, REWORDED, lambda one, other: one == other)),
    }
    categories: dict[str, Interval] = {
        category: found
        for category in CATEGORIES
        if (
            found := share(
                (e.scene, 100.0 * (e.word == e.right)) for e in balanced if e.category == category
            )
        )
    }
    check = JudgeCheck(
        judge=judge,
        fingerprint=fingerprint,
        scenes=len({e.scene for e in said if e.image == SAID}),
        images=len(shown),
        questions=len(said),
        unread=round(100 * (len(said) - len(read)) / len(said), 4),
        categories=categories,
        **measures,
    )
    return check.model_copy(update={"faults": tuple(_faults(check))})


_Words = Mapping[tuple[str, str, str, str], str | None]


def _apart(words: _Words, image: str) -> Iterable[tuple[str, float]]:
    """(scene, 100 x (yes of the image that shows a fact - yes of the other)), fact by fact."""
    for (scene, fact, group, way), word in words.items():
        other = words.get((scene, fact, image, way))
        if group == SAID and way == PLAIN and other is not None:
            yield scene, 100.0 * ((word == "yes") - (other == "yes"))


def _beside(
    words: _Words, way: str, fits: Callable[[str | None, str | None], bool]
) -> Iterable[tuple[str, float]]:
    """(scene, 100 where the answers to a question put plainly and this way fit each other)."""
    for (scene, fact, image, put), word in words.items():
        other = words.get((scene, fact, image, way))
        if put == PLAIN and other is not None:
            yield scene, 100.0 * fits(word, other)


def _faults(check: JudgeCheck) -> Iterable[str]:
    if check.right is None:
        yield "It read none of the questions."
        return
    blind = [m is not None and m.low <= 0 for m in (check.one_fact, check.other_image)]
    if all(blind):
        yield (
            "It does not look at the image: whatever an image shows, the same questions have the "
            "same answers, or answers by chance."
        )
    elif blind[0]:
        yield "It does not tell images apart that differ in one fact."
    if check.yes_bias and check.yes_bias.low > LEANS:
        yield "It leans to yes."
    if check.yes_bias and check.yes_bias.high < -LEANS:
        yield "It leans to no."
    if check.nothing and check.nothing.low > LEANS:
        yield "It sees things in images of one colour and of noise."
    if check.turned and check.turned.high < MISREADS:
        yield "It reads over the word that turns a question round."
    if check.reworded and check.reworded.high < CONTRADICTS:
        yield "It contradicts itself where a question is put in other words."


def sentences(check: JudgeCheck) -> list[str]:
    """Its faults, and what of the questions it could not read."""
    faults = list(check.faults) or ["Nothing is wrong with it here."]
    if check.unread:
        faults.append(
            f"It could not read {check.unread:.1f}% of {counted(check.questions, 'question')}."
        )
    return faults
