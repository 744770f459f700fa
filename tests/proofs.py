"""Tests that prove what needs more than Python: several hosts, a browser, Prometheus. A skipped proof is no proof.

``tests/cluster/REQUIRED`` lists them. Every session that met one of them prints what became of each; with
``--require-cluster-tests=HALF`` (``.ci/run`` gives it) the session fails unless all of them that belong to this half were run
and passed: ``quick`` is what `make test` runs, ``slow`` what `make test-slow` does. A test that is in no half fails both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

LIST = Path(__file__).parent / "cluster" / "REQUIRED"
HALVES = ("quick", "slow")
OPTION = "--require-cluster-tests"


def read_list(text: str) -> list[str]:
    """The entries: node ids as pytest prints them, or files; ``#`` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


@dataclass
class Proofs:
    """What became of the listed tests. An entry stands for every test below it: a file's, a parametrised test's.

    Attributes:
        outcomes: by entry and node id.
        halves: of every collected test of an entry, likewise.
    """

    entries: Sequence[str]
    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)
    halves: dict[str, dict[str, str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def note(self, nodeid: str, outcome: str, reason: str = "") -> None:
        """One test's end; the worst of its phases counts (a test whose set-up skips was not run)."""
        order = ("passed", "skipped", "failed")
        for entry in self._entries_of(nodeid):
            of_entry = self.outcomes.setdefault(entry, {})
            of_entry[nodeid] = max(of_entry.get(nodeid, "passed"), outcome, key=order.index)
            if reason:
                self.reasons[entry] = reason

    def collected(self, nodeid: str, half: str) -> None:
        """A test that is there, whether or not this session runs it."""
        for entry in self._entries_of(nodeid):
            self.halves.setdefault(entry, {})[nodeid] = half

    def _entries_of(self, nodeid: str) -> list[str]:
        return [entry for entry in self.entries if nodeid == entry or nodeid.startswith((f"{entry}::", f"{entry}["))]

    def lines(self) -> list[str]:
        """The table."""
        width = max(map(len, self.entries), default=0)
        rows = []
        for entry in self.entries:
            found = Counter(self.outcomes.get(entry, {}).values())
            text = ", ".join(f"{number} {outcome}" for outcome, number in sorted(found.items())) or "NOT RUN"
            reason = f" ({self.reasons[entry]})" if entry in self.reasons else ""
            rows.append(f"{entry:<{width}}  {text}{reason}")
        return rows

    def missing(self, half: str) -> list[str]:
        """Entries that prove nothing in this half: of which no test was run, or not all passed. Not those of the other half."""
        return [entry for entry in self.entries if not self._is_proven(entry, half)]

    def _is_proven(self, entry: str, half: str) -> bool:
        outcomes, halves = self.outcomes.get(entry, {}), self.halves.get(entry, {})
        wanted = {nodeid for nodeid, of_test in halves.items() if of_test == half}
        is_elsewhere = bool(halves) and not wanted
        return set(outcomes.values()) <= {"passed"} and (is_elsewhere or (bool(wanted) and wanted <= outcomes.keys()))


_PROOFS = pytest.StashKey[Proofs]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        OPTION, choices=HALVES, help="fail unless every test of tests/cluster/REQUIRED in this half was run"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_PROOFS] = Proofs(read_list(LIST.read_text()))
    config.pluginmanager.register(_Watch(config.stash[_PROOFS]), "cluster-proofs")


class _Watch:
    def __init__(self, proofs: Proofs) -> None:
        self._proofs = proofs

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self._proofs.collected(item.nodeid, "slow" if item.get_closest_marker("slow") else "quick")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reason = str(report.longrepr[2]) if report.skipped and isinstance(report.longrepr, tuple) else ""
        self._proofs.note(report.nodeid, report.outcome, reason)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:  # a file that skips or fails as a whole
            reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else "cannot be imported"
            for entry in self._proofs.entries:
                if entry == report.nodeid or entry.startswith(f"{report.nodeid}::"):
                    self._proofs.note(entry, report.outcome, reason)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """With pytest-xdist only its workers collect; they hand over what they found."""
        self._proofs.halves |= getattr(node, "workeroutput", {}).get("proofs", {})


def pytest_sessionfinish(session: pytest.Session) -> None:
    proofs, half = session.config.stash[_PROOFS], session.config.getoption(OPTION)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["proofs"] = proofs.halves
    elif half and proofs.missing(half) and session.exitstatus in (0, 5):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    proofs, half = config.stash[_PROOFS], config.getoption(OPTION)
    if not proofs.outcomes and not half:
        return
    terminalreporter.section("cluster tests")
    for line in proofs.lines():
        terminalreporter.write_line(line)
    missing = proofs.missing(half) if half else []
    if missing:
        terminalreporter.write_line(
            f"{len(missing)} of {len(proofs.entries)} prove nothing: {', '.join(missing)}. That is a failure", red=True
        )
