"""Checks judges before an engine starts: what is wrong, and what will probably disappoint."""

from __future__ import annotations

from pathlib import Path

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.judges import JudgeConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.build.judges import check_taught_rule, judge_endpoint, load_judge_prompt
from bcpg_cluster.stages.generate.protocol import MOST_LOGPROBS
from bcpg_cluster.stages.judge.llm.cache import VerdictCache
from bcpg_cluster.stages.judge.llm.families.families import FAMILIES, check_fit, family_of
from bcpg_cluster.stages.judge.llm.verdict_odds import NUM_TOP_LOGPROBS, SCORED_FORMATS
from bcpg_cluster.stages.plugin import check_plugin

# Of a judge's answer: measured on the shipped prompts' JSON with reasons; a line by a tokenizer that is not on this machine.
_JSON_TOKENS_PER_STEP, _LINE_TOKENS_PER_STEP = 90, 8
_COMMON_LINES = ("12 correct none", "12 wrong calculation")
_STEPS_OF_LONG_RESPONSES = 32
_THOUGHT_TOKENS = 2048  # GenPRM's published code allows a critique so many; ThinkPRM's thoughts are longer
_REASONING_OPTIONS = (
    "reasoning_parser",
    "structured_outputs_config",
)  # with these vLLM binds only what follows the thoughts


def check_judge(name: str, judge: JudgeConfig) -> None:
    """Raises :class:`ConfigError` for an invalid judge prompt or one without words for the judge's rule, a model that was taught
    another rule, a setting that the prompt's family was not trained for, a key that is not set, a cache that cannot be written,
    a class that is not there, programs that cannot be run, or an engine that would bind a judge's thoughts to the schema of its
    answer.
    """
    if judge.cache is not None:
        VerdictCache(Path(judge.cache).expanduser())
    check_taught_rule(name, judge)
    if judge.kind == "python":
        check_plugin(judge.class_ or "", f"judges.{name}.class")
    if judge.kind not in ("llm", "openai"):
        return
    prompt = load_judge_prompt(judge.prompt, judge.rule)
    if judge.says == "probability":
        _check_logprobs(name, judge, prompt.answer)
    if judge.run_code:
        _check_run_code(name, prompt.answer)
    if prompt.answer in FAMILIES:
        named = family_of(judge.model or "")
        if named not in (None, prompt.answer):
            raise ConfigError(
                f"judges.{name}: {judge.model} is a {named} by its name, and its prompt has answer = {prompt.answer!r}",
                rule="a model that was trained to judge is asked as it was trained",
                remedy=f"set prompt: embedded:{named}",
            )
        check_fit(
            f"judges.{name}",
            FAMILIES[prompt.answer],
            view=judge.view,
            shows_gold=judge.show_gold,
            is_windowed=bool(judge.window_steps or judge.window_tokens or judge.look_ahead),
            answer_after=judge.answer_after,
        )
    if judge.kind == "openai":
        judge_endpoint(judge).read_key()
        return
    is_bound = prompt.answer == "json" and judge.structured == "schema"
    if is_bound and judge.answer_after and not any(option in judge.engine_args for option in _REASONING_OPTIONS):
        raise ConfigError(
            f"judges.{name}: answer_after is {judge.answer_after!r}, but vLLM would bind the whole output to the JSON schema, "
            "so the judge could never write it",
            rule="a judge that thinks aloud gets its answer format from the prompt alone, or answers in lines",
            remedy="set structured: none, or use a prompt with answer = 'lines'",
        )


