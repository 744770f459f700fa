"""report/judge_quality.py and the command judge-eval: judges and rules against known steps, by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError, EngineError
from bcpg_cluster.prompts.labelled_steps import LabelledSolution
from bcpg_cluster.prompts.step_truth import known_truth
from bcpg_cluster.records import ErrorType, VerdictStatus
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement
from bcpg_cluster.stages.weigh.consensus import ConsensusRule
from bcpg_cluster.watch.report.judge_quality import (
    evaluation,
    first_error_quality,
    pair_quality,
    rule_labels,
    rule_name,
    truth_quality,
)
from bcpg_cluster_cli.judging.judge_eval import REPORT, consensus_rules, run_judge_eval

LOST, JUDGED = VerdictStatus.ENGINE_LOST, VerdictStatus.JUDGED


def solution(name: str, first_wrong: int, num_steps: int) -> LabelledSolution:
    steps = tuple(f"{name}{index}" for index in range(num_steps))
    return LabelledSolution(name, f"problem {name}", steps, known_truth(first_wrong, num_steps), first_wrong, "7")


def test_quality_against_the_truth_by_hand():
    # known steps: hit, missed, false alarm, abstained (right), true "wrong"; the last step's truth is not known
    facts = truth_quality([1, 0, 1, None, 0, 1], [1, 1, 0, 1, 0, None])
    assert (facts["num_steps"], facts["num_abstained"]) == (5, 1)
    assert facts["precision"] == 1 / 2
    assert facts["recall"] == 1 / 3  # the abstention is no label "right"
    assert facts["accuracy"] == 2 / 4
    assert (
        facts["accuracy_for_weights"] == (2 / 4 + 2 / 4) / 2
    )  # 1 of 2 wrong ones and 1 of 2 right ones, each smoothed
    assert facts["kappa"] == 0.0  # 2 of 4 where chance gives (2 * 2 + 2 * 2) / 16


def test_a_judge_that_always_says_right_gets_no_weight():
    facts = truth_quality([1] * 10, [1] * 8 + [0] * 2)
    assert facts["accuracy"] == 0.8 and facts["kappa"] == 0.0
    assert facts["accuracy_for_weights"] == (9 / 10 + 1 / 4) / 2
    many = truth_quality([1] * 10_000, [1] * 8000 + [0] * 2000)
    assert many["accuracy_for_weights"] == pytest.approx(0.5, abs=1e-3)


def test_no_known_step_is_no_number():
    facts = truth_quality([1], [None])
    assert facts["precision"] is facts["recall"] is facts["accuracy"] is facts["kappa"] is None
    assert facts["accuracy_for_weights"] == 0.5


def test_pairs_by_hand():
    pairs = pair_quality({"a": [1, 1, 0, 0], "b": [1, 0, 0, None], "c": [None] * 4})
    assert list(pairs) == ["a+b", "a+c", "b+c"]
    ab = pairs["a+b"]
    assert (ab["num_steps"], ab["num_disputed"], ab["agreement"]) == (3, 1, 2 / 3)
    assert ab["kappa"] == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert pairs["a+c"] == {"num_steps": 0, "num_disputed": 0, "agreement": None, "kappa": None}


def test_rules_combine_step_by_step_and_a_silence_is_no_first_error():
    labels = {"a": [[1, 1], [0]], "b": [[1, None], [None]]}
    assert rule_labels(labels, ConsensusRule("all")) == [[1, None], [0]]
    assert rule_labels(labels, ConsensusRule("any")) == [[1, 1], [None]]
    assert rule_labels(labels, ConsensusRule("all", "left_out")) == [[1, 1], [0]]
    with pytest.raises(ValueError, match="shorter"):
        rule_labels({"a": [[1, 1]], "b": [[1]]}, ConsensusRule())
    assert rule_name(ConsensusRule("k_of_n", num_needed=2)) == "k_of_n:2"
    assert rule_name(ConsensusRule("any", "left_out")) == "any, left_out"


def test_solutions_of_unknown_first_error_are_not_scored():
    unknown = LabelledSolution("u", "p", ("x", "y"), (None, 1), None)
    score = first_error_quality([solution("a", 0, 2), unknown], [[0, 1], [0, 0]])
    assert (score.acc_error, score.num_error, score.num_correct) == (1.0, 1, 0)
    with pytest.raises(ValueError, match="a: 1 labels for 2 steps"):
        first_error_quality([solution("a", 0, 2)], [[0]])


def test_an_ensemble_by_hand():
    """Judge a misses the mistake of x; judge b finds a mistake in y, which has none. Together they are right about x."""
    subsets = {"one": [solution("x", 1, 3), solution("y", -1, 2)], "two": [solution("z", 0, 1), solution("w", -1, 1)]}
    labels = {
        "one": {"a": [[1, 1, 1], [1, 1]], "b": [[1, 0, 0], [1, 0]]},
        "two": {"a": [[0], [1]], "b": [[0], [1]]},
    }
    report = evaluation(subsets, labels, [ConsensusRule("all"), ConsensusRule("any")])
    one = report["subsets"]["one"]
    assert (one["num_solutions"], one["num_steps"]) == (2, 5)
    scores = {
        name: (of["first_error"]["acc_error"], of["first_error"]["acc_correct"], of["first_error"]["f1"])
        for kind in ("judges", "rules")
        for name, of in one[kind].items()
    }
    assert scores == {"a": (0, 1, 0), "b": (1, 0, 0), "all": (1, 0, 0), "any": (0, 1, 0)}
    assert one["judges"]["a"]["steps"]["precision"] == 3 / 4  # x0, y0, y1 and the mistake x1; x2 has no truth
    assert one["rules"]["all"]["steps"]["recall"] == 2 / 3
    assert one["pairs"]["a+b"]["num_disputed"] == 3
    assert {name: of["mean_f1"] for name, of in report["overall"]["judges"].items()} == {"a": 0.5, "b": 0.5}
    assert report["overall"]["judges"]["a"]["steps"]["num_steps"] == 6
    assert report["overall"]["pairs"]["a+b"]["num_steps"] == 7
    assert json.loads(json.dumps(report)) == report


# --- the command


class Scripted:
    """A judge that says what a function of a step's text says."""

    def __init__(self, say: Callable[[str], Judgement], version: str = "v1", fails_after: int = 10**9) -> None:
        self.version, self._say, self._fails_after = version, say, fails_after
        self.asked: list[JudgeCase] = []
        self.is_closed = False

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        if len(self.asked) >= self._fails_after:
            raise EngineError("gone")
        self.asked += cases
        return Judged(tuple(tuple(map(self._say, case.steps)) for case in cases))

    def close(self) -> None:
        self.is_closed = True


