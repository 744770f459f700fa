"""run/floors.py: how many failures are too many, by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcpg_cluster.errors import MostlyFailedError
from bcpg_cluster.records import Outcome, OutcomeStatus, SampleId, StopReason, Verdict, VerdictStatus
from bcpg_cluster.run.floors import Floors, empty_round_reason
from bcpg_cluster.stages.generate.counts import RolloutCounts
from bcpg_cluster.stages.graph import StageSpec, data_stages, evaluation_stages
from bcpg_cluster.stages.judge.counts import status_metrics
from bcpg_cluster.stages.verify.counts import OutcomeCounts
from bcpg_cluster.stages.weigh.consensus import ConsensusRule
from bcpg_cluster.store.manifest import Manifest, SnapshotRecord, read_manifest
from bcpg_cluster.store.rows import outcome_row, verdict_row
from bcpg_cluster.store.shards import write_shard

STAGES = data_stages({"llm": "judge.llm", "truth": "cpu"})
VERIFY, JUDGE, TRUTH = STAGES[1], STAGES[3], STAGES[4]


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[Manifest]:
    with Manifest(tmp_path) as manifest:
        manifest.create(identity="x", name="x", program_version="0")
        yield manifest


def floors(manifest: Manifest, most: float = 0.5) -> Floors:
    return Floors(manifest, max_error_share=most, max_missing_share=most, voters=("llm",))


def write(manifest: Manifest, table: str, shard: int, rows: list[dict[str, object]], metrics: dict[str, float]) -> None:
    manifest.accept(
        write_shard(
            manifest.run_dir,
            table=table,
            round_=1,
            shard=shard,
            attempt=f"a{shard}",
            rows=rows,
            seconds=0.0,
            metrics=metrics,
        )
    )


def outcomes(manifest: Manifest, table: str, *why: str, shard: int = 0, num_good: int = 0) -> None:
    """A shard of samples the verifier failed on, each for a reason, and some that it did not."""
    found = [
        Outcome(SampleId(1, "p", 10 * shard + number), OutcomeStatus.VERIFIER_ERROR, None, None, reason)
        for number, reason in enumerate(why)
    ]
    found += [Outcome(SampleId(1, "q", 10 * shard + n), OutcomeStatus.VERIFIED, 1.0, "3") for n in range(num_good)]
    write(
        manifest, table, shard, list(map(outcome_row, found)), OutcomeCounts.of(found, unparsed=0, tokens=0).metrics()
    )


@pytest.mark.parametrize(
    ("num_good", "most", "stops"), [(2, 0.5, False), (1, 0.5, True), (1, 0.7, False), (0, 1.0, False)]
)
def test_above_the_floor_and_not_at_it(manifest: Manifest, num_good: int, most: float, stops: bool):
    outcomes(manifest, "outcomes", "E: x", "E: x", num_good=num_good)
    if not stops:
        floors(manifest, most).check(1, VERIFY, STAGES)
        assert (1, "outcomes") in manifest.state.shards
        return
    with pytest.raises(MostlyFailedError, match="round 1: 2 of 3 samples could not be verified"):
        floors(manifest, most).check(1, VERIFY, STAGES)


def test_the_table_of_reasons_and_the_first_failure(manifest: Manifest):
    trace = "Traceback:\n  File x, line 3\nValueError: bad"
    outcomes(manifest, "outcomes", trace, "no reply within 10 s")
    outcomes(manifest, "outcomes", trace, "", shard=1, num_good=1)
    with pytest.raises(MostlyFailedError) as caught:
        floors(manifest).check(1, VERIFY, STAGES)
    assert caught.value.problem.splitlines() == [
        "round 1: 4 of 5 samples could not be verified",
        "    samples  reason",
        "          2  ValueError: bad",
        "          1  no reply within 10 s",
        "          1  the verifier gave no reason",
        "    the first:",
        "      Traceback:",
        "        File x, line 3",
        "      ValueError: bad",
    ]


def test_many_reasons_are_cut(manifest: Manifest):
    outcomes(manifest, "outcomes", *(f"E: {number}" for number in range(13)))
    with pytest.raises(MostlyFailedError) as caught:
        floors(manifest).check(1, VERIFY, STAGES)
    assert "and 3 more" in caught.value.problem
    assert len(caught.value.problem.splitlines()) == 13  # a heading, the table's own, ten reasons, "more"


def test_what_failed_and_what_was_made_of_it_is_done_anew_and_nothing_else(manifest: Manifest):
    outcomes(manifest, "outcomes", "E: x")
    for table in ("steps", "prompts", "reference"):  # its log-probs are of the responses that will be trained on
        write(manifest, table, 0, [], {})
    with pytest.raises(MostlyFailedError):
        floors(manifest).check(1, VERIFY, STAGES)
    assert set(manifest.state.shards) == {(1, "prompts")}


def test_reference_logprobs_do_not_depend_on_verdicts(manifest: Manifest):
    write(manifest, "reference", 0, [], {})
    verdicts(manifest, JUDGE, (VerdictStatus.TIMEOUT, ""))
    with pytest.raises(MostlyFailedError):
        floors(manifest).check(1, JUDGE, STAGES)
    assert set(manifest.state.shards) == {(1, "reference")}


def test_a_failed_evaluation_takes_nothing_of_the_round_that_trains_meanwhile(manifest: Manifest):
    outcomes(manifest, "eval_outcomes", "E: x")
    for table in ("prompts", "weighted"):
        path = write_shard(
            manifest.run_dir, table=table, round_=2, shard=0, attempt="a", rows=[], seconds=0.0, metrics={}
        )
        manifest.accept(path)
    for version in (1, 2):
        manifest.add_snapshot(SnapshotRecord(version, f"snapshots/v{version}", {}, 0.0))
    with pytest.raises(MostlyFailedError):
        floors(manifest).check(1, evaluation_stages()[1], evaluation_stages())
    for state in (manifest.state, read_manifest(manifest.run_dir)):
        assert set(state.shards) == {(2, "prompts"), (2, "weighted")}
        assert set(state.snapshots) == {1, 2}


def test_an_evaluation_has_the_same_floor(manifest: Manifest):
    outcomes(manifest, "eval_outcomes", "E: x")
    with pytest.raises(MostlyFailedError, match="evaluation of v1: 1 of 1"):
        floors(manifest).check(1, evaluation_stages()[1], evaluation_stages())
    assert not manifest.state.shards


def verdicts(manifest: Manifest, stage: StageSpec, *said: tuple[VerdictStatus, str]) -> None:
    judge = stage.name.removeprefix("judge.")
    rows = [
        verdict_row(
            Verdict(
                SampleId(1, "p", 0), step, judge, "v", status, 1 if status is VerdictStatus.JUDGED else None, raw=raw
            )
        )
        for step, (status, raw) in enumerate(said)
    ]
    metrics = status_metrics({status: sum(one == status for one, _ in said) for status, _ in said})
    write(manifest, stage.output, 0, rows, metrics)


def test_steps_without_a_verdict_of_a_voter(manifest: Manifest):
    said = ((VerdictStatus.JUDGED, ""), (VerdictStatus.TIMEOUT, ""), (VerdictStatus.UNPARSABLE, "I think"))
    verdicts(manifest, JUDGE, *said)
    verdicts(manifest, TRUTH, (VerdictStatus.REFUSED, ""))
    floors(manifest).check(1, TRUTH, STAGES)  # it does not vote
    with pytest.raises(MostlyFailedError) as caught:
        floors(manifest).check(1, JUDGE, STAGES)
    assert caught.value.problem.splitlines() == [
        "judge 'llm', round 1: 2 of 3 steps have no verdict",
        "    steps  reason",
        "        1  timeout",
        "        1  unparsable",
        "    the first:",
        "      I think",
    ]
    assert set(manifest.state.shards) == {(1, "verdicts.truth")}


def test_a_voter_that_declines_is_said_and_stops_nothing(manifest: Manifest):
    said: list[str] = []
    verdicts(manifest, JUDGE, (VerdictStatus.REFUSED, ""), (VerdictStatus.REFUSED, ""), (VerdictStatus.JUDGED, ""))
    floor = Floors(manifest, max_error_share=0.5, max_missing_share=0.5, voters=("llm",), say=said.append)
    floor.check(1, JUDGE, STAGES)
    assert said == ["round 1: judge 'llm' declined 2 of 3 steps, which then are not mined"]


def test_nothing_asked_is_no_failure(manifest: Manifest):
    verdicts(manifest, JUDGE)
    outcomes(manifest, "outcomes")
    floors(manifest, 0.0).check(1, JUDGE, STAGES)
    floors(manifest, 0.0).check(1, VERIFY, STAGES)


TWO = data_stages({"llm": "judge.llm", "prm": "prm"})


def two_voters(manifest: Manifest, llm: str, prm: str, rule: ConsensusRule | None = None, most: float = 0.5) -> None:
    """Both voters' verdicts on the steps of one sample, a letter each: right, wrong, unparsable, timeout, declined (x), or -."""
    status = {
        "u": VerdictStatus.UNPARSABLE,
        "t": VerdictStatus.TIMEOUT,
        "x": VerdictStatus.REFUSED,
        "-": VerdictStatus.NOT_ASKED,
    }
    for name, said in (("llm", llm), ("prm", prm)):
        found = []
        for step, letter in enumerate(said):
            judged = letter in "rw"
            label, score = (int(letter == "r"), None) if name == "llm" else (None, 0.9 if letter == "r" else 0.1)
            found.append(
                Verdict(
                    SampleId(1, "p", 0), step, name, "v", status.get(letter, VerdictStatus.JUDGED),
                    label if judged else None, score if judged else None, raw=f"{name} said {letter}",
                )
            )  # fmt: skip
        metrics = status_metrics(Counter(verdict.status for verdict in found))
        write(manifest, f"verdicts.{name}", 0, list(map(verdict_row, found)), metrics)
    floor = Floors(
        manifest,
        max_error_share=most,
        max_missing_share=most,
        voters=("llm", "prm"),
        rule=rule,
        thresholds={"prm": 0.5},
    )
    for stage in TWO[3:5]:
        floor.check(1, stage, TWO)


