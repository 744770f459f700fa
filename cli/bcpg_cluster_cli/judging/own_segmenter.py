"""A config's segmenter in this process, for texts that no run has drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Step
from bcpg_cluster.run.build.judges import make_judge
from bcpg_cluster.run.build.segmenters import make_response_segmenter, make_segmenter
from bcpg_cluster.stages.segment.llm.counts import fallbacks
from bcpg_cluster.stages.segment.protocol import ByText, ResponseSegmenter, SampledResponse
from bcpg_cluster.stages.segment.segmenters import Segmenter
from bcpg_cluster_cli.judging.labelled_files import MakeJudge
from bcpg_cluster_cli.terminal import Terminal


@contextmanager
def own_segmenter(config: Config, make: MakeJudge = make_judge) -> Iterator[ResponseSegmenter]:
    """What cuts a text as the stage `segment` would; the judge that a model's segmenter asks lives as long as the context.

    Raises:
        ConfigError: a segmenter that reads what a text lacks, or one that is not available.
    """
    if config.segment.kind != "llm":
        yield ByText(make_segmenter(config.segment))
        return
    with closing(make(config, config.segment.judge or "")) as judge:
        yield make_response_segmenter(config, lambda _: judge)


def of_one_text(segmenter: ResponseSegmenter) -> Segmenter:
    """It for one text at a time; that a model's answer was not used is said on the error stream."""

    def steps(token_texts: Sequence[str]) -> list[Step]:
        cut = segmenter.cut([SampledResponse(token_texts)])
        for why in fallbacks(cut.counts):
            Terminal(stderr=True).print(f"the model's answer was {why}: cut by structure", highlight=False)
        return list(cut.steps[0])

    return steps