def scored(text: str) -> Judgement:
    return Judgement(JUDGED, score=0.4 if "bad" in text else 0.8)


def labelled(text: str) -> Judgement:
    return Judgement(JUDGED, label=int("bad" not in text), error_type=ErrorType.LOGIC, raw=f"said {text}")


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    judges: dict[str, Any] = {"prm": {"kind": "fake", "threshold": 0.5}, "llm": {"kind": "fake", "show_gold": True}}
    return make_config(judges={**judges, "truth": {"kind": "chain_truth", "role": "measure"}})


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [
        {"problem": "p0", "steps": ["fine", "bad", "more"], "label": 1, "answer": "3"},
        {"problem": "p1", "steps": ["fine", "fine"], "label": -1},
        {"problem": "p2", "steps": ["fine", "secretly wrong"], "label": 1},
    ]
    path = tmp_path / "set.json"
    path.write_text(json.dumps(rows))
    return str(path)


def factory(**judges: Scripted) -> Callable[[Config, str], Scripted]:
    return lambda config, name: judges[name]


def test_judge_eval_by_hand(
    config: Config, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "200")
    judges = {"prm": Scripted(scored), "llm": Scripted(labelled)}
    report = run_judge_eval([data], config, factory(**judges), output=tmp_path / "out", batch=2)
    shown = capsys.readouterr().out
    of_set = report["subsets"]["set"]
    assert list(of_set["judges"]) == ["llm", "prm"] and list(of_set["rules"]) == ["all", "any", "majority"]
    first = of_set["judges"]["prm"]["first_error"]
    assert (first["acc_error"], first["acc_correct"]) == (1 / 2, 1.0)
    assert first["f1"] == pytest.approx(2 / 3)
    assert "66.7 %" in shown and "llm: 2 of 3 solutions have no gold answer" in shown
    assert json.loads((tmp_path / "out" / REPORT).read_text()) == report
    assert [case.gold for case in judges["prm"].asked] == [None] * 3  # it may not see them
    assert [case.gold for case in judges["llm"].asked] == ["3", None, None]
    assert all(judge.is_closed for judge in judges.values())


def test_judges_of_different_rules_are_measured_apart(make_config: Callable[..., Config], data: str, tmp_path: Path):
    judges = {"llm": {"kind": "fake"}, "prm": {"kind": "fake", "role": "spare", "rule": "local"}}
    config = make_config(judges=judges)
    with pytest.raises(ConfigError, match="llm: propagated, prm: local") as caught:
        run_judge_eval([data], config, factory(), judges=["llm", "prm"], output=tmp_path / "out")
    assert "--judge NAME" in caught.value.remedy
    report = run_judge_eval([data], config, factory(prm=Scripted(scored)), judges=["prm"], output=tmp_path / "out")
    assert report["judges"]["prm"]["rule"] == "local"


