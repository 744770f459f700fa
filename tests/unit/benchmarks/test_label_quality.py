"""benchmarks/label_*.py, torch_sampler.py: labels are as wrong as asked, arms differ in nothing else, what was done is kept."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.errors import RunDirectoryError

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
QUESTIONS = ("49 -3 +73 -9 -5 +13", "07 +2 -31 +8 -4 +6 -9", "10 +2 -3 +4 -5 +66")


@pytest.fixture(autouse=True, scope="module")
def on_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture
def arms() -> ModuleType:
    return importlib.import_module("label_arms")


@pytest.fixture
def pages() -> ModuleType:
    return importlib.import_module("label_pages")


@pytest.fixture(scope="module")
def shared() -> Any:
    """The offline set of a seed: 10 prompts x 6."""
    arms, rounds = importlib.import_module("label_arms"), importlib.import_module("label_round")
    return rounds.make_round(arms.Size(prompts=10, samples=6, test_problems=4, test_samples=1), 3)


@pytest.fixture(scope="module")
def sampler() -> Any:
    return importlib.import_module("torch_sampler").TorchSampler(resolve_asset("embedded:sums/policy"))


# --- the sampler


def test_greedy_draws_are_those_of_transformers(sampler: Any):
    import torch

    prompts = [sampler.render(question) for question in QUESTIONS]
    assert len({*map(len, prompts)}) > 1  # so that there is padding
    drawn = sampler.draw(prompts, 120, seed=None)
    for prompt, response in zip(prompts, drawn, strict=True):
        alone = sampler._model.generate(torch.tensor([prompt]), max_new_tokens=120, do_sample=False)
        assert alone[0, len(prompt) :].tolist() == [*response.token_ids]
        assert response.ended


def test_logprobs_are_the_trainers(sampler: Any, shared: Any):
    from bcpg_cluster.store.rows import rollouts_from

    drawn = {rollout.id: rollout.sampler_logprobs for rollout in rollouts_from(shared.offline.tables["rollouts"])}
    for id_, reference in shared.reference.items():
        assert drawn[id_] == pytest.approx(reference.response, abs=1e-4)


def test_a_draw_depends_on_its_place_and_seed_alone(sampler: Any):
    prompts = [sampler.render(question) for question in QUESTIONS]
    together = sampler.draw(prompts * 2, 120, seed=5)
    assert together[0].token_ids == sampler.draw(prompts[:1], 120, seed=5)[0].token_ids
    assert together[0].token_ids != together[3].token_ids  # the same prompt again is another draw
    assert sampler.draw(prompts[:1], 120, seed=6)[0].token_ids != together[0].token_ids


def test_gumbel_noise_draws_from_the_distribution():
    import torch

    noise = importlib.import_module("torch_sampler").gumbel_noise(range(4000), 0, 1, 3)
    chances = torch.tensor([0.6, 0.3, 0.1])
    found = (chances.log() + noise[:, 0]).argmax(-1).bincount() / 4000
    assert found.tolist() == pytest.approx(chances.tolist(), abs=0.025)  # 3 standard errors


# --- labels


def test_labels_are_as_wrong_as_asked(shared: Any, arms: ModuleType):
    from label_round import labelled_rows

    for precision, recall in ((1.0, 1.0), (0.7, 1.0), (1.0, 0.7), (0.8, 0.8)):
        _, found = labelled_rows(shared.offline, arms.Labels(precision, recall, -0.5), "propagated")
        assert found.precision == pytest.approx(precision, abs=0.12)  # some 200 steps
        assert found.recall == pytest.approx(recall, abs=0.12)
        assert (found.false_right == 0) == (precision == 1) and (found.false_wrong == 0) == (recall == 1)
        assert found.kappa is None


def test_arms_differ_in_weights_alone(shared: Any, arms: ModuleType):
    from dataclasses import replace

    from label_round import labelled_rows

    plain, _ = labelled_rows(shared.offline, arms.NOTHING, "propagated")
    mined, found = labelled_rows(shared.offline, arms.Labels(0.8, 0.8, -0.5, "majority", 0.5), "propagated")
    assert {weight for row in plain for weight in row.token_weights} == {1.0}
    assert {weight for row in mined for weight in row.token_weights} == {1.0, -0.5}
    same = [replace(row, token_weights=(), mined=()) for row in plain]
    assert same == [replace(row, token_weights=(), mined=()) for row in mined]
    wrong = [row for row in mined if row.reward == 0]
    assert found.mined == sum(sum(row.mined) for row in wrong) / sum(len(row.token_ids) for row in wrong)


def test_rules_trade_one_error_for_the_other_and_correlation_takes_their_use_away(shared: Any, arms: ModuleType):
    from label_round import labelled_rows

    def of(rule: str, correlation: float) -> Any:
        return labelled_rows(shared.offline, arms.Labels(0.8, 0.8, 0.5, rule, correlation), "propagated")[1]

    apart = [of(rule, 0.0) for rule in ("all", "majority", "any")]
    assert apart[0].false_right < apart[1].false_right < apart[2].false_right
    assert apart[0].false_wrong > apart[1].false_wrong > apart[2].false_wrong
    assert of("all", 1.0) == of("majority", 1.0) == of("any", 1.0)  # three times the same judge
    assert of("all", 1.0).kappa == 1.0 > of("all", 0.5).kappa > of("all", 0.0).kappa


def test_under_the_local_rule_the_lowest_precision_is_out_of_reach(shared: Any, arms: ModuleType):
    from label_round import oracle_judges

    with pytest.raises(ValueError, match="impossible at base rate"):
        oracle_judges(arms.Labels(0.7, 1.0, 0.5), 0.81, 0, "local")


# --- what was done


def done(arms: ModuleType, labels: Any, seed: int, sampled: float, errors: tuple[float, float] = (0.0, 0.0)) -> Any:
    achieved = arms.Achieved(0.9, 0.9, *errors, None, 0.3, 0.3, 0.0)
    return arms.Done(labels.name, seed, arms.Accuracy(sampled, 0.5, 90.0), labels, achieved, 1.0)


def test_what_was_done_stays_done(arms: ModuleType, tmp_path: Path):
    from label_quality import missing

    path, made_with = tmp_path / "deep" / "arms.jsonl", {"size": {"prompts": 1}}
    journal = arms.Journal(path, made_with)
    journal.note(machine={"cores": 2})
    journal.add(done(arms, arms.NOTHING, 0, 0.5))
    journal.add(arms.Done(arms.START, 0, arms.Accuracy(0.4, 0.5, 90.0)))
    with path.open("a") as file:
        file.write('{"arm": "cut off')
    again = arms.Journal(path, made_with)
    assert again.done == journal.done and len(again.done) == 2
    again.add(done(arms, arms.BLOCKS["errors"][1], 0, 0.6))
    left = list(missing(["errors"], range(2), arms.Journal(path, made_with)))
    assert left == [*((0, labels) for labels in arms.BLOCKS["errors"][2:]), *((1, x) for x in arms.BLOCKS["errors"])]
    with pytest.raises(RunDirectoryError, match="was made with"):
        arms.Journal(path, {"size": {"prompts": 2}})


def test_the_blocks_are_the_whole_square_once(arms: ModuleType):
    names = [labels.name for block in arms.BLOCKS.values() for labels in block]
    assert len(names) == len(set(names)) == 1 + 2 * 16 + 2 * 3 * 2
    levels = (1.0, 0.9, 0.8, 0.7)
    asked = {(x.precision, x.recall) for block in arms.BLOCKS.values() for x in block if x.rule == "single"}
    assert asked == {(precision, recall) for precision in levels for recall in levels}


# --- what is said of it


def planted(arms: ModuleType, cost_right: float, cost_wrong: float, seeds: int = 3) -> list[Any]:
    """Accuracy on a plane, 1 point higher with every seed; false wrong costs a seed-dependent bit more."""
    errors = {(1.0, 1.0): (0.0, 0.0), (0.7, 1.0): (0.2, 0.0), (1.0, 0.7): (0.0, 0.1)}
    return [
        done(arms, x, seed, 0.5 + 0.01 * seed - cost_right * e[0] - (cost_wrong + 0.01 * seed) * e[1], e)
        for x in arms.BLOCKS["errors"]
        for seed in range(seeds)
        for e in [errors[x.precision, x.recall]]
    ]


def test_what_an_error_costs_is_read_off_the_plane(arms: ModuleType, pages: ModuleType):
    results = pages.Results(planted(arms, 0.5, 0.2))
    found = pages.error_costs(results, -0.5, range(3), arms.BLOCKS["errors"], pages.MEASURES["sampled"])
    assert found.false_right.mean == pytest.approx(-0.05)  # 5 points for 10 points of steps
    assert found.false_wrong.mean == pytest.approx(-0.021)
    assert found.difference.mean == pytest.approx(-0.029)
    assert found.difference.low == pytest.approx(-0.029 - 4.303 * 0.001 / 3**0.5, abs=1e-5)  # t of 2 degrees of freedom


def test_the_page_has_whole_seeds_alone(arms: ModuleType, pages: ModuleType, tmp_path: Path):
    some = planted(arms, 0.5, 0.2)
    some += [arms.Done(arms.START, seed, arms.Accuracy(0.4, 0.5, 90.0)) for seed in range(3)]
    pages.write_pages([x for x in some if not (x.seed == 2 and x.arm == arms.BLOCKS["errors"][-1].name)], tmp_path)
    text = (tmp_path / "label-quality.md").read_text()
    assert "2 seeds: 0, 1;" in text and "| truth | -0.5 |" in text
    assert "Which rule" not in text  # none of its arms was run
    assert (tmp_path / "label-quality.png").stat().st_size > 1000
    pages.write_pages(some[:3], tmp_path / "none")  # no whole seed: nothing to say
    assert not (tmp_path / "none").exists()


def test_the_labels_page_trains_nothing(arms: ModuleType, tmp_path: Path):
    from label_pages import write_labels_page
    from label_quality import SMALL, label_only

    found = label_only(SMALL, ["errors", "rules"], range(2))
    assert len(found) == 2 * (3 + 1 + 6) and {one.accuracy for one in found} == {None}
    write_labels_page(found, tmp_path)
    text = (tmp_path / "labels.md").read_text()
    assert "over 2 seeds" in text and "| truth | 100.0 ± 0.0 | 100.0 ± 0.0 | 0.0 ± 0.0 |" in text


@pytest.mark.slow
def test_a_small_run_resumes_and_writes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import label_quality

    command = ["label_quality.py", "--small", "--seeds", "1", "--blocks", "errors", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*command, "--limit-minutes", "0"])
    label_quality.main()
    assert not (tmp_path / "label-quality.md").exists()
    monkeypatch.setattr("sys.argv", command)
    label_quality.main()
    assert "Which error hurts?" in (tmp_path / "label-quality.md").read_text()
    lines = (tmp_path / "arms.jsonl").read_text()
    label_quality.main()
    assert [line for line in (tmp_path / "arms.jsonl").read_text().splitlines() if '"arm"' in line] == [
        line for line in lines.splitlines() if '"arm"' in line
    ]
