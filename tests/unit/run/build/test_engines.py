"""implementations.py: every kind a configuration may name becomes the object it says, with the settings it was given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.judges import JudgeConfig
from bcpg_cluster.config.responses import SegmentConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.records import ErrorType, OutcomeStatus, StopReason
from bcpg_cluster.run.build.engines import (
    make_rollout_engine,
    make_trainer_rank,
    make_verifier,
    num_verifying_threads,
    sent_to_engines,
    verify_lease_s,
)
from bcpg_cluster.run.build.judges import judge_endpoint, load_judge_prompt, make_judge, model_digest
from bcpg_cluster.run.build.segmenters import check_segmenter, make_segmenter
from bcpg_cluster.run.preflight.models import check_models
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank
from bcpg_cluster.stages.judge.endpoint.openai_transport import OpenAiTransport
from bcpg_cluster.stages.judge.llm.llm_judge import LlmJudge
from bcpg_cluster.stages.judge.llm.prompt_rules import RULES
from bcpg_cluster.stages.judge.llm.windows import WindowLimits
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase
from bcpg_cluster.stages.judge.task_truth import TaskTruth
from bcpg_cluster.stages.segment.segmenters import DelimiterSegmenter, StructuralSegmenter
from bcpg_cluster.stages.verify.code.code_tests import Case, CodeTests
from bcpg_cluster.stages.verify.code.verifier import CodeVerifier
from bcpg_cluster.stages.verify.exact import ExactVerifier
from bcpg_cluster.stages.verify.math_answer import MathVerifier
from bcpg_cluster.stages.verify.user_function import FunctionVerifier
from tests.judge_server import Server, completion, sends, verdicts

MakeConfig = Callable[..., Config]
KEY = "sk-secret-0123456789"


# --- segmenters


def cut(text: str, **section: Any) -> list[str]:
    """The steps of a text whose characters are its tokens."""
    return [step.text for step in make_segmenter(SegmentConfig(**section))(list(text))]


def test_segmenters_cut_as_they_are_told():
    text = "a\nb\n\nc; d"
    assert isinstance(make_segmenter(SegmentConfig()), StructuralSegmenter)
    assert cut(text) == ["a\n", "b\n\n", "c; d"]
    assert cut(text, split_on="paragraph") == ["a\nb\n\n", "c; d"]
    delimiter = {"kind": "delimiter", "merge": False}
    assert isinstance(make_segmenter(SegmentConfig(**delimiter)), DelimiterSegmenter)  # type: ignore[arg-type]
    assert cut(text, **delimiter) == ["a\nb\n\n", "c; d"]
    assert cut(text, **delimiter, cut_after=("; ",)) == ["a\nb\n\nc; ", "d"]
    assert cut(text, **delimiter, cut_after=(), cut_before=("c",)) == ["a\nb\n\n", "c; d"]


def test_pieces_are_merged_where_the_section_says_so():
    text = "a\n\nb\n\nc\n\nd"
    assert cut(text, kind="delimiter") == [text]  # auto: on for delimiters, and far below the least size
    sizes = {"merge_min_tokens": 4, "merge_target_tokens": 6, "merge_max_tokens": 8}
    assert cut(text, kind="delimiter", **sizes) == ["a\n\nb\n\n", "c\n\nd"]
    assert cut(text, kind="delimiter", merge=False, **sizes) == ["a\n\n", "b\n\n", "c\n\n", "d"]
    assert cut(text, merge=True, **sizes) == ["a\n\nb\n\n", "c\n\nd"]
    assert cut(text, **sizes) == ["a\n\n", "b\n\n", "c\n\n", "d"]  # auto: off for structure


BAD_SEGMENTS: dict[str, dict[str, Any]] = {
    "the least is above the most": {"min_tokens": 9, "max_tokens": 8},
    "merged sizes": {"kind": "delimiter", "merge_min_tokens": 300},
    "merged sizes of structure": {"merge": True, "merge_min_tokens": 300},
    "no delimiter": {"kind": "delimiter", "cut_after": ()},
    "sat: not a directory": {"kind": "sat", "model": "/none"},
    "sat: merged sizes": {"kind": "sat", "model": "/none", "merge_min_tokens": 300},
    "sat: a stride that leaves text out": {"kind": "sat", "model": "/none", "stride": 1000},
}


@pytest.mark.parametrize("section", BAD_SEGMENTS.values(), ids=BAD_SEGMENTS.keys())
def test_segmenters_that_cannot_be(section: dict[str, Any]):
    for what in (check_segmenter, make_segmenter):
        with pytest.raises(ConfigError) as caught:
            what(SegmentConfig(**section))
        assert caught.value.rule and caught.value.remedy


def test_a_segmenter_is_checked_whole_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch):
    """What only a member would have found out: the numbers, though the model's name may be right."""
    monkeypatch.setattr("bcpg_cluster.stages.segment.sat.check_sat_model", lambda *_, **__: None)
    check_segmenter(SegmentConfig(kind="sat", model="sat-3l-sm"))
    for section, words in (({"merge_min_tokens": 300}, "segment:"), ({"stride": 1000}, "stride 1000")):
        with pytest.raises(ConfigError, match=words):
            check_segmenter(SegmentConfig(kind="sat", model="sat-3l-sm", **section))