def test_another_threshold_asks_nobody_and_another_judge_is_asked(config: Config, data: str, tmp_path: Path):
    out = tmp_path / "out"
    run_judge_eval([data], config, factory(prm=Scripted(scored)), judges=["prm"], output=out)
    again, strict = Scripted(scored), config.model_copy(deep=True)
    strict.judges["prm"].__dict__["threshold"] = 0.9
    report = run_judge_eval([data], strict, factory(prm=again), judges=["prm"], output=out)
    assert again.asked == [] and report["judges"]["prm"]["num_solutions_asked"] == 0
    assert report["subsets"]["set"]["judges"]["prm"]["first_error"]["acc_correct"] == 0.0
    other = Scripted(scored, version="v2")
    run_judge_eval([data], config, factory(prm=other), judges=["prm"], output=out)
    assert len(other.asked) == 3


def test_a_judge_that_fails_goes_on_where_it_stopped(config: Config, data: str, tmp_path: Path):
    out = tmp_path / "out"
    failing = Scripted(labelled, fails_after=2)
    with pytest.raises(EngineError, match="gone"):
        run_judge_eval([data], config, factory(llm=failing), judges=["llm"], output=out, batch=1)
    assert failing.is_closed
    answers = out / "answers-llm.jsonl"
    with answers.open("a") as file:
        file.write('{"case": "to')  # torn
    rest = Scripted(labelled)
    report = run_judge_eval([data], config, factory(llm=rest), judges=["llm"], output=out, batch=1)
    assert [case.problem for case in rest.asked] == ["p2"]
    assert report["judges"]["llm"]["statuses"] == {"judged": 7}
    assert json.loads(answers.read_text().splitlines()[0])["raw"] == ["said fine", "said bad", "said more"]


def test_lost_answers_are_unreadable_and_asked_again(config: Config, data: str, tmp_path: Path):
    lost = Scripted(lambda text: Judgement(LOST))
    report = run_judge_eval([data], config, factory(llm=lost), judges=["llm"], output=tmp_path / "out")
    first = report["subsets"]["set"]["judges"]["llm"]["first_error"]
    assert (first["f1"], first["num_unreadable"]) == (0.0, 3)
    assert report["judges"]["llm"]["statuses"] == {"engine_lost": 7}
    back = Scripted(labelled)
    run_judge_eval([data], config, factory(llm=back), judges=["llm"], output=tmp_path / "out")
    assert len(back.asked) == 3


def test_too_few_verdicts_are_an_error_not_a_label(config: Config, data: str, tmp_path: Path):
    short = Scripted(labelled)
    short.judge = lambda cases: Judged(((labelled("fine"),),) * len(cases))  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="1 verdicts on 3 steps"):
        run_judge_eval([data], config, factory(llm=short), judges=["llm"], output=tmp_path / "out")


def test_json_alone_on_standard_output(
    config: Config, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):  # for machines
    report = run_judge_eval(
        [data], config, factory(prm=Scripted(scored), llm=Scripted(labelled)), rules=["k_of_n:2", "weighted", "k_of_n:2"],
        accuracies=["prm=0.9", "llm=0.6"], prior=0.4, limit=1, output=tmp_path / "out", as_json=True,
    )  # fmt: skip
    assert json.loads(capsys.readouterr().out) == report
    assert list(report["subsets"]["set"]["rules"]) == ["k_of_n:2", "weighted"]
    assert report["subsets"]["set"]["num_solutions"] == 1


def test_default_rules():
    def names(judges: Sequence[str], accuracies: Sequence[str] = ()) -> list[str]:
        return [rule_name(rule) for rule in consensus_rules((), judges, "against", accuracies, 0.5)]

    assert names(["a"]) == []
    assert names(["a", "b", "c"]) == ["all", "any", "majority", "k_of_n:2"]
    assert names(["a", "b"], ["a=0.9", "b=0.8"]) == ["all", "any", "majority", "weighted"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"judges": ["who"]}, "no judge 'who'"),
        ({"rules": ["most"]}, "unknown consensus rule"),
        ({"rules": ["k_of_n"]}, "num_needed"),
        ({"rules": ["k_of_n:x"]}, "'x' is not a whole number"),
        ({"rules": ["k_of_n:3"]}, "3 of 2"),
        ({"rules": ["weighted"], "accuracies": ["prm=0.9"]}, r"\['llm'\]"),
        ({"rules": ["weighted"], "accuracies": ["prm=high"]}, "'high' is not a number"),
        ({"rules": ["weighted"], "accuracies": ["prm=0.9", "llm=0.3"]}, "accuracy is in"),
    ],
)
def test_what_judge_eval_refuses_before_anything_starts(
    config: Config, data: str, tmp_path: Path, arguments: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=message):
        run_judge_eval([data], config, factory(), output=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_answers_that_something_else_wrote(config: Config, data: str, tmp_path: Path):
    (tmp_path / "answers-llm.jsonl").write_text('{"case": 1}\n')
    with pytest.raises(DataError, match="invalid line"):
        run_judge_eval([data], config, factory(llm=Scripted(labelled)), judges=["llm"], output=tmp_path)
