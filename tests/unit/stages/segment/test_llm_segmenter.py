"""stages/segment/llm: what a model is asked about lines, what of its answers is read, and what is done about the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.run.build.costs import segment_calls, work_bound
from bcpg_cluster.run.build.judges import judge_options
from bcpg_cluster.run.build.members import host_judges
from bcpg_cluster.run.build.segmenters import make_response_segmenter
from bcpg_cluster.run.preflight.notes import segmenter_notes
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.generate.protocol import Sampling
from bcpg_cluster.stages.judge.llm.cache import VerdictCache
from bcpg_cluster.stages.judge.llm.llm_judge import LlmJudge
from bcpg_cluster.stages.judge.llm.transport import Ask, GeneratorTransport, Reply
from bcpg_cluster.stages.segment.llm.lines import NumberedLines, read_starts
from bcpg_cluster.stages.segment.llm.llm_segmenter import LlmOptions, LlmSegmenter
from bcpg_cluster.stages.segment.protocol import SampledResponse, Segmented
from bcpg_cluster.stages.segment.segmenters import DelimiterSegmenter

MakeConfig = Callable[..., Config]
TEXT = "Let $a = 1.\n2$. Then b.\nSo c.\n\nWait, no.\n"
LINES = ["Let $a = 1.\n2$. ", "Then b.\n", "So c.\n\n", "Wait, no.\n"]
ENDPOINT = {"base_url": "http://127.0.0.1:9/v1"}


class Scripted:
    """A transport with a list of replies; what it was asked is kept."""

    model, decoding, is_bound = "scripted", {}, False

    def __init__(self, *replies: str | Reply) -> None:
        self.replies, self.asks = list(replies), list[Ask]()

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for index, ask in enumerate(asks):
            self.asks.append(ask)
            reply = self.replies.pop(0)
            yield index, Reply(reply, prompt_tokens=10, answer_tokens=2) if isinstance(reply, str) else reply


def cut(transport: Scripted, text: str = TEXT, **options: Any) -> tuple[list[str], Segmented]:
    segmenter = LlmSegmenter(transport, LlmOptions(DelimiterSegmenter(), **options))  # type: ignore[arg-type]
    found = segmenter.cut([SampledResponse(list(text))])
    return [step.text for step in found.steps[0]], found


def test_lines_and_sentences_are_numbered_but_none_inside_a_formula():
    lines = NumberedLines.of(list(TEXT))
    assert [TEXT[a:b] for a, b in zip(lines.begins, [*lines.begins[1:], len(TEXT)], strict=True)] == LINES
    assert lines.messages(1, 4)[1]["content"] == (
        "The solution:\n1: Let $a = 1.\n2$. \n2: Then b.\n3: So c.\n4: Wait, no.\n\nWhich of the lines 1 to 4 begin a step?"
    )
    assert lines.parts(4) == [(1, 4)]
    assert lines.parts(3) == [(1, 2), (3, 4)]  # equal parts
    assert lines.messages(3, 4)[1]["content"].startswith(
        "The lines before, for context:\nLet $a = 1.\n2$. \nThen b.\n\n"
    )


def test_the_model_says_where_steps_begin():
    steps, found = cut(Scripted('{"starts": [1, 3]}'))
    assert steps == ["".join(LINES[:2]), "".join(LINES[2:])]
    assert found.counts == {"llm.calls": 1, "llm.prompt_tokens": 10, "llm.answer_tokens": 2}
    assert cut(Scripted('{"starts": [4]}'))[0] == ["".join(LINES[:3]), LINES[3]]  # line 1 begins one anyway


def test_a_long_response_is_asked_about_in_parts():
    transport = Scripted('{"starts": [1]}', '{"starts": []}')
    assert cut(transport, max_lines=3)[0] == [TEXT]  # no step begins in the second part
    assert len(transport.asks) == 2


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"starts": [1, 2]}', (1, 2)),
        ('```json\n{"starts": [2]}\n```', (2,)),
        ('```JSON\r\n{"starts": [2]}\r\n```', (2,)),
        ('<think>{"starts": [9]}</think>\n{"starts": [2]}', (2,)),
        ('{"starts": []}', None),  # a response begins with a step
        ('{"starts": [2, 1]}', None),
        ('{"starts": [1, 1]}', None),
        ('{"starts": [0]}', None),
        ('{"starts": [6]}', None),
        ('{"starts": [true]}', None),
        ('{"starts": [1.0]}', None),
        ('{"starts": "1"}', None),
        ('{"starts": [1], "starts": [2]}', None),
        ('{"starts": [1], "why": ""}', None),
        ("[1, 2]", None),
        ("The steps begin at 1 and 2.", None),
        ('Here: {"starts": [1]}', None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_answers_are_read_strictly(answer: str, expected: tuple[int, ...] | None):
    assert read_starts(answer, 1, 5) == expected


def test_a_later_part_may_begin_no_step():
    assert read_starts('{"starts": []}', 3, 5) == ()


def test_what_cannot_be_read_is_asked_again_with_what_was_wrong():
    transport = Scripted("1 and 3", '{"starts": [1, 3]}')
    steps, found = cut(transport)
    assert len(steps) == 2
    assert found.counts["llm.calls.repair"] == found.counts["llm.calls.repaired"] == 1
    assert [message["role"] for message in transport.asks[1].messages] == ["system", "user", "assistant", "user"]
    assert "whole numbers from 1 to 4" in transport.asks[1].messages[3]["content"]


@pytest.mark.parametrize(
    ("replies", "why"),
    [(("1 and 3", "I said so"), "unreadable"), ((Reply("too long", VerdictStatus.REFUSED),), "refused")],
)
def test_what_stays_unreadable_is_cut_by_the_fallback_and_counted(replies: tuple[str | Reply, ...], why: str):
    steps, found = cut(Scripted(*replies))
    assert steps == ["".join(LINES[:3]), LINES[3]]  # by blank lines
    assert found.counts[f"llm.fallback.{why}"] == 1


def test_a_part_that_cannot_be_read_spoils_its_response_once():
    _, found = cut(Scripted("x", "y", "x", "y"), max_lines=2)
    assert found.counts["llm.fallback.unreadable"] == 1


@pytest.mark.parametrize("status", [VerdictStatus.ENGINE_LOST, VerdictStatus.TIMEOUT])
def test_a_failure_of_the_engine_cuts_nothing(status: VerdictStatus):
    with pytest.raises(EngineError, match="scripted gave no answer"):
        cut(Scripted(Reply("gone", status)))


def test_a_single_line_asks_nothing_and_an_empty_response_has_no_steps():
    assert cut(Scripted(), "one line")[0] == ["one line"]
    segmenter = LlmSegmenter(Scripted(), LlmOptions(DelimiterSegmenter()))  # type: ignore[arg-type]
    assert segmenter.cut([SampledResponse([]), SampledResponse([""])]).steps[0] == []


def test_answers_are_cached_and_only_thoughts_that_end_are_read(tmp_path: Path):
    options = LlmOptions(DelimiterSegmenter(), answer_after="</think>")
    first = Scripted('<think>1, 3</think>{"starts": [1, 3]}')
    for transport, stored in ((first, 0), (Scripted(), 1)):
        segmenter = LlmSegmenter(transport, options, VerdictCache(tmp_path))  # type: ignore[arg-type]
        found = segmenter.cut([SampledResponse(list(TEXT))])
        assert (len(found.steps[0]), found.counts.get("llm.calls.stored", 0)) == (2, stored)
    lost = LlmSegmenter(Scripted('{"starts": [1]}', '{"starts": [1]}'), options)  # type: ignore[arg-type]
    assert lost.cut([SampledResponse(list(TEXT))]).counts["llm.fallback.unreadable"] == 1


def test_a_schema_binds_the_answer_but_no_thoughts():
    for options, is_bound in (({}, True), ({"answer_after": "</think>"}, False)):
        transport = Scripted('</think>{"starts": [1, 3]}' if options else '{"starts": [1, 3]}')
        transport.is_bound = True
        assert len(cut(transport, **options)[0]) == 2
        assert (transport.asks[0].schema is not None) == is_bound


# --- from the config


def _config(make_config: MakeConfig, **segment: Any) -> Config:
    judges = {"api": {"kind": "openai", "model": "m", "endpoint": ENDPOINT}, "truth": {"kind": "chain_truth"}}
    return make_config(judges=judges, segment={"kind": "llm", "judge": "api", **segment})


def test_it_is_served_where_its_judge_is(make_config: MakeConfig):
    config = _config(make_config)
    assert config.segment_pool == "judge.api"
    pools = {stage.name: stage.pool for stage in config.data_stages}
    assert pools["segment"] == pools["judge.api"] == "judge.api"
    worker = host_judges(config.model_dump(mode="json"), "judge.api")
    assert {"segment", "judge.api"} <= set(worker._stages)
    worker.close()
    assert make_config().segment_pool == "cpu"


def test_it_asks_over_its_judges_own_transport(make_config: MakeConfig):
    generator = FakeGenerator(answer=lambda prompt: '{"starts": [1, 3]}')
    transport = GeneratorTransport(generator, "m", Sampling(99), 10_000)
    config = _config(make_config, merge=False)
    judge = LlmJudge("api", transport, judge_options(config.judges["api"]))
    segmenter = make_response_segmenter(config, lambda name: {"api": judge}[name])
    assert [step.text for step in segmenter.cut([SampledResponse(list(TEXT))]).steps[0]] == [
        "".join(LINES[:2]),
        "".join(LINES[2:]),
    ]


def test_plan_counts_its_calls(make_config: MakeConfig):
    config = _config(make_config, max_lines=2)
    wrong = config.prompts.per_round * (config.generate.group_size - 1)
    assert segment_calls(config) == wrong * 2 * -(-config.generate.max_tokens // 2)
    without = make_config(judges={name: judge.model_dump() for name, judge in config.judges.items()})
    assert work_bound(config, 3).judge_calls == work_bound(without, 3).judge_calls + segment_calls(config)


def test_answers_that_may_be_cut_off_are_told(make_config: MakeConfig):
    (note,) = segmenter_notes(_config(make_config, max_lines=169))
    assert "at most 512 tokens name about 168 lines, and a question has up to 169" in note
    assert segmenter_notes(_config(make_config, max_lines=168)) == segmenter_notes(make_config()) == []


@pytest.mark.parametrize(
    ("segment", "what"),
    [
        ({"kind": "llm"}, "segment.kind 'llm' needs segment.judge"),
        ({"judge": "api"}, "no other kind takes one"),
        ({"kind": "llm", "judge": "truth"}, "no judge of kind 'llm' or 'openai'; those of this config are none"),
    ],
)
def test_what_cannot_be_served_is_refused(make_config: MakeConfig, segment: dict[str, Any], what: str):
    with pytest.raises(ConfigError, match=what):
        make_config(segment=segment)
