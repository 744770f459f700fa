"""A whole round with reward, judge and segmenter of the user's own, all from one file beside the config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import outcomes_from, rollouts_from, steps_from, verdicts_from
from bcpg_cluster.store.shards import read_table

OWN = '''
import re
from bcpg_cluster.records import Step, VerdictStatus
from bcpg_cluster.stages.judge.protocol import Judged, Judgement

def reward(gold, response):
    found = re.findall(r"answer (\\S+)", response)
    return float(bool(found) and found[-1] == gold)

class Judge:
    """Calls steps of even length right."""
    version = "even-1"
    def __init__(self, base): self.base = base
    def judge(self, cases):
        def said(step): return Judgement(VerdictStatus.JUDGED, label=int(len(step) % self.base == 0))
        return Judged(tuple(tuple(map(said, case.steps)) for case in cases))
    def close(self): pass

def halves(texts):
    """Two steps."""
    middle = len(texts) // 2
    cuts = [(0, middle), (middle, len(texts))]
    return [Step(a, b, "".join(texts[a:b])) for a, b in cuts if b > a]
'''


@pytest.fixture
def config(fakes_content: Callable[[], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    content = fakes_content()
    content["verify"] = {"kind": "function", "function": "./own.py:reward", "time_limit_s": 60}
    content["segment"] = {"kind": "python", "class": "own.py:halves"}
    content["judges"] = {"mine": {"kind": "python", "class": "./own.py:Judge", "options": {"base": 2}}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def table(directory: Path, name: str) -> list[dict[str, Any]]:
    return read_table(directory, read_manifest(directory).receipts(1, name))


def test_a_round_of_own_parts(bcpg: Callable[..., Any], config: Path, tmp_path: Path):
    ended = bcpg("validate", "--config", config)
    assert ended.code == 0, ended.err
    ended = bcpg("iterate", "--config", config, "--inline", "-n", 1, "--run-dir", tmp_path / "run")
    assert ended.code == 0, ended.err
    rollouts = {rollout.id: rollout for rollout in rollouts_from(table(tmp_path / "run", "rollouts"))}
    outcomes = outcomes_from(table(tmp_path / "run", "outcomes"))
    assert {outcome.reward for outcome in outcomes.values()} == {0.0, 1.0}
    steps = steps_from(table(tmp_path / "run", "steps"))
    for id_, of_sample in steps.items():
        middle = len(rollouts[id_].token_ids) // 2
        assert [(step.start, step.end) for step in of_sample] == [(0, middle), (middle, len(rollouts[id_].token_ids))]
    verdicts = verdicts_from(table(tmp_path / "run", "verdicts.mine"))
    assert verdicts.keys() == steps.keys() and steps
    for id_, said in verdicts.items():
        assert [verdict.status for verdict in said] == [VerdictStatus.JUDGED] * 2
        assert [verdict.label for verdict in said] == [int(len(step.text) % 2 == 0) for step in steps[id_]]
        assert {verdict.judge_version.partition("@")[0] for verdict in said} == {"even-1"}

    (tmp_path / "own.py").write_text(OWN.replace("even-1", "even-2"))
    again = bcpg("iterate", "--config", config, "--inline", "-n", 2, "--run-dir", tmp_path / "run")
    assert again.code == 2
    for key in ("judges.mine.class_digest", "segment.class_digest", "verify.function_digest"):
        assert f"{key} (" in again.err
    (tmp_path / "own.py").write_text(OWN)
    assert bcpg("iterate", "--config", config, "--inline", "-n", 2, "--run-dir", tmp_path / "run").code == 0
    kept = tmp_path / "run" / "config.yaml"  # what a run keeps can be run as it is
    assert bcpg("iterate", "--config", kept, "--inline", "-n", 2, "--run-dir", tmp_path / "run").code == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "judges.mine.class=./own.py:Juge",
            "judges.mine.class './own.py:Juge' cannot be used: own.py has no Juge; did",
        ),
        ("judges.mine.class=gone.py:Judge", "judges.mine.class 'gone.py:Judge': there is no file"),
        ("segment.class=own.py:quarters", "segment.class 'own.py:quarters' cannot be used: own.py has no quarters"),
        ("judges.mine.class=null", "judges.mine: kind 'python' needs a class"),
        ("segment.kind=structural", "segment: kind 'python' needs a class"),
        ("verify.options={a: 1}", "verify: options are for kind 'python'"),
        ("judges.mine.clas=own.py:Judge", "did you mean judges.mine.class for judges.mine.clas?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    bcpg: Callable[..., Any], config: Path, tmp_path: Path, change: str, problem: str
):
    ended = bcpg("iterate", "--config", config, "--inline", "-n", 1, "--run-dir", tmp_path / "run", "--set", change)
    assert ended.code == 2 and problem in ended.err, ended.err
    assert not (tmp_path / "run").exists()
