"""cluster/liveness/rank_progress.py: what a busy member says of itself."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter


def test_every_piece_is_a_move_and_even_ones_are_timed(clock: Any):
    reporter = ProgressReporter(clock)
    said = []
    for number in reporter.each("micro-batch", [3.0, 9.0, 4.0], " in step 5 of 12"):
        said.append(reporter.now())
        clock.now += number
    said.append(reporter.now())
    assert [each.where for each in said] == [
        "micro-batch 1 of 3 in step 5 of 12",
        "micro-batch 2 of 3 in step 5 of 12",
        "micro-batch 3 of 3 in step 5 of 12",
        "after the last micro-batch in step 5 of 12",
    ]
    assert [each.longest_s for each in said] == [None, 3.0, 9.0, None]
    assert [each.moves for each in said] == [1, 2, 3, 4]
    assert {(each.host, each.pid) for each in said} == {(socket.gethostname(), os.getpid())}


def test_kinds_are_timed_apart_and_rest_is_not_timed(clock: Any):
    reporter = ProgressReporter(clock)
    with reporter.call("reading rows"):
        clock.now += 500.0  # no piece to compare with
        reporter.begin("optimiser step", "step 1", is_even=True)
        clock.now += 7.0
        reporter.begin("micro-batch", is_even=True)
        clock.now += 2.0
    assert (reporter.now().doing, reporter.now().where) == ("", "between two calls")
    clock.now += 3600.0
    reporter.begin("micro-batch", is_even=True)
    assert reporter.now().longest_s == 2.0
    reporter.begin("optimiser step", is_even=True)
    assert reporter.now().longest_s == 7.0
    reporter.begin("reading rows")
    assert reporter.now().longest_s is None


def test_a_call_that_fails_rests_too(clock: Any):
    reporter = ProgressReporter(clock)
    with pytest.raises(ValueError, match="broken"), reporter.call("snapshot", "v3"):
        assert reporter.now().where == "snapshot v3"
        raise ValueError("broken")
    assert reporter.now().doing == ""
