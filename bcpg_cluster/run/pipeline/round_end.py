"""The end of a round: its version is measured, and its report written. It may come while the next round trains."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.run.snapshots import keep_snapshots
from bcpg_cluster.run.steps import Training
from bcpg_cluster.stages.generate.counts import RolloutCounts
from bcpg_cluster.stages.graph import StageSpec
from bcpg_cluster.stages.weigh.counts import WeighCounts
from bcpg_cluster.store.layout import report_path
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.reports import PushFacts, TrainingSummary
from bcpg_cluster.store.rows import outcomes_from
from bcpg_cluster.store.shards import read_table
from bcpg_cluster.store.whole_files import make_parents, write_whole
from bcpg_cluster.watch.observer import Observer, RoundFinished
from bcpg_cluster.watch.report import round_report
from bcpg_cluster.watch.report.round_report import Evaluated, Learned
from bcpg_cluster.watch.round_ledger import RoundLedger


@dataclass(frozen=True, slots=True)
class LearnedRound:
    """A round whose weights are served, and not measured yet.

    Attributes:
        learned: ``None`` in round 0, which learns nothing.
        seconds: that it took so far.
    """

    round: int
    learned: Learned | None
    seconds: float


def learned_half(
    stages: Sequence[StageSpec],
    totals: Mapping[str, dict[str, float]],
    training: TrainingSummary | None,
    pushed: PushFacts,
    seconds: Mapping[str, float],
    *,
    voters: Sequence[str],
    measures: Sequence[str],
) -> Learned:
    """The learning half of a round's report.

    Args:
        totals: sums of the receipts' metrics, by stage.
        training: ``None`` where the round taught nothing.
        seconds: by stage, and of training, push and proof.
    """
    weighed, train = WeighCounts.read(totals["weigh"]), training or TrainingSummary()
    rates = round_report.rates(totals, seconds)
    if train.train_s and train.tokens is not None:
        rates["train"] = train.tokens / train.train_s
    return Learned(
        samples=round_report.conservation(weighed),
        mined_share=weighed.mined_share,
        mined_gradient_share=weighed.mined_gradient_share,
        uncertain_right_share=weighed.uncertain_right_share,
        right_steps=round_report.right_step_report(weighed),
        judges=round_report.judge_report(weighed, voters, measures),
        verdicts={stage.name: totals[stage.name] for stage in stages if stage.name.startswith("judge.")},
        segment=totals["segment"],
        generate=totals["generate"],
        outcomes=totals["verify"],
        train=train,
        push=pushed,
        tokens_per_s=rates,
        seconds=seconds,
    )


class RoundEnd:
    """Measures versions and writes reports.

    Args:
        ledger: heard of all work of the rounds to be reported.
        draw: has a version's evaluation done; wall seconds by stage.
    """

    def __init__(
        self,
        manifest: Manifest,
        prompts: PromptSets,
        config: Config,
        observer: Observer,
        ledger: RoundLedger,
        draw: Callable[[int], Mapping[str, float]],
    ) -> None:
        self._manifest, self._prompts, self._config = manifest, prompts, config
        self._observer, self._ledger, self._draw = observer, ledger, draw

    def close(self, of: LearnedRound, beside: Training | None = None) -> None:
        """Measure a round's version and write the round's report.

        Args:
            beside: the training that runs meanwhile, in another thread; then the measuring is no time of this round.
        """
        began = time.monotonic()
        evaluated = self._evaluate(of.round)
        took = time.monotonic() - began
        learned, seconds = of.learned, of.seconds + (took if beside is None else 0.0)
        hidden = {} if learned is None else round_report.hidden_shares(learned.train, _share(beside, began, took))
        done = self._manifest.state.reports
        self._manifest.write_faults()
        faults = [fault for fault in self._manifest.state.faults if fault.round == of.round]
        taught = (learned.train, learned.push) if learned else (None, None)
        account = self._ledger.account(of.round, self._manifest.state, *taught)
        report = round_report.complete(
            of.round, evaluated, learned, seconds, done.get(of.round - 1), done.get(0), faults, hidden, account
        )
        path = self._manifest.run_dir / report_path(of.round)
        make_parents(path)
        write_whole(path, json.dumps(report.plain(), indent=2).encode())
        scores = {r: of.accuracy for r, of in {**done, of.round: report}.items() if r and of.accuracy is not None}
        keep_last = self._config.snapshots.keep_last
        keep_snapshots(self._manifest, scores, keep_last, measured=of.round)  # before a kill could skip it for good
        self._manifest.add_report(report)
        self._observer.hear(RoundFinished(report))

    def _evaluate(self, version: int) -> Evaluated:
        seconds = self._draw(version)
        receipts = self._manifest.state.receipts(version, "eval_outcomes")
        outcomes = outcomes_from(read_table(self._manifest.run_dir, receipts))
        reports = {
            name: round_report.accuracy_report(outcomes, {prompt.prompt_id for prompt in of_set})
            for name, of_set in self._prompts.measured(self._config.evaluate.num_prompts).items()
        }
        totals = round_report.total(self._manifest.state.receipts(version, "eval_rollouts"))
        return Evaluated(
            accuracy=reports.pop("test"),
            more_tests=reports,
            responses=RolloutCounts.read(totals),
            tokens_per_s=round_report.rates({"evaluate": totals}, seconds).get("evaluate"),
            seconds=seconds,
        )


def _share(beside: Training | None, began: float, took: float) -> float:
    """Of a measuring that just ended, the share during which the training was under way."""
    if beside is None or took <= 0:
        return 0.0
    until = began + took if beside.ended is None else min(beside.ended, began + took)
    return max(until - began, 0.0) / took
