"""A judge that samples is seeded by what it is asked: any member, at any try, in any company, says the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Generation, Sampling
from bcpg_cluster.stages.judge.endpoint.settings import Endpoint
from bcpg_cluster.stages.judge.llm.cache import content_seed
from bcpg_cluster.stages.judge.llm.judge_prompt import JudgePrompt
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge
from bcpg_cluster.stages.judge.llm.transport import GeneratorTransport
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judgement

PROMPT = JudgePrompt("test", "", "$problem $steps $first $last", "$index $text", answer="lines")
CASES = [JudgeCase(f"1+{number}", (f"1+{number}={number + 1}", "done")) for number in range(24)]


@dataclass
class Coin:
    """A generator that tosses a coin for each step: by the request's seed, or else by a state of its own."""

    own_seed: int
    requests: list[GenerateRequest] = field(default_factory=list)
    policy_version: int = 0
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        self._own = random.Random(self.own_seed)

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return tuple("".join(message["content"] for message in messages).encode())

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        self.requests += requests
        return [self._tossed(request) for request in requests]

    def _tossed(self, request: GenerateRequest) -> Generation:
        rng = self._own if request.seed is None else random.Random(request.seed)
        text = "".join(f"{step} {rng.choice(('correct none', 'wrong calculation'))}\n" for step in range(2))
        return Generation((1,), (0.0,), (text,), StopReason.STOP, 0)

    def close(self) -> None:
        """Nothing to free."""


def member(own_seed: int, temperature: float = 0.7, **options: Any) -> tuple[LlmJudge, Coin]:
    coin = Coin(own_seed)
    transport = GeneratorTransport(coin, "m1", Sampling(64, temperature), 10_000)
    return LlmJudge("j", transport, JudgeOptions(PROMPT, **({"run_seed": 5} | options))), coin


def said(cases: Sequence[JudgeCase], own_seed: int, **options: Any) -> list[tuple[Judgement, ...]]:
    return list(member(own_seed, **options)[0].judge(cases).judgements)


def test_members_and_company_do_not_matter() -> None:
    alone = said(CASES, 1)
    assert {row[0].label for row in alone} == {0, 1}
    assert list(reversed(said(CASES[::-1], 2))) == alone
    assert [row for start in range(0, 24, 5) for row in said(CASES[start : start + 5], start)] == alone
    assert [row for case in CASES for row in said([case], 9)] == alone


@pytest.mark.parametrize("other", [{"run_seed": 6}, {"sample": 1}, {"temperature": 0.8}])
def test_what_does_matter(other: dict[str, Any]) -> None:
    assert said(CASES, 1, **other) != said(CASES, 1)


def test_without_a_seed_it_is_chance() -> None:
    assert said(CASES, 1, run_seed=None) != said(CASES, 2, run_seed=None)


def test_a_greedy_judge_has_no_seed() -> None:
    judge, coin = member(1, temperature=0.0)
    judge.judge(CASES[:2])
    assert [request.seed for request in coin.requests] == [None, None]


def test_a_seed_is_31_bits_of_the_requests_digest() -> None:
    # printf 5/k | sha256sum
    assert content_seed(5, "k") == 0x4ECD5A3D
    assert all(0 <= content_seed(run, key) < 2**31 for run in range(99) for key in "abc")


def test_endpoints_get_it_where_they_are_to() -> None:
    ask = ({"role": "user", "content": "x"},)
    assert "seed" not in Endpoint("http://h/v1", "m", temperature=0.7).request(ask, None, 7)
    assert Endpoint("http://h/v1", "m", temperature=0.7, send_seed=True).request(ask, None, 7)["seed"] == 7
    assert Endpoint("http://h/v1", "m", temperature=None, send_seed=True).request(ask, None, 7)["seed"] == 7
    assert "seed" not in Endpoint("http://h/v1", "m", temperature=0.0, send_seed=True).request(ask, None, 7)
    assert Endpoint("http://h/v1", "m").decoding() == Endpoint("http://h/v1", "m", send_seed=False).decoding()
    assert Endpoint("http://h/v1", "m", send_seed=True).decoding()["send_seed"] is True
