"""Check this machine's GPU in at most eight minutes and write one JSON file. `scripts/gpu_check.sh --help` says how.

Without a GPU the checks run on the CPU with small sizes: that shows that they work, and nothing about a GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from scripts.gpu_check.catalogue import CHECKS
from scripts.gpu_check.record import ON_CPU, Record, write_record
from scripts.gpu_check.runner import run_all, run_here


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    names = [check.name for check in CHECKS]
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.sh", description=__doc__)
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="install from the wheels there into a venv of its own first"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("gpu_check.json"), metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="all together, installing included (default: %(default)s)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="CHECK", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where torch finds a GPU")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", default=None, help="small sizes: the default on a CPU")
    size.add_argument("--full", action="store_false", dest="small", help="sizes of a 0.5 B model: the default on a GPU")
    parser.add_argument("--spent-s", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=names, help=argparse.SUPPRESS)
    for name in ("--folder", "--shared"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    """0 where at least one check is ok and none failed."""
    options = parsed()
    if options.one:
        run_here(
            options.one, device=options.device, is_small=options.small, folder=options.folder, shared=options.shared
        )
        return 0
    began, stamp = time.monotonic() - options.spent_s, time.strftime("%Y-%m-%dT%H:%M:%S%z")
    import torch

    from scripts.gpu_check.machine import this_machine

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        print(
            "error: --device cuda, but torch finds no GPU\n  remedy: leave --device out to check on the CPU",
            file=sys.stderr,
        )
        return 2
    is_small = device == "cpu" if options.small is None else options.small
    machine = this_machine(device)
    print(f"{machine.device}, torch {torch.__version__}, {'small' if is_small else 'full'} sizes", flush=True)
    checks = [check for check in CHECKS if check.name in options.only]
    total_s = options.minutes * 60
    results = run_all(checks, device=device, is_small=is_small, total_s=total_s, began=began)
    record = Record(stamp, round(time.monotonic() - began, 1), total_s, is_small, machine, results)
    write_record(record, options.json)
    print(f"written: {options.json}" if machine.is_gpu else f"written: {options.json}. {ON_CPU}")
    return int(record.has_failed() or not any(result.status == "ok" for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
