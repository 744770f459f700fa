"""What `plan` says is never less than what is done: counted at the real segmenters, the real stages and the real judges."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.config.judges import JudgeConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Outcome, OutcomeStatus, Prompt, Rollout, SampleId, StopReason
from bcpg_cluster.run.build.costs import (
    GpuMemory,
    calls_each,
    cascade_facts,
    gpu_memory,
    judge_calls,
    plan_facts,
    work_bound,
)
from bcpg_cluster.run.build.judges import judge_options
from bcpg_cluster.run.build.segmenters import make_segmenter
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Generation, Sampling
from bcpg_cluster.stages.job import StageJob
from bcpg_cluster.stages.judge.llm.llm_judge import LlmJudge
from bcpg_cluster.stages.judge.llm.transport import Ask, GeneratorTransport, Reply
from bcpg_cluster.stages.judge.prm.layout import Rendered
from bcpg_cluster.stages.judge.prm.windows import to_judgements, window_inputs
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase, Judged
from bcpg_cluster.stages.judge.stage import judge as judge_stage
from bcpg_cluster.stages.segment.protocol import ByText
from bcpg_cluster.stages.segment.stage import segment
from bcpg_cluster.store.reports import RoundReport
from bcpg_cluster.store.rows import outcome_row, prompt_row, rollout_row

MakeConfig = Callable[..., Config]
T = TypeVar("T")

# --- judges that count what they are asked -----------------------------------------------------------------------------


ANSWERS = ("nonsense", "0 correct none", "0 wrong logic\n1 correct none")


class CountingGenerator(FakeGenerator):
    """Answers in the format or not, as chance has it, and counts its requests."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        said = ANSWERS if seed % 2 else ANSWERS[:1]
        super().__init__(answer=lambda _: draw.choice(said))
        self.num_asked = 0

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        self.num_asked += len(requests)
        return super().generate(requests)


