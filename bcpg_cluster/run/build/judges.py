"""From section ``judges`` to judges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.judges import JudgeConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.records import StepRule
from bcpg_cluster.run.build.engine_defaults import derived_options, engine_options
from bcpg_cluster.run.build.engines import trust_option
from bcpg_cluster.stages.generate.protocol import Sampling, TextGenerator
from bcpg_cluster.stages.judge.llm.judge_prompt import JudgePrompt, parse_judge_prompt
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge
from bcpg_cluster.stages.judge.llm.transport import GeneratorTransport, Transport
from bcpg_cluster.stages.judge.llm.verdict_odds import NUM_TOP_LOGPROBS
from bcpg_cluster.stages.judge.llm.windows import WindowLimits
from bcpg_cluster.stages.judge.protocol import Judge

if TYPE_CHECKING:
    from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator
    from bcpg_cluster.stages.judge.endpoint.settings import Endpoint
    from bcpg_cluster.stages.judge.prm.implicit import Reference

TAUGHT_RULE = "bcpg_step_rule"
"""Key of a judge model's config.json: the rule by which the steps it was trained on were labelled."""

_NUM_PIECES, _PIECE_BYTES = 4096, 4096  # of a large file; 16 MiB of it


def judge_engine_args(config: Config, name: str) -> dict[str, Any]:
    """The options of a judge's engine, by vLLM's names."""
    return {**engine_options(config, config.judge_pool(name)), **stated_args(config.judges[name])}


def stated_args(section: JudgeConfig) -> dict[str, Any]:
    """The options of a judge's engine that its section states."""
    return {**section.engine_args, **trust_option(section.trust_remote_code)}


def make_judge(config: Config, name: str, generators: dict[str, TextGenerator] | None = None) -> Judge:
    """A judge; LLM judges of one model share the engine that ``generators`` holds by model.

    Raises:
        ConfigError: its model was taught another rule, or its prompt has no words for its own.
    """
    section = config.judges[name]
    if section.kind in ("chain_truth", "sums_truth"):
        from bcpg_cluster.stages.judge.task_truth import TaskTruth

        return TaskTruth("chain" if section.kind == "chain_truth" else "sums", section.rule)
    if section.kind == "fake":
        from bcpg_cluster.stages.fakes.faults import slowed
        from bcpg_cluster.stages.fakes.judge import FakeJudge

        return FakeJudge(name, precision=section.precision, recall=section.recall, rule=section.rule, faults=slowed())
    check_taught_rule(name, section)
    if section.kind == "prm":
        return _make_prm(config, name)
    if section.kind == "python":
        from bcpg_cluster.stages.judge.user_class import UserJudge

        return UserJudge(name, section.class_ or "", section.options, digest=section.class_digest)
    return _make_llm_judge(config, name, {} if generators is None else generators)


def check_taught_rule(name: str, section: JudgeConfig) -> None:
    """Raises :class:`ConfigError` for a judge whose model was taught another rule than its section has.

    A model says so by ``bcpg_step_rule`` in the config.json of its directory. One without the key may mean either; its section
    then says which.
    """
    path = Path(resolve_asset(section.model or "")) / "config.json"
    if section.kind not in ("llm", "prm") or not path.is_file():
        return
    try:
        taught = json.loads(path.read_text(encoding="utf-8")).get(TAUGHT_RULE)
    except (ValueError, AttributeError):
        return  # not a model; what loads it says so
    if taught is not None and taught != section.rule:
        raise ConfigError(
            f"judges.{name}.rule is {section.rule!r}, but {section.model} was taught {taught!r} ({TAUGHT_RULE} in its config.json)",
            rule="a model that was trained to grade steps means what its labels meant; no setting changes that",
            remedy=f"set judges.{name}.rule: {taught}, or use a model that was taught {section.rule!r} labels",
        )


def _make_prm(config: Config, name: str) -> Judge:
    from bcpg_cluster.stages.judge.prm.make_scorer import make_step_scorer

    section = config.judges[name]
    model = resolve_asset(section.model or "")
    return make_step_scorer(
        model,
        name,
        engine=section.engine,
        engine_args=stated_args(section),
        defaults=derived_options(config, config.judge_pool(name)),
        # What its scores mean is recorded beside them: no input of the model shows it.
        model_version=model_digest(model) + ("" if section.rule == "propagated" else f":{section.rule}"),
        separator=section.separator,
        system=section.system,
        convention=section.convention,
        reference=reference_of(section),
        context_tokens=section.context_tokens,
    )


def reference_of(section: JudgeConfig) -> Reference | None:
    """What an implicit process reward model is compared with; ``None`` without a reference model."""
    from bcpg_cluster.stages.judge.prm.implicit import Reference

    if section.reference_model is None:
        return None
    model = resolve_asset(section.reference_model)
    return Reference(model, model_digest(model), section.reward_beta)


