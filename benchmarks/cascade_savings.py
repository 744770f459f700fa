"""What would a cascade have saved a run that asked all judges about everything? Asks no judge.

    python benchmarks/cascade_savings.py --run-dir runs/NAME --judge llm --after prm

Takes the steps and verdicts that the run stored, and counts the calls and tokens of its LLM judge twice: about all steps, and with
``judges.<judge>.after``. Prompts are rendered and counted by the judge's own tokenizer; an answer is as long as the one stored.
Second tries of unreadable answers are not counted. Beside the run's own way of asking: windows of two steps, and the causal view.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import AutoTokenizer

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.records import SampleId, StopReason, Verdict
from bcpg_cluster.run.build.judges import judge_options
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Generation, Sampling
from bcpg_cluster.stages.judge.cascade import check_cascade, wanted_steps
from bcpg_cluster.stages.judge.llm.llm_judge import JudgeOptions, LlmJudge
from bcpg_cluster.stages.judge.llm.transport import GeneratorTransport
from bcpg_cluster.stages.judge.llm.windows import WindowLimits
from bcpg_cluster.stages.judge.protocol import JudgeCase
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import prompts_from, steps_from, verdicts_from
from bcpg_cluster.store.shards import read_table


@dataclass
class Silent:
    """A generator that only counts: it answers nothing."""

    tokenizer: object
    policy_version: int = 0
    max_model_len: int | None = None

    def render(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """By the model's chat template, as the engine does."""
        found = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)  # type: ignore[attr-defined]
        return tuple(found)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Nothing."""
        return [Generation((), (), (), StopReason.STOP, 0) for _ in requests]

    def close(self) -> None:
        """Nothing to free."""


@dataclass(frozen=True)
class Judging:
    """The judged responses of a round."""

    cases: dict[SampleId, JudgeCase]
    answers: dict[SampleId, Sequence[Verdict]]


def judging(run_dir: Path, round_: int, config: Config, judge: str, after: Sequence[str]) -> Judging:
    """Each response with what a cascade would ask about."""
    state = read_manifest(run_dir)

    def table(name: str) -> list[dict[str, object]]:
        return read_table(run_dir, state.receipts(round_, name))

    prompts = {prompt.prompt_id: prompt for prompt in prompts_from(table("prompts"))}
    earlier = {name: verdicts_from(table(f"verdicts.{name}")) for name in after}
    thresholds = {name: section.threshold for name, section in config.judges.items()}
    cases = {}
    for id_, steps in steps_from(table("steps")).items():
        said = {name: of_judge[id_] for name, of_judge in earlier.items()}
        wanted = wanted_steps(said, thresholds, config.consensus_rule, len(steps))
        prompt, shows = prompts[id_.prompt_id], config.judges[judge].show_gold
        cases[id_] = JudgeCase(
            prompt.question, tuple(step.text for step in steps), prompt.answer if shows else None, wanted
        )
    return Judging(cases, verdicts_from(table(f"verdicts.{judge}")))


def counted(cases: Sequence[JudgeCase], options: JudgeOptions, generator: Silent) -> tuple[int, int]:
    """Calls and prompt tokens."""
    prompt = replace(options.prompt, repair="")
    judge = LlmJudge(
        "counted", GeneratorTransport(generator, "m", Sampling(1, 0.0), 10**9), replace(options, prompt=prompt)
    )
    counts = judge.judge(cases).counts
    return int(counts.get("calls", 0)), int(counts.get("prompt_tokens", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--judge", default="llm")
    parser.add_argument("--after", nargs="+", default=["prm"])
    parser.add_argument("--rounds", type=int, nargs="*")
    given = parser.parse_args()
    config = load_run_config(given.run_dir)
    section = config.judges[given.judge]
    after = {name: tuple(given.after) if name == given.judge else () for name in config.judges}
    check_cascade(after, config.voters, config.consensus_rule)
    tokenizer = AutoTokenizer.from_pretrained(
        section.engine_args.get("tokenizer") or resolve_asset(section.model or "")
    )
    own = judge_options(section)
    ways = {
        f"{own.view}, as the run has it": own,
        "full, windows of 2 steps": replace(own, view="full", windows=WindowLimits(steps=2)),
        "causal": replace(own, view="causal"),
    }
    state = read_manifest(given.run_dir)
    for round_ in given.rounds or sorted(r for r, table in state.sealed if table == f"verdicts.{given.judge}"):
        found = judging(given.run_dir, round_, config, given.judge, given.after)
        steps = sum(len(case.steps) for case in found.cases.values())
        wanted = sum(len(case.wanted or ()) for case in found.cases.values())
        open_cases = [case for case in found.cases.values() if case.is_wanted]
        answers = {
            id_: sum(len(tokenizer.encode(raw)) + 1 for raw in {v.raw for v in said})
            for id_, said in found.answers.items()
        }
        print(
            f"round {round_}: {len(found.cases)} wrong responses, {steps} steps; after {', '.join(given.after)} {wanted} steps "
            f"({wanted / steps:.1%}) in {len(open_cases)} responses ({len(open_cases) / len(found.cases):.1%}) are open"
        )
        for name, options in ways.items():
            everything = [replace(case, wanted=None) for case in found.cases.values()]
            calls, tokens = counted(everything, options, Silent(tokenizer))
            some_calls, some_tokens = counted(open_cases, options, Silent(tokenizer))
            text = (
                f"  {name}: calls {calls:,} -> {some_calls:,} (-{1 - some_calls / calls:.1%}), prompt tokens {tokens:,} -> "
                f"{some_tokens:,} (-{1 - some_tokens / tokens:.1%})"
            )
            if options is own and own.windows.steps is None and own.windows.tokens is None and own.view == "full":
                out = sum(answers.values())
                some_out = sum(answers[id_] for id_, case in found.cases.items() if case.is_wanted)
                both, some = tokens + out, some_tokens + some_out
                text += f", with answers {both:,} -> {some:,} (-{1 - some / both:.1%})"
            print(text)


if __name__ == "__main__":
    main()
