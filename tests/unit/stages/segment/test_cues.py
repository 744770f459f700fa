"""stages/segment/cues.py: cues of several languages, with word borders where their script has them."""

from __future__ import annotations

import re

import pytest

from bcpg_cluster.config.identity import deciding_content
from bcpg_cluster.config.responses import SegmentConfig
from bcpg_cluster.run.build.segmenters import make_segmenter, marked_cues
from bcpg_cluster.stages.segment.cues import (
    CUE_LANGUAGES,
    REFLECTION_CUES,
    REFLECTION_CUES_BY_LANGUAGE,
    STEP_CUES,
    STEP_CUES_BY_LANGUAGE,
    any_cue,
    cues_of,
)
from bcpg_cluster.stages.segment.merge import MergeRules, cue_at, merge_pieces
from bcpg_cluster.stages.segment.structure import StepRules, segment

ZH = "首先算出面积为63。然后除以9得到7。等等，这里没有考虑切割。让我重新检查一下。所以答案是7。"


def texts(text: str, section: SegmentConfig) -> list[str]:
    return [step.text for step in make_segmenter(section)(list(text))]


def test_chinese_cues_cut_before_more_characters():
    section = SegmentConfig(cues=("等等", "让我", "所以"), cues_inside_lines=True)
    expected = ["首先算出面积为63。然后除以9得到7。", "等等，这里没有考虑切割。", "让我重新检查一下。", "所以答案是7。"]
    assert texts(ZH, section) == expected


@pytest.mark.parametrize(
    ("text", "cue"),
    [
        ("让我检查", "让我"),
        ("待ってください", "待って"),
        ("ちょっと待ってください", "ちょっと待って"),
        ("잠깐만요", "잠깐"),
        ("不对，应该", "不对，"),
        ("不对称", None),
        ("Pero no", "Pero"),
        ("peroné", None),  # letters follow: another word
        ("d'abord x", "d'abord"),
        ("Aber nein", "Aber"),
        ("aberrant", None),
        ("等x", None),
    ],
)
def test_a_cue_is_a_whole_word_where_words_have_borders(text: str, cue: str | None):
    assert cue_at(text, 0, cues_of(STEP_CUES_BY_LANGUAGE, CUE_LANGUAGES)) == cue


def test_a_line_of_a_lone_chinese_cue_joins_the_line_after_it():
    rules = StepRules(cues=("等等",))
    assert [step.text for step in segment(list("a\n等等。\nb\nc"), rules)] == ["a\n", "等等。\nb\n", "c"]


def test_merging_closes_before_a_chinese_cue():
    rules = MergeRules(2, 50, 50, cues=("所以",))
    assert [step.text for step in merge_pieces(list("一二。所以三。四"), [3, 7], rules)] == ["一二。", "所以三。四"]


@pytest.mark.parametrize("by_language", [REFLECTION_CUES_BY_LANGUAGE, STEP_CUES_BY_LANGUAGE])
def test_every_list_is_valid_and_cuts_its_own_cues(by_language: dict[str, tuple[str, ...]]):
    assert set(by_language) == set(CUE_LANGUAGES)
    for cues in by_language.values():
        StepRules(cues=cues)
        MergeRules(cues=cues)
        assert len(set(cues)) == len(cues)
        assert all(re.fullmatch(any_cue(cues), cue, re.IGNORECASE) for cue in cues)


def test_english_alone_is_the_default_and_leaves_a_run_its_identity():
    assert cues_of(REFLECTION_CUES_BY_LANGUAGE, SegmentConfig().cue_languages) == REFLECTION_CUES
    assert cues_of(STEP_CUES_BY_LANGUAGE, ("en",)) == STEP_CUES
    assert texts("1\n\nUnd\nAber nein", SegmentConfig(split_on="paragraph")) == ["1\n\n", "Und\nAber nein"]
    assert "cue_languages" not in deciding_content(SegmentConfig())
    german = SegmentConfig(split_on="paragraph", cue_languages=("en", "de"))
    assert deciding_content(german)["cue_languages"] == ["en", "de"]
    assert texts("1\n\nUnd\nAber nein", german) == ["1\n\n", "Und\n", "Aber nein"]


def test_the_marked_cues_are_those_that_cut():
    assert marked_cues(SegmentConfig()) == REFLECTION_CUES
    assert marked_cues(SegmentConfig(cues=("ha",), merge=True, merge_cues=("so", "ha"))) == ("ha", "so")
    assert marked_cues(SegmentConfig(kind="delimiter")) == STEP_CUES
    assert marked_cues(SegmentConfig(kind="delimiter", merge=False)) == ()
    chinese = marked_cues(SegmentConfig(cue_languages=("zh",)))
    assert chinese == REFLECTION_CUES_BY_LANGUAGE["zh"]
