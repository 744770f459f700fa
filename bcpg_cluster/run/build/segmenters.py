"""From section ``segment`` to a segmenter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bcpg_cluster.config.responses import SegmentConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, page
from bcpg_cluster.stages.judge.protocol import Judge
from bcpg_cluster.stages.plugin import check_plugin
from bcpg_cluster.stages.segment.by_token import ConfidenceSegmenter, EntropySegmenter, FixedSegmenter, missing_values
from bcpg_cluster.stages.segment.cues import REFLECTION_CUES_BY_LANGUAGE, STEP_CUES_BY_LANGUAGE, cues_of
from bcpg_cluster.stages.segment.merge import MergeRules
from bcpg_cluster.stages.segment.protocol import ByText, ResponseSegmenter
from bcpg_cluster.stages.segment.segmenters import DelimiterSegmenter, Segmenter, StructuralSegmenter
from bcpg_cluster.stages.segment.structure import StepRules
from bcpg_cluster.store.rows import Row

OF_SAMPLER = {"confidence": "sampler_logprobs", "entropy": "entropies"}
"""Kinds that read what the sampler said, and the column of ``rollouts`` that has it."""


def make_response_segmenter(config: Config, judge: Callable[[str], Judge]) -> ResponseSegmenter:
    """What the stage cuts responses with.

    Args:
        judge: the judge of that name, made; a segmenter that asks its model shares its transport and does not close it.

    Raises:
        ConfigError: see :func:`make_segmenter`.
    """
    section = config.segment
    if section.kind == "llm":
        return _make_llm_segmenter(config, judge(section.judge or ""))
    if section.kind not in OF_SAMPLER:
        return ByText(make_segmenter(section))
    merge = _checked_merge(section)
    if section.kind == "confidence":
        return ConfidenceSegmenter(section.below_probability, section.min_tokens, merge)
    return EntropySegmenter(section.above_entropy, section.min_tokens, merge)


def _make_llm_segmenter(config: Config, judge: Judge) -> ResponseSegmenter:
    from bcpg_cluster.stages.judge.llm.cache import VerdictCache
    from bcpg_cluster.stages.judge.llm.llm_judge import LlmJudge
    from bcpg_cluster.stages.segment.llm.llm_segmenter import LlmOptions, LlmSegmenter

    assert isinstance(judge, LlmJudge)  # the config's validator
    section, asked = config.segment, config.judges[config.segment.judge or ""]
    options = LlmOptions(
        fallback=StructuralSegmenter(step_rules(section)),
        max_lines=section.max_lines,
        merge=_checked_merge(section),
        answer_after=asked.answer_after,
        sample=asked.sample,
        run_seed=config.seed,
    )
    return LlmSegmenter(judge.transport, options, VerdictCache(Path(asked.cache).expanduser()) if asked.cache else None)


def make_segmenter(section: SegmentConfig) -> Segmenter:
    """What cuts responses into steps by their text alone.

    Raises:
        ConfigError: rules that contradict each other, a Segment Any Text model or package that is not there, a class that
            cannot be made, or a kind that reads more than the text.
    """
    if section.kind in OF_SAMPLER or section.kind == "llm":
        raise _needs_more_than_text(section.kind)
    if section.kind == "python":
        from bcpg_cluster.stages.segment.user_class import UserSegmenter

        return UserSegmenter(section.class_ or "", section.options, digest=section.class_digest)
    merge = _checked_merge(section)
    try:
        if section.kind == "structural":
            return StructuralSegmenter(step_rules(section), merge)
        if section.kind == "delimiter":
            return DelimiterSegmenter(section.cut_after, section.cut_before, merge)
        if section.kind == "fixed":
            return FixedSegmenter(section.fixed_tokens, merge)
    except ValueError as error:
        raise _segment_error(error) from None
    from bcpg_cluster.stages.segment.sat import SatSegmenter, load_sat

    splitter = load_sat(
        section.model or "",
        tokenizer=section.sat_tokenizer,
        backend=section.backend,
        providers=section.onnx_providers,
        device=section.device,
    )
    return SatSegmenter(
        splitter,
        threshold=section.threshold,
        merge=merge,
        stride=section.stride,
        block_size=section.block_size,
        batch_size=section.batch_size,
    )


def check_segmenter(section: SegmentConfig) -> None:
    """Raises :class:`ConfigError` for what :func:`make_segmenter` would; loads no model."""
    if section.kind == "python":
        check_plugin(section.class_ or "", "segment.class")
        return
    if section.kind in OF_SAMPLER or section.kind == "llm":
        _checked_merge(section)
        step_rules(section)
        return
    if section.kind != "sat":
        make_segmenter(section)
        return
    from bcpg_cluster.stages.segment.sat import check_sat_model, check_sat_numbers

    _checked_merge(section)
    check_sat_numbers(section.threshold, section.stride, section.block_size, section.batch_size)
    check_sat_model(
        section.model or "",
        section.sat_tokenizer,
        backend=section.backend,
        needs_onnx=section.onnx_providers is not None,
    )


def check_stored(section: SegmentConfig, rollouts: Sequence[Row]) -> None:
    """Raises :class:`ConfigError` for rows of ``rollouts`` that lack what this section's segmenter reads of the sampler."""
    if section.kind not in OF_SAMPLER:
        return
    for row in rollouts:
        num_tokens, num_values = len(row["token_ids"]), len(row.get(OF_SAMPLER[section.kind]) or ())
        if num_tokens != num_values:
            raise missing_values(section.kind, num_tokens, num_values)


