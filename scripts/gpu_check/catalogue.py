"""All checks, in the order they are run in: what comes first is what a GPU is most likely to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.gpu_check.bench import Bench


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        run: imports what it needs and runs; raises ``CheckFailed`` or ``CheckSkipped``.
        share_s: of eight minutes. A check may use what earlier ones left over (``budget.turn``).
        needs: packages without which it is skipped.
        least_s: below this it is not started.
    """

    name: str
    run: Callable[[Bench], None]
    share_s: float
    needs: tuple[str, ...] = ()
    least_s: float = 10.0


def _torch_trainer(bench: Bench, dtype: str) -> None:
    from scripts.gpu_check.contract import check_torch_trainer

    check_torch_trainer(bench, dtype)


def _zero(bench: Bench, stage: int) -> None:
    from scripts.gpu_check.contract import check_zero

    check_zero(bench, stage)


def _packing(bench: Bench) -> None:
    from scripts.gpu_check.layouts import check_packing

    check_packing(bench)


def _area_cut(bench: Bench) -> None:
    from scripts.gpu_check.layouts import check_area_cut

    check_area_cut(bench)


def _logprob_chunks(bench: Bench) -> None:
    from scripts.gpu_check.logprobs import check_logprob_chunks

    check_logprob_chunks(bench)


def _digest(bench: Bench) -> None:
    from scripts.gpu_check.digests import check_digest

    check_digest(bench)


def _throughput(bench: Bench) -> None:
    from scripts.gpu_check.throughput import check_throughput

    check_throughput(bench)


def _rollout(bench: Bench) -> None:
    from scripts.gpu_check.engines import check_rollout

    check_rollout(bench)


def _ray(bench: Bench) -> None:
    from scripts.gpu_check.engines import check_ray

    check_ray(bench)


CHECKS = (
    Check("trainer_float32", partial(_torch_trainer, dtype="float32"), 60),
    Check("trainer_bfloat16", partial(_torch_trainer, dtype="bfloat16"), 35),
    *(Check(f"zero_{stage}", partial(_zero, stage=stage), 45, ("deepspeed",)) for stage in (1, 2, 3)),
    Check("digest", _digest, 20),
    Check("logprob_chunks", _logprob_chunks, 25),
    Check("area_cut", _area_cut, 45, least_s=20),
    Check("packing", _packing, 45),
    Check("throughput", _throughput, 60, least_s=20),
    Check("rollout", _rollout, 45, ("vllm",), least_s=20),
    Check("ray", _ray, 25, ("ray",)),
)


def check_named(name: str) -> Check:
    """Raises:
    KeyError: there is none.
    """
    return {check.name: check for check in CHECKS}[name]