def _check_logprobs(name: str, judge: JudgeConfig, answer: str) -> None:
    if answer not in SCORED_FORMATS:
        raise ConfigError(
            f"judges.{name} says probability, and its prompt {judge.prompt} asks for answers of the form {answer!r}",
            rule=f"P(right) is read at the verdicts of an answer of the form {' or '.join(sorted(SCORED_FORMATS))}",
            remedy="use a prompt of such a form, or sample votes instead (says: label, votes: 5, and a temperature)",
        )
    most = judge.engine_args.get("max_logprobs", MOST_LOGPROBS)
    if isinstance(most, int) and 0 <= most < NUM_TOP_LOGPROBS:
        raise ConfigError(
            f"judges.{name} says probability, and its engine_args have max_logprobs {most}",
            rule=f"P(right) is read from the {NUM_TOP_LOGPROBS} most probable tokens",
            remedy=f"leave max_logprobs out of engine_args, or set {NUM_TOP_LOGPROBS} or more",
        )


def _check_run_code(name: str, answer: str) -> None:
    from bcpg_cluster.stages.verify.code.sandbox import Sandbox

    if answer != "genprm":
        raise ConfigError(
            f"judges.{name}: run_code, and a prompt with answer = {answer!r}",
            rule="programs are run in GenPRM's critiques, which have a place for them",
            remedy="set run_code: false, or prompt: embedded:genprm",
        )
    Sandbox()  # says why, where programs cannot be isolated on this machine


def judge_notes(config: Config) -> list[str]:
    """For people: judges whose answers will probably be cut off, and measures of another rule than the voters', a line each."""
    lines = []
    voted = config.judges[config.voters[0]].rule
    for name, judge in config.judges.items():
        if judge.role == "measure" and judge.rule != voted:
            lines.append(
                f"judges.{name} measures by the rule {judge.rule!r}, the judges that vote grade by {voted!r}: their precision "
                f"and recall against it count the difference of the rules too. Set judges.{name}.rule: {voted} for their own"
            )
    for name, judge in config.judges.items():
        if judge.votes > 1 and judge.endpoint is not None and not judge.endpoint.send_seed:
            lines.append(
                f"judges.{name} samples {judge.votes} votes from an endpoint that is sent no seed: a second try draws others. Set "
                f"judges.{name}.endpoint.send_seed: true where it knows the field"
            )
        if judge.kind not in ("llm", "openai"):
            continue
        answer, named = load_judge_prompt(judge.prompt, judge.rule).answer, family_of(judge.model or "")
        if answer in FAMILIES:
            lines += _thought_notes(name, judge)
            continue
        if named is not None:
            lines.append(
                f"judges.{name}.model {judge.model} was trained to judge, by its name, but not by its prompt {judge.prompt}. Set "
                f"prompt: embedded:{named}"
            )
        if judge.view == "causal":
            continue
        per_step = _JSON_TOKENS_PER_STEP if answer == "json" else _tokens_of_a_line(judge)
        room = judge.max_tokens // per_step
        asked = judge.window_steps
        if (asked or _STEPS_OF_LONG_RESPONSES) <= room:
            continue
        what = f"asks about {asked} steps at once" if asked else "has no window_steps and asks about all steps at once"
        lines.append(
            f"judges.{name} {what}, but max_tokens {judge.max_tokens} has room for verdicts on about {room} (some {per_step} "
            f"tokens a step): longer answers are cut off and `unparsable`. Set window_steps to {max(room, 1)} or less, or "
            "raise max_tokens"
        )
    return lines


def _thought_notes(name: str, judge: JudgeConfig) -> list[str]:
    if judge.max_tokens >= _THOUGHT_TOKENS:
        return []
    return [
        f"judges.{name} thinks before its verdicts, and max_tokens {judge.max_tokens} cuts thoughts off: such answers are "
        f"`unparsable`. Set max_tokens to {_THOUGHT_TOKENS} or more"
    ]


def _tokens_of_a_line(judge: JudgeConfig) -> int:
    """What the commonest lines take, by the judge's own tokenizer where that is on this machine."""
    model = judge.engine_args.get("tokenizer") or resolve_asset(judge.model or "")
    file = Path(model) / "tokenizer.json"
    if judge.kind != "llm" or not file.is_file():
        return _LINE_TOKENS_PER_STEP
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return max(len(tokenizer.encode(f"\n{line}", add_special_tokens=False)) for line in _COMMON_LINES)
