"""stages/segment/by_token.py: where a step begins by tokens, worked by hand, and what lacks the sampler's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from bcpg_cluster.config.responses import SegmentConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.run.build.segmenters import (
    check_for_imports,
    check_segmenter,
    check_stored,
    make_response_segmenter,
    make_segmenter,
    marked_cues,
)
from bcpg_cluster.stages.segment.by_token import ConfidenceSegmenter, EntropySegmenter, FixedSegmenter
from bcpg_cluster.stages.segment.contract import failures
from bcpg_cluster.stages.segment.merge import MergeRules
from bcpg_cluster.stages.segment.protocol import ByText, ResponseSegmenter, SampledResponse


def steps(
    cut: ResponseSegmenter, tokens: list[str], probabilities: Sequence[float] = (), entropies: Sequence[float] = ()
) -> list[str]:
    response = SampledResponse(tokens, [math.log(p) for p in probabilities], entropies)
    return [step.text for step in cut.cut([response]).steps[0]]


@pytest.mark.parametrize(
    ("tokens", "number", "expected"),
    [
        (list("abcdefg"), 3, ["abc", "def", "g"]),
        (list("abc"), 3, ["abc"]),
        (list("ab $xyz$ c"), 4, ["ab $xyz$", " c"]),  # place 4 is in the formula: the piece ends after it
        (["a", "b", "c", "</think>", "d", "e", "f"], 2, ["ab", "c</think>", "de", "f"]),  # counted anew after it
        (["a", "", "", "\U0001f389", "b", "c"], 2, ["a\U0001f389", "bc"]),  # a character's parts are not torn apart
        ([], 2, []),
        (["", "", ""], 2, [""]),
        ([" ", "\n", "", " "], 2, [" \n "]),
    ],
)
def test_fixed(tokens: list[str], number: int, expected: list[str]):
    assert [step.text for step in FixedSegmenter(number)(tokens)] == expected


def test_fixed_keeps_the_published_contract():
    assert failures(FixedSegmenter(3)) == []


def test_an_unsure_token_begins_a_step():
    tokens, sure = ["So", " 2", "+", "3", " is", " 6", "."], [0.1, 0.9, 0.5, 0.05, 0.9, 0.02, 0.9]
    assert steps(ConfidenceSegmenter(0.06), tokens, sure) == ["So 2+", "3 is", " 6."]
    assert steps(ConfidenceSegmenter(0.05), tokens, sure) == ["So 2+3 is", " 6."]  # below, not at
    assert steps(ConfidenceSegmenter(0.06, min_tokens=4), tokens, sure) == ["So 2+3 is", " 6."]  # token 3 is too soon
    merged = ConfidenceSegmenter(0.06, merge=MergeRules(1, 7, 7, cues=()))
    assert steps(merged, tokens, sure) == ["So 2+3 is 6."]


def test_an_unsure_token_in_a_formula_begins_no_step():
    tokens = ["a ", "$x", "=", "2$", " b"]
    assert steps(ConfidenceSegmenter(0.5), tokens, [0.1] * 5) == ["a ", "$x=2$", " b"]


def test_a_torn_token_begins_a_step_where_entropy_is_high():
    tokens = ["So", " 2", "+", "3"]
    assert steps(EntropySegmenter(1.0), tokens, entropies=[9.0, 1.0, 1.1, 0.0]) == ["So 2", "+3"]


def test_a_token_that_the_stored_entropy_misses_leaves_room_for_a_later_one():
    tokens = ["a", " b", " c", " d", " e", " f"]
    exact, stored = [0.0, 0.0, 0.0, 2.1, 3.0, 0.0], [0.0, 0.0, 0.0, 1.9, 3.0, 0.0]
    assert steps(EntropySegmenter(2.0, min_tokens=3), tokens, entropies=exact) == ["a b c", " d e f"]
    assert steps(EntropySegmenter(2.0, min_tokens=3), tokens, entropies=stored) == ["a b c d", " e f"]


@pytest.mark.parametrize("kind", ["confidence", "entropy"])
def test_a_response_without_the_numbers_is_refused(kind: str, make_config: object):
    cut: ResponseSegmenter = ConfidenceSegmenter(0.1) if kind == "confidence" else EntropySegmenter(1.0)
    with pytest.raises(ConfigError, match=f"segment.kind is '{kind}', and a response of 2 tokens has 0"):
        cut.cut([SampledResponse(["a", "b"])])
    section = SegmentConfig(kind=kind)  # type: ignore[arg-type]
    check_segmenter(section)
    with pytest.raises(ConfigError, match="imported responses come without"):
        check_for_imports(section)
    check_for_imports(SegmentConfig(kind="fixed"))
    column = {"confidence": "sampler_logprobs", "entropy": "entropies"}[kind]
    check_stored(section, [{"token_ids": [1, 2], column: [0.0, 0.0]}])
    with pytest.raises(ConfigError, match="a response of 2 tokens has 0"):
        check_stored(section, [{"token_ids": [1, 2], column: None}])
    check_stored(SegmentConfig(), [{"token_ids": [1, 2]}])
    with pytest.raises(ConfigError, match="reads what the sampler said of each token, which a text lacks"):
        make_segmenter(section)


def test_the_section_makes_them(make_config: object):
    def made(**segment: object) -> ResponseSegmenter:
        config: Config = make_config(segment=segment)  # type: ignore[operator]
        return make_response_segmenter(config, lambda name: pytest.fail(f"asked for judge {name}"))

    assert made(kind="fixed", fixed_tokens=7) == ByText(FixedSegmenter(7))
    assert made(kind="confidence", below_probability=0.3, min_tokens=4) == ConfidenceSegmenter(0.3, 4)
    assert made(kind="entropy", above_entropy=2) == EntropySegmenter(2, 1)
    assert made(kind="entropy", merge=True) == EntropySegmenter(1.0, 1, MergeRules())
    assert marked_cues(SegmentConfig(kind="fixed")) == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedSegmenter(0),
        lambda: ConfidenceSegmenter(0.0),
        lambda: ConfidenceSegmenter(0.1, 0),
        lambda: EntropySegmenter(0.0),
    ],
)
def test_invalid_numbers(make: object):
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]
