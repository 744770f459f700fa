"""`bcpg-cluster compare` on fakes: shared data, tuning apart, resuming, diverging, and errors before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcpg_cluster.cluster.inline_runtime import InlineRuntime
from bcpg_cluster.comparison import setup as comparison_setup
from bcpg_cluster.comparison.methods import METHODS
from bcpg_cluster.comparison.runner import Comparison
from bcpg_cluster.comparison.setup import Arm, Setup, Tuned, arm_config, split_validation
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError, RunDirectoryError, TrainingDivergedError
from bcpg_cluster.run.build.workforce import start_workforce
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.store.rows import weighted_from
from bcpg_cluster.store.shards import read_table
from bcpg_cluster.watch.observer import SilentObserver
from bcpg_cluster.watch.report.comparison_report import ArmResult

RATES = (1e-4, 3e-4)


@pytest.fixture
def open_fakes(make_config: Callable[..., Config]) -> Callable[..., Any]:
    """``open_fakes(directory, rates, **sections)``: a comparison over members of this process, and its setup."""

    @contextmanager
    def opened(
        directory: Path,
        rates: tuple[float, ...] = RATES,
        epochs: tuple[int, ...] = (1,),
        one_at_a_time: bool = False,
        **sections: Any,
    ) -> Iterator[tuple[Comparison, Setup]]:
        config = make_config(**sections)
        setup = Setup(config, read_all_prompts(config), rates, epochs, validation_prompts=6, tuning_seed=1000)
        runtime = InlineRuntime()
        try:
            workforce = start_workforce(config, runtime, lambda: False)
            said: list[str] = []
            yield (
                Comparison(
                    directory,
                    setup,
                    workforce,
                    SilentObserver(),
                    lambda: False,
                    said.append,
                    one_at_a_time=one_at_a_time,
                ),
                setup,
            )
        finally:
            runtime.shutdown()

    return opened


def arm_of(name: str, setup: Setup, **changes: Any) -> Arm:
    return Arm(name, METHODS[name].settings(setup.config), tuned_as=name, **changes)


def test_arms_share_one_offline_set(open_fakes: Callable[..., Any], tmp_path: Path):
    names = ("bcpg_nsa", "bcpg", "dpo", "rft", "kto", "sft_wrong")
    with open_fakes(tmp_path / "c") as (comparison, setup):
        for name in names:
            comparison.tune(arm_of(name, setup))
        results = {name: comparison.run(arm_of(name, setup), 0) for name in names}
    data = read_manifest(tmp_path / "c/data/seed-0")
    for name in names:
        assert [(r.round, r.status) for r in results[name]] == [(1, "finished")]
        folder = tmp_path / "c/arms" / name / "seed-0"
        state = read_manifest(folder)
        for table in ("rollouts", "outcomes", "steps", "verdicts.llm", "verdicts.prm", "verdicts.truth"):
            assert state.shards[1, table] == data.shards[1, table]
            for receipt in state.receipts(1, table):  # linked: one file under two names
                assert (folder / receipt.path).samefile(tmp_path / "c/data/seed-0" / receipt.path)
        assert state.reports[0] == data.reports[0]
        assert state.shards[1, "weighted"] != data.shards.get((1, "weighted"))
    assert (1, "weighted") not in data.shards  # weighing is each arm's own
    rows = {
        name: weighted_from(
            read_table(
                tmp_path / f"c/arms/{name}/seed-0",
                read_manifest(tmp_path / f"c/arms/{name}/seed-0").receipts(1, "weighted"),
            )
        )
        for name in names
    }
    assert {row.reward for row in rows["rft"]} == {1.0} and {row.reward for row in rows["sft_wrong"]} == {0.0}
    assert all(row.rival is not None and row.reward == 1.0 for row in rows["dpo"])
    assert {w for row in rows["bcpg"] for w in row.token_weights} == {1.0}
    assert {w for row in rows["bcpg_nsa"] for w in row.token_weights} == {0.5, 1.0}
    trained = {prompt.prompt_id for prompt in split_validation(setup.prompts.train, 6)[0]}
    assert {row.id.prompt_id for of in rows.values() for row in of} <= trained  # the validation split is not trained on


def test_every_method_is_tuned_alike_and_apart(open_fakes: Callable[..., Any], tmp_path: Path):
    grid = [Tuned(rate, epochs) for rate in RATES for epochs in (1, 3)]
    with open_fakes(tmp_path / "c", epochs=(3, 1)) as (comparison, setup):
        chosen = comparison.tune(*(arm_of(name, setup, rounds=2) for name in ("bcpg_nsa", "rft")))
        result = comparison.run(arm_of("rft", setup), 0)[0]
    held_out = {prompt.prompt_id for prompt in split_validation(setup.prompts.train, 6)[1]}
    for name, tuned in chosen.items():
        said = json.loads((tmp_path / f"c/tuning/{name}/chosen.json").read_text())
        assert [Tuned(row["learning_rate"], row["epochs"]) for row in said["validation"]] == grid
        assert Tuned(said["learning_rate"], said["epochs"]) == tuned
        # fakes learn alike at every setting: all are equal, so the lowest rate and the fewest epochs are taken
        assert len({row["sampled"] for row in said["validation"]}) == 1 and tuned == grid[0]
        assert all(0 <= row["greedy"] <= 1 for row in said["validation"])
        for rate in RATES:
            for folder, epochs in ((f"rate-{rate:g}", 1), (f"rate-{rate:g}-epochs-3", 3)):
                directory = tmp_path / f"c/tuning/{name}/{folder}"
                train = load_run_config(directory).train
                assert (train.learning_rate, train.epochs) == (rate, epochs)
                reports = read_manifest(directory).reports
                assert set(reports) == {0, 1}  # one round, however many are measured
                assert set(reports[1].per_problem) == held_out  # and not on the test set
    assert (result.learning_rate, result.epochs) == (chosen["rft"].learning_rate, chosen["rft"].epochs)
    assert set(result.report.per_problem).isdisjoint(held_out)


@pytest.mark.parametrize(
    ("sampled", "best"),
    [
        ({(1e-4, 1): 0.5, (1e-4, 3): 0.6, (3e-4, 1): 0.6, (3e-4, 3): 0.55}, (1e-4, 3)),  # the lower rate of equals
        ({(1e-4, 1): 0.5, (1e-4, 3): 0.5, (3e-4, 1): 0.4, (3e-4, 3): None}, (1e-4, 1)),  # then the fewer epochs
        ({(1e-4, 1): None, (1e-4, 3): 0.0, (3e-4, 1): None, (3e-4, 3): 0.0}, (1e-4, 3)),  # what diverges loses
    ],
)
def test_the_choice_is_by_sampled_accuracy(
    open_fakes: Callable[..., Any],
    tmp_path: Path,
    sampled: dict[tuple[float, int], float | None],
    best: tuple[float, int],
):
    with open_fakes(tmp_path / "c", epochs=(1, 3)) as (comparison, _):
        tried = [
            (Tuned(*pair), ArmResult("a", 1000, 1, "diverged" if value is None else "finished", pair[0], report(value)))
            for pair, value in sampled.items()
        ]
        comparison._choose("a", tried)
    said = json.loads((tmp_path / "c/tuning/a/chosen.json").read_text())
    assert (said["learning_rate"], said["epochs"]) == best
    assert [row["sampled"] for row in said["validation"]] == [*sampled.values()]


def report(sampled: float | None) -> RoundReport | None:
    return None if sampled is None else RoundReport(round=1, accuracy=sampled, accuracy_greedy=1 - sampled)


def test_going_on_does_nothing_again_and_adds_what_is_new(open_fakes: Callable[..., Any], tmp_path: Path):
    with open_fakes(tmp_path / "c") as (comparison, setup):
        comparison.tune(arm_of("bcpg", setup))
        first = comparison.run(arm_of("bcpg", setup), 0)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*.parquet")}
    with open_fakes(tmp_path / "c") as (comparison, setup):
        comparison.tune(arm_of("bcpg", setup))
        assert comparison.run(arm_of("bcpg", setup), 0) == first
        assert {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*.parquet")} == files
        further = comparison.run(arm_of("bcpg", setup, rounds=2), 0)
        comparison.run(arm_of("bcpg", setup), 1)
    assert further[0] == first[0] and [r.round for r in further] == [1, 2]


def test_weights_of_one_arm_do_not_answer_for_another(open_fakes: Callable[..., Any], tmp_path: Path):
    """Both arms' weights are version 1: going on with the second after the first was served must load its own."""
    with open_fakes(tmp_path / "c", rates=(1e-4,)) as (comparison, setup):
        for name in ("bcpg", "rft"):
            comparison.tune(arm_of(name, setup))
            comparison.run(arm_of(name, setup), 0)
        together = comparison.run(arm_of("bcpg", setup, rounds=2), 0)
    with open_fakes(tmp_path / "alone", rates=(1e-4,)) as (comparison, setup):
        comparison.tune(arm_of("bcpg", setup))
        alone = comparison.run(arm_of("bcpg", setup, rounds=2), 0)
    assert [r.report.per_problem for r in together] == [r.report.per_problem for r in alone]


