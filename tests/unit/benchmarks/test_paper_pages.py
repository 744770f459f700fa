"""benchmarks/paper_*.py: which arms the sets have, what the raw numbers keep, and what is said of the paper's claims."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bcpg_cluster.comparison.setup import Arm, Tuned, arm_config, changed
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.watch.report.comparison_report import START, ArmResult

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def arms() -> ModuleType:
    import paper_arms

    return paper_arms


@pytest.fixture
def pages() -> ModuleType:
    import paper_pages

    return paper_pages


@pytest.fixture
def numbers() -> Callable[..., Any]:
    """``numbers(path, **made_with)``: the raw numbers of a file."""
    from paper_store import Numbers

    return lambda path, **made_with: Numbers.open(path, made_with, {"commit": "c0ffee"})


def result(arm: str, seed: int, sampled: float, round_: int = 1, greedy: float = 0.5) -> ArmResult:
    report = RoundReport(
        round=round_, accuracy=sampled, accuracy_greedy=greedy, mined_share=0.25, per_problem={"a": (1.0, 1.0)}
    )
    return ArmResult(arm, seed, round_, "finished", None if arm == START else 1e-4, report, epochs=2)


def base(make_config: Callable[..., Config], arms: ModuleType) -> Config:
    return changed(make_config(), arms.with_spares(make_config()), "the base")


def test_every_arm_fits_the_shared_data(make_config: Callable[..., Config], arms: ModuleType):
    config, chosen = base(make_config, arms), {arms.NSA: Tuned(1e-4, 1), arms.RFT: Tuned(3e-4, 5)}
    for name, part in arms.SETS.items():
        titled = part.arms(config, arms.ALL, chosen)
        assert len({arm.name for arm, _ in titled}) == len({title for _, title in titled}) == len(titled), name
        assert {arm.tuned_as for arm, _ in titled} <= {*part.tuned(arms.ALL)}, name
        assert part.reference in {arm.name for arm, _ in titled}, name
        for arm, _ in titled:
            arm_config(config, arm, 0, Tuned(1e-4, 1))  # raises for what the shared data was made with


def test_sets_that_share_an_arm_mean_the_same_one(make_config: Callable[..., Config], arms: ModuleType):
    config = base(make_config, arms)
    settings: dict[str, tuple[str, ...]] = {}
    for part in arms.SETS.values():
        for arm, _ in part.arms(config, arms.ALL, {}):
            assert settings.setdefault(arm.name, arm.settings) == arm.settings


def test_whose_labels_an_arm_mines_by(make_config: Callable[..., Config], arms: ModuleType):
    config = base(make_config, arms)
    assert config.voters == ("llm", "prm")  # spares do not vote
    by_name = {arm.name: arm for part in ("labels", "rules") for arm, _ in arms.SETS[part].arms(config, arms.ALL, {})}
    voting = {name: arm_config(config, arm, 0, None).voters for name, arm in by_name.items()}
    assert voting["labels-llm"] == ("llm",) and voting["labels-prm"] == ("prm",)
    assert voting["labels-majority"] == ("llm", "prm", "third")
    local = arm_config(config, by_name["truth-local-beta0.5-noise0.15"], 0, None)
    assert local.voters == ("truth_local",) and local.judges["truth_local"].rule == "local"
    assert (local.weigh.beta, local.weigh.flip_rate) == (0.5, 0.15)
    assert len(by_name) == 1 + 3 + (1 + 2 * 3 * 4)  # the truth of `labels` is one of `rules`


def test_equal_settings_are_an_arm_of_their_own_only_where_they_differ(
    make_config: Callable[..., Config], arms: ModuleType
):
    chosen = {arms.NSA: Tuned(1e-4, 2), arms.BCPG: Tuned(1e-4, 2), arms.RFT: Tuned(3e-4, 5)}
    titled = arms.SETS["rounds"].arms(base(make_config, arms), arms.ALL, chosen)
    assert [(arm.name, arm.tuned_as) for arm, _ in titled][4:] == [
        ("rft-equal", arms.NSA),
        ("sft_all-equal", arms.NSA),
        (arms.PAPERS, arms.PAPERS),
    ]
    assert {arm.rounds for arm, _ in titled} == {5}


def test_the_claims_on_rounds_begin_with_the_start_and_end_with_the_last_round(
    make_config: Callable[..., Config], arms: ModuleType, pages: ModuleType, numbers: Callable[..., Any], tmp_path: Path
):
    made = numbers(tmp_path / "n.json", task="chain")
    for name, rate in ((arms.NSA, 3e-4), (arms.BCPG, 3e-4), (arms.RFT, 1e-4)):
        made.chosen[name] = {"learning_rate": rate, "epochs": 6, "validation": []}
    found = pages.claims(base(make_config, arms), arms.ALL, made)
    assert len({claim.text for claim in found}) == len(found)
    places = [(claim.place, claim.other) for claim in found]
    first = places.index(((arms.NSA, 1), (START, 0)))
    assert places[first + 1 : first + 5] == [((arms.NSA, n + 1), (arms.NSA, n)) for n in (1, 2, 3, 4)]
    assert places[first + 5 :] == [
        ((arms.NSA, 5), (arms.BCPG, 5)),
        ((arms.NSA, 5), (arms.BCPG, 5)),  # tuned to the same: no arm of its own
        ((arms.NSA, 5), (arms.RFT, 5)),
        ((arms.NSA, 5), ("rft-equal", 5)),
        *[((arms.PAPERS, 5), (name, 5)) for name in (arms.NSA, arms.BCPG, arms.RFT)],
    ]


def test_numbers_survive_the_file_and_are_few(numbers: Callable[..., Any], tmp_path: Path):
    made = numbers(tmp_path / "n.json", task="chain")
    made.add([result(START, 0, 0.3, 0), result("rft", 0, 0.5)])
    made.chosen["rft"] = {"learning_rate": 1e-4, "epochs": 2, "validation": []}
    made.add([result("bcpg", 0, 0.25, 2)])
    again = numbers(tmp_path / "n.json", task="chain")
    assert again.runs == made.runs and again.tuned() == {"rft": Tuned(1e-4, 2)}
    assert len(again.machines) == 2 and again.runs["rft", 0, 1]["machine"] == 0
    assert again.has("bcpg", 0, 2) and not again.has("bcpg", 1, 2)
    titles = {"bcpg": "BCPG", "rft": "RFT"}
    read = again.results(titles, [0], 2)
    assert [(r.arm, r.round, r.report.accuracy, r.epochs) for r in read] == [
        (START, 0, 0.3, 2),
        ("bcpg", 2, 0.25, 2),
        ("rft", 1, 0.5, 2),
    ]
    assert [r.arm for r in again.results(titles, [0], 1)] == [START, "rft"]
    assert "per_problem" not in (tmp_path / "n.json").read_text()
    assert len((tmp_path / "n.json").read_text().splitlines()[-1]) < 400


def test_numbers_of_another_comparison_are_refused(numbers: Callable[..., Any], tmp_path: Path):
    numbers(tmp_path / "n.json", task="chain", epochs=(1, 2)).write()
    assert json.loads((tmp_path / "n.json").read_text())["made_with"] == {"task": "chain", "epochs": [1, 2]}
    numbers(tmp_path / "n.json", task="chain", epochs=(1, 2))
    with pytest.raises(RunDirectoryError, match="different: epochs"):
        numbers(tmp_path / "n.json", task="chain", epochs=(1, 5))


@pytest.mark.parametrize(
    ("ours", "theirs", "says"),
    [
        ((0.50, 0.52, 0.54), (0.40, 0.41, 0.42), "**yes**"),
        ((0.40, 0.41, 0.42), (0.50, 0.52, 0.54), "**no, behind**"),
        ((0.40, 0.50, 0.60), (0.50, 0.40, 0.61), "not separable"),
        ((0.45, 0.45, 0.45), (0.40, 0.40, 0.40), "the same in every seed"),
        ((0.50,), (0.40,), "one seed says nothing"),
        ((), (0.40,), "not run"),
    ],
)
def test_a_claim_is_confirmed_where_the_interval_leaves_0_out(
    pages: ModuleType, ours: tuple[float, ...], theirs: tuple[float, ...], says: str
):
    values = pages.Values(
        [*(result("a", s, v) for s, v in enumerate(ours)), *(result("b", s, v) for s, v in enumerate(theirs))]
    )
    assert pages.verdict(values.difference(("a", 1), ("b", 1), "accuracy")) == says


def test_the_best_beta_needs_all_points(pages: ModuleType, arms: ModuleType):
    at = arms.Points(betas=(0.5, -0.5), noises=(0.1,))
    found = [result(arms.PLAIN, 0, 0.4), result("truth-local-beta0.5-noise0.1", 0, 0.6)]
    assert pages.best_beta(pages.Values(found), "local", 0.1, at) is None
    found.append(result("truth-local-beta-0.5-noise0.1", 0, 0.5))
    assert pages.best_beta(pages.Values(found), "local", 0.1, at) == 0.5


def test_what_a_higher_beta_gains_as_labels_get_worse(pages: ModuleType, arms: ModuleType):
    at = arms.Points(betas=(0.5, -0.5), noises=(0.0, 0.3))
    sampled = {(0.5, 0.0): (0.70, 0.72), (-0.5, 0.0): (0.71, 0.74), (0.5, 0.3): (0.66, 0.65), (-0.5, 0.3): (0.60, 0.62)}
    found = [
        result(f"truth-local-beta{beta:g}-noise{noise:g}", seed, value)
        for (beta, noise), values in sampled.items()
        for seed, value in enumerate(values)
    ]
    gained = pages.gain_as_labels_get_worse(pages.Values(found), "local", "accuracy", at)
    assert gained.mean == pytest.approx(((0.06 - -0.01) + (0.03 - -0.02)) / 2) and gained.n == 2
    assert pages.gain_as_labels_get_worse(pages.Values(found), "propagated", "accuracy", at) is None
    assert pages.gain_as_labels_get_worse(pages.Values(found), "local", "accuracy", arms.FEW) is None


def test_runs_are_made_once_with_the_most_rounds(numbers: Callable[..., Any], tmp_path: Path):
    from paper_tables import missing

    one, two, five = Arm("a", ()), Arm("b", ()), Arm("a", (), rounds=5)
    sets = {"main": [(one, "A"), (two, "B")], "rounds": [(five, "A")]}
    known = numbers(tmp_path / "n.json")
    assert [(arm.name, arm.rounds, seed) for arm, seed in missing(sets, range(2), known)] == [
        ("a", 5, 0),
        ("b", 1, 0),
        ("a", 5, 1),
        ("b", 1, 1),
    ]
    known.add([result("a", 0, 0.5, 5), result("b", 1, 0.5)])
    assert [(arm.name, seed) for arm, seed in missing(sets, range(2), known)] == [("b", 0), ("a", 1)]
