"""The transport to an endpoint, and a judge over it: the real client against a scripted server on loopback.

No test waits for real time.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bcpg_cluster.assets
from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.records import ErrorType, VerdictStatus
from bcpg_cluster.stages.judge.endpoint.openai_transport import OpenAiTransport
from bcpg_cluster.stages.judge.endpoint.rate_limit import RateLimits
from bcpg_cluster.stages.judge.endpoint.settings import Endpoint, Prices
from bcpg_cluster.stages.judge.llm.cache import VerdictCache
from bcpg_cluster.stages.judge.llm.judge_prompt import parse_judge_prompt
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge
from bcpg_cluster.stages.judge.llm.windows import WindowLimits
from bcpg_cluster.stages.judge.protocol import JudgeCase
from tests.judge_server import Play, Server, asked, completion, fails, good, raw, sends, verdicts

TAXONOMY = parse_judge_prompt(
    (Path(bcpg_cluster.assets.__file__).parent / "judge_prompts" / "taxonomy.toml").read_text()
)
KEY = "sk-secret-0123456789"
CASES = [JudgeCase("1+1, then double it", ("1+1=2", "2*2=5", "answer 5"), gold="4"), JudgeCase("2+2", ("4",))]


class Time:
    """Stands still until somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture
def judge_of(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LlmJudge]]:
    """Makes judges on the server; ``time``, ``limits``, judge options and endpoint settings by name."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    made: list[LlmJudge] = []

    def make(time: Time | None = None, limits: RateLimits = RateLimits(concurrency=1), **options: Any) -> LlmJudge:
        cache = options.pop("cache", None)
        names = ("view", "windows", "sample", "max_unanswered")
        asked = {"max_unanswered": 0.5} | {name: options.pop(name) for name in names if name in options}
        settings: dict[str, Any] = {"api_key_env": "JUDGE_KEY", "max_retries": 2} | options
        time = time or Time()
        transport = OpenAiTransport(
            Endpoint(server.url, "m", **settings),
            limits,
            clock=lambda: time.now,
            wall_clock=lambda: time.now,
            sleep=time.sleep,
            jitter=lambda: 0.0,
        )
        made.append(LlmJudge("api", transport, JudgeOptions(TAXONOMY, **asked), cache))
        return made[-1]

    yield make
    for judge in made:
        judge.close()


def labels(judge: LlmJudge) -> list[list[int | None]]:
    return [[said.label for said in row] for row in judge.judge(CASES).judgements]


# --- what is sent, read and counted ----------------------------------------------------------------------------------


def test_a_good_answer(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    judge = judge_of(prices=Prices(prompt=2.0, answer=10.0, cached_prompt=0.5), extra_body={"seed": 7}, top_p=0.9)
    judged = judge.judge(CASES)
    rows, account = judged.judgements, judged.counts
    assert [[said.label for said in row] for row in rows] == [[1, 0, 1], [1]]
    assert rows[0][1].error_type is ErrorType.CALCULATION
    assert rows[0][1].raw == verdicts(0, 2, wrong=(1,))
    request = server.requests[0]
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert "Reference answer: 4" in request["messages"][1]["content"]
    assert "Reference answer" not in server.requests[1]["messages"][1]["content"]
    assert (request["model"], request["temperature"], request["top_p"], request["seed"]) == ("m", 0.0, 0.9, 7)
    assert request["max_tokens"] == 2048
    items = request["response_format"]["json_schema"]["schema"]["properties"]["verdicts"]
    assert (items["minItems"], items["maxItems"]) == (3, 3)
    assert server.keys == [f"Bearer {KEY}"] * 2
    # Two calls of 600 fresh, 400 cached and 50 answer tokens: 2 * (600 * 2 + 400 * 0.5 + 50 * 10) / 1e6.
    assert account.pop("cost") == pytest.approx(0.0038)
    assert account == {
        "calls": 2,
        "retries": 0,
        "prompt_tokens": 2000,
        "prompt_tokens.cached": 800,
        "answer_tokens": 100,
    }


def test_tokens_that_nobody_counted_are_not_zero(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    server.plays = [sends(completion(verdicts(0, 2)) | {"usage": None})]
    judged = judge_of(prices=Prices(1.0, 1.0)).judge(CASES)
    account = judged.counts
    assert account["calls.uncounted"] == 1
    assert account["prompt_tokens"] == 1000  # of the other call
    assert account["cost"] == pytest.approx(1050 / 1e6)


def test_other_ways_to_ask(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    judge_of(structured="strict", temperature=None, token_limit_field="max_completion_tokens").judge(CASES[:1])
    judge_of(structured="json_object").judge(CASES[:1])
    judge_of(structured="none").judge(CASES[:1])
    strict, loose, free = server.requests
    assert strict["response_format"]["json_schema"]["strict"] is True
    assert "maxLength" not in json.dumps(strict["response_format"])
    assert "minItems" in json.dumps(strict["response_format"])
    assert strict["max_completion_tokens"] == 2048
    assert {"max_tokens", "temperature"}.isdisjoint(strict)
    assert loose["response_format"] == {"type": "json_object"}
    assert "response_format" not in free


def test_windows_carry_what_was_wrong(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    assert labels(judge_of(windows=WindowLimits(steps=2))) == [[1, 0, 1], [1]]
    assert [asked(request) for request in server.requests] == [(0, 1), (0, 0), (2, 2)]
    assert "found wrong (step and error type):\n1 calculation\n" in server.requests[2]["messages"][1]["content"]
    assert "answer 5" not in server.requests[0]["messages"][1]["content"]


# --- waiting and trying again ----------------------------------------------------------------------------------------


def test_429_waits_as_long_as_it_is_told(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    time = Time()
    server.plays = [fails(429, retry_after="7"), fails(429)]
    judged = judge_of(time).judge(CASES)
    rows, account = judged.judgements, judged.counts
    assert [[said.label for said in row] for row in rows] == [[1, 0, 1], [1]]
    assert time.naps == [7.0, 1.0]  # told; then our own second wait: 2 s, of which half is jitter
    assert account["retries"] == 2


def test_a_date_to_come_back_at(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    time = Time()
    server.plays = [fails(503, retry_after="Thu, 01 Jan 1970 00:17:10 GMT")]  # 1030 s after the epoch
    assert labels(judge_of(time)) == [[1, 0, 1], [1]]
    assert time.naps == [30.0]


def test_an_hour_is_not_waited_for(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    time = Time()
    server.plays = [fails(429, retry_after="3600")]
    rows = judge_of(time).judge(CASES).judgements
    assert [said.status for said in rows[0]] == [VerdictStatus.ENGINE_LOST] * 3
    assert rows[1][0].label == 1
    assert time.naps == []


def test_500_backs_off(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    time = Time()
    server.plays = [fails(500), fails(502)]
    assert labels(judge_of(time)) == [[1, 0, 1], [1]]
    assert time.naps == [0.5, 1.0]


@pytest.mark.parametrize(
    "play",
    [
        fails(500),
        fails(429),
        raw(b"<html>gateway</html>", "text/html"),
        raw(b"{not json", "application/json"),
        raw(b"[1, 2]", "application/json"),
        raw(b'{"choices": []}', "application/json"),
        raw(b'{"choices": [{"index": 0}]}', "application/json"),
        raw(b'{"choices": 5}', "application/json"),
        raw(b"null", "application/json"),
    ],
)
def test_an_endpoint_that_is_broken(play: Play, server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    server.plays = [play] * 3  # one try and two more; the second case is answered
    rows = judge_of().judge(CASES).judgements
    assert [said.status for said in rows[0]] == [VerdictStatus.ENGINE_LOST] * 3
    assert all(said.label is None for said in rows[0])
    assert rows[1][0].label == 1
    assert len(server.requests) == 4
    # When nothing at all was answered, the piece of work fails and can be done again.
    server.plays = [play] * 6
    with pytest.raises(EngineError, match=r"answered on 0 of 4 steps of 2 cases"):
        judge_of().judge(CASES)


def test_nobody_there(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    judge = judge_of(max_retries=0)
    server.close()
    with pytest.raises(EngineError, match="APIConnectionError"):
        judge.judge(CASES)


def test_too_slow(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    done = threading.Event()

    def hangs(request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        done.wait(60)
        return good(request)

    server.plays = [hangs, hangs]
    rows = judge_of(timeout_s=0.1, max_retries=1).judge(CASES[:1]).judgements
    done.set()
    assert [said.status for said in rows[0]] == [VerdictStatus.TIMEOUT] * 3
    assert rows[0][0].raw == "no whole answer within 0.1 s"
    assert len(server.requests) == 2


def test_requests_a_minute(judge_of: Callable[..., LlmJudge]) -> None:
    time = Time()
    judge = judge_of(time, RateLimits(requests_per_minute=30, concurrency=1), view="causal")
    judge.judge(CASES)  # four calls: the first at once, the others every two seconds
    assert time.naps == [2.0, 2.0, 2.0]


def test_tokens_a_minute_count_what_was_used(judge_of: Callable[..., LlmJudge]) -> None:
    time = Time()
    judge_of(time, RateLimits(tokens_per_minute=2100, concurrency=1), view="causal").judge(CASES)
    assert time.naps == pytest.approx([30.0] * 3)  # 1050 tokens a call, whatever was expected of it


def test_concurrency(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    meet = threading.Barrier(2)
    inside, most = 0, 0

    def counted(request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        nonlocal inside, most
        with server.lock:
            inside += 1
            most = max(most, inside)
        meet.wait(60)  # broken if calls went out one by one
        with server.lock:
            inside -= 1
        return good(request)

    server.plays = [counted] * 6
    judge = judge_of(limits=RateLimits(concurrency=2))
    rows = judge.judge(CASES * 3).judgements
    assert [[said.label for said in row] for row in rows] == [[1, 0, 1], [1]] * 3
    assert most == 2


# --- an endpoint that does not answer --------------------------------------------------------------------------------

SIX = [JudgeCase(f"1+{k}", (f"{1 + k}", f"answer {1 + k}")) for k in range(6)]


@pytest.mark.parametrize(
    ("play", "said"),
    [(fails(504, "gateway timeout"), "gateway timeout"), (fails(408, "slow"), "slow"), (fails(500, "down"), "down")],
)
def test_an_endpoint_that_mostly_does_not_answer_stops_the_work(
    play: Play, said: str, server: Server, judge_of: Callable[..., LlmJudge]
) -> None:
    server.plays = [good, good, *[play] * 4]
    with pytest.raises(EngineError, match=said) as stop:
        judge_of(max_retries=0).judge(SIX)
    assert f"{server.url}#m answered" in str(stop.value)
    assert "answered on 4 of 12 steps of 6 cases (at least 50% are wanted)" in str(stop.value)
    # Half of the steps without an answer are recorded, and so is whatever the limit allows.
    server.plays = [good, good, good, *[play] * 3]
    statuses = [row[0].status for row in judge_of(max_retries=0).judge(SIX).judgements]
    assert statuses.count(VerdictStatus.JUDGED) == 3
    server.plays = [good, *[play] * 5]
    statuses = [row[0].status for row in judge_of(max_retries=0, max_unanswered=0.9).judge(SIX).judgements]
    assert statuses.count(VerdictStatus.JUDGED) == 1


def test_two_slow_cases_alone_do_not_stop_a_run(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    server.plays = [fails(504)] * 2
    rows = judge_of(max_retries=0).judge(SIX[:2]).judgements
    assert [row[0].status for row in rows] == [VerdictStatus.TIMEOUT] * 2


def test_an_endpoint_that_is_gone_is_found_out_early(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    """A lease of many calls ends after a stated number without an answer, not after the last; the next one sooner."""
    many = SIX * 5
    server.plays = [good, *[fails(504)] * 40]
    judge = judge_of(max_retries=1, give_up_after=4)
    with pytest.raises(EngineError, match=r"left 4 calls in a row without an answer, each tried 2 times") as stop:
        judge.judge(many)
    assert server.url in str(stop.value)
    made = len(server.requests)
    assert made < 1 + 2 * len(many)
    with pytest.raises(EngineError, match="in a row"):
        judge.judge(many)
    assert len(server.requests) - made < 8  # one call and what was under way
    server.plays = []
    assert len(judge.judge(SIX).judgements) == 6  # it is back


def test_calls_of_lost_work_are_paid_for_all_the_same(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    server.plays = [good, good, *[fails(504)] * 4]
    judge = judge_of(max_retries=0, prices=Prices(1.0, 1.0))
    with pytest.raises(EngineError):
        judge.judge(SIX)
    judged = judge.judge(SIX)
    account = judged.counts
    assert account["calls"] == 12
    assert account["cost"] == pytest.approx(8 * 1050 / 1e6)  # six calls of now and two of before
    judged = judge.judge(SIX)
    account = judged.counts
    assert account["cost"] == pytest.approx(6 * 1050 / 1e6)  # once


# --- answers that are none -------------------------------------------------------------------------------------------

UNREADABLE = {
    "too few": verdicts(0, 1),
    "too many": verdicts(0, 3),
    "out of order": json.dumps({"verdicts": json.loads(verdicts(0, 2))["verdicts"][::-1]}),
    "text after it": f"{verdicts(0, 2)}\nThat is all.",
    "prose": "all steps are right",
    "nothing": None,
}


@pytest.mark.parametrize("answer", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_one_repair(answer: str | None, server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    server.plays = [sends(completion(answer))]
    judged = judge_of().judge(CASES[:1])
    rows, account = judged.judgements, judged.counts
    assert [said.label for said in rows[0]] == [1, 0, 1]
    first, second = server.requests
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][2] == {"role": "assistant", "content": answer or ""}
    assert "exactly 3 verdicts, for steps 0 to 2" in second["messages"][3]["content"]
    assert (account["calls"], account["calls.repair"], account["calls.repaired"]) == (2, 1, 1)


def test_then_a_status(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    server.plays = [sends(completion("hm")), sends(completion("hm hm"))]
    judged = judge_of().judge(CASES[:1])
    rows, account = judged.judgements, judged.counts
    assert [(said.status, said.label, said.raw) for said in rows[0]] == [(VerdictStatus.UNPARSABLE, None, "hm")] * 3
    assert account["calls.repair"] == 1 and "calls.repaired" not in account
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("play", "raw_text"),
    [
        (sends(completion(None, refusal="I will not")), "I will not"),
        (fails(400, "maximum context length is 8192 tokens"), "maximum context length"),
        (fails(422, "bad"), "bad"),
    ],
)
def test_refused(play: Play, raw_text: str, server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    server.plays = [play]
    rows = judge_of().judge(CASES).judgements
    assert [said.status for said in rows[0]] == [VerdictStatus.REFUSED] * 3
    assert raw_text in rows[0][0].raw
    assert rows[1][0].label == 1
    assert len(server.requests) == 2  # neither tried again nor repaired


def test_filtered(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    body = completion(verdicts(0, 2))
    body["choices"][0]["finish_reason"] = "content_filter"
    server.plays = [sends(body)]
    assert judge_of().judge(CASES[:1]).judgements[0][0].status is VerdictStatus.REFUSED


# --- the key ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_stops_the_run_and_is_never_shown(
    status: int, server: Server, judge_of: Callable[..., LlmJudge]
) -> None:
    server.plays = [fails(status, f"Incorrect API key provided: {KEY}")] * 2
    judge = judge_of()
    with pytest.raises(
        ConfigError, match="was not found" if status == 404 else r"refuses the key in \$JUDGE_KEY"
    ) as stop:
        judge.judge(CASES)
    error: BaseException | None = stop.value
    assert KEY not in "".join(traceback.format_exception(stop.value)) and "***" in str(stop.value)
    while error is not None:  # nor in what the error drags along
        assert KEY not in repr(vars(error)) and KEY not in repr(error.args)
        error = error.__cause__ or error.__context__


def test_the_key_is_nowhere(server: Server, judge_of: Callable[..., LlmJudge], tmp_path: Path) -> None:
    server.plays = [fails(500, f"your key {KEY} broke it")] * 3
    judge = judge_of(cache=VerdictCache(tmp_path))
    rows = judge.judge(CASES).judgements
    assert "your key *** broke it" in rows[0][0].raw
    transport = judge._transport
    shown = [repr(rows), repr(judge), repr(vars(judge)), repr(transport), judge.version]
    stored = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(stored) == 1
    assert not any(KEY in text for text in shown + stored)


def test_a_403_after_a_success_is_about_the_request(server: Server, judge_of: Callable[..., LlmJudge]) -> None:
    server.plays = [good, fails(403, "flagged")]
    rows = judge_of().judge(CASES).judgements
    assert rows[0][0].label == 1
    assert rows[1][0].status is VerdictStatus.REFUSED


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "line\nbreak", "schlüssel"])
def test_no_key(value: str | None, judge_of: Callable[..., LlmJudge], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTHER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("OTHER_KEY", value)
    with pytest.raises(ConfigError, match="OTHER_KEY") as stop:
        judge_of(api_key_env="OTHER_KEY")
    assert not value or not value.strip() or value not in str(stop.value)


def test_what_was_set_for_openai_goes_to_no_other_vendor(
    server: Server, judge_of: Callable[..., LlmJudge], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "OPENAI_API_KEY": "sk-other",
        "OPENAI_ADMIN_KEY": "sk-admin",
        "OPENAI_ORG_ID": "org-of-mine",
        "OPENAI_PROJECT_ID": "proj-of-mine",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
        "OPENAI_CUSTOM_HEADERS": "x-internal: of-mine\nauthorization: Bearer sk-header",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    judge_of().judge(CASES[:1])
    judge_of(api_key_env=None).judge(CASES[:1])
    assert server.keys == [f"Bearer {KEY}", "Bearer none"]
    for headers in server.headers:
        assert {"openai-organization", "openai-project", "x-internal"}.isdisjoint(headers)
        assert not any(text in value for value in headers.values() for text in ("of-mine", "sk-other", "sk-admin"))


def test_openai_itself_gets_what_was_set_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    for url, organization in (
        ("https://api.openai.com/v1", "org-of-mine"),
        ("https://api.openai.com.evil.org/v1", None),
    ):
        transport = OpenAiTransport(Endpoint(url, "m"))
        assert transport._client.organization == organization
        transport.close()


def test_no_foreign_key_is_sent(
    server: Server, judge_of: Callable[..., LlmJudge], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge_of(api_key_env=None).judge(CASES[:1])
    assert server.keys == ["Bearer none"]


@pytest.mark.parametrize(
    "url",
    [
        "https://user:pw@host/v1",
        "https://host/v1?api-key=pw",
        "host/v1",
        "ftp://host/v1",
        "https:///v1",
        "http://127.0.0.1:99999/v1",  # a resolver would take it for port 34463
        "http://127.0.0.1:0/v1",
        "http://127.0.0.1:http/v1",
        "http://[::1/v1",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="plain http") as stop:
        OpenAiTransport(Endpoint(url, "m"))
    assert "pw" not in str(stop.value)


# --- cache, version, end ---------------------------------------------------------------------------------------------


def test_a_question_is_paid_for_once(server: Server, judge_of: Callable[..., LlmJudge], tmp_path: Path) -> None:
    prices = Prices(1.0, 1.0)
    judged = judge_of(cache=VerdictCache(tmp_path), prices=prices).judge([*CASES, CASES[0]])
    first, account = judged.judgements, judged.counts
    assert len(server.requests) == 2  # the third case is the first again
    assert (account["calls"], account["calls.stored"]) == (3, 1)
    judged = judge_of(cache=VerdictCache(tmp_path), prices=prices).judge([*CASES, CASES[0]])
    again, account = judged.judgements, judged.counts
    assert again == first
    assert len(server.requests) == 2
    assert account == {"calls": 3, "calls.stored": 3}
    changed: list[dict[str, Any]] = [
        {"max_tokens": 2047},
        {"temperature": 0.1},
        {"structured": "none"},
        {"extra_body": {"seed": 1}},
        {"sample": 1},
        {"view": "causal"},
        {"windows": WindowLimits(looks_ahead=True, steps=2)},
    ]
    for change in changed:
        before = len(server.requests)
        judge_of(cache=VerdictCache(tmp_path), **change).judge(CASES[:1])
        assert len(server.requests) > before, change
    asked_now = len(server.requests)
    judge_of(cache=VerdictCache(tmp_path)).judge([JudgeCase(CASES[0].problem, CASES[0].steps)])  # without gold
    assert len(server.requests) == asked_now + 1


def test_failures_are_not_stored(server: Server, judge_of: Callable[..., LlmJudge], tmp_path: Path) -> None:
    server.plays = [fails(400, "too long"), good]
    judge = judge_of(cache=VerdictCache(tmp_path))
    assert judge.judge(CASES).judgements[0][0].status is VerdictStatus.REFUSED
    assert labels(judge) == [[1, 0, 1], [1]]
    assert len(server.requests) == 3


def test_version(judge_of: Callable[..., LlmJudge], server: Server) -> None:
    judges = [
        judge_of(),
        judge_of(temperature=0.5),
        judge_of(view="causal"),
        judge_of(sample=1),
        judge_of(windows=WindowLimits(steps=8)),
        judge_of(windows=WindowLimits(steps=8, looks_ahead=True)),
        judge_of(extra_body={"reasoning_effort": "low"}),
    ]
    assert len({judge.version for judge in judges}) == len(judges)
    assert judges[0].version == judge_of(max_retries=9, timeout_s=1.0).version
    assert judges[0].version.startswith(f"{server.url}#m/taxonomy@{TAXONOMY.digest}/full:")


def test_closed(judge_of: Callable[..., LlmJudge]) -> None:
    judge = judge_of()
    judge.close()
    judge.close()
    with pytest.raises(EngineError, match="closed"):
        judge.judge(CASES)


def test_closing_ends_calls_that_wait_for_their_turn(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real clock: a call that would have to wait an hour ends at once, and so does its thread."""
    transport = OpenAiTransport(Endpoint(server.url, "m"), RateLimits(requests_per_minute=1 / 60, concurrency=2))
    judge = LlmJudge("api", transport, JudgeOptions(TAXONOMY))
    waits, wait = threading.Event(), transport._limiter._sleep

    def sleep(seconds: float) -> None:
        waits.set()
        wait(seconds)

    transport._limiter._sleep = sleep
    judge.judge(CASES[:1])
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            judge.judge(CASES[1:])
        except EngineError as error:
            ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert waits.wait(60)
    judge.close()
    thread.join(60)
    assert len(ended) == 1 and "closed" in str(ended[0])
    for worker in transport._threads._threads:
        worker.join(60)
        assert not worker.is_alive()
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["sk-proj-0123456789", "gsk_0123456789abcdef", "AIzaSyA0123456789", "0123"])
def test_a_key_where_its_variables_name_belongs_is_not_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="api_key_env of judge model 'm'") as stop:
        Endpoint("http://127.0.0.1:1/v1", "m", api_key_env=name).read_key()
    assert name not in str(stop.value)
    monkeypatch.setenv(name, "the-key")  # a variable of that name is taken all the same
    assert Endpoint("http://127.0.0.1:1/v1", "m", api_key_env=name).read_key() == "the-key"