def check_for_imports(section: SegmentConfig) -> None:
    """Raises :class:`ConfigError` for a segmenter that reads what imported responses never have."""
    if section.kind in OF_SAMPLER:
        error = missing_values(section.kind, 0, 0)
        raise ConfigError(
            f"segment.kind is {section.kind!r}, and imported responses come without the sampler's log-probs and entropies",
            rule=error.rule,
            remedy="set another segment.kind for this run: structural, delimiter, sat, fixed and llm read the text alone",
        )


def _needs_more_than_text(kind: str) -> ConfigError:
    reads = "asks a judge's model" if kind == "llm" else "reads what the sampler said of each token, which a text lacks"
    return ConfigError(
        f"segment.kind is {kind!r}, which {reads}",
        rule="a text by itself is cut by structural, delimiter, sat, fixed or python",
        remedy="set segment.kind to one of these",
    )


def step_rules(section: SegmentConfig) -> StepRules:
    """The rules of the structural segmenter. Raises :class:`ConfigError` where they contradict each other."""
    try:
        rules = StepRules(
            split_on=section.split_on,
            cues_inside_lines=section.cues_inside_lines,
            min_tokens=section.min_tokens,
            max_tokens=section.max_tokens,
        )
        return replace(rules, cues=_structural_cues(section))
    except ValueError as error:
        raise _segment_error(error) from None


def marked_cues(section: SegmentConfig) -> tuple[str, ...]:
    """The cues that cut by this section: those of the structure, of merging, or both; none where no cue cuts."""
    structural = _structural_cues(section) if section.kind == "structural" else ()
    merged = _merge_cues(section) if _is_merged(section) else ()
    return tuple(dict.fromkeys((*structural, *merged)))


def _structural_cues(section: SegmentConfig) -> tuple[str, ...]:
    return cues_of(REFLECTION_CUES_BY_LANGUAGE, section.cue_languages) if section.cues is None else section.cues


def _merge_cues(section: SegmentConfig) -> tuple[str, ...]:
    return cues_of(STEP_CUES_BY_LANGUAGE, section.cue_languages) if section.merge_cues is None else section.merge_cues


def _is_merged(section: SegmentConfig) -> bool:
    return section.merge is True or (section.merge == "auto" and section.kind in ("delimiter", "sat"))


def _checked_merge(section: SegmentConfig) -> MergeRules | None:
    """How pieces are merged; ``None`` where they are not. Raises :class:`ConfigError` for sizes that contradict each other."""
    if not _is_merged(section):
        return None
    try:
        rules = MergeRules(section.merge_min_tokens, section.merge_target_tokens, section.merge_max_tokens)
        return replace(rules, cues=_merge_cues(section))
    except ValueError as error:
        raise _segment_error(error) from None


def _segment_error(error: ValueError) -> ConfigError:
    return ConfigError(f"segment: {error}", rule="the section's rules fit together", remedy=f"see {page('config.md')}")
