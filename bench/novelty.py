"""The filter of near-duplicates beside the released program's (B1), and how it grows (B2).

    .venv/bin/python bench/novelty.py
    .venv/bin/python bench/novelty.py --captions 200 --sample 5        # a minute

The released program compares each new caption with all that are kept, in a pool of 16 processes
that it opens for that caption alone; ROUGE-L is a table filled in Python. Restated here. The plain
loop is the same arithmetic without the pool, and with tokens kept. The pool is timed on a sample of
the captions, each against what was kept by then; its time for all is that times their number.
"""

from __future__ import annotations

import math
import random
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import accumulate
from multiprocessing import Pool
from typing import Annotated

import typer
from rapidfuzz.distance import Indel, LCSseq
from rapidfuzz.process import extract_iter
from rich.console import Console
from rich.table import Table
from turns import Turns, cpu_seconds, in_turn

from selma.prompts.novelty import SimilarityIndex, over, rouge_words

THRESHOLD = 0.8
WORKERS = 16
NEAR = 0.35
"""Share of captions that are an earlier one with a word or two replaced."""


def main(
    captions: Annotated[int, typer.Option(min=50)] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Sets of captions.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="For each set.")] = 2,
    sample: Annotated[int, typer.Option(min=2, help="Captions that the pool is timed on.")] = 20,
    largest: Annotated[int, typer.Option(min=1000, help="Captions of the last size.")] = 8000,
    exact: Annotated[int, typer.Option(help="Captions that are also compared each with all.")] = (
        10_000
    ),
) -> None:
    """Print both tables; fail where the two sides keep different captions."""
    turns, pool, same = Turns(), [], True
    for seed in range(seeds):
        texts = made_up(captions, seed)
        found: dict[str, list[str]] = {}
        ours(texts)  # so that both are warm; a loop of plain Python needs no warming
        turns.add(
            in_turn(
                {
                    "selma": partial(remember, found, "selma", ours, texts),
                    "plain loop": partial(remember, found, "plain", plain, texts),
                },
                rounds=rounds,
                warm=False,
            )
        )
        kept = found["selma"]
        same &= kept == found["plain"]
        seconds, agrees = pooled(texts, kept, sample)
        pool.append(seconds * captions)
        same &= agrees
    turns.show(
        f"{captions} captions, {seeds} sets",
        note=f"With the pool: {min(pool):.0f} to {max(pool):.0f} s, from {sample} captions a set, "
        f"{min(pool) / max(turns.seconds['selma']):.0f} times ours or more.",
    )
    for kind, texts_of in {"440 words": made_up, "50,000 words by Zipf's law": by_zipf}.items():
        Console().print(growth(largest, kind, texts_of))
    texts = by_zipf(exact, 0)
    same &= ours(texts) == compared_with_all(texts)
    Console().print("Kept captions are " + ("the same." if same else "NOT THE SAME."))
    raise typer.Exit(0 if same else 1)


def remember(
    found: dict[str, list[str]],
    side: str,
    novel: Callable[[list[str]], list[str]],
    texts: list[str],
) -> None:
    found[side] = novel(texts)


def made_up(count: int, seed: int) -> list[str]:
    """Captions of about twelve words of a vocabulary with a long tail, near-duplicates among
    them."""
    pick = random.Random(seed)
    words = [f"{a}{b}{c}" for a in "bdgklmnprst" for b in "aeiou" for c in "klmnprst"]
    pick.shuffle(words)
    weights = [1 / (rank + 5) for rank in range(len(words))]
    found: list[str] = []
    for _ in range(count):
        if found and pick.random() < NEAR:
            caption = pick.choice(found).split()
            for _ in range(pick.randint(1, 3)):
                caption[pick.randrange(len(caption))] = pick.choice(words)
        else:
            length = min(30, max(4, round(pick.gauss(12, 4))))
            caption = pick.choices(words, weights, k=length)
        found.append(" ".join(caption))
    return found