def test_a_part_of_the_data_is_a_part_of_the_same_data(open_fakes: Callable[..., Any], tmp_path: Path):
    with open_fakes(tmp_path / "c", rates=(1e-4,)) as (comparison, setup):
        comparison.tune(arm_of("bcpg", setup))
        arm = arm_of("bcpg", setup)
        comparison.run(Arm("third", arm.settings, "bcpg", data_share=0.3), 0)
        comparison.run(arm, 0)
    some, whole = (read_manifest(tmp_path / f"c/arms/{name}/seed-0") for name in ("third", "bcpg"))
    assert (
        some.receipts(1, "rollouts") == whole.receipts(1, "rollouts")[:1]
    )  # 3 shards of 4 prompts; 0.3 rounds up to 1
    assert some.reports[1].samples.asked * 3 == whole.reports[1].samples.asked


def test_a_run_that_diverges_is_a_result(
    open_fakes: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def diverge(*arguments: Any) -> Any:
        raise TrainingDivergedError("step 3: the loss is nan")

    with open_fakes(tmp_path / "c", rates=(1e-4,)) as (comparison, setup):
        comparison.tune(arm_of("bcpg", setup))
        with monkeypatch.context() as patched:
            patched.setattr(FakeTrainerRank, "train", diverge)
            lost = comparison.run(arm_of("bcpg", setup, rounds=2), 0)
        again = comparison.run(arm_of("bcpg", setup, rounds=2), 0)
    assert [(r.round, r.status, r.report, r.note) for r in lost] == [
        (round_, "diverged", None, "step 3: the loss is nan") for round_ in (1, 2)
    ]
    assert again == lost  # it stays one, and is not tried until it works


def test_a_directory_keeps_its_comparison(open_fakes: Callable[..., Any], tmp_path: Path):
    with open_fakes(tmp_path / "c"):
        pass
    changed = r"learning_rates \(\[0.0001, 0.0003\] -> \[0.5\]\)"
    with pytest.raises(RunDirectoryError, match=changed), open_fakes(tmp_path / "c", rates=(0.5,)):
        pass
    with pytest.raises(RunDirectoryError, match="identity"), open_fakes(tmp_path / "c", generate={"temperature": 0.5}):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunDirectoryError, match="is not a comparison"), open_fakes(tmp_path / "other"):
        pass


