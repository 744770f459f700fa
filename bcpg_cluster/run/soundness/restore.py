"""Make damaged shards of past rounds again, where no engine is needed. One counts only if it is the same, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import BcpgError
from bcpg_cluster.records import Receipt
from bcpg_cluster.run.build.members import host_cpu
from bcpg_cluster.run.build.plugins import with_absolute_plugins
from bcpg_cluster.run.build.settings import weigh_settings
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.run.recovery.prompt_tables import dealt, measured_prompts, write_prompt_shard
from bcpg_cluster.run.soundness.faults import Fault, Subject
from bcpg_cluster.run.soundness.shard_faults import PROMPT_TABLES, accepted, restorable_stage
from bcpg_cluster.stages.graph import StageSpec
from bcpg_cluster.stages.job import StageJob, StageWorker
from bcpg_cluster.store.layout import new_attempt
from bcpg_cluster.store.whole_files import set_aside, take_away, write_whole


def restore_shards(subject: Subject, faults: Sequence[Fault]) -> list[str]:
    """Restore what of ``faults`` are shards, from the front of a round to its end; a sentence on each."""
    wanted = {fault.path for fault in faults}
    receipts = [receipt for receipt in accepted(subject) if receipt.path in wanted]
    if not receipts or subject.config is None:
        return []
    content = with_absolute_plugins(subject.config).model_dump(mode="json")
    done = []
    with closing(host_cpu(content)) as worker:
        for receipt in receipts:
            try:
                made = _make_again(subject, subject.config, worker, receipt)
            except BcpgError as error:
                done.append(f"{receipt.path}: could not be made again: {error}")
                continue
            done.append(_take(subject, receipt, made))
    return done


def _make_again(subject: Subject, config: Config, worker: StageWorker, receipt: Receipt) -> Receipt:
    """Write it under another attempt."""
    if receipt.table in PROMPT_TABLES:
        sets = read_all_prompts(config)
        is_train = receipt.table == "prompts"
        shards = dealt(config, sets, receipt.round) if is_train else measured_prompts(config, sets)
        prompts = shards[receipt.shard]
        return write_prompt_shard(subject.run_dir, receipt.table, receipt.round, receipt.shard, prompts)
    stage = restorable_stage(subject, receipt.table)
    assert stage is not None  # it is one of those by its fate
    return worker.run(_job(subject, config, stage, receipt))


def _job(subject: Subject, config: Config, stage: StageSpec, receipt: Receipt) -> StageJob:
    is_measured = stage.output.startswith("eval_")
    version = receipt.round if is_measured else receipt.round - 1
    return StageJob(
        subject.run_dir.absolute(),
        stage.name,
        stage.output,
        receipt.round,
        receipt.shard,
        new_attempt(),
        {table: subject.state.shards[receipt.round, table][receipt.shard] for table in stage.inputs},
        {"policy_version": version, "run_seed": config.seed, "weigh": weigh_settings(config)},
    )


def _take(subject: Subject, receipt: Receipt, made: Receipt) -> str:
    """Put it in the damaged one's place if it is what was accepted there."""
    try:
        if made.checksum != receipt.checksum:
            return (
                f"{receipt.path}: made again, but it came out different. It stays as it is, since later results were "
                "made from the old"
            )
        kept = set_aside(subject.run_dir, receipt.path)
        write_whole(subject.run_dir / receipt.path, (subject.run_dir / made.path).read_bytes())
        kept_as = "" if kept is None else f" (the damaged one is kept as {kept})"
        return f"{receipt.path}: made again, the same byte for byte{kept_as}"
    finally:
        take_away(subject.run_dir / made.path)
