"""How fast responses are cut into steps: MB of UTF-8 text per second and core, structural and merged.

What is compared: the segmenters of ``bcpg_cluster.stages.segment`` on long made-up responses (prose with cues, formulas, code,
blank lines; tokens are words with their space, a random 2 % of them unsure), and ``str.splitlines`` over the same texts, the least
that looking at every line can cost in Python. Left out: ``sat`` and ``llm``, whose models decide their speed, and ``entropy``,
which does what ``confidence`` does.

    python benchmarks/segmentation.py [--json FILE] [--repeats 5] [--responses 64] [--words 8000]
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence

from measure import argument_parser, facts, finish, interleave, ratios, summarise

from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.by_token import ConfidenceSegmenter, FixedSegmenter
from bcpg_cluster.stages.segment.merge import MergeRules
from bcpg_cluster.stages.segment.protocol import SampledResponse
from bcpg_cluster.stages.segment.segmenters import DelimiterSegmenter, Segmenter, StructuralSegmenter
from bcpg_cluster.stages.segment.structure import StepRules

SENTENCES = (
    "So we have {a} + {b} = {c}, which is what the first equation says.",
    "Wait, let me check that again: {a} times {b} is not {c}.",
    "Let's denote $x_{a} = \\frac{{{b}}}{{{c}}}$ and see where it goes.",
    "Therefore the total is \\( {a} \\cdot {b} - {c} \\).",
    "Hmm, alternatively, one could count the pairs (there are {a} of them).",
    "\\[\n  {a} x^2 + {b} x + {c} = 0\n\\]",
    "```python\nprint({a} * {b})\n\nprint({c})\n```",
    "This holds for every integer from {a} to {b}, as the problem asks.",
    "Now, the remainder of {a}{b} by {c} is needed.",
)


def made_response(draw: random.Random, num_words: int) -> str:
    """A reasoning-like response of about ``num_words`` words with ``</think>`` near its end."""
    parts: list[str] = []
    count = 0
    while count < num_words:
        sentence = draw.choice(SENTENCES).format(a=draw.randint(2, 99), b=draw.randint(2, 99), c=draw.randint(2, 9999))
        if sentence.startswith(("```", "\\[")):  # blocks stand on lines of their own
            sentence = f"\n{sentence}\n"
        parts += [sentence, draw.choice((" ", " ", "\n", "\n\n"))]
        count += len(sentence.split())
    return "<think>\n" + "".join(parts) + "\n</think>\n\nThe answer is \\boxed{42}."


def mb_per_second(texts: Sequence[str], work: Callable[[int], object]) -> float:
    """``work(index)`` for every text once; MB (1e6 bytes of UTF-8) a second of processor time."""
    begin = time.process_time()
    for index in range(len(texts)):
        work(index)
    seconds = time.process_time() - begin
    return sum(len(text.encode()) for text in texts) / 1e6 / seconds


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--responses", type=int, default=64, help="texts per pass (default: %(default)s)")
    parser.add_argument("--words", type=int, default=8000, help="words of a response (default: %(default)s)")
    options = parser.parse_args()
    started = facts()
    draw = random.Random(options.seed)
    texts = [made_response(draw, options.words) for _ in range(options.responses)]
    tokens = [re.findall(r" ?\w+|\W", text) for text in texts]
    paragraphs = StepRules(split_on="paragraph", cues_inside_lines=True)
    unsure = {id(pieces): [-3.0 if draw.random() < 0.02 else -0.1 for _ in pieces] for pieces in tokens}

    def by_confidence(pieces: Sequence[str]) -> list[Step]:
        response = SampledResponse(pieces, unsure[id(pieces)])
        return ConfidenceSegmenter(0.3).cut([response]).steps[0]

    segmenters: dict[str, Segmenter] = {
        "structural, lines": StructuralSegmenter(),
        "structural, sentences with cues, merged": StructuralSegmenter(paragraphs, MergeRules()),
        "delimiter, merged": DelimiterSegmenter(merge=MergeRules()),
        "fixed, 64 tokens": FixedSegmenter(64),
        "confidence, 2 % of tokens": by_confidence,
    }
    results = {}
    settings: dict[str, object] = {name: getattr(options, name) for name in ("responses", "words", "seed")}
    settings |= {"MB": round(sum(len(t.encode()) for t in texts) / 1e6, 2), "tokens": sum(map(len, tokens))}

    def reference(_: int) -> float:
        # One pass takes too little time for the clock.
        return mb_per_second(texts * 20, lambda index: texts[index % len(texts)].splitlines())

    for name, segmenter in segmenters.items():

        def ours(_: int, cut: Segmenter = segmenter) -> float:
            return mb_per_second(texts, lambda index: cut(tokens[index]))

        settings[f"steps, {name}"] = sum(len(segmenter(pieces)) for pieces in tokens)  # warms up, too
        reference(0)
        measured, plain = interleave(ours, reference, options.repeats)
        results[f"{name}, MB/s"] = summarise(measured)
        results[f"str.splitlines beside {name}, MB/s"] = summarise(plain)
        results[f"{name} / str.splitlines"] = ratios(measured, plain)
    finish(
        "speed of cutting responses into steps, one core",
        results,
        settings=settings,
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
