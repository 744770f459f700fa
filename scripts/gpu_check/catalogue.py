"""All checks, in the order they are run in: what comes first is what a GPU is most likely to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.gpu_check.bench import Bench


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        path: ``module:function``, of a bench and the options. It is imported when the check runs: that a package is missing
            skips the check alone.
        share_s: of eight minutes. A check may use what earlier ones left over (``budget.turn``).
        needs: packages without which it is skipped.
        least_s: below this it is not started.
    """

    name: str
    path: str
    share_s: float
    needs: tuple[str, ...] = ()
    least_s: float = 10.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def function(self) -> Callable[..., None]:
        """What the path names."""
        found: Callable[..., None] = resolve_name(f"{__package__}.{self.path}")
        return found

    def run(self, bench: Bench) -> None:
        """Raises:
        CheckFailed: two things that must agree do not.
        """
        self.function()(bench, **self.options)


CHECKS = (
    Check("trainer_float32", "contract:check_torch_trainer", 60, options={"dtype": "float32"}),
    Check("trainer_bfloat16", "contract:check_torch_trainer", 35, options={"dtype": "bfloat16"}),
    *(
        Check(f"zero_{stage}", "contract:check_zero", 45, ("deepspeed",), options={"stage": stage})
        for stage in (1, 2, 3)
    ),
    Check("digest", "digests:check_digest", 20),
    Check("logprob_chunks", "logprobs:check_logprob_chunks", 25),
    Check("area_cut", "layouts:check_area_cut", 45, least_s=20),
    Check("packing", "layouts:check_packing", 45),
    Check("throughput", "throughput:check_throughput", 60, least_s=20),
    Check("rollout", "engines:check_rollout", 45, ("vllm",), least_s=20),
    Check("ray", "engines:check_ray", 25, ("ray",)),
)


def check_named(name: str) -> Check:
    """Raises:
    KeyError: there is none.
    """
    return {check.name: check for check in CHECKS}[name]
