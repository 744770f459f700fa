"""report/comparison_report.py and report/plots.py: numbers by hand, and what is said of runs that are missing."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.report.comparison_report import (
    START,
    ArmResult,
    compare,
    markdown_table,
    write_plot,
    write_results,
)
from bcpg_cluster.watch.report.plots import write_lines_plot
from bcpg_cluster.watch.report.statistics import mean_interval

T_2 = 4.302653  # t(0.975, 2)


def report(sampled: float, greedy: float | None = None, ks: tuple[int, ...] = (1, 2, 4), **more: Any) -> RoundReport:
    found: dict[str, Any] = {"accuracy": sampled, "pass_at_k": {str(k): {"mean": sampled + k / 100} for k in ks}}
    if greedy is not None:
        found["accuracy_greedy"] = greedy
    return RoundReport.read({"round": 1, **found, **more})


def run(arm: str, seed: int, sampled: float, greedy: float | None = 0.5, round_: int = 1, **more: Any) -> ArmResult:
    return ArmResult(arm, seed, round_, "finished", 3e-4, report(sampled, greedy, **more), epochs=2)


def start(seed: int, sampled: float, greedy: float = 0.4) -> ArmResult:
    return ArmResult(START, seed, 0, "finished", None, report(sampled, greedy))


def lost(arm: str, seed: int, round_: int = 1) -> ArmResult:
    return ArmResult(arm, seed, round_, "diverged", 1e-3, None, "loss not finite", 5)


THREE = [
    *(start(seed, 0.3) for seed in range(3)),
    *(run("plain", seed, value) for seed, value in enumerate((0.40, 0.41, 0.42))),
    *(run("nsa", seed, value) for seed, value in enumerate((0.41, 0.43, 0.45))),
]


def test_numbers_by_hand():
    nsa = compare(THREE, "plain")["rounds"]["1"]["nsa"]
    sampled = nsa["measures"]["sampled"]
    assert sampled["values"] == {"0": 0.41, "1": 0.43, "2": 0.45}
    assert sampled["interval"]["mean"] == pytest.approx(0.43)
    # s = 0.02
    assert sampled["interval"]["high"] == pytest.approx(0.43 + T_2 * 0.02 / math.sqrt(3), abs=1e-7)
    # differences 1, 2, 3 points: p = 1 - sqrt(12 / 14)
    assert sampled["difference"]["mean"] == pytest.approx(0.02)
    assert sampled["difference"]["low"] == pytest.approx(0.02 - T_2 * 0.01 / math.sqrt(3), abs=1e-7)
    assert sampled["difference"]["p_value"] == pytest.approx(1 - math.sqrt(12 / 14))
    assert (nsa["learning_rates"], nsa["num_seeds"]) == ([3e-4], 3)
    assert nsa["diverged"] == nsa["missing"] == nsa["stopped_early"] == []


def test_the_reference_differs_from_nothing_and_the_start_is_a_row():
    comparison = compare(THREE[::-1], "plain")
    arms = comparison["rounds"]["1"]
    assert list(arms) == [START, "nsa", "plain"]
    assert arms["plain"]["measures"]["sampled"]["difference"] is None
    assert arms[START]["measures"]["sampled"]["difference"]["mean"] == pytest.approx(-0.11)
    assert arms[START]["learning_rates"] == []


def test_numbers_survive_json():
    comparison = compare([*THREE, lost("other", 0)], "plain", {"nsa": "BCPG-NSA"})
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison


def test_a_diverged_seed_is_said_and_never_averaged():
    results = [*THREE[:-1], lost("nsa", 2)]
    comparison = compare(results, "plain", {"plain": "BCPG", "nsa": "BCPG-NSA"})
    nsa = comparison["rounds"]["1"]["nsa"]
    assert nsa["diverged"] == [2]
    assert nsa["missing"] == []
    assert nsa["measures"]["sampled"]["values"] == {"0": 0.41, "1": 0.43}
    assert (nsa["measures"]["sampled"]["interval"]["n"], nsa["measures"]["sampled"]["difference"]["n"]) == (2, 2)
    table = markdown_table(comparison)
    row = next(line for line in table.splitlines() if line.startswith("| BCPG-NSA "))
    assert "diverged 1 of 3 (seed 2)" in row
    assert "42.0 ± 12.7 †" in row
    assert "† Without the runs" in table
    assert "nsa, seed 2, round 1: loss not finite" in comparison["notes"]


def test_a_whole_table_has_no_dagger():
    assert "†" not in markdown_table(compare(THREE, "plain"))


def test_what_diverged_stays_so_in_later_rounds():
    results = [*(run("plain", s, 0.4 + s / 100, round_=r) for s in range(2) for r in (1, 2))]
    results += [lost("nsa", 0), run("nsa", 1, 0.5), run("nsa", 1, 0.6, round_=2)]
    rounds = compare(results, "plain")["rounds"]
    assert list(rounds) == ["1", "2"]
    assert rounds["2"]["nsa"]["diverged"] == [0]
    assert rounds["2"]["nsa"]["missing"] == []
    assert rounds["2"]["nsa"]["measures"]["sampled"]["values"] == {"1": 0.6}
    later = compare(
        [run("plain", 0, 0.4), run("plain", 0, 0.4, round_=2), run("nsa", 0, 0.4), lost("nsa", 0, 2)], "plain"
    )
    assert later["rounds"]["1"]["nsa"]["diverged"] == []


def test_an_arm_that_always_diverged_says_so_instead_of_zero():
    comparison = compare([run("plain", 0, 0.4), run("plain", 1, 0.5), lost("nsa", 0), lost("nsa", 1)], "plain")
    cell = comparison["rounds"]["1"]["nsa"]["measures"]["sampled"]
    assert cell == {"values": {}, "interval": None, "difference": None}
    row = next(line for line in markdown_table(comparison).splitlines() if line.startswith("| nsa "))
    assert row == "| nsa | 0.001 | 5 | diverged 2 of 2 (seed 0, 1) | diverged | diverged | diverged | – | – |"


def test_missing_and_stopped_early_are_said():
    stopped = ArmResult("nsa", 0, 1, "stopped_early", 3e-4, report(0.45, 0.5), "")
    comparison = compare([run("plain", 0, 0.4), run("plain", 1, 0.5), stopped], "plain")
    cells = comparison["rounds"]["1"]["nsa"]
    assert (cells["missing"], cells["stopped_early"]) == ([1], [0])
    assert cells["measures"]["sampled"]["values"] == {"0": 0.45}
    assert "missing 1 of 2 (seed 1); stopped early 1 of 2 (seed 0)" in markdown_table(comparison)


def test_differences_take_the_seeds_both_arms_have():
    results = [run("plain", 1, 0.40), run("plain", 2, 0.41), run("plain", 3, 0.42), lost("plain", 0)]
    results += [run("nsa", s, 0.50 + s / 100) for s in range(3)]
    difference = compare(results, "plain")["rounds"]["1"]["nsa"]["measures"]["sampled"]["difference"]
    assert difference["n"] == 2
    assert difference["mean"] == pytest.approx((0.11 + 0.11) / 2)


def test_pass_at_k_takes_the_largest_common_k():
    results = [run("a", 0, 0.4, ks=(1, 2, 4)), run("b", 0, 0.4, ks=(1, 2, 4, 8))]
    comparison = compare(results, "a")
    assert comparison["measures"] == ["sampled", "greedy", "pass@4"]
    assert comparison["rounds"]["1"]["b"]["measures"]["pass@4"]["values"] == {"0": pytest.approx(0.44)}
    assert compare([run("a", 0, 0.4, ks=(1,)), run("b", 0, 0.4)], "a")["measures"] == ["sampled", "greedy"]


def test_more_tests_are_measures_of_their_own():
    longer = {"longer": report(0.1, 0.2)}
    comparison = compare([run("a", 0, 0.4, more_tests=longer), run("b", 0, 0.5)], "a")
    assert comparison["measures"][-2:] == ["longer sampled", "longer greedy"]
    arms = comparison["rounds"]["1"]
    assert arms["a"]["measures"]["longer greedy"]["values"] == {"0": 0.2}
    assert arms["b"]["measures"]["longer greedy"]["values"] == {"0": None}
    assert arms["b"]["measures"]["longer greedy"]["interval"] is None


def test_what_nobody_measured_is_no_column():
    comparison = compare([run("a", 0, 0.4, greedy=None, ks=())], "a")
    assert comparison["measures"] == ["sampled"]
    assert "greedy" not in markdown_table(comparison)


def test_table_by_hand():
    table = markdown_table(compare(THREE, "plain", {"plain": "BCPG", "nsa": "BCPG-NSA"}))
    assert table.splitlines()[:5] == [
        "| method | learning rate | epochs | runs | sampled | greedy | pass@4 | sampled − BCPG | greedy − BCPG |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| start | – | – | 3 | 30.0 ± 0.0 | 40.0 ± 0.0 | 34.0 ± 0.0 | -11.0 [-13.5, -8.5], p 0.003 | -10.0 [-10.0, -10.0] |",
        "| BCPG | 0.0003 | 2 | 3 | 41.0 ± 2.5 | 50.0 ± 0.0 | 45.0 ± 2.5 | – | – |",
        "| BCPG-NSA | 0.0003 | 2 | 3 | 43.0 ± 5.0 | 50.0 ± 0.0 | 47.0 ± 5.0 | +2.0 [-0.5, +4.5], p 0.074 | +0.0 [+0.0, +0.0] |",
    ]
    assert "seeds 0, 1, 2" in table
    assert "95 % interval" in table
    assert "paired t test" in table


def test_one_seed_has_no_interval_and_small_differences_no_sign():
    table = markdown_table(compare([run("plain", 7, 0.4), run("nsa", 7, 0.39999)], "plain"))
    row = next(line for line in table.splitlines() if line.startswith("| nsa "))
    assert row == "| nsa | 0.0003 | 2 | 1 | 40.0 | 50.0 | 44.0 | +0.0 | +0.0 |"


def test_any_round_can_be_shown():
    comparison = compare([run("a", 0, 0.4), run("a", 0, 0.6, round_=2)], "a")
    assert "| 60.0 |" in markdown_table(comparison)
    assert "| 40.0 |" in markdown_table(comparison, 1)


def test_the_start_alone_is_a_comparison_too():
    comparison = compare([start(0, 0.3), start(1, 0.32)], "a")
    assert list(comparison["rounds"]) == ["0"]
    assert "| start | – | – | 2 | 31.0 ± 12.7 |" in markdown_table(comparison)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="two results for plain, seed 0, round 1"):
        compare([run("plain", 0, 0.4), run("plain", 0, 0.4)], "plain")
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([], "plain")
    with pytest.raises(ValueError, match="diverged"):
        ArmResult("plain", 0, 1, "diverged", 1e-3, report(0.4))
    with pytest.raises(ValueError, match="finished"):
        ArmResult("plain", 0, 1, "finished", 1e-3, None)
    with pytest.raises(ValueError, match="round 0"):
        ArmResult("plain", 0, 0, "finished", 1e-3, report(0.4))


def test_results_are_written_whole(tmp_path: Path):
    results = [*THREE, lost("topr", 1)]
    comparison = compare(results, "plain")
    target = tmp_path / "new" / "folder"
    write_results(target, comparison, results)
    write_results(target, comparison, results)  # over what is there
    assert sorted(p.name for p in target.iterdir()) == [
        "comparison.json",
        "comparison.md",
        "comparison.png",
        "results.csv",
    ]
    assert json.loads((target / "comparison.json").read_text()) == comparison
    assert (target / "comparison.png").read_bytes().startswith(b"\x89PNG")
    page = (target / "comparison.md").read_text()
    assert markdown_table(comparison, 1) in page
    assert "- topr, seed 1, round 1: loss not finite" in page
    rows = list(csv.DictReader((target / "results.csv").read_text().splitlines()))
    assert len(rows) == len(results)
    assert (rows[3]["arm"], rows[3]["sampled"], rows[3]["mined_share"]) == ("plain", "0.4", "")
    assert (rows[-1]["status"], rows[-1]["sampled"], rows[-1]["note"]) == ("diverged", "", "loss not finite")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path):
    comparison = compare(THREE, "plain")
    write_results(tmp_path, comparison, THREE)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError):
        write_results(tmp_path, {**comparison, "level": math.nan}, THREE)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_pictures_show_what_they_are_given(tmp_path: Path):
    """Other numbers, another picture; equal numbers, the same bytes."""
    comparison = compare([*THREE, lost("topr", 0), lost("topr", 1), lost("topr", 2)], "plain")
    for name in ("a.png", "b.png"):
        write_plot(comparison, tmp_path / name)
    write_plot(compare(THREE[:-1], "plain"), tmp_path / "c.png")
    pictures = [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png")]
    assert pictures[0] == pictures[1] != pictures[2]


def test_lines_are_drawn_with_and_without_intervals(tmp_path: Path):
    points = [(0.0, mean_interval([0.3])), (0.5, mean_interval([0.3, 0.4]))]
    write_lines_plot({"nsa": points}, tmp_path / "a.png", "beta", "accuracy, %")
    write_lines_plot({"nsa": points[::-1]}, tmp_path / "b.png", "beta", "accuracy, %")
    write_lines_plot({"nsa": points}, tmp_path / "c.png", "beta", "accuracy", as_percent=False)
    first, turned, unscaled = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first.startswith(b"\x89PNG")
    assert first == turned != unscaled
