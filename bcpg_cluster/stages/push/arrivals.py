"""Whether the weights that arrived somewhere are the ones that were written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# A local snapshot directory, and digests by parameter. Raises StoreError when the files hold anything else.
VerifySnapshot = Callable[[str, Mapping[str, str]], object]


def arrival_faults(expected: Mapping[str, str], arrived: Mapping[str, str]) -> str:
    """What is wrong with what arrived, by digests of parameters; empty when nothing is.

    Args:
        expected: noted when the snapshot was written.
        arrived: computed from what was received or read.
    """
    different = sorted(name for name, digest in arrived.items() if expected.get(name) != digest)
    absent = sorted(set(expected) - set(arrived))
    if not different and not absent:
        return ""
    return (
        f"{len(different)} parameters differ from the snapshot ({different[:3]}), "
        f"{len(absent)} did not arrive ({absent[:3]})"
    )
