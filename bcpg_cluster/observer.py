"""What a run tells the outside while it goes on. The coordinator speaks, displays and loggers listen."""

from __future__ import annotations

from typing import Any, Protocol


class Observer(Protocol):
    """Listens. Must be quick and must not raise."""

    def stage(self, round_: int, name: str, done: int, total: int) -> None:
        """A stage of a round has ``done`` of ``total`` pieces."""
        ...

    def note(self, text: str) -> None:
        """Something a person watching should read."""
        ...

    def retry(self, what: str, why: str) -> None:
        """A piece of work or a member was lost and is tried again."""
        ...

    def report(self, round_: int, report: dict[str, Any]) -> None:
        """A round is complete."""
        ...


class SilentObserver:
    """Listens to nothing."""

    def stage(self, round_: int, name: str, done: int, total: int) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

    def retry(self, what: str, why: str) -> None:
        """Ignored."""

    def report(self, round_: int, report: dict[str, Any]) -> None:
        """Ignored."""
