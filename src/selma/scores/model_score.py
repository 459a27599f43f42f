"""A model's scores with intervals, and their differences to the base's, from its points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from selma.records.benchmarks import BenchmarkPrompt, Question
from selma.records.scores import Interval, ModelScore
from selma.scores import faithfulness, statistics
from selma.scores.measures import Measure, Points, question_mean
from selma.scores.statistics import by_prompt

Role = Literal["base", "expert", "merged", "other"]


class ModelIntervals:
    """Computes models' scores with intervals, all with the same resamples."""

    def __init__(
        self,
        asked: Sequence[BenchmarkPrompt],
        measure: Measure,
        *,
        seeds: int,
        seed: int,
        resamples: int,
        detailed: bool,
    ) -> None:
        self.asked = asked
        self.measure = measure
        self.seeds = seeds
        self.detailed = detailed
        self.bootstrap = {"seed": seed, "resamples": resamples}
        self._prompts = {prompt.id: prompt for prompt in asked}
        self._factors = measure.question_weights(asked)

    def model_score(
        self,
        model: str,
        role: Role,
        points: Points,
        clip: list[float] | None,
        *,
        base: tuple[Points, list[float] | None] | None,
        within: tuple[Points, Points | None] | None = None,
    ) -> ModelScore:
        """All scores of a model except preference.

        base: points and CLIP scores of the base; None for the base itself.  within: points as
        categories count them, and the base's; None where they are the same.
        """
        scores = self.measure.prompt_scores(points)
        in_categories, of_base = within or (points, base and base[0])
        fields: dict[str, Any] = {}
        if clip is not None:
            fields["clip"] = statistics.interval(by_prompt(clip, self.seeds), **self.bootstrap)
        if self.detailed:
            fields |= {
                "by_question": self._categories(points, of=_one_category)["all"],
                "details": self._categories(in_categories, of=faithfulness.detail),
            }
        if base is not None:
            fields |= self._differences(scores, points, clip, *base)
            fields["category_differences"] = self._categories(in_categories, of_base)
            if self.detailed:
                fields["detail_differences"] = self._categories(
                    in_categories, of_base, of=faithfulness.detail
                )
        return ModelScore(
            model=model,
            role=role,
            score=self.mean(scores),
            score_by_question=round(100 * question_mean(points), 6),
            categories=self._categories(in_categories),
            groups=self._groups(scores),
            per_prompt=self._per_prompt(scores),
            **fields,
        )

    def _differences(
        self,
        scores: Mapping[str, float],
        points: Points,
        clip: list[float] | None,
        base_points: Points,
        base_clip: list[float] | None,
    ) -> dict[str, Any]:
        before = self.measure.prompt_scores(base_points)
        change = {id: score - before[id] for id, score in scores.items()}
        fields: dict[str, Any] = {
            "difference": self.mean(change),
            "group_differences": self._groups(change),
        }
        if self.detailed:
            of_all = self._categories(points, base_points, of=_one_category)
            fields["by_question_difference"] = of_all["all"]
        if clip is not None and base_clip is not None:
            fields["clip_difference"] = statistics.paired_difference(
                by_prompt(clip, self.seeds), by_prompt(base_clip, self.seeds), **self.bootstrap
            )
        return fields

    def mean(self, scores: Mapping[str, float]) -> Interval:
        """The mean of prompts' scores, or of their differences, with its interval."""
        percent = 100 * by_prompt(scores.values(), self.seeds)
        weights = self.measure.weights([self._prompts[id] for id in scores][:: self.seeds])
        if weights is None:
            return statistics.interval(percent, **self.bootstrap)
        return statistics.interval(percent * [[w] for w in weights], weights, **self.bootstrap)

    def beside(self, points: Points, base: Points | None) -> tuple[Interval, Interval | None]:
        """The score alone, and its difference to the base's where there is one."""
        scores = self.measure.prompt_scores(points)
        if base is None:
            return self.mean(scores), None
        before = self.measure.prompt_scores(base)
        return self.mean(scores), self.mean({id: s - before[id] for id, s in scores.items()})

    def _per_prompt(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Prompt id → the mean over its images."""
        prompts = self.asked[:: self.seeds]
        means = by_prompt(scores.values(), self.seeds).mean(axis=1).tolist()
        return {prompt.id: mean for prompt, mean in zip(prompts, means, strict=True)}

    def _groups(self, scores: Mapping[str, float]) -> dict[str, Interval]:
        groups: dict[str, dict[str, float]] = {}
        for prompt in self.asked:
            for group in prompt.tags or (prompt.group,):
                groups.setdefault(group, {})[prompt.id] = scores[prompt.id]
        return {group: self.mean(members) for group, members in groups.items()}

    def _categories(
        self,
        after: Points,
        before: Points | None = None,
        *,
        of: Callable[[Question], str] = lambda question: question.category,
    ) -> dict[str, Interval]:
        """Category → mean over its questions; with `before`, the difference of the means."""
        base_rows = faithfulness.category_points(self.asked, before, of) if before else {}
        result = {}
        for category, rows in faithfulness.category_points(self.asked, after, of).items():
            base = {id: earned for id, (earned, _) in base_rows.get(category, {}).items()}
            points = [earned - base.get(id, 0) for id, (earned, _) in rows.items()]
            # All images of one prompt are asked the same questions.
            sizes = [float(questions) for _, questions in rows.values()][:: self.seeds]
            if self.measure.weigh is not None and of is not _one_category:
                factors = [self._factors[id] for id in rows]
                points = [p * factor for p, factor in zip(points, factors, strict=True)]
                sizes = [n * f for n, f in zip(sizes, factors[:: self.seeds], strict=True)]
            images = 100 * by_prompt(points, self.seeds)
            if self.measure.last_image and of is not _one_category:
                images = images[:, -1:]
            result[category] = statistics.interval(images, sizes, **self.bootstrap)
        return result


def _one_category(question: Question) -> str:
    """The same category for all questions."""
    return "all"
