"""Whether a text is (nearly) one of the benchmark's: training must not see what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from selma.prompts.novelty import SimilarityIndex


class BenchmarkTexts:
    """The benchmark's texts; `contains` tells whether ROUGE-L F against any of them is above the
    threshold. A threshold of None is off."""

    def __init__(self, texts: Sequence[str], *, threshold: float | None) -> None:
        self._index = None if threshold is None else SimilarityIndex(threshold)
        if self._index is not None:
            for text in texts:
                self._index.add(text)

    def contains(self, text: str) -> bool:
        """Whether the text is one of the benchmark's, or too close to one."""
        return self._index is not None and self._index.similar(text)


index_of = lru_cache(maxsize=1)(BenchmarkTexts)
"""The same of a tuple of texts: made once for all skills."""