def test_an_arm_keeps_its_settings(open_fakes: Callable[..., Any], tmp_path: Path):
    with open_fakes(tmp_path / "c", rates=(1e-4,)) as (comparison, setup):
        comparison.tune(arm_of("bcpg", setup))
        comparison.run(arm_of("bcpg", setup), 0)
        with pytest.raises(RunDirectoryError, match="made with other settings than bcpg has now"):
            comparison.run(Arm("bcpg", ("weigh.beta=0.9",), "bcpg"), 0)


def test_an_arm_cannot_change_what_the_shared_verdicts_mean(make_config: Callable[..., Config]):
    spare = {"kind": "chain_truth", "role": "spare", "rule": "local"}
    config = make_config(judges={"by_itself": spare})
    with pytest.raises(ConfigError, match=r"arm a changes judges\.truth\.rule \('propagated' -> 'local'\)") as caught:
        arm_config(config, Arm("a", ("judges.truth.rule=local",)), 0, None)
    assert "a further judge of role spare" in caught.value.remedy
    with pytest.raises(ConfigError, match=r"generate\.temperature"):
        arm_config(config, Arm("a", ("generate.temperature=0.5",)), 0, None)
    roles = ("judges.llm.role=spare", "judges.prm.role=spare", "judges.by_itself.role=vote")
    changed = arm_config(config, Arm("a", (*roles, "weigh.beta=0", "weigh.mine=prefix", "train.epochs=3")), 0, None)
    assert changed.voters == ("by_itself",) and changed.train.epochs == 3


