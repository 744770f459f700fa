"""Fill the object store of a Ray, say so, and keep it full until standard input ends. A process of its own: one joins one Ray.

python -m tests.drills.fill_store ADDRESS BYTES
"""

from __future__ import annotations

import sys

FULL = "the store is full"
_PIECES = (8_000_000, 1_000_000, 150_000)  # above what travels inline


def main(address: str, num_bytes: int) -> None:
    """Put objects until nothing goes in."""
    import ray

    ray.init(address=address, log_to_driver=False, namespace="drills", logging_level="error")
    kept: list[object] = []
    for size in _PIECES:
        _put_until_full(size, num_bytes, kept)
    print(FULL, flush=True)
    sys.stdin.read()


def _put_until_full(size: int, num_bytes: int, kept: list[object]) -> None:
    import ray
    from ray.exceptions import ObjectStoreFullError, OutOfDiskError

    for _ in range(2 * num_bytes // size):
        try:
            kept.append(ray.put(b"x" * size))
        except (ObjectStoreFullError, OutOfDiskError):
            return
    raise AssertionError(f"objects of {size} bytes still fit: the store is not full")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
