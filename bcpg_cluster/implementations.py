"""From a configuration's sections to engines, judges, verifiers and segmenters: the only place that names implementations.

Called in the members' own processes. Heavy imports happen inside the functions.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bcpg_cluster.config import Config, JudgeConfig, PolicyConfig, SegmentConfig, resolve_asset
from bcpg_cluster.engines.protocols import Judge, RolloutEngine, TextGenerator, TrainerRank
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.method.segment import StepRules
from bcpg_cluster.method.segmenters import DelimiterSegmenter, Segmenter, StructuralSegmenter
from bcpg_cluster.method.step_merge import MergeRules
from bcpg_cluster.method.verdict import JudgePrompt, parse_judge_prompt
from bcpg_cluster.rewards.protocol import Verifier

if TYPE_CHECKING:
    from bcpg_cluster.engines.judge_endpoint import Endpoint
    from bcpg_cluster.engines.vllm_rollout import VllmGenerator

_NUM_PIECES, _PIECE_BYTES = 4096, 4096  # of a large file; 16 MiB of it


def make_rollout_engine(config: Config, policy_version: int, snapshot: str | None, member: int) -> RolloutEngine:
    """The policy's engine, with the weights of ``snapshot`` (``None``: the base model's)."""
    if config.policy.kind == "fake":
        from bcpg_cluster.engines.fake import FakeGenerator, slowed

        model = config.policy.model
        output: Any = model.partition(":")[2] or None
        return FakeGenerator(model=model, policy_version=policy_version, snapshot=snapshot, faults=slowed(output))
    from bcpg_cluster.engines.vllm_rollout import VllmGenerator

    backend = None if config.push.backend == "disk" else config.push.backend
    # members with one seed would draw the same responses to unseeded requests
    engine_args = {"seed": config.seed * 1000 + member, **policy_engine_args(config.policy)}
    return VllmGenerator(
        resolve_asset(config.policy.model),
        engine_args=engine_args,
        weight_transfer_backend=backend,
        policy_version=policy_version,
        snapshot=snapshot,
    )


def policy_engine_args(section: PolicyConfig) -> dict[str, Any]:
    """The policy's engines' options, by vLLM's names."""
    revision = (
        {} if section.revision is None else {"revision": section.revision, "tokenizer_revision": section.revision}
    )
    return {**revision, **section.engine_args, **_trust(section.trust_remote_code)}


def judge_engine_args(section: JudgeConfig) -> dict[str, Any]:
    """The options of a judge's engine (vLLM's names; the transformers engine takes the same)."""
    return {**section.engine_args, **_trust(section.trust_remote_code)}


def _trust(trusted: bool) -> dict[str, Any]:
    return {"trust_remote_code": True} if trusted else {}


def make_judge(config: Config, name: str, generators: dict[str, TextGenerator] | None = None) -> Judge:
    """A judge; LLM judges of one model share the engine that ``generators`` holds by model."""
    section = config.judges[name]
    if section.kind == "chain_truth":
        from bcpg_cluster.engines.chain_truth import ChainTruth

        return ChainTruth()
    if section.kind == "fake":
        from bcpg_cluster.engines.fake import FakeJudge, slowed

        return FakeJudge(name, precision=section.precision, recall=section.recall, faults=slowed())
    if section.kind == "prm":
        return _make_prm(name, section)
    return _make_llm_judge(name, section, {} if generators is None else generators)


def _make_prm(name: str, section: JudgeConfig) -> Judge:
    from bcpg_cluster.engines.prm import make_step_scorer

    model = resolve_asset(section.model or "")
    return make_step_scorer(
        model,
        name,
        engine=section.engine,
        engine_args=judge_engine_args(section),
        model_version=model_digest(model),
        separator=section.separator,
        system=section.system,
        convention=section.convention,
        context_tokens=section.context_tokens,
    )


