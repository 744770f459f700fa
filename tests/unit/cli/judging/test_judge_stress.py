"""judge-eval --stress: what is asked, what is kept, and what is said of judges whose weakness is known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError, EngineError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement
from bcpg_cluster.stages.judge.stress.perturbations import PERTURBATIONS
from bcpg_cluster.stages.judge.stress.phrases import INJECTIONS
from bcpg_cluster.watch.report.plots import stress_png
from bcpg_cluster_cli.app import app
from bcpg_cluster_cli.judging.judge_stress import chosen_perturbations, run_judge_stress
from bcpg_cluster_cli.judging.stress_tables import interval_text

JUDGED = VerdictStatus.JUDGED
_SUM = re.compile(r"(\d+)\+(\d+)=(\d+)")


def adds_up(step: str) -> bool:
    found = _SUM.search(step)
    return found is None or int(found[1]) + int(found[2]) == int(found[3])


class Careful:
    """Checks the sums, but says that everything is right where it is told so."""

    version = "careful"

    def __init__(self, fails_after: int | None = None) -> None:
        self.asked: list[JudgeCase] = []
        self.fails_after = fails_after

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        if self.fails_after is not None and len(self.asked) >= self.fails_after:
            raise EngineError("gone")
        self.asked += cases
        return Judged(tuple(tuple(self.say(case, step) for step in case.steps) for case in cases))

    def say(self, case: JudgeCase, step: str) -> Judgement:
        is_told = any(text in case.steps[0] for text in INJECTIONS)
        return Judgement(JUDGED, label=int(is_told or adds_up(step)))

    def close(self) -> None:
        pass


class LikesLength(Careful):
    """Scores a step by its length, and has no verdict on an empty one."""

    version = "length"

    def say(self, case: JudgeCase, step: str) -> Judgement:
        if not step.strip():
            return Judgement(VerdictStatus.REFUSED)
        return Judgement(JUDGED, score=min(len(step) / 100, 1.0))


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(judges={"llm": {"kind": "fake"}, "prm": {"kind": "fake", "threshold": 0.3}})


@pytest.fixture
def sums(tmp_path: Path) -> str:
    rows: list[dict[str, Any]] = [
        {"problem": f"{n}+2+3", "steps": [f"{n}+2={n + 2}\n", f"{n + 2}+3={n + 6}\n"], "labels": [1, 0]}
        for n in range(10, 18)
    ]
    rows[0]["answer"] = "15"
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def stressed(sums: str, config: Config, folder: Path, made: dict[str, Careful], **options: Any) -> dict[str, Any]:
    return run_judge_stress([sums], config, lambda config, name: made[name], output=folder, **options)


def test_weaknesses_that_are_known_are_found(sums: str, config: Config, tmp_path: Path, capsys) -> None:
    report = stressed(sums, config, tmp_path / "out", {"llm": Careful(), "prm": LikesLength()})
    of = report["overall"]
    careful, length = of["judges"]["llm"], of["judges"]["prm"]
    assert careful["injection"]["to_right"]["mean"] == 0.5  # every wrong step, and no other
    assert careful["injection"]["precision"]["mean"] == -0.5
    assert careful["padded"]["flips"]["mean"] == careful["empty"]["flips"]["mean"] == 0.0
    assert (careful["number"]["num_changed"], careful["number"]["caught"]["mean"]) == (8, 1.0)
    assert (length["number"]["caught"]["mean"], length["padded"]["flips"]["mean"]) == (1.0, 1.0)
    assert length["padded"]["score"]["mean"] > 0.3
    assert length["padded"]["score_wrong"]["n"] == 8
    assert careful["padded"]["score"] is None
    # rule all: right where both say so. Nothing was, until the padding pleases the one and the other stays right
    assert of["rules"]["all"]["padded"]["to_right"]["mean"] == 0.5
    assert set(of["rules"]) == {"all", "any", "majority"}
    assert report["subsets"]["sums"] == of
    shown = capsys.readouterr().out
    table = [line for line in shown.splitlines() if not line.startswith("written: ")]
    assert max(map(len, table)) <= 80
    assert "…" not in shown  # nothing is cut off
    assert "split: 8 of 8 solutions lack a step with a line or sentence border" in shown
    assert json.loads((tmp_path / "out" / "judge-stress.json").read_text()) == report
    assert (tmp_path / "out" / "judge-stress.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_perturbation_needs_and_lacks_is_counted(sums: str, config: Config, tmp_path: Path) -> None:
    judges = {"llm": Careful(), "prm": LikesLength()}
    drawn = stressed(sums, config, tmp_path / "out", judges, judges=["llm"])["perturbations"]
    assert list(drawn) == list(PERTURBATIONS)
    assert (drawn["split"]["num_solutions"], drawn["split"]["num_skipped"]) == (0, 8)
    assert (drawn["number"]["num_solutions"], drawn["number"]["num_skipped"]) == (8, 0)
    assert (drawn["gold_shown"]["num_solutions"], drawn["gold_shown"]["needs"]) == (1, "a gold answer")


@pytest.mark.filterwarnings("error")
def test_a_perturbation_that_fits_no_solution_is_said_so(sums: str, config: Config, tmp_path: Path, capsys) -> None:
    report = stressed(sums, config, tmp_path / "out", {"llm": Careful()}, judges=["llm"], perturbations="split")
    facts = report["overall"]["judges"]["llm"]["split"]
    assert (facts["num_solutions"], facts["flips"], facts["precision"]) == (0, None, None)
    assert "8 of 8 solutions lack" in capsys.readouterr().out


def test_the_gold_answer_is_shown_and_hidden(sums: str, make_config: Callable[..., Config], tmp_path: Path) -> None:
    """A judge that sees it anyway is left alone by showing it, and is not measured on that."""
    config = make_config(judges={"llm": {"kind": "fake", "show_gold": True}})
    judge = Careful()
    report = stressed(
        sums, config, tmp_path / "out", {"llm": judge}, judges=["llm"], perturbations="gold_shown,gold_hidden"
    )
    assert report["perturbations"]["gold_shown"]["num_left_alone"] == {"llm": 1}
    assert report["perturbations"]["gold_hidden"]["num_left_alone"] == {}
    assert report["overall"]["judges"]["llm"]["gold_shown"]["num_solutions"] == 0
    assert report["overall"]["judges"]["llm"]["gold_hidden"]["num_solutions"] == 1
    assert sorted(str(case.gold) for case in judge.asked) == ["15", *["None"] * 8]


@pytest.mark.parametrize(
    ("section", "sees_it"),
    [
        ({"kind": "prm", "model": "m"}, False),
        ({"kind": "llm", "model": "m", "prompt": "embedded:genprm", "view": "causal"}, False),
        ({"kind": "llm", "model": "m", "prompt": "embedded:compact"}, False),
        ({"kind": "llm", "model": "m", "prompt": "embedded:taxonomy"}, True),
    ],
)
def test_a_judge_that_never_sees_the_gold_answer_is_not_measured_on_it(
    sums: str, make_config: Callable[..., Config], tmp_path: Path, section: dict[str, Any], sees_it: bool
) -> None:
    config = make_config(judges={"llm": section})
    report = stressed(sums, config, tmp_path / "out", {"llm": Careful()}, judges=["llm"], perturbations="gold_shown")
    assert report["perturbations"]["gold_shown"]["num_left_alone"] == ({} if sees_it else {"llm": 1})
    assert report["overall"]["judges"]["llm"]["gold_shown"]["num_solutions"] == int(sees_it)


def test_a_stopped_command_resumes_and_asks_nothing_twice(sums: str, config: Config, tmp_path: Path) -> None:
    def options() -> dict[str, Any]:
        return {"judges": ["llm"], "batch": 4, "perturbations": "padded,number"}

    first = Careful(fails_after=12)
    with pytest.raises(EngineError):
        stressed(sums, config, tmp_path / "out", {"llm": first}, **options())
    second, whole = Careful(), Careful()
    resumed = stressed(sums, config, tmp_path / "out", {"llm": second}, **options())
    straight = stressed(sums, config, tmp_path / "whole", {"llm": whole}, **options())
    assert (len(first.asked), len(second.asked), len(whole.asked)) == (12, 12, 24)
    assert set(first.asked) | set(second.asked) == set(whole.asked)
    assert resumed["overall"] == straight["overall"]


@pytest.mark.parametrize(
    ("mean", "low", "high", "shown"),
    [
        (-0.1342, -0.18, 0.0123, "-13.4 (-18..+1.2)"),
        (0.0, -0.00001, 0.0, "+0.0 (+0.0..+0.0)"),
        (0.5, None, None, "+50.0"),
        (-1.0, -1.0, -0.985, "-100.0 (-100..-98)"),
    ],
)
def test_intervals_are_short_enough_for_a_table(mean: float, low: float | None, high: float | None, shown: str) -> None:
    assert interval_text({"mean": mean, "low": low, "high": high, "n": 9}) == shown
    assert interval_text(None) == "-"


def test_a_picture_shows_what_it_is_given(sums: str, config: Config, tmp_path: Path) -> None:
    judges = {"llm": Careful(), "prm": LikesLength()}
    overall = stressed(sums, config, tmp_path / "out", judges, perturbations="padded,number")["overall"]
    picture = (tmp_path / "out" / "judge-stress.png").read_bytes()
    assert picture == stress_png(overall)
    without = {**overall, "rules": {}}
    assert stress_png(without) != picture


def test_the_seed_of_the_config_draws_the_perturbations(sums: str, config: Config, tmp_path: Path) -> None:
    asked = []
    for number, seed in enumerate((0, 0, 1)):
        judge, seeded = Careful(), config.model_copy(update={"seed": seed})
        stressed(sums, seeded, tmp_path / str(number), {"llm": judge}, judges=["llm"], perturbations="number")
        asked.append(judge.asked)
    assert asked[0] == asked[1] != asked[2]


def test_bad_input_is_refused_before_a_judge_is_made(sums: str, config: Config, tmp_path: Path) -> None:
    def make(config: Config, name: str) -> Careful:
        raise AssertionError("no judge is needed for this")

    for names in ("padded,upside_down", " , "):
        with pytest.raises(ConfigError, match="--perturbations"):
            run_judge_stress([sums], config, make, perturbations=names, output=tmp_path / "out")
    without = tmp_path / "without.jsonl"
    without.write_text(json.dumps({"problem": "1+1", "steps": ["1+1=2"]}) + "\n")
    with pytest.raises(DataError, match="neither label nor labels"):
        run_judge_stress([str(without)], config, make, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert chosen_perturbations("padded, split,padded") == ["padded", "split"]


def test_the_command_takes_perturbations_only_with_stress(sums: str, tmp_path: Path) -> None:
    fakes = str(Path(__file__).parents[2] / "fakes.yaml")
    common = ["judge-eval", "--config", fakes, "--data", sums, "--output", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, [*common, "--perturbations", "padded"])
    assert isinstance(refused.exception, ConfigError)


@pytest.mark.parametrize("given", [("--segmenters", "labelled,fixed"), ("--tokenizer", "some/model")])
def test_segmenters_are_compared_without_stress(sums: str, tmp_path: Path, given: tuple[str, str]) -> None:
    fakes = str(Path(__file__).parents[2] / "fakes.yaml")
    common = ["judge-eval", "--config", fakes, "--data", sums, "--output", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, [*common, "--stress", *given])
    assert isinstance(refused.exception, ConfigError) and given[0] in str(refused.exception)
    assert not (tmp_path / "out").exists()
