"""One suite for everything that draws text, and the thread that lets many callers share one vLLM engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from bcpg_cluster.assets.chain.task import parse_question
from bcpg_cluster.errors import ConfigError, EngineError, PushError
from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.fakes.faults import Faults
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.skill import decode
from bcpg_cluster.stages.generate.protocol import GenerateRequest, RolloutEngine, Sampling
from bcpg_cluster.stages.generate.vllm_loop import EngineLoop

QUESTIONS = ["17 +25 *3 -8", "3 *4 -50 +11 *9", "99 +10", "答案 🙂 première"]
GREEDY = Sampling(max_tokens=24, temperature=0.0)
SAMPLED = Sampling(max_tokens=48)


@pytest.fixture(params=["fake", pytest.param("vllm", marks=pytest.mark.engine)])
def generator(request: pytest.FixtureRequest) -> RolloutEngine:
    """Every implementation of RolloutEngine."""
    engine: RolloutEngine = FakeGenerator() if request.param == "fake" else request.getfixturevalue("tied_engine")
    return engine


def prompts(generator: RolloutEngine) -> list[tuple[int, ...]]:
    return [generator.render([{"role": "user", "content": question}]) for question in QUESTIONS]


def requests(
    generator: RolloutEngine, sampling: Sampling, seeds: Sequence[int | None] = (None,)
) -> list[GenerateRequest]:
    return [GenerateRequest(ids, sampling, seed) for ids in prompts(generator) for seed in seeds]


def test_answers_come_in_order(generator: RolloutEngine) -> None:
    asked = requests(generator, GREEDY)
    alone = [generator.generate([request])[0] for request in asked]
    assert len({answer.token_ids for answer in alone}) > 1
    assert [a.token_ids for a in generator.generate(asked)] == [a.token_ids for a in alone]
    assert [a.token_ids for a in generator.generate(asked[::-1])] == [a.token_ids for a in alone[::-1]]
    assert generator.generate([]) == []


def test_two_threads_at_once(generator: RolloutEngine) -> None:
    asked = requests(generator, GREEDY)
    expected = [answer.token_ids for answer in generator.generate(asked)]
    with ThreadPoolExecutor(2) as threads:
        forward = threads.submit(generator.generate, asked * 20)
        backward = threads.submit(generator.generate, asked[::-1] * 20)
        assert [answer.token_ids for answer in forward.result()] == expected * 20
        assert [answer.token_ids for answer in backward.result()] == expected[::-1] * 20


def test_seeds_reproduce_in_any_batch(generator: RolloutEngine) -> None:
    asked = requests(generator, SAMPLED, seeds=range(6))
    first = [answer.token_ids for answer in generator.generate(asked)]
    again = [answer.token_ids for answer in generator.generate(asked[::-1])]
    assert first == again[::-1]
    assert len(set(first[:6])) > 1  # the six seeds of the first prompt


def test_no_seed_draws_anew(generator: RolloutEngine) -> None:
    asked = requests(generator, SAMPLED)[:1] * 8
    assert len({answer.token_ids for answer in generator.generate(asked)}) > 1


def test_records_are_complete(generator: RolloutEngine) -> None:
    asked = requests(generator, SAMPLED, seeds=range(16))
    reasons = set()
    for answer in generator.generate(asked):
        reasons.add(answer.stop_reason)
        assert 0 < len(answer.token_ids) <= SAMPLED.max_tokens
        assert len(answer.logprobs) == len(answer.token_texts) == len(answer.token_ids)
        assert all(logprob <= 0.0 for logprob in answer.logprobs)
        assert answer.policy_version == generator.policy_version
        if answer.stop_reason is StopReason.STOP:
            assert answer.token_texts[-1] == ""  # the end token is in the ids and adds nothing to the text
        else:
            assert answer.stop_reason is StopReason.LENGTH
            assert len(answer.token_ids) == SAMPLED.max_tokens
    assert reasons == {StopReason.STOP, StopReason.LENGTH}


def test_sampled_logprobs_are_the_models_own(generator: RolloutEngine) -> None:
    """At temperature 1, whatever the sampling was: raw log-probs equal scoring."""
    for sampling in (SAMPLED, GREEDY, Sampling(max_tokens=24, temperature=0.5, top_p=0.9, top_k=20)):
        answers = generator.generate(requests(generator, sampling))
        pairs = [(ids, answer.token_ids) for ids, answer in zip(prompts(generator), answers, strict=True)]
        for answer, scores in zip(answers, generator.score_tokens(pairs), strict=True):
            assert scores == pytest.approx(answer.logprobs, abs=1e-4)


def test_entropies_come_where_they_are_asked_for(generator: RolloutEngine) -> None:
    """In one batch with requests that ask for none, and without a change of what is drawn."""
    plain = requests(generator, SAMPLED, seeds=(3,))
    sampling = [replace(SAMPLED, entropy_top_k=k) for k in (1, 4, 20)]
    asked = [replace(request, sampling=more) for more in sampling for request in plain]
    answers = generator.generate([*plain, *asked])
    without, *by_k = [answers[start : start + len(plain)] for start in range(0, len(answers), len(plain))]
    for few, some, many, none in zip(*by_k, without, strict=True):
        assert none.entropies == ()
        assert few.token_ids == some.token_ids == many.token_ids == none.token_ids
        assert many.logprobs == pytest.approx(none.logprobs, abs=1e-4)
        assert len(few.entropies) == len(some.entropies) == len(many.entropies) == len(none.token_ids)
        for least, middle, most in zip(few.entropies, some.entropies, many.entropies, strict=True):
            assert 0.0 <= least <= middle + 1e-4 <= most + 2e-4  # of more tokens, a better bound


def test_score_next_is_the_next_score(generator: RolloutEngine) -> None:
    prefix = prompts(generator)[1]
    for token in (65, 66):
        whole = generator.score_tokens([(prefix, (token,))])[0][0]
        assert generator.score_next(prefix, token) == pytest.approx(whole, abs=1e-4)


def test_texts_join_to_the_text(generator: RolloutEngine, request: pytest.FixtureRequest) -> None:
    answers = generator.generate(requests(generator, SAMPLED, seeds=range(16)))
    tokenizer = None if isinstance(generator, FakeGenerator) else request.getfixturevalue("tokenizer")
    for answer in answers:
        whole = (
            tokenizer.decode(list(answer.token_ids), skip_special_tokens=True)
            if tokenizer
            else decode(answer.token_ids)
        )
        assert answer.text == whole


# --- vLLM's own ------------------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_prefix_cache_is_used(tied_engine: Any, cached_tokens: Callable[..., Any]) -> None:
    prefix = tuple(range(70, 70 + 80))  # two whole blocks and a half
    tied_engine.score_next(prefix, 7)
    with cached_tokens(tied_engine) as cached:
        tied_engine.score_next(prefix, 8)
    assert cached == [64]


@pytest.mark.engine
def test_a_refused_request_fails_its_caller_alone(tied_engine: Any) -> None:
    good = requests(tied_engine, GREEDY)
    too_long = GenerateRequest((70,) * (tied_engine.max_model_len + 1), GREEDY)
    with pytest.raises(EngineError, match="refused"):
        tied_engine.generate([*good, too_long])
    assert len(tied_engine.generate(good)) == len(good)
    assert tied_engine._loop.num_unfinished == 0


@pytest.mark.engine
def test_engine_args_are_checked_by_vllm() -> None:
    from bcpg_cluster.stages.generate.vllm_options import check_engine_args

    check_engine_args("some/model", {"max_num_seqs": 8, "dtype": "float32"})
    with pytest.raises(ConfigError, match="max_num_seqs"):
        check_engine_args("some/model", {"max_num_seq": 8})
    with pytest.raises(ConfigError, match="bcpg-cluster sets it itself"):
        check_engine_args("some/model", {"logprobs_mode": "processed_logprobs"})


def test_token_texts_of_any_bytes(tokenizer: Any) -> None:
    """Multi-byte characters, malformed bytes, special tokens, an unfinished character at the end."""
    import random

    from bcpg_cluster.stages.generate.token_texts import _prefix_texts, token_texts

    rng = random.Random(0)
    cases = [tokenizer.encode("答案 🙂 Δx → première"), tokenizer.encode("🙂")[:-1], [1, 70, 1], []]
    cases += [[rng.randrange(len(tokenizer)) for _ in range(rng.randint(1, 40))] for _ in range(300)]
    for ids in cases:
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        texts = token_texts(tokenizer, ids)
        assert len(texts) == len(ids)
        assert "".join(texts) == whole
        assert whole.startswith("".join(_prefix_texts(tokenizer, ids, whole)))
    smile = tokenizer.encode("🙂")
    assert len(smile) > 1
    assert token_texts(tokenizer, smile) == ("",) * (len(smile) - 1) + ("🙂",)


# --- the fake's own --------------------------------------------------------------------------------------------------


def test_fake_skill_shows() -> None:
    answer = parse_question(QUESTIONS[0]).answer

    def share_right(skill: float) -> float:
        fake = FakeGenerator(skill=skill)
        drawn = fake.generate([GenerateRequest(prompts(fake)[0], Sampling(400), seed) for seed in range(200)])
        return sum(generation.text.endswith(f"answer {answer}") for generation in drawn) / 200

    assert share_right(0.3) < share_right(0.6) < share_right(0.9) < share_right(1.0) == 1.0


def test_fake_faults() -> None:
    ask = [GenerateRequest((65, 10), Sampling(max_tokens=12), 0)]
    (endless,) = FakeGenerator(faults=Faults(output="endless")).generate(ask)
    assert (len(endless.token_ids), endless.stop_reason) == (12, StopReason.LENGTH)
    (empty,) = FakeGenerator(faults=Faults(output="empty")).generate(ask)
    assert (empty.text, empty.stop_reason) == ("", StopReason.STOP)
    (aborted,) = FakeGenerator(faults=Faults(output="aborted")).generate(ask)
    assert aborted.stop_reason is StopReason.ABORTED
    flaky = FakeGenerator(faults=Faults(fail_on_call=2), answer=lambda prompt: prompt.strip())
    assert flaky.generate(ask)[0].text == "A"
    with pytest.raises(EngineError):
        flaky.generate(ask)
    assert flaky.generate(ask)[0].text == "A"
    flaky.close()
    with pytest.raises(EngineError, match="closed"):
        flaky.generate(ask)


# --- the loop, on a scripted engine ----------------------------------------------------------------------------------


class ScriptedEngine:
    """Stands for vllm.LLM: answers each request with its own prompt after as many steps as ``params`` says."""

    def __init__(self) -> None:
        self.llm_engine = self
        self.engine_core = SimpleNamespace(shutdown=self.shutdown)  # the client of a core elsewhere
        self.vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=4))
        self.running: dict[str, list[Any]] = {}
        self.threads: set[int] = set()
        self.most_admitted = 0
        self.is_shut = False
        self.gate = threading.Event()
        self.gate.set()

    def add_request(self, request_id: str, prompt: dict[str, Any], params: int) -> None:
        self.threads.add(threading.get_ident())
        if params < 0:
            raise ValueError("negative")
        self.running[request_id] = [prompt["prompt_token_ids"], params]
        self.most_admitted = max(self.most_admitted, len(self.running))

    def abort_request(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            del self.running[request_id]

    def step(self) -> list[Any]:
        self.gate.wait()
        outputs = []
        for request_id, state in list(self.running.items()):
            if state[1] == 99:
                raise RuntimeError("out of memory")
            state[1] -= 1
            if state[1] <= 0:
                del self.running[request_id]
                part = SimpleNamespace(token_ids=state[0])
                outputs.append(SimpleNamespace(request_id=request_id, finished=True, outputs=[part]))
        return outputs

    def shutdown(self) -> None:
        self.is_shut = True


def ids_of(outputs: list[Any]) -> list[int]:
    return [output.outputs[0].token_ids[0] for output in outputs]


def test_loop_shares_one_thread_and_keeps_order() -> None:
    engine = ScriptedEngine()
    loop = EngineLoop(lambda: engine, "test")
    with ThreadPoolExecutor(3) as threads:
        calls = [
            threads.submit(loop.submit, [((100 * caller + i,), (7 * i) % 5) for i in range(50)]) for caller in range(3)
        ]
        assert [ids_of(call.result()) for call in calls] == [[100 * c + i for i in range(50)] for c in range(3)]
    assert len(engine.threads) == 1
    assert engine.most_admitted <= 8  # twice max_num_seqs: a huge call does not flood the engine
    assert loop.between_steps(lambda llm: llm is engine and threading.get_ident() in llm.threads)
    with pytest.raises(PushError):
        loop.between_steps(lambda llm: (_ for _ in ()).throw(PushError("no")))
    assert loop.submit([]) == []
    loop.close()
    assert engine.is_shut


def test_loop_refusal_leaves_the_others_alone() -> None:
    engine = ScriptedEngine()
    loop = EngineLoop(lambda: engine, "test")
    engine.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(loop.submit, [((1,), 3)])
        bad = threads.submit(loop.submit, [((2,), 3), ((3,), -1), ((4,), 3)])
        engine.gate.set()
        with pytest.raises(EngineError, match="refused a request: negative"):
            bad.result()
        assert ids_of(other.result()) == [1]
    assert loop.num_unfinished == 0
    loop.close()


def test_loop_death_fails_everyone() -> None:
    loop = EngineLoop(ScriptedEngine, "test")
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(loop.submit, [((1,), 1000)] * 20), threads.submit(loop.submit, [((2,), 99)])]
        for call in calls:
            with pytest.raises(EngineError, match="out of memory"):
                call.result()
    with pytest.raises(EngineError, match="out of memory"):
        loop.submit([((1,), 1)])
    with pytest.raises(EngineError, match="out of memory"):
        loop.between_steps(lambda llm: None)
    loop.close()


def test_loop_close_fails_those_who_wait() -> None:
    loop = EngineLoop(ScriptedEngine, "test")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(loop.submit, [((1,), 10**9)])
        while not loop.num_unfinished:
            pass
        loop.close()
        with pytest.raises(EngineError, match="closed"):
            call.result()


def test_loop_build_error_reaches_the_caller() -> None:
    def build() -> Any:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        EngineLoop(build, "test")


@pytest.mark.engine
def test_closing_one_engine_leaves_the_others_of_its_process_alone(
    tied_engine: Any, untied_model: tuple[Any, str], engine_args: dict[str, Any]
) -> None:
    """vLLM's own shutdown destroys communication groups that belong to the process."""
    import gc

    from bcpg_cluster.stages.generate.vllm_generator import VllmGenerator

    request = [GenerateRequest((5, 6, 7), Sampling(max_tokens=4, temperature=0.0))]
    before = tied_engine.generate(request)
    other = VllmGenerator(untied_model[1], engine_args=engine_args, weight_transfer_backend=None)
    other.close()
    del other
    gc.collect()
    assert tied_engine.generate(request) == before
