"""Checks models, tokenizers and vendors' options, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcpg_cluster.cluster.child_processes import child_processes
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.prompts.hub import is_hub_id, near_paths, why_no_answer
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.run.build.engines import policy_engine_args
from bcpg_cluster.run.build.judges import judge_engine_args, load_judge_prompt, stated_args
from bcpg_cluster.run.build.model_files import config_json
from bcpg_cluster.run.build.segmenters import check_segmenter
from bcpg_cluster.run.build.settings import lora_settings
from bcpg_cluster.run.preflight.context import model_config
from bcpg_cluster.run.preflight.judges import check_judge
from bcpg_cluster.run.preflight.model_files import Purpose, check_model_files
from bcpg_cluster.stages.generate import tokenizer_check
from bcpg_cluster.stages.generate.tokenizer_check import TokenizerCheck
from bcpg_cluster.stages.judge.prm.detection import check_needs, choose_convention
from bcpg_cluster.stages.judge.prm.trial import ConventionTrial, try_conventions

_NUM_PROBES = 64  # problems a tokenizer is tried on


def check_model_claims(config: Config) -> None:
    """Check that the files of every local model are what they claim to be (see ``run.preflight.model_files``).

    Raises:
        DataError: weights that are cut off or missing, an unknown data type, another kind of model.
        ConfigError: a process reward model that follows no known convention, or another one than the config says.
    """
    if config.policy.kind != "fake":
        _check_claims("policy.model", config.policy.model, "causal", config.policy.engine_args)
    for name, judge in config.judges.items():
        if judge.kind not in ("llm", "prm") or not judge.model:
            continue
        key = f"judges.{name}.model"
        _check_claims(key, judge.model, "causal" if judge.kind == "llm" else "prm", judge.engine_args)
        if judge.reference_model is not None:
            _check_claims(f"judges.{name}.reference_model", judge.reference_model, "causal", {})
        if judge.kind == "prm" and (content := model_config(resolve_asset(judge.model))):
            try:
                convention = choose_convention(judge.convention, resolve_asset(judge.model), content)
                check_needs(judge.model, convention, judge.engine, has_reference=judge.reference_model is not None)
            except ConfigError as error:
                raise ConfigError(f"{key}: {error.problem}", rule=error.rule, remedy=error.remedy) from None


def _check_claims(key: str, model: str, purpose: Purpose, engine_args: Mapping[str, Any]) -> None:
    path = Path(resolve_asset(model))
    if path.is_dir():
        check_model_files(key, path, purpose, needs_weights=engine_args.get("load_format", "auto") == "auto")


def check_models(config: Config) -> None:
    """Check every local model, judge prompt, endpoint and segmenter before an engine reads them.

    Raises:
        DataError: a directory that is not a Hugging Face checkpoint with a tokenizer.
        ConfigError: an invalid judge prompt, a key that is not set, a cache that cannot be written, a judge whose thoughts
            a schema would bind, a segmenter that is not available, a layer that ``train.lora`` names and the model does not have.
    """
    check_segmenter(config.segment)
    for name, judge in config.judges.items():
        check_judge(name, judge)
    models = {"policy.model": config.policy.model} if config.policy.kind != "fake" else {}
    models |= {f"judges.{n}.model": j.model for n, j in config.judges.items() if j.kind in ("llm", "prm") and j.model}
    models |= {f"judges.{n}.reference_model": j.reference_model for n, j in config.judges.items() if j.reference_model}
    for key, name in models.items():
        path = Path(resolve_asset(name))
        if not path.exists() and is_hub_id(name):
            check_hub_model(key, name)
            continue
        needs = {"config.json": ("config.json",), "a tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json")}
        missing = [what for what, files in needs.items() if not any((path / file).is_file() for file in files)]
        if not path.is_dir() or missing:
            raise DataError(
                f"{key}: {path} " + (f"lacks {' and '.join(missing)}" if path.is_dir() else "is not a directory"),
                rule="a local model is a Hugging Face checkpoint directory: config.json, weights, tokenizer files",
                remedy=("" if path.is_dir() else near_paths(str(path))) or "give such a directory or a Hugging Face id",
            )
    if config.train.lora is not None and config.train.kind != "fake":
        from bcpg_cluster.stages.train.lora import check_lora

        lora = lora_settings(config.train.lora)
        assert lora is not None
        check_lora(
            resolve_asset(config.policy.model),
            lora,
            trust_remote_code=config.policy.trust_remote_code,
            is_merged_by_engines=config.push.carries == "adapters",
        )


def tokenizer_checks(config: Config, prompts: PromptSets) -> list[TokenizerCheck]:
    """What is checked of the policy's and the LLM judges' tokenizers."""
    everything = [*prompts.train, *(prompt for of_set in prompts.measured().values() for prompt in of_set)]
    spread = max(len(everything) // _NUM_PROBES, 1)
    texts = tuple(prompt.question for prompt in everything[::spread][:_NUM_PROBES])
    checks = []
    if config.policy.kind == "vllm":
        # The exact verifier reads no thinking.
        opens = None if config.verify.kind == "exact" else config.verify.prompt_opens_thinking
        checks.append(
            TokenizerCheck(
                "policy.model",
                "policy",
                resolve_asset(config.policy.model),
                texts,
                config.policy.revision,
                config.policy.trust_remote_code,
                opens_thinking=opens,
            )
        )
    checks += [
        TokenizerCheck(
            f"judges.{name}.model",
            f"judges.{name}",
            str(judge.engine_args.get("tokenizer") or resolve_asset(judge.model or "")),
            texts,
            judge.engine_args.get("tokenizer_revision") or judge.engine_args.get("revision"),
            judge.trust_remote_code,
            load_judge_prompt(judge.prompt, judge.rule).system,
        )
        for name, judge in config.judges.items()
        if judge.kind == "llm"
    ]
    return checks


def convention_trials(config: Config) -> list[ConventionTrial]:
    """The process reward models whose files are on this machine, with what their input is made of."""
    return [
        ConventionTrial(
            f"judges.{name}.model",
            resolve_asset(judge.model or ""),
            judge.convention,
            stated_args(judge),
            judge.separator,
            judge.system,
            None if judge.reference_model is None else resolve_asset(judge.reference_model),
        )
        for name, judge in config.judges.items()
        if judge.kind == "prm"
        and all(config_json(model) is not None for model in (judge.model, judge.reference_model) if model)
    ]


def check_tokenizers(config: Config, prompts: PromptSets) -> None:
    """Check tokenizers and chat templates, in a separate process: what transformers imports would stay in the driver.

    Raises:
        DataError, ConfigError: see ``stages.generate.tokenizer_check`` and ``stages.judge.prm.trial``.
    """
    checks, trials = tokenizer_checks(config, prompts), convention_trials(config)
    if checks or trials:
        with child_processes(1) as child:
            child.submit(tokenizer_check.check_tokenizers, checks).result()
            child.submit(try_conventions, trials).result()


def check_vendor_options(config: Config) -> None:
    """Let vLLM's and DeepSpeed's own parsers check what is passed through to them (imports both: some seconds).

    Raises:
        ConfigError: an option the vendor does not know or does not accept.
    """
    served = [(config.policy.model, policy_engine_args(config))] if config.policy.kind == "vllm" else []
    served += [
        (judge.model or "", judge_engine_args(config, name))
        for name, judge in config.judges.items()
        if judge.kind in ("llm", "prm")
    ]
    if served:
        from bcpg_cluster.stages.generate.vllm_options import check_engine_args

        for model, engine_args in served:
            check_engine_args(resolve_asset(model), engine_args)
    if config.train.kind == "deepspeed":
        from bcpg_cluster.stages.train.deepspeed.config import check_deepspeed_config

        check_deepspeed_config(config.train.deepspeed, config.train.zero_stage, config.train.dtype)


def check_hub_model(key: str, name: str) -> None:
    """Raises :class:`DataError` for a model of the hub that no engine of this machine could load: it is not in the cache, and
    the hub does not answer. Why the hub refuses a name, its own client says best, later.
    """
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    no_answer = why_no_answer(model=name)
    if no_answer:
        raise DataError(
            f"{key}: no directory {name} is here, and the hub, which may have such a model, does not answer ({no_answer})",
            rule="a model is a Hugging Face checkpoint directory, or a hub id that is in the cache or can be fetched",
            remedy=near_paths(name)
            or "correct the name, or fetch it first; where only the nodes of the cluster reach the hub, set HF_HUB_OFFLINE=1 here",
        )
