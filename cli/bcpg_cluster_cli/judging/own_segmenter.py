"""A config's segmenter in this process, for texts that no run has drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Step
from bcpg_cluster.run.build.judges import make_judge
from bcpg_cluster.run.build.segmenters import make_response_segmenter, make_segmenter
from bcpg_cluster.stages.judge.protocol import Judge
from bcpg_cluster.stages.segment.protocol import ResponseSegmenter, SampledResponse
from bcpg_cluster.stages.segment.segmenters import Segmenter
from bcpg_cluster_cli.terminal import Terminal


@contextmanager
def own_segmenter(config: Config, make: Callable[[Config, str], Judge] = make_judge) -> Iterator[Segmenter]:
    """What cuts a text as the stage `segment` would; the judge that a model's segmenter asks lives as long as the context.

    Raises:
        ConfigError: a segmenter that reads what a text lacks, or one that is not available.
    """
    if config.segment.kind != "llm":
        yield make_segmenter(config.segment)
        return
    with closing(make(config, config.segment.judge or "")) as judge:
        asked = make_response_segmenter(config, lambda _: judge)
        yield lambda token_texts: _steps(asked, token_texts)


def _steps(asked: ResponseSegmenter, token_texts: Sequence[str]) -> list[Step]:
    cut = asked.cut([SampledResponse(token_texts)])
    for name in cut.counts:
        if name.startswith("llm.fallback."):
            why = name.rpartition(".")[2]
            Terminal(stderr=True).print(
                f"the model's answer was {why}: cut by structure", highlight=False, soft_wrap=True
            )
    return list(cut.steps[0])
