"""The log-probs that an OpenAI-compatible endpoint returns with an answer.

``choices[].logprobs.content`` has an entry a token: its text, its log-prob, and the most probable tokens of its place
(https://platform.openai.com/docs/api-reference/chat/object).
"""

from __future__ import annotations

from typing import Any

from bcpg_cluster.stages.generate.protocol import TokenChoice
from bcpg_cluster.stages.judge.llm.verdict_odds import ScoredVerdict, scored_verdicts

_ROUNDING = 1e-3  # nats that a log-prob may be above 0


def read_verdicts(choice: Any) -> tuple[ScoredVerdict, ...] | None:
    """The verdicts in a completion's choice with their scores; ``None`` where no log-probs came with it.

    The client does not check what an endpoint sends: an entry that is not in the form has no log-probs.
    """
    entries = getattr(getattr(choice, "logprobs", None), "content", None)
    if not isinstance(entries, list) or not entries:
        return None
    texts = [token if isinstance(token := getattr(entry, "token", None), str) else "" for entry in entries]
    return scored_verdicts(texts, lambda index: _choice(entries[index]))


def _choice(entry: Any) -> TokenChoice | None:
    drawn, listed = _pair(entry), getattr(entry, "top_logprobs", None)
    top = [_pair(other) for other in listed] if isinstance(listed, list) else []
    known = [pair for pair in top if pair is not None]
    if drawn is None or not known or len(known) < len(top):
        return None
    return TokenChoice(
        drawn[1], tuple(pair for pair in known if pair[0] != drawn[0]), min(logprob for _, logprob in known)
    )


def _pair(entry: Any) -> tuple[str, float] | None:
    text, logprob = getattr(entry, "token", None), getattr(entry, "logprob", None)
    if not isinstance(text, str) or not isinstance(logprob, int | float) or isinstance(logprob, bool):
        return None
    return (text, min(float(logprob), 0.0)) if logprob <= _ROUNDING else None  # NaN is not
