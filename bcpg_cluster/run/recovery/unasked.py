"""Judges of a round that were not asked about steps which other settings make them decide (``judges.*.after``)."""

from __future__ import annotations

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.counts import verdict_statuses
from bcpg_cluster.stages.weigh.consensus import consensus
from bcpg_cluster.stages.weigh.unasked import judges_to_ask
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.rows import verdicts_from
from bcpg_cluster.store.shards import shard_by_shard


def judges_to_ask_again(run_dir: RunPath, state: ManifestState, round_: int, config: Config) -> list[str]:
    """The judges whose verdicts of a round are not enough to weigh it by ``config``; none in a round without gaps."""
    names = (*config.voters, *config.measures)
    receipts = {name: state.receipts(round_, f"verdicts.{name}") for name in names}
    have_gaps = any(
        verdict_statuses(receipt.metrics)[VerdictStatus.NOT_ASKED]
        for of_judge in receipts.values()
        for receipt in of_judge
    )
    if not have_gaps:
        return []
    thresholds = {name: judge.threshold for name, judge in config.judges.items()}
    found: set[str] = set()
    for of_shard in shard_by_shard(run_dir, receipts):
        said = {name: verdicts_from(rows) for name, rows in of_shard.items()}
        for id_ in said[config.voters[0]]:
            voters, measures = ({name: said[name][id_] for name in of} for of in (config.voters, config.measures))
            decided = consensus(voters, thresholds, config.consensus_rule)
            for judges in judges_to_ask(decided, measures).values():
                found.update(judges)
    return [name for name in config.judge_pools if name in found]
