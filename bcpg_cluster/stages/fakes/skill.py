"""The fake policy: a skill between 0 and 1, its snapshot file, and the responses it draws."""

from __future__ import annotations

import hashlib
import json
import math
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from bcpg_cluster.assets.chain.task import ANSWER, MODULUS, REFLECTION, Chain
from bcpg_cluster.errors import StoreError
from bcpg_cluster.stages.push.file_digests import raise_if_exhausted
from bcpg_cluster.stages.push.protocol import TensorSpec

SNAPSHOT_FILE = "fake.json"


END_ID = 0  # the end token; any other id is a character's code point


SKILL_SPEC = TensorSpec("skill", "float64", ())


def draw_solution(chain: Chain, skill: float, rng: random.Random) -> str:
    """A response to a chain: each line is right with chance ``skill``, a wrong one is noticed and redone with the same
    chance, and what is not noticed is built upon.
    """
    lines: list[str] = []
    value = chain.start
    for operation in chain.operations:
        right = operation.apply(value)
        result = right if rng.random() < skill else (right + rng.randint(1, MODULUS - 1)) % MODULUS
        work = f"{value}{operation.symbol}{operation.operand}="
        lines.append(f"{work}{result}")
        if result != right and rng.random() < skill:
            lines += [REFLECTION, f"{work}{right}"]
            result = right
        value = result
    return "\n".join([*lines, f"{ANSWER}{value}"])


def encode(text: str) -> tuple[int, ...]:
    """One token a character: its code point."""
    return tuple(map(ord, text))


def decode(token_ids: Sequence[int]) -> str:
    """The inverse of :func:`encode`; end tokens add nothing."""
    return "".join(map(decode_token, token_ids))


def decode_token(token_id: int) -> str:
    """What one token adds to the text."""
    return "" if token_id == END_ID else chr(token_id)


def fake_logprobs(skill: float, num_before: int, token_ids: Sequence[int]) -> tuple[float, ...]:
    """Log-probs that depend on skill, place and token, so that canaries tell one skill from another."""
    return tuple(
        -0.01 - (1.0 - skill) * hash_unit("logprob", str(num_before + index), str(token_id))
        for index, token_id in enumerate(token_ids)
    )


def fake_entropies(token_ids: Sequence[int]) -> tuple[float, ...]:
    """Entropies in [0, 2) nats that depend on place and token."""
    return tuple(2.0 * hash_unit("entropy", str(index), str(token)) for index, token in enumerate(token_ids))


def skill_digests(skill: float) -> dict[str, str]:
    """sha256 of the only parameter, by name."""
    return {SKILL_SPEC.name: hashlib.sha256(struct.pack("<d", skill)).hexdigest()}


def skill_wire_digests(skill: float) -> dict[str, str]:
    """Its digest on the wire, another than that on disk: who confuses the two is found by any run on fakes."""
    return {SKILL_SPEC.name: hashlib.sha256(b"wire" + struct.pack("<d", skill)).hexdigest()}


def read_skill(path: str) -> float | None:
    """The skill of a snapshot directory; ``None`` when it is not one of a fake."""
    file = Path(path) / SNAPSHOT_FILE
    if not file.exists():
        return None
    skill = float(json.loads(file.read_text())["skill"])
    return skill if math.isfinite(skill) else None


def verify_skill(path: str, digests: Mapping[str, str]) -> None:
    """Compare a snapshot's skill with its digest. Raises StoreError like ``stages.push.snapshot.verify_snapshot``."""
    try:
        skill = read_skill(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_if_exhausted(error)
        raise StoreError(f"snapshot {path}: {SNAPSHOT_FILE} cannot be read: {error!r}") from error
    if skill is None or skill_digests(skill) != dict(digests):
        raise StoreError(f"snapshot {path}: {SKILL_SPEC.name} in {SNAPSHOT_FILE} is not what was written")


def hash_unit(*parts: str) -> float:
    """A number in [0, 1) that depends on the parts alone: the same in every process, unlike ``hash``."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
