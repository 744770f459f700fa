"""The contracts of judges and segmenters, run on the shipped ones, and on yours.

``BCPG_JUDGE=package.module:function pytest tests/contract/test_own_plugins.py`` takes a function of nothing that returns a
``bcpg_cluster.stages.judge.contract.Subject``; ``BCPG_SEGMENTER`` likewise a segmenter.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.responses import SegmentConfig
from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.records import OutcomeStatus, Prompt, Step, StopReason, VerdictStatus
from bcpg_cluster.run.build.segmenters import make_segmenter
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.judge import contract as judge_contract
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judged, Judgement
from bcpg_cluster.stages.judge.task_truth import TaskTruth
from bcpg_cluster.stages.judge.user_class import UserJudge, judgement_fault
from bcpg_cluster.stages.segment import contract as segment_contract
from bcpg_cluster.stages.segment.segmenters import Segmenter
from bcpg_cluster.stages.segment.user_class import UserSegmenter
from bcpg_cluster.stages.verify import contract as verify_contract
from bcpg_cluster.stages.verify.user_class import UserVerifier

CASES = (
    JudgeCase("17 +25 *3", ("17+25=42\n", "42*3=27\n", "answer 27")),
    JudgeCase("10 -8", ("10-8=2\n",), gold="2"),
)

OWN = '''
from bcpg_cluster.records import OutcomeStatus, Step, StopReason, VerdictStatus
from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.judge.protocol import Judged, Judgement
from bcpg_cluster.stages.verify.protocol import Verification, part_to_check, check_not_empty, without_answer

class ByLength:
    """Calls short steps right."""
    version = "by-length"
    def __init__(self, most=9, says="label"): self.most, self.says = most, says
    def judge(self, cases):
        def say(step):
            if self.says == "raises": raise RuntimeError("no network")
            if self.says == "score": return Judgement(VerdictStatus.JUDGED, score=1 / (1 + len(step)))
            if self.says == "both": return Judgement(VerdictStatus.JUDGED, label=1, score=0.5)
            return Judgement(VerdictStatus.JUDGED, label=int(len(step) <= self.most))
        judged = tuple(tuple(map(say, case.steps)) for case in cases)
        return judged if self.says == "tuples" else Judged(judged)
    def close(self): pass

class NoJudge:
    version = "none"

class EverySecond:
    """Steps of ``size`` tokens."""
    def __init__(self, size=2): self.size = size
    def __call__(self, texts):
        starts = range(0, len(texts), self.size)
        return [Step(s, min(s + self.size, len(texts)), "".join(texts[s:s + self.size])) for s in starts]

def one_step(texts, size=None):
    return [Step(0, len(texts), "".join(texts))] if texts else []

def loses_text(texts): return [Step(0, len(texts), "gone")]
def leaves_a_gap(texts): return [Step(1, len(texts), "".join(texts[1:]))]

class LastWord:
    """The last word is the answer."""
    def __init__(self, gives=None): self.gives = gives
    def verify(self, response, gold, stop_reason):
        part = part_to_check(response, stop_reason, prompt_opens_thinking=False)
        if isinstance(part, Verification): return part
        if self.gives == "raises": raise RuntimeError("no network")
        if self.gives == "float": return 1.0
        if self.gives == "half": return Verification(OutcomeStatus.VERIFIED, 0.5, "x")
        if self.gives == "zero": return Verification(OutcomeStatus.VERIFIER_ERROR, 0.0)
        word = part.split()[-1]
        return Verification(OutcomeStatus.VERIFIED, float(word == gold), word)
    def check_gold(self, gold): check_not_empty(gold)
    def close(self): pass

class ByPrompt(LastWord):
    def verify_sample(self, response, prompt, stop_reason):
        return Verification(OutcomeStatus.VERIFIED, float(prompt.question == "q"), response)
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("own") / "own_plugins.py"
    file.write_text(OWN)
    return file


# --- judges


def _given(variable: str) -> Any:
    if variable not in os.environ:
        pytest.skip(f"set {variable} to run it on your own")
    module, _, name = os.environ[variable].partition(":")
    return getattr(importlib.import_module(module), name)()


@pytest.fixture(params=["chain_truth", "fake", "labels", "scores", "yours"])
def judge_subject(request: pytest.FixtureRequest, own: Path) -> judge_contract.Subject:
    match request.param:
        case "chain_truth":
            return judge_contract.Subject(TaskTruth("chain"), CASES)
        case "fake":
            return judge_contract.Subject(FakeJudge("j", precision=0.9, recall=0.8), CASES)
        case "labels":
            return judge_contract.Subject(UserJudge("mine", f"{own}:ByLength", {"most": 8}), CASES)
        case "scores":
            return judge_contract.Subject(UserJudge("mine", f"{own}:ByLength", {"says": "score"}), CASES)
    made: judge_contract.Subject = _given("BCPG_JUDGE")
    return made


@pytest.mark.parametrize("check", judge_contract.CHECKS, ids=lambda check: check.__name__)
def test_the_contract_of_judges(judge_subject: judge_contract.Subject, check: Callable[[judge_contract.Subject], None]):
    check(judge_subject)


def test_an_own_judge_says_what_its_options_say(own: Path):
    judge = UserJudge("mine", f"{own}:ByLength", {"most": 8}, digest=None)
    assert [[said.label for said in of_case] for of_case in judge.judge(CASES).judgements] == [[0, 1, 0], [1]]
    assert judge.version == "by-length"
    judge.close()


class _Broken:
    """Breaks the contract in the way the test says."""

    version = "broken"

    def __init__(self, answer: Callable[[Sequence[JudgeCase]], Any]) -> None:
        self.judge = answer

    def close(self) -> None:
        pass


ONE = Judgement(VerdictStatus.JUDGED, label=1)


@pytest.mark.parametrize(
    ("answer", "failing"),
    [
        (lambda cases: Judged(()), "every_step_has_a_verdict"),
        (lambda cases: Judged(tuple((ONE,) for _ in cases)), "every_step_has_a_verdict"),
        (lambda cases: [], "every_step_has_a_verdict"),
        (
            lambda cases: Judged(
                tuple(
                    tuple(Judgement(VerdictStatus.JUDGED, label=int(n == 0)) for _ in c.steps)
                    for n, c in enumerate(cases)
                )
            ),
            "verdicts_keep_their_order",
        ),
        (
            lambda cases: Judged(tuple(tuple(ONE for _ in c.steps) for c in cases) or ((ONE,),)),
            "nothing_asked_is_nothing_said",
        ),
        (
            lambda cases: Judged(tuple(tuple(Judgement(VerdictStatus.REFUSED) for _ in c.steps) for c in cases)),
            "every_step_has_a_verdict",
        ),
    ],
)
def test_the_contract_of_judges_finds_what_is_wrong(answer: Callable[[Sequence[JudgeCase]], Any], failing: str):
    found = judge_contract.failures(judge_contract.Subject(_Broken(answer), CASES))  # type: ignore[arg-type]
    assert failing in [line.partition(":")[0] for line in found]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (ONE, ""),
        (Judgement(VerdictStatus.JUDGED, score=0.0), ""),
        (Judgement(VerdictStatus.TIMEOUT), ""),
        (Judgement(VerdictStatus.JUDGED), "exactly one of them"),
        (Judgement(VerdictStatus.JUDGED, label=1, score=1.0), "exactly one of them"),
        (Judgement(VerdictStatus.JUDGED, label=2), "neither 0 nor 1"),
        (Judgement(VerdictStatus.JUDGED, score=1.5), "outside 0 .. 1"),
        (Judgement(VerdictStatus.JUDGED, score=float("nan")), "outside 0 .. 1"),
        (Judgement(VerdictStatus.REFUSED, label=0), "carries 0"),
    ],
)
def test_verdicts_that_contradict_themselves(said: Judgement, fault: str):
    assert fault in judgement_fault(said)
    assert bool(fault) == bool(judgement_fault(said))


def test_what_an_own_judge_raises_may_be_tried_again(own: Path):
    with pytest.raises(EngineError, match=r"judges\.mine\.class .*ByLength: RuntimeError: no network"):
        UserJudge("mine", f"{own}:ByLength", {"says": "raises"}).judge(CASES)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("ByLength", {"says": "tuples"}, r"judge\(\) returned a tuple, not a Judged"),
        ("ByLength", {"says": "both"}, "exactly one of them"),
        ("ByLength", {"few": 1}, r"called with \{'few': 1\}: TypeError"),
        ("NoJudge", {}, "NoJudge lacks judge, close"),
        ("Nothing", {}, r"\.py has no Nothing"),
    ],
)
def test_judges_that_are_none(own: Path, name: str, options: dict[str, Any], problem: str):
    with pytest.raises(ConfigError, match=problem):
        UserJudge("mine", f"{own}:{name}", options).judge(CASES)


# --- segmenters


def _built_in(**section: Any) -> Segmenter:
    return make_segmenter(SegmentConfig(**section))


@pytest.fixture(params=["structural", "paragraph", "delimiter", "merged", "class", "function", "yours"])
def cut(request: pytest.FixtureRequest, own: Path) -> Segmenter:
    match request.param:
        case "structural":
            return _built_in()
        case "paragraph":
            return _built_in(split_on="paragraph", cues_inside_lines=True, max_tokens=5)
        case "delimiter":
            return _built_in(kind="delimiter", merge=False)
        case "merged":
            return _built_in(merge=True, merge_min_tokens=2, merge_target_tokens=4, merge_max_tokens=8)
        case "class":
            return UserSegmenter(f"{own}:EverySecond", {"size": 3})
        case "function":
            return UserSegmenter(f"{own}:one_step", {"size": 3})
    made: Segmenter = _given("BCPG_SEGMENTER")
    return made


@pytest.mark.parametrize("check", segment_contract.CHECKS, ids=lambda check: check.__name__)
def test_the_contract_of_segmenters(cut: Segmenter, check: Callable[[Segmenter], None]):
    check(cut)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("loses_text", "the steps' texts join to 'gone'"),
        ("leaves_a_gap", "step 0 has the tokens 1 .. 2 where the one before ended at 0"),
        ("ByLength", "lacks __call__"),
    ],
)
def test_segmenters_that_are_none(own: Path, name: str, problem: str):
    with pytest.raises(ConfigError, match=problem):
        UserSegmenter(f"{own}:{name}", {})(["a", "b", "c"])


def test_the_contract_of_segmenters_finds_what_is_wrong():
    def lazy(texts: Sequence[str]) -> list[Step]:
        return [Step(0, 1, texts[0])] if texts else []

    assert [line.partition(":")[0] for line in segment_contract.failures(lazy)] == [
        "steps_tile_the_response",
        "odd_text_is_tiled_too",
        "tokens_without_text_belong_to_a_step",
    ]


# --- verifiers


def test_the_contract_of_an_own_verifier(own: Path):
    subject = verify_contract.Subject(UserVerifier(f"{own}:LastWord", {}), "18", "so 18", "so 19")
    assert verify_contract.failures(subject) == []


def test_an_own_verifier_may_read_the_prompt(own: Path):
    verifier = UserVerifier(f"{own}:ByPrompt", {})
    assert verifier.verify_sample("x", Prompt("p", "q", "18"), StopReason.STOP).reward == 1.0
    plain = UserVerifier(f"{own}:LastWord", {})
    assert plain.verify_sample("x 18", Prompt("p", "q", "18"), StopReason.STOP).reward == 1.0


def test_what_an_own_verifier_raises_is_no_reward(own: Path):
    found = UserVerifier(f"{own}:LastWord", {"gives": "raises"}).verify("18", "18", StopReason.STOP)
    assert (found.status, found.reward, found.why) == (OutcomeStatus.VERIFIER_ERROR, None, "RuntimeError: no network")


@pytest.mark.parametrize(
    ("gives", "problem"),
    [
        ("float", "returned a float, not a Verification"),
        ("half", r"status verified with reward 0\.5"),
        ("zero", r"status verifier_error with reward 0\.0"),
    ],
)
def test_verifications_that_contradict_themselves(own: Path, gives: str, problem: str):
    with pytest.raises(ConfigError, match=problem):
        UserVerifier(f"{own}:LastWord", {"gives": gives}).verify("18", "18", StopReason.STOP)
