"""How much of what a judge's prompts share does its engine's prefix cache serve? Starts the judge's engine.

    python benchmarks/judge_prefixes.py --run-dir runs/NAME --judge llm --view causal --responses 64

Asks a run's LLM judge about stored responses of round 1, shard by shard as a run does, and holds the prompt tokens that came from
the cache against the bound (``stages.judge.llm.shared_prefixes``). Nothing of the run is changed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bcpg_cluster.run.build.judges import make_judge
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.stages.judge.protocol import JudgeCase
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import prompts_from, steps_from
from bcpg_cluster.store.shards import read_shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--judge", default="llm")
    parser.add_argument("--view", choices=("causal", "full"), default="causal")
    parser.add_argument("--responses", type=int, default=64, help="at least so many; whole shards")
    given = parser.parse_args()
    config = load_run_config(given.run_dir)
    config.judges[given.judge] = config.judges[given.judge].model_copy(update={"view": given.view, "cache": None})
    state = read_manifest(given.run_dir)
    judge = make_judge(config, given.judge)
    done, totals, seconds = 0, dict[str, float](), 0.0
    try:
        for prompts, steps in zip(state.receipts(1, "prompts"), state.receipts(1, "steps"), strict=True):
            problems = {p.prompt_id: p for p in prompts_from(read_shard(given.run_dir, prompts))}
            cut = steps_from(read_shard(given.run_dir, steps))
            cases = [JudgeCase(problems[id_.prompt_id].question, tuple(s.text for s in of)) for id_, of in cut.items()]
            started = time.monotonic()
            counts = judge.judge(cases).counts
            seconds += time.monotonic() - started
            totals = {key: totals.get(key, 0.0) + value for key, value in counts.items()}
            done += len(cases)
            if done >= given.responses:
                break
    finally:
        judge.close()
    total, cached = totals["prompt_tokens"], totals["prompt_tokens.cached"]
    shared = totals.get("prompt_tokens.shareable", 0.0)
    print(
        f"{given.view}: {done} responses, {totals['calls']:,.0f} calls in {seconds:.1f} s, {total:,.0f} prompt tokens"
    )
    reached = f"{cached / shared:.1%} of it" if shared else "no bound: the engine caches no prefixes"
    print(
        f"shared at most {shared:,.0f} ({shared / total:.1%}); from the cache {cached:,.0f} ({cached / total:.1%}), {reached}"
    )


if __name__ == "__main__":
    main()
