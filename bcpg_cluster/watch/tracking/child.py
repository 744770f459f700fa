"""The process a tracker lives in: ``python -m bcpg_cluster.watch.tracking.child KIND``, fed with JSON lines.

Trackers print, install handlers, change the environment, wait for networks and sometimes crash. In a process of its own none of
that reaches the run. The first line in is a ``TrackedRun``, each further one ``{"axis", "step", "values"}``; the end of the
input closes the tracker. The first line out is ``{"where"}`` or ``{"failed"}``; a later ``{"failed"}`` is the last.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TextIO

from bcpg_cluster.watch.tracking.open import open_tracker
from bcpg_cluster.watch.tracking.tracker import TrackedRun


def serve(kind: str, lines: TextIO, answers: TextIO) -> int:
    """Do what the lines say; 0 when all of them were taken."""

    def say(**answer: str) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        tracker = open_tracker(kind, TrackedRun(**json.loads(lines.readline())))
        say(where=tracker.where)
        for line in lines:
            entry = json.loads(line)
            tracker.log(entry["axis"], entry["step"], entry["values"])
        tracker.close()
    except BaseException as error:  # of whatever kind the package raises
        say(failed=f"{type(error).__name__}: {error}")
        return 1
    return 0


def main() -> None:
    """Speak over the streams this process was given; what packages print goes to the standard error output (a log file)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which closes the input in its own time
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.exit(serve(sys.argv[1], sys.stdin, answers))


if __name__ == "__main__":
    main()
