"""What interleaving saves a comparison: its arms two at a time against one after the other, on fakes that take time.

Training and evaluation of an arm take as long as is asked for (they sleep; everything else is the real comparison: coordinator,
pools, store, pushes). The shared data is made before and not counted. Each pair of measurements has a fresh directory and the
same arms; the results are compared, too.

    python benchmarks/compare_interleaved.py [--arms 6] [--rounds 1] [--train-s 2] [--evaluate-s 2] [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import argument_parser, facts, finish, interleave, ratios, summarise

from bcpg_cluster.assets.chain.task import draw_chain
from bcpg_cluster.cluster.inline_runtime import InlineMember, InlineRuntime
from bcpg_cluster.cluster.runtime import MemberSpec
from bcpg_cluster.comparison.methods import METHODS
from bcpg_cluster.comparison.runner import Comparison
from bcpg_cluster.comparison.setup import Arm, Setup
from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.sets import PromptSets
from bcpg_cluster.records import Prompt
from bcpg_cluster.run.build.workforce import start_workforce
from bcpg_cluster.watch.observer import SilentObserver

CONTENT: dict[str, Any] = {
    "name": "interleaved",
    "policy": {"kind": "fake", "model": "fake"},
    "prompts": {"train": "unused", "test": "unused", "per_round": 12},
    "generate": {"group_size": 8, "max_tokens": 200, "prompts_per_shard": 4},
    "judges": {"llm": {"kind": "fake", "precision": 0.9, "recall": 0.8}, "prm": {"kind": "fake"}},
    "train": {"kind": "fake"},
    "push": {"num_canaries": 4},
    "evaluate": {"num_samples": 4, "prompts_per_shard": 8},
}
NUM_TEST, SHARDS = 24, 3


class Slow:
    """What a member hosts, with some of its work made slow. One piece sleeps at a time, as an engine of fixed speed would."""

    def __init__(self, hosted: Any, seconds: Callable[[str, tuple[Any, ...]], float]) -> None:
        self._hosted, self._seconds = hosted, seconds
        self._engine = threading.Lock()

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._hosted, method)

        def slowed(*arguments: Any) -> Any:
            seconds = self._seconds(method, arguments)
            if seconds:
                with self._engine:
                    time.sleep(seconds)
            return found(*arguments)

        return slowed


class SlowRuntime(InlineRuntime):
    """Members of this process that take as long to train and to evaluate as they are told."""

    def __init__(self, train_s: float, evaluate_s: float) -> None:
        super().__init__()
        self._train_s, self._evaluate_s = train_s, evaluate_s

    def start(self, spec: MemberSpec) -> InlineMember:
        """As the other runtime."""
        factory = spec.factory
        return super().start(replace(spec, factory=lambda **arguments: Slow(factory(**arguments), self._seconds)))

    def _seconds(self, method: str, arguments: tuple[Any, ...]) -> float:
        if method == "train":
            return self._train_s
        return self._evaluate_s / SHARDS if method == "run" and arguments[0].stage == "evaluate" else 0.0


def draw_prompts(seed: int) -> PromptSets:
    """Problems the fakes can answer."""
    rng = random.Random(seed)
    chains = [draw_chain(rng, 3, 4) for _ in range(40 + NUM_TEST)]
    prompts = [Prompt(str(index), chain.question, chain.answer) for index, chain in enumerate(chains)]
    return PromptSets(prompts[:40], prompts[40:])


def measured(options: Namespace, config: Config, *, one_at_a_time: bool) -> tuple[float, list[Any]]:
    """Seconds of the arms, and their accuracies."""
    with tempfile.TemporaryDirectory() as folder:
        runtime = SlowRuntime(options.train_s, options.evaluate_s)
        setup = Setup(config, draw_prompts(options.seed), (1e-4,), (1,), 6, 1000)
        arms = [
            Arm(name, METHODS[name].settings(config), tuned_as=name, rounds=options.rounds)
            for name in list(METHODS)[: options.arms]
        ]
        try:
            workforce = start_workforce(config, runtime, lambda: False)
            comparison = Comparison(
                Path(folder) / "c",
                setup,
                workforce,
                SilentObserver(),
                lambda: False,
                lambda text: None,
                one_at_a_time=one_at_a_time,
            )
            comparison.collect(0)
            comparison.tune(*arms)
            started = time.monotonic()
            results = [result for of_arm in comparison.runs((arm, 0) for arm in arms) for result in of_arm]
            seconds = time.monotonic() - started
        finally:
            runtime.shutdown()
    found = {(r.arm, r.round): r.report.per_problem for r in results if r.report is not None}
    return seconds, sorted(found.items())


def main() -> None:
    """Measure, compare, print."""
    parser = argument_parser(__doc__)
    parser.add_argument("--arms", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--train-s", type=float, default=2.0)
    parser.add_argument("--evaluate-s", type=float, default=2.0)
    options = parser.parse_args()
    started, config = facts(), parse_config(CONTENT, "the benchmark")
    answers: list[list[Any]] = []

    def seconds(one_at_a_time: bool) -> float:
        taken, found = measured(options, config, one_at_a_time=one_at_a_time)
        answers.append(found)
        return taken

    ours, reference = interleave(lambda _: seconds(False), lambda _: seconds(True), options.repeats)
    if any(found != answers[0] for found in answers):
        sys.exit("the two orders gave different results")
    finish(
        f"a comparison of {options.arms} arms: interleaved against one after the other (same results)",
        {
            "interleaved, s": summarise(ours),
            "one at a time, s": summarise(reference),
            "times as fast": ratios(reference, ours),
        },
        settings={key: getattr(options, key) for key in ("arms", "rounds", "train_s", "evaluate_s", "seed")},
        json_file=options.json,
        started=started,
    )


if __name__ == "__main__":
    main()