def test_data_nothing_can_be_learned_from_stops_before_training(open_fakes: Callable[..., Any], tmp_path: Path):
    with open_fakes(tmp_path / "c", policy={"model": "fake:garbage"}, rates=(1e-4,)) as (comparison, setup):
        comparison.tune(arm_of("rft", setup))
        with pytest.raises(DataError, match="no prompt has both right and wrong answers"):
            comparison.run(arm_of("rft", setup), 0)
    assert not (tmp_path / "c/arms").exists()


def test_validation_split(make_config: Callable[..., Config]):
    prompts = read_all_prompts(make_config()).train
    train, validation = split_validation(prompts, 6)
    assert len(validation) == 6 and {*train, *validation} == {*prompts} and len(train) == len(prompts) - 6
    assert split_validation(prompts, 6) == (train, validation)
    for number in (-1, len(prompts)):
        with pytest.raises(DataError, match="validation prompts of 40 train prompts"):
            split_validation(prompts, number)


def test_a_rate_scales_the_whole_schedule(make_config: Callable[..., Config]):
    base = make_config()
    config = arm_config(base, Arm("a", ("objective={name: rft}",)), 3, Tuned(5e-4, 4))
    assert (config.seed, config.name, config.objective.name) == (3, "a", "rft")
    assert (config.train.learning_rate, config.train.epochs) == (5e-4, 4)
    assert config.train.min_learning_rate == pytest.approx(5e-5)  # a tenth, as the configuration has it
    assert arm_config(base, Arm("a", ()), 0, None).train == base.train


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--seeds", "0"), "--seeds 0"),
        (("--methods", "bcpg_nsa,nope"), "unknown method 'nope'"),
        (("--learning-rates", "1e-4,x"), "--learning-rates '1e-4,x'"),
        (("--learning-rates", "1e-4,-1"), "comma-separated positive numbers"),
        (("--validation-prompts", "40"), "40 validation prompts of 40 train prompts"),
        (("--epochs", "1,0"), "--epochs '1,0'"),
        (("--epochs", "1,2,1"), "whole numbers from 1 on, all different"),
        (("--epochs", "1.5"), "e.g. 1,2,5"),
        (("--validation-prompts", "0"), "with 3 pairs of learning rate and epochs to choose from"),
        (("--validation-prompts", "0", "--epochs", "1,2"), "with 6 pairs of learning rate and epochs"),
        (("--tuning-seed", "1"), "is one of the measured seeds 0 .. 4"),
        (("--set", "weigh.beta=2"), "weigh.beta"),
        (("--set", "objective={tau: -1}"), "tau is at least 0"),
        (("--validation-prompts", "30"), "per_round is 12, the train file holds 10"),
    ],
)
def test_bad_input_is_said_before_anything_starts(
    bcpg: Callable[..., Any], config_file: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
):
    ended = bcpg(
        "compare", "-c", config_file, "--inline", "--run-dir", tmp_path / "c", "--validation-prompts", 6, *arguments
    )
    assert ended.code == 2, ended
    assert says in ended.err and "rule:" in ended.err and "remedy:" in ended.err
    assert not (tmp_path / "c").exists()


def test_the_command_writes_table_picture_and_numbers(bcpg: Callable[..., Any], config_file: Path, tmp_path: Path):
    arguments = ("compare", "-c", config_file, "--inline", "--run-dir", tmp_path / "c", "--validation-prompts", 6)
    ended = bcpg(*arguments, "--methods", "rft,bcpg_nsa@-0.5", "--seeds", 2, "--json")
    assert ended.code == 0, ended
    numbers = json.loads(ended.out)
    assert numbers == json.loads((tmp_path / "c/comparison.json").read_text())
    assert set(numbers["rounds"]["1"]) == {"start", "bcpg_nsa@-0.5", "rft"}
    assert numbers["reference"] == "bcpg_nsa@-0.5"
    assert load_run_config(tmp_path / "c/arms/bcpg_nsa@-0.5/seed-1").weigh.beta == -0.5
    assert set(numbers["rounds"]["1"]["rft"]["measures"]["sampled"]["values"]) == {"0", "1"}
    assert (tmp_path / "c/comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "| BCPG-NSA, β = −0.5 |" in (tmp_path / "c/comparison.md").read_text()
    assert len((tmp_path / "c/results.csv").read_text().splitlines()) == 1 + 2 * 3
    # a member of an arm's run is a run: the other commands read it
    status = bcpg("status", "--run-dir", tmp_path / "c/arms/rft/seed-1", "--json")
    assert status.code == 0 and yaml.safe_load(status.out)
    assert comparison_setup._ASKED in {path.name for path in (tmp_path / "c").iterdir()}
