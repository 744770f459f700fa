"""To an LLM judge behind an OpenAI-compatible endpoint: a vendor's, a vLLM server's, Ray Serve's.

By the official ``openai`` client (https://github.com/openai/openai-python), with its retries off: limits, waiting and
accounts are kept here. The key is read from the environment, stays in the client, and is cut out of every reply. A try has a
deadline from its first to its last byte, and so has a call with all its tries and waits.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.endpoint.answer_logprobs import read_verdicts
from bcpg_cluster.stages.judge.endpoint.event_loop import EventLoopThread
from bcpg_cluster.stages.judge.endpoint.http_client import UnreadableReplyError, make_http_client
from bcpg_cluster.stages.judge.endpoint.key_mask import KeyMask
from bcpg_cluster.stages.judge.endpoint.rate_limit import Backoff, RateLimiter, RateLimits, retry_after_s
from bcpg_cluster.stages.judge.endpoint.settings import Endpoint
from bcpg_cluster.stages.judge.llm.transport import Ask, Reply
from bcpg_cluster.stages.judge.unanswered import UNANSWERED

MAX_MESSAGE_CHARS = 500
OPENAI_HOST = "api.openai.com"


@dataclass(frozen=True, slots=True)
class _Failure:
    """One try that gave no answer.

    Attributes:
        is_final: another try would end the same.
        told_s: the wait the endpoint asked for.
        http_status: ``None`` when no answer came at all.
    """

    status: VerdictStatus
    message: str
    is_final: bool = False
    told_s: float | None = None
    http_status: int | None = None


class OpenAiTransport:
    """A :class:`~bcpg_cluster.stages.judge.llm.transport.Transport` to one endpoint.

    Args:
        clock, wall_clock, sleep, jitter: time and chance; for tests.

    Raises:
        ConfigError: no key, or an invalid base URL.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        limits: RateLimits = RateLimits(),
        backoff: Backoff = Backoff(),
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], object] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        key = endpoint.read_key()
        self._mask = KeyMask(key if endpoint.api_key_env else None)
        self._endpoint, self._backoff = endpoint, backoff
        self._clock, self._wall_clock, self._jitter = clock, wall_clock, jitter
        self._closed = threading.Event()
        self._sleep = self._wait if sleep is None else sleep
        self._limiter = RateLimiter(limits, clock=clock, sleep=self._sleep)
        self._threads = ThreadPoolExecutor(limits.concurrency, thread_name_prefix="judge-endpoint")
        self._client = _client(endpoint, key, self._mask)
        self._loop = EventLoopThread("judge-endpoint-io")
        self._lock = threading.Lock()
        self._num_unanswered = 0
        self._was_accepted = self._has_given_logprobs = False

    @property
    def model(self) -> str:
        """Endpoint and model name: what is behind them is the vendor's word."""
        return f"{self._endpoint.base_url.rstrip('/')}#{self._endpoint.model}"

    @property
    def decoding(self) -> Mapping[str, Any]:
        """All settings of the request."""
        return self._endpoint.decoding()

    @property
    def is_bound(self) -> bool:
        """Whether the endpoint is asked to enforce a schema."""
        return self._endpoint.structured != "none"

    @property
    def enforces(self) -> bool:
        """False: endpoints take a ``response_format`` and ignore it, so answers are read as if nothing bound them."""
        return False

    def settings(self, *, sample: int, is_json: bool) -> str:
        """All settings of the request."""
        drawn = json.dumps(dict(self.decoding), sort_keys=True, separators=(",", ":"))
        return drawn + (f":s{sample}" if sample else "")

    @property
    def _address(self) -> str:
        """For messages: where the judge is, and its model's name there."""
        return f"{self._endpoint.base_url} (model {self._endpoint.model!r})"

    def count_tokens(self, text: str) -> int:
        """One token for three bytes: above the truth for English and mathematics (about four), and no tokenizer."""
        return -(-len(text.encode(errors="replace")) // 3)

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """The replies as they come, ``concurrency`` calls at once over all callers.

        Raises:
            EngineError: closed, or the endpoint left :attr:`Endpoint.give_up_after` calls in a row without an answer.
        """
        if self._closed.is_set():
            raise EngineError("the judge's endpoint is closed")
        futures: dict[Future[Reply], int] = {}
        try:
            for index, ask in enumerate(asks):
                futures[self._threads.submit(self._until_answered, ask)] = index
            for future in as_completed(futures):
                reply = future.result()
                yield futures[future], reply
                self._check_answering(reply)
        except (CancelledError, RuntimeError) as error:  # RuntimeError: submitted after shutdown
            raise EngineError(f"the judge's endpoint was closed while calls were under way ({error!r})") from None
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Drop what is under way. Safe to call twice."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._loop.close(self._client.close())

    def _wait(self, seconds: float) -> None:
        """Sleep; closing ends it, and with it the call that waits (it would find its time not come, and wait again)."""
        if self._closed.wait(seconds):
            raise EngineError("the judge's endpoint is closed")

    def _check_answering(self, reply: Reply) -> None:
        """A round of thousands of calls to an endpoint that is gone would take days to find out, call by call."""
        with self._lock:
            is_lost = reply.failure in UNANSWERED
            self._num_unanswered = self._num_unanswered + 1 if is_lost else 0
            in_a_row = self._num_unanswered
        if in_a_row >= self._endpoint.give_up_after:
            raise EngineError(
                f"{self._address} left {in_a_row} calls in a row without an answer, each tried "
                f"{self._endpoint.max_retries + 1} times; the last: {reply.text}"
            )

    # --- one call ----------------------------------------------------------------------------------------------------

    def _until_answered(self, ask: Ask) -> Reply:
        """One call: tries until one is answered, the last is used up, or the call's time is over."""
        expected = sum(self.count_tokens(message["content"]) for message in ask.messages) + self._endpoint.max_tokens
        self._limiter.acquire(expected)  # waiting for a first turn is no part of the call's time
        ends_at = self._clock() + self._endpoint.call_within_s
        for num_failed in range(1, self._endpoint.max_retries + 2):
            if self._closed.is_set():
                raise EngineError("the judge's endpoint is closed")
            outcome = self._try(ask, num_failed - 1, min(self._endpoint.timeout_s, ends_at - self._clock()))
            if isinstance(outcome, Reply):
                self._was_accepted = True
                self._check_gives_logprobs(outcome)
                if outcome.prompt_tokens is not None and outcome.answer_tokens is not None:
                    self._limiter.settle(expected, outcome.prompt_tokens + outcome.answer_tokens)
                return outcome
            self._limiter.settle(expected, 0)
            self._check_configured(outcome)
            wait = self._backoff.delay(num_failed, outcome.told_s, self._jitter())
            is_last = outcome.is_final or num_failed > self._endpoint.max_retries
            if is_last or wait is None or not self._has_waited(wait, outcome, expected, ends_at):
                return Reply(outcome.message, outcome.status, num_retries=num_failed - 1)
        raise AssertionError("the last try returns")

    def _has_waited(self, wait: float, failure: _Failure, expected: float, ends_at: float) -> bool:
        """Wait until the next try may start; false, at once, where that is after the end of the call's time."""
        if failure.http_status == 429 or failure.told_s is not None:
            self._limiter.pause(wait)  # it means all callers
        elif self._clock() + wait >= ends_at:
            return False
        else:
            self._sleep(wait)
        return self._limiter.acquire(expected, before=ends_at)

    def _check_configured(self, failure: _Failure) -> None:
        """Stop the run where every call would be refused. Once a call was accepted, a refusal is about that request."""
        if failure.http_status not in (401, 403, 404) or (self._was_accepted and failure.http_status != 401):
            return
        if failure.http_status == 404:
            raise ConfigError(
                f"{self._address} was not found: {failure.message}",
                rule="base_url ends where /chat/completions begins (often with /v1), and serves the model",
                remedy="correct base_url or model",
            )
        key = f"the key in ${self._endpoint.api_key_env}" if self._endpoint.api_key_env else "calls without a key"
        raise ConfigError(
            f"{self._address} refuses {key}: {failure.message}",
            rule="api_key_env names an environment variable with a key that is valid for this endpoint and model",
            remedy="set a valid key where the judge's pool runs",
        )

    def _check_gives_logprobs(self, reply: Reply) -> None:
        """Stop the run where no answer would have a score. Once one had log-probs, an answer without is only that one's fault."""
        self._has_given_logprobs |= reply.verdicts is not None
        if self._endpoint.top_logprobs and not self._has_given_logprobs and reply.failure is None and reply.text:
            raise ConfigError(
                f"{self._address} answers without log-probs",
                rule="a judge that says: probability needs an endpoint that takes logprobs and top_logprobs and returns them",
                remedy="ask another endpoint (vllm serve returns them), or sample votes instead: says: label, votes: 5, and a "
                "temperature",
            )

    def _try(self, ask: Ask, num_retries: int, within_s: float) -> Reply | _Failure:
        """One try. Errors become values here: an exception of the client holds the request, and that the key."""
        import openai

        call = self._client.chat.completions.create(**self._endpoint.request(ask.messages, ask.schema, ask.seed))
        try:
            completion = self._loop.run(call, within_s)
        except (openai.APITimeoutError, TimeoutError):
            return _Failure(VerdictStatus.TIMEOUT, f"no whole answer within {within_s:.3g} s")
        except openai.APIStatusError as error:
            return self._status_failure(error.status_code, error.response.headers, self._shown(str(error)))
        except UnreadableReplyError as error:
            return _Failure(VerdictStatus.ENGINE_LOST, self._shown(str(error)))
        except (openai.OpenAIError, ValueError) as error:  # no connection; a body that is not JSON is a ValueError
            cause = f": {error.__cause__}" if error.__cause__ else ""
            return _Failure(VerdictStatus.ENGINE_LOST, self._shown(f"{type(error).__name__}: {error}{cause}"))
        except RecursionError:
            return _Failure(VerdictStatus.ENGINE_LOST, "the endpoint answers with JSON that is nested too deeply")
        return self._read(completion, num_retries)

    def _status_failure(self, http_status: int, headers: Mapping[str, str], message: str) -> _Failure:
        told_s = retry_after_s({name.lower(): value for name, value in headers.items()}, self._wall_clock())
        if http_status in (408, 504):
            return _Failure(VerdictStatus.TIMEOUT, message, told_s=told_s, http_status=http_status)
        if http_status in (409, 429) or http_status >= 500:
            return _Failure(VerdictStatus.ENGINE_LOST, message, told_s=told_s, http_status=http_status)
        # The rest is about this request: too long for the model, or against the vendor's rules.
        return _Failure(VerdictStatus.REFUSED, message, is_final=True, http_status=http_status)

    def _read(self, completion: Any, num_retries: int) -> Reply | _Failure:
        """The answer of a completion. The client does not check what an endpoint sends: any field may be missing."""
        choices = getattr(completion, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        if message is None:
            shown = self._shown(str(completion))
            return _Failure(VerdictStatus.ENGINE_LOST, f"the endpoint answers, but not with a completion: {shown}")
        usage = getattr(completion, "usage", None)
        prompt_tokens, answer_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        cached = _count(getattr(usage, "prompt_tokens_details", None), "cached_tokens") or 0
        prices = self._endpoint.prices
        is_counted = prompt_tokens is not None and answer_tokens is not None
        cost = prices.cost(prompt_tokens or 0, cached, answer_tokens or 0) if prices and is_counted else None
        refusal = getattr(message, "refusal", None)
        is_refused = bool(refusal) or getattr(choice, "finish_reason", None) == "content_filter"
        content = getattr(message, "content", None)
        return Reply(
            self._shown(str(refusal or content))
            if is_refused
            else self._mask.text(content if isinstance(content, str) else ""),
            VerdictStatus.REFUSED if is_refused else None,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            cached_tokens=cached,
            cost=cost,
            num_retries=num_retries,
            verdicts=read_verdicts(choice) if self._endpoint.top_logprobs else None,
        )

    def _shown(self, message: str) -> str:
        """As it may be recorded: without the key, and cut."""
        return self._mask.message(message)[:MAX_MESSAGE_CHARS]


def _client(endpoint: Endpoint, key: str, mask: KeyMask) -> Any:
    """The official client. It reads more of its environment than it is given here: an organisation, a project, an admin key
    and whole headers. They were set for OpenAI, so no other host gets them.
    """
    import openai

    client = openai.AsyncOpenAI(
        api_key=key,
        base_url=endpoint.base_url,
        timeout=endpoint.timeout_s,
        max_retries=0,
        http_client=make_http_client(mask),
    )
    if urlsplit(endpoint.base_url).hostname != OPENAI_HOST:
        client.organization = client.project = client.admin_api_key = client.webhook_secret = None
        client._custom_headers = {}  # from OPENAI_CUSTOM_HEADERS; the client has no public way to be without
    return client


def _count(holder: Any, name: str) -> int | None:
    value = getattr(holder, name, None)
    return value if type(value) is int and value >= 0 else None
