"""stages/weigh/said_together.py: the same numbers as counting every step by itself."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations

from bcpg_cluster.records import Step
from bcpg_cluster.stages.weigh.counts import CONSENSUS, PairCell, QualityCell, Said, WeighCounts
from bcpg_cluster.stages.weigh.said_together import SaidTogether

VOTERS, MEASURES = ("llm", "prm", "rule"), ("truth", "person")
WORDS: dict[int | None, Said] = {0: "wrong", 1: "right", None: "none"}


def test_every_step_is_counted_once_beside_each_other_voter_and_each_measure():
    draw = random.Random(5)
    together, pairs, quality = SaidTogether(VOTERS, MEASURES), Counter[PairCell](), Counter[QualityCell]()
    for _ in range(40):
        borders = sorted(draw.sample(range(1, 60), draw.randrange(6)))
        cut = [Step(start, end, "x") for start, end in zip([0, *borders], [*borders, 60], strict=True)]
        labels = {name: [draw.choice((0, 1, None)) for _ in cut] for name in (*VOTERS, CONSENSUS)}
        truths = {name: [draw.choice((0, 1, None)) for _ in cut] for name in MEASURES}
        unasked = frozenset((name, step) for name in VOTERS for step in range(len(cut)) if draw.random() < 0.3)
        together.add(cut, labels, truths, unasked)
        for place, step in enumerate(cut[:-1]):
            asked = [name for name in (*VOTERS, CONSENSUS) if (name, place) not in unasked]
            said = {name: WORDS[labels[name][place]] for name in asked}
            for first, second in combinations([name for name in asked if name != CONSENSUS], 2):
                pairs[PairCell(first, second, said[first], said[second])] += 1
            for measure in MEASURES:
                for name in asked:
                    truth = WORDS[truths[measure][place]]
                    quality[QualityCell(name, measure, truth, said[name], "steps")] += 1
                    quality[QualityCell(name, measure, truth, said[name], "tokens")] += step.end - step.start
    counts = WeighCounts()
    together.count_into(counts)
    assert pairs.total() > 0
    assert counts.pairs == pairs
    assert counts.quality == quality


def test_without_steps_nothing_was_said():
    together, counts = SaidTogether(VOTERS, MEASURES), WeighCounts()
    together.count_into(counts)
    assert not counts.pairs
    assert not counts.quality