def by_zipf(count: int, seed: int, *, mean: int = 12, vocabulary: int = 50_000) -> list[str]:
    """Captions of words by Zipf's law, as frequent as in a language, near-duplicates among them."""
    pick = random.Random(seed)
    bounds = list(accumulate(1 / (rank + 3) for rank in range(vocabulary)))
    words = [f"w{rank}" for rank in range(vocabulary)]
    found: list[str] = []
    for _ in range(count):
        if found and pick.random() < NEAR:
            caption = pick.choice(found).split()
            for _ in range(pick.randint(1, 3)):
                caption[pick.randrange(len(caption))] = pick.choices(words, cum_weights=bounds)[0]
        else:
            length = min(30, max(4, round(pick.gauss(mean, mean / 3))))
            caption = pick.choices(words, cum_weights=bounds, k=length)
        found.append(" ".join(caption))
    return found


def compared_with_all(texts: list[str]) -> list[str]:
    """`plain` in compiled code, as many as 10,000 take minutes there: no index between."""
    letters: dict[str, str] = {}
    kept: list[str] = []
    coded: list[str] = []
    for text in texts:
        new = "".join(letters.setdefault(word, chr(256 + len(letters))) for word in text.split())
        near = extract_iter(
            new, coded, scorer=Indel.normalized_similarity, score_cutoff=THRESHOLD - 0.001
        )
        if not any(
            over(LCSseq.similarity(new, old), len(new), len(old), Fraction(4, 5), "released")
            for old, _, _ in near
        ):
            kept.append(text)
            coded.append(new)
    return kept


def ours(texts: list[str]) -> list[str]:
    index, kept = SimilarityIndex(THRESHOLD, "released"), []
    for text in texts:
        if not index.similar(text):
            index.add(text)
            kept.append(text)
    return kept


def plain(texts: list[str]) -> list[str]:
    """Each caption against all that are kept; no more than the highest F counts."""
    kept: list[str] = []
    tokens: list[list[str]] = []
    for text in texts:
        new = rouge_words(text)
        if not tokens or max(rouge_l(new, old) for old in tokens) <= THRESHOLD:
            kept.append(text)
            tokens.append(new)
    return kept


def pooled(texts: list[str], kept: list[str], sample: int) -> tuple[float, bool]:
    """Seconds for one caption with a pool of its own, and whether it is kept by both."""
    step = max(1, len(texts) // sample)
    chosen = range(step - 1, len(texts), step)
    keeps, place = set(kept), {text: number for number, text in enumerate(texts)}
    began, same = cpu_seconds(), True
    for number in chosen:
        before = [rouge_words(text) for text in kept if place[text] < number]
        with Pool(WORKERS) as pool:
            scores = pool.map(partial(rouge_l, rouge_words(texts[number])), before)
            pool.close()
            pool.join()  # or its time would not be counted
        same &= (max(scores, default=0.0) <= THRESHOLD) == (texts[number] in keeps)
    return (cpu_seconds() - began) / len(chosen), same


def rouge_l(target: list[str], prediction: list[str]) -> float:
    """F of the longest common subsequence, its table filled row by row as rouge_score does."""
    if not target or not prediction:
        return 0.0
    rows, columns = len(target), len(prediction)
    table = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            if target[i - 1] == prediction[j - 1]:
                table[i][j] = table[i - 1][j - 1] + 1
            else:
                table[i][j] = max(table[i - 1][j], table[i][j - 1])
    common = table[rows][columns]
    if not common:
        return 0.0
    precision, recall = common / columns, common / rows
    return 2 * precision * recall / (precision + recall)


def growth(largest: int, kind: str, texts_of: Callable[[int, int], list[str]]) -> Table:
    """Seconds and memory by the number of captions, and the exponent between the ends."""
    table = Table("captions", "kept", "seconds", "peak MB", title=f"how it grows: {kind}")
    sizes = [largest // 8, largest // 4, largest // 2, largest]
    seconds = []
    for size in sizes:
        texts = texts_of(size, 0)
        found = in_turn({"selma": partial(ours, texts)}, rounds=3).seconds["selma"]
        seconds.append(sorted(found)[1])
        tracemalloc.start()
        kept = len(ours(texts))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        table.add_row(str(size), str(kept), f"{seconds[-1]:.3f}", f"{peak / 1e6:.1f}")
    exponent = math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])
    table.caption = f"exponent {exponent:.2f}"
    return table


if __name__ == "__main__":
    typer.run(main)
