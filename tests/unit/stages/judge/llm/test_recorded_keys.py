"""Cache keys and versions as earlier releases recorded them: their answers are still found, their verdicts still theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.stages.fakes.disk_faults import DiskFault, WatchedDisk
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.generate.protocol import Sampling
from bcpg_cluster.stages.judge.endpoint.openai_transport import OpenAiTransport
from bcpg_cluster.stages.judge.endpoint.settings import Endpoint
from bcpg_cluster.stages.judge.llm.cache import CachedAnswer, VerdictCache
from bcpg_cluster.stages.judge.llm.judge_prompt import JudgePrompt
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge
from bcpg_cluster.stages.judge.llm.transport import Ask, GeneratorTransport, Reply, Transport
from bcpg_cluster.stages.judge.llm.windows import WindowLimits
from bcpg_cluster.stages.judge.protocol import JudgeCase
from bcpg_cluster.watch.report.round_report import judge_account
from bcpg_cluster_cli.console import account_text

PROMPT = JudgePrompt(
    "test", "be strict", "$problem|$steps|$first $last|$gold", "$index $text;", gold="gold $answer", answer="json"
)
CASE = JudgeCase("17 +25", ("17+25=42", "answer 42"), gold="42")
ITEM = '{"step": %d, "reason": "", "error_type": "none", "correct": 1}'
ANSWER = '{"verdicts": [' + ITEM % 0 + ", " + ITEM % 1 + "]}"


def here(sampling: Sampling, **options: Any) -> Transport:
    return GeneratorTransport(FakeGenerator(answer=lambda _: "not asked"), "m1", sampling, 300, **options)


class Silent(OpenAiTransport):
    """An endpoint that must not be asked."""

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        assert not asks
        return iter(())


# As the classes LlmJudge and OpenAiJudge of commit ebe5a6d made them.
RECORDED: list[tuple[Transport, dict[str, Any], str, str]] = [
    (
        here(Sampling(200, 0.0)),
        {},
        "m1/test@7e0e6c3ce18e/full:200:300",
        "87fb4fe4a78acac1f926b47baa9fa2e4032a1b954fb6b843ca84d251b2d6e2e9",
    ),
    (
        here(Sampling(200, 0.5, 0.9), is_bound=False),
        {"sample": 3, "answer_after": "</t>", "windows": WindowLimits(8, None, looks_ahead=True)},
        "m1/test@7e0e6c3ce18e/full:200:300:t0.5p0.9s3:free:w8x0+:after </t>",
        "1431298f66b17a996393804395244dab7e6d8bc3d86942db852901b35468e509",
    ),
    (
        Silent(Endpoint("http://h/v1", "m")),
        {},
        'http://h/v1#m/test@7e0e6c3ce18e/full:{"extra_body":{},"max_tokens":2048,"structured":"json_schema",'
        '"temperature":0.0,"top_p":null}',
        "5272edb45c06ba986333abc943e22b2c6893fce291c57c90afc07a701827a485",
    ),
    (
        Silent(Endpoint("http://h/v1", "m", structured="none", temperature=None, extra_body={"seed": 5})),
        {"sample": 2, "answer_after": "</t>", "windows": WindowLimits(None, 9)},
        'http://h/v1#m/test@7e0e6c3ce18e/full:{"extra_body":{"seed":5},"max_tokens":2048,"structured":"none",'
        '"temperature":null,"top_p":null}:s2:w0x9:after </t>',
        "dba49e8354b0dfff3d9e4fe2dcb23234ff5bb2fccca0c31775ca42f9d99130f2",
    ),
]


@pytest.mark.parametrize(("transport", "options", "version", "key"), RECORDED)
def test_earlier_answers_are_found(
    transport: Transport, options: dict[str, Any], version: str, key: str, tmp_path: Path
) -> None:
    cache = VerdictCache(tmp_path)
    thought = options.get("answer_after", "")
    cache.put(key, CachedAnswer(f"hm{thought}{ANSWER}" if thought else ANSWER))
    judge = LlmJudge("j", transport, JudgeOptions(PROMPT, **options), cache)
    assert judge.version == version
    judged = judge.judge([CASE])
    assert [said.label for said in judged.judgements[0]] == [1, 1]
    assert judged.counts == {"calls": 1, "calls.stored": 1}


def test_a_full_disk_costs_entries_and_not_answers(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    transport = GeneratorTransport(FakeGenerator(answer=lambda _: ANSWER), "m1", Sampling(200, 0.0), 300)
    judge = LlmJudge("j", transport, JudgeOptions(PROMPT), cache)
    with WatchedDisk(tmp_path, DiskFault(1, is_lasting=True)):
        judged = judge.judge([CASE])
    assert [said.label for said in judged.judgements[0]] == [1, 1]
    assert (judged.counts["calls"], judged.counts["calls.unkept"]) == (1, 1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    account = judge_account({f"judge.{name}": value for name, value in judged.counts.items()})
    assert account is not None and "1 answers that the cache's disk did not take" in account_text(account)
    again = judge.judge([CASE])
    assert "calls.unkept" not in again.counts and "calls.stored" not in again.counts
    assert judge.judge([CASE]).counts == {"calls": 1, "calls.stored": 1}
