"""judge-eval --segmenters: one table for several segmentations of the same labelled solutions, by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement
from bcpg_cluster_cli.judging.compare_segmenters import REPORT, segmenter_config
from bcpg_cluster_cli.judging.judge_eval import run_judge_eval

MakeConfig = Callable[..., Config]


class SaysBad:
    """Calls a step wrong that says `bad`."""

    version = "v1"

    def __init__(self) -> None:
        self.asked: list[JudgeCase] = []
        self.num_closed = 0

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        self.asked += cases
        return Judged(
            tuple(
                tuple(Judgement(VerdictStatus.JUDGED, label=int("bad" not in step)) for step in case.steps)
                for case in cases
            )
        )

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [
        {"problem": "p0", "steps": ["fine one", "bad two", "more three"], "label": 1},
        {"problem": "p1", "steps": ["fine one", "fine two"], "label": -1},
    ]
    path = tmp_path / "set.json"
    path.write_text(json.dumps(rows))
    return str(path)


def test_by_hand(
    make_config: MakeConfig,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("COLUMNS", "200")
    config = make_config(judges={"one": {"kind": "fake"}})
    judge = SaysBad()
    report = run_judge_eval(
        [data], config, lambda *_: judge, judges=["one"], output=tmp_path / "out",
        segmenters="labelled,structural,fixed:fixed_tokens=1:merge=false,delimiter:cut_after=[two, three]:merge=false",
    )  # fmt: skip
    by_name = report["segmenters"]
    assert list(by_name) == [
        "labelled",
        "structural",
        "fixed:fixed_tokens=1:merge=false",
        "delimiter:cut_after=[two, three]:merge=false",
    ]
    labelled, structural, words, joined = by_name.values()
    assert judge.num_closed == 1  # asked about all of them, and made once
    for same in (labelled, structural):  # a line is a step, and a step is a line here
        assert (same["num_steps"], same["num_unknown"]) == (5, 1)
        steps = same["overall"]["judges"]["one"]["steps"]
        assert (steps["precision"], steps["recall"], steps["true_share"]) == (1.0, 1.0, 3 / 4)
        assert same["mined"]["judges"]["one"] == {"steps": 2 / 3, "tokens": pytest.approx(2 / 3, abs=0.1)}
        assert same["mined"]["right"]["steps"] == 1 / 3
    # Every word is a step: "two" of the wrong step is called right.
    assert words["num_steps"] == 10 and words["tokens_per_step"][0] == 1
    steps = words["overall"]["judges"]["one"]["steps"]
    assert (steps["num_steps"], steps["precision"], steps["recall"]) == (8, 6 / 7, 1.0)
    assert words["mined"]["judges"]["one"]["steps"] == 5 / 6
    # "fine one ... bad two" is one step, and wrong.
    assert joined["num_steps"] == 3
    assert joined["overall"]["judges"]["one"]["steps"]["true_share"] == 1 / 2
    assert joined["mined"]["right"] == {"steps": 0.0, "tokens": 0.0}
    assert json.loads((tmp_path / "out" / REPORT).read_text()) == report
    shown = capsys.readouterr().out
    assert "words, median" in shown and "85.7 %" in shown and "cut_after=[two" in shown
    assert "labelled: 1 steps of unknown truth" in shown


def test_answers_are_reused(make_config: MakeConfig, data: str, tmp_path: Path):
    config = make_config(judges={"one": {"kind": "fake"}})
    judges = []

    def make(*_: object) -> SaysBad:
        judges.append(SaysBad())
        return judges[-1]

    run_judge_eval([data], config, make, judges=["one"], output=tmp_path / "out")
    run_judge_eval(
        [data], config, make, judges=["one"], output=tmp_path / "out", segmenters="labelled,fixed:fixed_tokens=2"
    )
    assert [len(judge.asked) for judge in judges] == [2, 2]  # the labelled steps were asked about before
    run_judge_eval([data], config, make, judges=["one"], output=tmp_path / "out", segmenters="fixed:fixed_tokens=2")
    assert judges[-1].asked == []


def test_rules_have_their_rows(make_config: MakeConfig, data: str, tmp_path: Path):
    config = make_config(judges={"one": {"kind": "fake"}, "two": {"kind": "fake"}})
    report = run_judge_eval(
        [data], config, lambda *_: SaysBad(), judges=["one", "two"], output=tmp_path / "out", segmenters="labelled"
    )
    facts = report["segmenters"]["labelled"]
    assert list(facts["overall"]["rules"]) == list(facts["mined"]["rules"]) == ["all", "any", "majority"]


def test_an_embedded_task_knows_the_truth_of_other_steps(make_config: MakeConfig, tmp_path: Path):
    path = tmp_path / "chain.json"
    steps = ["1+1=2", "2+1=4", "answer 4"]
    path.write_text(json.dumps([{"problem": "1 +1 +1", "steps": steps, "label": 1}]))
    config = make_config(judges={"one": {"kind": "fake"}, "truth": {"kind": "chain_truth", "role": "measure"}})
    report = run_judge_eval(
        [str(path)], config, lambda *_: SaysBad(), output=tmp_path / "out",
        segmenters="labelled,structural,fixed:fixed_tokens=3",
    )  # fmt: skip
    recomputed = {spec: facts["num_recomputed"] for spec, facts in report["segmenters"].items()}
    assert recomputed == {"labelled": 0, "structural": 1, "fixed:fixed_tokens=3": 0}  # fixed tears lines
    assert report["segmenters"]["labelled"]["num_unknown"] == 1
    assert report["segmenters"]["structural"]["num_unknown"] == 0


@pytest.mark.parametrize(
    ("segmenters", "what"),
    [
        ("confidence", "segment.kind is 'confidence', which reads what the sampler said"),
        ("nonsense", "--segmenters nonsense: "),
        ("fixed:fixed_tokens=0", "--segmenters fixed:fixed_tokens=0: "),
        ("llm", "needs segment.judge"),
    ],
)
def test_invalid_segmenters(make_config: MakeConfig, data: str, tmp_path: Path, segmenters: str, what: str):
    config = make_config(judges={"one": {"kind": "fake"}})
    with pytest.raises(ConfigError, match=what):
        run_judge_eval([data], config, lambda *_: SaysBad(), output=tmp_path / "out", segmenters=segmenters)


def test_a_tokenizer_is_for_segmenters(make_config: MakeConfig, data: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="without --segmenters"):
        run_judge_eval(
            [data], make_config(), lambda *_: SaysBad(), output=tmp_path / "out", tokenizer="embedded:chain/policy"
        )


def test_another_kind_takes_no_options_of_the_configs_own(make_config: MakeConfig):
    own = make_config(segment={"kind": "python", "class": "json:loads", "options": {"a": 1}})
    other = segmenter_config(own, "fixed:fixed_tokens=9")
    assert other is not None
    assert (other.segment.kind, other.segment.class_, other.segment.options, other.segment.fixed_tokens) == (
        "fixed",
        None,
        {},
        9,
    )
    assert segmenter_config(own, "labelled") is None
