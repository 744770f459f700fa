"""How reading commands end, run after run: starts each many times on one run directory and counts their exit codes.

Some processes have ended with −6 after their work was done ("terminate called without an active exception", docs/decisions.md).

    nice -n 19 python scripts/exit_codes.py runs/laptop --times 200

Prints a line a command. Exit code 1 when any ended other than with 0; then the last words of each such process are printed too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

COMMANDS = ("inspect", "status")


def ended(command: str, run_dir: str) -> tuple[int, str]:
    """Exit code and last words of one process."""
    done = subprocess.run(
        [sys.executable, "-c", "from bcpg_cluster_cli.app import main; main()", command, "--run-dir", run_dir],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.strip()[-400:]


def main() -> int:
    """Run all, print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir")
    parser.add_argument("--times", type=int, default=200, help="of each command")
    parser.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    is_good = True
    for command in COMMANDS:
        with ThreadPoolExecutor(arguments.at_once) as threads:
            results = list(threads.map(ended, [command] * arguments.times, [arguments.run_dir] * arguments.times))
        codes = Counter(code for code, _ in results)
        is_good = is_good and set(codes) == {0}
        load = os.getloadavg()[0]
        print(
            f"{command}: {dict(sorted(codes.items()))} (exit code: processes), load {load:.1f} at the end", flush=True
        )
        for code, words in results:
            if code:
                print(f"  {code}: {words}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
