"""From section ``segment`` to a segmenter."""

from __future__ import annotations

from dataclasses import replace

from bcpg_cluster.config.responses import SegmentConfig
from bcpg_cluster.errors import ConfigError, page
from bcpg_cluster.stages.plugin import check_plugin
from bcpg_cluster.stages.segment.cues import REFLECTION_CUES_BY_LANGUAGE, STEP_CUES_BY_LANGUAGE, cues_of
from bcpg_cluster.stages.segment.merge import MergeRules
from bcpg_cluster.stages.segment.segmenters import DelimiterSegmenter, Segmenter, StructuralSegmenter
from bcpg_cluster.stages.segment.structure import StepRules


def make_segmenter(section: SegmentConfig) -> Segmenter:
    """What cuts responses into steps.

    Raises:
        ConfigError: rules that contradict each other, a Segment Any Text model or package that is not there, or a class that
            cannot be made.
    """
    if section.kind == "python":
        from bcpg_cluster.stages.segment.user_class import UserSegmenter

        return UserSegmenter(section.class_ or "", section.options, digest=section.class_digest)
    merge = _checked_merge(section)
    try:
        if section.kind == "structural":
            return StructuralSegmenter(step_rules(section), merge)
        if section.kind == "delimiter":
            return DelimiterSegmenter(section.cut_after, section.cut_before, merge)
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


def step_rules(section: SegmentConfig) -> StepRules:
    """The rules of the structural segmenter."""
    rules = StepRules(
        split_on=section.split_on,
        cues_inside_lines=section.cues_inside_lines,
        min_tokens=section.min_tokens,
        max_tokens=section.max_tokens,
    )
    return replace(rules, cues=_structural_cues(section))


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
