"""A round against its bound: how much of a round is spent on anything that could have been hidden behind something else?

The bound of a round is max(D, R) + T + P (docs/reading-a-run.md): the data half or the reference pass, then the optimiser steps and
the push. Two ways to ask, neither starts an engine:

    python benchmarks/round_overlap.py --run-dir runs/laptop [--json FILE]
        of a finished run, by its manifest: each round over its bound and over its longest stage, and what shares of the
        reference pass and the evaluation were hidden. In the first round of a process the seconds contain the start of
        engines, so take a run of several rounds. Rounds that were resumed in the middle are left out.

    python benchmarks/round_overlap.py --run-dir runs/laptop --simulate [--rounds 4] [--lease-ms 10] [--repeats 5]
        the same rounds on cores of their own, in simulated time, in both orders (``fitted_rounds.py``): as many shards and
        members as the run had, latencies fitted to its receipts, the trainers' times as it reports them. The control plane
        is what this process spends on the real data flow, pools and manifest, and for every lease what Ray takes (10 ms where
        nothing else is said: ``scale_simulation.py --part ray``).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fitted_rounds import ORDERS, Fit, SimulatedRun, fit_of, simulate
from measure import argument_parser, facts, finish, summarise

from bcpg_cluster.cluster.turns import TRAINER
from bcpg_cluster.config.run import Config
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.stages.graph import REFERENCE
from bcpg_cluster.store.journal import journal_lines
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.watch.report.round_bound import Interval, Piece, covered_s
from bcpg_cluster.watch.view.overview.records import Bound
from bcpg_cluster.watch.view.overview.timeline import Timeline, bound_of, read_timeline

Summary = dict[str, Any]
_NOT_STAGES = {"round", "data"}  # sums over stages
_AFTER_DATA = {"train", "push", "proof", "evaluate", "verify_evaluation"}


# --- a finished run


def round_figures(seconds: dict[str, float], bound: Bound) -> dict[str, Any]:
    """What one report's seconds say."""
    assert bound.bound_s is not None
    stages = {name: value for name, value in seconds.items() if name not in _NOT_STAGES}
    data = {name: value for name, value in stages.items() if name not in _AFTER_DATA}
    longest = max(stages, key=lambda name: stages[name])
    return {
        "wall": bound.took_s,
        "bound": bound.bound_s,
        "bound_ratio": bound.took_s / bound.bound_s,
        "longest": stages[longest],
        "longest_name": longest,
        "ratio": bound.took_s / stages[longest],
        "data": seconds["data"],
        "data_longest": max(data.values()),
        "data_ratio": seconds["data"] / max(data.values()),
        "data_sum_ratio": sum(data.values()) / seconds["data"],
    } | {f"busy {pool}": share for pool, share in bound.busy.items()}


def hidden_share(of: Sequence[Piece], behind: Sequence[Interval]) -> float | None:
    """Of the time in which some pieces were under way, the share in which something else was; ``None`` without pieces."""
    whole = covered_s(piece.interval for piece in of)
    if not whole:
        return None
    both = [
        (max(piece.began, began), min(piece.ended, ended))
        for piece in of
        for began, ended in behind
        if max(piece.began, began) < min(piece.ended, ended)
    ]
    return covered_s(both) / whole


def hidden_shares(timeline: Timeline, config: Config) -> dict[str, list[float]]:
    """Of the reference pass behind its round's data, and of the evaluation behind the next round's data and training, by round."""
    data = {spec.output for spec in config.data_stages}
    trained = {bar.round: (bar.start, bar.end) for bar in timeline.bars.get(TRAINER, ()) if bar.stage == "train"}
    found: dict[str, list[float]] = {"reference": [], "evaluation": []}
    for round_, pieces in sorted(timeline.pieces.items()):
        here = [piece.interval for piece in pieces.values() if piece.table in data]
        later = timeline.pieces.get(round_ + 1, {}).values()
        next_round = [piece.interval for piece in later if piece.table in data]
        next_round += [trained[round_ + 1]] if round_ + 1 in trained else []
        reference = [piece for piece in pieces.values() if piece.table == REFERENCE]
        evaluated = [piece for piece in pieces.values() if piece.table.startswith("eval_")]
        shares = {
            "reference": hidden_share(reference, here),
            "evaluation": hidden_share(evaluated, next_round) if round_ and next_round else None,
        }
        for name, share in shares.items():
            found[name] += [] if share is None else [share]
    return found