def _make_llm_judge(name: str, section: JudgeConfig, generators: dict[str, TextGenerator]) -> Judge:
    from bcpg_cluster.engines.llm_judge import LlmJudge, WindowLimits
    from bcpg_cluster.store.verdict_cache import VerdictCache

    prompt = load_judge_prompt(section.prompt)
    windows = WindowLimits(section.window_steps, section.window_tokens, section.look_ahead)
    cache = VerdictCache(Path(section.cache).expanduser()) if section.cache else None
    if section.kind == "openai":
        from bcpg_cluster.engines.openai_judge import OpenAiJudge, OpenAiTransport
        from bcpg_cluster.engines.rate_limit import RateLimits

        assert section.endpoint is not None  # the section's validator
        limits = RateLimits(
            requests_per_minute=section.endpoint.requests_per_minute,
            tokens_per_minute=section.endpoint.tokens_per_minute,
            concurrency=section.endpoint.concurrency,
        )
        return OpenAiJudge(
            OpenAiTransport(judge_endpoint(section), limits),
            name,
            prompt,
            section.view,
            windows=windows,
            answer_after=section.answer_after,
            cache=cache,
            sample=section.sample,
            max_unanswered=section.endpoint.max_unanswered,
        )
    model = resolve_asset(section.model or "")
    if model not in generators:
        from bcpg_cluster.engines.vllm_rollout import VllmGenerator

        generators[model] = VllmGenerator(model, engine_args=judge_engine_args(section), weight_transfer_backend=None)
    generator = cast("VllmGenerator", generators[model])
    return LlmJudge(
        generator,
        name,
        prompt,
        section.view,
        model_version=model_digest(model),
        max_tokens=section.max_tokens,
        max_prompt_tokens=generator.max_model_len - section.max_tokens,
        windows=windows,
        temperature=section.temperature,
        top_p=section.top_p,
        answer_after=section.answer_after,
        cache=cache,
        sample=section.sample,
        is_bound=section.structured == "schema",
    )


def judge_endpoint(section: JudgeConfig) -> Endpoint:
    """The endpoint of a judge of kind ``openai``; its ``read_key`` says whether the key is there."""
    from bcpg_cluster.engines.judge_endpoint import Endpoint, Prices

    config = section.endpoint
    if config is None or section.model is None:
        raise ValueError("only a judge of kind 'openai' has an endpoint")
    prices = None
    if config.price_prompt is not None and config.price_answer is not None:
        prices = Prices(config.price_prompt, config.price_answer, config.price_cached_prompt)
    return Endpoint(
        config.base_url,
        section.model,
        api_key_env=config.api_key_env,
        max_tokens=section.max_tokens,
        temperature=section.temperature,
        top_p=None if section.top_p == 1 else section.top_p,
        token_limit_field=config.token_limit_field,
        structured=config.structured,
        extra_body=config.extra_body,
        timeout_s=config.timeout_s,
        max_retries=config.max_retries,
        give_up_after=config.give_up_after,
        prices=prices,
    )


def make_verifier(config: Config) -> Verifier:
    """What checks final answers.

    Raises:
        ConfigError: this machine cannot isolate programs (``code``), or the function's path is none.
    """
    section = config.verify
    if section.kind == "math":
        from bcpg_cluster.rewards.math_answer import MathVerifier

        return MathVerifier(section.time_limit_s, prompt_opens_thinking=section.prompt_opens_thinking)
    if section.kind == "code":
        from bcpg_cluster.rewards.code import CodeVerifier
        from bcpg_cluster.rewards.sandbox import Limits

        return CodeVerifier(
            Limits(cpu_s=section.cpu_limit_s, wall_s=section.wall_limit_s, memory_gib=section.memory_gib),
            allow_unsandboxed=section.allow_unsandboxed,
            prompt_opens_thinking=section.prompt_opens_thinking,
        )
    if section.kind == "function":
        from bcpg_cluster.rewards.user_function import FunctionVerifier

        return FunctionVerifier(
            section.function or "",
            threshold=section.threshold,
            time_limit_s=section.time_limit_s,
            prompt_opens_thinking=section.prompt_opens_thinking,
        )
    from bcpg_cluster.rewards.exact import ExactVerifier

    return ExactVerifier(section.answer_pattern, section.numeric)


