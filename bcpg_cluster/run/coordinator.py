"""The round loop. Read this first.

    evaluate v0 ─► round 1: prompts ─► generate ─► verify ─► segment ─► judge.* ─► weigh        (map stages, overlapping)
                            train (gang) ─► snapshot v1 ─► push, proven by canaries ─► evaluate v1 ─► report
                   round 2: the same, from v1 ...

Where pools run separately, the trainers compute reference log-probs beside the map stages, and v1 is evaluated while round 2 trains
(``run.pipeline``; ``pipeline: serial`` has one after the other, with the same results).

The coordinator holds no rows. It asks the manifest what is missing, has it done, and notes what came of it; so resuming after
a crash is the same as continuing. ``Parts`` are made by ``run.build.assembly``; nothing here names an implementation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from bcpg_cluster.cluster.gang import Gang
from bcpg_cluster.cluster.pool import Pool
from bcpg_cluster.cluster.turns import TRAINER, Turns
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DamagedShardError, Interrupted
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import Prompt, Receipt
from bcpg_cluster.run.dataflow import Dataflow
from bcpg_cluster.run.dispatch.expected_tokens import expected_tokens
from bcpg_cluster.run.floors import Floors, empty_round_reason
from bcpg_cluster.run.pipeline.beside import train_beside
from bcpg_cluster.run.pipeline.early_reference import EarlyReference
from bcpg_cluster.run.pipeline.round_end import LearnedRound, RoundEnd, learned_half
from bcpg_cluster.run.push import Pusher, PushSettings
from bcpg_cluster.run.recovery.lost_shards import LostShards, until_whole
from bcpg_cluster.run.recovery.prompt_tables import dealt, measured_prompts, write_prompts
from bcpg_cluster.run.recovery.snapshot_again import SnapshotMender
from bcpg_cluster.run.serving import Serving, Weights, adapters_of, weights_of
from bcpg_cluster.run.snapshots import SnapshotCheck, newest_version, next_measured
from bcpg_cluster.run.steps import Step, Steps, TrainersFree, Training, alone
from bcpg_cluster.run.training import check_rows, open_job, train_again, train_round
from bcpg_cluster.stages.graph import REFERENCE, ROLLOUT_POOL, StageSpec, evaluation_stages, turns
from bcpg_cluster.stages.push.canaries import read_canaries
from bcpg_cluster.stages.push.protocol import SnapshotDigests
from bcpg_cluster.stages.train.protocol import TrainSettings
from bcpg_cluster.stages.weigh.counts import WeighCounts
from bcpg_cluster.stages.weigh.stage import WeighSettings
from bcpg_cluster.store.manifest import Manifest, SnapshotRecord
from bcpg_cluster.store.reports import PushFacts, RoundReport
from bcpg_cluster.watch.observer import Noted, Observer, Observers, StageProgress, WeightsPushed
from bcpg_cluster.watch.report import round_report
from bcpg_cluster.watch.report.round_report import Learned
from bcpg_cluster.watch.round_ledger import ledger_of


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        tend: what is done about once a second while the run waits.
        attend: has the members speak to this run, after another may have used them.
        without_training: inside it, waiting for the trainers ends soon, as if a stop had been asked for.
    """

    manifest: Manifest
    pools: Mapping[str, Pool]
    gang: Gang
    turns: Turns
    serving: Serving
    prompts: PromptSets
    base_model: str
    train_settings: Callable[[int], TrainSettings]
    weigh_settings: WeighSettings
    check_snapshot: SnapshotCheck
    observer: Observer
    stop_asked: Callable[[], bool]
    tend: Callable[[], None] = lambda: None
    attend: Callable[[], None] = lambda: None
    without_training: Callable[[], AbstractContextManager[None]] = nullcontext