class CountingEndpoint:
    """A transport that counts three bytes a token, as endpoints do."""

    model, decoding, is_bound, enforces = "http://h/v1#m", dict[str, Any](), True, False

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.num_asked = 0

    def settings(self, *, sample: int, is_json: bool) -> str:
        return ""

    def count_tokens(self, text: str) -> int:
        return -(-len(text.encode()) // 3)

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        self.num_asked += len(asks)
        for index, _ in enumerate(asks):
            yield index, Reply(self._draw.choice(ANSWERS))

    def close(self) -> None:
        pass


class Characters:
    """A convention in which a character is a token, and a step ends with one more."""

    name, head, pair, separator_id, version = "characters", "value", None, None, "1"

    def render(self, problem: str, steps: Sequence[str]) -> Rendered:
        ids, positions = [0] * len(problem), []
        for step in steps:
            ids += [1] * len(step)
            positions.append(len(ids))
            ids.append(2)
        return Rendered(tuple(ids), tuple(positions))


class CountingScorer:
    """The windows of a process reward model of a short context, without the model."""

    version = "scorer"

    def __init__(self, capacity: int, context_tokens: int) -> None:
        self._capacity, self._context_tokens = capacity, context_tokens
        self.num_asked = 0

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        inputs = window_inputs(Characters(), cases, self._capacity, self._context_tokens)  # type: ignore[arg-type]
        self.num_asked += len(inputs)
        scores = [[0.5] * (part.window.end - part.window.first) for part in inputs]
        return Judged(to_judgements(cases, inputs, scores))

    def close(self) -> None:
        pass


class CountingFake(FakeJudge):
    """Counts the responses it is given."""

    num_asked = 0

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        self.num_asked += len(cases)
        return super().judge(cases)


def counting_judge(config: Config, name: str, seed: int) -> tuple[Judge, Callable[[], int]]:
    """The judge of a config on a counting engine, and its count."""
    section = config.judges[name]
    if section.kind == "prm":
        scorer = CountingScorer(random.Random(seed).randint(4, 16), section.context_tokens)
        return scorer, lambda: scorer.num_asked
    if section.kind == "openai":
        endpoint = CountingEndpoint(seed)
        return LlmJudge(name, endpoint, judge_options(section)), lambda: endpoint.num_asked
    if section.kind == "llm":
        generator = CountingGenerator(seed)
        transport = GeneratorTransport(generator, "m", Sampling(section.max_tokens, 0.0), max_prompt_tokens=10**6)
        return LlmJudge(name, transport, judge_options(section)), lambda: generator.num_asked
    fake = CountingFake(name)
    return fake, lambda: fake.num_asked


# --- one round ---------------------------------------------------------------------------------------------------------

Response = tuple[list[str], float | None]


def calls_of(config: Config, groups: Sequence[Sequence[Response]], seed: int = 0) -> dict[str, int]:
    """What each judge is asked about a round of these responses, by the stages as they run."""
    prompts = [Prompt(f"p{index}", "1 +1", "2") for index in range(len(groups))]
    rollouts, outcomes = [], []
    for prompt, group in zip(prompts, groups, strict=True):
        for sample, (texts, reward) in enumerate(group):
            id_ = SampleId(1, prompt.prompt_id, sample)
            tokens = tuple(range(len(texts)))
            rollouts.append(Rollout(id_, (1,), tokens, (-0.5,) * len(tokens), tuple(texts), StopReason.LENGTH, 0, None))
            status = OutcomeStatus.VERIFIED if reward is not None else OutcomeStatus.VERIFIER_ERROR
            outcomes.append(Outcome(id_, status, reward, None))
    job = StageJob(Path("/nowhere"), "x", "x", 1, 0, "a", {})
    tables = {"rollouts": list(map(rollout_row, rollouts)), "outcomes": list(map(outcome_row, outcomes))}
    steps = segment(
        tables, job, cut=ByText(make_segmenter(config.segment)), min_verified_share=config.weigh.min_verified_share
    ).rows
    counts = {}
    for name in config.judges:
        judge, count = counting_judge(config, name, seed)
        tables = {"prompts": list(map(prompt_row, prompts)), "steps": steps}
        judge_stage(tables, job, engine=judge, name=name, show_gold=False)
        counts[name] = count()
    return counts


ENDPOINT = {"base_url": "http://127.0.0.1:9/v1"}
LIMIT = st.none() | st.integers(1, 6)


@st.composite
def judge_sections(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["llm", "openai", "prm", "fake"]))
    section: dict[str, Any] = {"kind": kind}
    if kind != "fake":
        section |= {"model": "m"}
    if kind == "prm":
        section |= {"context_tokens": draw(st.integers(0, 40))}
    if kind == "openai":
        section |= {"endpoint": ENDPOINT}
    if kind in ("llm", "openai"):
        section |= {
            "prompt": draw(st.sampled_from(["embedded:taxonomy", "embedded:compact"])),
            "view": draw(st.sampled_from(["causal", "full"])),
            "window_steps": draw(LIMIT),
            "window_tokens": draw(LIMIT.map(lambda limit: limit and limit * 8)),
            "look_ahead": draw(st.booleans()),
            "votes": (votes := draw(st.sampled_from([1, 1, 3]))),
            "temperature": 0.0 if votes == 1 else 0.7,
        }
    return section


@st.composite
def segment_sections(draw: st.DrawFn) -> dict[str, Any]:
    smallest = draw(st.integers(1, 8))
    return {
        "kind": draw(st.sampled_from(["structural", "delimiter"])),
        "split_on": draw(st.sampled_from(["line", "paragraph"])),
        "cues_inside_lines": draw(st.booleans()),
        "min_tokens": smallest,
        "max_tokens": draw(st.sampled_from([0, smallest, 3 * smallest])),
        "cut_after": ["\n"],
        "merge": draw(st.booleans()),
        "merge_min_tokens": smallest,
        "merge_target_tokens": 2 * smallest,
        "merge_max_tokens": draw(st.sampled_from([0, 2 * smallest, 4 * smallest])),
    }


TOKENS = st.sampled_from(["a", "\n", "a\n", "\n\n", ". ", " ", "", "</think>", "Wait, ", "x" * 30, "é"])