def make_trainer_rank(kind: str, timeout_s: float, rank: int, world_size: int, host: str, port: int) -> TrainerRank:
    """A rank of the trainer group that meets the others at ``host:port``."""
    if kind == "fake":
        from bcpg_cluster.engines.fake import FakeTrainerRank, slowed

        return FakeTrainerRank(faults=slowed())
    if kind == "torch":
        from bcpg_cluster.engines.torch_trainer import TorchTrainer

        return TorchTrainer()
    from bcpg_cluster.engines.deepspeed_trainer import DeepSpeedRank

    return DeepSpeedRank(rank, world_size, host, port, timeout_s=timeout_s)


def make_segmenter(section: SegmentConfig) -> Segmenter:
    """What cuts responses into steps.

    Raises:
        ConfigError: rules that contradict each other, or a Segment Any Text model or package that is not there.
    """
    merge = _checked_merge(section)
    try:
        if section.kind == "structural":
            return StructuralSegmenter(step_rules(section), merge)
        if section.kind == "delimiter":
            return DelimiterSegmenter(section.cut_after, section.cut_before, merge)
    except ValueError as error:
        raise _segment_error(error) from None
    from bcpg_cluster.engines.sat_splitter import SatSegmenter, load_sat

    splitter = load_sat(
        section.model or "",
        tokenizer=section.sat_tokenizer,
        backend=section.backend,
        providers=section.onnx_providers,
        device=section.device,
    )
    return SatSegmenter(
        splitter,
        threshold=section.threshold,
        merge=merge,
        stride=section.stride,
        block_size=section.block_size,
        batch_size=section.batch_size,
    )


def check_segmenter(section: SegmentConfig) -> None:
    """Raises :class:`ConfigError` for what :func:`make_segmenter` would; loads no model."""
    if section.kind != "sat":
        make_segmenter(section)
        return
    from bcpg_cluster.engines.sat_splitter import check_sat_model, check_sat_numbers

    _checked_merge(section)
    check_sat_numbers(section.threshold, section.stride, section.block_size, section.batch_size)
    check_sat_model(
        section.model or "",
        section.sat_tokenizer,
        backend=section.backend,
        needs_onnx=section.onnx_providers is not None,
    )


def step_rules(section: SegmentConfig) -> StepRules:
    """The rules of the structural segmenter."""
    rules = StepRules(
        split_on=section.split_on,
        cues_inside_lines=section.cues_inside_lines,
        min_tokens=section.min_tokens,
        max_tokens=section.max_tokens,
    )
    return rules if section.cues is None else replace(rules, cues=section.cues)


def _checked_merge(section: SegmentConfig) -> MergeRules | None:
    """How pieces are merged; ``None`` where they are not. Raises :class:`ConfigError` for sizes that contradict each other."""
    if section.merge is False or (section.merge == "auto" and section.kind == "structural"):
        return None
    try:
        rules = MergeRules(section.merge_min_tokens, section.merge_target_tokens, section.merge_max_tokens)
        return rules if section.merge_cues is None else replace(rules, cues=section.merge_cues)
    except ValueError as error:
        raise _segment_error(error) from None


def _segment_error(error: ValueError) -> ConfigError:
    return ConfigError(f"segment: {error}", rule="the section's rules fit together", remedy="see docs/config.md")


def load_judge_prompt(source: str) -> JudgePrompt:
    """A shipped prompt (``embedded:taxonomy``) or a user's TOML file.

    Raises:
        ConfigError: it does not exist or is not a judge prompt.
    """
    name = source.removeprefix("embedded:")
    path = Path(resolve_asset(f"embedded:judge_prompts/{name}.toml")) if name != source else Path(source)
    try:
        return parse_judge_prompt(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"judge prompt {source!r}: {error}",
            rule="a judge prompt is a TOML file with name, system, user and step",
            remedy="see bcpg_cluster/assets/judge_prompts/",
        ) from None


def model_digest(model: str) -> str:
    """Names a model in verdict records and in the keys of cached answers: a digest of a local directory, else the name itself.

    Of large files the size and evenly spread pieces are read: another training of the same model changes nearly every piece,
    and reading a hundred gigabytes would take minutes in every member.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}:{size}\n".encode())
        with path.open("rb") as file:
            if size < 64 * 2**20:
                digest.update(file.read())
                continue
            for piece in range(_NUM_PIECES):
                file.seek((size - _PIECE_BYTES) * piece // (_NUM_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return f"{folder.name}@{digest.hexdigest()[:12]}"