class Coordinator:
    """Drives a run. See the module's docstring."""

    def __init__(self, config: Config, parts: Parts) -> None:
        self._config, self._parts = config, parts
        self._ledger = ledger_of(config)
        self._manifest, self._observer = parts.manifest, Observers([self._ledger, parts.observer])
        self._floors = Floors(
            parts.manifest,
            max_error_share=config.verify.max_error_share,
            max_missing_share=config.weigh.max_missing_share,
            voters=config.voters,
            rule=config.consensus_rule,
            thresholds=parts.weigh_settings.thresholds,
            say=lambda text: parts.observer.hear(Noted(text)),
        )
        self._lost = LostShards(parts.manifest, self._config.data_stages, parts.observer)
        self._end = RoundEnd(parts.manifest, parts.prompts, config, parts.observer, self._ledger, self._draw_evaluation)
        self._is_overlapped = False
        self._early: EarlyReference | None = None
        self._unmeasured: LearnedRound | None = None
        self._trainer_holds: int | None = None  # the version it trained last, in this process and for this run
        again = partial(self._training, train=train_again)
        self._snapshots = SnapshotMender(self._manifest, parts.check_snapshot, again, self._pause, self._observer)
        self._pusher = Pusher(
            parts.gang,
            parts.pools[ROLLOUT_POOL],
            PushSettings.of(config),
            serving=self._serve,
            observer=parts.observer,
            wait_ready=self._wait_rollouts,
        )

    def run(self, rounds: int) -> dict[int, RoundReport]:
        """Complete ``rounds`` rounds; reports by round, 0 being the base policy. What is done already is not done again.

        Raises:
            Interrupted: stop was asked for.
            BcpgError: see ``errors``.
        """
        if not self._config.is_overlapped:
            return alone(self.steps(rounds))
        self._is_overlapped = True
        return train_beside(self.steps(rounds), self._parts.tend, self._parts.without_training)

    def steps(self, rounds: int) -> Steps[dict[int, RoundReport]]:
        """As :meth:`run`, with a pause wherever other runs may use the pools, or the trainers: these are what works meanwhile."""
        todo = [round_ for round_ in range(rounds + 1) if round_ not in self._manifest.state.reports]
        if todo:  # members start from it
            state = self._manifest.state
            for version in sorted({next_measured(state), newest_version(state)}):
                yield from self._snapshots.have(version)
            self._lost.check(todo)
        if any(round_ and round_ not in self._manifest.state.snapshots for round_ in todo):
            self._begin_trainers()
        for round_ in todo:
            soon = [near for near in (round_, round_ + 1) if near in todo]
            self._parts.turns.need({stage.pool for near in soon for stage in self._unsealed(near)})
            yield from self._whole_round(round_)
            if not self._is_overlapped or self._config.evaluate.at_once or round_ in (0, todo[-1]):
                self._measure()
            self._parts.gang.raise_if_failed()
        return {round_: self._manifest.state.reports[round_] for round_ in range(rounds + 1)}

    def collect(self) -> None:
        """Only what every method shares: the base policy's evaluation, and the first round's data up to the verdicts."""
        self._lost.check((0, 1))
        if 0 not in self._manifest.state.reports:
            alone(self._whole_round(0))
            self._measure()
        stages = tuple(stage for stage in self._config.data_stages if stage.name != "weigh")
        until_whole(lambda: self._collect(1, stages), self._lost)

    def _begin_trainers(self) -> None:
        """Start the trainer group early, so that options it cannot use are known before any data is made."""
        if not self._parts.turns.is_colocated:
            self._parts.gang.begin_start()
        elif 0 not in self._manifest.state.reports:
            self._parts.gang.try_start()

    def _unsealed(self, round_: int) -> list[StageSpec]:
        """The map stages of a round that still have something to do."""
        stages = evaluation_stages() if round_ == 0 else (*self._config.data_stages, *evaluation_stages())
        return [stage for stage in stages if (round_, stage.output) not in self._manifest.state.sealed]

    def _whole_round(self, round_: int) -> Steps[None]:
        """A round up to its evaluation, however often damaged shards have to be made again for it."""
        while True:
            try:
                yield from self._round(round_)
            except DamagedShardError as error:
                self._lost.lose(error)
            else:
                return

    def _round(self, round_: int) -> Steps[None]:
        """A round up to its evaluation; round 0 is nothing but that."""
        started = time.monotonic()
        self._ledger.begin(round_)
        learned = (yield from self._learn(round_)) if round_ else None
        self._unmeasured = LearnedRound(round_, learned, time.monotonic() - started)

    def _measure(self, beside: Training | None = None) -> None:
        """Measure the version that is served, where it was not yet, and report its round; ``beside`` a training, or by itself."""
        of = self._unmeasured
        if of is not None and (beside is None or self._is_served(of.round)):
            until_whole(lambda: self._end.close(of, beside), self._lost)
            self._unmeasured = None

    def _draw_evaluation(self, version: int) -> dict[str, float]:
        """Have a version's evaluation done; wall seconds by stage."""
        shards = measured_prompts(self._config, self._parts.prompts)
        return self._map(version, evaluation_stages(), "eval_prompts", shards, version)

    # --- the learning half of a round

    def _learn(self, round_: int) -> Steps[Learned]:
        stages = self._config.data_stages
        started = time.monotonic()
        with self._early_reference(round_) as self._early:
            seconds = self._collect(round_, stages)
        totals = {stage.name: round_report.total(self._receipts(round_, stage.output)) for stage in stages}
        weighed = WeighCounts.read(totals["weigh"])
        round_report.conservation(weighed)  # before anything is made of it
        seconds["data"] = time.monotonic() - started
        snapshot = yield from self._train(round_, weighed)
        self._measure()  # the version before, while it is still served
        pushed = self._push(snapshot)
        yield from self._pause(TrainersFree())
        seconds |= {"train": snapshot.seconds, "push": pushed.seconds, "proof": pushed.proof_s}
        return learned_half(
            self._config.data_stages, totals, snapshot.training, pushed, seconds, voters=self._config.voters,
            measures=self._config.measures,
        )  # fmt: skip

    def _collect(self, round_: int, stages: tuple[StageSpec, ...]) -> dict[str, float]:
        """Have data stages of a round done; wall seconds by stage."""
        return self._map(round_, stages, "prompts", dealt(self._config, self._parts.prompts, round_), round_ - 1)

    def _early_reference(self, round_: int) -> AbstractContextManager[EarlyReference | None]:
        """Around a data half: the reference pass beside it, where both are still to be done."""
        state = self._manifest.state
        is_done = round_ in state.snapshots or not {(round_, "weighted"), (round_, REFERENCE)}.isdisjoint(state.sealed)
        if is_done or not self._is_overlapped:
            return nullcontext()
        return EarlyReference(
            self._manifest,
            self._parts.gang,
            open_job(self._manifest, round_, self._weights(round_ - 1), self._parts.train_settings(round_)),
            self._parts.weigh_settings,
            check_start=partial(self._parts.check_snapshot, round_ - 1),
            observer=self._observer,
            tend=self._parts.tend,
            without_training=self._parts.without_training,
        )

    def _tend(self) -> None:
        self._parts.tend()
        if self._early is not None:
            self._early.look()

    def _pause(self, step: Step) -> Steps[None]:
        yield step
        self._parts.attend()

    def _train(self, round_: int, weighed: WeighCounts) -> Steps[SnapshotRecord]:
        """The snapshot of this round; trained now unless it is there."""
        done = self._manifest.state.snapshots.get(round_)
        if done is not None:
            return done
        if not weighed.groups_kept:
            # Stated rule: a round in which every group is uniform teaches nothing; the weights stay and the run continues.
            why = empty_round_reason(weighed.dropped, weighed.asked)
            self._observer.hear(Noted(f"round {round_}: {why}, the weights stay as they are"))
            before = self._manifest.state.snapshots.get(round_ - 1)
            base = SnapshotRecord(0, "", {}, 0.0)
            kept = replace(before or base, version=round_, seconds=0.0, training=None, adapters={})
            self._manifest.add_snapshot(kept)
            return kept
        check_rows(weighed, self._config.objective)
        yield from self._snapshots.have(round_ - 1)
        waited_s = 0.0 if self._early is None else self._early.waited_s
        training = self._training(round_, partial(train_round, reference_waited_s=waited_s))
        yield from self._pause(training)
        self._trainer_holds = training.result().version
        return training.result()

    def _training(self, round_: int, train: Callable[..., SnapshotRecord]) -> Training:
        """A round's training, still to be run; the trainers take their turn."""
        self._parts.turns.take(TRAINER)
        return Training(
            partial(
                train,
                self._manifest,
                self._parts.gang,
                round_=round_,
                start=self._weights(round_ - 1),
                settings=self._parts.train_settings(round_),
                num_canaries=self._config.push.num_canaries,
                observer=self._observer,
                max_attempts=self._config.pool(TRAINER).max_attempts,
            ),
            meanwhile=self._measure,
        )

    def _push(self, snapshot: SnapshotRecord) -> PushFacts:
        done, path = self._manifest.state.pushes.get(snapshot.version), self._weights(snapshot.version).path
        was_trained_from = snapshot.version < max(self._manifest.state.snapshots)
        if done is not None and (was_trained_from or self._is_served(snapshot.version)):
            return done
        self._open_rollouts(snapshot.version)
        is_served = self._is_served(snapshot.version)
        self._wait_rollouts()
        canaries = read_canaries(self._manifest.run_dir / snapshot.path) if snapshot.training else []
        pushed = (snapshot.version, path, SnapshotDigests(snapshot.digests, snapshot.wire), canaries)
        if is_served:  # resumed, or opened for this turn: the members started from it
            facts = self._pusher.confirm(*pushed)
        else:  # the trainer group may have been made anew since, or have trained another run
            adapters = adapters_of(self._manifest.state, snapshot.version, self._config)
            from_disk = self._trainer_holds != snapshot.version
            facts = self._pusher.push(*pushed, from_disk=from_disk, adapters=adapters)
        self._manifest.add_push(snapshot.version, facts)
        self._observer.hear(WeightsPushed(snapshot.version, facts))
        self._observer.hear(StageProgress(snapshot.version, "push", 1, 1))
        return facts

    # --- shared

    def _map(
        self,
        round_: int,
        stages: tuple[StageSpec, ...],
        prompts_table: str,
        shards: list[list[Prompt]],
        policy_version: int,
    ) -> dict[str, float]:
        """Have the map stages of a round done; wall seconds by stage."""
        given = self._manifest.state.sealed.get((round_, prompts_table))  # imported or adopted prompts are sealed
        num_shards = len(shards) if given is None else given.num_shards
        if given is None:
            write_prompts(self._manifest, round_, prompts_table, shards)
            self._lost.tell_remade()
        seconds: dict[str, float] = {}
        while unsealed := [stage for stage in stages if (round_, stage.output) not in self._manifest.state.sealed]:
            self._parts.turns.need({stage.pool for stage in unsealed})
            for pool, of_turn in turns(unsealed) if self._parts.turns.is_colocated else [(None, stages)]:
                if any(stage.pool == ROLLOUT_POOL for stage in of_turn if stage in unsealed):
                    self._have_served(policy_version)
                self._parts.turns.take(pool)
                seconds |= self._flow(round_, of_turn, stages, num_shards, policy_version).run()
        return seconds

    def _flow(
        self, round_: int, of_turn: tuple[StageSpec, ...], stages: tuple[StageSpec, ...], num_shards: int, version: int
    ) -> Dataflow:
        return Dataflow(
            self._manifest,
            self._parts.pools,
            of_turn,
            round_,
            num_shards,
            {"policy_version": version, "run_seed": self._config.seed, "weigh": self._parts.weigh_settings},
            observer=self._observer,
            stop_asked=self._parts.stop_asked,
            tend=self._tend,
            max_quarantined_share=self._config.max_quarantined_share,
            expected_tokens=expected_tokens(self._config, self._parts.prompts, self._manifest.state, round_, stages),
            check_whole=lambda stage: self._floors.check(round_, stage, stages),
            lost=self._lost,
        )

    def _receipts(self, round_: int, table: str) -> list[Receipt]:
        return self._manifest.state.receipts(round_, table)

    def _weights(self, version: int) -> Weights:
        return weights_of(self._manifest, version, self._parts.base_model)

    def _is_served(self, version: int) -> bool:
        return self._parts.serving.weights == self._weights(version)

    def _have_served(self, version: int) -> None:
        """Have the rollout members hold a version of this run, from disk where they hold other weights."""
        self._open_rollouts(version)
        if not self._is_served(version):
            self._parts.check_snapshot(version)
            self._wait_rollouts()
            record, weights = self._manifest.state.snapshots.get(version), self._weights(version)
            canaries = read_canaries(self._manifest.run_dir / record.path) if record and record.training else []
            self._pusher.push(version, weights.path, SnapshotDigests(weights.digests, {}), canaries, from_disk=True)

    def _open_rollouts(self, version: int) -> None:
        """Have the rollout members on the machine; those that are started for it start with ``version``."""
        if self._parts.turns.is_closed(ROLLOUT_POOL):
            self._serve(version)
        self._parts.turns.need({ROLLOUT_POOL})
        self._parts.turns.take(ROLLOUT_POOL)

    def _serve(self, version: int) -> None:
        self._parts.serving.change(self._weights(version))

    def _wait_rollouts(self) -> None:
        """Until every rollout member that has a node is ready, so that all are proven. One that still waits for a node may do so
        for long; it catches up before its first lease.
        """
        pool = self._parts.pools[ROLLOUT_POOL]
        while pool.num_starting or not pool.members():
            pool.poll(assign=False)
            self._parts.tend()
            wait(list(pool.futures()), timeout=0.5, return_when=FIRST_COMPLETED)
            if self._parts.stop_asked():
                raise Interrupted("stopped while the rollout engines were starting")
