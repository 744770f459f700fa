"""Choosing lambda: the curve by hand, ties, choices; the command on a run and on a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.errors import DataError, UserError
from bcpg_cluster.records import SampleId, Step, Verdict, VerdictStatus
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.stages.weigh.consensus import vote_label
from bcpg_cluster.store.rows import step_rows, verdict_row
from bcpg_cluster.store.shards import write_shard
from bcpg_cluster.watch.report.calibration import (
    LabelledStep,
    calibration_curve,
    choose_by_f1,
    choose_by_precision,
    short_decimal,
    thin_curve,
)
from bcpg_cluster_cli.judging.calibrate import run_calibrate

STEPS = [
    LabelledStep(0.9, True, 10),
    LabelledStep(0.8, False, 1),
    LabelledStep(0.8, True, 2),
    LabelledStep(0.4, True, 3),
    LabelledStep(0.1, False, 4),
]


def test_curve_by_hand() -> None:
    curve = calibration_curve(STEPS)
    rows = [(p.lower, p.upper, p.num_mined, p.precision, p.recall, p.f1) for p in curve]
    assert rows == [
        (0.0, 0.1, 5, 3 / 5, 1.0, 6 / 8),
        (0.1, 0.4, 4, 3 / 4, 1.0, 6 / 7),
        (0.4, 0.8, 3, 2 / 3, 2 / 3, 4 / 6),
        (0.8, 0.9, 1, 1.0, 1 / 3, 2 / 4),  # both steps at 0.8 fall together
        (0.9, math.nextafter(1.0, 2.0), 0, None, 0.0, None),
    ]
    assert [p.mined_share for p in curve] == [1.0, 0.8, 0.6, 0.2, 0.0]
    assert [p.mined_token_share for p in curve] == [1.0, 16 / 20, 13 / 20, 0.5, 0.0]
    # Wilson's interval of 3 in 4, from a table: 0.3006 .. 0.9544.
    assert curve[1].precision_low == pytest.approx(0.3006, abs=1e-4)
    assert curve[4].precision_low is None


def test_choices() -> None:
    curve = calibration_curve(STEPS)
    assert choose_by_f1(curve) is curve[1]
    assert choose_by_precision(curve, 0.7) is curve[1]
    assert choose_by_precision(curve, 0.75) is curve[1]
    assert choose_by_precision(curve, 0.76) is curve[3]
    assert choose_by_precision(curve, 0.76, min_mined=2) is None
    # Precision is not monotone: 0.6 is reached at once, though it is missed by no later point but the last.
    assert choose_by_precision(curve, 0.6) is curve[1]  # as much recall as curve[0], and more precise
    assert choose_by_f1(curve, min_mined=6) is None


def test_nothing_right_or_nothing_to_choose() -> None:
    wrong = calibration_curve([LabelledStep(0.5, False), LabelledStep(0.0, False)])
    assert [(p.precision, p.recall, p.f1) for p in wrong] == [(0.0, None, None), (None, None, None)]
    assert choose_by_f1(wrong) is None
    assert choose_by_precision(wrong, 0.1) is None
    # A score of 0 is above no lambda at all.
    assert [p.num_mined for p in calibration_curve([LabelledStep(0.0, True), LabelledStep(1.0, True)])] == [1, 0]
    for bad in ([], [LabelledStep(1.5, True)], [LabelledStep(float("nan"), True)], [LabelledStep(0.5, True, 0)]):
        with pytest.raises(ValueError, match=r"at least one|in \[0, 1\]"):
            calibration_curve(bad)


GRID = st.sampled_from([0.0, 1e-300, 0.1, 0.3, 0.30000000000000004, 0.5, 0.7, 1.0]) | st.floats(0, 1)


@given(st.lists(st.builds(LabelledStep, GRID, st.booleans(), st.integers(1, 9)), min_size=1, max_size=30))
def test_every_point_says_what_its_threshold_does(steps: list[LabelledStep]) -> None:
    curve = calibration_curve(steps)
    assert curve[0].lower == 0.0
    for point, following in zip(curve, [*curve[1:], None], strict=True):
        assert 0.0 <= point.threshold <= 1.0
        assert point.lower <= point.threshold < point.upper
        for threshold in (point.threshold, point.lower, math.nextafter(point.upper, 0.0), float(repr(point.threshold))):
            votes = [Verdict(None, 0, "j", "v", VerdictStatus.JUDGED, score=s.score) for s in steps]  # type: ignore[arg-type]
            mined = [s for s, vote in zip(steps, votes, strict=True) if vote_label(vote, threshold)]
            assert len(mined) == point.num_mined
            right = sum(s.is_right for s in mined)
            assert point.precision == (right / len(mined) if mined else None)
            assert point.mined_token_share == sum(s.num_tokens for s in mined) / sum(s.num_tokens for s in steps)
        if following is not None:
            assert following.lower == point.upper
            assert following.num_mined < point.num_mined  # no two points are the same
    assert curve[-1].num_mined == 0
    best = choose_by_f1(curve)
    assert best is None or all(p.f1 is None or p.f1 <= (best.f1 or 0) for p in curve)
    met = choose_by_precision(curve, 0.6)
    for point in curve:
        if point.precision is not None and point.precision >= 0.6:
            assert met is not None
            assert (met.recall or 0.0) >= (point.recall or 0.0)


@pytest.mark.parametrize(
    ("lower", "upper", "decimal"),
    [
        (0.0, 0.1, 0.0),
        (0.1, 0.2, 0.15),
        (0.123, 0.987, 0.6),
        (0.4, 0.4000001, 0.4),
        (0.31, 0.33, 0.32),
        (0.8999, 1.1, 1.0),
        (0.5, math.nextafter(0.5, 1.0), 0.5),
    ],
)
def test_short_decimal(lower: float, upper: float, decimal: float) -> None:
    assert short_decimal(lower, upper) == decimal
    with pytest.raises(ValueError, match="nothing from"):
        short_decimal(upper, lower)


def test_thinned_curve_keeps_ends_and_choice() -> None:
    curve = calibration_curve([LabelledStep(index / 1000, index % 3 > 0) for index in range(1000)])
    chosen = curve[777]
    thin = thin_curve(curve, 11, chosen)
    assert len(thin) == 12
    assert (thin[0], thin[-1]) == (curve[0], curve[-1])
    assert chosen in thin
    assert [p.threshold for p in thin] == sorted(p.threshold for p in thin)
    assert max(a.mined_share - b.mined_share for a, b in pairwise(thin)) < 0.11
    assert thin_curve(curve[:5], 11) == curve[:5]


# --- the command -----------------------------------------------------------------------------------------------------


def labelled_file(path: Path) -> Path:
    lines = [json.dumps({"score": s.score, "label": int(s.is_right), "tokens": s.num_tokens}) for s in STEPS]
    path.write_text("\n".join(lines) + "\n\n")
    return path


def test_calibrate_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = labelled_file(tmp_path / "labels.jsonl")
    run_calibrate(None, "prm", labels=path, precision=0.76, min_mined=1)
    shown = " ".join(capsys.readouterr().out.split())
    assert "chosen: threshold 0.85, the most recall at a precision of 0.76 or more. Any from 0.8 up to 0.9" in shown
    assert "--set judges.prm.threshold=0.85 " in shown
    run_calibrate(None, "prm", labels=path, min_mined=1, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["rule"] == "f1"
    assert said["chosen"]["f1"] == pytest.approx(6 / 7)
    assert 0.1 <= said["chosen"]["threshold"] < 0.4
    assert said["steps"] == {"used": 5, "right": 3, "unscored": 0, "unlabelled": 0, "last": 0}
    assert [point["num_mined"] for point in said["curve"]] == [5, 4, 3, 1, 0]
    with pytest.raises(UserError, match=r"precision 0\.999"):
        run_calibrate(None, "prm", labels=path, precision=0.999, min_mined=2)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2"),
        ("[1]", "line 2"),
        ('{"score": 1.2, "label": 1}', "line 2"),
        ('{"score": NaN, "label": 1}', "line 2"),
        ('{"score": 0.5, "label": 2}', "line 2"),
        ('{"score": 0.5, "label": "1"}', "line 2"),
        ('{"score": true, "label": 1}', "line 2"),
        ('{"score": 0.5}', "line 2"),
        ('{"score": 0.5, "label": 1, "tokens": 0}', "line 2"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"score": 0.5, "label": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=words):
        run_calibrate(None, "prm", labels=path)


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        run_calibrate(None, "prm", labels=tmp_path / "no.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no step"):
        run_calibrate(None, "prm", labels=tmp_path / "empty.jsonl")


JUDGED, REFUSED = VerdictStatus.JUDGED, VerdictStatus.REFUSED


@pytest.fixture
def scored_run(tmp_path: Path, make_config: Callable[..., Any]) -> Path:
    """A run whose judge ``prm`` scored one response of each of two rounds; the third round is not sealed yet."""
    directory = tmp_path / "run"
    directory.mkdir()
    other = {"kind": "chain_truth", "role": "spare", "rule": "local"}
    with open_run(directory, make_config(judges={"by_itself": other})) as manifest:
        for round_, scores in enumerate([(0.9, 0.8, 0.7, 0.99), (0.2, None, 0.6, 0.99), (0.5, 0.5, 0.5, 0.5)], 1):
            id_ = SampleId(round_, "a0", 1)
            steps = [Step(0, 2, "a"), Step(2, 7, "b"), Step(7, 8, "c"), Step(8, 10, "d")]
            truths: list[int | None] = [1, 0, 1, 0] if round_ == 1 else [0, 1, None, 0]
            rows: dict[str, list[Any]] = {"steps": step_rows(id_, steps), "verdicts.prm": [], "verdicts.truth": []}
            for index, (score, truth) in enumerate(zip(scores, truths, strict=True)):
                said = Verdict(id_, index, "prm", "p", REFUSED if score is None else JUDGED, score=score)
                true = Verdict(id_, index, "truth", "t", REFUSED if truth is None else JUDGED, label=truth)
                rows["verdicts.prm"].append(verdict_row(said))
                rows["verdicts.truth"].append(verdict_row(true))
            for table, of_table in rows.items():
                receipt = write_shard(
                    directory, table=table, round_=round_, shard=0, attempt="x", rows=of_table, seconds=0.0, metrics={}
                )
                manifest.accept(receipt)
                if round_ < 3 or table == "steps":
                    manifest.seal(round_, table, 1)
    return directory


def test_calibrate_on_a_run(scored_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(**options: Any) -> Any:
        run_calibrate(scored_run, "prm", min_mined=1, as_json=True, **options)
        return json.loads(capsys.readouterr().out)

    both = said()
    # Round 1: 0.9 right, 0.8 wrong, 0.7 right. Round 2: 0.2 wrong; one has no score, one no label. Last steps are out.
    assert both["steps"] == {"used": 4, "right": 2, "unscored": 1, "unlabelled": 1, "last": 2}
    # Scores are kept in single precision.
    assert (both["chosen"]["lower"], both["chosen"]["upper"]) == pytest.approx((0.2, 0.7), abs=1e-7)
    assert both["chosen"]["precision"] == pytest.approx(2 / 3)
    assert both["chosen"]["mined_token_share"] == pytest.approx(8 / 10)
    first = said(rounds=[1], precision=0.9)
    assert (first["steps"]["used"], first["chosen"]["num_mined"], round(first["chosen"]["lower"], 6)) == (3, 1, 0.8)
    run_calibrate(scored_run, "prm", min_mined=1)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"--set judges.prm.threshold={both['chosen']['threshold']!r}" in shown
    assert "1 without a score, 1 without a label, 2 last steps" in shown


def test_calibrate_says_what_is_missing(scored_run: Path) -> None:
    for options, words in [
        ({"judge": "nobody"}, "no judge 'nobody'"),
        ({"judge": "prm", "measure": "prm"}, "against itself"),
        ({"judge": "truth", "measure": "prm"}, "gives labels"),
        (
            {"judge": "prm", "measure": "by_itself"},
            "'prm' grades steps by the rule 'propagated', 'by_itself' by 'local'",
        ),
        ({"judge": "prm", "rounds": [3]}, "no step"),
        ({"judge": "prm", "measure": "llm"}, "no step"),
        ({"judge": "prm"}, "at least 20 mined steps; none mines that many"),
    ]:
        with pytest.raises(UserError, match=words):
            run_calibrate(scored_run, **options)  # type: ignore[arg-type]
