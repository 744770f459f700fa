"""Every metric a run exports, in one table. docs/metrics.md and the Grafana dashboard are made from it and checked against it.

Ray puts ``ray_`` before a name, and ``_total`` behind that of a counter, when it exports it. Every metric has the tag ``run``, the
name of the run's directory, besides its own. A gauge that nothing is known of yet is not exported at all; it is never 0 instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RUN_TAG = "run"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        kind: a ``counter`` only grows, and counts what this process saw; a ``gauge`` is the present value.
        unit: of the value; ``1`` is a share or a plain ratio.
        tags: besides ``run``.
    """

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    tags: tuple[str, ...]
    meaning: str

    @property
    def series(self) -> str:
        """The name under which Prometheus sees it."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


def _counter(name: str, unit: str, tags: str, meaning: str) -> Metric:
    return Metric(f"bcpg_{name}", "counter", unit, tuple(tags.split()), meaning)


def _gauge(name: str, unit: str, tags: str, meaning: str) -> Metric:
    return Metric(f"bcpg_{name}", "gauge", unit, tuple(tags.split()), meaning)


METRICS = (
    # the work
    _gauge("round", "round", "", "the round that is being worked on; 0 is the base policy's evaluation"),
    _gauge("stage_done", "pieces", "stage", "shards (of `train`: phases) of the present round that are done"),
    _gauge("stage_pieces", "pieces", "stage", "how many there are"),
    _counter("samples", "samples", "stage", "samples that a stage worked on, of accepted shards"),
    _counter("tokens", "tokens", "stage", "response tokens it worked on; of `train`, trained on"),
    _counter("shards", "shards", "stage", "shards that were accepted"),
    _counter("shard_seconds", "seconds", "stage", "what members spent on the accepted shards"),
    _counter("faults", "events", "kind pool", "what went wrong and was dealt with, by what was done (`status --events` has each); "
             "pool `none`: it was in none"),
    _gauge("store_bytes", "bytes", "", "size of all accepted shards of the run, those of earlier processes included"),
    # the pools
    _gauge("queue_depth", "pieces", "pool", "pieces of work that no member has yet"),
    _gauge("leases", "pieces", "pool", "pieces of work that members have"),
    _gauge("pool_size", "members", "pool", "members asked for"),
    _gauge("pool_members", "members", "pool state", "members there are, by state: placing, starting, ready, draining, stalled"),
    _gauge("busy_share", "1", "pool", "share of the ready members' time in which they had work, over the last 10 seconds"),
    _gauge("policy_version", "version", "weights", "`served`: the oldest that a ready rollout member answers with; `pushed`: the "
           "newest that all of them were proven to hold"),
    # rewards and judges
    _gauge("reward", "1", "", "mean reward of the round's samples that were verified so far"),
    _gauge("mined_share", "1", "", "share of the tokens of wrong responses that lie in mined steps"),
    _gauge("mined_gradient_share", "1", "", "of the gradient mass (the sum of 1 - p over tokens) of wrong responses, the share "
           "that lies in mined steps"),
    _gauge("uncertain_right_share", "1", "labels", "of the tokens in right steps of wrong responses, the share that the policy "
           "gave a probability below 0.9; right by the `consensus`, or by a judge of role `measure`"),
    _gauge("right_step_answers_share", "1", "labels", "share of the wrong responses that hold a right step"),
    _gauge("right_prefix_share", "1", "labels", "mean share of a wrong response's tokens before its first step not labelled right"),
    _gauge("judge_agreement", "1", "judges", "share of the steps on which two voters say the same, abstentions left out"),
    _gauge("judge_kappa", "1", "judges", "Cohen's kappa of the same"),
    _gauge("judge_precision", "1", "judge measure", "of the tokens a judge calls right, the share that is, by a judge of role "
           "`measure`; `consensus` is the voters together"),
    _gauge("judge_recall", "1", "judge measure", "of the tokens that are right, the share the judge calls so"),
    _counter("steps_without_verdict", "steps", "judge status", "steps a judge said nothing usable about, by status"),
    _gauge("accuracy", "1", "decoding", "of the newest evaluated policy on the test problems: `sampled` (avg@n) or `greedy`"),
    # training
    _gauge("train_step", "steps", "", "optimiser steps of the round that are done"),
    _gauge("train_steps", "steps", "", "optimiser steps of the round that are planned"),
    _gauge("loss", "nats", "", "the last step's mean loss"),
    _gauge("grad_norm", "1", "", "the last step's gradient norm, before clipping"),
    _gauge("learning_rate", "1", "", "the last step's"),
    _gauge("delta_per_token", "nats", "tokens", "mean of lp - lp_ref in the last step over tokens of `right` responses, and over "
           "the `mined`, the `unmined` and all tokens of `wrong` ones"),
    _gauge("entropy", "nats", "", "mean entropy of the policy at response tokens, in the last step"),
    _gauge("positive_mass", "1", "", "share of the last step's absolute push that pushes up"),
    _gauge("clipped_share", "1", "direction", "share of the tokens pushed `up` (`down`) whose gradient was cut in the last step"),
    # the push
    _gauge("push_seconds", "seconds", "", "the last push, its proof included"),
    _gauge("push_worst_nats", "nats", "", "canary difference: how far an engine's log-prob of a canary token is off the trainer's"),
    _gauge("push_separation_nats", "nats", "", "how far old and new weights differ on the canaries; `push_worst_nats` is below it"),
    _gauge("push_cached_prefix_nats", "nats", "", "the canary difference through a prefix that was cached before the push"),
    # the round
    _gauge("round_seconds", "seconds", "", "wall time of the last finished round"),
    _gauge("round_bound_seconds", "seconds", "", "the least that the last round with a bound could take"),
    _gauge("round_took_seconds", "seconds", "", "what that round took, from its beginning to that of the next, or to its report"),
    _gauge("round_busy_share", "1", "pool", "of the work that a pool could have done in the last finished round, the "
           "share that it did"),
)  # fmt: skip

BY_NAME = {metric.name: metric for metric in METRICS}
