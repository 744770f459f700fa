"""Small trials of what is the user's own or somebody else's: the reward function, and judges behind endpoints."""

from __future__ import annotations

import re

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError, EngineError, page
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import OutcomeStatus, StopReason, VerdictStatus
from bcpg_cluster.run.build.engines import make_verifier
from bcpg_cluster.run.build.judges import make_judge
from bcpg_cluster.stages.judge.protocol import JudgeCase

_PROBE_WITHIN_S = 30.0
_FAILED = (VerdictStatus.ENGINE_LOST, VerdictStatus.TIMEOUT, VerdictStatus.REFUSED)


def try_reward(config: Config, sets: PromptSets) -> str:
    """Have the verifier check one response with one gold answer of the train set; a line about what it said.

    Raises:
        DataError: it gives no verdict: it raised, took too long, or returned what is no score.
    """
    prompt = sets.train[0]
    thinking = "Let me work it out.</think>" if config.verify.prompt_opens_thinking else ""
    verifier = make_verifier(config)
    tried = []
    try:
        for answer in _forms(config, prompt.answer):
            tried.append(verifier.verify(f"{thinking}Let me work it out.\n\n{answer}", prompt.answer, StopReason.STOP))
            if tried[-1].reward in (None, 1.0):
                break
    finally:
        verifier.close()
    found = (
        tried[-1]
        if tried[-1].reward is None
        else max(tried, key=lambda one: (one.status is OutcomeStatus.VERIFIED, one.reward or 0.0))
    )
    if found.status is OutcomeStatus.VERIFIER_ERROR:
        raise DataError(
            f"verify.{config.verify.kind}: no verdict on a response to {prompt.prompt_id!r} with its gold answer "
            f"{prompt.answer!r:.60}" + (f": {found.why}" if found.why else ""),
            rule="a response with a gold answer gets a score from 0 to 1; a sample without one is dropped as unverified",
            remedy="run it by hand on this pair (`bcpg-cluster grade`), and correct what fails; "
            f"{page('data.md')} has the contract",
        )
    if found.status is not OutcomeStatus.VERIFIED:
        return (
            f"verify: no usual form of an answer is one to verify.{config.verify.kind} ({found.status} for {prompt.prompt_id!r}), "
            "so a right response was not tried; `bcpg-cluster grade` tries one of yours"
        )
    return f"verify: a response to {prompt.prompt_id!r} that gives its gold answer gets {found.status}, reward {found.reward}"


def _forms(config: Config, gold: str) -> list[str]:
    """Ways to give an answer: the one that ``verify.answer_pattern`` asks for where it is plain text around a group, then usual
    ones.
    """
    usual = [f"The final answer is \\boxed{{{gold}}}.", f"The answer is {gold}", f"#### {gold}", f"answer {gold}"]
    if config.verify.kind != "exact":
        return usual
    pattern = re.sub(r"\\s[*+]?", " ", config.verify.answer_pattern)
    before, _, rest = pattern.partition("(")
    after = rest.rpartition(")")[2]
    return [re.sub(r"\\(\W)", r"\1", before) + gold + re.sub(r"\\(\W)", r"\1", after).rstrip("$"), *usual]


def probe_endpoints(config: Config) -> list[str]:
    """Ask every judge behind an endpoint about one step; a line a judge.

    Raises:
        DataError: one does not answer.
        ConfigError: an endpoint refuses key, address or model.
    """
    lines = []
    for name, section in config.judges.items():
        if section.kind != "openai" or section.endpoint is None:
            continue
        limits = {"max_retries": 0, "timeout_s": min(section.endpoint.timeout_s, _PROBE_WITHIN_S)}
        asked = section.model_copy(update={"endpoint": section.endpoint.model_copy(update=limits), "cache": None})
        judge = make_judge(config.model_copy(update={"judges": {name: asked}}), name)
        try:
            (said,) = judge.judge([JudgeCase("What is 1+1?", ("1+1 is 2.",), None)]).judgements
        except EngineError as error:
            raise _unanswered(name, section.endpoint.base_url, str(error)) from None
        finally:
            judge.close()
        status = said[0].status
        if status in _FAILED:
            raise _unanswered(name, section.endpoint.base_url, f"{status}: {said[0].raw:.300}")
        lines.append(f"judges.{name}: {section.endpoint.base_url} answers, verdict on one step: {status}")
    return lines


def _unanswered(name: str, url: str, why: str) -> DataError:
    return DataError(
        f"judges.{name}: {url} gives no answer ({why})",
        rule="a judge behind an endpoint answers before a run begins",
        remedy="start the server, or correct endpoint.base_url, model and key",
    )
