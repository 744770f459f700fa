"""Tests that prove what needs more than Python: several hosts, a browser, Prometheus. A skipped proof is no proof.

``tests/cluster/REQUIRED`` lists them. Every session that met one of them prints what became of each; with
``--require-cluster-tests`` (``.ci/run`` gives it) the session fails unless all of them were run and passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

LIST = Path(__file__).parent / "cluster" / "REQUIRED"


def read_list(text: str) -> list[str]:
    """The entries: node ids as pytest prints them, or files; ``#`` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


@dataclass
class Proofs:
    """What became of the listed tests. An entry stands for every test below it: a file's, a parametrised test's."""

    entries: Sequence[str]
    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)  # by entry and node id
    reasons: dict[str, str] = field(default_factory=dict)

    def note(self, nodeid: str, outcome: str, reason: str = "") -> None:
        """One test's end; the worst of its phases counts (a test whose set-up skips was not run)."""
        order = ("passed", "skipped", "failed")
        for entry in self.entries:
            if nodeid == entry or nodeid.startswith((f"{entry}::", f"{entry}[")):
                of_entry = self.outcomes.setdefault(entry, {})
                of_entry[nodeid] = max(of_entry.get(nodeid, "passed"), outcome, key=order.index)
                if reason:
                    self.reasons[entry] = reason

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

    def missing(self) -> list[str]:
        """Entries that prove nothing: of which no test was run, or not all passed."""
        return [entry for entry in self.entries if set(self.outcomes.get(entry, {}).values()) != {"passed"}]


_PROOFS = pytest.StashKey[Proofs]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-cluster-tests", action="store_true", help="fail unless every test of tests/cluster/REQUIRED was run"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_PROOFS] = Proofs(read_list(LIST.read_text()))
    config.pluginmanager.register(_Watch(config.stash[_PROOFS]), "cluster-proofs")


class _Watch:
    def __init__(self, proofs: Proofs) -> None:
        self._proofs = proofs

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reason = str(report.longrepr[2]) if report.skipped and isinstance(report.longrepr, tuple) else ""
        self._proofs.note(report.nodeid, report.outcome, reason)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:  # a file that skips or fails as a whole
            reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else "cannot be imported"
            for entry in self._proofs.entries:
                if entry == report.nodeid or entry.startswith(f"{report.nodeid}::"):
                    self._proofs.note(entry, report.outcome, reason)


def pytest_sessionfinish(session: pytest.Session) -> None:
    is_required = session.config.getoption("--require-cluster-tests")
    if is_required and session.config.stash[_PROOFS].missing() and session.exitstatus in (0, 5):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    proofs = config.stash[_PROOFS]
    is_required = config.getoption("--require-cluster-tests")
    if not proofs.outcomes and not is_required:
        return
    terminalreporter.section("cluster tests")
    for line in proofs.lines():
        terminalreporter.write_line(line)
    missing = proofs.missing()
    if missing and is_required:
        terminalreporter.write_line(
            f"{len(missing)} of {len(proofs.entries)} prove nothing: that is a failure", red=True
        )
