"""The one check that every command makes before anything starts, cheapest first."""

from __future__ import annotations

from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.run.build.footprint import check_memory, free_memory_gib
from bcpg_cluster.run.preflight.cpu_engines import check_cpu_engines
from bcpg_cluster.run.preflight.models import check_model_claims, check_models, check_tokenizers, check_vendor_options
from bcpg_cluster.run.preflight.precision import check_policy_dtype
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.watch.tracking.observer import check_trackers


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
        if all(config.pool(name).num_gpus == 0 for name in config.pool_names()):
            check_memory(config, free_memory_gib())
    return prompts