def test_voters_that_miss_few_steps_each_and_most_together_stop_the_run(manifest: Manifest):
    """Each misses 2 of 5, which is allowed; of 4 steps none can be right since one of them is silent."""
    with pytest.raises(MostlyFailedError) as caught:
        two_voters(manifest, "uurrr", "rruur")
    assert caught.value.problem.splitlines() == [
        "round 1: the voters cannot decide 4 of 5 steps, since verdicts are missing",
        "    missing  reason",
        "          2  unparsable of llm",
        "          2  unparsable of prm",
        "    the first:",
        "      llm said u",
    ]
    assert "at most 50% of a round's steps stay undecided" in caught.value.rule
    assert manifest.state.shards == {}  # both are asked anew


@pytest.mark.parametrize(
    ("llm", "prm", "rule"),
    [
        ("uurrr", "rrrrr", None),  # one voter alone, within its floor
        ("uurrr", "rwtrr", None),  # 3 of 5 miss a verdict, but one of them is wrong whatever the other says
        ("xxrrr", "rruur", None),  # what was declined is as called wrong
        ("uurrr", "rruur", ConsensusRule("any")),  # one that says right is enough
        ("uurrr", "rruur", ConsensusRule("all", abstention="left_out")),
        ("rwtr-", "uurrr", None),  # llm after prm: 2 of 5 cannot be decided; the last step is asked of prm alone
    ],
)
def test_steps_that_are_decided_all_the_same_stop_nothing(
    manifest: Manifest, llm: str, prm: str, rule: ConsensusRule | None
):
    two_voters(manifest, llm, prm, rule)
    assert len(manifest.state.shards) == 2


