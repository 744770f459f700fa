"""Rewards of mathematical answers: the cases of tests/data/rewards, every one graded as ``bcpg-cluster grade`` grades it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from bcpg_cluster.errors import DataError
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.stages.verify.math_answer import MathVerifier
from bcpg_cluster.stages.verify.samples import Gold, Sample, bad_golds, grade, read_golds, read_samples

CASES = Path(__file__).parents[3] / "data" / "rewards"
FILES = ("numbers", "braces", "corrections", "tiny", "failures", "characters", "units", "expressions")


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(time_limit_s=60.0)
    yield verifier
    verifier.close()


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(sample, id=f"{name}-{sample.line}")
        for name in FILES
        for sample in read_samples(CASES / f"{name}.jsonl")
    ],
)
def test_the_reward_of_a_case(verifier: MathVerifier, sample: Sample):
    (graded,) = grade(verifier, [sample])
    assert not graded.differs, f"{sample.response!r} against {sample.gold!r} gave {graded.verification}"


@pytest.mark.parametrize("name", FILES)
def test_every_kind_has_cases_that_are_right_and_cases_that_must_stay_wrong(name: str):
    rewards = [sample.expected for sample in read_samples(CASES / f"{name}.jsonl")]
    assert min(rewards.count(1.0), rewards.count(0.0)) >= 6 and len(rewards) >= 20


def test_golds_of_the_cases_are_good(verifier: MathVerifier):
    golds = [Gold(s.line, s.gold) for name in FILES for s in read_samples(CASES / f"{name}.jsonl")]
    assert [bad.problem for bad in bad_golds(verifier, golds)] == []


@pytest.mark.parametrize("gold", ["", "  ", "\\frac{", "$", "\\boxed{}", "???", "1 +", "\\boxed{3"])
def test_golds_that_no_answer_can_match(verifier: MathVerifier, gold: str):
    with pytest.raises(DataError, match="cannot be used"):
        verifier.check_gold(gold)


def test_it_says_what_it_read_and_why(verifier: MathVerifier):
    found = verifier.verify("So \\boxed{12}. Wait! $\\boxed{\\frac12}$.", "\\boxed{0.5}", StopReason.STOP)
    assert (found.extracted, found.extracted_gold, found.why) == ("\\frac12", "0.5", "equal numbers")
    assert verifier.verify("\\boxed{2} \\boxed{", "2", StopReason.STOP).why == "its last box never closes"
    assert verifier.verify("\\boxed{60 kg}", "60 cm", StopReason.STOP).why == "units of different kinds"
    assert verifier.verify("hm", "2", StopReason.LENGTH).why == "cut off before an answer in a box"
    assert verifier.verify("\\boxed{x+1}", "x+2", StopReason.STOP).why == "different expressions"


def test_an_answer_that_takes_too_much_work_is_wrong_and_the_next_is_checked():
    hurried = MathVerifier(time_limit_s=2.0)
    try:
        hurried.check_gold("\\pi")
        endless = hurried.verify("\\boxed{\\sum_{k=1}^{10^{9}} \\frac{1}{k^{k}}}", "9", StopReason.STOP)
        # on a busy machine the wall time may run out first
        assert (endless.status, endless.reward) in ((OutcomeStatus.VERIFIED, 0.0), (OutcomeStatus.VERIFIER_ERROR, None))
        assert endless.why
        assert (
            hurried.verify("\\boxed{\\frac{2\\pi}{2}}", "\\pi", StopReason.STOP).status is not OutcomeStatus.NO_ANSWER
        )
    finally:
        hurried.close()


@pytest.mark.parametrize("hard", ["9^{9^{9^{9}}}", "2^{-10^{12}}", "10^{9}!", "\\frac{0}{0}", "\\log 0"])
def test_a_wrong_answer_is_never_an_error(verifier: MathVerifier, hard: str):
    found = verifier.verify(f"\\boxed{{{hard}}}", "9", StopReason.STOP)
    assert (found.status, found.reward) == (OutcomeStatus.VERIFIED, 0.0)


def test_numbers_need_no_process():
    verifier = MathVerifier()
    assert verifier.verify("\\boxed{1{,}234}", "1234", StopReason.STOP).reward == 1.0
    assert verifier._process.pid is None
    verifier.close()


def _table(heading: str) -> list[list[str]]:
    """The cells of docs/data.md's first table after a heading."""
    text = (Path(__file__).parents[4] / "docs" / "data.md").read_text().partition(f"### {heading}\n")[2]
    rows = [line for line in text.partition("\n\nWhich box")[0].splitlines() if line.startswith("| ")]
    return [row.strip("| ").split(" | ") for row in rows[1:]]


def _groups(cell: str) -> list[list[str]]:
    """The answers between backticks, in groups that semicolons part."""
    return [re.findall("`([^`]+)`", group) for group in re.split(r";(?=(?:[^`]*`[^`]*`)*[^`]*$)", cell)]


@pytest.mark.parametrize(("same", "different", "rule"), _table("What is equal to what"))
def test_the_table_in_the_docs_is_true(verifier: MathVerifier, same: str, different: str, rule: str):
    pairs = [(pair, 1.0) for group in _groups(same) for pair in combinations(group, 2)]
    pairs += [(pair, 0.0) for group in _groups(different) for pair in combinations(group, 2)]
    assert pairs, rule
    for (gold, said), reward in pairs:
        assert verifier.verify(f"\\boxed{{{said}}}", gold, StopReason.STOP).reward == reward, (gold, said)
        assert verifier.verify(f"\\boxed{{{gold}}}", said, StopReason.STOP).reward == reward, (said, gold)


# --- data sets, where they are at hand


@pytest.mark.skipif("BCPG_MATH500" not in os.environ, reason="BCPG_MATH500 names a JSON-lines file of MATH-500")
def test_every_gold_of_math500_is_right_as_its_own_answer(verifier: MathVerifier):
    golds = read_golds(Path(os.environ["BCPG_MATH500"]), {"gold": "answer"})
    samples = [Sample(gold.line, f"So the answer is $\\boxed{{{gold.gold}}}$.", gold.gold) for gold in golds]
    assert len(samples) == 500
    wrong = [one.sample.gold for one in grade(verifier, samples) if one.verification.reward != 1.0]
    assert wrong == []
    assert list(bad_golds(verifier, golds)) == []


@pytest.mark.skipif("BCPG_GSM8K" not in os.environ, reason="BCPG_GSM8K names a JSON-lines file of GSM8K's test split")
def test_every_gold_of_gsm8k_is_right_as_its_own_answer(verifier: MathVerifier):
    rows = [json.loads(line) for line in Path(os.environ["BCPG_GSM8K"]).read_text().splitlines()]
    golds = [row["answer"].rpartition("####")[2].strip() for row in rows]
    samples = [Sample(line, f"So the answer is \\boxed{{{gold}}}.", gold) for line, gold in enumerate(golds, start=1)]
    samples += [Sample(line, f"So the answer is {gold}.", gold) for line, gold in enumerate(golds[:100], start=1)]
    assert len(golds) == 1319
    assert [one.sample.gold for one in grade(verifier, samples) if one.verification.reward != 1.0] == []