# --- verifiers


@pytest.fixture
def verifier_of(make_config: MakeConfig) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(**section: Any) -> Any:
        made.append(make_verifier(make_config(verify=section)))
        return made[-1]

    yield make
    for verifier in made:
        verifier.close()


def test_exact(verifier_of: Callable[..., Any]):
    verifier = verifier_of(answer_pattern=r"= (\S+)", numeric=False)
    assert isinstance(verifier, ExactVerifier)
    assert verifier.verify("x = two", "two", StopReason.STOP).reward == 1.0


def test_math(verifier_of: Callable[..., Any]):
    verifier = verifier_of(kind="math", prompt_opens_thinking=True, time_limit_s=60.0)
    assert isinstance(verifier, MathVerifier)
    assert (
        verifier.verify(r"\boxed{\frac{1}{2}}", "0.5", StopReason.STOP).status is OutcomeStatus.NO_ANSWER
    )  # still thinking
    assert verifier.verify(r"</think>\boxed{\frac{1}{2}}", "0.5", StopReason.STOP).reward == 1.0


def test_code(verifier_of: Callable[..., Any]):
    verifier = verifier_of(kind="code", allow_unsandboxed=True, cpu_limit_s=5, wall_limit_s=60.0, memory_gib=1.0)
    assert isinstance(verifier, CodeVerifier)
    limits = verifier._sandbox.limits
    assert (limits.cpu_s, limits.wall_s, limits.idle_s, limits.memory_gib) == (5, 60.0, 10.0, 1.0)
    gold = CodeTests("stdin", (Case("2", "4"),)).to_json()
    assert verifier.verify("```python\nprint(int(input()) ** 2)\n```", gold, StopReason.STOP).reward == 1.0


def test_a_lease_is_as_long_as_its_programs_may_take(make_config: MakeConfig):
    """60 programs, each asleep until its limit of 10 s, two shards at once on one processor: 20 minutes."""
    sizes: dict[str, Any] = {
        "generate": {"group_size": 4, "prompts_per_shard": 15},
        "evaluate": {"num_samples": 1, "greedy": False, "prompts_per_shard": 8},
    }
    assert verify_lease_s(make_config(verify={"kind": "code"}, **sizes)) == 60 * 10 * 2
    assert (
        verify_lease_s(make_config(verify={"kind": "code", "num_parallel": 4, "cpu_limit_s": 20}, **sizes))
        == 60 * 20 * 2 / 4
    )
    sizes["evaluate"] = {"num_samples": 9, "greedy": True, "prompts_per_shard": 8}
    assert verify_lease_s(make_config(verify={"kind": "code"}, **sizes)) == 80 * 10 * 2
    assert verify_lease_s(make_config(**sizes)) == 0.0


