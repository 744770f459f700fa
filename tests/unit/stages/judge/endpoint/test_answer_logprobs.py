"""Log-probs of an endpoint: what is asked for, what is read, and what becomes of those that do not come."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.endpoint.openai_transport import OpenAiTransport
from bcpg_cluster.stages.judge.endpoint.rate_limit import RateLimits
from bcpg_cluster.stages.judge.endpoint.settings import Endpoint
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge
from bcpg_cluster.stages.judge.protocol import Judgement
from tests.judge_server import Server, completion, sends, verdicts
from tests.unit.stages.judge.endpoint.test_openai_transport import CASES, TAXONOMY

ERRORS = ("none", "calculation", "none")  # of the three steps of the first case
RIGHT = (0.8, 0.2, 0.6)  # P(right) of each, as the server's log-probs say it


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


def judge_of(server: Server, *, top_logprobs: int = 20, **settings: Any) -> LlmJudge:
    endpoint = Endpoint(server.url, "m", max_retries=0, top_logprobs=top_logprobs, **settings)
    transport = OpenAiTransport(endpoint, RateLimits(concurrency=1))
    return LlmJudge("api", transport, JudgeOptions(TAXONOMY, says="probability"))


def said(server: Server, **settings: Any) -> tuple[Judgement, ...]:
    judge = judge_of(server, **settings)
    try:
        return judge.judge(CASES[:1]).judgements[0]
    finally:
        judge.close()


def token(text: str, drawn: float = 1.0, **others: float) -> dict[str, Any]:
    top = {text: drawn} | others | {"so": 1e-9}
    listed = [{"token": name, "logprob": math.log(p), "bytes": list(name.encode())} for name, p in top.items()]
    return {"token": text, "logprob": math.log(drawn), "bytes": list(text.encode()), "top_logprobs": listed}


def tokens() -> list[dict[str, Any]]:
    """The server's answer about three steps; each has twice the weight on its verdict that it has on others beside P(right)."""
    pieces = (
        verdicts(0, 2, wrong=(1,))
        .replace("none", "\x00none\x00")
        .replace("calculation", "\x00calculation\x00")
        .split("\x00")
    )
    found, right = [], iter(RIGHT)
    for piece in pieces:
        if piece not in ERRORS:
            found.append(token(piece))
        elif piece == "none":
            found.append(token(piece, 0.5 * (share := next(right)), calculation=0.5 * (1 - share)))
        else:
            found.append(token(piece, 0.5 * (1 - (share := next(right))), none=0.5 * share))
    return found


def answer(content: Any) -> dict[str, Any]:
    body = completion(verdicts(0, 2, wrong=(1,)))
    body["choices"][0]["logprobs"] = {"content": content, "refusal": None}
    return body


def test_scores_of_an_endpoint(server: Server) -> None:
    server.plays = [sends(answer(tokens()))]
    steps = said(server, top_logprobs=7)
    assert [step.score for step in steps] == pytest.approx(RIGHT)
    assert [(step.status, step.label, step.error_type) for step in steps] == [(VerdictStatus.JUDGED, None, None)] * 3
    assert (server.requests[0]["logprobs"], server.requests[0]["top_logprobs"]) == (True, 7)


def test_what_it_thought_before_is_not_the_answer(server: Server) -> None:
    """An endpoint with a reasoning parser has the log-probs of the thoughts too."""
    thoughts = [token(f"<think>{verdicts(0, 2)}"), token("</think>")]
    server.plays = [sends(answer(thoughts + tokens()))]
    assert [step.score for step in said(server)] == pytest.approx(RIGHT)


@pytest.mark.parametrize(
    "broken",
    [
        {"logprob": None},
        {"logprob": True},
        {"logprob": "x"},
        {"logprob": 5.0},
        {"top_logprobs": None},
        {"top_logprobs": []},
        {"top_logprobs": [{"token": "none", "logprob": None}]},
        {"top_logprobs": [7]},
        {"token": None},
    ],
)
def test_a_broken_entry_is_no_score(broken: dict[str, Any], server: Server) -> None:
    content = tokens()
    content[1] |= broken
    server.plays = [sends(answer(content))]
    statuses = [step.status for step in said(server)]
    assert statuses[0] is VerdictStatus.UNPARSABLE  # of a text that is missing, all three cannot be placed
    assert statuses[1:] == [VerdictStatus.UNPARSABLE if "token" in broken else VerdictStatus.JUDGED] * 2


@pytest.mark.parametrize("content", [None, [], "x", {"a": 1}])
def test_an_endpoint_without_log_probs_stops_the_run(content: Any, server: Server) -> None:
    server.plays = [sends(answer(content))]
    with pytest.raises(ConfigError, match="answers without log-probs") as caught:
        said(server)
    assert "votes" in caught.value.remedy


def test_one_answer_without_them_is_only_that(server: Server) -> None:
    server.plays = [sends(answer(tokens())), sends(completion(verdicts(0, 0)))]
    judge = judge_of(server)
    rows = judge.judge(CASES).judgements
    judge.close()
    assert [step.score for step in rows[0]] == pytest.approx(RIGHT)
    assert rows[1][0].status is VerdictStatus.UNPARSABLE
    assert json.loads(rows[1][0].raw) == json.loads(verdicts(0, 0))


def test_a_judge_of_labels_asks_for_none() -> None:
    plain, scoring = Endpoint("http://h/v1", "m"), Endpoint("http://h/v1", "m", top_logprobs=20)
    assert "logprobs" not in plain.request((), None) and "top_logprobs" not in plain.decoding()
    assert scoring.decoding()["top_logprobs"] == 20


@pytest.mark.parametrize(
    "text", ["```JSON\r\n{}\r\n```", "```json\r\n{}\r\n```", "<think>hm {{}}</think>\n{}", "Step 1 errs:\n{}"]
)
def test_a_mode_that_the_endpoint_ignores(text: str, server: Server) -> None:
    """It was asked for a schema and answers as models do without one."""
    server.plays = [sends(completion(text.replace("{}", verdicts(0, 2, wrong=(1,)))))]
    judge = LlmJudge(
        "api", OpenAiTransport(Endpoint(server.url, "m"), RateLimits(concurrency=1)), JudgeOptions(TAXONOMY)
    )
    judged = judge.judge(CASES[:1])
    judge.close()
    assert "response_format" in server.requests[0]
    assert [step.label for step in judged.judgements[0]] == [1, 0, 1]
    assert judged.counts["calls"] == 1