def test_a_voter_that_misses_most_steps_alone_is_named_whoever_is_whole_first(manifest: Manifest):
    with pytest.raises(MostlyFailedError, match="judge 'prm', round 1: 4 of 5 steps have no verdict"):
        two_voters(manifest, "rrrrr", "uuuur")  # llm is checked first, when both are there
    assert set(manifest.state.shards) == {(1, "verdicts.llm")}  # it is not asked again


@pytest.mark.parametrize(("num_aborted", "stops"), [(1, False), (2, True)])
def test_responses_that_the_engine_gave_up(manifest: Manifest, num_aborted: int, stops: bool):
    """Of 4 samples one has a prompt that is too long, and was never asked."""
    reasons = [StopReason.ABORTED] * num_aborted + [StopReason.STOP] * (3 - num_aborted) + [StopReason.PROMPT_TOO_LONG]
    write(manifest, "rollouts", 0, [], RolloutCounts.of((3, reason) for reason in reasons).metrics())
    if not stops:
        floors(manifest).check(1, STAGES[0], STAGES)
        return
    with pytest.raises(MostlyFailedError, match="round 1: the engine gave up 2 of 3 responses"):
        floors(manifest).check(1, STAGES[0], STAGES)
    assert manifest.state.shards == {}


@pytest.mark.parametrize(
    ("dropped", "reason"),
    [
        (
            {"all_wrong": 90, "all_correct": 6},
            "no group had both right and wrong answers (all_wrong 90, all_correct 6)",
        ),
        ({"all_wrong": 0, "unverified": 96}, "none of 96 samples can be trained on (unverified 96)"),
        ({"all_wrong": 6, "truncated": 90}, "none of 96 samples can be trained on (truncated 90, all_wrong 6)"),
    ],
)
def test_why_a_round_is_empty(dropped: dict[str, int], reason: str):
    assert empty_round_reason(dropped, 96) == reason
