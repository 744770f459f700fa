"""The one check that every command makes before anything starts, cheapest first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from bcpg_cluster.config.invalid.partial import MissingSectionError
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import SeveralFaultsError, UserError
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.run.build.footprint import check_memory, free_memory_gib
from bcpg_cluster.run.preflight.cpu_engines import check_cpu_engines
from bcpg_cluster.run.preflight.lengths import measure_sets
from bcpg_cluster.run.preflight.models import check_model_claims, check_models, check_tokenizers, check_vendor_options
from bcpg_cluster.run.preflight.precision import check_policy_dtype
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.run.preflight.trials import probe_endpoints, try_reward
from bcpg_cluster.watch.tracking.observer import check_trackers

T = TypeVar("T")


def preflight(config: Config, *, is_thorough: bool = False) -> PromptSets:
    """Check all that can be checked before an engine starts; returns the prompts, read and checked.

    Args:
        is_thorough: also take what needs minutes on large sets or imports the vendors: golds under math-verify, options by the
            vendors' own parsers, this machine's memory.

    Raises:
        UserError: what is wrong, the rule, and the remedy.
    """
    check_trackers(config.tracking)
    check_policy_dtype(config)
    prompts = read_all_prompts(config, ask_math_verify=is_thorough)
    check_models(config)
    check_model_claims(config)
    check_cpu_engines(config)
    check_tokenizers(config, prompts)
    if is_thorough:
        check_vendor_options(config)
        _check_memory(config)
    return prompts


def with_further_faults(
    first: UserError, config: Config, *, probe: bool, more: Callable[[Config, PromptSets], object] = lambda *_: None
) -> UserError:
    """``first``, or all that is wrong: what the other checks find by themselves.

    Each kind of check (trackers, problems, models, rewards, lengths, memory, endpoints) still ends at its own first fault.
    Rewards are tried only on good problems, tokenizers and lengths only with good models too. Of an invalid configuration a
    check sees the sections without a fault, and is left out where it needs another.

    Args:
        first: what the checks of a start ended at.
        config: whole, or what can be read of it (``InvalidConfigError.rest``).
        probe: also ask the judges' endpoints.
        more: another check, made with good problems.
    """
    found = {first.problem: first}

    def alone(check: Callable[[], T]) -> T | None:
        try:
            return check()
        except UserError as error:
            found.setdefault(error.problem, error)
        except MissingSectionError:
            pass
        return None

    alone(lambda: check_trackers(config.tracking))
    prompts = alone(lambda: read_all_prompts(config, ask_math_verify=True))
    are_models_good = alone(lambda: _check_models(config))
    alone(lambda: _check_memory(config))
    if prompts is not None:
        alone(lambda: config.verify.kind == "code" or try_reward(config, prompts))
        alone(lambda: more(config, prompts))
        if are_models_good:
            alone(lambda: check_tokenizers(config, prompts))
            alone(lambda: measure_sets(config, prompts))
    if probe:
        alone(lambda: probe_endpoints(config))
    return first if len(found) == 1 else SeveralFaultsError(tuple(found.values()))


def _check_models(config: Config) -> bool:
    for check in (check_policy_dtype, check_models, check_model_claims, check_cpu_engines, check_vendor_options):
        with suppress(MissingSectionError):
            check(config)
    return True


def _check_memory(config: Config) -> None:
    """Compare with this machine, unless the pools need another one: with GPUs."""
    if all(config.pool(name).num_gpus == 0 for name in config.pool_names()):
        check_memory(config, free_memory_gib())