@st.composite
def rounds(draw: st.DrawFn, num_prompts: int, group_size: int, max_tokens: int) -> list[list[Response]]:
    """Groups of any responses and rewards, and often the worst there is: all wrong but one, and a step in every token."""
    worst = st.sampled_from(["a\n", "</think>", "\n"]).map(lambda token: [token] * (max_tokens - 1) + ["a"])
    response = st.tuples(worst | st.lists(TOKENS, max_size=max_tokens), st.sampled_from([0.0, 0.0, 1.0, None]))
    groups = []
    for _ in range(num_prompts):
        if draw(st.booleans()):
            groups.append([(["a"], 1.0), *((texts, 0.0) for texts in draw(several(worst, group_size - 1)))])
        else:
            groups.append(draw(several(response, group_size)))
    return groups


def several(strategy: st.SearchStrategy[T], number: int) -> st.SearchStrategy[list[T]]:
    return st.lists(strategy, min_size=number, max_size=number)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_round_asks_more_than_was_planned(make_config: MakeConfig, data: st.DataObject):
    group_size, num_prompts, max_tokens = (data.draw(st.integers(*span)) for span in ((2, 3), (1, 2), (1, 16)))
    sections = data.draw(st.lists(judge_sections(), min_size=1, max_size=3))
    config = make_config(
        judges={f"j{index}": section for index, section in enumerate(sections)},
        generate={"group_size": group_size, "max_tokens": max_tokens},
        prompts={"per_round": num_prompts},
        segment=data.draw(segment_sections()),
    )
    groups = data.draw(rounds(num_prompts, group_size, max_tokens))
    planned, counted = judge_calls(config), calls_of(config, groups, data.draw(st.integers(0, 9)))
    assert all(counted[name] <= planned[name] for name in planned), (counted, planned)
    assert work_bound(config, 0).judge_calls == sum(planned.values())


# --- worked by hand ----------------------------------------------------------------------------------------------------


def one_group(make_config: MakeConfig, texts: list[str], judge: dict[str, Any], **sections: Any) -> tuple[int, int]:
    """Calls planned and made: one prompt, a right response and a wrong one of these tokens, which is as long as may be."""
    config = make_config(
        judges={"j": judge}, generate={"group_size": 2, "max_tokens": len(texts)}, prompts={"per_round": 1}, **sections
    )
    made = calls_of(config, [[(["a"], 1.0), (texts, 0.0)]])
    return judge_calls(config)["j"], made["j"]


LLM = {"kind": "llm", "model": "m", "prompt": "embedded:compact"}
OPENAI = LLM | {"kind": "openai", "endpoint": ENDPOINT}


@pytest.mark.parametrize("kind", [LLM, OPENAI])
@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({}, 1),
        ({"view": "causal"}, 6),
        ({"window_steps": 2}, 3),
        ({"window_steps": 4}, 2),
        ({"window_steps": 2, "look_ahead": True}, 3),
        ({"window_tokens": 1}, 6),
        ({"view": "causal", "window_steps": 2}, 6),  # windows are for the full view
        ({"window_steps": 4, "votes": 5, "temperature": 0.7}, 10),
    ],
)
def test_six_lines_of_a_token_each(
    make_config: MakeConfig, kind: dict[str, Any], options: dict[str, Any], calls: int
) -> None:
    assert one_group(make_config, ["a\n"] * 6, kind | options) == (calls, calls)


def test_an_answer_that_cannot_be_read_is_asked_for_twice(make_config: MakeConfig) -> None:
    # The taxonomy prompt has words for a second try, and its answers are JSON, which these are not.
    causal = LLM | {"prompt": "embedded:taxonomy", "view": "causal"}
    assert one_group(make_config, ["a\n"] * 6, causal) == (12, 12)


def test_smallest_steps_do_not_lower_the_bound(make_config: MakeConfig) -> None:
    """What ends a thought ends a step, however short."""
    for segmenting in (
        {"min_tokens": 8},
        {"merge": True, "merge_min_tokens": 8, "merge_target_tokens": 8, "merge_max_tokens": 8},
    ):
        looping = ["</think>"] * 5 + ["a"]
        assert one_group(make_config, looping, LLM | {"view": "causal"}, segment=segmenting) == (6, 6)


