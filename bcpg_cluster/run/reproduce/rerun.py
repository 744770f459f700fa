"""Make a run again in a directory of its own, and compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bcpg_cluster.errors import ClusterLostError, RunDirectoryError
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.run.entry import run_rounds
from bcpg_cluster.run.reproduce.check import Checked, check_run
from bcpg_cluster.run.reproduce.contents import Part, compare_runs
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import RunPath, run_path
from bcpg_cluster.watch.observer import Observer


@dataclass(frozen=True, slots=True)
class Rerun:
    """A run made again.

    Attributes:
        checked: what it was made with, beside what it was made with again.
        parts: in the order in which rounds make them.
    """

    directory: RunPath
    rounds: int
    checked: Checked
    parts: tuple[Part, ...]

    @property
    def first_difference(self) -> Part | None:
        """The part from which the runs differ; all that is made from it may differ too."""
        return next((part for part in self.parts if not part.is_equal), None)

    @property
    def exit_code(self) -> int:
        """0: the same; 1: something differs."""
        return 0 if self.first_difference is None else 1


def rerun(
    run: RunPath,
    out: RunPath | None = None,
    rounds: int | None = None,
    *,
    address: str | None = None,
    inline: bool = False,
    observer: Observer | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
    say: Callable[[str], object] = lambda text: None,
    on_lost: Callable[[ClusterLostError], None] = lambda error: None,
) -> Rerun:
    """Make the rounds of ``run`` again in ``out`` and compare tables and weights. The same call resumes a stopped rerun.

    Args:
        out: ``<run>-again`` beside the run by default.
        rounds: how many; all finished ones by default.

    Raises:
        UserError: it cannot be made again here, or has no such finished round; before anything starts.
        Interrupted: a wanted stop.
        BcpgError: what else ends a run.
    """
    wanted = _rounds(run, rounds)
    target = out if out is not None else run_path(f"{str(run).rstrip('/')}-again")
    if target.absolute() == run.absolute():
        raise RunDirectoryError(
            f"--out {target} is the run itself",
            rule="a run is made again in a directory of its own",
            remedy="give another --out",
        )
    checked = check_run(run)
    if checked.in_the_way:
        said = "".join(f"\n    {item.what}: {item.state} {item.why}".rstrip() for item in checked.in_the_way)
        raise RunDirectoryError(
            f"{run} cannot be made again here:{said}",
            rule="the same run has the same configuration, problems, models and judge prompts",
            remedy="put back what is missing or was changed; `bcpg-cluster reproduce check` shows all of it",
        )
    for item in checked.items:
        if item.state == "differs":
            say(f"{item.what}: {item.recorded} in the run, {item.here} here; results may differ")
    # Trackers are told of runs, and this is none of its own.
    config = load_run_config(run)
    config = config.model_copy(update={"tracking": type(config.tracking)()})
    run_rounds(config, wanted, target, address=address, inline=inline, observer=observer, stop_asked=stop_asked, say=say,
               on_lost=on_lost)  # fmt: skip
    return Rerun(target, wanted, checked, tuple(compare_runs(run, target, wanted)))


def _rounds(run: RunPath, asked: int | None) -> int:
    reports = read_manifest(run).reports
    done = max((number for number in reports if all(earlier in reports for earlier in range(number))), default=-1)
    wanted = done if asked is None else asked
    if done < 1 or wanted > done:
        raise RunDirectoryError(
            f"{run} has no finished round {max(wanted, 1)}",
            rule="a rerun is compared with finished rounds",
            remedy="resume the run first" if done < 1 else f"give --rounds {done}, or fewer",
        )
    return wanted
