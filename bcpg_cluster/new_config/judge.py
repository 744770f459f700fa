"""From what ``--judge`` says to the section of a judge: an endpoint's address, a model to host, or nothing."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import Future
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.new_config.facts import JudgeFacts, ModelFacts
from bcpg_cluster.new_config.model import is_prm, read_model
from bcpg_cluster.run.build.model_files import config_json
from bcpg_cluster.stages.judge.endpoint.key_mask import KeyMask

_ANSWER_TOKENS, _STEPS = 1000, 8
_TOKENS_PER_STEP = 90  # about what JSON with reasons takes; ``validate`` reckons with the same
_WITHIN_S = 5.0
_MOST_BYTES = 2**22
_KEYS = {"api.openai.com": "OPENAI_API_KEY"}


def read_judge(judge: str | None, model: str | None, key_env: str | None, policy: ModelFacts) -> tuple[JudgeFacts, str]:
    """The judge, and a line for people about it.

    Args:
        judge: an endpoint's address, a directory or hub id; ``None`` has the policy's own base model judge.
        model: the endpoint's name for its model; ``None`` asks the endpoint.
        key_env: environment variable with the endpoint's key.

    Raises:
        UserError: an endpoint that does not say what it serves, or a model that is not there.
    """
    if judge is not None and judge.startswith(("http://", "https://")):
        return _endpoint(judge, model, key_env)
    facts = policy if judge is None else read_model("--judge", judge)
    if judge is not None and is_prm(config_json(facts.name), facts.name):
        return JudgeFacts({"kind": "prm", "model": facts.name, "threshold": 0.5}, facts), f"{judge}: scores steps (prm)"
    tokens = min(_ANSWER_TOKENS, (facts.context or 4 * _ANSWER_TOKENS) // 4)
    steps = max(1, min(_STEPS, tokens // _TOKENS_PER_STEP))
    section = {"kind": "llm", "model": facts.name, "window_steps": steps, "max_tokens": tokens}
    what = (
        "the policy's own base model grades steps: no --judge was given" if judge is None else f"{judge} grades steps"
    )
    return JudgeFacts(section, facts), f"{what} (llm)"


def _endpoint(address: str, model: str | None, key_env: str | None) -> tuple[JudgeFacts, str]:
    base = address.rstrip("/")
    base = base if urlsplit(base).path else f"{base}/v1"
    key_env = key_env or _KEYS.get(urlsplit(base).hostname or "")
    served = [model] if model else _models_of(base, key_env)
    endpoint: dict[str, Any] = {"base_url": base, **({"api_key_env": key_env} if key_env else {})}
    section = {
        "kind": "openai", "model": served[0], "window_steps": _STEPS, "max_tokens": _ANSWER_TOKENS, "endpoint": endpoint,
    }  # fmt: skip
    said = "" if model else f", the {'only' if len(served) == 1 else 'first'} model it serves"
    return JudgeFacts(section, None), f"{served[0]} at {base}{said} (openai)"


def _models_of(base: str, key_env: str | None) -> list[str]:
    key = os.environ.get(key_env or "", "")
    mask = KeyMask(key or None)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        body = mask.body(_read_within(_WITHIN_S, Request(f"{base}/models", headers=headers)))
        names = [str(entry["id"]) for entry in json.loads(body)["data"]]
        problem = "it serves none"
    except HTTPError as error:
        names, problem = [], f"it answers {error.code}"
    except (URLError, HTTPException, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        names, problem = [], mask.message(f"{getattr(error, 'reason', None) or error}")
    if not names:
        raise ConfigError(
            f"{base} does not say which models it serves: {problem}",
            rule="a judge behind an endpoint has a model's name",
            remedy="give --judge-model NAME (and --judge-key-env VARIABLE where it wants a key), or correct the address",
        )
    return names


def _read_within(seconds: float, request: Request) -> bytes:
    """The body of an answer, cut at :data:`_MOST_BYTES`.

    ``urlopen`` limits each wait for bytes, and a server may send them one by one: so a thread asks, which is left behind when the
    whole takes too long.
    """
    answer: Future[bytes] = Future()

    def ask() -> None:
        try:
            with urlopen(request, timeout=seconds) as reply:
                answer.set_result(reply.read(_MOST_BYTES))
        except Exception as error:  # the caller's to sort
            answer.set_exception(error)

    threading.Thread(target=ask, name="models of an endpoint", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"no whole answer within {seconds:g} s") from None