def test_windows_of_a_process_reward_model() -> None:
    """Two steps fit at once: the first window scores two of six, and each later one a single step."""
    scorer = CountingScorer(capacity=len("p") + 2 * 3, context_tokens=0)
    judged = scorer.judge([JudgeCase("p", ("a\n",) * 6)])
    assert all(said.score == 0.5 for said in judged.judgements[0])
    assert scorer.num_asked == calls_each(JudgeConfig(kind="prm", model="m"), max_tokens=6) == 5


def test_pathfinder_is_asked_twice_about_every_step() -> None:
    for section in ({"model": "m", "convention": "pathfinder"}, {"model": "declare-lab/PathFinder-PRM-7B"}):
        assert calls_each(JudgeConfig(kind="prm", **section), max_tokens=6) == 12


def test_the_second_model_of_a_judge_takes_memory_too(make_config: MakeConfig) -> None:
    section = {"kind": "prm", "model": "PRIME-RL/EurusPRM-Stage2", "convention": "implicit"}
    pools = {"judge.j": {"members": 1, "num_gpus": 1}}

    def memory(reference: str) -> GpuMemory | None:
        judges = {"j": section | {"reference_model": reference, "engine_args": {"dtype": "bfloat16"}}}
        return gpu_memory(make_config(judges=judges, pools=pools), "judge.j")

    row = memory("Qwen/Qwen2.5-Math-7B-Instruct")
    assert row is not None and row.parts is not None
    assert row.parts["weights of Qwen/Qwen2.5-Math-7B-Instruct"] == row.parts["weights"] == pytest.approx(14.2, abs=0.1)
    unknown = memory("nobody/knows-its-size")
    assert unknown is not None and unknown.parts is None  # half the memory would be worse than none said


def test_calls_of_all_judges_and_rounds(make_config: MakeConfig) -> None:
    judges = {"j": OPENAI | {"view": "causal"}, "k": LLM | {"window_steps": 3}}
    config = make_config(judges=judges, generate={"group_size": 4, "max_tokens": 10}, prompts={"per_round": 5})
    of_fakes = {"llm": 15, "prm": 15, "truth": 15}  # of 5 * (4 - 1) wrong responses at most
    assert judge_calls(config) == of_fakes | {"j": 15 * 10, "k": 15 * 4}
    facts = plan_facts(config, 3, num_test=2)
    assert facts.total.judge_calls == 3 * facts.per_round.judge_calls == 3 * (45 + 150 + 60)
    assert facts.total.evaluation_samples == 4 * facts.per_round.evaluation_samples  # the base is measured too


def test_what_a_cascade_saves_is_estimated_by_the_newest_round_that_judged(make_config: MakeConfig) -> None:
    config = make_config(judges={"llm": {"kind": "fake", "after": "prm"}})
    (new,) = cascade_facts(config, {})
    assert (new.judge, new.after, new.saved_share) == ("llm", ("prm",), None)
    assert new.calls == judge_calls(config)["llm"]
    judged = RoundReport(
        round=1, verdicts={"judge.llm": {"judge.calls": 10.0, "judge.calls.not_made": 30.0}, "judge.prm": {}}
    )
    (known,) = cascade_facts(config, {0: RoundReport(round=0), 1: judged, 2: RoundReport(round=2)})
    assert (known.saved_share, known.round) == (0.75, 1)
    assert cascade_facts(make_config(), {1: judged}) == []


def test_a_judge_that_is_not_asked_by_calls_saves_responses(make_config: MakeConfig) -> None:
    config = make_config(judges={"llm": {"kind": "fake", "after": "prm"}})
    judged = RoundReport(round=1, verdicts={"judge.llm": {"samples": 40.0, "samples.not_asked": 10.0}})
    (known,) = cascade_facts(config, {1: judged})
    assert (known.saved_share, known.round) == (0.25, 1)
