"""The settings of an OpenAI-compatible endpoint: where it is, how it is asked, what it costs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from bcpg_cluster.errors import ConfigError

_LONGEST_OWN_WAIT_S = 60.0
_CAPITALS = re.compile(r"[A-Z_][A-Z0-9_]*")
Structured = Literal["json_schema", "strict", "json_object", "none"]


@dataclass(frozen=True, slots=True)
class Prices:
    """Money per million tokens, in any one currency. ``cached_prompt=None``: cached prompt tokens cost like others."""

    prompt: float
    answer: float
    cached_prompt: float | None = None

    def cost(self, prompt_tokens: int, cached_tokens: int, answer_tokens: int) -> float:
        """Of one call; ``cached_tokens`` are among ``prompt_tokens``."""
        cached = self.prompt if self.cached_prompt is None else self.cached_prompt
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.prompt + cached_tokens * cached + answer_tokens * self.answer) / 1e6


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the judge is and how it is asked.

    Attributes:
        base_url: up to and with ``/v1``; without user, password or query (a key there would end up in records).
        api_key_env: name of the environment variable that holds the key; ``None`` for servers that want none.
        temperature, top_p: ``None`` leaves them out of the request (some reasoning models refuse them).
        token_limit_field: what the endpoint calls the limit on answer tokens, thinking included.
        structured: how the schema is sent. ``json_schema`` is an enforced ``response_format`` on vLLM; ``strict`` is the
            same with ``strict: true`` and without the keywords OpenAI's strict mode refuses; ``json_object`` asks for any
            JSON; ``none`` leaves it to the prompt. Answers are checked alike in all four.
        extra_body: further fields of the request, passed through untouched (``seed``, ``reasoning_effort``,
            ``chat_template_kwargs``).
        send_seed: send :attr:`~bcpg_cluster.stages.judge.llm.transport.Ask.seed` as ``seed`` where answers are sampled; not every
            endpoint knows it, and some refuse what they do not know.
        top_logprobs: most probable tokens to ask for beside each token of the answer; 0 asks for no log-probs.
        timeout_s: of one try, from its start to the last byte of the answer; past it the try failed.
        call_timeout_s: of one call with all its tries and waits, from its first try; ``None`` is what they take at most without
            ``Retry-After``: a ``timeout_s`` and a minute for each.
        max_retries: tries after the first.
        give_up_after: calls in a row without an answer, each after all its tries, after which the endpoint counts as gone.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    max_tokens: int = 2048
    temperature: float | None = 0.0
    top_p: float | None = None
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    structured: Structured = "json_schema"
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    send_seed: bool = False
    top_logprobs: int = 0
    timeout_s: float = 120.0
    call_timeout_s: float | None = None
    max_retries: int = 5
    give_up_after: int = 20
    prices: Prices | None = None

    def read_key(self) -> str:
        """The API key; a stand-in for servers that want none (the client insists on one, and must not find another).

        Raises:
            ConfigError: the environment variable is not set, or the URL may not be recorded.
        """
        if not _is_plain_address(self.base_url):
            raise ConfigError(
                f"base_url of judge model {self.model!r} is not a plain http(s) address",
                rule="base_url is like https://host/v1 or https://host:8443/v1 (ports: 1 to 65535), without user, password or "
                "query: it is recorded with verdicts",
                remedy="put the key into an environment variable and name that in api_key_env",
            )
        if self.api_key_env is None:
            return "none"
        name = self.api_key_env
        key = os.environ.get(name, "").strip()
        if not key and not _CAPITALS.fullmatch(name):
            raise ConfigError(
                f"api_key_env of judge model {self.model!r} names no environment variable that is set (it is not shown here: it "
                "could be the key itself)",
                rule="api_key_env is the name of an environment variable, such as JUDGE_API_KEY, never the key",
                remedy="export the key under a name in capitals where the judge's pool runs, and give that name",
            )
        # What cannot stand in a header would come back in the HTTP library's error message.
        if not (key and key.isascii() and key.isprintable() and " " not in key):
            what = "holds no valid key" if key else "is not set"
            raise ConfigError(
                f"the environment variable {name} {what}",
                rule="api_key_env names the environment variable with the endpoint's API key",
                remedy=f"export {name}=... where the judge's pool runs (on a cluster: where `ray start` runs)",
            )
        return key

    @property
    def call_within_s(self) -> float:
        """``call_timeout_s``, or what stands for it."""
        if self.call_timeout_s is not None:
            return self.call_timeout_s
        return (self.max_retries + 1) * (self.timeout_s + _LONGEST_OWN_WAIT_S)

    def decoding(self) -> dict[str, Any]:
        """What decides an answer besides model and messages, as JSON values."""
        names = ("max_tokens", "temperature", "top_p", "structured")
        added_later: dict[str, Any] = {"send_seed": True} if self.send_seed else {}
        if self.top_logprobs:
            added_later["top_logprobs"] = self.top_logprobs
        return {name: getattr(self, name) for name in names} | {"extra_body": dict(self.extra_body)} | added_later

    def request(
        self, messages: Sequence[Mapping[str, str]], schema: str | None, seed: int | None = None
    ) -> dict[str, Any]:
        """The arguments of the client's ``chat.completions.create``; ``schema`` as JSON text."""
        request: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            self.token_limit_field: self.max_tokens,
        }
        request |= {k: v for k, v in (("temperature", self.temperature), ("top_p", self.top_p)) if v is not None}
        if self.send_seed and seed is not None and self.temperature != 0.0:
            request["seed"] = seed
        if self.top_logprobs:
            request |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if schema is not None and self.structured != "none":
            request["response_format"] = _response_format(schema, self.structured)
        return request | ({"extra_body": dict(self.extra_body)} if self.extra_body else {})


def _response_format(schema: str, structured: Structured) -> dict[str, Any]:
    if structured == "json_object":
        return {"type": "json_object"}
    content = json.loads(schema)
    if structured == "strict":
        content = _without(content, "maxLength")
        return {"type": "json_schema", "json_schema": {"name": "verdicts", "schema": content, "strict": True}}
    return {"type": "json_schema", "json_schema": {"name": "verdicts", "schema": content}}


def _without(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _without(inner, key) for name, inner in value.items() if name != key}
    return [_without(inner, key) for inner in value] if isinstance(value, list) else value


def _is_plain_address(base_url: str) -> bool:
    try:
        url = urlsplit(base_url)
        has_port = url.port != 0
    except ValueError:  # a port that is none, or a broken IPv6 address
        return False
    has_more = url.username or url.password or url.query
    return url.scheme in ("http", "https") and bool(url.hostname) and has_port and not has_more
