"""How a person talks to a running run: requests and answers as whole files in the run's directory.

Whoever sees the directory can talk to the run, from any machine, and nothing has to listen on a port. The run looks for requests
about once a second while it waits for its members; one that finds the run in a push waits until that is over.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from bcpg_cluster.cluster.state import PoolState
from bcpg_cluster.errors import BcpgError, UserError
from bcpg_cluster.store.layout import CONTROL
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.whole_files import make_parents, take_away, write_whole

_REQUEST, _ANSWER = ".request.json", ".answer.json"


@dataclass(frozen=True, slots=True)
class ScaleRequest:
    """``sizes`` by pool; ``None`` gives a pool back to its own rule. All of it is done, or nothing."""

    id: str
    sizes: dict[str, int | None]
    by: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: ``changes`` (pool: size before and after), or the three parts of an error."""

    id: str
    changes: dict[str, tuple[int, int]] | None = None
    problem: str = ""
    rule: str = ""
    remedy: str = ""


class Control:
    """The requests and answers of one run directory."""

    def __init__(self, run_dir: RunPath) -> None:
        self._folder = run_dir / CONTROL

    # --- the person's side

    def ask(self, sizes: Mapping[str, int | None], by: str) -> ScaleRequest:
        """Put a request where the run will look for it."""
        request = ScaleRequest(secrets.token_hex(6), dict(sizes), by)
        path = self._path(request.id, _REQUEST)
        make_parents(path)
        write_whole(path, json.dumps(asdict(request)).encode())
        return request

    def answer_to(self, request: ScaleRequest) -> Answer | None:
        """The run's answer, once; ``None`` while there is none."""
        path = self._path(request.id, _ANSWER)
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        take_away(path)
        changes = content.pop("changes")
        return Answer(changes=None if changes is None else {n: (a, b) for n, (a, b) in changes.items()}, **content)

    def withdraw(self, request: ScaleRequest) -> bool:
        """Take a request back; False when the run has taken it up already."""
        return take_away(self._path(request.id, _REQUEST))

    # --- the run's side

    def clear(self) -> None:
        """Forget what was asked of an earlier process; whoever asked has been told that it is gone."""
        for path in self._files():
            take_away(path)

    def take(self) -> Iterator[ScaleRequest]:
        """Requests that wait, each once. Anything else is removed."""
        for path in self._files():
            if not path.name.endswith(_REQUEST):
                continue
            try:
                request = ScaleRequest(**json.loads(path.read_bytes()))
            except FileNotFoundError:
                continue
            except (ValueError, TypeError):
                take_away(path)
                continue
            if take_away(path):  # else the person has just taken it back
                yield request

    def answer(self, answer: Answer) -> None:
        """Tell the person."""
        write_whole(self._path(answer.id, _ANSWER), json.dumps(asdict(answer)).encode())

    def _files(self) -> list[RunPath]:
        if not self._folder.is_dir():
            return []
        return [path for path in self._folder.iterdir() if path.name.endswith((_REQUEST, _ANSWER))]

    def _path(self, id_: str, kind: str) -> RunPath:
        return self._folder / f"{id_}{kind}"


def check_sizes(sizes: Mapping[str, int | None], pools: Sequence[PoolState]) -> None:
    """Check a request before anything is done.

    Raises:
        UserError: a pool that the run does not have or that cannot be resized, or a size outside its bounds.
    """
    by_name = {pool.name: pool for pool in pools}
    for name, size in sizes.items():
        pool = by_name.get(name)
        if pool is None:
            raise UserError(
                f"unknown pool {name!r}",
                rule=f"this run has the pools {', '.join(by_name)}",
                remedy="name one of these",
            )
        if name == "trainer":
            raise UserError(
                "the trainer group cannot be resized",
                rule="its ranks hold one model together, and a run keeps the number it was made with",
                remedy="start another run with another pools.trainer.members",
            )
        if size is None and pool.target_queue_per_actor is None:
            raise UserError(
                f"{name} cannot be given back to its own rule: it has none",
                rule=f"a pool resizes itself when pools.{name}.target_queue_per_actor is set",
                remedy=f"stop the run and resume with --set pools.{name}.target_queue_per_actor=4 "
                "(pools may change between starts)",
            )
        if size is not None and not pool.low <= size <= pool.high:
            key = "min" if size < pool.low else "max"
            raise UserError(
                f"{name} cannot have {size} members: pools.{name}.{key} is {pool.low if key == 'min' else pool.high}",
                rule=f"a pool stays within its bounds, here {pool.low} to {pool.high}",
                remedy=f"stop the run and resume with --set pools.{name}.{key}={max(size, 1)} (pools may change between starts)",
            )


def refusal(request: ScaleRequest, error: BcpgError) -> Answer:
    """The answer to a request that cannot be done."""
    if isinstance(error, UserError):
        return Answer(request.id, None, error.problem, error.rule, error.remedy)
    return Answer(request.id, None, str(error), "the run could not do it", "see what the run prints")
