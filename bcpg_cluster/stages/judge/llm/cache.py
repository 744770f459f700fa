"""Answers of LLM judges, kept so that the same question is paid for once, in this run and in others.

One small file an answer, under a name made from the digest of everything that decides it. Files appear by rename, so
any number of processes and runs may share a directory without a lock; two that ask the same at once both write, and the
last one stays. An entry that is torn, altered or not about its own key is a miss, and the next answer replaces it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.judge.llm.verdict_odds import ScoredVerdict

FORMAT = "v1"


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """What a judge answered, as it came, and what it took. ``None``: the endpoint did not say.

    ``verdicts`` are those in the answer with their scores; ``None`` where no log-probs came with it.
    """

    text: str
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    verdicts: tuple[ScoredVerdict, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """As it is stored; earlier entries have no ``verdicts``."""
        body = asdict(self)
        return body if self.verdicts is not None else {k: v for k, v in body.items() if k != "verdicts"}


def _from_json(body: dict[str, Any]) -> CachedAnswer:
    if body.get("verdicts") is None:
        return CachedAnswer(**body)
    return CachedAnswer(**body | {"verdicts": tuple(ScoredVerdict(**verdict) for verdict in body["verdicts"])})


def request_key(
    model: str,
    messages: Sequence[Mapping[str, str]],
    schema: str | None,
    decoding: Mapping[str, Any],
    sample: int,
) -> str:
    """sha256 hex of a whole rendered request: any change in what the judge is shown or how it answers is another key.

    Args:
        model: digest of the model's files, or endpoint and model name.
        schema: JSON schema the answer is bound to; ``None`` for free text.
        decoding: temperature, token limit and similar settings.
        sample: which of several draws of the same request, from 0.
    """
    whole = {"model": model, "messages": list(messages), "schema": schema, "decoding": decoding, "sample": sample}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def content_seed(run_seed: int, key: str) -> int:
    """The seed of a sampled answer (31 bits), by nothing but the request's :func:`request_key` and the run: whichever member
    answers, at whichever try, draws the same.
    """
    return int.from_bytes(hashlib.sha256(f"{run_seed}/{key}".encode()).digest()[:4]) >> 1


class VerdictCache:
    """A directory of answers by key. Thread-safe: it holds no state.

    Raises:
        ConfigError: the directory cannot be made or written.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory / FORMAT
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            probe = self._root / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"verdict cache {str(directory)!r}: {error}",
                rule="the cache is a directory that can be made and written",
                remedy="name another directory, or leave it out to ask the judge anew",
            ) from error

    def get(self, key: str) -> CachedAnswer | None:
        """The answer stored under ``key``; ``None`` where there is none, or a file that is torn, altered or unreadable."""
        try:
            entry = json.loads(self._path(key).read_bytes())
            if entry["key"] != key or entry["checksum"] != _checksum(key, entry["answer"]):
                return None
            return _from_json(entry["answer"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # no file; torn; JSON of another shape
            return None

    def put(self, key: str, answer: CachedAnswer) -> bool:
        """Store an answer; false where the disk failed, which costs the entry, not the answer."""
        body = answer.as_json()
        entry = json.dumps({"key": key, "checksum": _checksum(key, body), "answer": body}).encode()
        path = self._path(key)
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(exist_ok=True)
            # No fsync: what a power cut tears fails its checksum and is asked again.
            temporary.write_bytes(entry)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):  # it may be what failed
                temporary.unlink(missing_ok=True)
            return False
        return True

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / f"{key}.json"


def _checksum(key: str, body: Any) -> str:
    return hashlib.sha256(f"{key}{json.dumps(body, sort_keys=True)}".encode()).hexdigest()
