"""Metrics of a run: what the observer makes of a whole run on fakes, and of what fakes never do; the dashboard over them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from bcpg_cluster.cluster.on_ray.metrics import provision_dashboard
from bcpg_cluster.cluster.state import MemberState, PoolState
from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Receipt
from bcpg_cluster.store.faults import FaultEvent, FaultKind
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.observer import Faulted, PoolsSeen, ShardAccepted, StepTrained
from bcpg_cluster.watch.prometheus.catalog import BY_NAME, METRICS
from bcpg_cluster.watch.prometheus.grafana import ROWS, dashboard, shipped_dashboard
from bcpg_cluster.watch.prometheus.run_metrics import BUSY_WINDOW_S, RunMetrics
from tests.told import step_report

Key = tuple[str, frozenset[tuple[str, str]]]


class Notebook:
    """A sink that checks every call against the catalog and keeps the last values."""

    def __init__(self) -> None:
        self.values: dict[Key, float] = {}

    def key(self, kind: str, name: str, tags: dict[str, str]) -> Key:
        metric = BY_NAME[name]
        assert (metric.kind, set(metric.tags)) == (kind, set(tags)), name
        assert all(isinstance(value, str) for value in tags.values()), name  # Ray takes no others
        return name, frozenset(tags.items())

    def add(self, name: str, amount: float, **tags: str) -> None:
        assert amount >= 0
        key = self.key("counter", name, tags)
        self.values[key] = self.values.get(key, 0.0) + amount

    def set(self, name: str, value: float, **tags: str) -> None:
        self.values[self.key("gauge", name, tags)] = value

    def get(self, name: str, **tags: str) -> float | None:
        return self.values.get((f"bcpg_{name}", frozenset(tags.items())))

    def names(self) -> set[str]:
        return {name for name, _ in self.values}


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


def over(notebook: Notebook, **settings: Any) -> RunMetrics:
    return RunMetrics(notebook, **{"voters": ("llm", "prm"), "measures": ("truth",), **settings})


def test_a_whole_run(
    tmp_path: Any, notebook: Notebook, run_rounds: Callable[..., Any], make_config: Callable[..., Config]
) -> None:
    config = make_config()
    run = run_rounds(tmp_path / "run", config, 2, over(notebook))
    state, last = read_manifest(run.directory), run.reports[2]
    receipts = [receipt for shards in state.shards.values() for receipt in shards.values()]
    generated = [receipt for receipt in receipts if receipt.table == "rollouts"]
    assert notebook.get("tokens", stage="generate") == sum(receipt.metrics["tokens"] for receipt in generated)
    assert notebook.get("samples", stage="generate") == 2 * 12 * 8
    assert notebook.get("samples", stage="weigh") == 2 * 12 * 8
    assert notebook.get("samples", stage="train") == sum(
        report["samples"]["kept"] for r, report in run.reports.items() if r
    )
    assert notebook.get("shards", stage="judge.llm") == 6
    made = sum(receipt.num_bytes for receipt in receipts if receipt.table not in ("prompts", "eval_prompts"))
    assert notebook.get("store_bytes") == made
    assert notebook.get("round_bound_seconds") == last["bound"]["bound_s"]
    assert notebook.get("round_took_seconds") == last["bound"]["took_s"] >= last["bound"]["bound_s"]
    assert {pool: notebook.get("round_busy_share", pool=pool) for pool in ("rollout", "cpu", "trainer")} == last["busy"]
    assert notebook.get("mined_share") == last["mined_share"]
    assert notebook.get("mined_gradient_share") == pytest.approx(
        last["mined_gradient_share"]
    )  # summed in another order
    assert notebook.get("uncertain_right_share", labels="consensus") == last["uncertain_right_share"] is not None
    for labels in ("consensus", "truth"):
        for metric, share in (("right_step_answers_share", "answers_share"), ("right_prefix_share", "prefix_share")):
            assert notebook.get(metric, labels=labels) == pytest.approx(last["right_steps"][labels][share])
    assert notebook.get("judge_agreement", judges="llm+prm") == last["judges"]["agreement"]["llm+prm"]["agreement"]
    precision = last["judges"]["quality"]["consensus"]["truth"]["tokens"]["precision"]
    assert notebook.get("judge_precision", judge="consensus", measure="truth") == precision
    verified = [receipt for receipt in receipts if (receipt.table, receipt.round) == ("outcomes", 2)]
    assert notebook.get("reward") == sum(receipt.metrics["rewards"] for receipt in verified) / 96
    assert notebook.get("accuracy", decoding="sampled") == last["accuracy"]
    assert notebook.get("push_worst_nats") == last["push"]["worst_nats"]
    assert notebook.get("policy_version", weights="pushed") == 2
    assert notebook.get("loss") == last["train"]["loss_last"]
    assert notebook.get("stage_done", stage="generate") == notebook.get("stage_pieces", stage="generate") == 3
    assert notebook.get("round_seconds") == last["seconds"]["round"]
    # What fakes never do: lose work, leave a step unjudged, clip, tell how hard they push.
    never = {"bcpg_faults", "bcpg_steps_without_verdict", "bcpg_clipped_share", "bcpg_positive_mass"}
    assert {metric.name for metric in METRICS} - notebook.names() == never


def receipt(table: str, round_: int = 1, **metrics: float) -> Receipt:
    return Receipt(table, round_, 0, "a", "f", 10, 1000, "c", 2.0, metrics)


def test_what_came_before_counts_in_gauges_and_not_in_counters(notebook: Notebook) -> None:
    earlier = [receipt("outcomes", rewards=3.0, **{"status.verified": 4.0}), receipt("rollouts", samples=8)]
    metrics = over(notebook, earlier=earlier)
    counted = {"status.verified": 3.0, "status.no_answer": 1.0}
    metrics.hear(ShardAccepted(1, "verify", receipt("outcomes", rewards=1.0, samples=4.0, **counted)))
    assert notebook.get("reward") == 4 / 8
    assert notebook.get("store_bytes") == 3000
    assert notebook.get("samples", stage="verify") == 4
    assert notebook.get("samples", stage="generate") is None


def test_samples_without_a_reward_are_not_wrong(notebook: Notebook) -> None:
    metrics = over(notebook)
    metrics.hear(ShardAccepted(1, "verify", receipt("outcomes", rewards=0.0, **{"status.engine_lost": 4.0})))
    assert notebook.get("reward") is None
    lost = {"status.verified": 1.0, "status.verifier_error": 3.0}
    metrics.hear(ShardAccepted(1, "verify", receipt("outcomes", rewards=1.0, **lost)))
    assert notebook.get("reward") == 1.0


def test_verdicts_that_are_missing_are_counted_by_status(notebook: Notebook) -> None:
    metrics = over(notebook)
    said = {"status.judged": 5.0, "status.unparsable": 2.0}
    metrics.hear(ShardAccepted(1, "judge.llm", receipt("verdicts.llm", **said)))
    assert notebook.get("steps_without_verdict", judge="llm", status="unparsable") == 2
    assert notebook.get("steps_without_verdict", judge="llm", status="judged") is None


def test_what_is_unknown_keeps_the_gauge_as_it_was(notebook: Notebook) -> None:
    metrics = over(notebook)
    metrics.hear(StepTrained(1, step_report(loss=0.5, delta_per_token_right=0.1, clipped_up=0.25)))
    metrics.hear(StepTrained(1, step_report(step=1, loss=float("nan"), delta_per_token_right=None)))
    assert notebook.get("train_step") == 2 and notebook.get("train_steps") == 4
    assert notebook.get("loss") == 0.5
    assert notebook.get("delta_per_token", tokens="right") == 0.1
    assert notebook.get("delta_per_token", tokens="mined") is None
    assert notebook.get("clipped_share", direction="up") == 0.25
    assert notebook.get("tokens", stage="train") == 160


def pool(busy_s: float, ready_s: float, *members: MemberState) -> PoolState:
    return PoolState("rollout", 2, 1, 4, "config", 5, 3, busy_s, ready_s, members, {})


def test_busy_share_looks_back_over_its_window(notebook: Notebook) -> None:
    now = [100.0]
    metrics = over(notebook, clock=lambda: now[0])

    def look(at: float, busy_s: float, ready_s: float) -> float | None:
        now[0] = 100.0 + at
        metrics.hear(PoolsSeen([pool(busy_s, ready_s)]))
        return notebook.get("busy_share", pool="rollout")

    assert look(0, 0.0, 0.0) is None  # nobody was ready: no share, not 0
    assert look(1, 1.0, 2.0) == 0.5
    assert look(5, 1.0, 10.0) == 0.1
    assert (
        look(5 + BUSY_WINDOW_S, 6.0, 20.0) == 0.5
    )  # the five busy seconds since the last look; older ones are forgotten


def test_pools_show_sizes_states_and_the_oldest_version_served(notebook: Notebook) -> None:
    members = [
        MemberState("rollout/0", "ready", 2, 1.0, 3),
        MemberState("rollout/1", "ready", 1, 1.0, 2),
        MemberState("rollout/2", "starting", 0, 0.0, None),
    ]
    over(notebook).hear(PoolsSeen([pool(1.0, 2.0, *members)]))
    assert notebook.get("policy_version", weights="served") == 2
    states = {
        state: notebook.get("pool_members", pool="rollout", state=state) for state in ("ready", "starting", "draining")
    }
    assert states == {"ready": 2, "starting": 1, "draining": 0}
    assert (notebook.get("queue_depth", pool="rollout"), notebook.get("leases", pool="rollout")) == (5, 3)


def test_faults_are_counted_by_kind_and_pool(notebook: Notebook) -> None:
    metrics = over(notebook)
    for number in range(3):
        metrics.hear(Faulted(FaultEvent(FaultKind.REPLACEMENT, f"judge.llm/{number}", "gone", pool="judge.llm")))
    metrics.hear(Faulted(FaultEvent(FaultKind.REMADE, "outcomes shard 1", "checksum")))
    assert notebook.get("faults", kind="replacement", pool="judge.llm") == 3
    assert notebook.get("faults", kind="remade", pool="none") == 1


def test_names_are_good_prometheus_names() -> None:
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"bcpg_[a-z]+(_[a-z]+)*", metric.name)
        assert "run" not in metric.tags and metric.meaning and metric.unit
    assert BY_NAME["bcpg_tokens"].series == "ray_bcpg_tokens_total"


def test_every_metric_is_on_the_dashboard_and_no_other() -> None:
    shown = [f"bcpg_{name}" for panels in ROWS.values() for panel in panels for name in panel.metrics]
    assert sorted(shown) == sorted(BY_NAME)
    asked = set()
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            asked |= set(re.findall(r"ray_bcpg_\w+", target["expr"]))
    assert asked == {metric.series for metric in METRICS}


def test_panels_lie_beside_one_another() -> None:
    cells = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_the_shipped_dashboard_goes_where_ray_keeps_its_own(tmp_path: Any) -> None:
    assert json.loads(shipped_dashboard()) == dashboard()
    assert provision_dashboard(tmp_path, shipped_dashboard()) is None  # a node that keeps none
    folder = tmp_path / "metrics" / "grafana" / "dashboards"
    folder.mkdir(parents=True)
    path = provision_dashboard(tmp_path, shipped_dashboard())
    assert path is not None and json.loads(path.read_text())["uid"] == "bcpgCluster"