def test_programs_are_checked_side_by_side(make_config: MakeConfig):
    assert num_verifying_threads(make_config()) == 1
    assert num_verifying_threads(make_config(verify={"kind": "code"})) == len(os.sched_getaffinity(0))
    assert num_verifying_threads(make_config(verify={"kind": "code", "num_parallel": 3})) == 3


def test_function(verifier_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "w2_rewards.py").write_text("def near(answer, gold): return 0.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    verifier = verifier_of(kind="function", function="w2_rewards:near", threshold=0.5, time_limit_s=60.0)
    assert isinstance(verifier, FunctionVerifier)
    assert verifier.verify("x", "y", StopReason.STOP).reward == 1.0
    # Ctrl-C reaches the group of the terminal; the child of a run that stops cleanly must not be in it.
    assert os.getpgid(verifier._process.pid) != os.getpgrp()


def test_functions_that_are_not_there_are_found_before_a_run(make_config: MakeConfig):
    config = make_config(verify={"kind": "function", "function": "bcpg_cluster.records:none"})
    with pytest.raises(ConfigError, match=r"bcpg_cluster\.records has no none"):
        read_all_prompts(config)
    with pytest.raises(ConfigError, match=r"needs verify\.function"):
        make_config(verify={"kind": "function"})


def test_golds_are_read_by_the_verifier_of_the_run(make_config: MakeConfig):
    with pytest.raises(DataError, match="holds no tests"):  # numbers are no unit tests
        read_all_prompts(make_config(verify={"kind": "code", "allow_unsandboxed": True}))


# --- judges


def openai_section(server: Server, **changed: Any) -> dict[str, Any]:
    endpoint = {"base_url": server.url, "api_key_env": "W2_KEY"} | changed.pop("endpoint", {})
    return {"kind": "openai", "model": "m", "endpoint": endpoint, **changed}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("W2_KEY", KEY)
    one = Server()
    yield one
    one.close()


@pytest.fixture
def judge_of(make_config: MakeConfig) -> Iterator[Callable[..., Any]]:
    """``judge_of(name, **{name: section})``: the judge of that name in a configuration of these judges."""
    made: list[Judge] = []

    def make(name: str, **sections: Any) -> Judge:
        made.append(make_judge(make_config(judges=sections), name))
        return made[-1]

    yield make
    for judge in made:
        judge.close()


def test_judges_without_a_model(judge_of: Callable[..., Any]):
    fake = judge_of("f", f={"kind": "fake", "precision": 1.0, "recall": 1.0})
    assert isinstance(fake, FakeJudge)
    assert fake.name == "f"
    assert isinstance(judge_of("truth", truth={"kind": "chain_truth"}), TaskTruth)


@pytest.mark.parametrize("section", [{"kind": "chain_truth"}, {"kind": "fake", "precision": 1.0, "recall": 1.0}])
def test_a_judge_grades_by_its_rule(judge_of: Callable[..., Any], section: dict[str, Any]):
    case = JudgeCase("17 +25 *3", ("17+25=43", "43*3=29", "answer 29"))
    paper = judge_of("j", j=section | {"role": "spare"})
    local = judge_of("j", j=section | {"role": "spare", "rule": "local"})
    assert [said.label for said in paper.judge([case]).judgements[0]] == [0, 0, 0]
    (judged,) = local.judge([case]).judgements
    assert [(said.label, said.error_type) for said in judged] == [
        (0, ErrorType.CALCULATION), (1, ErrorType.NONE), (1, ErrorType.NONE)
    ]  # fmt: skip
    assert local.version == f"{paper.version}/local"


def test_a_prompt_asks_by_the_judges_rule(server: Server, judge_of: Callable[..., Any]):
    paper, local = (
        judge_of("api", api=openai_section(server, prompt="embedded:taxonomy", role="spare", rule=rule))
        for rule in RULES
    )
    digests = [load_judge_prompt("embedded:taxonomy", rule).digest for rule in RULES]
    assert digests[0] in paper.version and digests[1] in local.version and len(set(digests)) == 2


def test_an_endpoint_gets_every_setting(server: Server, judge_of: Callable[..., Any], tmp_path: Path):
    section = openai_section(
        server, prompt="embedded:taxonomy", max_tokens=77, temperature=0.3, top_p=0.9, window_steps=1, look_ahead=True,
        sample=2, answer_after="</think>", cache=str(tmp_path / "cache"),
        endpoint={
            "structured": "none", "extra_body": {"seed": 5}, "token_limit_field": "max_completion_tokens",
            "timeout_s": 9.0, "max_retries": 3, "concurrency": 3, "requests_per_minute": 6000.0,
            "tokens_per_minute": 9e9, "price_prompt": 1.0, "price_answer": 2.0, "price_cached_prompt": 0.5,
        },
    )  # fmt: skip
    judge = judge_of("api", api=section)
    assert isinstance(judge, LlmJudge)
    server.plays = [sends(completion("hm</think>" + verdicts(step, step))) for step in (0, 1)]
    judged = judge.judge([JudgeCase("1+1", ("1+1=2", "2"))])
    rows, account = judged.judgements, judged.counts
    assert [said.label for said in rows[0]] == [1, 1]
    assert len(server.requests) == 2  # a window each
    request = server.requests[0]
    assert (request["model"], request["max_completion_tokens"], request["temperature"]) == ("m", 77, 0.3)
    assert (request["top_p"], request["seed"]) == (0.9, 5)
    assert "response_format" not in request
    assert server.keys == [f"Bearer {KEY}"] * 2
    assert account["cost"] == pytest.approx(2 * (600 * 1.0 + 400 * 0.5 + 50 * 2.0) / 1e6)
    options = judge._options
    assert (options.windows, options.sample) == (WindowLimits(1, None, looks_ahead=True), 2)
    transport = judge._transport
    assert isinstance(transport, OpenAiTransport)
    assert transport._threads._max_workers == 3
    assert (transport._endpoint.timeout_s, transport._endpoint.max_retries) == (9.0, 3)
    stored = list((tmp_path / "cache").rglob("*.json"))
    assert len(stored) == 2
    assert not any(KEY in path.read_text() for path in stored)


def test_settings_that_are_left_alone(server: Server, judge_of: Callable[..., Any]):
    judge = judge_of("api", api=openai_section(server))
    judge.judge([JudgeCase("1+1", ("1+1=2",))])
    request = server.requests[0]
    assert request["temperature"] == 0.0
    assert "top_p" not in request  # 1 is no limit, and some endpoints refuse it beside a temperature
    assert request["response_format"]["type"] == "json_schema"
    assert judge._cache is None
    assert judge._transport._endpoint.prices is None


def test_two_endpoints_are_two_judges(server: Server, judge_of: Callable[..., Any]):
    other = Server()
    try:
        sections = {"a": openai_section(server), "b": openai_section(other, endpoint={"api_key_env": None})}
        first, second = judge_of("a", **sections), judge_of("b", **sections)
        other.plays = [sends(completion(verdicts(0, 0, wrong=(0,))))]
        case = [JudgeCase("1+1", ("1+1=2",))]
        assert (first.judge(case).judgements[0][0].label, second.judge(case).judgements[0][0].label) == (1, 0)
        assert (server.keys, other.keys) == ([f"Bearer {KEY}"], ["Bearer none"])  # nobody gets another's key
        assert first.version != second.version
        assert KEY not in first.version + repr(vars(first))
    finally:
        other.close()


def test_a_missing_key_is_named_before_anything_starts(
    server: Server, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
):
    config = make_config(judges={"api": openai_section(server)})
    check_models(config)
    for value in (None, "", f"{KEY} twice"):
        monkeypatch.delenv("W2_KEY", raising=False)
        if value is not None:
            monkeypatch.setenv("W2_KEY", value)
        for what in (lambda: check_models(config), lambda: make_judge(config, "api")):
            with pytest.raises(ConfigError, match="W2_KEY") as caught:
                what()
            assert KEY not in str(caught.value)
    assert server.requests == []


def test_only_endpoints_have_endpoints(server: Server):
    with pytest.raises(ValueError, match="only a judge of kind 'openai'"):
        judge_endpoint(JudgeConfig(kind="fake"))
    endpoint = judge_endpoint(JudgeConfig(**openai_section(server)))
    assert (endpoint.base_url, endpoint.model, endpoint.api_key_env) == (server.url, "m", "W2_KEY")


def test_a_cache_directory_that_is_none(server: Server, judge_of: Callable[..., Any], tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="verdict cache"):
        judge_of("api", api=openai_section(server, cache=str(tmp_path / "file")))


def test_a_cache_below_home(
    server: Server, judge_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    judge_of("api", api=openai_section(server, cache="~/answers"))
    assert (tmp_path / "answers").is_dir()
    assert not (tmp_path / "~").exists()


def test_llm_judges_of_one_model_share_an_engine(make_config: MakeConfig):
    generator = FakeGenerator(max_model_len=1000)
    generators: dict[str, Any] = {"some/model": generator}
    section = {"kind": "llm", "model": "some/model", "pool": "judge.a"}
    config = make_config(
        judges={"a": section, "b": section | {"max_tokens": 100, "view": "causal", "temperature": 0.5}}
    )
    first, second = (make_judge(config, name, generators) for name in ("a", "b"))
    assert isinstance(first, LlmJudge) and isinstance(second, LlmJudge)
    assert first._transport._generator is second._transport._generator is generator  # type: ignore[attr-defined]
    assert list(generators) == ["some/model"]
    assert first.version.startswith("some/model/taxonomy@") and first.version.endswith("/full:512:488")
    assert second.version.endswith("/causal:100:900:t0.5p1s0")


def test_big_files_are_told_apart_without_reading_them_whole(tmp_path: Path):
    """Another training of a model has files of the same names and sizes."""
    size = 64 * 2**20 + 12345
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "model.safetensors"
    with weights.open("wb") as file:
        file.truncate(size)  # a sparse file of zeros
    names = {model_digest(str(tmp_path / "model"))}
    changes = [(0, b"x"), (size - 1, b"x"), (size // 2, b"x" * 20000)]
    for place, content in changes:
        with weights.open("r+b") as file:
            file.seek(place)
            file.write(content)
        names.add(model_digest(str(tmp_path / "model")))
    assert len(names) == 1 + len(changes)


# --- the policy and the trainer


def test_pushes_send_what_the_engines_compute_in(make_config: MakeConfig):
    def sent(**engine_args: Any) -> str:
        return sent_to_engines(make_config(policy={"kind": "vllm", "engine_args": engine_args}))

    assert sent(dtype="bfloat16") == "bfloat16"
    assert sent(dtype="float32") == sent(dtype="auto") == "float32"
    assert sent(dtype="bfloat16", quantization="fp8") == "float32"
    assert sent_to_engines(make_config()) == "float32"  # fakes


def test_fakes_of_policy_and_trainer(make_config: MakeConfig):
    engine: Any = make_rollout_engine(make_config(), 3, 0)
    assert isinstance(engine, FakeGenerator)
    assert engine.policy_version == 3
    assert isinstance(make_trainer_rank("fake", 1.0, "float32", 0, 1, "127.0.0.1", 1), FakeTrainerRank)
