"""What a mathematical reward costs: milliseconds a comparison, each gold answer as its own answer in a box.

What is compared: ``MathVerifier`` with its process (fresh in every repeat, started before the clock is), and math-verify's
``parse`` and ``verify`` called in this process on the same pairs, with the extraction settings its authors give for rewards.

    python benchmarks/math_rewards.py --golds problems.jsonl --key answer [--json FILE] [--repeats 5]
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from measure import argument_parser, facts, finish, interleave, ratios, summarise

from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.verify.math_answer import MathVerifier

STRICT = NormalizationConfig(
    basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all", equations=False
)
RESPONSE = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=STRICT), ExprExtractionConfig())
GOLD = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())


def golds_of(path: Path, key: str) -> list[str]:
    """The answers of a JSON-lines file; of one with a solution before it (GSM8K) what follows ``####``."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [str(row[key]).rpartition("####")[2].strip() for row in rows]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--golds", type=Path, required=True, help="a JSON-lines file with gold answers")
    parser.add_argument("--key", default="answer", help="where they are in it (default: %(default)s)")
    options = parser.parse_args()
    started = facts()
    logging.disable(logging.CRITICAL)
    golds = golds_of(options.golds, options.key)
    settings: dict[str, object] = {"golds": len(golds)}

    def ours(_: int) -> float:
        verifier = MathVerifier(60.0)
        verifier.verify("\\boxed{2\\sqrt{2}}", "\\sqrt{8}", StopReason.STOP)
        begin = time.perf_counter()
        rewards = [verifier.verify(f"So it is $\\boxed{{{gold}}}$.", gold, StopReason.STOP).reward for gold in golds]
        seconds = time.perf_counter() - begin
        verifier.close()
        settings["right, ours"] = rewards.count(1.0)
        return seconds * 1e3 / len(golds)

    def bare(gold: str) -> bool:
        wanted = parse(f"\\boxed{{{gold}}}", GOLD, parsing_timeout=None)
        return verify(
            wanted, parse(f"So it is $\\boxed{{{gold}}}$.", RESPONSE, parsing_timeout=None), timeout_seconds=None
        )

    def reference(_: int) -> float:
        begin = time.perf_counter()
        settings["right, math-verify"] = sum(map(bare, golds))
        return (time.perf_counter() - begin) * 1e3 / len(golds)

    bare("\\sqrt{8}")
    measured, plain = interleave(ours, reference, options.repeats)
    finish(
        "cost of a mathematical reward, one gold answer at a time",
        {
            "MathVerifier, ms": summarise(measured),
            "math-verify, ms": summarise(plain),
            "MathVerifier / math-verify": ratios(measured, plain),
        },
        settings=settings,
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
