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

FORMAT = "v1"


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """What a judge answered, as it came, and what it took. ``None``: the endpoint did not say."""

    text: str
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


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
        decoding: temperature, token limit and the like.
        sample: which of several draws of the same request, from 0.
    """
    whole = {"model": model, "messages": list(messages), "schema": schema, "decoding": decoding, "sample": sample}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class VerdictCache:
    """A directory of answers by key. Thread-safe: it holds no state but counters of no consequence.

    Attributes:
        num_hits, num_misses: of this object's look-ups.
        num_damaged: misses where a file was there but could not be believed.
        num_unwritten: answers that could not be stored (a full disk); they are used all the same.

    Raises:
        ConfigError: the directory cannot be made or written.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory / FORMAT
        self.num_hits = self.num_misses = self.num_damaged = self.num_unwritten = 0
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
        """The answer stored under ``key``; ``None`` when there is none to be believed."""
        answer = self._read(key)
        if answer is None:
            self.num_misses += 1
        else:
            self.num_hits += 1
        return answer

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Store an answer; a failing disk costs the entry, not the answer."""
        body = asdict(answer)
        entry = json.dumps({"key": key, "checksum": _checksum(key, body), "answer": body}).encode()
        path = self._path(key)
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(exist_ok=True)
            # No fsync: what a power cut tears fails its checksum and is asked again.
            temporary.write_bytes(entry)
            temporary.replace(path)
        except OSError:
            self.num_unwritten += 1
            with suppress(OSError):  # it may be what failed
                temporary.unlink(missing_ok=True)

    def counts(self) -> dict[str, float]:
        """The counters, for dashboards."""
        return {
            "cache_hits": float(self.num_hits),
            "cache_misses": float(self.num_misses),
            "cache_damaged": float(self.num_damaged),
            "cache_unwritten": float(self.num_unwritten),
        }

    def _read(self, key: str) -> CachedAnswer | None:
        try:
            content = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError:  # an unreadable file or a directory in its place: as good as torn
            self.num_damaged += 1
            return None
        try:
            entry = json.loads(content)
            if entry["key"] != key or entry["checksum"] != _checksum(key, entry["answer"]):
                raise ValueError("not the entry of this key")
            return CachedAnswer(**entry["answer"])
        except (ValueError, KeyError, TypeError, RecursionError):  # torn, or JSON of another shape
            self.num_damaged += 1
            return None

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / f"{key}.json"


def _checksum(key: str, body: Any) -> str:
    return hashlib.sha256(f"{key}{json.dumps(body, sort_keys=True)}".encode()).hexdigest()
