"""What became of each reply, in words, and what can be done where no more prompts come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from selma.backbones.language.model import Reply
from selma.config.prompts import PromptsConfig
from selma.plurals import counted
from selma.prompts.parsing import Parsed

AT_LIMIT = "_at_limit"
"""Ends the name of the outcome of a reply without captions that the limit on tokens ended."""

_WORDS = {
    "new": "with new prompts",
    "nothing_new": "with captions but no new prompt",
    "empty": "empty",
    "null": "without content",
    "thought": "with a thought but no answer",
    "refusal": "refused",
    "filtered": "stopped by the server's filter",
    "tool_call": "that call a tool",
    "cut": "without one whole caption",
    "blank": "without a word in their items",
    "unparsed": "without a list of captions",
}
_LOOK = "look at them in {replies}, and name a larger model or one that follows instructions"
_SILENT = "switch the model's thinking off, or name another model"
_ADVICE = {
    "empty": _SILENT,
    "null": _SILENT,
    "thought": _SILENT,
    "refusal": "change the skill's description or seeds, or name another model",
    "filtered": "change the skill's description or seeds, or name another model",
    "tool_call": "switch the server's tools off",
    "cut": _LOOK,
    "blank": _LOOK,
    "unparsed": _LOOK,
}
_LIMIT = "raise prompts.max_new_tokens ({limit} now), or switch the model's thinking off"
_MORE_NEWS = (
    "raise prompts.novelty.threshold or prompts.temperature, add seeds to the skill, name a larger "
    "model, or lower prompts.per_skill to what there is"
)
_TEXT_ADVICE = {
    "too_long": "raise the skill's max_words",
    "count_too_high": "raise the skill's max_count",
    "too_short": "lower the skill's min_words",
    "no_number": "show numbers in the skill's seeds, or leave its `must` out",
    "no_match": "show what the skill's pattern finds in its seeds, or widen it",
    "no_caption": "name a larger model, or set prompts.quality to null",
    "contaminated": "raise prompts.contamination_threshold, or change the skill's seeds, which are "
    "near to the benchmark's prompts",
}
"""What helps where captions are dropped for a reason; for all others, `_MORE_NEWS`."""


def outcome(reply: Reply, parsed: Parsed, *, new: int) -> str:
    """What became of one reply, of which `new` captions are kept as prompts."""
    if parsed.captions:
        return "new" if new else "nothing_new"
    name: str = parsed.outcome
    if name == "empty" and reply.silence:
        name = reply.silence
    return f"{name}{AT_LIMIT}" if reply.truncated else name


def counted_replies(outcomes: Mapping[str, int]) -> str:
    """All replies by what became of them: "21 replies: 21 empty, cut at the limit on tokens"."""
    parts = []
    for name, count in sorted(outcomes.items(), key=lambda entry: -entry[1]):
        words = _WORDS.get(name.removesuffix(AT_LIMIT), name)
        parts.append(f"{count} {words}{', cut at max_new_tokens' * name.endswith(AT_LIMIT)}")
    total = sum(outcomes.values())
    return f"{counted(total, 'reply', 'replies')}: {'; '.join(parts) or 'none'}"


def advice(
    outcomes: Mapping[str, int], dropped: Mapping[str, int], config: PromptsConfig, replies: Path
) -> str:
    """What can help, by what came most often instead of new prompts."""
    barren = Counter({name: count for name, count in outcomes.items() if name != "new"})
    name = barren.most_common(1)[0][0] if barren else "nothing_new"
    if name.endswith(AT_LIMIT):
        wish = _LIMIT
    elif name == "nothing_new":
        ours = {"blank", "cut", "surplus", "refusal"}
        texts = Counter({reason: n for reason, n in dropped.items() if reason not in ours})
        reason = texts.most_common(1)[0][0] if texts else ""
        wish = _TEXT_ADVICE.get(reason, _MORE_NEWS)
    else:
        wish = _ADVICE.get(name, _LOOK)
    wish = wish.format(limit=config.max_new_tokens, replies=replies)
    return f"{wish[0].upper()}{wish[1:]}; then run the same command again."
