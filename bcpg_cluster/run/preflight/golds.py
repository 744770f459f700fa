"""Gold answers checked by the verifier: each text once, side by side, and what math-verify accepted is not asked again."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bcpg_cluster import stages
from bcpg_cluster.cluster.child_processes import child_processes
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError, LostCheckError
from bcpg_cluster.run.build.engines import make_verifier
from bcpg_cluster.stages.verify.protocol import Verifier
from bcpg_cluster.store.fetched import cache_directory

_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")  # equal to itself without asking math-verify
_SIDE_BY_SIDE_FROM = 400  # answers; a further process takes seconds to start
_CHUNK = 200  # answers a process is given at once
_DIGEST_BYTES = 16


def unusable_golds(config: Config, golds: Iterable[str]) -> dict[str, DataError]:
    """The gold answers that no response could match, each with what the verifier says of it."""
    unique = list(dict.fromkeys(golds))
    if config.verify.kind != "math":
        return _refused(make_verifier(config), unique)
    with _accepted_before(config) as accepted:
        asked = [gold for gold in unique if not _PLAIN_NUMBER.fullmatch(gold) and _digest(gold) not in accepted]
        refused = _ask_math_verify(config, asked, accepted)
        # A busy machine is no fault of an answer: those without a reply are asked once more, one at a time.
        certain = {gold: error for gold, error in refused.items() if not isinstance(error, LostCheckError)}
        lost = [gold for gold in refused if gold not in certain]
        again = _refused(make_verifier(config), lost)
        accepted.add(_digest(gold) for gold in lost if gold not in again)
    return certain | again


def _refused(verifier: Verifier, golds: Iterable[str]) -> dict[str, DataError]:
    found = {}
    try:
        for gold in golds:
            try:
                verifier.check_gold(gold)
            except DataError as error:
                found[gold] = error
    finally:
        verifier.close()
    return found


# --- side by side


def _ask_math_verify(config: Config, golds: Sequence[str], accepted: _Accepted) -> dict[str, DataError]:
    """What is refused; what is accepted is kept chunk by chunk, so that a look that is stopped is not lost."""
    num_processes = len(os.sched_getaffinity(0))
    if num_processes == 1 or len(golds) < _SIDE_BY_SIDE_FROM:
        found = _refused(make_verifier(config), golds)
        accepted.add(_digest(gold) for gold in golds if gold not in found)
        return found
    chunks = [golds[start : start + _CHUNK] for start in range(0, len(golds), _CHUNK)]
    with child_processes(num_processes, _begin, (config,)) as processes:
        found = {}
        for chunk, of_chunk in zip(chunks, processes.map(_check_chunk, chunks), strict=True):
            found |= of_chunk
            accepted.add(_digest(gold) for gold in chunk if gold not in of_chunk)
    return found


_verifier: list[Verifier] = []  # of a process of the pool; its own child ends with it


def _begin(config: Config) -> None:
    _verifier.append(make_verifier(config))


def _check_chunk(golds: Sequence[str]) -> dict[str, DataError]:
    found = {}
    for gold in golds:
        try:
            _verifier[0].check_gold(gold)
        except DataError as error:
            found[gold] = error
    return found


# --- what was accepted before


class _Accepted:
    """Digests of answers, in a file that only grows. Written by several processes at once, it loses none: appends are whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        ends = range(_DIGEST_BYTES, len(content) + 1, _DIGEST_BYTES)
        self._known = {content[end - _DIGEST_BYTES : end] for end in ends}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def add(self, digests: Iterable[bytes]) -> None:
        """Keep them for later checks; without a place to write to, they are asked again."""
        new = b"".join(digest for digest in digests if digest not in self._known)
        if not new:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                # What a full disk cut off must not shift all that comes later.
                file.write(bytes(-file.tell() % _DIGEST_BYTES) + new)
        except OSError:
            return


@contextmanager
def _accepted_before(config: Config) -> Iterator[_Accepted]:
    yield _Accepted(cache_directory() / "golds" / _checker_digest(config))


def _checker_digest(config: Config) -> str:
    """Of all that decides whether an answer is accepted: this package's reading of answers, math-verify, the time limit."""
    digest = hashlib.sha256(repr(config.verify.time_limit_s).encode())
    for package in ("math-verify", "latex2sympy2-extended", "sympy"):
        try:
            digest.update(f"{package} {version(package)}".encode())
        except PackageNotFoundError:
            digest.update(package.encode())
    room = Path(stages.__file__).parent / "verify"
    for path in sorted([room / "math_answer.py", *(room / "mathematics").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _digest(gold: str) -> bytes:
    return hashlib.sha256(gold.encode(errors="surrogatepass")).digest()[:_DIGEST_BYTES]