def measured(run_dir: Path, config: Config, state: ManifestState) -> tuple[dict[str, Summary], dict[str, Any]]:
    """Rows and settings of a finished run."""
    timeline = read_timeline(journal_lines(run_dir), config, keep_pieces=True)
    bounds = {round_: bound_of(report, timeline, config) for round_, report in state.reports.items() if round_}
    complete = {
        round_: round_figures(state.reports[round_].seconds, bound)
        for round_, bound in sorted(bounds.items())
        if bound.bound_s is not None and "generate" in state.reports[round_].seconds
    }
    if not complete:
        sys.exit(f"{run_dir}: no round that has a bound, and the seconds of all its stages")

    def over_rounds(key: str) -> Summary:
        return summarise([figures[key] for figures in complete.values() if key in figures])

    rows = {
        "round, s": over_rounds("wall"),
        "its bound, s": over_rounds("bound"),
        "ratio round / bound": over_rounds("bound_ratio"),
        "its longest stage, s": over_rounds("longest"),
        "ratio round / longest stage": over_rounds("ratio"),
        "data half, s": over_rounds("data"),
        "its longest stage, s ": over_rounds("data_longest"),
        "ratio data half / its longest stage": over_rounds("data_ratio"),
        "stages under way at once in the data half": over_rounds("data_sum_ratio"),
    }
    for name, shares in hidden_shares(timeline, config).items():
        rows |= {f"{name} hidden, share": summarise(shares)} if shares else {}
    for key in sorted({key for figures in complete.values() for key in figures if key.startswith("busy ")}):
        rows[f"{key}, share"] = over_rounds(key)
    return rows, {
        "longest stage by round": {round_: figures["longest_name"] for round_, figures in complete.items()},
        "rounds left out (no bound)": sorted(bounds.keys() - complete.keys()) or "none",
        "note": "the facts below are those of this machine now, not of the run",
    }


# --- simulated


def simulated_rows(runs: Sequence[SimulatedRun], lease_s: float) -> dict[str, Summary]:
    """What some runs of one order say; their first rounds have no evaluation to hide, so they stand by themselves."""
    later = [round_ for run in runs for round_ in run.rounds[1:]]
    control = [
        (round_.driver_cpu_s + lease_s * round_.num_leases) / round_.bound.took_s
        for run in runs
        for round_ in run.rounds
    ]
    rows = {
        "round after the first, s": [round_.bound.took_s for round_ in later],
        "its bound, s": [round_.bound.bound_s for round_ in later],
        "ratio round / bound": [round_.bound.ratio or 0.0 for round_ in later],
        "ratio first round / bound": [run.rounds[0].bound.ratio or 0.0 for run in runs],
        "ratio whole run / sum of bounds": [
            run.wall_s / sum(round_.bound.bound_s for round_ in run.rounds) for run in runs
        ],
        "data half's bound D, s": [round_.bound.data_s for round_ in later],
        "reference hidden, share": [round_.reference_hidden for round_ in later],
        "evaluation hidden, share": [r.evaluation_hidden for r in later if r.evaluation_hidden is not None],
        "control plane / round": control,
    }
    for pool in later[0].busy:
        rows[f"busy {pool}, share"] = [round_.busy[pool] for round_ in later]
    return {name: summarise(values) for name, values in rows.items()}


def simulated(config: Config, fit: Fit, seeds: range, num_rounds: int, lease_s: float) -> dict[str, Summary]:
    """Both orders with the same seeds, and what the one gains on the other."""
    runs: dict[str, list[SimulatedRun]] = {order: [] for order in ORDERS}
    for seed in seeds:
        for order in ORDERS:
            with tempfile.TemporaryDirectory(prefix="overlap-") as run_dir:
                found = simulate(config, fit, order, Path(run_dir), num_rounds=num_rounds, seed=seed, lease_s=lease_s)
            runs[order].append(found)
    rows = {
        f"{order}: {name}": summary
        for order in ORDERS
        for name, summary in simulated_rows(runs[order], lease_s).items()
    }
    pairs = zip(runs["serial"], runs["overlapped"], strict=True)
    rows["serial / overlapped, whole run"] = summarise([serial.wall_s / over.wall_s for serial, over in pairs])
    return rows


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--simulate", action="store_true", help="its rounds on cores of their own, in both orders")
    parser.add_argument("--rounds", type=int, default=4, help="simulated rounds (default: %(default)s)")
    parser.add_argument(
        "--lease-ms", type=float, default=10.0, help="what a lease costs beside its work (default: %(default)s)"
    )
    options = parser.parse_args()
    config, state, started = load_run_config(options.run_dir), read_manifest(options.run_dir), facts()
    settings: dict[str, Any] = {"run": options.run_dir.name}
    if options.simulate:
        try:
            fit = fit_of(state, config)
        except ValueError as error:
            sys.exit(f"{options.run_dir}: {error}")
        seeds = range(options.seed, options.seed + options.repeats)
        rows = simulated(config, fit, seeds, options.rounds, options.lease_ms / 1000)
        question = f"simulated rounds against their bound ({len(seeds)} seeds, {options.rounds} rounds)"
        settings |= {
            "shards of a round and of an evaluation": (fit.num_shards, fit.num_eval_shards),
            "members": {pool: config.pool(pool).members for pool in config.pool_names()},
            "latencies (median s, deviation of the logarithm)": {
                stage: (round(median, 4), round(sigma, 2)) for stage, (median, sigma) in fit.latencies.items()
            },
            "open, reference, steps and snapshot, push (s)": [
                (round(t.open_s, 1), round(t.reference_s, 1), round(t.train_s, 1), round(t.push_s, 1))
                for t in fit.trainers
            ],
            "seeds": list(seeds),
            "a lease, ms": options.lease_ms,
        }
    else:
        rows, more = measured(options.run_dir, config, state)
        settings |= more
        question = f"wall seconds of a round against its bound ({len(rows['round, s']['values'])} rounds)"
    finish(question, rows, settings=settings, json_file=options.json, started=started)


if __name__ == "__main__":
    main()