def _make_llm_judge(config: Config, name: str, generators: dict[str, TextGenerator]) -> Judge:
    from bcpg_cluster.stages.judge.llm.cache import VerdictCache

    section = config.judges[name]
    options = replace(judge_options(section), run_seed=config.seed)
    cache = VerdictCache(Path(section.cache).expanduser()) if section.cache else None
    transport = _to_endpoint(section) if section.kind == "openai" else _to_generator(config, name, generators)
    if section.run_code:
        from bcpg_cluster.stages.judge.llm.families.run_code import CodeRunning
        from bcpg_cluster.stages.verify.code.sandbox import Sandbox

        transport = CodeRunning(transport, Sandbox())
    return LlmJudge(name, transport, options, cache)


def judge_options(section: JudgeConfig) -> JudgeOptions:
    """What a judge of kind ``llm`` or ``openai`` is asked.

    Raises:
        ConfigError: its prompt does not exist or is not a judge prompt.
    """
    return JudgeOptions(
        load_judge_prompt(section.prompt, section.rule),
        section.view,
        WindowLimits(section.window_steps, section.window_tokens, section.look_ahead),
        section.answer_after,
        section.sample,
        None if section.endpoint is None else section.endpoint.max_unanswered,
        votes=section.votes,
        says=section.says,
    )


def _to_endpoint(section: JudgeConfig) -> Transport:
    from bcpg_cluster.stages.judge.endpoint.openai_transport import OpenAiTransport
    from bcpg_cluster.stages.judge.endpoint.rate_limit import RateLimits

    assert section.endpoint is not None  # the section's validator
    limits = RateLimits(
        requests_per_minute=section.endpoint.requests_per_minute,
        tokens_per_minute=section.endpoint.tokens_per_minute,
        concurrency=section.endpoint.concurrency,
    )
    return OpenAiTransport(judge_endpoint(section), limits)


def _to_generator(config: Config, name: str, generators: dict[str, TextGenerator]) -> Transport:
    section = config.judges[name]
    model = resolve_asset(section.model or "")
    if model not in generators:
        from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator

        engine_args = judge_engine_args(config, name)
        generators[model] = VllmGenerator(model, engine_args=engine_args, weight_transfer_backend=None)
    generator = cast("VllmGenerator", generators[model])
    return GeneratorTransport(
        generator,
        model_digest(model),
        Sampling(
            section.max_tokens,
            section.temperature,
            section.top_p,
            num_top_logprobs=NUM_TOP_LOGPROBS if section.says == "probability" else 0,
        ),
        max_prompt_tokens=generator.max_model_len - section.max_tokens,
        is_bound=section.structured == "schema",
    )


def judge_endpoint(section: JudgeConfig) -> Endpoint:
    """The endpoint of a judge of kind ``openai``; its ``read_key`` says whether the key is there."""
    from bcpg_cluster.stages.judge.endpoint.settings import Endpoint, Prices

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
        send_seed=config.send_seed,
        top_logprobs=config.top_logprobs if section.says == "probability" else 0,
        timeout_s=config.timeout_s,
        call_timeout_s=config.call_timeout_s,
        max_retries=config.max_retries,
        give_up_after=config.give_up_after,
        prices=prices,
    )


def judge_prompt_path(source: str) -> Path:
    """The TOML file of a shipped prompt (``embedded:taxonomy``) or of a user's."""
    name = source.removeprefix("embedded:")
    return Path(resolve_asset(f"embedded:judge_prompts/{name}.toml")) if name != source else Path(source)


def load_judge_prompt(source: str, rule: StepRule = "propagated") -> JudgePrompt:
    """A shipped prompt (``embedded:taxonomy``) or a user's TOML file, in its words for ``rule``.

    Raises:
        ConfigError: it does not exist, is not a judge prompt, or has no words for ``rule``.
    """
    try:
        return parse_judge_prompt(judge_prompt_path(source).read_text(encoding="utf-8"), rule)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"judge prompt {source!r}: {error}",
            rule="a judge prompt is a TOML file with name, system, user and step",
            remedy="begin with a shipped one: embedded:taxonomy, or a copy of "
            + resolve_asset("embedded:judge_prompts/taxonomy.toml"),
        ) from None


def can_see_gold(section: JudgeConfig) -> bool:
    """Whether ``show_gold`` changes what a judge is asked: not where it, or its prompt, has no place for the gold answer.

    Raises:
        ConfigError: its prompt does not exist or is not a judge prompt.
    """
    if section.kind in ("llm", "openai"):
        return bool(load_judge_prompt(section.prompt, section.rule).gold)
    return section.kind != "prm"


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
        for piece in file_pieces(path, whole_below=64 * 2**20):
            digest.update(piece)
    return f"{folder.name}@{digest.hexdigest()[:12]}"


def file_pieces(path: Path, whole_below: int) -> Iterator[bytes]:
    """A file's bytes, piece by piece: all of a file smaller than ``whole_below``, else evenly spread pieces of it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < whole_below:
            while piece := file.read(2**20):
                yield piece
            return
        for number in range(_NUM_PIECES):
            file.seek((size - _PIECE_BYTES) * number // (_NUM_PIECES - 1))
            yield file.read(_PIECE_BYTES)
