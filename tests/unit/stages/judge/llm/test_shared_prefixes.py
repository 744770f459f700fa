"""What a prefix cache can serve of a judge's prompts, and the order that has it do so."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Generation, Sampling
from bcpg_cluster.stages.judge.llm.judge_prompt import JudgePrompt
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge
from bcpg_cluster.stages.judge.llm.shared_prefixes import shareable_tokens
from bcpg_cluster.stages.judge.llm.transport import GeneratorTransport
from bcpg_cluster.stages.judge.protocol import JudgeCase


def test_shared_blocks_by_hand() -> None:
    prompts = [(1, 2, 3, 4, 5), (1, 2, 3, 4, 9), (1, 2, 3, 4), (7, 2, 3, 4, 5), (1, 2)]
    # The third is all there, but its last token has to be computed; the fourth begins otherwise, so nothing behind counts.
    assert shareable_tokens(prompts, 2) == [0, 4, 2, 0, 0]
    assert shareable_tokens([(1, 2, 3)] * 2, 4) == [0, 0]


@given(st.lists(st.lists(st.integers(0, 1), max_size=12), max_size=8), st.integers(1, 4), st.randoms())
def test_the_bound_is_what_no_order_changes_much(prompts: list[list[int]], block: int, rng) -> None:
    shuffled = rng.sample(prompts, len(prompts))
    distinct = {tuple(p[:end]) for p in prompts for end in range(block, len(p) + 1, block)}
    whole = sum(len(p) // block for p in prompts)
    for order in (prompts, shuffled):
        shared = shareable_tokens(order, block)
        assert all(0 <= n < max(len(p), 1) for n, p in zip(shared, order, strict=True))
        # All but one copy of each block, less the blocks that end a prompt and are computed all the same.
        assert 0 <= (whole - len(distinct)) * block - sum(shared) <= block * len(prompts)


@dataclass
class SmallCache:
    """An engine whose prefix cache keeps few blocks, those used last."""

    room: int
    prefix_block_tokens: int = 8
    policy_version: int = 0
    max_model_len: int | None = None
    kept: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    prompts: list[str] = field(default_factory=list)

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return tuple("".join(message["content"] for message in messages).encode())

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        return [self._answer(bytes(request.prompt_token_ids)) for request in requests]

    def _answer(self, prompt: bytes) -> Generation:
        self.prompts.append(prompt.decode())
        block, cached, is_there = self.prefix_block_tokens, 0, True
        for end in range(block, len(prompt) + 1, block):
            is_there = is_there and prompt[:end] in self.kept and end < len(prompt)
            cached += block * is_there
            self.kept[prompt[:end]] = None
            self.kept.move_to_end(prompt[:end])
            while len(self.kept) > self.room:
                self.kept.popitem(last=False)
        return Generation((1,), (0.0,), ("0 correct none",), StopReason.STOP, 0, num_cached_tokens=cached)

    def close(self) -> None:
        """Nothing to free."""


PROMPT = JudgePrompt("test", "", "$problem\n$steps\n$first $last", "$index $text", answer="lines")
PROBLEMS = [f"problem number {number} of many, told at length" for number in range(12)]
CASES = [
    JudgeCase(problem, tuple(f"response {sample} step {step} is worked out" for step in range(6)))
    for sample in range(4)
    for problem in PROBLEMS
]  # responses to a problem far apart


def test_the_causal_view_asks_so_that_a_small_cache_reaches_the_bound() -> None:
    engine = SmallCache(room=40)  # of the 1,700 blocks or so of these prompts
    judge = LlmJudge("j", GeneratorTransport(engine, "m", Sampling(8, 0.0), 10_000), JudgeOptions(PROMPT, "causal"))
    judged = judge.judge(CASES)
    asked = [(prompt.splitlines()[0], prompt.splitlines()[1:-1]) for prompt in engine.prompts]
    assert [problem for problem, _ in asked] == [problem for problem in PROBLEMS for _ in range(4 * 6)]
    assert [len(steps) for _, steps in asked] == list(range(1, 7)) * len(CASES)
    counts = judged.counts
    assert counts["prompt_tokens.shareable"] > 0.6 * counts["prompt_tokens"]
    assert counts["prompt_tokens.cached"] >= 0.9 * counts["prompt_tokens.shareable"]
    assert [len(said) for said in judged.judgements] == [6] * len(CASES)
