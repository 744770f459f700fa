"""calibrate and judge-eval on files of TRL and PRM800K: what is asked, what is left out, what is chosen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, UserError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement
from bcpg_cluster_cli.judging.calibrate import Choice
from bcpg_cluster_cli.judging.calibrate_files import check_one_source, run_calibrate_on_files
from bcpg_cluster_cli.judging.judge_eval import run_judge_eval

JUDGED = VerdictStatus.JUDGED


class ByText:
    """A judge that scores a step by the number its text ends in; ``lost`` has no score."""

    version = "v1"

    def __init__(self) -> None:
        self.asked: list[JudgeCase] = []

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        self.asked += cases
        return Judged(tuple(tuple(map(self._say, case.steps)) for case in cases))

    def _say(self, text: str) -> Judgement:
        if text == "lost":
            return Judgement(VerdictStatus.ENGINE_LOST)
        return Judgement(JUDGED, score=float(text.split()[-1]))

    def close(self) -> None:
        pass


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(judges={"prm": {"kind": "fake"}, "truth": {"kind": "chain_truth", "role": "measure"}})


@pytest.fixture
def trl(tmp_path: Path) -> str:
    rows = [
        {"prompt": "a?", "completions": ["so 0.9", "so 0.8", "lost"], "labels": [True, False, True]},
        {"prompt": "b?", "completions": ["so 0.7"], "labels": [True]},
    ]
    path = tmp_path / "trl.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def prm800k(tmp_path: Path) -> str:
    def entry(*rated: tuple[str, int | None], finish: str = "solution") -> dict[str, Any]:
        steps = [
            {"completions": [{"text": text, "rating": rating, "flagged": None}], "chosen_completion": 0}
            for text, rating in rated
        ]
        return {"question": {"problem": "c?"}, "label": {"steps": steps, "finish_reason": finish}}

    rows = [
        entry(("so 0.6", 1), ("so 0.95", 0), ("so 0.2", -1), finish="found_error"),
        entry(("so 0.5", None), finish="give_up"),
        entry(finish="bad_problem"),
    ]
    path = tmp_path / "prm800k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


LEFT_OUT = {
    "trl": {"entries": {}, "steps": {}},
    "prm800k": {"entries": {"give_up": 1, "bad_problem": 1}, "steps": {"neutral": 1}},
}


def test_a_neutral_step_is_never_wrong(
    config: Config, trl: str, prm800k: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ByText()
    arguments: Any = ([trl, prm800k], config, lambda config, name: judge, "prm")
    run_calibrate_on_files(*arguments, Choice(min_mined=1, as_json=True), output=tmp_path / "out")
    out, err = capsys.readouterr()
    said = json.loads(out)
    # right 0.9 0.7 0.6, wrong 0.8 0.2; neutral 0.95 nowhere: above 0.2 are 3 right of 4 mined
    assert said["steps"] == {"used": 5, "right": 3, "unscored": 1, "unlabelled": 1, "last": 0}
    assert said["left_out"] == LEFT_OUT
    assert (said["chosen"]["num_mined"], said["chosen"]["precision"], said["chosen"]["recall"]) == (4, 3 / 4, 1.0)
    assert "entries left out, since they say nothing of any step: 1 bad_problem, 1 give_up" in err
    assert "neither right nor wrong: 1 neutral" in err
    assert [case.problem for case in judge.asked] == ["a?", "b?", "c?"]


def test_answers_of_judge_eval_are_not_asked_for_again(
    config: Config, trl: str, prm800k: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = ByText(), ByText()
    sources, out = [trl, prm800k], tmp_path / "out"
    report = run_judge_eval(sources, config, lambda config, name: first, judges=["prm"], output=out)
    assert report["left_out"] == LEFT_OUT
    shown = capsys.readouterr().out
    assert "1 bad_problem, 1 give_up" in shown and "1 neutral" in shown
    run_calibrate_on_files(sources, config, lambda config, name: again, "prm", Choice(min_mined=1), output=out)
    assert [case.problem for case in again.asked] == ["a?"]  # the step without a score is asked about again
    assert "5 steps, 3 of them right" in capsys.readouterr().out


def test_a_judge_without_scores_is_refused_before_it_starts(config: Config, trl: str, tmp_path: Path) -> None:
    def never(config: Config, name: str) -> ByText:
        raise AssertionError("it was started")

    for name, words in (("truth", "gives labels"), ("who", "no judge 'who'")):
        with pytest.raises(ConfigError, match=words):
            run_calibrate_on_files([trl], config, never, name, Choice(), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sources", "others", "words"),
    [
        ({"--data": ["f"], "--run-dir": "r"}, {}, "--data and --run-dir were given together"),
        ({"--data": None, "--run-dir": "r"}, {"--config": "c"}, "--config was given without --data"),
        ({"--data": None, "--run-dir": "r"}, {"--batch": 8}, "--batch was given without --data"),
    ],
)
def test_sources_are_not_mixed(sources: dict[str, object], others: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_one_source(sources, others)
    check_one_source({"--data": ["f"]}, {"--config": "c"})


SCORER = """
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.protocol import Judged, Judgement

class Scorer:
    version = "scorer-1"
    def judge(self, cases):
        return Judged(tuple(tuple(map(self.say, case.steps)) for case in cases))
    def say(self, step):
        if step == "lost":
            return Judgement(VerdictStatus.UNPARSABLE)
        return Judgement(VerdictStatus.JUDGED, score=float(step.split()[-1]))
    def close(self): ...
"""


def test_the_command_asks_a_judge_of_ones_own(
    bcpg: Callable[..., Any],
    fakes_content: Callable[[], dict[str, Any]],
    trl: str,
    prm800k: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(SCORER)
    judges = {
        "mine": {"kind": "python", "class": "./own.py:Scorer"},
        "truth": {"kind": "chain_truth", "role": "measure"},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(fakes_content() | {"judges": judges}))
    words = ["--data", trl, "--data", prm800k, "--config", "own.yaml", "--min-mined", 1]
    ended = bcpg("calibrate", "mine", *words, "--json")
    assert ended.code == 0, ended.err
    said = json.loads(ended.out)
    assert said["steps"]["used"] == 5 and said["left_out"] == LEFT_OUT
    assert said["chosen"]["lower"] == 0.2
    assert "--set judges.mine.threshold=" in bcpg("calibrate", "mine", *words).out
    ended = bcpg("calibrate", "truth", *words)
    assert ended.code == 2 and "gives labels" in ended.err
    ended = bcpg("calibrate", "mine", "--data", trl, "--run-dir", "somewhere")
    assert ended.code == 2 and "given together" in ended.err
    ended = bcpg("calibrate", "mine", "--data", trl, "--round", 1)
    assert ended.code == 2 and "--data and --round were given together" in ended.err
