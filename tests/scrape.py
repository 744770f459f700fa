"""Reading what Ray's metrics agents export, as Prometheus would."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LINE = re.compile(r"^(ray_bcpg_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_TAG = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Series:
    """Exported values of this project's metrics."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[dict[str, str], float]]] = {}
        self._positive: set[tuple[str, frozenset[tuple[str, str]]]] = set()

    def read(self, text: str) -> None:
        """Take in one agent's page; the newest value of a series counts."""
        for name, tags, value in _LINE.findall(text):
            found = dict(_TAG.findall(tags))
            others = [entry for entry in self._values.get(name, []) if entry[0] != found]
            self._values[name] = [*others, (found, float(value))]
            if float(value) > 0:
                self._positive.add((name, frozenset(found.items())))

    def copy(self) -> Series:
        """What has been read by now; what is read later changes it no more."""
        taken = Series()
        taken._values = dict(self._values)  # ``read`` replaces lists and alters none
        taken._positive = set(self._positive)
        return taken

    def names(self) -> set[str]:
        return set(self._values)

    def of(self, name: str) -> list[tuple[dict[str, str], float]]:
        return self._values.get(name, [])

    def was_positive(self, name: str, **tags: str) -> bool:
        """Whether a series with these tags was above 0 at any look."""
        return any(name == seen and tags.items() <= dict(have).items() for seen, have in self._positive)

    def get(self, name: str, **tags: str) -> float:
        """The value of the one series with these tags; NaN, which equals nothing, without one."""
        found = [value for have, value in self.of(name) if tags.items() <= have.items()]
        return found[0] if len(found) == 1 else float("nan")


@contextmanager
def listening(session: Path, series: Series) -> Iterator[None]:
    """Read what the session exports several times a second, until the block ends."""
    is_over = threading.Event()

    def listen() -> None:
        while not is_over.wait(0.3):
            scrape(session, series)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield
    finally:
        is_over.set()
        listener.join()


def scrape(session: Path, series: Series | None = None) -> Series:
    """What the agents of a Ray session export now, added to ``series``; agents that do not answer (any more) are left out."""
    series = series or Series()
    try:
        groups = json.loads((session / "prom_metrics_service_discovery.json").read_text())
    except (OSError, ValueError):
        return series  # not written yet, or being written
    for target in (target for group in groups for target in group["targets"]):
        try:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as page:
                series.read(page.read().decode())
        except OSError:
            continue
    return series
