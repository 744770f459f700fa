"""How long the answers to a shard's prompts will be, as far as earlier rounds tell: so that the longest shards go first.

Only receipts are read: what a shard's answers took is put down to its prompts in equal parts. A prompt that was never asked
counts as the mean of those that were; where none was, nothing is known and shards keep their order. Nothing but the order
depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.sets import PromptSets, rounds_with_same_prompts
from bcpg_cluster.records import Prompt, Receipt
from bcpg_cluster.run.recovery.prompt_tables import dealt, measured_prompts
from bcpg_cluster.stages.graph import StageSpec
from bcpg_cluster.store.journals.state import ManifestState

_Shards = Sequence[Sequence[Prompt]]


def expected_tokens(
    config: Config, sets: PromptSets, state: ManifestState, round_: int, stages: Sequence[StageSpec]
) -> dict[int, float]:
    """Response tokens of each shard that is still to be answered; empty where earlier rounds say nothing of any.

    Args:
        stages: those of the round, or of its evaluation.
    """
    unsealed = [stage.name for stage in stages if (round_, stage.output) not in state.sealed]
    if "generate" in unsealed:
        known = _known(_earlier_rounds(config, sets, state, round_))
        return _expected(known, dealt(config, sets, round_)) if known else {}
    if "evaluate" in unsealed:
        shards = measured_prompts(config, sets)
        return _expected(_known(_earlier_evaluation(state, round_, shards)), shards)
    return {}


def _known(earlier: Iterator[tuple[_Shards, Mapping[int, Receipt]]]) -> dict[str, float]:
    """Tokens of the answers to each prompt, by the latest that there are: they say most of the next."""
    known: dict[str, float] = {}
    for shards, receipts in earlier:
        for prompt_id, tokens in _by_prompt(shards, receipts):
            known.setdefault(prompt_id, tokens)
    return known


def _expected(known: Mapping[str, float], shards: _Shards) -> dict[int, float]:
    if not known:
        return {}
    mean = fmean(known.values())
    return {
        number: sum(known.get(prompt.prompt_id, mean) for prompt in prompts) for number, prompts in enumerate(shards)
    }


def _earlier_rounds(
    config: Config, sets: PromptSets, state: ManifestState, round_: int
) -> Iterator[tuple[_Shards, Mapping[int, Receipt]]]:
    """Rounds that asked some of the same prompts, the latest first: their shards, and the receipts of the answers."""
    for number in rounds_with_same_prompts(len(sets.train), round_, config.prompts.per_round):
        receipts = state.shards.get((number, "rollouts"), {})
        if receipts:
            yield dealt(config, sets, number), dict(receipts.items())


def _earlier_evaluation(
    state: ManifestState, version: int, shards: _Shards
) -> Iterator[tuple[_Shards, Mapping[int, Receipt]]]:
    """The last evaluation before this one: it measures the same shards every time."""
    earlier = max(
        # a training in another thread may be adding a table
        (number for number, table in list(state.shards) if table == "eval_rollouts" and number < version),
        default=-1,
    )
    yield shards, dict(state.shards.get((earlier, "eval_rollouts"), {}).items())


def _by_prompt(shards: _Shards, receipts: Mapping[int, Receipt]) -> Iterator[tuple[str, float]]:
    for number, prompts in enumerate(shards):
        if number in receipts:
            tokens = receipts[number].metrics.get("tokens", 0.0) / len(prompts)
            yield from ((prompt.prompt_id, tokens) for prompt in prompts)
