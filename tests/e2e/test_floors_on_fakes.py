"""Rounds whose checks mostly fail: they stop, say why, and continue once what failed is mended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.store.manifest import read_manifest

RAISES = """
def reward(response, gold):
    raise KeyError("score")
"""
READS = """
import re
def reward(response, gold):
    found = re.findall(r"answer (\\S+)", response)
    return float(bool(found) and found[-1] == gold)
"""
JUDGE = """
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.protocol import Judged, Judgement
class Judge:
    version = "1"
    def __init__(self, answers=True): self.answers = answers
    def judge(self, cases):
        said = Judgement(VerdictStatus.JUDGED, label=1) if self.answers else Judgement(VerdictStatus.UNPARSABLE, raw="I cannot say")
        return Judged(tuple(tuple(said for _ in case.steps) for case in cases))
    def close(self): pass
"""


@pytest.fixture
def iterate(
    bcpg: Callable[..., Any],
    fakes_content: Callable[[], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """Run rounds of the fakes with some sections changed, in the directory ``run``."""
    monkeypatch.chdir(tmp_path)

    def run(rounds: int = 1, **sections: Any) -> Any:
        (tmp_path / "fakes.yaml").write_text(yaml.safe_dump({**fakes_content(), **sections}))
        return bcpg("iterate", "--config", "fakes.yaml", "--inline", "-n", rounds, "--run-dir", "run")

    return run


def test_a_reward_that_raises_stops_the_run_and_the_mended_one_continues_it(
    iterate: Callable[..., Any], tmp_path: Path
):
    (tmp_path / "own.py").write_text(RAISES)
    verify = {"kind": "function", "function": "own.py:reward", "time_limit_s": 60}
    ended = iterate(verify=verify)
    assert ended.code == 2
    lines = [line.strip() for line in ended.err.splitlines()]
    assert lines[0] == "error: evaluation of v0: 120 of 120 samples could not be verified"  # 24 problems, 4 + 1 each
    assert lines[1:3] == ["samples  reason", "120  KeyError: 'score'"]
    assert lines[3] == "the first:" and 'raise KeyError("score")' in lines[4:]
    assert "at most 50% of a round's samples (verify.max_error_share)" in ended.err
    assert "run the same command again" in ended.err
    state = read_manifest(tmp_path / "run")
    assert (0, "eval_rollouts") in state.sealed or len(
        state.shards[0, "eval_rollouts"]
    ) == 2  # what was sampled is kept
    assert (0, "eval_outcomes") not in state.shards

    (tmp_path / "own.py").write_text(READS)
    ended = iterate(verify=verify)
    assert ended.code == 0, ended.err
    assert "changed, since no result depends on it yet: verify.function_digest (" in ended.out
    reports = read_manifest(tmp_path / "run").reports
    assert sorted(reports) == [0, 1] and reports[0].accuracy is not None

    (tmp_path / "own.py").write_text(READS + "# another\n")
    ended = iterate(rounds=2, verify=verify)
    assert ended.code == 2 and "different: verify.function_digest (" in ended.err


def test_a_floor_may_be_lowered(iterate: Callable[..., Any], tmp_path: Path):
    (tmp_path / "own.py").write_text(RAISES)
    ended = iterate(
        verify={"kind": "function", "function": "own.py:reward", "time_limit_s": 60, "max_error_share": 1.0}
    )
    assert ended.code == 0, ended.err
    noted = "round 1: none of 96 samples can be trained on (unverified 96), the weights stay as they are"
    assert noted in ended.out


def test_a_judge_that_says_nothing_stops_the_run_and_the_mended_one_continues_it(
    iterate: Callable[..., Any], tmp_path: Path
):
    (tmp_path / "own.py").write_text(JUDGE)
    mute: dict[str, Any] = {"kind": "python", "class": "own.py:Judge", "options": {"answers": False}}
    ended = iterate(judges={"llm": {"kind": "fake"}, "mute": mute})
    assert ended.code == 2
    lines = [line.strip() for line in ended.err.splitlines()]
    assert lines[0].startswith("error: judge 'mute', round 1: ") and lines[0].endswith(" steps have no verdict")
    num_steps = int(lines[0].split()[5])
    assert lines[2:5] == [f"{num_steps}  unparsable", "the first:", "I cannot say"]
    assert "weigh.max_missing_share" in ended.err
    before = read_manifest(tmp_path / "run")
    assert (1, "verdicts.mute") not in before.shards and (1, "outcomes") in before.shards

    ended = iterate(judges={"llm": {"kind": "fake"}, "mute": {**mute, "options": {"answers": True}}})
    assert ended.code == 0, ended.err
    after = read_manifest(tmp_path / "run")
    assert after.shards[1, "rollouts"].keys() == before.shards[1, "rollouts"].keys()
    first = after.receipts(1, "rollouts")[0]
    assert first.attempt == before.receipts(1, "rollouts")[0].attempt  # no response was sampled again


@pytest.mark.parametrize("mute", [("llm", "prm"), ("llm",), ("prm",)])
def test_with_verdicts_that_cannot_be_read_of_one_voter_or_of_all_nothing_is_trained(
    iterate: Callable[..., Any], tmp_path: Path, mute: tuple[str, ...]
):
    (tmp_path / "own.py").write_text(JUDGE)
    judges: dict[str, Any] = {
        name: {"kind": "python", "class": "own.py:Judge", "options": {"answers": name not in mute}}
        for name in ("llm", "prm")
    }
    ended = iterate(judges=judges)
    assert ended.code == 2
    assert f"error: judge '{mute[0]}', round 1: " in ended.err or f"error: judge '{mute[-1]}', round 1: " in ended.err
    assert "unparsable" in ended.err and "(weigh.max_missing_share)" in ended.err
    state = read_manifest(tmp_path / "run")
    assert state.snapshots == {} and 1 not in state.reports


def test_an_engine_that_gives_up_its_responses_stops_the_run(iterate: Callable[..., Any], tmp_path: Path):
    ended = iterate(policy={"kind": "fake", "model": "fake:aborted"})
    assert ended.code == 2
    assert "error: evaluation of v0: the engine gave up 120 of 120 responses" in ended.err
    assert "(verify.max_error_share)" in ended.err
    assert (0, "eval_rollouts") not in read_manifest(tmp_path / "run").shards  # they are sampled anew


def test_a_measure_may_say_nothing(iterate: Callable[..., Any], tmp_path: Path):
    (tmp_path / "own.py").write_text(JUDGE)
    mute = {"kind": "python", "class": "own.py:Judge", "options": {"answers": False}, "role": "measure"}
    ended = iterate(judges={"llm": {"kind": "fake"}, "mute": mute})
    assert ended.code == 0, ended.err
